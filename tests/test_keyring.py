"""The coordinator's keys, invitations, and the files that hold them."""

from __future__ import annotations

import os
import stat

import pytest

from jobrunner.errors import AuthenticationError, ConfigError
from jobrunner.keys import credentials, identity, keyring
from jobrunner.keys.invitation import Invitation, parse_line
from jobrunner.keys.keyring import open_keyring
from jobrunner.keys.private_files import locked, write_private
from jobrunner.transport.curve import from_text, new_pair, pair_of


@pytest.fixture
def ring(tmp_path):
    return open_keyring(tmp_path / "keys")


def test_everything_in_the_folder_is_private(ring):
    assert stat.S_IMODE(ring.folder.stat().st_mode) == 0o700
    files = list(ring.folder.iterdir())
    assert {"server.json", "allowed.json", "operator.json", "worker.json"} <= {path.name for path in files}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_nobody_gets_a_secret_by_being_there_before(tmp_path):
    """In a folder for all, such as /tmp, somebody may have made the file before, under any name that can be guessed."""
    path, elsewhere = tmp_path / "ci.json", tmp_path / "elsewhere"
    guessed = path.with_name(f".ci.json.{os.getpid()}")
    guessed.touch()
    guessed.chmod(0o666)
    write_private(path, "a secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    guessed.unlink(missing_ok=True)
    guessed.symlink_to(elsewhere)
    write_private(path, "a secret")
    assert path.read_text() == "a secret"
    assert not elsewhere.exists()


def test_a_folder_that_everybody_may_write_to_is_not_used(tmp_path):
    """Its owner could put back a file of before, with keys that were revoked since."""
    folder = tmp_path / "keys"
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(ConfigError, match="because others may write to it"):
        open_keyring(folder)
    assert not list(folder.iterdir())
    folder.chmod(0o755)
    elsewhere = tmp_path / "elsewhere"
    (folder / "lock").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="cannot write to"):
        open_keyring(folder)
    assert not elsewhere.exists()


def test_the_keys_are_made_once(ring):
    assert open_keyring(ring.folder).server == ring.server


def test_a_secret_has_one_public_key_and_a_text_that_needs_no_quoting():
    pair = new_pair()
    assert pair_of(pair.secret) == pair
    assert all(c.isalnum() or c in "-_" for c in pair.public + pair.secret)
    with pytest.raises(ConfigError, match="is not a key"):
        from_text(pair.secret[:-4])


def test_a_line_is_read_as_it_was_written():
    invitation = Invitation("tcp://10.0.0.5:7077", new_pair().public, new_pair().secret)
    assert parse_line(f" {invitation.to_line()}\n") == invitation


@pytest.mark.parametrize(
    "text", ["", "tcp://10.0.0.5:7077", "jobrunner://10.0.0.5:7077", "jobrunner://h:1/a.b"]
)
def test_what_is_no_line_to_join_with_is_told_without_its_secret(text):
    with pytest.raises(
        ConfigError, match=r"this is not an invitation line|the invitation line is incomplete"
    ) as caught:
        parse_line(text)
    assert "a.b" not in str(caught.value)


def test_an_invitation_is_traded_for_a_key(ring):
    invited, pair = pair_of(ring.invite("worker", 60.0, 1)), new_pair()
    assert ring.principal(invited.public).role == "invited"
    assert ring.principal(pair.public) is None
    member = ring.admit(invited.public, pair.public, "node 7", "worker")
    assert (member.name, member.role) == ("node-7", "worker")
    assert ring.principal(pair.public)[1:] == ("node-7", "worker")
    assert ring.admit(invited.public, pair.public, "node 7", "worker") == member, (
        "asked again, it is the same"
    )
    assert ring.principal(invited.public) is None, "its expired or has been used up"
    with pytest.raises(AuthenticationError, match="expired or has been used up"):
        ring.admit(invited.public, new_pair().public, "eve", "worker")


