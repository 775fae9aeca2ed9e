"""Large payloads of a journal, in files beside it: there while a row needs them, and only then."""

from __future__ import annotations

import os
import shutil
import sqlite3
import zlib
from pathlib import Path

import msgpack
import pytest

from jobrunner.coordinator.journal import payload_files
from jobrunner.coordinator.journal.payload_files import LARGE, UNSETTLED_BYTES, PayloadFiles
from jobrunner.coordinator.journal.recovery import APPLICATION_ID
from jobrunner.coordinator.journal.rows import dump_entry
from jobrunner.coordinator.journal.store import COMPACT_FROM, FUNCTION_FILES, Journal, examine
from jobrunner.errors import ConfigError, JournalError
from jobrunner.protocol.journal_records import JournalEntry, KeptOutcome, Progress
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId

FUNCTION = m.FunctionDef(b"key", "function", b"blob")
BIG = os.urandom(LARGE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "coordinator.journal"


@pytest.fixture
def folder(path):
    return Path(f"{path}.payloads")


def accept(name, payload=BIG, **options):
    return JournalEntry(
        [FUNCTION],
        [m.TaskSpec(TaskId(name), m.CallBody(FUNCTION.key, payload, options=m.TaskOptions(**options)))],
    )


def ended(name, payload=BIG):
    task_id = TaskId(name)
    return JournalEntry(outcomes={task_id: KeptOutcome("function", m.Outcome(task_id, 1, m.OK, payload))})


def drop(name):
    return JournalEntry(gone={TaskId(name): None})


def payloads(journal):
    state = journal.restored()
    found = {task_id: spec.body.payload for task_id, (spec, _) in state.tasks.items()}
    return found | {task_id: kept.outcome.payload for task_id, kept in state.outcomes.items()}


def files(folder):
    return sorted(folder.iterdir()) if folder.exists() else []


def killed(path, entries):
    """What is left by a coordinator that wrote these and was killed."""
    left = path.parent / "left"
    journal = Journal(path)
    for entry in entries:
        journal.write(entry)
    shutil.copytree(path.parent, left)
    journal.close()
    return left / path.name, left / f"{path.name}.payloads"


def test_large_payloads_are_files_for_their_user_alone_and_come_back(path, folder):
    journal = Journal(path)
    parts = (b"head", memoryview(BIG), b"", memoryview(BIG)[:7])
    journal.write(accept("c-1", parts))
    journal.write(accept("c-2", bytes(LARGE)))
    journal.write(accept("c-3", b"small"))
    journal.write(ended("c-4", (b"head", BIG)))
    journal.close()
    assert path.stat().st_size < LARGE
    assert len(files(folder)) == 3
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files(folder))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert examine(path)["bytes"] > 3 * LARGE
    journal = Journal(path)
    assert payloads(journal) == {
        "c-1": (b"head", BIG, b"", BIG[:7]),
        "c-2": bytes(LARGE),
        "c-3": b"small",
        "c-4": (b"head", BIG),
    }
    journal.close()


def test_a_payload_of_very_many_buffers_is_read_as_fast_as_one_of_few(folder, monkeypatch):
    """A client may send 131,072 of them, and a coordinator that is started again reads all calls that it has."""
    copied = []

    class Sizes(list):
        def __getitem__(self, key):
            found = super().__getitem__(key)
            copied.append(len(found) if isinstance(found, list) else 1)
            return found

    kept = PayloadFiles(folder)
    payload = tuple(bytes([number % 256]) * 150 for number in range(1000))
    reference = kept.write(payload)
    name, crc, sizes = msgpack.unpackb(reference)
    monkeypatch.setattr(msgpack, "unpackb", lambda data: (name, crc, Sizes(sizes)))
    assert kept.read(reference) == payload
    assert sum(copied) <= 2 * len(payload)


def test_nothing_large_needs_no_folder(path, folder):
    journal = Journal(path)
    journal.write(accept("c-1", b"small"))
    journal.close()
    assert not folder.exists()


