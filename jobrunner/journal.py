"""The coordinator's journal on disk: an append-only log of entries in an SQLite database (WAL mode).

One entry, which is all that one turn of the coordinator has to keep, is one row and one transaction: with a row per
task the cost would be many times that of everything else. What the log says in the end is `JournalState`; when most of
the log is about tasks that are gone, that state is written anew as one entry and takes the log's place. Large payloads
are in files of their own, and the log refers to them (`payload_files`).

A commit survives the death of the process. That of the host it survives once the operating system has written it out
(synchronous=NORMAL): SQLite's checksums cut off what was written in part, and of a payload in a file its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from jobrunner.errors import ConfigError, JournalError, ProtocolError
from jobrunner.ids import TaskId, client_of
from jobrunner.payload_files import LARGE, UNSETTLED_BYTES, PayloadFiles, Reference, size_in
from jobrunner.payloads import Payload, buffers_of, payload_size
from jobrunner.private_files import check_private
from jobrunner.protocol import codec
from jobrunner.protocol.journal import JournalEntry, JournalState, KeptOutcome, Progress
from jobrunner.protocol.messages import FunctionDef, Outcome, TaskSpec

FORMAT = 6
OLDEST_FORMAT = 3
"""Without files for large payloads; in 3 and 4, without parts of functions, which are bytes; up to 5, without the
number of attempts that never began; else the same."""

APPLICATION_ID = 0x4A4F4252
"""Marks the file as ours ("JOBR") in SQLite's header."""

COMPACT_FROM = 4 * 1024 * 1024
"""Bytes of log beyond twice the live state at which it is written anew: some hundred entries of a busy turn, so that
the cost of rewriting stays a small share, and little enough to be read in an instant at the next start."""

ROW_BYTES = 64 * 1024 * 1024
"""Of an entry beyond which it becomes several rows, in one transaction: SQLite takes no row of a billion bytes."""

LARGEST_PAYLOAD = 900_000_000
"""Bytes of arguments, of a result or of a function that a journal takes: a row, with all that comes with them."""

FUNCTION_FILES = 256 * 1024 * 1024
"""Bytes of functions in files, beyond twice what was needed when the log was last written anew, at which it is again:
so what no call needs any more does not fill the disk."""

TASK_BYTES = 200
"""About what a task takes in the log beside its payload."""

REFERENCE = 1
"""Of msgpack's extensions: the payload is in a file."""

WAL_HEADER = 32
FRAME_HEADER = 24


class Recovery(NamedTuple):
    """How a journal was found."""

    existed: bool
    clean: bool
    """The coordinator before had closed it."""
    torn_bytes: int
    """Of an entry that was being written when the process or the host died; cut off."""
    lost_payloads: int = 0
    """Calls, and outcomes, whose bytes the operating system had not written yet when the host died."""

    def __str__(self) -> str:
        if not self.existed:
            return "new"
        lost = f"; {self.lost_payloads} payloads, not written out yet, are lost" if self.lost_payloads else ""
        if self.clean:
            return f"closed in an orderly way{lost}"
        torn = f"; {self.torn_bytes} bytes of an unfinished entry were cut off" if self.torn_bytes else ""
        return f"not closed in an orderly way, recovered to the last whole entry{torn}{lost}"