@pytest.mark.parametrize(
    ("made_for", "admits"),
    [("worker", ["worker"]), ("client", ["client", "observer"]), ("observer", ["observer"])],
)
def test_an_invitation_admits_as_what_it_was_made_for_or_as_less(ring, made_for, admits):
    invited = pair_of(ring.invite(made_for, 60.0, 9))
    for role in ("worker", "client", "observer", "operator"):
        key = new_pair().public
        if role in admits:
            assert ring.admit(invited.public, key, "somebody", role).role == role
            continue
        with pytest.raises(AuthenticationError, match=rf"is for {' or '.join(admits)}, not for '{role}'"):
            ring.admit(invited.public, key, "eve", role)
        assert ring.principal(key) is None


def test_the_key_of_an_invitation_or_of_the_coordinator_is_nobodys(ring):
    """Whoever holds two lines would else make one of them a key for good, with which nobody joins any more."""
    one, other = (pair_of(ring.invite("client", 60, 5)) for _ in range(2))
    for key in (other.public, one.public, ring.server.public):
        with pytest.raises(AuthenticationError, match="of an invitation, or of the coordinator"):
            ring.admit(one.public, key, "mallory", "client")
    assert ring.admit(other.public, new_pair().public, "anna", "client").name == "anna"
    assert [i.uses for i in ring.invitations() if i.key == one.public] == [5]


def test_what_comes_to_nothing_takes_no_lock_however_often_it_is_asked(ring, monkeypatch):
    """The coordinator does nothing else meanwhile, and the holder of a line may ask without end."""
    taken = []
    monkeypatch.setattr(keyring, "locked", lambda folder: taken.append(folder) or locked(folder))
    line, key = pair_of(ring.invite("observer", 60, 5)), new_pair().public
    taken.clear()
    for _ in range(3):
        with pytest.raises(AuthenticationError, match="not for 'client'"):
            ring.admit(line.public, key, "anna", "client")
        with pytest.raises(AuthenticationError, match="expired"):
            ring.admit(key, key, "anna", "client")
    assert not taken
    for _ in range(3):
        assert ring.admit(line.public, key, "anna", "observer").name == "anna"
    assert len(taken) == 1


def test_revoking_a_key_ends_the_invitation_that_it_came_with(ring):
    """Its holder may still have the line, and would be back at once under another key."""
    line, other = (pair_of(ring.invite("client", 60.0, 9)).public for _ in range(2))
    ring.admit(line, new_pair().public, "mallory", "client")
    ring.admit(line, new_pair().public, "bob", "client")
    revoked = ring.revoke("mallory")
    assert (revoked.member.name, revoked.ended_invitation, revoked.others) == ("mallory", True, ["bob"])
    assert ring.principal(line) is None
    with pytest.raises(AuthenticationError, match="expired or has been used up"):
        ring.admit(line, new_pair().public, "mallory", "client")
    assert ring.admit(other, new_pair().public, "carol", "client").name == "carol"
    ring.issue("ci", "client")
    assert ring.revoke("ci")[1:] == (False, [])


def test_names_are_told_apart(ring):
    invited = pair_of(ring.invite("worker", 60.0, 2))
    names = [ring.admit(invited.public, new_pair().public, "node", "worker").name for _ in range(2)]
    assert names == ["node", "node-2"]


def test_what_another_process_changes_is_seen(ring):
    other = open_keyring(ring.folder)
    member = other.issue("alice", "client")
    assert ring.principal(member.public).name == "alice", "at once: it may connect the next moment"
    other.revoke("alice")
    assert ring.refresh(now=1.0) == [member.public]
    assert ring.principal(member.public) is None
    assert ring.refresh(now=9.0) == []


def test_a_revoked_key_is_told_even_if_something_else_looked_first(ring):
    other = open_keyring(ring.folder)
    alice = other.issue("alice", "client")
    assert ring.principal(alice.public)
    other.revoke("alice")
    ring.invite("worker", 60.0, 1)
    assert alice.public in ring.refresh(now=1.0)


def test_a_running_coordinator_keeps_the_keys_that_it_knows_if_the_file_cannot_be_used(ring, caplog):
    alice = ring.issue("alice", "client")
    path = ring.folder / "allowed.json"
    for harm in (lambda: path.write_text("{"), lambda: path.chmod(0o644), path.unlink):
        harm()
        assert ring.refresh(now=ring.next_look()) == []
        assert ring.principal(alice.public).name == "alice"
    assert "damaged" in caplog.text
    assert "no longer exists" in caplog.text


