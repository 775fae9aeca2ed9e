"""The journal on disk: what is confirmed stays, whatever becomes of the process, the file or the disk."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections import deque
from itertools import repeat
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobrunner.coordinator.journal import rows as journal_entries
from jobrunner.coordinator.journal.payload_files import LARGE
from jobrunner.coordinator.journal.rows import dump_entry, load_entry, with_payload
from jobrunner.coordinator.journal.store import COMPACT_FROM, OWED_TASKS, Journal, examine
from jobrunner.coordinator.journal.write_ahead_log import torn_bytes
from jobrunner.errors import ConfigError, JournalError
from jobrunner.protocol.journal_records import JournalEntry, JournalState, KeptOutcome, Progress
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Bundle, Chunk

DOUBLE = m.FunctionDef(b"double", "double", b"bytes of double")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "coordinator.journal"


def spec(number, payload=b"arguments", function=DOUBLE.key, **options):
    return m.TaskSpec(TaskId(f"c-{number}"), m.CallBody(function, payload, options=m.TaskOptions(**options)))


def accept(*specs):
    return JournalEntry([DOUBLE], list(specs))


def drop(*numbers):
    return JournalEntry(gone=dict.fromkeys(TaskId(f"c-{n}") for n in numbers))


def ended(number, payload=b"result"):
    kept = KeptOutcome("double", m.Outcome(TaskId(f"c-{number}"), 1, m.OK, payload, 0.5, {"worker": "w"}))
    return JournalEntry(outcomes={kept.outcome.id: kept})


def reopened(journal, path):
    journal.close()
    return Journal(path)


def total_size(path):
    return sum(file.stat().st_size for file in path.parent.iterdir())


def test_what_is_written_is_there_again(path):
    journal = Journal(path)
    assert not journal.recovery.existed
    full = m.TaskSpec(
        TaskId("c-1"),
        m.CallBody(
            DOUBLE.key,
            (b"head", memoryview(b"x" * 100_000)),
            Chunk(2, 5),
            m.TaskOptions("name", 3, 1, 2.5, (("gpu", 1.0),), detach=True),
            b"setup",
            4,
        ),
        (TaskId("c-0"), TaskId("d-7")),
    )
    initializer = m.FunctionDef(b"setup", "setup", b"bytes of setup")
    journal.write(JournalEntry([DOUBLE, initializer], [full, spec(2), spec(3)]))
    journal.write(JournalEntry(progress=[(TaskId("c-2"), Progress(2, 1, 1, ("attempt 1: died",), 1))]))
    journal.write(ended(3))
    again = reopened(journal, path)
    assert again.recovery.existed
    assert again.recovery.clean
    first, second = again.state.tasks.values()
    assert first == (with_payload(full, (b"head", b"x" * 100_000)), Progress())
    assert second == (spec(2), Progress(2, 1, 1, ("attempt 1: died",), 1))
    assert again.state.functions == {b"double": DOUBLE, b"setup": initializer}
    (kept,) = again.state.outcomes.values()
    assert kept.outcome == m.Outcome(TaskId("c-3"), 1, m.OK, b"result", 0.5, {"worker": "w"})
    assert 0 <= kept.age < 60
    again.close()
    assert os.stat(path).st_mode & 0o077 == 0


def test_what_is_gone_stays_away(path):
    journal = Journal(path)
    journal.write(accept(spec(1), spec(2)))
    journal.write(ended(2))
    journal.write(drop(1))
    again = reopened(journal, path)
    assert list(again.state.tasks) == []
    assert list(again.state.outcomes) == ["c-2"]
    again.close()


def test_the_log_stays_small_however_much_passes_through(path):
    journal = Journal(path)
    journal.write(accept(spec("stays", b"s" * 1000)))
    for batch in range(300):
        numbers = range(batch * 1000, batch * 1000 + 1000)
        journal.write(accept(*[spec(n) for n in numbers]))
        journal.write(drop(*numbers))
    assert total_size(path) < 4 * COMPACT_FROM
    again = reopened(journal, path)
    assert list(again.state.tasks) == ["c-stays"]
    assert total_size(path) < 4 * COMPACT_FROM
    again.close()


def test_the_files_shrink_when_what_was_in_them_has_gone(path):
    journal = Journal(path)
    numbers = range(300)
    journal.write(accept(*[spec(n, b"p" * 100_000) for n in numbers]))
    assert total_size(path) > 30_000_000
    journal.write(accept(spec("stays")))
    journal.write(drop(*numbers))
    assert total_size(path) < 200_000
    again = reopened(journal, path)
    assert list(again.state.tasks) == ["c-stays"]
    again.close()


@pytest.mark.parametrize(
    "large",
    [
        lambda: accept(spec("stays", retry_on=bytes(COMPACT_FROM + 1))),
        lambda: JournalEntry(
            [m.FunctionDef(b"f%d" % n, "f", bytes(100_000)) for n in range(60)],
            [spec(f"stays-{n}", function=b"f%d" % n) for n in range(60)],
        ),
        lambda: JournalEntry(
            [DOUBLE],
            [spec(f"stays-{n}") for n in range(100)],
            [(TaskId(f"c-stays-{n}"), Progress(40, 40, 0, ("x" * 2000,) * 40)) for n in range(100)],
        ),
    ],
    ids=["options", "functions", "histories"],
)
def test_what_stays_is_not_written_anew_with_each_entry(path, large, monkeypatch):
    journal = Journal(path)
    rewritten = []
    rewrite = journal._rewrite

    def counting(state):
        rewritten.append(state)
        rewrite(state)

    monkeypatch.setattr(journal, "_rewrite", counting)
    journal.write(large())
    for number in range(10):
        journal.write(accept(spec(number)))
    assert len(rewritten) <= 1
    journal.close()


def test_all_of_an_entry_counts_where_it_is_cut_into_rows(path, monkeypatch):
    """Else one client's large options would keep those of the others from being written in the same turn."""
    monkeypatch.setattr(journal_entries, "ROW_BYTES", 10_000)
    history = ("x" * 2000,)
    depends_on = tuple(TaskId(f"c-{n}") for n in range(15))
    failed = m.Outcome(TaskId("c-0"), 1, m.ERROR, detail={"error": "x" * 8000})
    entry = JournalEntry(
        [m.FunctionDef(b"f%d" % n, "f", b"", modules=("m" * 200,) * 40) for n in range(5)],
        [spec(n, retry_on=bytes(8000)) for n in range(5)],
        [(TaskId(f"c-{n}"), Progress(1, 1, 0, history * 4)) for n in range(5)],
        {TaskId(f"d-{n}"): KeptOutcome("f", failed._replace(id=TaskId(f"d-{n}"))) for n in range(5)},
    )
    entry.accepted += [spec(n)._replace(depends_on=depends_on) for n in range(10, 15)]
    parts = journal_entries.rows(entry)
    assert max(len(journal_entries.dump_entry(part, 0.0)) for part in parts) < 20_000
    expected, told = JournalState(), JournalState()
    expected.apply(entry)
    for part in parts:
        told.apply(part)
    assert told == expected


