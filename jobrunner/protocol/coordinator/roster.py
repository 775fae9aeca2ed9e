"""The clients and workers in the cluster, the size of the cluster, and the peers to look at in this turn."""

from __future__ import annotations

from collections import Counter

from jobrunner.protocol.coordinator.peers import ClientSession, Peer, WorkerSession
from jobrunner.protocol.wire.ids import ClientId, TaskId, WorkerId
from jobrunner.protocol.wire.messages import CancelRequest


class Roster:
    """All sessions by the ids of their peers. A peer that is lost for good is removed."""

    def __init__(self) -> None:
        self.clients: dict[ClientId, ClientSession] = {}
        self.workers: dict[WorkerId, WorkerSession] = {}
        self.worker_names: set[str] = set()
        """The names of all workers; maintained incrementally, because thousands of workers may join at once."""
        self.pythons: Counter[str] = Counter()
        """Number of workers with each Python version, because every call of a function by value needs it."""
        self.slots = 0
        """The number of slots of all workers; maintained incrementally, too."""
        self.workers_with_room: dict[WorkerSession, None] = {}
        """The workers that may have room for another task."""
        self.pending_flush: dict[Peer, None] = {}
        """The peers with something in their outbox."""
        self._resized = False
        self._clients_of: Counter[str] = Counter()
        self._workers_of: Counter[str] = Counter()
        """Number of workers that connect with each key, because a greeting must not examine all of them."""

    # --- clients ---

    def add_client(self, client: ClientSession) -> None:
        self.clients[client.id] = client
        self._clients_of[client.came_with] += 1

    def remove_client(self, client: ClientSession) -> bool:
        """Remove a client; return whether there was one with this id."""
        gone = self.clients.pop(client.id, None)
        if gone is None:
            return False
        subtract(self._clients_of, gone.came_with)
        return True

    def clients_of(self, key: str) -> int:
        """Return the number of present clients that connect with that key, for whomever they act."""
        return self._clients_of[key]

    def has_client(self, client: ClientSession) -> bool:
        """Return whether this very session is present, and not another one of the same client."""
        return self.clients.get(client.id) is client

    # --- workers ---

    def add_worker(self, worker: WorkerSession) -> None:
        self.workers[worker.id] = worker
        self._workers_of[worker.came_with] += 1
        self.pythons[worker.hello.python] += 1
        self.worker_names.add(worker.name)
        self.slots += worker.slots
        self._resized = True

    def remove_worker(self, worker: WorkerSession) -> None:
        if self.workers.pop(worker.id, None) is not None:
            subtract(self._workers_of, worker.came_with)
            subtract(self.pythons, worker.hello.python)
            self.resize(worker, 0)
            self.worker_names.discard(worker.name)
        worker.link.drop_early()
        self.workers_with_room.pop(worker, None)
        self.pending_flush.pop(worker, None)
        self._resized = True

    def workers_of(self, key: str) -> int:
        """Return the number of present workers that connect with that key."""
        return self._workers_of[key]

    def has_worker(self, worker: WorkerSession) -> bool:
        """Return whether this very session is present, and not another one of the same worker."""
        return self.workers.get(worker.id) is worker

    def worker_named(self, name: str) -> WorkerSession | None:
        """Return the worker with that id or, if there is none, with that name."""
        # the id comes first, because anybody may use somebody's id as a name
        known = self.workers.get(WorkerId(name))
        if known is not None:
            return known
        return next((worker for worker in self.workers.values() if name == worker.name), None)

    def resize(self, worker: WorkerSession, slots: int) -> None:
        self.slots += slots - worker.slots
        worker.slots = slots
        self._resized = True

    def take_resized(self) -> bool:
        """Return whether the number of slots in the cluster may have changed since the last call."""
        resized, self._resized = self._resized, False
        return resized

    # --- this turn ---

    def may_have_room(self, worker: WorkerSession) -> None:
        self.workers_with_room[worker] = None

    def has_no_room(self, worker: WorkerSession) -> None:
        self.workers_with_room.pop(worker, None)

    def flush_later(self, peer: Peer) -> None:
        """Note that something was put into the peer's outbox."""
        self.pending_flush[peer] = None

    def fence(self, worker: WorkerSession, task_id: TaskId) -> None:
        """Make the worker stop an attempt for which nobody waits."""
        self.cancel_at(worker, task_id, running=True)

    def cancel_at(self, worker: WorkerSession, task_id: TaskId, *, running: bool) -> None:
        """Make the worker cancel a task; `running` includes a running task."""
        worker.cancels.append(CancelRequest(task_id, running))
        self.flush_later(worker)

    def take_pending(self) -> Peer | None:
        """Return a present peer that has something in its outbox, or None; each is returned once."""
        while self.pending_flush:
            peer = self.pending_flush.popitem()[0]
            if isinstance(peer, WorkerSession):
                if self.has_worker(peer):
                    return peer
            elif isinstance(peer, ClientSession) and self.has_client(peer):
                return peer
        return None

    def check_invariants(self) -> None:
        assert self.slots == sum(worker.slots for worker in self.workers.values())
        assert self.worker_names == {worker.name for worker in self.workers.values()}
        for worker in self.workers_with_room:
            assert self.has_worker(worker), f"{worker.name} is gone, and may be given tasks"


def subtract(counts: Counter[str], key: str, count: int = 1) -> None:
    """Subtract `count` from the count of a key, and remove the key if nothing is left."""
    counts[key] -= count
    if not counts[key]:
        del counts[key]
