"""Reading a journal: how it was closed, whether it is one, and what it contains. Nothing is changed.

Every damage is reported, and nothing is guessed: a journal is read completely, or it is refused. Only the end of
SQLite's log is cut off, because a coordinator that dies may leave it half written.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from pathlib import Path
from typing import NamedTuple

from jobrunner.coordinator.journal.payload_files import PayloadFiles, Reference
from jobrunner.coordinator.journal.rows import Mark, Tail, load_entry
from jobrunner.coordinator.journal.write_ahead_log import torn_bytes
from jobrunner.errors import ConfigError, ProtocolError
from jobrunner.protocol.journal_records import JournalState
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.payloads import Payload

FORMAT = 7
OLDEST_FORMAT = 3
"""The oldest format that can be read.

It has no files for large payloads; up to 4, parts of functions are bytes; up to 5, the number of attempts that never
began is missing; up to 6, the kind of a single call is None, and that of a bundle an integer.
"""
CHAINED_FORMAT = 6
"""The first format with a mark, and with checksums of rows that cover more than their bytes, see `rows`."""

APPLICATION_ID = 0x4A4F4252
"""The id of our files ("JOBR") in SQLite's header."""

ELSEWHERE = "use --journal PATH for another file, or --no-journal"

ADVICE = (
    "`jobrunner journal check` reports details. Move the file away, with its -wal and its .payloads, to start without"
    " its content: programs that still run lose nothing, but detached calls are lost"
)


class Recovery(NamedTuple):
    """The state in which a journal was found."""

    existed: bool
    clean: bool
    """True if the previous coordinator had closed the journal."""
    torn_bytes: int = 0
    """Bytes that were cut off at the end of SQLite's log.

    They belong to an entry that was being written when the process or the host died, or that was damaged later.
    """
    lost_payloads: int = 0
    """Number of calls and outcomes whose files are missing or incomplete.

    The operating system had not written them yet when the host died, or they were damaged later.
    """
    log_is_gone: bool = False
    """True if the journal was not closed, and SQLite's log is missing."""

    def __str__(self) -> str:
        if not self.existed:
            return "new"
        lost = (
            f"; {self.lost_payloads} payloads, damaged or not written out yet, are lost"
            if self.lost_payloads
            else ""
        )
        if self.clean:
            return f"closed in an orderly way{lost}"
        if self.log_is_gone:
            return f"not closed in an orderly way, and its -wal file is gone, with the entries that were in it{lost}"
        torn = (
            f"; the last {self.torn_bytes} bytes of its log, damaged or of an unfinished entry, were cut off"
            if self.torn_bytes
            else ""
        )
        return f"not closed in an orderly way, recovered to the last whole entry{torn}{lost}"


class Contents(NamedTuple):
    """The contents of a journal."""

    state: JournalState
    lost: set[TaskId]
    """The tasks that have lost a payload in a file, or that of a function they need. A lost outcome leaves its task."""
    version: int
    """The version of the format."""
    tail: Tail
    mark: Mark | None
    """The mark; None before format 6."""


def files_of(path: Path) -> PayloadFiles:
    return PayloadFiles(Path(f"{path}.payloads"))


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    mode = "ro" if read_only else "rw"
    try:
        return sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=5.0
        )
    except sqlite3.Error as exc:
        raise ConfigError(f"cannot open the journal {path}: {exc}") from exc


def inspect_files(path: Path) -> Recovery:
    """Return how the journal was closed, as its files show before SQLite opens it and recovers."""
    try:
        log = Path(f"{path}-wal").read_bytes()
    except OSError:
        log = None
    if not path.exists() or not path.stat().st_size:
        if log:
            raise ConfigError(
                f"the journal {path} is empty, but its log {path}-wal is not; restore the file that belongs to the"
                " log, or move the log away to start without its content"
            )
        return Recovery(False, True)
    return Recovery(True, not log, torn_bytes(log or b""), log_is_gone=log is None)


def check_format(database: sqlite3.Connection, path: Path) -> int:
    """Return the format, or 0 if the file is new. Raises ConfigError if it is not a journal that can be read here."""
    try:
        mark = database.execute("PRAGMA application_id").fetchone()[0]
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.DatabaseError as exc:
        raise ConfigError(
            f"{path} is not a journal of a coordinator, or is damaged ({exc}); {ELSEWHERE}"
        ) from exc
    if mark == 0 and version == 0 and not tables:
        return 0
    if mark != APPLICATION_ID:
        raise ConfigError(f"{path} is a database of another program; {ELSEWHERE}")
    if not OLDEST_FORMAT <= version <= FORMAT:
        raise ConfigError(
            f"the journal {path} has format {version}, and this version of jobrunner reads format {FORMAT}; let the"
            f" version that wrote it finish its calls, or {ELSEWHERE}"
        )
    return version


