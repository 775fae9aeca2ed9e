"""What the slots of a backend's calls are prepared with: the initializer, and the program's present modules."""

from __future__ import annotations

import threading

from jobrunner import serialization, versions
from jobrunner.backends.base import BackendSettings
from jobrunner.initializers import Wrapper
from jobrunner.protocol import messages as m
from jobrunner.serialization import DumpedFunction
from jobrunner.shipment import Shipment


class Setups:
    """`same_host`: the slots are started for this backend, and find the files that the program finds.

    Raises SerializationError for an initializer that cannot be pickled.
    """

    def __init__(self, settings: BackendSettings, *, same_host: bool) -> None:
        self._lock = threading.Lock()
        self._same_host = same_host
        self._epoch = versions.current()
        # Slots of others may have served this program before.
        self._first = self._epoch.number if same_host else 0
        initializer = settings.initializer
        self._shipment = initializer if isinstance(initializer, Shipment) and initializer.parts else None
        self._initializer: DumpedFunction | None = None
        if isinstance(initializer, Wrapper):
            self._initializer = initializer.dump()
        elif initializer is not None:
            self._initializer = serialization.dump_setup(initializer, settings.initargs)
        self._present = self._definition(self._initializer, self._epoch)

    def current(self) -> m.FunctionDef | None:
        """For a call that is made now; the same object as long as nothing changes.

        Raises ConfigError where modules that are to be shipped cannot be collected again.
        """
        if versions.current() is not self._epoch:
            with self._lock:
                epoch = versions.current()
                if self._shipment is not None:
                    from jobrunner import shipping  # here: most programs ship nothing

                    self._shipment = shipping.collect_again(self._shipment)
                    self._initializer = self._shipment.dump()
                self._present = self._definition(self._initializer, epoch)
                self._epoch = epoch
        return self._present

    def _definition(self, initializer: DumpedFunction | None, epoch: versions.Epoch) -> m.FunctionDef | None:
        number = epoch.number - self._first
        if number:
            initializer = versions.reloaded(
                epoch, number, compare=not self._same_host, initializer=initializer
            )
        return None if initializer is None else m.FunctionDef(*initializer)
