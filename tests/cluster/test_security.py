"""Who gets in, as what, and what others see of it; with real processes on loopback."""

from __future__ import annotations

import concurrent.futures
import socket
import stat
import threading
from pathlib import Path

import psutil
import pytest
from support import calls
from support.daemons import connected, free_port

from jobrunner import Executor
from jobrunner.admin import ClusterAdmin
from jobrunner.errors import (
    AuthenticationError,
    ConfigError,
    CoordinatorLostError,
    DependencyError,
    JobRunnerError,
    QuotaError,
)
from jobrunner.keys import identity, joining, keyring
from jobrunner.keys.credentials import CLIENT_ROLES, credentials_for
from jobrunner.protocol.effects import Received, Send
from jobrunner.protocol.session import COORDINATOR
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import client_of, is_bound, short_id
from jobrunner.testing.waiting import BOUND, until
from jobrunner.transport.curve import new_pair
from jobrunner.transport.sockets import DealerWire
from jobrunner.version import __version__

NOW = 0.3
"""Seconds within which somebody who is refused is to hear of it; else the reason for a lost coordinator is shown."""


@pytest.fixture
def ring(address):
    """The keys of the coordinator."""
    return keyring.open_keyring(keyring.default_folder())


@pytest.fixture
def become(monkeypatch):
    """Connect as somebody else from now on."""
    return lambda someone: monkeypatch.setenv("JOBRUNNER_IDENTITY", someone.to_text())


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Another user's config directory, or another host's."""

    def go():
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))

    return go


def printed(coordinator, command):
    """The line that a coordinator says to give to that command."""
    return coordinator.wait_for(rf"jobrunner {command} - +and paste +(jobrunner://\S+)")[1]


@pytest.fixture
def line(coordinator):
    return printed(coordinator, "worker start")


def test_the_operating_system_says_that_only_loopback_is_listened_on(cluster, coordinator):
    worker = cluster.worker(coordinator.address, "w")
    for daemon in (coordinator, worker):
        listening = [c for c in psutil.Process(daemon.pid).net_connections() if c.status == "LISTEN"]
        assert {c.laddr.ip for c in listening} <= {"127.0.0.1"}
        assert bool(listening) == (daemon is coordinator)


def test_who_has_no_key_gets_no_answer_but_the_reason(address, monkeypatch):
    monkeypatch.setenv("JOBRUNNER_INSECURE", "1")
    with pytest.raises(CoordinatorLostError, match="it wants a key"):
        ClusterAdmin(address, NOW)


def test_a_wrong_key_is_refused_with_a_word(address, ring, become):
    pair = new_pair()
    become(identity.Identity("mallory", "operator", ring.server.public, pair.public, pair.secret))
    with pytest.raises(AuthenticationError, match="does not know this key"):
        ClusterAdmin(address, BOUND)


def test_another_coordinator_at_the_address_is_not_trusted(address, become):
    pair, other = new_pair(), new_pair()
    become(identity.Identity("alice", "client", other.public, pair.public, pair.secret))
    with pytest.raises(
        CoordinatorLostError,
        match=r"not with the key of a cluster that this user has started or joined.*`jobrunner join -`",
    ):
        ClusterAdmin(address, NOW)


def test_a_user_without_keys_is_told_how_to_get_one(elsewhere):
    elsewhere()
    with pytest.raises(AuthenticationError, match="jobrunner join -"):
        Executor("tcp://192.0.2.1:7077")


def test_a_host_joins_as_worker_and_as_client_with_the_printed_lines(
    cluster, coordinator, line, address, elsewhere
):
    elsewhere()
    worker = cluster.run("-m", "jobrunner", "worker", "start", line, "--name", "far", "--slots", "1")
    worker.wait_for("joined coordinator")
    joining.join(printed(coordinator, "join"), "client", "alice")
    with connected(address) as executor:
        assert executor.submit(calls.square, 12).result(BOUND) == 144
    again = cluster.run("-m", "jobrunner", "worker", "start", address, "--name", "again", "--slots", "1")
    again.wait_for("joined coordinator")
    files = [path for path in identity.folder().iterdir() if path.is_file()]
    assert len(files) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def shown_of(pid):
    """What others on the host see of a process and its children, and what its user sees of their environment."""
    process = psutil.Process(pid)
    shown = b""
    for each in (process, *process.children(recursive=True)):
        for file in ("cmdline", "environ"):
            shown += Path(f"/proc/{each.pid}/{file}").read_bytes()
    return shown


@pytest.mark.parametrize("way", ["argument", "environment", "file", "file beside the environment"])
def test_the_secret_of_a_line_is_in_no_process_list_and_no_environment(
    cluster, line, elsewhere, tmp_path, way
):
    elsewhere()
    file = tmp_path / "line"
    file.touch(0o600)
    file.write_text(f"{line}\n")
    arguments = {"argument": [line], "environment": []}.get(way, [f"@{file}"])
    environment = {"JOBRUNNER_INVITATION": line} if "environment" in way else {}
    worker = cluster.run(
        "-m", "jobrunner", "worker", "start", *arguments, "--name", "far", "--slots", "1", **environment
    )
    worker.wait_for("joined coordinator")
    until(worker.slots)
    shown, secret = shown_of(worker.pid), line.rpartition(".")[2]
    assert b"worker" in shown
    assert secret.encode() not in shown
    assert secret not in worker.output


def test_a_line_for_workers_is_good_for_workers_only(line, elsewhere):
    elsewhere()
    for role in ("client", "observer"):
        with pytest.raises(AuthenticationError, match=f"is for worker, not for '{role}'.*--as {role}"):
            joining.join(line, role, "eve")
    assert joining.join(line, "worker", "node").role == "worker"


def test_an_invitation_ends_with_its_uses(ring, address, elsewhere):
    secret = ring.invite("observer", 60.0, 1)
    line = f"jobrunner://{address.removeprefix('tcp://')}/{ring.server.public}.{secret}"
    elsewhere()
    with pytest.raises(AuthenticationError, match="is for observer"):
        joining.join(line, "client", "alice")
    first = joining.join(line, "observer", "alice")
    assert joining.join(line, "observer", "alice") == first, "who has a key already needs no invitation"
    identity.path_of(first).unlink()
    with pytest.raises(AuthenticationError, match="does not know this key"):
        joining.join(line, "observer", "eve")


def test_an_invitation_ends_with_its_time(ring, address, elsewhere):
    secret = ring.invite("client", 0.05, 9)
    line = f"jobrunner://{address.removeprefix('tcp://')}/{ring.server.public}.{secret}"
    until(lambda: not any(i.uses == 9 for i in ring.invitations()), "the end of its time")
    elsewhere()
    with pytest.raises(AuthenticationError, match="does not know this key"):
        joining.join(line, "client", "eve")


def test_an_invitation_is_no_key(ring, address, become):
    secret = ring.invite("client", 60.0, 9)
    pair = keyring.pair_of(secret)
    become(identity.Identity("eve", "operator", ring.server.public, pair.public, pair.secret))
    with pytest.raises(AuthenticationError, match="an invitation is no key"):
        ClusterAdmin(address, BOUND)


def test_an_observer_sees_and_does_nothing(cluster, address, ring, become):
    cluster.worker(address, "w")
    with connected(address) as owner, ClusterAdmin(address, BOUND) as operator:
        future = owner.submit(calls.nap, 30.0)
        until(future.running)
        become(ring.issue("olga", "observer"))
        with ClusterAdmin(address, BOUND) as observer:
            assert [worker["name"] for worker in observer.workers()] == ["w"]
            (task,) = observer.tasks()
            assert task["state"] == "running"
            assert task["id"] == short_id(future.id), "the right to it is not shown"
            for forbidden in (lambda: observer.cancel(future.id), lambda: observer.drain("w")):
                with pytest.raises(JobRunnerError, match="is an observer's"):
                    forbidden()
        with connected(address) as executor, pytest.raises(AuthenticationError, match="is an observer's"):
            executor.submit(calls.square, 1).result(BOUND)
        with connected(address) as executor, pytest.raises(AuthenticationError, match="is an observer's"):
            executor.future(future.id).result(BOUND)
        assert operator.cancel(future.id.rpartition("-")[0])["id"] == future.id, "an operator may"


def test_a_client_sees_its_own_work_and_what_it_was_handed(cluster, address, ring, become):
    cluster.worker(address, "w", slots=2)
    become(ring.issue("alice", "client"))
    with connected(address) as alice:
        secret = alice.submit(calls.square, 5)
        assert secret.result(BOUND) == 25
        napping = alice.submit(calls.nap, 30.0)
        until(napping.running)
        become(ring.issue("bob", "client"))
        with connected(address) as bob, ClusterAdmin(address, BOUND) as eyes:
            assert bob.submit(calls.square, 2).result(BOUND) == 4
            assert [task["name"] for task in eyes.tasks()] == ["square"]
            assert len(eyes.status()["clients"]) == 1
            for forbidden in (eyes.task, eyes.cancel):
                with pytest.raises(JobRunnerError, match="knows no task"):
                    forbidden(napping.id.rpartition("-")[0])
            with pytest.raises(JobRunnerError, match="only an operator"):
                eyes.drain("w")
            guess = f"{secret.id.rpartition('-')[0]}-{'0' * 16}"
            assert not bob.future(guess).done()
            assert bob.future(secret.id).result(BOUND) == 25, "the whole id is a right to that one call"
            assert bob.future(napping.id).cancel(running=True)


def test_a_call_that_makes_calls_does_so_under_its_workers_key(cluster, address, ring, become):
    key = ring.issue("node", "worker").to_text()
    arguments = ["--slots", "2", "--name", "node"]
    worker = cluster.run("-m", "jobrunner", "worker", "start", address, *arguments, JOBRUNNER_IDENTITY=key)
    worker.wait_for("joined coordinator")
    become(ring.issue("alice", "client"))
    with connected(address) as alice:
        assert alice.submit(calls.square_elsewhere, 6).result(BOUND) == 36


def test_without_keys_calls_make_calls_too(cluster, monkeypatch):
    coordinator = cluster.coordinator("--insecure")
    worker = cluster.run(
        "-m", "jobrunner", "worker", "start", coordinator.address, "--insecure", "--slots", "2"
    )
    worker.wait_for("joined coordinator")
    coordinator.wait_for("without keys: whoever can reach this port")
    monkeypatch.setenv("JOBRUNNER_INSECURE", "1")
    with connected(coordinator.address) as executor:
        assert executor.submit(calls.square_elsewhere, 6).result(BOUND) == 36


def test_a_clients_key_runs_no_calls(cluster, address, ring):
    client = ring.issue("carol", "client").to_text()
    worker = cluster.run("-m", "jobrunner", "worker", "start", address, JOBRUNNER_IDENTITY=client)
    worker.wait_for("is a client's, and may not run calls")
    assert worker.wait() == 1


def test_revoking_shuts_out_who_is_connected(cluster, coordinator, address, ring, become):
    key = ring.issue("shaky", "worker").to_text()
    shaky = cluster.run(
        "-m",
        "jobrunner",
        "worker",
        "start",
        address,
        "--slots",
        "1",
        "--name",
        "shaky",
        JOBRUNNER_IDENTITY=key,
    )
    shaky.wait_for("joined coordinator")
    become(ring.issue("alice", "client"))
    with connected(address) as alice:
        future = alice.submit(calls.nap, 60.0)
        until(future.running)
        ring.revoke("shaky")
        shaky.wait_for("was revoked")
        assert shaky.wait() == 1
        ring.revoke("alice")
        with pytest.raises(AuthenticationError, match="was revoked"):
            future.result(BOUND)
    with pytest.raises(AuthenticationError, match="does not know this key"):
        ClusterAdmin(address, BOUND)
    assert "Traceback" not in coordinator.output


def test_rotated_keys_let_nobody_in_but_their_user(cluster, ring, elsewhere):
    port = free_port()
    first = cluster.coordinator(port=port)
    line = printed(first, "join")
    first.end()
    keyring.rotate(ring.folder)
    second = cluster.coordinator(port=port)
    with ClusterAdmin(second.address, BOUND) as admin:
        assert admin.workers() == []
    elsewhere()
    with pytest.raises(CoordinatorLostError, match="not with the key"):
        joining.join(line, "client", "alice", timeout=NOW)


@pytest.mark.parametrize("name", ["server.json", "allowed.json", "operator.json"])
def test_key_files_that_others_may_read_are_refused(tmp_path, name):
    folder = tmp_path / "keys"  # of no running coordinator, which writes its file anew
    keyring.open_keyring(folder)
    path = folder / name
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):  # noqa: PT012  (whichever of them reads the file)
        keyring.open_keyring(folder)
        keyring.local_identity(folder, "operator")


def test_what_is_larger_than_the_quota_fails_alone_and_says_so(cluster):
    coordinator = cluster.coordinator(JOBRUNNER_MAX_PAYLOAD="64K")
    cluster.worker(coordinator.address, "w")
    with connected(coordinator.address) as executor:
        before = executor.submit(calls.square, 3)
        large = executor.submit(len, bytes(100_000))
        follower = executor.submit(calls.square, large)
        with pytest.raises(
            QuotaError, match=r"arguments have 100,\d\d\d bytes, and the coordinator takes 65,536"
        ):
            large.result(BOUND)
        with pytest.raises(DependencyError):
            follower.result(BOUND)
        with pytest.raises(QuotaError, match=r"its result has 100,\d\d\d bytes.* on worker w"):
            executor.with_options(retries=3).submit(bytes, 100_000).result(BOUND)
        assert before.result(BOUND) == 9
        assert executor.submit(len, bytes(60_000)).result(BOUND) == 60_000
    assert "session ends" not in coordinator.output


def test_what_crosses_the_network_is_encrypted(cluster, coordinator, address):
    """A relay between client and coordinator sees no word of a call."""
    relay, seen = Relay(address), bytearray()
    cluster.worker(address, "w")
    try:
        with connected(relay.serve(seen)) as executor:
            word = "confidential" * 100
            assert executor.submit(str.upper, word).result(BOUND) == word.upper()
    finally:
        relay.close()
    assert len(seen) > 1000
    assert b"CURVE" in seen
    assert b"confidential" not in seen.lower()


class Relay:
    """Passes bytes on between a listening socket and the coordinator, and keeps them."""

    def __init__(self, address):
        self._listener = socket.create_server(("127.0.0.1", 0))
        host, port = address.removeprefix("tcp://").split(":")
        self._target = host, int(port)
        self._sockets = [self._listener]

    def serve(self, seen):
        threading.Thread(target=self._accept, args=(seen,), daemon=True).start()
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self, seen):
        try:
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, target, seen), daemon=True).start()
        except OSError:
            return

    def _pass(self, source, target, seen):
        try:
            while data := source.recv(65536):
                seen += data
                target.sendall(data)
        except OSError:
            pass

    def close(self):
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # its other end has gone
            one.close()


# --- one client's secrets are not another's ------------------------------------------------------------------------


def test_what_a_call_leaves_in_its_process_reaches_no_call_of_another_key(cluster, address, ring, become):
    cluster.worker(address, "w", slots=2)
    become(ring.issue("alice", "client"))
    with connected(address) as alice:
        alices = {alice.submit(calls.set_secret, "of alice").result(BOUND) for _ in range(8)}
        become(ring.issue("bob", "client"))
        with connected(address) as bob:
            assert bob.submit(calls.seen_secret).result(BOUND) is None
            assert bob.submit(calls.seen_secret_inside).result(BOUND) is None
            bobs = {bob.submit(calls.set_secret, "of bob").result(BOUND) for _ in range(8)}
        assert not alices & bobs
        assert alice.submit(calls.seen_secret).result(BOUND) in (None, "of alice")


def test_calls_of_a_call_run_among_those_of_their_owner(cluster, address, ring, become):
    key = ring.issue("node", "worker").to_text()
    worker = cluster.run(
        "-m", "jobrunner", "worker", "start", address, "--slots", "2", "--name", "w", JOBRUNNER_IDENTITY=key
    )
    worker.wait_for("joined coordinator")
    become(ring.issue("alice", "client"))
    with connected(address) as alice:
        assert alice.submit(calls.set_secret, "of alice").result(BOUND)
        become(ring.issue("bob", "client"))
        with connected(address) as bob:
            for executor, name in ((alice, "alice"), (bob, "bob")):
                outer = executor.submit(calls.seen_secret_inside)
                assert outer.result(BOUND) in (None, f"of {name}")


# --- quotas, and who goes on sending nonsense -----------------------------------------------------------------------


def test_calls_beyond_the_quota_fail_with_an_error_that_says_so(cluster):
    coordinator = cluster.coordinator(JOBRUNNER_QUOTA_TASKS="5", JOBRUNNER_QUOTA_BYTES="1000000")
    with connected(coordinator.address) as executor:
        large = executor.submit(len, bytes(2_000_000))
        with pytest.raises(QuotaError, match="quota_bytes"):
            large.result(BOUND)
        waiting = [executor.submit(calls.square, n) for n in range(5)]
        with pytest.raises(QuotaError, match=r"may have 5 \(quota_tasks\)"):
            executor.submit(calls.square, 5).result(BOUND)
        cluster.worker(coordinator.address, "w")
        assert [future.result(BOUND) for future in waiting] == [n * n for n in range(5)]
        assert executor.submit(calls.square, 6).result(BOUND) == 36


def test_results_that_calls_wait_with_count_too(cluster):
    """Of Futures that are no calls of this cluster, whose results its client supplies."""
    coordinator = cluster.coordinator(JOBRUNNER_QUOTA_BYTES="1000000")
    given = [concurrent.futures.Future() for _ in range(5)]
    for future in given:
        future.set_result(bytes(300_000))
    with connected(coordinator.address) as executor:
        waiting = [executor.submit(len, future) for future in given]
        until(lambda: sum(future.done() for future in waiting) == 2, "the refusal of what is too much")
        for future in [future for future in waiting if future.done()]:
            with pytest.raises(QuotaError, match="quota_bytes"):
                future.result(0)
            waiting.remove(future)
        cluster.worker(coordinator.address, "w")
        assert [future.result(BOUND) for future in waiting] == [300_000] * 3
        assert executor.submit(len, given[0]).result(BOUND) == 300_000, "there is room again"


def ports_to(address):
    """Of this process's connections to it."""
    port = int(address.rpartition(":")[2])
    mine = psutil.Process().net_connections()
    return {c.laddr.port for c in mine if c.raddr and c.raddr.port == port and c.status == "ESTABLISHED"}


