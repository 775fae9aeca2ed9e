from __future__ import annotations

from support.client_calls import sent, submit
from support.cores import DOUBLE, HALVE, KEY, client, ok, spec

from jobrunner.backends.failures import error_for
from jobrunner.errors import QuotaError
from jobrunner.protocol.effects import ResolveTasks
from jobrunner.protocol.wire import messages as m


def test_a_function_travels_once_even_if_it_was_not_needed_for_a_while():
    world = client()
    sent(world, spec(1))
    world.say(m.Outcomes([ok("c-1")]))
    assert world.take() == [ResolveTasks([ok("c-1")])]
    submit(world, spec(2))
    assert world.heard_one(m.Submit) == m.Submit([spec(2)])


def test_a_function_that_is_too_large_is_not_sent():
    world = client(opened=False)
    large, ships = (m.FunctionDef(b"%d" % n, "f", bytes(101), "", (), ("a",) * n) for n in (0, 1))
    calls = [spec(1, function=large.key), spec(2, function=KEY, initializer=ships.key), spec(3)]
    submit(world, *calls, functions=[DOUBLE, large, ships])
    world.heard()
    world.open(max_payload=100)
    (_, resolved) = world.take()
    assert isinstance(resolved, ResolveTasks)
    errors = {outcome.id: str(error_for(outcome, "f")) for outcome in resolved.outcomes}
    assert "its function has 101 bytes, and the coordinator takes 100 at most" in errors["c-1"]
    assert (
        "the modules shipped with it (a) have 101 bytes, packed, and the coordinator takes 100"
        in errors["c-2"]
    )
    assert {type(error_for(outcome, "f")) for outcome in resolved.outcomes} == {QuotaError}
    assert world.heard() == [m.ResubmissionComplete(), m.Submit([spec(3)], [DOUBLE])]
    assert list(world.core.pending) == ["c-3"]


def test_functions_beyond_the_limit_are_forgotten_by_both_ends():
    world = client()
    definitions = [m.FunctionDef(b"%d" % n, f"f{n}", b"blob") for n in range(258)]
    for n, definition in enumerate(definitions[:257]):
        submit(world, spec(n, function=definition.key), functions=[definition])
    assert world.heard_one(m.Submit).drop_functions == [b"0"]
    submit(world, spec(900, function=b"257"), functions=[definitions[257]])
    message = world.heard_one(m.Submit)
    assert (message.functions, message.drop_functions) == ([definitions[257]], [b"1"])
    submit(world, spec(901, function=b"0"), functions=[definitions[0]])
    assert world.heard_one(m.Submit).functions == [definitions[0]], "the coordinator needs it again"


def test_a_function_that_no_call_needs_is_not_kept():
    world = client()
    submit(world, spec(1), functions=[DOUBLE, HALVE])
    assert world.heard_one(m.Submit).functions == [DOUBLE]
    world.say(m.Outcomes([ok("c-1")]))
    world.turn()
    assert world.core.functions.definitions == {}
