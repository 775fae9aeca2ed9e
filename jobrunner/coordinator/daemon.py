"""The coordinator daemon, which combines a config, the core, a ROUTER socket and the driver.

It never unpickles anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobrunner.config import CoordinatorConfig
from jobrunner.coordinator.journal.store import MAX_PAYLOAD_BYTES, Journal, default_journal
from jobrunner.errors import AuthenticationError, ConfigError, JournalError
from jobrunner.keys.invitation import Invitation
from jobrunner.keys.keyring import Keyring, default_folder, open_keyring
from jobrunner.program.flags import hash_seed
from jobrunner.protocol.coordinator.accounts import Quota
from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.effects import (
    Disconnect,
    JoinAnswered,
    JoinRequested,
    JournalFailed,
    JournalWritten,
    WriteJournal,
)
from jobrunner.protocol.wire.checks import MAX_HEADER_BYTES
from jobrunner.protocol.wire.ids import random_token
from jobrunner.protocol.wire.principals import CLIENT, WORKER
from jobrunner.system.descriptors import raise_limit
from jobrunner.system.host import own_host
from jobrunner.transport.driver import Driver
from jobrunner.transport.service import Service, set_up_logging
from jobrunner.transport.sockets import RouterWire, is_loopback
from jobrunner.version import __version__

INSECURE_WARNING = (
    "listening on {host} without keys: whoever can reach this port can run any code on every worker and in every "
    "client, and read what they send. Use this only where everybody may do that"
)

ALLOW_INSECURE = "JOBRUNNER_ALLOW_INSECURE_NETWORK"
"""Must also be 1 for a non-loopback address: a second, explicit opt-in."""


def run(config: CoordinatorConfig) -> int:
    """Serve until the coordinator is drained, and return the exit code.

    Raises ConfigError if it cannot listen on the address, or if the keys cannot be used.
    """
    set_up_logging(config.log_level)
    service = Service("coordinator")
    keyring = None
    raise_limit()  # each peer needs a descriptor
    address = tcp_address(config, service)
    if not config.insecure:
        keyring = open_keyring(Path(config.keys) if config.keys else default_folder())
    wire = RouterWire(address, keyring, largest_frame=max(config.max_payload, MAX_HEADER_BYTES))
    settings = CoordinatorSettings(
        id=random_token(),
        version=__version__,
        address=wire.address,
        host=own_host(),
        pid=os.getpid(),
        crash_limit=config.crash_limit,
        client_grace=config.client_grace,
        window_tasks=config.client_window_tasks,
        window_bytes=config.client_window_bytes,
        max_payload=config.max_payload,
        quota=Quota(config.quota_tasks, config.quota_bytes),
        drain_timeout=config.drain_timeout,
        result_cache=config.result_cache,
        keep_detached=config.keep_detached,
        # It is derived from the key, so that it stays the same after a restart for slots that live on.
        hash_seed=hash_seed(b"" if keyring is None else keyring.secret.encode()),
    )
    journal = None
    try:
        journal = open_journal(config, wire.address, service)
        if journal is not None and settings.max_payload > MAX_PAYLOAD_BYTES:
            settings = replace(settings, max_payload=MAX_PAYLOAD_BYTES)
        state = None if journal is None else journal.restored()
        core = CoordinatorCore(settings, time.monotonic(), state)
        perform: dict[type, Callable[[Any], None]] = {
            **service.perform_common,
            WriteJournal: lambda effect: write(effect),
            JoinRequested: lambda effect: join(effect),
            Disconnect: lambda effect: wire.disconnect(effect.source),
        }
        driver = Driver(core, wire, perform)
    except BaseException:
        wire.close()
        raise

    def join(effect: JoinRequested) -> None:
        driver.post(admitted(keyring, effect))

    def write(effect: WriteJournal) -> None:
        assert journal is not None
        try:
            journal.write(effect.entry)
        except JournalError as exc:
            driver.post(JournalFailed(effect.number, str(exc)))
        else:
            driver.post(JournalWritten(effect.number))

    announce(wire.address, config, keyring)
    finished = False
    try:
        code = service.run(driver)
        finished = code == 0
        return code
    finally:
        driver.close(orderly=finished)
        if journal is not None:
            journal.close()


def open_journal(config: CoordinatorConfig, address: str, service: Service) -> Journal | None:
    """Return the journal that the configuration names; the default is one per port, in the user's state directory."""
    if config.no_journal:
        return None
    path = config.journal
    if path is None and config.port == 0:
        service.log.info(
            "there is no journal, because the port was chosen freely; use --journal PATH for one"
        )
        return None
    journal = Journal(path or default_journal(config.port))
    state = journal.state
    service.log.info(
        "journal %s: %s; %d tasks to do, %d outcomes kept",
        journal.path,
        journal.recovery,
        len(state.tasks),
        len(state.outcomes),
    )
    return journal


def tcp_address(config: CoordinatorConfig, service: Service) -> str:
    if config.insecure:
        if not is_loopback(config.host) and os.environ.get(ALLOW_INSECURE) != "1":
            raise ConfigError(
                f"--insecure with --host {config.host} would let everybody who can reach the port run code on every"
                " worker. Start it without --insecure, so that the cluster has keys; to accept the risk, set"
                f" {ALLOW_INSECURE}=1"
            )
        service.log.warning(INSECURE_WARNING.format(host=config.host))
    host = f"[{config.host}]" if ":" in config.host and not config.host.startswith("[") else config.host
    return f"tcp://{host}:{config.port}"


def admitted(keyring: Keyring | None, effect: JoinRequested) -> JoinAnswered:
    """Return the answer to a request to join."""
    try:
        if keyring is None:
            raise AuthenticationError(
                "this coordinator has no keys (--insecure), so there is nothing to join"
            )
        member = keyring.admit(effect.who.key, effect.key, effect.name, effect.role)
    except (AuthenticationError, ConfigError) as exc:
        return JoinAnswered(effect, "", str(exc))
    return JoinAnswered(effect, member.name)


def announce(address: str, config: CoordinatorConfig, keyring: Keyring | None) -> None:
    """Print the commands for the other hosts.

    The lines are pasted there, because everybody there can read arguments.
    """
    if config.host in ("0.0.0.0", "::"):
        address = f"tcp://{own_host()}:{address.rpartition(':')[2]}"
    print(f"coordinator at {address}", flush=True)
    if keyring is None:
        print(f"start a worker with:  jobrunner worker start {address}", flush=True)
        return
    keyring.note_address(address)
    if not config.invitation_uses:
        print(
            f"start a worker with:  jobrunner worker start {address}  (on hosts that have joined)", flush=True
        )
        return
    for role, told in (
        (WORKER, "start a worker with:  jobrunner worker start -"),
        (CLIENT, "where programs run:   jobrunner join -"),
    ):
        secret = keyring.invite(role, config.invitation_time, config.invitation_uses)
        line = Invitation(address, keyring.server.public, secret).to_line()
        print(f"{told:<47} and paste  {line}", flush=True)
    uses, minutes = config.invitation_uses, config.invitation_time / 60
    print(
        f"(each is good for {uses} uses within {minutes:g} minutes; `jobrunner keys invite` prints another one)",
        flush=True,
    )