def test_who_goes_on_sending_nonsense_is_disconnected_and_others_are_not(cluster, coordinator, address):
    cluster.worker(address, "w")
    with connected(address) as executor:
        wire = DealerWire(address, credentials_for(address, CLIENT_ROLES, configured=None, insecure=False))
        try:
            answered: list[object] = []

            def refused() -> bool:
                for _ in range(20):
                    wire._send_frames(b"", [b"nonsense"])
                wire.wait(0.01)
                answered.extend(e for e in wire.receive(0.0) if isinstance(e, Received))
                return any(isinstance(e.envelope.message, m.Refused) for e in answered)

            until(refused)
            coordinator.wait_for("rejected a message from connection")
            before = ports_to(address)

            def cut() -> bool:
                wire._send_frames(b"", [b"nonsense"])
                return bool(before - ports_to(address))

            until(cut, "the end of its connection")
        finally:
            wire.close()
        assert executor.submit(calls.square, 5).result(BOUND) == 25


# --- a name belongs to a key ----------------------------------------------------------------------------------------


def greeted(address, credentials, hello):
    """What a coordinator answers to somebody who greets with this key."""
    wire = DealerWire(address, credentials)
    heard = []
    try:
        wire.send(Send(COORDINATOR, m.Envelope("greeting", 0, 0, hello)))

        def answer():
            wire.wait(0.1)
            heard.extend(e.envelope.message for e in wire.receive(0.0) if isinstance(e, Received))
            return heard

        return until(answer, "an answer")[0]
    finally:
        wire.close()


