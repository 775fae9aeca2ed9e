"""Damage to a journal's files is never taken for good order: one flipped bit, a file or a row that is gone.

What opens has exactly the contents of before, or says what was cut off; all else is refused with a word.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from jobrunner.coordinator.journal.payload_files import LARGE
from jobrunner.coordinator.journal.store import Journal, examine
from jobrunner.errors import ConfigError
from jobrunner.protocol.journal_records import JournalEntry, KeptOutcome, Progress
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId

FUNCTION = m.FunctionDef(b"key", "function", b"blob")
FLIPS = int(os.environ.get("JOBRUNNER_TEST_FLIPS", "100"))
"""Bits that are flipped in each of the journals, one at a time."""


PAGE, HEAD = 4096, 160
"""Bytes of one of SQLite's pages, and of what is at its beginning."""


@pytest.fixture(scope="module")
def memory():
    """A folder where nothing waits for a disk, if the system has one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        yield Path(folder)


def entries():
    """Enough for several pages, with each kind of entry."""
    for number in range(60):
        spec = m.TaskSpec(TaskId(f"c-{number}"), m.CallBody(FUNCTION.key, b"%d" % number))
        yield JournalEntry([FUNCTION], [spec], owners={"c": "a key"})
        if number % 5 == 1:
            yield JournalEntry(progress=[(spec.id, Progress(number, 1, 0, ("attempt 1: died",)))])
        if number % 5 == 2:
            yield JournalEntry(gone={spec.id: None})
        if number % 5 == 3:
            outcome = m.Outcome(spec.id, 1, m.OK, b"result" * number)
            yield JournalEntry(outcomes={spec.id: KeptOutcome("function", outcome)})
    large = m.TaskSpec(TaskId("c-large"), m.CallBody(FUNCTION.key, bytes(LARGE)))
    yield JournalEntry([FUNCTION], [large])


def contents(journal):
    state = journal.restored()
    outcomes = {task_id: kept._replace(age=0.0) for task_id, kept in state.outcomes.items()}
    return state.functions, state.tasks, outcomes, state.owners


def written(folder):
    """A journal that is open."""
    folder.mkdir(mode=0o700)
    journal = Journal(folder / "journal")
    for number, entry in enumerate(entries()):
        journal.write(entry)
        if number == 20:
            journal._checkpoint("PASSIVE")
    return journal


@pytest.fixture(scope="module", params=["closed", "killed"])
def left(request, memory):
    """A folder with a journal's files, what the journal holds, and whether it was closed."""
    folder = memory / request.param
    folder.mkdir()
    journal = written(folder / "open")
    expected = contents(journal)
    if request.param == "killed":
        shutil.copytree(folder / "open", folder / "files")
        journal.close()
    else:
        journal.close()
        shutil.copytree(folder / "open", folder / "files")
    return folder / "files", expected, request.param == "closed"


def files_in(folder):
    """What can be damaged: of SQLite's index of its log (-shm) nothing is read, it is made anew."""
    return sorted(f for f in folder.rglob("*") if f.is_file() and not f.name.endswith((".lock", "-shm")))


def chosen(rng, folder):
    """A file and one of its bits: half of them in the beginnings of SQLite's pages, where their structure is."""
    payload, *databases = sorted(files_in(folder), key=lambda file: file.parent == folder)
    file = rng.choice([payload, *databases * 5])
    size = file.stat().st_size
    byte = rng.randrange(size)
    if rng.random() < 0.5 and file != payload:
        byte = byte // PAGE * PAGE + rng.randrange(min(HEAD, size - byte // PAGE * PAGE))
    return file, 8 * byte + rng.randrange(8)


def verdict(path, expected, closed):
    """How a journal opens; fails where it opens as if nothing were wrong, and something is."""
    try:
        journal = Journal(path)
    except ConfigError:
        return "refused"
    found, recovery = contents(journal), journal.recovery
    journal.write(JournalEntry([FUNCTION], [m.TaskSpec(TaskId("c-later"), m.CallBody(FUNCTION.key, b""))]))
    journal.close()
    again = Journal(path)  # whatever was damaged does no more harm
    assert TaskId("c-later") in again.state.tasks
    assert again.recovery.clean
    again.close()
    if found == expected:
        return "whole"
    assert recovery.torn_bytes or recovery.lost_payloads, f"other contents: {recovery}"
    assert not closed or recovery.lost_payloads, f"of a closed journal nothing is cut off: {recovery}"
    assert found[1].keys() <= {TaskId(f"c-{number}") for number in range(60)} | {TaskId("c-large")}
    return "told"


