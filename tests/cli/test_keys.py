"""`jobrunner keys ...` on the host of a coordinator, and where there is none."""

from __future__ import annotations

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
    assert not (config_folder() / "coordinator").exists()


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
