"""The initializers that prepare slots for a backend's calls, in the present state of the program."""

from __future__ import annotations

from jobrunner.backends.base import BackendSettings
from jobrunner.backends.prepared import definitions_of
from jobrunner.calls import serialization
from jobrunner.calls.initializers import Wrapper
from jobrunner.calls.serialization import DumpedFunction
from jobrunner.pickling.pickling_errors import serialization_error
from jobrunner.program import inheritance
from jobrunner.program.slot_setup import SlotInitializer
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.payloads import Store
from jobrunner.shipping import module_versions as versions
from jobrunner.shipping.archive import Shipment
from jobrunner.shipping.module_versions import Epoch, Version
from jobrunner.system import forks


class SlotInitializers:
    """Provides the present initializer.

    `same_host` tells that this backend starts the slots, so that they find the program's files. Raises
    SerializationError for an initializer that cannot be pickled.
    """

    def __init__(self, settings: BackendSettings, store: Store, *, same_host: bool) -> None:
        self._store = store
        self._lock = forks.lock()
        self._same_host = same_host
        self._finder = versions.watch()
        self._epoch = self._finder.epoch()
        # Slots of other backends may have served this program before, in an earlier epoch.
        self._first = self._epoch.number if same_host else 0
        initializer = settings.initializer
        self._shipment = initializer if isinstance(initializer, Shipment) and initializer.parts else None
        self._initializer = _dumped(settings, store, same_host)
        # A shared object that is found by its name exists only while a reference to it is kept here.
        self._initargs = settings.initargs
        self._present = self._definition(self._initializer, self._epoch)

    def current(self) -> tuple[m.FunctionDef, ...]:
        """Return the definitions for a call that is made now: the parts, then the initializer.

        They are the same object as long as nothing changes. Raises ConfigError if modules to ship cannot be collected
        again.
        """
        # This runs for each call, so the check for changes makes no further function call.
        finder = self._finder
        if finder.asked or finder.present is not self._epoch:
            self._renew()
        return self._present

    def close(self) -> None:
        """Release everything, because no slot will be prepared any more."""
        self._initargs = ()

    def _renew(self) -> None:
        epoch = self._finder.epoch()
        if epoch is not self._epoch:
            with self._lock:
                if self._shipment is not None:
                    # imported here because most programs ship nothing
                    from jobrunner.shipping import collect as shipping

                    self._shipment = shipping.collect_again(self._shipment)
                    self._initializer = self._shipment.dump()
                self._present = self._definition(self._initializer, epoch)
                self._epoch = epoch

    def _definition(self, initializer: DumpedFunction | None, epoch: Epoch) -> tuple[m.FunctionDef, ...]:
        number = epoch.number - self._first
        if number:
            compared: list[Version] = []
            if not self._same_host:
                brought = () if initializer is None else initializer.ships
                compared = [
                    v for v in epoch.versions if v.digest and v.module.partition(".")[0] not in brought
                ]
            around = SlotInitializer(initializer, number=number, versions=tuple(compared))
            initializer = around.dump(self._store)
        return () if initializer is None else definitions_of(initializer)


def _dumped(settings: BackendSettings, store: Store, same_host: bool) -> DumpedFunction | None:
    initializer = settings.initializer
    if isinstance(initializer, Wrapper):
        return initializer.dump()
    if initializer is None:
        return None
    initargs = settings.initargs
    if same_host:
        try:
            initargs = inheritance.inheritable(initargs)
        except Exception as exc:
            name = serialization.function_name(initializer)
            text = f"cannot pickle the arguments of the initializer {name}: {serialization.describe(exc)}"
            raise serialization_error(text, exc) from exc
    return serialization.dump_initializer(initializer, initargs, store)
