"""The index that finds the pending bundle of a call: the id of a call contains the open part of its bundle's id."""

from __future__ import annotations

from jobrunner.protocol.bundles import index_of_call, place_of_call
from jobrunner.protocol.wire.ids import TaskId, open_part


class BundleIndex:
    """The pending bundles of a client, which can be found by the ids of their calls."""

    def __init__(self) -> None:
        self._ids: dict[str, TaskId] = {}
        """The ids of the pending bundles, by their open parts."""

    def add(self, bundle: TaskId) -> None:
        self._ids[open_part(bundle)] = bundle

    def discard(self, bundle: TaskId) -> None:
        self._ids.pop(open_part(bundle), None)

    def bundle_with(self, call: TaskId) -> tuple[TaskId, int] | None:
        """Return the pending bundle that contains this call, and the call's index in it."""
        place = place_of_call(call)
        bundle = None if place is None else self._ids.get(place[0])
        index = None if bundle is None else index_of_call(bundle, call)
        return None if bundle is None or index is None else (bundle, index)
