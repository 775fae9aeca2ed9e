"""The admission of clients' calls and functions: limits of size, quotas, and functions that were never sent."""

from __future__ import annotations

from jobrunner.protocol.coordinator.function_table import FunctionTable, key_of
from jobrunner.protocol.coordinator.outboxes import OUTCOME_WINDOW
from jobrunner.protocol.coordinator.outgoing import Outgoing
from jobrunner.protocol.coordinator.peers import REF_BYTES, ClientSession
from jobrunner.protocol.coordinator.sessions import Sessions
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.coordinator.submission import Submission
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.checks import MAX_BUFFERS
from jobrunner.protocol.wire.ids import client_of
from jobrunner.protocol.wire.payloads import buffer_count, kept_size, payload_size

MAX_UNREAD = 1000
"""Maximum number of answers that a client may leave unacknowledged; beyond that it gets no more."""

UNTAKEN_BYTES = 16 * OUTCOME_WINDOW
"""Maximum size in bytes of messages that a client may leave unacknowledged and still be answered.

It exceeds the window, because running calls may end when the window is full, and their results add to it.
"""

UNTAKEN_REPLIES = 16 * 1024 * 1024
"""The same limit for an observer, who gets only replies and numbers of slots."""


class Admission:
    """The admission of clients' calls, which accepts or refuses them."""

    def __init__(
        self,
        *,
        settings: CoordinatorSettings,
        functions: FunctionTable,
        submission: Submission,
        out: Outgoing,
        sessions: Sessions,
    ) -> None:
        self._settings = settings
        self._functions = functions
        self._submission = submission
        self._out = out
        self._sessions = sessions

    def submit(self, client: ClientSession, message: m.Submit, now: float) -> None:
        if not client.submitted:
            self._out.log_about(
                client,
                "info",
                f"client {client.id} on {client.hello.host} (pid {client.hello.pid}) submits",
                now,
            )
        if self.takes_no_answers(client, now):
            return
        refused: dict[m.FunctionKey, str] = {}
        for definition in message.functions:
            if definition.parts and not self._has_parts(client, definition, refused):
                wrong = "has parts that were never sent, or that have parts themselves"
                self._sessions.unexpected(
                    client, f"the function {definition.name} {wrong}; its session ends", now
                )
                return
            excess = self._define(client, definition, refused)
            if excess:
                refused[definition.key] = excess
        for spec in message.tasks:
            if client_of(spec.id) != client.id:
                self._sessions.unexpected(client, f"task {spec.id} is not its own; its session ends", now)
                return
            if payload_size(spec.body.payload) > self._settings.max_payload:
                self._sessions.unexpected(
                    client, f"task {spec.id} is larger than max_payload; its session ends", now
                )
                return
            if refused and (spec.body.function in refused or spec.body.initializer in refused):
                self._submission.refuse_new(
                    client, spec.id, refused.get(spec.body.function) or refused[spec.body.initializer or b""]
                )
                continue
            if client.account.owner:
                spec = of_owner(client, spec)
            if not self._submission.submit(client, spec, now):
                self._sessions.unexpected(
                    client, f"task {spec.id} names a function that was never sent; its session ends", now
                )
                return
        for key in message.drop_functions:
            here = client.refer_no_more(key)
            if here is not None:
                self._functions.drop_ref(here)

    def _has_parts(
        self, client: ClientSession, definition: m.FunctionDef, refused: dict[m.FunctionKey, str]
    ) -> bool:
        """Return whether this client has sent all parts of a function, and these have no parts themselves."""
        for part in definition.parts:
            here = client.function_refs.get(part)
            entry = None if here is None else self._functions.get(here)
            if part not in refused and (entry is None or entry.parts):
                return False
        return True

    def _define(
        self, client: ClientSession, definition: m.FunctionDef, refused: dict[m.FunctionKey, str]
    ) -> str:
        """Keep a function for a client's calls. Return why that is too much, or an empty string."""
        if definition.key in client.function_refs:
            return ""
        for part in definition.parts:
            if part in refused:
                return refused[part]
        functions = self._functions
        key = key_of(client.account.owner, definition.key)
        if functions.get(key) is not None:
            excess = client.account.bytes_excess(REF_BYTES, self._settings.quota)
            if excess:
                return excess
        else:
            size = payload_size(definition.blob)
            if size > self._settings.max_payload:
                return f"its function has {size:,} bytes, and may have {self._settings.max_payload:,} (max_payload)"
            excess = client.account.bytes_excess(kept_size(definition.blob), self._settings.quota)
            if excess:
                return excess
            pieces = buffer_count(definition.blob)
            for part in definition.parts:
                entry = functions.get(client.function_refs[part])
                pieces += 0 if entry is None else buffer_count(entry.definition.blob)
            if pieces > MAX_BUFFERS:
                return f"its function and its parts are of {pieces:,} buffers, and may be of {MAX_BUFFERS:,}"
        parts = tuple([client.function_refs[part] for part in definition.parts])
        functions.define(definition._replace(key=key, parts=parts), client.account).refs += 1
        client.refer(definition.key, key)
        return ""

    def takes_no_answers(self, client: ClientSession, now: float) -> bool:
        """Return whether the client asks for more while it leaves too many messages unacknowledged; it is reset then.

        No client of this package does so, because acknowledgements come from its I/O thread. Its answers would fill
        this host's memory.
        """
        left = max(len(client.done), len(client.outcomes), len(client.awaiting_resubmission))
        if (
            left <= self._settings.untaken_outcomes
            and client.unacked_replies <= MAX_UNREAD
            and client.link.unacked_bytes <= (UNTAKEN_BYTES if client.who.submits else UNTAKEN_REPLIES)
        ):
            return False
        told = f"{left} outcomes, {client.unacked_replies} answers"
        self._sessions.unexpected(
            client, f"it does not acknowledge its messages ({told}); its session ends", now
        )
        self._sessions.give_up_untaken(client, now)
        return True


UNKNOWN_FUNCTION = b""
"""A key that no function has."""


def of_owner(client: ClientSession, spec: m.TaskSpec) -> m.TaskSpec:
    """Return the call with the keys that its functions have at the coordinator."""
    function = client.function_refs.get(spec.body.function, UNKNOWN_FUNCTION)
    initializer = (
        None
        if spec.body.initializer is None
        else client.function_refs.get(spec.body.initializer, UNKNOWN_FUNCTION)
    )
    return spec._replace(body=spec.body._replace(function=function, initializer=initializer))