def test_the_name_of_somebody_who_is_not_here_is_no_use_to_another_key(cluster, address, ring, become):
    """As after a restart of the coordinator, which then knows nobody."""
    cluster.worker(address, "w")
    victim = ring.issue("victor", "client")
    become(victim)
    with connected(address) as executor, ClusterAdmin(address, BOUND) as admin:
        name = client_of(executor.submit(calls.square, 2).id)
        (worker,) = admin.workers()
    assert is_bound(worker["id"], keyring.local_identity(ring.folder, "worker").public)
    with ClusterAdmin(address, BOUND) as admin:
        until(lambda: name not in [client["id"] for client in admin.status()["clients"]], "its leaving")
    hello = m.ClientHello(name, __version__, "3", "here", 1, 10.0)
    for role in ("client", "observer", "worker", "operator"):
        refused = greeted(address, ring.issue(f"thief-{role}", role).credentials, hello)
        assert (type(refused), refused.kind) == (m.Refused, "AuthenticationError")
    assert type(greeted(address, victim.credentials, hello)) is m.Welcome


# --- a key that was revoked can be replaced -------------------------------------------------------------------------


def test_who_was_revoked_joins_again_with_a_new_line(ring, address, elsewhere):
    def line():
        secret = ring.invite("client", 60.0, 1)
        return f"jobrunner://{address.removeprefix('tcp://')}/{ring.server.public}.{secret}"

    first_line, second_line = line(), line()
    elsewhere()
    first = joining.join(first_line, "client", "alice")
    assert joining.join(second_line, "client", "alice").public == first.public, (
        "it is known, so no use is spent"
    )
    ring.revoke("alice")
    second = joining.join(second_line, "client", "alice")
    assert second.public != first.public
    with ClusterAdmin(address, BOUND) as admin:
        assert admin.status()
    ring.revoke("alice")
    with pytest.raises(AuthenticationError, match="does not know this key"):
        joining.join(second_line, "client", "alice")


def test_a_client_hears_at_once_that_its_key_was_revoked(monkeypatch, cluster, address, ring, become):
    monkeypatch.setenv("JOBRUNNER_PEER_TIMEOUT", "300")  # silence must not be what tells
    cluster.worker(address, "w")
    become(ring.issue("frieda", "client"))
    with connected(address) as frieda:
        future = frieda.submit(calls.nap, 60.0)
        until(future.running)
        ring.revoke("frieda")
        with pytest.raises(AuthenticationError, match="'frieda' was revoked"):
            future.result(BOUND)
