from __future__ import annotations

import subprocess
import sys

from jobrunner.protocol.wire.ids import (
    RIGHTS_DRAWN,
    ClientId,
    bound,
    client_of,
    is_bound,
    new_id,
    short_id,
    task_id,
    unused_name,
)

CLIENT = ClientId("9f3ac2e1b7d0")


def test_an_id_names_its_client_and_ends_in_a_right_that_no_other_has():
    ids = [task_id(CLIENT, number) for number in range(3 * RIGHTS_DRAWN)]
    rights = {task.rpartition("-")[2] for task in ids}
    assert len(rights) == len(ids)
    assert {len(right) for right in rights} == {16}
    assert {client_of(task) for task in ids} == {CLIENT}
    assert short_id(ids[42]) == f"{CLIENT}-42"


def test_an_id_belongs_to_the_key_that_made_it_and_to_no_other():
    mine, another = new_id("alice"), new_id("alice")
    assert mine != another
    assert client_of(task_id(ClientId(mine), 7)) == mine
    assert is_bound(mine, "alice")
    for stranger in (mine[:12], mine[12:], another[:12] + mine[12:], mine + mine[12:], "", "ü\ud800"):
        assert not is_bound(stranger, "alice"), stranger
    for key in ("bob", "Alice", f"alice {mine}"):
        assert not is_bound(mine, key), key


def test_without_a_key_an_id_is_anybodys():
    assert len(new_id("")) == 12
    assert bound("name", "") == "name"
    assert is_bound("name", "")


FORK = """
import os
from jobrunner.protocol.wire.ids import task_id
task_id("c", 1)
if os.fork() == 0:
    print(task_id("c", 2), flush=True)
    os._exit(0)
os.wait()
for _ in range(300):
    print(task_id("c", 2))
"""


def test_a_forked_process_draws_rights_of_its_own():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    theirs, *ours = done.stdout.split()
    assert len(ours) == 300
    assert theirs not in ours


def test_unused_names_are_numbered():
    assert unused_name("node", ()) == "node"
    assert unused_name("node", {"node", "node-2"}) == "node-3"