class Journal:
    """One coordinator's journal; used by one thread.

    Raises ConfigError where the file cannot be used: another coordinator has it, it is no journal, of another format,
    or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise ConfigError(
                f"cannot keep a journal at {self.path}: {exc.strerror}; --journal PATH keeps it elsewhere,"
                " --no-journal keeps none"
            ) from exc
        try:
            self._take_lock()
            self.recovery = inspect_files(self.path)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = connect(self.path)
            self._prepare()
            self._files = files_of(self.path)
            self.state, lost = read_state(self._database, self.path, self._files)
            self.recovery = self.recovery._replace(lost_payloads=len(lost))
            self._files.adopt(references(self.state))
            if self._files.unsettled_bytes:
                self._checkpoint("PASSIVE")
        except BaseException:
            os.close(self._lock)
            raise
        self._owed = JournalEntry()
        """What could not be written yet, though it must be: the disk was full."""
        self._log_bytes = int(self._one("SELECT coalesce(sum(length(data)), 0) FROM entries"))
        self._unchecked_bytes = 0
        """Of rows since the last checkpoint."""
        self._live_bytes = sum(size_of(spec) for spec, _ in self.state.tasks.values())
        self._live_bytes += sum(payload_size(k.outcome.payload) for k in self.state.outcomes.values())
        self._function_bytes = self._needed_bytes = function_file_bytes(self.state)
        """Of functions in files: all of them, and those that were needed when the log was last written anew."""

    def restored(self) -> JournalState:
        """What is known at the start, with the payloads that are in files."""
        state = self.state.copy()
        for key, definition in state.functions.items():
            state.functions[key] = definition._replace(blob=self._loaded(definition.blob))
        for task_id, (spec, progress) in state.tasks.items():
            state.tasks[task_id] = (spec._replace(payload=self._loaded(spec.payload)), progress)
        for task_id, kept in state.outcomes.items():
            payload = self._loaded(kept.outcome.payload)
            state.outcomes[task_id] = kept._replace(outcome=kept.outcome._replace(payload=payload))
        return state

    def _loaded(self, payload: Payload) -> Payload:
        whole = self._files.read(payload) if isinstance(payload, Reference) else payload
        if whole is None:
            raise ConfigError(f"a file of the journal {self.path} has gone since it was opened")
        return whole

    def write(self, entry: JournalEntry) -> None:
        """Keep an entry for good. Raises JournalError if that is not possible now.

        Then none of its new tasks is in the journal; the rest of it will be written with the next entry.
        """
        fresh = [d for d in entry.functions if d.key not in self.state.functions]
        whole = JournalEntry(
            fresh,
            entry.accepted,
            self._owed.progress + entry.progress,
            {**self._owed.outcomes, **entry.outcomes},
            {**self._owed.gone, **entry.gone},
            entry.owners,
        )
        for task_id in entry.gone:
            whole.outcomes.pop(task_id, None)
        for task_id in entry.outcomes:
            whole.gone.pop(task_id, None)
        before = self._log_bytes
        stored = JournalEntry()
        try:
            self._store(whole, stored)
            self._append(stored)
        except (sqlite3.Error, OSError, OverflowError, ValueError) as exc:
            self._log_bytes = before
            for reference in references(stored):
                self._files.remove(reference)
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._owed = JournalEntry([], [], whole.progress, whole.outcomes, whole.gone)
            raise JournalError(
                f"the journal {self.path} cannot be written ({exc}): new calls are refused until it can, what has been"
                " accepted goes on. Is the disk full?"
            ) from exc
        self._owed = JournalEntry()
        self._account(stored)
        many_functions = self._function_bytes > FUNCTION_FILES + 2 * self._needed_bytes
        if self._log_bytes > COMPACT_FROM + 2 * self._live_bytes or many_functions:
            self._compact()
        elif self._unchecked_bytes > COMPACT_FROM or self._files.unsettled_bytes > UNSETTLED_BYTES:
            self._checkpoint("PASSIVE")

    def close(self) -> None:
        """After this another coordinator may open it."""
        self._checkpoint("TRUNCATE")
        self._database.close()
        os.close(self._lock)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._lock, 20).decode(errors="replace").strip() or "unknown"
            raise ConfigError(
                f"the journal {self.path} is in use by another coordinator (pid {holder}): end that one, or give this"
                " one a file of its own with --journal PATH"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _prepare(self) -> None:
        check_format(self._database, self.path)
        check_private(self.path.stat(), self.path)  # calls and results are nobody else's business
        try:
            self._database.execute("PRAGMA auto_vacuum=INCREMENTAL")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute("PRAGMA wal_autocheckpoint=0")  # files come first: see _checkpoint
            self._database.execute(f"PRAGMA journal_size_limit={COMPACT_FROM}")
            if self._one("PRAGMA user_version") != FORMAT:  # else nothing is written: the disk may be full
                self._database.execute(f"PRAGMA application_id={APPLICATION_ID}")
                self._database.execute(f"PRAGMA user_version={FORMAT}")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, crc INTEGER, data BLOB)"
            )
        except sqlite3.Error as exc:
            raise ConfigError(f"cannot keep a journal at {self.path}: {exc}") from exc

    def _one(self, query: str) -> Any:
        return self._database.execute(query).fetchone()[0]

    def _store(self, entry: JournalEntry, stored: JournalEntry) -> None:
        """Make `stored` the same with large payloads in files; as far as it comes, where one cannot be written."""
        stored.progress, stored.gone, stored.owners = entry.progress, entry.gone, entry.owners
        for definition in entry.functions:
            if payload_size(definition.blob) >= LARGE:
                definition = definition._replace(blob=self._files.write(definition.blob))
            stored.functions.append(definition)
        for spec in entry.accepted:
            if payload_size(spec.payload) >= LARGE:
                spec = spec._replace(payload=self._files.write(spec.payload))
            stored.accepted.append(spec)
        for task_id, kept in entry.outcomes.items():
            if payload_size(kept.outcome.payload) >= LARGE:
                reference = self._files.write(kept.outcome.payload)
                kept = kept._replace(outcome=kept.outcome._replace(payload=reference))
            stored.outcomes[task_id] = kept

    def _checkpoint(self, kind: str) -> None:
        """Have SQLite move its log into the database, which makes the rows durable: what they name must be before.

        Where that fails the log stays in the other file, where the next one finds it.
        """
        self._unchecked_bytes = 0
        try:
            self._files.sync()
            _, frames, moved = self._database.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()
        except (sqlite3.Error, OSError):
            return
        if frames == moved:
            self._files.settle()

    def _append(self, entry: JournalEntry) -> None:
        now = time.time()
        first, *others = rows(entry)
        if others:
            self._database.execute("BEGIN IMMEDIATE")
        for part in (first, *others):
            self._insert(dump_entry(part, now))
        if others:
            self._database.execute("COMMIT")

    def _insert(self, data: bytes) -> None:
        self._database.execute("INSERT INTO entries (crc, data) VALUES (?, ?)", (zlib.crc32(data), data))
        self._log_bytes += len(data)
        self._unchecked_bytes += len(data)

    def _account(self, entry: JournalEntry) -> None:
        state = self.state
        for task_id in (*entry.gone, *entry.outcomes):
            known = state.tasks.get(task_id)
            if known is not None:
                self._live_bytes -= size_of(known[0])
                self._drop_file(known[0])
            before = state.outcomes.get(task_id)
            if before is not None:
                self._live_bytes -= payload_size(before.outcome.payload)
                self._drop_file(before)
        gone = entry.gone
        for spec in entry.accepted:
            if spec.id not in gone and spec.id not in entry.outcomes:
                self._live_bytes += size_of(spec)
            else:
                self._drop_file(spec)
        for kept in entry.outcomes.values():
            self._live_bytes += payload_size(kept.outcome.payload)
        self._function_bytes += file_bytes(entry.functions)
        state.apply(entry)

    def _drop_file(self, kept: TaskSpec | KeptOutcome) -> None:
        """Of what has gone. Were this row to be lost with the host, a client that still waits would submit it again;
        but nobody may be there who would do that for a detached call."""
        payload = kept.payload if isinstance(kept, TaskSpec) else kept.outcome.payload
        if not isinstance(payload, Reference):
            return
        if isinstance(kept, TaskSpec) and not kept.options.detach:
            self._files.remove(payload)
        else:
            self._files.condemn(payload)

    def _compact(self) -> None:
        """Write the state anew, and drop the log that led to it. Where that fails, the log stays as it is."""
        state = self.state
        needed = state.needed_functions()
        dropped = [definition.blob for key, definition in state.functions.items() if key not in needed]
        state.functions = {key: definition for key, definition in state.functions.items() if key in needed}
        self._function_bytes = self._needed_bytes = function_file_bytes(state)
        clients = {client_of(task_id) for task_id in (*state.tasks, *state.outcomes)}
        state.owners = {client: key for client, key in state.owners.items() if client in clients}
        try:
            self._database.execute("BEGIN IMMEDIATE")
            last = self._one("SELECT coalesce(max(seq), 0) FROM entries")
            before, self._log_bytes = self._log_bytes, 0
            now = time.time()
            for entry in snapshot(state):
                for part in rows(entry):
                    self._insert(dump_entry(part, now))
            self._database.execute("DELETE FROM entries WHERE seq <= ?", (last,))
            self._database.execute("COMMIT")
        except sqlite3.Error:
            self._log_bytes = before
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            return
        for blob in dropped:
            if isinstance(blob, Reference):
                self._files.condemn(blob)
        with contextlib.suppress(sqlite3.Error):  # the space is given back next time
            self._database.execute("PRAGMA incremental_vacuum")
        self._checkpoint("TRUNCATE")


def references(kept: JournalState | JournalEntry) -> list[Reference]:
    """What is in files."""
    specs = kept.accepted if isinstance(kept, JournalEntry) else [spec for spec, _ in kept.tasks.values()]
    functions = kept.functions if isinstance(kept, JournalEntry) else kept.functions.values()
    payloads = [spec.payload for spec in specs]
    payloads += [definition.blob for definition in functions]
    payloads += [outcome.payload for _, outcome, _ in kept.outcomes.values()]
    return [payload for payload in payloads if isinstance(payload, Reference)]


def file_bytes(functions: Iterable[FunctionDef]) -> int:
    """Of those of them that are in files."""
    return sum(size_in(d.blob) for d in functions if isinstance(d.blob, Reference))


def function_file_bytes(state: JournalState) -> int:
    return file_bytes(state.functions.values())


def files_of(path: Path) -> PayloadFiles:
    return PayloadFiles(Path(f"{path}.payloads"))


def size_of(spec: TaskSpec) -> int:
    return payload_size(spec.payload) + TASK_BYTES


def rows(entry: JournalEntry) -> list[JournalEntry]:
    """The same in parts that each fit into a row, in an order in which they say what it says; mostly one."""
    sizes = [payload_size(definition.blob) for definition in entry.functions]
    sizes += [size_of(spec) for spec in entry.accepted]
    sizes += [payload_size(kept.outcome.payload) for kept in entry.outcomes.values()]
    if sum(sizes) <= ROW_BYTES:
        return [entry]
    parts = [JournalEntry(owners=entry.owners)]
    size = 0

    def part(more: int) -> JournalEntry:
        nonlocal size
        if size and size + more > ROW_BYTES:
            parts.append(JournalEntry())
            size = 0
        size += more
        return parts[-1]

    for definition in entry.functions:
        part(payload_size(definition.blob)).functions.append(definition)
    for spec in entry.accepted:
        part(size_of(spec)).accepted.append(spec)
    part(0).progress += entry.progress
    for kept in entry.outcomes.values():
        part(payload_size(kept.outcome.payload)).keep(kept)
    part(0).gone.update(entry.gone)
    return parts


def snapshot(state: JournalState) -> Iterator[JournalEntry]:
    """The state as entries of moderate size. Ages of kept outcomes are as they were when they were read."""
    entry = JournalEntry(list(state.functions.values()), owners=dict(state.owners))
    size = 0
    for spec, progress in state.tasks.values():
        entry.accepted.append(spec)
        if progress != Progress():
            entry.progress.append((spec.id, progress))
        size += size_of(spec)
        if size > COMPACT_FROM:
            yield entry
            entry, size = JournalEntry(), 0
    for task_id, kept in state.outcomes.items():
        entry.outcomes[task_id] = kept
        size += payload_size(kept.outcome.payload)
        if size > COMPACT_FROM:
            yield entry
            entry, size = JournalEntry(), 0
    yield entry


def examine(path: Path) -> dict[str, Any]:
    """What `jobrunner journal check` tells: nothing is changed, and "damage" is empty where all is well."""
    report: dict[str, Any] = {
        "path": str(path),
        "bytes": sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists()),
        "format": FORMAT,
        "tasks": 0,
        "kept_outcomes": 0,
        "functions": 0,
        "torn_bytes": inspect_files(path).torn_bytes,
        "damage": "",
    }
    files = files_of(path)
    report["bytes"] += files.size()
    database = connect(path, read_only=True)
    try:
        check_format(database, path)
        verdict = database.execute("PRAGMA quick_check").fetchone()[0]
        state, lost = read_state(database, path, files)
        if lost:  # unless a coordinator has removed them meanwhile, together with the rows
            state, still_lost = read_state(database, path, files)
            lost &= still_lost
        report.update(
            tasks=len(state.tasks), kept_outcomes=len(state.outcomes), functions=len(state.functions)
        )
        if verdict != "ok":
            report["damage"] = str(verdict)
        elif lost:
            report["damage"] = f"the payloads of {len(lost)} calls or outcomes are not there, or not whole"
    except (ConfigError, sqlite3.Error) as exc:
        report["damage"] = str(exc)
    finally:
        database.close()
    return report


def default_journal(port: int) -> Path:
    """Where the coordinator on that port keeps its journal."""
    import platformdirs  # here: a coordinator that is told where need not load it

    return Path(platformdirs.user_state_dir("jobrunner")) / f"coordinator-{port}.journal"


# --- files --------------------------------------------------------------------------------------------------------


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    mode = "ro" if read_only else "rw"
    try:
        return sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=5.0
        )
    except sqlite3.Error as exc:
        raise ConfigError(f"cannot open the journal {path}: {exc}") from exc


def check_format(database: sqlite3.Connection, path: Path) -> None:
    """Raises ConfigError for what is no journal that can be read here; an empty file is a new one."""
    elsewhere = "give another file with --journal PATH, or none with --no-journal"
    try:
        mark = database.execute("PRAGMA application_id").fetchone()[0]
        version = database.execute("PRAGMA user_version").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.DatabaseError as exc:
        raise ConfigError(
            f"{path} is no journal of a coordinator, or is damaged ({exc}); {elsewhere}"
        ) from exc
    if mark == 0 and not tables:
        return
    if mark != APPLICATION_ID:
        raise ConfigError(f"{path} is a database of something else; {elsewhere}")
    if not OLDEST_FORMAT <= version <= FORMAT:
        raise ConfigError(
            f"the journal {path} has format {version}, and this jobrunner reads format {FORMAT}: let the version that"
            f" wrote it finish its work, or {elsewhere}"
        )


def read_state(
    database: sqlite3.Connection, path: Path, files: PayloadFiles
) -> tuple[JournalState, set[TaskId]]:
    """What all entries say, and the tasks of which a payload in a file is lost, or that of a function they need; that
    of an outcome leaves the task.

    A last entry that is damaged counts as torn; raises ConfigError for any other.
    """
    state = JournalState()
    unread: set[TaskId] = set()
    advice = (
        "`jobrunner journal check` says more. Move the file away to start without what it holds: programs that still"
        " run lose nothing, detached calls are lost"
    )
    try:
        last = database.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0]
        for seq, crc, data in database.execute("SELECT seq, crc, data FROM entries ORDER BY seq"):
            if type(data) is not bytes or zlib.crc32(data) != crc:
                if seq == last:
                    break
                raise ConfigError(f"the journal {path} is damaged in entry {seq} of {last}; {advice}")
            entry = load_entry(data, time.time())
            for task_id, kept in list(entry.outcomes.items()):
                if is_lost(kept.outcome.payload, files):
                    del entry.outcomes[task_id]
                    unread.add(task_id)
            state.apply(entry)
    except sqlite3.OperationalError as exc:
        if "no such table" in str(exc):
            return state, set()
        raise ConfigError(f"the journal {path} cannot be read: {exc}; {advice}") from exc
    except sqlite3.DatabaseError as exc:
        raise ConfigError(f"the journal {path} is damaged: {exc}; {advice}") from exc
    except (ProtocolError, ValueError, TypeError, LookupError) as exc:
        raise ConfigError(f"the journal {path} holds what no jobrunner has written: {exc}; {advice}") from exc
    lost = unread & state.tasks.keys()
    gone = {key for key, definition in state.functions.items() if is_lost(definition.blob, files)}
    gone |= {key for key, definition in state.functions.items() if not gone.isdisjoint(definition.parts)}
    for key in gone:
        del state.functions[key]
    for task_id, (spec, _) in list(state.tasks.items()):
        if is_lost(spec.payload, files) or spec.function in gone or spec.setup in gone:
            del state.tasks[task_id]
            lost.add(task_id)
    return state, lost


def is_lost(payload: Payload, files: PayloadFiles) -> bool:
    return isinstance(payload, Reference) and files.read(payload) is None


def inspect_files(path: Path) -> Recovery:
    """How the journal was left, from its files; before SQLite opens it and recovers."""
    if not path.exists() or not path.stat().st_size:
        return Recovery(False, True, 0)
    try:
        log = Path(f"{path}-wal").read_bytes()
    except OSError:
        log = b""
    return Recovery(True, not log, torn_bytes(log))


def torn_bytes(log: bytes) -> int:
    """Bytes at the end of SQLite's write-ahead log that belong to no whole transaction.

    The format is described at https://www.sqlite.org/fileformat2.html#walformat
    """
    if len(log) < WAL_HEADER:
        return len(log)
    magic, _, page_size, _, *salt = struct.unpack(">IIIIII", log[:24])
    if magic not in (0x377F0682, 0x377F0683):
        return len(log)
    order = "<" if magic == 0x377F0682 else ">"
    sums = checksum(log[:24], order, (0, 0))
    if sums != struct.unpack(">II", log[24:32]):
        return len(log)
    good = position = WAL_HEADER
    while position < len(log):
        frame = log[position : position + FRAME_HEADER + page_size]
        if len(frame) < FRAME_HEADER:
            break
        _, commit, *frame_salt = struct.unpack(">IIII", frame[:16])
        if frame_salt != salt:
            return 0 if position == good and any(frame_salt) else len(log) - good  # older frames, used again
        if len(frame) < FRAME_HEADER + page_size:
            break
        sums = checksum(frame[:8] + frame[FRAME_HEADER:], order, sums)
        if sums != struct.unpack(">II", frame[16:24]):
            break
        position += len(frame)
        if commit:
            good = position
    return len(log) - good


def checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's checksum over 32-bit words."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for index in range(0, len(words), 2):
        first = (first + words[index] + second) & 0xFFFFFFFF
        second = (second + words[index + 1] + first) & 0xFFFFFFFF
    return first, second


# --- entries to bytes ---------------------------------------------------------------------------------------------


def dump_entry(entry: JournalEntry, now: float) -> bytes:
    packed: bytes = msgpack.packb(
        (
            now,
            [(*f[:2], flat(f[2]), *f[3:]) for f in entry.functions],
            [(*t[:2], flat(t[2]), t[3], codec.write_options(t[4]), *t[5:]) for t in entry.accepted],
            entry.progress,
            [
                (kept.name, (*kept.outcome[:3], flat(kept.outcome[3]), *kept.outcome[4:]), kept.age)
                for kept in entry.outcomes.values()
            ],
            list(entry.gone),
            entry.owners,
        ),
        unicode_errors="surrogatepass",
    )
    return packed


def load_entry(data: bytes, now: float) -> JournalEntry:
    """Raises ProtocolError, ValueError or TypeError for what `dump_entry` has not made."""
    written, functions, accepted, progress, outcomes, gone, owners = msgpack.unpackb(
        data, use_list=False, unicode_errors="surrogatepass", ext_hook=read_extension
    )
    entry = JournalEntry([FunctionDef(*definition) for definition in functions])
    for fields in accepted:
        spec = TaskSpec(*fields)
        entry.accepted.append(spec._replace(options=codec.options(spec.options)))
    entry.progress += [(task_id, Progress(*counts)) for task_id, counts in progress]
    for name, fields, age in outcomes:
        kept = KeptOutcome(name, Outcome(*fields), age + max(0.0, now - written))
        entry.outcomes[kept.outcome.id] = kept
    entry.gone.update(dict.fromkeys(gone))
    entry.owners.update(owners)
    return entry


def flat(payload: Payload) -> Any:
    if isinstance(payload, Reference):
        return msgpack.ExtType(REFERENCE, payload)
    return payload if isinstance(payload, bytes) else [bytes(part) for part in buffers_of(payload)]


def read_extension(code: int, data: bytes) -> Reference:
    if code != REFERENCE:
        raise ValueError(f"an extension {code}")
    return Reference(data)
