"""`jobrunner keys ...` on the host of a coordinator, and where there is none."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from jobrunner.config import config_folder


def test_where_no_coordinator_has_keys_looking_makes_none(cli: Any) -> None:
    for arguments in (("list",), ("revoke", "somebody")):
        result = cli("keys", *arguments)
        assert result.code == 2
        assert "there are no keys of a coordinator" in result.err
        assert "JOBRUNNER_KEYS" in result.err
    rotated = cli("keys", "rotate", "--yes")
    assert (rotated.code, "there are no keys of a coordinator" in rotated.err) == (2, True)
    assert not (config_folder() / "coordinator").exists()


def test_a_line_for_a_cluster_that_has_never_run_comes_with_a_warning(cli: Any) -> None:
    """Else an invitation from the wrong host looks like one from the right host."""
    first, second = cli("keys", "invite"), cli("keys", "invite")
    assert (first.code, second.code) == (0, 0)
    assert first.out.startswith("jobrunner://")
    folder = config_folder() / "coordinator"
    assert f"{folder} had no keys of a coordinator, and has those of a new cluster now" in first.err
    assert second.err == ""


def test_an_invitation_leads_to_where_the_coordinator_is(cli: Any, start: Any) -> None:
    coordinator = start("coordinator", "start", "--port", "0")
    address = coordinator.wait_for(r"coordinator at tcp://(\S+)")[1]
    assert cli("keys", "invite").out.startswith(f"jobrunner://{address}/")
    assert cli("keys", "invite", "-a", "10.0.0.5:7077").out.startswith("jobrunner://10.0.0.5:7077/")
    assert json.loads(cli("keys", "issue", "ci", "--as", "client").out)["addresses"] == [f"tcp://{address}"]


def test_keys_can_be_issued_before_a_coordinator_has_run(cli: Any, tmp_path: Path) -> None:
    issued = cli(
        "keys", "issue", "ci", "--as", "client", "-a", "coordinator:7077", "-o", tmp_path / "ci.json"
    )
    assert issued.code == 0
    names = [row["name"] for row in json.loads(cli("keys", "list", "--json").out)["keys"]]
    assert "ci" in names


def test_who_joins_says_where_the_line_is(cli: Any, start: Any, monkeypatch: Any, tmp_path: Path) -> None:
    coordinator = start("coordinator", "start", "--port", "0")
    coordinator.wait_for(r"coordinator at tcp://(\S+)")
    line, workers = (cli("keys", "invite", "--as", role, "--uses", "2").out for role in ("client", "worker"))
    monkeypatch.setenv("JOBRUNNER_KEYS", str(config_folder() / "coordinator"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("sys.stdin", io.StringIO(workers + line))
    assert "the invitation is for worker, not for 'client'" in cli("join", "-").err
    joined = cli("join", "-", "--name", "ada")
    assert joined.code == 0, joined.err
    assert "as client 'ada'" in joined.out
    monkeypatch.setenv("JOBRUNNER_INVITATION", line.strip())
    assert "as observer 'ada-2'" in cli("join", "--as", "observer", "--name", "ada").out
    assert cli("join").err.startswith("jobrunner: error: the source of the invitation line is not given")
    revoked = cli("keys", "revoke", "ada").out
    assert revoked.splitlines() == [
        "revoked client 'ada'",
        "keys from the same invitation that remain valid: ada-2",
    ]