def test_files_that_somebody_else_has_prepared_are_not_used(path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.parent.mkdir()
    Path(f"{path}.lock").symlink_to(victim)
    with pytest.raises(ConfigError, match="cannot write a journal"):
        Journal(path)
    assert victim.read_text() == "precious"
    Path(f"{path}.lock").unlink()
    for beside in ("-wal", "-journal", "-shm"):
        log = Path(f"{path}{beside}")
        log.write_bytes(b"rows")
        log.chmod(0o666)
        with pytest.raises(ConfigError, match="other users may read or change it"):
            Journal(path)
        log.unlink()


def test_nor_a_folder_of_payloads_that_was_made_meanwhile(path):
    journal = Journal(path)
    folder = Path(f"{path}.payloads")
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with pytest.raises(JournalError, match="other users may read or change it"):
        journal.write(accept(spec(1, b"x" * LARGE)))
    assert not list(folder.iterdir())
    journal.close()


def test_functions_go_with_the_tasks_that_named_them(path):
    journal = Journal(path)
    for number in range(200):
        definition = m.FunctionDef(b"f%d" % number, "f", b"b" * 100_000)
        task = m.TaskSpec(TaskId(f"c-{number}"), m.CallBody(definition.key, b""))
        journal.write(JournalEntry([definition], [task]))
        journal.write(drop(number))
    assert total_size(path) < 4 * COMPACT_FROM
    journal.write(accept(spec(1)))
    again = reopened(journal, path)
    assert again.state.functions[DOUBLE.key] == DOUBLE
    again.close()


def sized(number):
    """Every other one is large."""
    return b"%d" % number * (LARGE if number % 2 else 1)


numbers = st.integers(0, 5)
entries = st.one_of(
    st.lists(numbers, min_size=1, max_size=3, unique=True).map(
        lambda ns: accept(*[spec(n, sized(n), detach=n > 2) for n in ns])
    ),
    numbers.map(drop),
    numbers.map(lambda n: ended(n, sized(n))),
    numbers.map(lambda n: JournalEntry(progress=[(TaskId(f"c-{n}"), Progress(n + 1))])),
    st.just(None),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(entries, max_size=12))
def test_it_says_what_its_entries_say(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("journal") / "j"
    journal, expected = Journal(path), JournalState()
    for entry in written:
        if entry is None:
            journal = reopened(journal, path)
        else:
            journal.write(entry)
            expected.apply(entry)
    journal = reopened(journal, path)
    state = journal.restored()
    assert state.tasks == expected.tasks
    assert {k: v.outcome for k, v in state.outcomes.items()} == {
        k: v.outcome for k, v in expected.outcomes.items()
    }
    journal.close()
    kept = [*(s.body.payload for s, _ in expected.tasks.values())]
    kept += [k.outcome.payload for k in expected.outcomes.values()]
    folder = Path(f"{path}.payloads")
    assert len(list(folder.iterdir()) if folder.exists() else []) == sum(len(p) >= LARGE for p in kept)


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from test_store import Journal, accept, spec
journal = Journal(sys.argv[1])
number = 0
while True:
    journal.write(accept(*[spec(number + i, b"p" * 500) for i in range(7)]))
    number += 7
    print(number, flush=True)
"""


@pytest.mark.parametrize("confirmed", [1, 20, 150])
def test_what_was_confirmed_survives_a_kill(path, confirmed):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(confirmed):
            number = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        number = max([number, *map(int, writer.stdout.read().splitlines())])
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    journal = Journal(path)
    assert not journal.recovery.clean
    assert "not closed in an orderly way" in str(journal.recovery)
    assert len(journal.state.tasks) in (number, number + 7)
    journal.close()


def left_by_a_crash(path, entries):
    """The files as they are while a journal is open, which is how a kill leaves them."""
    journal = Journal(path)
    for entry in entries:
        journal.write(entry)
    folder = journal.path.parent
    left = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    journal.close()
    for file, content in left.items():
        file.write_bytes(content)
        file.chmod(0o600)


@pytest.mark.parametrize("harm", ["cut", "zeroed", "flipped"])
def test_a_torn_tail_is_cut_off(path, harm):
    left_by_a_crash(path, [accept(spec(n, b"p" * 3000)) for n in range(5)])
    log = Path(f"{path}-wal")
    data = bytearray(log.read_bytes())
    assert torn_bytes(bytes(data)) == 0
    if harm == "cut":
        del data[-1000:]
    elif harm == "zeroed":
        data[-1000:] = bytes(1000)
    else:
        data[-1000] ^= 1
    log.write_bytes(data)
    journal = Journal(path)
    assert list(journal.state.tasks) == ["c-0", "c-1", "c-2", "c-3"]
    assert journal.recovery.torn_bytes > 0
    assert f"the last {journal.recovery.torn_bytes} bytes of its log" in str(journal.recovery)
    journal.write(accept(spec(9)))
    journal.close()


def test_a_damaged_entry_is_told_and_nothing_is_touched(path):
    journal = Journal(path)
    for n in range(3):
        journal.write(accept(spec(n)))
    journal.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE entries SET data = x'00' WHERE seq = 2")
    database.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"its entry 2 is altered or missing.*journal check"):
        Journal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_bytes(b"something else entirely" * 100), "is not a journal"),
        (lambda p: foreign(p, "CREATE TABLE theirs (x)"), "database of another program"),
        (
            lambda p: foreign(p, "PRAGMA user_version=2"),
            "has format 2, and this version of jobrunner reads format 7",
        ),
        (
            lambda p: foreign(p, "PRAGMA user_version=99"),
            "has format 99, and this version of jobrunner reads format 7",
        ),
    ],
)
def test_a_file_of_another_kind_is_left_alone(path, make, words):
    if "format" in words:
        Journal(path).close()
    path.parent.mkdir(exist_ok=True)
    make(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=words):
        Journal(path)
    assert path.read_bytes() == before


def foreign(path, statement):
    database = sqlite3.connect(path)
    database.execute(statement)
    database.commit()
    database.close()


def test_two_coordinators_never_share_one(path):
    journal = Journal(path)
    with pytest.raises(ConfigError, match=rf"in use by another coordinator \(pid {os.getpid()}\)"):
        Journal(path)
    journal.close()
    Journal(path).close()


def by_a_link(path):
    other = path.parent / "link"
    other.symlink_to(path)
    return other


def by_a_link_to_the_folder(path):
    (path.parent.parent / "elsewhere").symlink_to(path.parent)
    return path.parent.parent / "elsewhere" / path.name


def by_a_hard_link(path):
    other = path.parent / "second"
    other.hardlink_to(path)
    return other


def by_a_relative_path(path):
    return Path(os.path.relpath(path))


def by_a_new_name(path):
    return path.rename(path.parent / "renamed")


OTHER_PATHS = [by_a_link, by_a_link_to_the_folder, by_a_hard_link, by_a_relative_path, by_a_new_name]


@pytest.mark.parametrize("other", OTHER_PATHS)
def test_nor_by_another_path_of_the_same_file(path, other):
    journal = Journal(path)
    journal.write(accept(spec(1)))
    with pytest.raises(ConfigError, match="in use by another coordinator"):
        Journal(other(path))
    journal.write(accept(spec(2)))
    journal.close()


def test_a_journal_is_found_by_a_link_with_all_that_is_beside_it(path):
    path.parent.mkdir()
    link = path.parent.parent / "link"
    link.symlink_to(path)
    left_by_a_crash(link, [accept(spec(1, b"large" * LARGE))])
    assert {file.name for file in path.parent.iterdir()} >= {path.name, f"{path.name}-wal"}
    report = examine(link)
    assert (report["tasks"], report["damage"]) == (1, "")
    journal = Journal(path)
    assert list(journal.state.tasks) == ["c-1"]
    assert journal.recovery.lost_payloads == 0
    journal.close()


def test_payloads_that_lie_beside_a_link_are_not_given_up(path):
    """That is where earlier versions put them."""
    journal = Journal(path)
    journal.write(accept(spec(1, b"large" * LARGE)))
    journal.close()
    link = path.parent.parent / "link"
    link.symlink_to(path)
    beside, own = Path(f"{link}.payloads"), Path(f"{path}.payloads")
    own.rename(beside)
    with pytest.raises(ConfigError, match=f"{beside}.*move .* to {own}"):
        Journal(link)
    beside.rename(own)
    journal = Journal(link)
    assert list(journal.state.tasks) == ["c-1"]
    journal.close()


def test_a_file_with_two_names_is_refused_since_its_log_has_one(path):
    Journal(path).close()
    by_a_hard_link(path)
    with pytest.raises(ConfigError, match=r"has 2 names.*hard link"):
        Journal(path)


@pytest.mark.parametrize("small_disk", ["1m"], indirect=True)
def test_a_full_disk_refuses_what_is_new_and_loses_nothing(small_disk):
    path = small_disk / "journal"
    journal = Journal(path)
    journal.write(accept(*[spec(n) for n in range(10)]))
    (small_disk / "ballast").write_bytes(bytes(300_000))
    refused = []
    for number in range(100, 200):
        try:
            journal.write(accept(spec(number, os.urandom(50_000))))
        except JournalError as exc:
            refused.append((number, str(exc)))
    assert refused
    assert all("new calls are refused until it can" in text for _, text in refused)
    for entry in (ended(1), drop(2), JournalEntry(progress=[(TaskId("c-3"), Progress(5))])):
        try:
            journal.write(entry)
        except JournalError:
            pass
    (small_disk / "ballast").unlink()
    journal.write(accept(spec("after")))
    again = reopened(journal, path)
    assert "c-after" in again.state.tasks
    assert "c-1" in again.state.outcomes
    assert "c-2" not in again.state.tasks
    assert again.state.tasks["c-3"][1] == Progress(5)
    assert not {f"c-{number}" for number, _ in refused} & again.state.tasks.keys()
    again.close()


@contextlib.contextmanager
def no_room(journal):
    """SQLite says that the disk is full as soon as its file would have to grow."""
    pages = journal._one("PRAGMA page_count")
    journal._database.execute(f"PRAGMA max_page_count={pages}")
    filler = accept(spec("filler", b"f" * 3000), *[spec(f"filler-{n}") for n in range(5)])
    with pytest.raises(JournalError, match="is full"):
        deque(map(journal.write, repeat(filler)))
    yield
    journal._database.execute("PRAGMA max_page_count=1000000")


def test_what_is_refused_leaves_nothing_to_be_written(path):
    """The coordinator tells of each refused call that it is gone, though the journal never had it."""
    journal = Journal(path)
    journal.write(accept(*[spec(n) for n in range(20)]))
    with no_room(journal):
        for number in range(1000, 3000):
            entry = accept(spec(number, b"p" * 3000))
            entry.progress = [(TaskId("c-1"), Progress(number)), (TaskId(f"c-{number - 1}"), Progress(1))]
            entry.gone[TaskId(f"c-{number - 2}")] = None
            with pytest.raises(JournalError):
                journal.write(entry)
        for number in range(5, 10):
            with pytest.raises(JournalError):
                journal.write(drop(number))
        with pytest.raises(JournalError):
            journal.write(ended(3))
        assert list(journal._owed.progress.items()) == [("c-1", Progress(2999))]
        assert list(journal._owed.gone) == [f"c-{number}" for number in range(5, 10)]
        assert list(journal._owed.outcomes) == ["c-3"]
    journal.write(accept(spec("after")))
    assert not journal._owed
    journal = reopened(journal, path)
    assert journal.state.tasks["c-1"][1] == Progress(2999)
    assert {f"c-{number}" for number in range(3, 10)} & journal.state.tasks.keys() == {"c-4"}
    assert list(journal.state.outcomes) == ["c-3"]
    assert "c-after" in journal.state.tasks
    journal.close()


def test_what_is_tried_in_vain_is_little_however_much_is_owed(path):
    journal = Journal(path)
    journal.write(accept(*[spec(n) for n in range(3 * OWED_TASKS)]))
    tried = []
    with no_room(journal):
        for number in range(3 * OWED_TASKS):
            journal._owed.add(drop(number), journal.state)
        journal._database.set_trace_callback(tried.append)
        with pytest.raises(JournalError):
            journal.write(ended("filler", b"result" * 1000))
        journal._database.set_trace_callback(None)
        (row,) = [statement for statement in tried if statement.startswith("INSERT")]
        assert len(row) < 2 * 20 * OWED_TASKS
    journal.write(accept(spec("after")))
    assert not journal._owed
    journal = reopened(journal, path)
    assert not {f"c-{number}" for number in range(3 * OWED_TASKS)} & journal.state.tasks.keys()
    assert "c-filler" in journal.state.outcomes
    journal.close()


def test_a_log_that_cannot_be_written_anew_is_not_tried_in_each_turn(path):
    journal = Journal(path)
    journal.write(accept(*[spec(f"stays-{n}", b"s" * 100_000) for n in range(10)]))
    while journal._log_bytes + 110_000 < COMPACT_FROM + 2 * journal._live_bytes:
        journal.write(accept(spec("passes", b"p" * 100_000)))
        journal.write(drop("passes"))
    tried = []
    journal._database.execute(f"PRAGMA max_page_count={journal._one('PRAGMA page_count') + 60}")
    journal._database.set_trace_callback(tried.append)
    journal.write(accept(spec("passes", b"p" * 100_000)))
    for number in range(20):
        journal.write(drop(f"passes-{number}", "passes"))
    assert tried.count("BEGIN IMMEDIATE") == 1
    journal._database.set_trace_callback(None)
    journal._database.execute("PRAGMA max_page_count=1000000")
    journal.close()


def test_what_is_too_much_for_one_row_is_written_in_several(path, monkeypatch):
    """SQLite takes no row of a billion bytes, and what cannot be written would keep all else from being written."""
    monkeypatch.setattr(journal_entries, "ROW_BYTES", 1000)
    journal = Journal(path)
    journal._database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2500)
    entry = accept(*[spec(n, bytes(700)) for n in range(20)])
    entry.progress.append((TaskId("c-1"), Progress(1, 1, 0)))
    for number in range(20, 40):
        entry.outcomes.update(ended(number, bytes(700)).outcomes)
    journal.write(entry)
    expected = JournalState()
    expected.apply(entry)
    journal = reopened(journal, path)
    assert journal.state.tasks == expected.tasks
    assert journal.state.functions == expected.functions
    assert {k: v.outcome for k, v in journal.state.outcomes.items()} == {
        k: v.outcome for k, v in expected.outcomes.items()
    }
    journal.close()


def test_what_cannot_be_written_at_all_is_not_half_there(path, monkeypatch):
    journal = Journal(path)
    monkeypatch.setattr(journal_entries, "ROW_BYTES", 1000)
    insert = journal._insert

    def fail_late(data):
        if b"last" in data:
            raise OverflowError("too large")
        insert(data)

    monkeypatch.setattr(journal, "_insert", fail_late)
    with pytest.raises(JournalError, match="too large"):
        journal.write(accept(spec(1, bytes(900)), spec(2, bytes(900)), spec(3, b"last")))
    journal = reopened(journal, path)
    assert not journal.state.tasks
    journal.close()


def test_a_folder_that_cannot_be_is_an_error_that_helps(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write a journal at .*--no-journal"):
        Journal(tmp_path / "file" / "journal")


def test_a_journal_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "journal"
    Journal(path).close()
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        Journal(path)
    path.chmod(0o600)
    Journal(path).close()


@pytest.mark.parametrize(
    ("written", "kind"), [(None, SINGLE_CALL), (64, Bundle(64)), ((3, 10), Chunk(3, 10))]
)
def test_the_kind_of_a_task_as_earlier_versions_wrote_it(written, kind):
    entry = list(msgpack.unpackb(dump_entry(accept(spec(1)), 0.0), use_list=False))
    (fields,) = entry[2]
    entry[2] = [(*fields[:3], written, *fields[4:])]
    (task,) = load_entry(msgpack.packb(entry), 0.0).accepted
    assert task == spec(1)._replace(body=spec(1).body._replace(kind=kind))


def test_options_that_a_journal_does_not_know_yet_have_their_defaults():
    entry = list(msgpack.unpackb(dump_entry(accept(spec(1, priority=3, detach=True)), 0.0), use_list=False))
    (fields,) = entry[2]
    entry[2] = [(*fields[:4], fields[4][:2], *fields[5:])]
    (task,) = load_entry(msgpack.packb(entry), 0.0).accepted
    assert task == spec(1, priority=3)