def test_a_flipped_bit_is_told_or_changes_nothing(left, memory):
    source, expected, closed = left
    rng = random.Random(20)
    verdicts = []
    for _ in range(FLIPS):
        file, bit = chosen(rng, source)
        shutil.copytree(source, memory / "files")
        target = memory / "files" / file.relative_to(source)
        data = bytearray(target.read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        target.write_bytes(data)
        try:
            verdicts.append(verdict(memory / "files" / "journal", expected, closed))
        except AssertionError as exc:
            raise AssertionError(f"bit {bit} of {file.name}: {exc}") from exc
        shutil.rmtree(memory / "files")
    assert {"refused", "told"} <= set(verdicts)


def altered(tmp_path, statement):
    """The path of a journal that was closed, and then changed by SQLite itself."""
    written(tmp_path / "files").close()
    path = tmp_path / "files" / "journal"
    database = sqlite3.connect(path)
    with database:
        database.execute(statement)
    database.close()
    return path


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM entries WHERE seq = 30", "its entry 30 is altered or missing"),
        ("DELETE FROM entries WHERE seq < 4", "its entry 4 is altered or missing"),
        ("DELETE FROM entries WHERE seq > 90", "its entries 91 to 97 are missing"),
        ("DELETE FROM entries", "its entries 1 to 97 are missing"),
        ("UPDATE entries SET seq = 200 WHERE seq = 97", "its entry 97 is altered or missing"),
        ("UPDATE entries SET seq = 0 WHERE seq = 1", "its entry 1 is altered or missing"),
        (
            "UPDATE entries SET (crc, data) = (SELECT crc, data FROM entries WHERE seq = 5) WHERE seq = 6",
            "its entry 6 is altered or missing",
        ),
        ("UPDATE mark SET seq = 20", "damaged in its mark"),
        ("DELETE FROM mark", "damaged in its mark"),
        ("DROP TABLE mark", "no such table: mark"),
        ("DROP TABLE entries", "no such table: entries"),
        ("PRAGMA user_version=4", "damaged in its mark"),
    ],
)
def test_what_is_missing_is_told(tmp_path, statement, words):
    path = altered(tmp_path, statement)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"{words}.*journal check"):
        Journal(path)
    assert path.read_bytes() == before
    assert words in examine(path)["damage"]


def left_open(tmp_path):
    """What a coordinator leaves that was killed."""
    journal = written(tmp_path / "open")
    shutil.copytree(tmp_path / "open", tmp_path / "files")
    journal.close()
    return tmp_path / "files" / "journal"


def test_a_log_that_is_gone_is_told(tmp_path):
    path = left_open(tmp_path)
    Path(f"{path}-wal").unlink()
    journal = Journal(path)
    assert not journal.recovery.clean
    assert "its -wal file is gone" in str(journal.recovery)
    assert TaskId("c-0") in journal.state.tasks
    journal.close()
    again = Journal(path)
    assert again.recovery.clean
    again.close()


def test_a_log_without_its_database_is_told_and_kept(tmp_path):
    path = left_open(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"is empty, but its log .*-wal is not"):
        Journal(path)
    assert Path(f"{path}-wal").stat().st_size
    assert "is empty" in examine(path)["damage"]


def test_damage_in_the_middle_of_the_log_counts_what_follows_as_cut_off(tmp_path):
    """SQLite takes a frame with another salt for the end of the log, as is right where an older log was overwritten."""
    path = left_open(tmp_path)
    log = Path(f"{path}-wal")
    data = bytearray(log.read_bytes())
    frames = (len(data) - 32) // (24 + PAGE)
    data[32 + frames // 2 * (24 + PAGE) + 8] ^= 1
    log.write_bytes(data)
    journal = Journal(path)
    assert journal.recovery.torn_bytes >= frames // 2 * (24 + PAGE)
    journal.close()


def test_what_an_older_log_has_left_in_the_file_is_no_damage(tmp_path):
    """A log that was moved into the database is written anew from its beginning."""
    journal = written(tmp_path / "open")
    journal._checkpoint("PASSIVE")
    journal.write(JournalEntry([FUNCTION], [m.TaskSpec(TaskId("c-later"), m.CallBody(FUNCTION.key, b""))]))
    shutil.copytree(tmp_path / "open", tmp_path / "files")
    expected = contents(journal)
    journal.close()
    again = Journal(tmp_path / "files" / "journal")
    assert contents(again) == expected
    assert again.recovery.torn_bytes == 0
    again.close()