def test_a_file_goes_with_its_call(path, folder):
    journal = Journal(path)
    journal.write(accept("c-1"))
    journal.write(accept("c-2"))
    journal.write(drop("c-1"))
    assert len(files(folder)) == 1
    both = accept("c-3")
    both.drop(TaskId("c-3"))
    journal.write(both)
    assert len(files(folder)) == 1
    assert payloads(journal) == {"c-2": BIG}
    journal.close()


def test_a_detached_call_keeps_its_file_until_its_outcome_is_durable(path, folder):
    journal = Journal(path)
    journal.write(accept("c-1", detach=True))
    (arguments,) = files(folder)
    journal.write(ended("c-1"))
    assert arguments in files(folder)
    journal.write(accept("c-2", bytes(UNSETTLED_BYTES)))
    assert arguments not in files(folder)
    assert len(files(folder)) == 2
    journal.write(drop("c-1"))
    journal.close()
    assert len(files(folder)) == 1


def test_a_log_that_is_written_anew_refers_to_the_same_files(path, folder):
    journal = Journal(path)
    journal.write(accept("c-1"))
    for number in range(COMPACT_FROM // 100_000 + 5):
        journal.write(accept(f"c-x{number}", bytes(100_000)))
        journal.write(drop(f"c-x{number}"))
    journal.close()
    assert rows_without_log(path) < 20
    assert len(files(folder)) == 1
    journal = Journal(path)
    assert payloads(journal) == {"c-1": BIG}
    journal.close()


def test_what_cannot_be_written_leaves_no_file(path, folder, monkeypatch):
    def fail(data):
        raise OverflowError("too large")

    journal = Journal(path)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_insert", fail)
        with pytest.raises(JournalError, match="too large"):
            journal.write(accept("c-1"))
    assert files(folder) == []
    journal.close()


def test_what_is_nobodys_is_removed_at_the_start(path):
    left, folder = killed(path, [accept("c-1")])
    (folder / "0123456789ab").write_bytes(b"left by a write that was cut short")
    journal = Journal(left)
    assert payloads(journal) == {"c-1": BIG}
    assert len(files(folder)) == 1
    journal.close()


@pytest.mark.parametrize("harm", ["missing", "cut", "zeroed"])
def test_what_was_not_written_out_before_the_host_died_is_gone_and_told(path, harm):
    left, folder = killed(path, [accept("c-1"), accept("c-2", b"small"), accept("c-3")])
    [(file, data)] = [(f, f.read_bytes()) for f in files(folder) if f.stat().st_ino == oldest(folder)]
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if harm == "cut" else bytes(len(data)))
    assert "payloads of 1 calls" in examine(left)["damage"]
    journal = Journal(left)
    assert "1 payloads, damaged or not written out yet, are lost" in str(journal.recovery)
    assert len(payloads(journal)) == 2
    assert payloads(journal)["c-2"] == b"small"
    journal.close()


def oldest(folder):
    return min(files(folder), key=lambda file: file.stat().st_mtime_ns).stat().st_ino


def test_an_outcome_that_was_not_written_out_leaves_the_call_to_be_done(path):
    left, folder = killed(path, [accept("c-1", b"arguments", detach=True), ended("c-1")])
    (outcome,) = files(folder)
    outcome.write_bytes(b"")
    journal = Journal(left)
    assert payloads(journal) == {"c-1": b"arguments"}
    assert journal.recovery.lost_payloads == 1
    journal.close()


