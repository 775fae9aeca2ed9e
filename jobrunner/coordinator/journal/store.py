"""The coordinator's journal on disk: an append-only log of entries in an SQLite database (WAL mode).

One entry contains everything that one turn of the coordinator must keep, and is one row and one transaction; a row per
task would cost many times as much as everything else. The log adds up to a `JournalState`. When most of the log is
about tasks that are gone, that state is written as one entry and replaces the log. Large payloads are in files of their
own, and the log refers to them (`payload_files`).

A commit survives the death of the process. It survives the death of the host once the operating system has written it
(synchronous=NORMAL): SQLite's checksums cut off a transaction that was written in part, and each payload file has a
checksum of its own. Later damage and missing rows are detected by checksums that chain the rows (`rows`).

A journal consists of several files, which are found by its name. Therefore a path is resolved first, and two
coordinators are kept apart both by the name and by the file itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from jobrunner.config import user_folder
from jobrunner.coordinator.journal.payload_files import LARGE, UNSETTLED_BYTES, Reference
from jobrunner.coordinator.journal.recovery import (
    APPLICATION_ID,
    FORMAT,
    Contents,
    Recovery,
    check_format,
    check_pages,
    connect,
    files_of,
    inspect_files,
    read_contents,
)
from jobrunner.coordinator.journal.rows import (
    Mark,
    Tail,
    dump_entry,
    file_bytes,
    function_file_bytes,
    references,
    rows,
    size_of,
    size_of_outcome,
    snapshot,
    with_payload,
)
from jobrunner.errors import ConfigError, JournalError
from jobrunner.keys.private_files import check_private
from jobrunner.protocol.journal_records import JournalEntry, JournalState, KeptOutcome, Owed
from jobrunner.protocol.wire.ids import client_of
from jobrunner.protocol.wire.messages import TaskSpec
from jobrunner.protocol.wire.payloads import Payload, payload_size

COMPACT_FROM = 4 * 1024 * 1024
"""Size in bytes of the log, beyond twice the live state, at which it is rewritten: some hundred entries of a busy turn,
so that rewriting costs a small share, and little enough to be read quickly at the next start."""

MAX_PAYLOAD_BYTES = 900_000_000
"""Maximum size in bytes of arguments, of a result or of a function in a journal, because it is one row with other data.
"""

FUNCTION_FILES = 256 * 1024 * 1024
"""Size in bytes of functions in files, beyond twice what was needed at the last rewriting of the log, at which the log
is rewritten, so that functions that no call needs do not fill the disk."""

TAKEN_OVER = ("-wal", "-journal", "-shm")
"""Suffixes of the files beside a database whose content SQLite takes over, whoever has created them."""

OWED_TASKS = 2000
OWED_BYTES = 1024 * 1024
"""Maximum size in bytes of earlier unwritten data that is tried at once, because it may fail again in each turn of a
coordinator whose disk is full."""

BUSY_MILLISECONDS = 100
"""Time in milliseconds for which the coordinator waits for a reader of its journal (`jobrunner journal check`) before
it postpones its work on the files."""


class Journal:
    """One coordinator's journal; one thread uses it.

    Raises ConfigError if the file cannot be used: another coordinator has it, or it is not a journal, has another
    format or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = resolved(Path(path))
        self._locks: list[int] = []
        self._owed = Owed()
        self._unchecked_bytes = 0
        """Size in bytes of the rows since the last checkpoint."""
        self._compact_from = 0
        """Size in bytes of the log at which it is rewritten again, because rewriting failed at a smaller one."""
        self._further_bytes = 0
        """Size in bytes of functions and histories at the last rewriting, without which the log would be rewritten
        again at once."""
        try:
            self._lock()
            for suffix in TAKEN_OVER:
                beside = Path(f"{self.path}{suffix}")
                if os.path.lexists(beside):
                    check_private(beside.lstat(), beside)
            recovery = inspect_files(self.path)
            self._database = connect(self.path)
            try:
                self._open(recovery)
            except BaseException:
                self._database.close()
                raise
        except BaseException:
            self._unlock()
            raise

    def _lock(self) -> None:
        """Take two locks: one beside the file and one on it, against users of the same name and of another name."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            self._locks.append(beside)
            self._take(beside)
            own = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            self._locks.append(own)
            self._take(own)
        except OSError as exc:
            raise ConfigError(
                f"cannot write a journal at {self.path}: {exc.strerror}; use --journal PATH for another file, or"
                " --no-journal"
            ) from exc
        names = os.fstat(own).st_nlink
        if names > 1:
            raise ConfigError(
                f"the journal {self.path} has {names} names (hard links), but its accompanying files have only one;"
                " remove the other names, copy the file, or use a symbolic link"
            )
        os.ftruncate(beside, 0)
        os.pwrite(beside, f"{os.getpid()}\n".encode(), 0)

    def _take(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._locks[0], 20).decode(errors="replace").strip() or "unknown"
            raise ConfigError(
                f"the journal {self.path} is in use by another coordinator (pid {holder}); stop that one, or use"
                " --journal PATH for another file"
            ) from None

    def _unlock(self) -> None:
        """Release the locks after SQLite has closed the file, because closing it here would drop SQLite's own locks."""
        while self._locks:
            os.close(self._locks.pop())

    def _open(self, recovery: Recovery) -> None:
        version = check_format(self._database, self.path)
        check_private(self.path.stat(), self.path)  # calls and results are private
        self._prepare(version)
        self._files = files_of(self.path)
        found = read_contents(self._database, self.path, self._files)
        check_pages(self._database, self.path)
        in_use = found.mark is not None and found.mark.in_use
        self.recovery = recovery._replace(
            clean=recovery.clean and not in_use,
            lost_payloads=len(found.lost),
            log_is_gone=in_use and recovery.log_is_gone,
        )
        self.state = found.state
        self._tail = found.tail
        self._files.adopt(references(self.state))
        self._function_bytes = self._needed_bytes = function_file_bytes(self.state)
        """Sizes in bytes of functions in files: of all of them, and of those that were needed at the last rewriting."""
        self._log_bytes = int(self._one("SELECT coalesce(sum(length(data)), 0) FROM entries"))
        self._live_bytes = sum(size_of(spec) for spec, _ in self.state.tasks.values())
        self._live_bytes += sum(map(size_of_outcome, self.state.outcomes.values()))
        if found.version != FORMAT:
            self._renew(found)
        self._checkpoint("PASSIVE", in_use=True)

    def restored(self) -> JournalState:
        """Return the state at the start, with the payloads that are in files."""
        state = self.state.copy()
        for key, definition in state.functions.items():
            state.functions[key] = definition._replace(blob=self._loaded(definition.blob))
        for task_id, (spec, progress) in state.tasks.items():
            state.tasks[task_id] = (with_payload(spec, self._loaded(spec.body.payload)), progress)
        for task_id, kept in state.outcomes.items():
            payload = self._loaded(kept.outcome.payload)
            state.outcomes[task_id] = kept._replace(outcome=kept.outcome._replace(payload=payload))
        return state

    def _loaded(self, payload: Payload) -> Payload:
        whole = self._files.read(payload) if isinstance(payload, Reference) else payload
        if whole is None:
            raise ConfigError(
                f"a file of the journal {self.path} was removed after it had been opened; restart the coordinator"
            )
        return whole

    def write(self, entry: JournalEntry) -> None:
        """Keep an entry permanently. Raises JournalError if that is impossible now.

        After an error none of its new tasks is in the journal; the rest of it is written with the next entry.
        """
        try:
            while self._owed:
                part = self._owed.part(OWED_TASKS, OWED_BYTES)
                self._write(part)
                self._owed.written(part)
            self._write(entry)
        except (sqlite3.Error, OSError, OverflowError, ValueError) as exc:
            self._owed.add(entry, self.state)
            raise JournalError(
                f"the journal {self.path} cannot be written ({exc}). Accepted calls continue, but new calls are refused"
                " until it can be written again. Check whether the disk is full"
            ) from exc
        much = self._log_bytes > COMPACT_FROM + 2 * (self._live_bytes + self._further_bytes)
        much |= self._function_bytes > FUNCTION_FILES + 2 * self._needed_bytes
        if much and self._log_bytes >= self._compact_from:
            self._compact()
        elif self._unchecked_bytes > COMPACT_FROM or self._files.unsettled_bytes > UNSETTLED_BYTES:
            self._checkpoint("PASSIVE")

    def _write(self, entry: JournalEntry) -> None:
        """Append an entry, completely or not at all."""
        before = self._log_bytes, self._tail
        stored = JournalEntry()
        try:
            self._store(entry, stored)
            self._append(stored)
        except BaseException:
            self._log_bytes, self._tail = before
            for reference in references(stored):
                self._files.remove(reference)
            self._roll_back()
            raise
        self._account(stored)

    def _roll_back(self) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def close(self) -> None:
        """Close the journal; then another coordinator may open it."""
        self._checkpoint("TRUNCATE", in_use=False)
        self._database.close()
        self._unlock()

    def _prepare(self, version: int) -> None:
        database = self._database
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute("PRAGMA wal_autocheckpoint=0")  # files must be written first, see _checkpoint
            database.execute(f"PRAGMA journal_size_limit={COMPACT_FROM}")
            database.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
            # Overwriting deleted data with zeros costs more than all the rest, and the file is private.
            database.execute("PRAGMA secure_delete=OFF")
            database.execute("BEGIN IMMEDIATE")
            if version == 0:
                database.execute("CREATE TABLE entries (seq INTEGER PRIMARY KEY, crc INTEGER, data BLOB)")
                self._create_mark()
                database.execute("COMMIT")
            else:  # it fails if the database can never be written, and does no harm if the disk is full
                database.execute(f"PRAGMA user_version={version}")
                database.execute("ROLLBACK")
        except sqlite3.Error as exc:
            raise ConfigError(
                f"cannot write a journal at {self.path}: {exc}; use --journal PATH for another file, or --no-journal"
            ) from exc

    def _create_mark(self) -> None:
        self._database.execute(
            "CREATE TABLE mark (seq INTEGER, crc INTEGER, in_use INTEGER, own_crc INTEGER)"
        )
        self._database.execute("INSERT INTO mark VALUES (0, 0, 0, ?)", (Mark(Tail(), False).checksum(),))
        self._database.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self._database.execute(f"PRAGMA user_version={FORMAT}")

    def _renew(self, found: Contents) -> None:
        """Convert a journal of an earlier format to the present one."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, crc INTEGER, data BLOB)"
            )
            self._create_mark()
            self._rewrite(self.state)
            self._database.execute("COMMIT")
        except sqlite3.Error as exc:
            raise ConfigError(
                f"the journal {self.path} has format {found.version}, and cannot be converted to format {FORMAT}:"
                f" {exc}. Check whether the disk is full"
            ) from exc

    def _one(self, query: str) -> Any:
        return self._database.execute(query).fetchone()[0]

    def _store(self, entry: JournalEntry, stored: JournalEntry) -> None:
        """Make `stored` the same entry with large payloads in files; on an error it has those that could be written."""
        stored.progress, stored.gone, stored.owners = entry.progress, entry.gone, entry.owners
        for definition in entry.functions:
            if definition.key in self.state.functions:
                continue
            if payload_size(definition.blob) >= LARGE:
                definition = definition._replace(blob=self._files.write(definition.blob))
            stored.functions.append(definition)
        for spec in entry.accepted:
            if payload_size(spec.body.payload) >= LARGE:
                spec = with_payload(spec, self._files.write(spec.body.payload))
            stored.accepted.append(spec)
        for task_id, kept in entry.outcomes.items():
            if payload_size(kept.outcome.payload) >= LARGE:
                reference = self._files.write(kept.outcome.payload)
                kept = kept._replace(outcome=kept.outcome._replace(payload=reference))
            stored.outcomes[task_id] = kept

    def _checkpoint(self, kind: str, in_use: bool = True) -> None:
        """Move SQLite's log into the database, which makes the rows durable, after the files that they name.

        If that fails, the log stays in the other file, where the next checkpoint finds it.
        """
        self._unchecked_bytes = 0
        try:
            self._files.sync()
            with contextlib.suppress(sqlite3.Error):  # the disk may be full, and the next steps make room
                self._set_mark(Mark(self._tail, in_use))
            _, frames, moved = self._database.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()
        except (sqlite3.Error, OSError):
            return
        if frames == moved:
            self._files.settle()

    def _set_mark(self, mark: Mark) -> None:
        self._database.execute(
            "UPDATE mark SET seq = ?, crc = ?, in_use = ?, own_crc = ?",
            (*mark.tail, int(mark.in_use), mark.checksum()),
        )

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
        tail = self._tail.next(data)
        self._database.execute("INSERT INTO entries VALUES (?, ?, ?)", (*tail, data))
        self._tail = tail
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
                self._live_bytes -= size_of_outcome(before)
                self._drop_file(before)
        gone = entry.gone
        for spec in entry.accepted:
            if spec.id not in gone and spec.id not in entry.outcomes:
                self._live_bytes += size_of(spec)
            else:
                self._drop_file(spec)
        for kept in entry.outcomes.values():
            self._live_bytes += size_of_outcome(kept)
        self._function_bytes += file_bytes(entry.functions)
        state.apply(entry)

    def _drop_file(self, kept: TaskSpec | KeptOutcome) -> None:
        """Write the row for an entry that is no longer needed.

        If this row were lost with the host, a client that still waits would submit the call again, but for a detached
        call there may be no such client.
        """
        payload = kept.body.payload if isinstance(kept, TaskSpec) else kept.outcome.payload
        if not isinstance(payload, Reference):
            return
        if isinstance(kept, TaskSpec) and not kept.body.options.detach:
            self._files.remove(payload)
        else:
            self._files.condemn(payload)

    def _compact(self) -> None:
        """Rewrite the state, and drop the log that led to it. If that fails, the log stays as it is."""
        state = self.state.copy()
        needed = state.needed_functions()
        dropped = [definition.blob for key, definition in state.functions.items() if key not in needed]
        state.functions = {key: definition for key, definition in state.functions.items() if key in needed}
        clients = {client_of(task_id) for task_id in (*state.tasks, *state.outcomes)}
        state.owners = {client: key for client, key in state.owners.items() if client in clients}
        before = self._log_bytes, self._tail
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._rewrite(state)
            self._database.execute("COMMIT")
        except sqlite3.Error:
            self._log_bytes, self._tail = before
            self._compact_from = self._log_bytes + COMPACT_FROM
            self._roll_back()
            return
        self._compact_from = 0
        self._further_bytes = max(0, self._log_bytes - self._live_bytes)
        self.state = state
        self._function_bytes = self._needed_bytes = function_file_bytes(state)
        for blob in dropped:
            if isinstance(blob, Reference):
                self._files.condemn(blob)
        size = self._one("PRAGMA page_count") * self._one("PRAGMA page_size")
        if (
            size > 2 * COMPACT_FROM + 4 * self._live_bytes
        ):  # the files are larger than needed until the next rewriting
            with contextlib.suppress(sqlite3.Error):  # the space is released next time
                # its cost depends on the remaining data, not on the removed data
                self._database.execute("VACUUM")
        self._checkpoint("TRUNCATE")

    def _rewrite(self, state: JournalState) -> None:
        """Write `state` as a chain of its own in place of the previous entries; call it within a transaction."""
        last, self._log_bytes, self._tail = self._tail.seq, 0, Tail(self._tail.seq)
        now = time.time()
        for entry in snapshot(state):
            for part in rows(entry):
                self._insert(dump_entry(part, now))
        self._database.execute("DELETE FROM entries WHERE seq <= ?", (last,))
        self._set_mark(Mark(self._tail, True))


def resolved(path: Path) -> Path:
    """Return the file itself, which the journal's other files are beside.

    Raises ConfigError if some are beside a link.
    """
    own = Path(os.path.realpath(path))
    beside, belongs = Path(f"{path}.payloads"), Path(f"{own}.payloads")
    if beside.exists() and os.path.realpath(beside) != os.path.realpath(belongs):
        raise ConfigError(
            f"the folder {beside} is beside a link to the journal {own}, and an earlier version has stored large"
            f" payloads in it; move its content to {belongs}, and remove it"
        )
    return own


def examine(path: Path) -> dict[str, Any]:
    """Return the report of `jobrunner journal check`; "damage" is empty if there is none. Nothing is changed."""
    path = resolved(path)
    report: dict[str, Any] = {
        "path": str(path),
        "bytes": sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists()),
        "format": FORMAT,
        "tasks": 0,
        "kept_outcomes": 0,
        "functions": 0,
        "torn_bytes": 0,
        "damage": "",
    }
    files = files_of(path)
    report["bytes"] += files.size()
    database = connect(path, read_only=True)
    try:
        report["torn_bytes"] = inspect_files(path).torn_bytes
        found = read_contents(database, path, files)
        check_pages(database, path)
        state, lost = found.state, found.lost
        if lost:  # a coordinator may have removed them meanwhile, together with the rows
            found = read_contents(database, path, files)
            state = found.state
            lost &= found.lost
        report.update(
            format=found.version,
            tasks=len(state.tasks),
            kept_outcomes=len(state.outcomes),
            functions=len(state.functions),
        )
        if lost:
            report["damage"] = f"the payloads of {len(lost)} calls or outcomes are not there, or not whole"
    except (ConfigError, sqlite3.Error) as exc:
        report["damage"] = str(exc)
    finally:
        database.close()
    return report


def default_journal(port: int) -> Path:
    """Return the path of the journal of the coordinator on that port."""
    return user_folder("state") / f"coordinator-{port}.journal"
