"""The worker daemon: it combines the core, a DEALER socket, the slots, and the driver."""

from __future__ import annotations

import os
import random
import time

from jobrunner.config import WorkerConfig
from jobrunner.keys.credentials import WORKER_ROLES, credentials_for
from jobrunner.nested.task_context import TASK_ADDRESS, TASK_WORKER
from jobrunner.program.flags import no_program
from jobrunner.protocol.effects import ConnectionLost
from jobrunner.protocol.wire.ids import WorkerId, new_id
from jobrunner.protocol.worker.core import WorkerCore
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.shared_memory.segment_pool import can_share
from jobrunner.system.host import missing_modules, own_host, python_version, unknown_host, usable_cpus
from jobrunner.transport.driver import Driver
from jobrunner.transport.service import Service, set_up_logging
from jobrunner.transport.sockets import DealerWire, check_address
from jobrunner.version import __version__
from jobrunner.workers.memory_limit import TASK_MEMORY
from jobrunner.workers.shared_functions import SharingWire
from jobrunner.workers.slot_effects import slot_effects
from jobrunner.workers.slot_pool import SlotPool


def run(config: WorkerConfig) -> int:
    """Serve until the worker is drained, and return the exit code; raise JobRunnerError if it can never serve."""
    set_up_logging(config.log_level)
    address = check_address(config.address)
    service = Service("worker")
    program = no_program(config.interpreter)
    credentials = credentials_for(address, WORKER_ROLES, configured=config.identity, insecure=config.insecure)
    settings = settings_for(config, "" if credentials is None else credentials.key)
    core = WorkerCore(settings, random.Random(), time.monotonic())
    wire = DealerWire(address, credentials)
    environment = {TASK_ADDRESS: address, TASK_WORKER: settings.name}
    if config.identity is not None:  # the calls that a task submits are sent under the worker's key
        environment["JOBRUNNER_IDENTITY"] = config.identity
    if config.insecure:
        environment["JOBRUNNER_INSECURE"] = "1"
    if config.slot_memory:
        environment[TASK_MEMORY] = str(config.slot_memory)
    pool = SlotPool(environment=environment, shared_idle=0 if can_share() else None, program=program)

    def connection_lost(effect: ConnectionLost) -> None:
        service.log.warning("lost the coordinator: %s; waiting for it at %s", effect.reason, address)

    perform = service.perform_common | slot_effects(pool) | {ConnectionLost: connection_lost}
    driver = Driver(core, SharingWire(wire) if can_share() else wire, perform)
    driver.add_source(pool.fileno(), pool.poll)
    service.log.info("waiting for the coordinator at %s", address)
    unknown = unknown_host(address)
    if unknown:
        service.log.warning("%s; check the address; the worker continues to try", unknown)
    finished = False
    try:
        code = service.run(driver)
        finished = code == 0
        return code
    finally:
        pool.close()
        driver.close(orderly=finished)


def settings_for(config: WorkerConfig, key: str = "") -> WorkerSettings:
    """Return the core's settings; `key` is the public key under which this worker connects, or empty."""
    host = own_host()
    return WorkerSettings(
        id=WorkerId(new_id(key)),
        name=config.name or host,
        version=__version__,
        python=python_version(),
        host=host,
        pid=os.getpid(),
        slots=config.slots or usable_cpus(),
        resources=config.resources,
        peer_timeout=config.peer_timeout,
        stop_grace=config.stop_grace,
        exit_wait=config.exit_wait,
        drain_timeout=config.drain_timeout,
        unacknowledged_bytes=config.unacknowledged_bytes,
        slot_memory=config.slot_memory,
        max_tasks_per_slot=config.max_tasks_per_slot,
        missing=missing_modules,
    )
