from __future__ import annotations

from pathlib import Path

import pytest

from jobrunner.cli import common_options as options
from jobrunner.config import CoordinatorConfig, WorkerConfig, load
from jobrunner.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://10.0.0.5:7077", "tcp://10.0.0.5:7077"),
        ("10.0.0.5:8000", "tcp://10.0.0.5:8000"),
        ("node7", "tcp://node7:7077"),
        (" tcp://node7 ", "tcp://node7:7077"),
        ("[::1]", "tcp://[::1]:7077"),
        ("tcp://[::1]:80", "tcp://[::1]:80"),
        ("ipc:///run/jobrunner.sock", "ipc:///run/jobrunner.sock"),
    ],
)
def test_an_address_is_completed(text: str, address: str) -> None:
    assert options.full_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":7077",
        "http://a:1",
        "a:b",
        "a:0",
        "a:65536",
        "a:-1",
        "a:7²",
        "a b:1",
        "a/b:1",
        "u@a:1",
        "::1",
        "tcp://",
        "ipc://",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an address.*7077"):
        options.full_address(text)


def test_a_line_to_join_with_is_no_address_and_its_secret_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"`jobrunner join -`.*tcp://a:7077") as caught:
        options.full_address("jobrunner://a:7077/KEY.SECRET")
    assert "SECRET" not in str(caught.value)


def test_the_address_comes_from_option_environment_file_or_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert options.configured_address(None) is None
    assert options.cluster_address(None) == "tcp://127.0.0.1:7077"
    file = tmp_path / "settings.toml"
    file.write_text('[client]\naddress = "from-file"\n')
    monkeypatch.setenv("JOBRUNNER_CONFIG", str(file))
    assert options.cluster_address(None) == "tcp://from-file:7077"
    monkeypatch.setenv("JOBRUNNER_ADDRESS", "from-environment:1")
    assert options.cluster_address(None) == "tcp://from-environment:1"
    assert options.cluster_address("from-option:2") == "tcp://from-option:2"


def test_a_backend_that_is_an_address_names_the_cluster_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBRUNNER_BACKEND", "tcp://there:5")
    assert options.cluster_address(None) == "tcp://there:5"
    monkeypatch.setenv("JOBRUNNER_BACKEND", "threads")
    assert options.configured_address(None) is None


def test_help_tells_default_unit_and_environment() -> None:
    assert options.help_of(CoordinatorConfig, "client_grace") == (
        "Time for which the tasks of a lost client continue before they are cancelled"
        " (default: 30 s; environment: JOBRUNNER_CLIENT_GRACE)."
    )
    assert "default: 7077;" in options.help_of(CoordinatorConfig, "port")
    assert (
        options.help_of(WorkerConfig, "name", "its name") == "Its name (environment: JOBRUNNER_WORKER_NAME)."
    )


def test_a_worker_may_join_by_host_and_port_alone() -> None:
    assert options.with_full_address(load(WorkerConfig, address="h:1")).address == "tcp://h:1"