def test_no_row_is_made_durable_before_what_it_names(path, monkeypatch):
    """The database without the log beside it is what a checkpoint has made durable."""

    def fail(path):
        raise OSError("no answer from the disk")

    journal = Journal(path)
    with monkeypatch.context() as patch:
        patch.setattr(payload_files, "sync", fail)
        journal.write(accept("c-1"))
        for number in range(COMPACT_FROM // 100_000 + 2):
            journal.write(accept(f"c-x{number}", bytes(100_000)))
        assert rows_without_log(path) == 0
    for number in range(COMPACT_FROM // 100_000 + 2):
        journal.write(accept(f"c-y{number}", bytes(100_000)))
    assert rows_without_log(path) > 0
    journal.close()


def rows_without_log(path):
    alone = path.parent / "alone"
    shutil.copyfile(path, alone)
    database = sqlite3.connect(alone)
    try:
        return database.execute("SELECT count(*) FROM entries").fetchone()[0]
    except sqlite3.OperationalError:
        return 0  # not even the table
    finally:
        database.close()
        for file in path.parent.glob("alone*"):
            file.unlink()


def test_a_folder_that_others_may_change_is_refused(path, folder):
    folder.mkdir(mode=0o700)
    folder.chmod(0o770)
    with pytest.raises(ConfigError, match=f"chmod 700 {folder}"):
        Journal(path)


def needing(name, *definitions, payload=b"small"):
    """A call of the last of these functions."""
    task = m.TaskSpec(TaskId(name), m.CallBody(definitions[-1].key, payload))
    return JournalEntry(list(definitions), [task])


PART = m.FunctionDef(b"part", "a part", (b"head", BIG))
WHOLE = FUNCTION._replace(parts=(PART.key,))


def test_large_parts_of_functions_are_files_too(path, folder):
    journal = Journal(path)
    journal.write(needing("c-1", PART, WHOLE))
    journal.write(needing("c-2", PART, WHOLE._replace(key=b"other")))
    assert len(files(folder)) == 1
    assert journal.restored().functions == {
        PART.key: PART,
        b"key": WHOLE,
        b"other": WHOLE._replace(key=b"other"),
    }
    journal.close()
    again = Journal(path)
    assert again.restored().functions[PART.key] == PART
    assert list(again.state.tasks) == ["c-1", "c-2"]
    again.close()


def test_a_call_whose_part_is_lost_is_lost(path, folder):
    journal = Journal(path)
    journal.write(needing("c-1", PART, WHOLE))
    journal.write(needing("c-2", m.FunctionDef(b"plain", "f", b"blob")))
    journal.close()
    (file,) = files(folder)
    file.write_bytes(file.read_bytes()[:-1])
    assert "the payloads of 1 calls or outcomes are not there" in examine(path)["damage"]
    journal = Journal(path)
    assert journal.recovery.lost_payloads == 1
    assert list(journal.restored().tasks) == ["c-2"]
    assert set(journal.state.functions) == {b"plain"}
    journal.close()
    assert files(folder) == []


def test_parts_that_no_call_needs_any_more_do_not_fill_the_disk(path, folder, monkeypatch):
    monkeypatch.setattr("jobrunner.coordinator.journal.store.FUNCTION_FILES", 10 * LARGE)
    assert FUNCTION_FILES > 10 * LARGE
    journal = Journal(path)
    journal.write(needing("c-stays", PART, WHOLE))
    for number in range(50):
        part = PART._replace(key=b"part %d" % number)
        whole = WHOLE._replace(key=b"key %d" % number, parts=(part.key,))
        journal.write(needing(f"c-{number}", part, whole))
        journal.write(drop(f"c-{number}"))
        assert len(files(folder)) < 16
    assert journal.restored().functions[PART.key] == PART
    journal.close()
    again = Journal(path)
    assert again.restored().functions[PART.key] == PART
    assert list(again.state.tasks) == ["c-stays"]
    again.close()


def of_an_earlier_format(path, before, entries):
    """As the version that had it made its files."""
    database = sqlite3.connect(path, isolation_level=None)
    path.chmod(0o600)
    for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", f"user_version={before}"):
        database.execute(f"PRAGMA {pragma}")
    database.execute(f"PRAGMA application_id={APPLICATION_ID}")
    database.execute("CREATE TABLE entries (seq INTEGER PRIMARY KEY, crc INTEGER, data BLOB)")
    for entry in entries:
        # A definition had no parts at first, attempts that never began counted, and a single call had no kind.
        written, functions, accepted, progress, *rest = msgpack.unpackb(
            dump_entry(entry, 0.0), use_list=False
        )
        functions = [definition[: 6 if before < 5 else 8] for definition in functions]
        progress = [(task_id, counts[:4]) for task_id, counts in progress]
        accepted = [(*call[:3], None, *call[4:]) for call in accepted]
        data = msgpack.packb((written, functions, accepted, progress, *rest))
        database.execute("INSERT INTO entries (crc, data) VALUES (?, ?)", (zlib.crc32(data), data))
    database.close()


def version_of(path):
    database = sqlite3.connect(path)
    try:
        return database.execute("PRAGMA user_version").fetchone()[0]
    finally:
        database.close()


@pytest.mark.parametrize("before", [3, 4, 5])
def test_a_journal_of_an_earlier_format_is_read(path, before):
    told = JournalEntry(progress=[(TaskId("c-1"), Progress(2, 1, 0, ("attempt 1: raised",)))])
    entries = [accept("c-1", b"small"), told, accept("c-2", b"gone"), drop("c-2")]
    of_an_earlier_format(path, before, entries)
    assert examine(path)["format"] == before
    journal = Journal(path)
    assert journal.recovery.clean
    assert payloads(journal) == {"c-1": b"small"}
    assert journal.state.tasks["c-1"][1] == Progress(2, 1, 0, ("attempt 1: raised",), unbegun=0)
    assert journal.restored().functions == {FUNCTION.key: FUNCTION}
    journal.write(accept("c-3", b"later"))
    journal.close()
    assert version_of(path) == 7
    journal = Journal(path)
    assert payloads(journal) == {"c-1": b"small", "c-3": b"later"}
    assert journal.restored().functions == {FUNCTION.key: FUNCTION}
    journal.close()


@pytest.mark.parametrize(
    "harm", ["DELETE FROM entries WHERE seq = 2", "UPDATE entries SET crc = 0 WHERE seq = 3"]
)
def test_a_damaged_journal_of_an_earlier_format_is_refused_and_left_alone(path, harm):
    of_an_earlier_format(path, 5, [accept(f"c-{number}", b"small") for number in range(3)])
    database = sqlite3.connect(path)
    database.execute(harm)
    database.commit()
    database.close()
    with pytest.raises(ConfigError, match=r"its entry [23] is altered or missing"):
        Journal(path)
    assert version_of(path) == 5


@pytest.mark.parametrize("small_disk", ["2m"], indirect=True)
def test_a_full_disk_refuses_what_is_new_and_loses_nothing(small_disk):
    path = small_disk / "journal"
    journal = Journal(path)
    journal.write(accept("c-1", b"small", detach=True))
    (small_disk / "ballast").write_bytes(bytes(2 * LARGE))
    accepted, refused = {"c-1": b"small"}, []
    for number in range(2, 30):
        try:
            journal.write(accept(f"c-{number}"))
        except JournalError as exc:
            refused.append(str(exc))
        else:
            accepted[f"c-{number}"] = BIG
    assert len(accepted) > 5
    assert len(refused) > 5
    assert all("new calls are refused until it can" in text for text in refused)
    assert len(files(Path(f"{path}.payloads"))) == len(accepted) - 1
    untouched = Path(f"{path}.payloads").stat().st_mtime_ns
    with pytest.raises(JournalError):
        journal.write(ended("c-1"))
    assert Path(f"{path}.payloads").stat().st_mtime_ns == untouched, "for what has no room no file is begun"
    (small_disk / "ballast").unlink()
    journal.write(drop("c-2"))
    journal.close()
    journal = Journal(path)
    del accepted["c-2"]
    assert payloads(journal) == {**accepted, "c-1": BIG}
    journal.close()