def test_rotation_forgets_everybody(ring):
    alice = ring.issue("alice", "client")
    fresh = keyring.rotate(ring.folder)
    assert fresh.server != ring.server
    assert fresh.principal(alice.public) is None
    assert {member.name for member in fresh.members()} == {"local-operator", "local-worker"}


@pytest.mark.parametrize("name", ["server.json", "allowed.json"])
def test_damage_is_named(ring, name):
    (ring.folder / name).write_text("{")
    with pytest.raises(ConfigError, match=f"{name} is damaged"):
        open_keyring(ring.folder)


@pytest.mark.parametrize("text", ['{"a": 1}', "[]", "no JSON", '{"name": "x", "role": "client"}'])
def test_a_file_that_holds_no_key_is_told_in_the_words_of_users(text):
    with pytest.raises(ConfigError, match=r"key\.json does not contain a key of jobrunner") as caught:
        identity.parse(text, "key.json")
    assert "__init__" not in str(caught.value)
    assert "object has no attribute" not in str(caught.value)


def test_a_folder_of_keys_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is not a folder"):
        open_keyring(tmp_path / "file")


def test_whoever_comes_first_on_this_host_makes_the_keys():
    found = credentials.credentials_for("tcp://127.0.0.1:7077", credentials.WORKER_ROLES)
    assert found.server == open_keyring(keyring.default_folder()).server.public


def test_a_worker_that_joined_on_the_coordinators_host_does_not_make_its_operator_less():
    server = open_keyring(keyring.default_folder()).server.public
    worker = identity.Identity("w", "worker", server, *new_pair(), ("tcp://10.0.0.1:7077",))
    identity.save(worker)
    assert credentials.find("tcp://10.0.0.1:7077", credentials.CLIENT_ROLES).role == "operator"
    assert credentials.find("tcp://10.0.0.1:7077", credentials.WORKER_ROLES).server == server


def test_the_address_chooses_among_several_clusters():
    ids = [identity.Identity("me", "client", *new_ids(), (f"tcp://10.0.0.{n}:7077",)) for n in range(2)]
    for one in ids:
        identity.save(one)
    for one in ids:
        assert credentials.find(one.addresses[0], credentials.CLIENT_ROLES) == one
    assert credentials.find("tcp://10.0.0.9:7077", credentials.CLIENT_ROLES) is None, "it may be either"
    identity.path_of(ids[0]).unlink()
    assert credentials.find("tcp://10.0.0.9:7077", credentials.CLIENT_ROLES) == ids[1]


def test_localhost_is_the_loopback_address_that_was_joined():
    joined = identity.Identity("me", "client", *new_ids(), ("tcp://127.0.0.1:7077",))
    identity.save(joined)
    assert credentials.find("tcp://localhost:7077", credentials.CLIENT_ROLES) == joined


def test_keys_with_which_no_coordinator_was_started_cast_no_doubt_on_those_of_the_cluster():
    joined = identity.Identity("me", "client", *new_ids(), ("tcp://10.0.0.1:7077",))
    identity.save(joined)
    ring = open_keyring(keyring.default_folder())  # as any look at an address of this host makes it
    assert credentials.find("tcp://10.0.0.9:7077", credentials.CLIENT_ROLES) == joined
    ring.note_address("tcp://10.0.0.2:7077")
    assert credentials.find("tcp://10.0.0.9:7077", credentials.CLIENT_ROLES) is None, "it may be either"


def new_ids():
    return new_pair().public, *new_pair()


def test_a_unix_socket_needs_no_key():
    assert credentials.credentials_for("ipc:///tmp/x", credentials.CLIENT_ROLES) is None


def test_only_some_addresses_are_remembered():
    one = identity.Identity("me", "client", *new_ids())
    for number in range(100):
        one = one.met_at(f"tcp://127.0.0.1:{number % 40 + 1}")
    assert len(one.addresses) == identity.ADDRESSES_KEPT
    assert one.addresses[-1] == "tcp://127.0.0.1:20"
    assert identity.parse(one.to_text(), "here") == one