def check_pages(database: sqlite3.Connection, path: Path) -> None:
    """Raise ConfigError if SQLite's own structures are damaged, because writing would increase the damage."""
    try:
        verdict = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as exc:
        verdict = str(exc)
    if verdict != "ok":
        raise ConfigError(f"the journal {path} is damaged: {verdict}; {ADVICE}")


def read_contents(database: sqlite3.Connection, path: Path, files: PayloadFiles) -> Contents:
    """Return the contents of all entries at one moment. Raises ConfigError if an entry is damaged or missing."""
    version = check_format(database, path)
    if version == 0:
        return Contents(JournalState(), set(), FORMAT, Tail(), Mark(Tail(), False))
    try:
        database.execute("BEGIN")
        try:
            mark = read_mark(database, path, version)
            state, unread, tail = read_entries(database, path, files, mark)
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")
    except sqlite3.OperationalError as exc:
        if version < CHAINED_FORMAT and "no such table" in str(exc):
            return Contents(JournalState(), set(), version, Tail(), None)
        raise ConfigError(f"the journal {path} cannot be read: {exc}; {ADVICE}") from exc
    except sqlite3.DatabaseError as exc:
        raise ConfigError(f"the journal {path} is damaged: {exc}; {ADVICE}") from exc
    except ConfigError:
        raise  # ConfigError is a ValueError, too
    except (ProtocolError, ValueError, TypeError, LookupError) as exc:
        raise ConfigError(
            f"the journal {path} contains data that no version of jobrunner writes: {exc}; {ADVICE}"
        ) from exc
    return Contents(state, drop_lost(state, unread, files), version, tail, mark)


def read_mark(database: sqlite3.Connection, path: Path, version: int) -> Mark | None:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version < CHAINED_FORMAT and "mark" not in tables:
        return None
    found = database.execute("SELECT seq, crc, in_use, own_crc FROM mark").fetchall()
    if version >= CHAINED_FORMAT and len(found) == 1:
        seq, checksum, in_use, own = found[0]
        mark = Mark(Tail(seq, checksum), in_use == 1)
        if in_use in (0, 1) and mark.is_written_as(own):
            return mark
    raise ConfigError(f"the journal {path} is damaged in its mark; {ADVICE}")


def read_entries(
    database: sqlite3.Connection, path: Path, files: PayloadFiles, mark: Mark | None
) -> tuple[JournalState, set[TaskId], Tail]:
    """Return the state, the tasks whose outcomes were omitted as their files are lost, and the end of the chain."""
    state = JournalState()
    unread: set[TaskId] = set()
    tail, first = Tail(), True
    for seq, crc, data in database.execute("SELECT seq, crc, data FROM entries ORDER BY seq"):
        if first and type(seq) is int and seq > 0:
            tail, first = Tail(seq - 1), False
        if type(data) is not bytes:
            raise damaged_after(path, tail)
        following = tail.next(data)
        if (seq, crc) != (following.seq, zlib.crc32(data) if mark is None else following.checksum):
            raise damaged_after(path, tail)
        tail = following
        if mark is not None and mark.tail.seq == seq and mark.tail != tail:
            raise damaged_after(path, tail)
        entry = load_entry(data, time.time())
        for task_id, kept in list(entry.outcomes.items()):
            if is_lost(kept.outcome.payload, files):
                del entry.outcomes[task_id]
                unread.add(task_id)
        state.apply(entry)
    if mark is not None and mark.tail.seq > tail.seq:
        raise ConfigError(
            f"the journal {path} is damaged: its entries {tail.seq + 1} to {mark.tail.seq} are missing; {ADVICE}"
        )
    return state, unread, tail


def damaged_after(path: Path, tail: Tail) -> ConfigError:
    return ConfigError(
        f"the journal {path} is damaged: its entry {tail.seq + 1} is altered or missing; {ADVICE}"
    )


def drop_lost(state: JournalState, unread: set[TaskId], files: PayloadFiles) -> set[TaskId]:
    """Omit the tasks that cannot run because files are lost; return these, and those with lost outcomes."""
    lost = unread & state.tasks.keys()
    gone = {key for key, definition in state.functions.items() if is_lost(definition.blob, files)}
    gone |= {key for key, definition in state.functions.items() if not gone.isdisjoint(definition.parts)}
    for key in gone:
        del state.functions[key]
    for task_id, (spec, _) in list(state.tasks.items()):
        if is_lost(spec.body.payload, files) or spec.body.function in gone or spec.body.initializer in gone:
            del state.tasks[task_id]
            lost.add(task_id)
    return lost


def is_lost(payload: Payload, files: PayloadFiles) -> bool:
    return isinstance(payload, Reference) and files.read(payload) is None
