"""The names of things in a cluster.

Ids are short strings everywhere (in memory, on the wire, in logs and on the command line), so that what an
operator reads in a log is what a program holds. A task's id starts with its client's id and is therefore unique in
the cluster without asking anyone. It ends in random digits: whoever holds the whole id may watch, need, cancel and
fetch that one task, so only those who may do that anyway are ever shown it; the others see it without them.

A call that travels in a bundle has such digits, too. They follow from those of its bundle, so that nobody has to keep
or send them, and those of the bundle and of its other calls do not follow from them.

The ids of clients and workers are no secrets: everybody sees them in lists. Where connections have keys, such an id
belongs to one key: it ends in a mark, a hash of its random part and of the key. A coordinator that has never heard of
the id, because it was started again, can so tell its owner from somebody who only read it. An id does not survive its
process, and neither does a process change its key, so a new key simply makes new ids.
"""

from __future__ import annotations

import os
from collections.abc import Container
from hashlib import blake2b
from typing import NewType

ClientId = NewType("ClientId", str)
WorkerId = NewType("WorkerId", str)
TaskId = NewType("TaskId", str)
SlotId = NewType("SlotId", int)
"""The number of a slot of one worker. A new process gets a new number, so that a late message of the old process is
recognised."""

ID_BYTES = 6
MARK_BYTES = 8
"""Size of the mark in bytes; somebody who wants another's id has to find a key with the same mark, which takes 2^64
key pairs per id."""
RIGHT_BYTES = 8
RIGHTS_DRAWN = 256


def random_token() -> str:
    """Return 12 hexadecimal digits from the operating system, an id that no two processes share."""
    return os.urandom(ID_BYTES).hex()


def new_id(key: str) -> str:
    """Return a new id for a client or worker that connects with this public key, which is empty if it has none."""
    return bound(random_token(), key)


def bound(name: str, key: str) -> str:
    """Return `name` as an id that belongs to this public key, or unchanged if there is no key."""
    if not key:
        return name
    text = f"{key} {name}".encode(
        errors="surrogatepass"
    )  # it may be a stranger's, who chose what no UTF-8 can say
    return name + blake2b(text, digest_size=MARK_BYTES).hexdigest()


def is_bound(token: str, key: str) -> bool:
    """Return whether an id belongs to this public key; without keys every id belongs to everybody."""
    return token == bound(token[: -2 * MARK_BYTES], key) if key else True


def of_observer(client: ClientId) -> ClientId:
    """Return the coordinator's name for an observer, which no client has, so that no task's id leads to it."""
    return ClientId(f"observer {client}")


def task_id(client: ClientId, number: int, right: str | None = None) -> TaskId:
    """Return the id of the client's task number `number`, like "9f3ac2e1b7d0-42-c5d20e9a7b13f046"."""
    return TaskId(f"{client}-{number}-{_right() if right is None else right}")


_rights: list[str] = []
"""Random digits that were drawn from the operating system in advance. A system call lets another thread have the
interpreter; if one thread submits while another handles results, that would cost more than all other steps of creating
an id."""

os.register_at_fork(after_in_child=_rights.clear)


def _right() -> str:
    while True:
        try:
            return _rights.pop()
        except IndexError:
            digits = os.urandom(RIGHT_BYTES * RIGHTS_DRAWN).hex()
            _rights.extend(digits[i : i + 2 * RIGHT_BYTES] for i in range(0, len(digits), 2 * RIGHT_BYTES))


def short_id(task: TaskId) -> str:
    """Return the public part of an id, like "9f3ac2e1b7d0-42"."""
    return task.rpartition("-")[0]


def open_part(task: TaskId) -> str:
    """Return the public part of an id, or the whole id if it has no random digits."""
    head = task.rpartition("-")[0]
    return head if "-" in head else task


def call_id(bundle: TaskId, index: int) -> TaskId:
    """Return the id of one call of a bundle, like "9f3ac2e1b7d0-42/3-8c1e44d0a97b5f26"."""
    text = f"{bundle}/{index}".encode(errors="surrogatepass")  # as in `bound`
    digits = blake2b(text, digest_size=RIGHT_BYTES).hexdigest()
    return TaskId(f"{open_part(bundle)}/{index}-{digits}")


def client_of(task: TaskId) -> ClientId:
    """Return the client that submitted `task`."""
    return ClientId(task.rsplit("-", 2)[0])


def unused_name(name: str, taken: Container[str]) -> str:
    """Return `name`, with a number if it is among those `taken`: "node", "node-2"."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
