"""Settings: where they come from, and what is refused."""

from __future__ import annotations

import dataclasses
import pwd
from functools import partial

import pytest

from jobrunner.config import (
    ClientConfig,
    CoordinatorConfig,
    WorkerConfig,
    config_folder,
    file_path,
    load,
    parse_resources,
)
from jobrunner.coordinator.journal.store import default_journal
from jobrunner.errors import ConfigError

ROLES = [ClientConfig, CoordinatorConfig, WorkerConfig]


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Writes the config file."""
    path = tmp_path / "jobrunner.toml"
    monkeypatch.setenv("JOBRUNNER_CONFIG", str(path))

    def write(text):
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("cls", ROLES)
def test_every_setting_has_a_default_a_variable_and_a_text(cls):
    assert isinstance(load(cls), cls)
    for field in dataclasses.fields(cls):
        assert field.metadata["env"].startswith("JOBRUNNER_")
        assert field.metadata["doc"]


@pytest.mark.parametrize("cls", ROLES)
def test_it_is_frozen(cls):
    config = load(cls)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.address = "x"


def test_argument_before_environment_before_file_before_default(monkeypatch, write):
    assert load_default(monkeypatch) == 10.0
    write("[client]\nconnect_timeout = 1\n")
    assert load(ClientConfig).connect_timeout == 1.0
    monkeypatch.setenv("JOBRUNNER_CONNECT_TIMEOUT", "2.5")
    assert load(ClientConfig).connect_timeout == 2.5
    assert load(ClientConfig, connect_timeout=3).connect_timeout == 3.0
    assert load(ClientConfig, connect_timeout=None).connect_timeout == 2.5
    monkeypatch.setenv("JOBRUNNER_CONNECT_TIMEOUT", "")
    assert load(ClientConfig).connect_timeout == 1.0


def load_default(monkeypatch):
    with monkeypatch.context() as patch:
        patch.delenv("JOBRUNNER_CONFIG")
        return load(ClientConfig).connect_timeout


def test_the_users_own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = file_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[worker]\nslots = 3\n")
    assert load(WorkerConfig).slots == 3


@pytest.fixture
def no_home(monkeypatch):
    """A user whom no account knows, as the containers of some clusters have them."""

    def unknown(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "JOBRUNNER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_user_without_a_home_has_no_file(no_home, monkeypatch):
    monkeypatch.setenv("JOBRUNNER_CONNECT_TIMEOUT", "2.5")
    assert load(ClientConfig).connect_timeout == 2.5


@pytest.mark.parametrize("needed", [config_folder, partial(default_journal, 7077)])
def test_where_a_home_is_needed_its_lack_is_told(no_home, needed):
    with pytest.raises(ConfigError, match="no home folder; set HOME, or XDG_"):
        needed()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[client]\nbakend = 'x'\n", "no setting 'bakend'"),
        ("[clients]\nbackend = 'x'\n", r"no table \[clients\]; the tables are \[client\]"),
        ("[client]\nmax_workers = 'many'\n", "client.max_workers"),
        ("[client]\nmax_workers = true\n", "not an integer"),
        ("client = 3\n", "must be a table"),
        ("address = 'tcp://h:1'\n", r"'address' is outside of a table.*below one of \[client\]"),
        ("[client\n", "not valid TOML"),
    ],
)
def test_a_bad_file_is_named(write, text, message):
    path = write(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(ClientConfig)
    assert str(path) in str(caught.value)


def test_a_size_that_is_none_is_refused_with_an_example(write):
    write("[worker]\nslot_memory = '512MB'\n")
    with pytest.raises(ConfigError, match="slot_memory: '512MB' is not an integer; write a size as in 512M"):
        load(WorkerConfig)


def test_a_file_that_is_named_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("JOBRUNNER_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="does not exist"):
        load(ClientConfig)


def test_a_file_that_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setenv("JOBRUNNER_CONFIG", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot read"):
        load(ClientConfig)


@pytest.mark.parametrize(
    "value", [0, -1, 1.5, True, "x", "1.5", float("nan"), float("inf"), 10**400, [], b"4"]
)
def test_bad_whole_numbers(value):
    with pytest.raises(ConfigError, match="max_workers"):
        load(ClientConfig, max_workers=value)


@pytest.mark.parametrize(("value", "number"), [(1, 1), ("8", 8), (2.0, 2), (2**53 + 1, 2**53 + 1)])
def test_good_whole_numbers(value, number):
    config = load(ClientConfig, max_workers=value)
    assert config.max_workers == number
    assert type(config.max_workers) is int


@pytest.mark.parametrize("value", [-0.1, "soon", float("nan"), float("inf"), True])
def test_bad_seconds(value):
    with pytest.raises(ConfigError, match="connect_timeout"):
        load(ClientConfig, connect_timeout=value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("Yes", True), ("on", True), ("0", False), ("FALSE", False), ("no", False)],
)
def test_yes_and_no(monkeypatch, text, value):
    monkeypatch.setenv("JOBRUNNER_SHOW_OUTPUT", text)
    assert load(ClientConfig).show_output is value


def test_neither_yes_nor_no(monkeypatch):
    monkeypatch.setenv("JOBRUNNER_SHOW_OUTPUT", "maybe")
    with pytest.raises(ConfigError, match="JOBRUNNER_SHOW_OUTPUT"):
        load(ClientConfig)


@pytest.mark.parametrize("value", ["", 7, b"tcp://h:1"])
def test_bad_texts(value):
    with pytest.raises(ConfigError, match="address"):
        load(ClientConfig, address=value)


@pytest.mark.parametrize(
    ("value", "resources"),
    [
        ("gpu=2,licence=1", {"gpu": 2.0, "licence": 1.0}),
        (" gpu = 0.5 , disk", {"gpu": 0.5, "disk": 1.0}),
        ("", {}),
        ({"gpu": 1}, {"gpu": 1.0}),
    ],
)
def test_resources(value, resources):
    assert parse_resources(value) == resources


@pytest.mark.parametrize("value", ["gpu=x", "=3", {"gpu": -1}, {1: 1}, 5, "gpu=nan"])
def test_bad_resources(value):
    with pytest.raises(ConfigError):
        parse_resources(value)


def test_resources_have_an_end():
    assert parse_resources("gpu=1e15") == {"gpu": 1e15}
    with pytest.raises(ConfigError, match=r"'1.1e15' is too large; the maximum is 1e\+15"):
        parse_resources("gpu=1.1e15")


@pytest.mark.parametrize(("setting", "value"), [("port", 65536), ("port", -1)])
def test_ports_are_those_that_exist(setting, value):
    with pytest.raises(ConfigError, match=r"port: .* is too (large|small)"):
        load(CoordinatorConfig, **{setting: value})


def test_a_peer_timeout_is_one_that_the_coordinator_accepts():
    with pytest.raises(ConfigError, match="the maximum is 3600"):
        load(ClientConfig, peer_timeout=3601)


def test_names_and_slots_are_those_that_fit_into_a_message():
    assert load(WorkerConfig, name="n" * 256).name == "n" * 256
    with pytest.raises(ConfigError, match=r"the name has 257 characters; at most 256"):
        load(WorkerConfig, name="n" * 257)
    with pytest.raises(ConfigError, match="at most 256 are allowed"):
        parse_resources("n" * 257 + "=1")
    with pytest.raises(ConfigError, match="too large"):
        load(WorkerConfig, slots=2**20 + 1)
