"""The coordinator daemon: a config, the core, a ROUTER socket, the driver. It never unpickles anything."""

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
"""Has to be 1 as well for a port that other hosts reach, so that one word in a script does not open a network."""


def run(config: CoordinatorConfig) -> int:
    """Serve until drained; the exit code.

    Raises ConfigError where the address cannot be listened on, or the keys cannot be used.
    """
    set_up_logging(config.log_level)
    service = Service("coordinator")
    keyring = None
    raise_limit()  # each peer takes a descriptor
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
        # Of its key: the same after a restart, for slots that live on.
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
    """The journal that the configuration asks for; by default one per port, in the user's state directory."""
    if config.no_journal:
        return None
    path = config.journal
    if path is None and config.port == 0:
        service.log.info("no journal, since the port is any free one: --journal PATH keeps one")
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
                f"--insecure with --host {config.host} would let anybody who can reach that port run code on every"
                " worker. Without --insecure the cluster has keys, and nothing else changes; to do it all the same,"
                f" set {ALLOW_INSECURE}=1"
            )
        service.log.warning(INSECURE_WARNING.format(host=config.host))
    host = f"[{config.host}]" if ":" in config.host and not config.host.startswith("[") else config.host
    return f"tcp://{host}:{config.port}"


def admitted(keyring: Keyring | None, effect: JoinRequested) -> JoinAnswered:
    """What becomes of somebody's wish to join."""
    source, session = effect.source, effect.session
    try:
        if keyring is None:
            raise AuthenticationError(
                "this coordinator has no keys (--insecure), so there is nothing to join"
            )
        member = keyring.admit(effect.who.key, effect.key, effect.name, effect.role)
    except (AuthenticationError, ConfigError) as exc:
        return JoinAnswered(source, session, "", str(exc))
    return JoinAnswered(source, session, member.name)


def announce(address: str, config: CoordinatorConfig, keyring: Keyring | None) -> None:
    """What to type on the other hosts: the lines are pasted, for everybody there can read arguments."""
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
