from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cores import DOUBLE, spec

from jobrunner.config import MAX_AMOUNT, MAX_PEER_TIMEOUT, MAX_SLOTS, SHORTEST_PEER_TIMEOUT
from jobrunner.errors import ProtocolError
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.checks import LARGEST_32, MAX_BUNDLED, MAX_INTEGER
from jobrunner.protocol.wire.codec import (
    INLINE_LIMIT,
    NUMBERS,
    REFUSED,
    VERSION,
    VersionMismatch,
    decode,
    encode,
)
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Bundle, Chunk
from jobrunner.protocol.wire.outcome_detail import DETAIL_TYPES

words = st.text(max_size=20)
count = st.integers(0, MAX_INTEGER)
positive = st.integers(1, MAX_INTEGER)
attempts = st.integers(1, LARGEST_32)
seconds = st.floats(0, allow_nan=False, allow_infinity=False)
amounts = st.floats(0, MAX_AMOUNT)
keys = st.binary(max_size=40)
frames = st.one_of(
    st.binary(max_size=30),
    st.builds(bytearray, st.binary(max_size=30)),
    st.builds(memoryview, st.binary(max_size=30)),
)
payloads = st.one_of(
    st.binary(max_size=100),
    st.integers(INLINE_LIMIT - 1, INLINE_LIMIT + 2).map(bytes),
    st.lists(frames, min_size=1, max_size=4).map(tuple),
)
kinds = st.one_of(
    st.just(SINGLE_CALL),
    st.builds(Bundle, st.integers(1, MAX_BUNDLED)),
    st.tuples(st.integers(0, 99), st.integers(1, 99)).map(lambda t: Chunk(t[0], t[0] + t[1])),
)
options = st.builds(
    m.TaskOptions,
    st.one_of(st.none(), words),
    st.integers(-(2**31), LARGEST_32),
    st.integers(0, LARGEST_32),
    st.one_of(st.none(), seconds),
    st.lists(st.tuples(words, amounts), max_size=3).map(tuple),
    st.booleans(),
    st.one_of(st.none(), st.binary(max_size=9)),
    st.booleans(),
    st.one_of(st.none(), seconds),
    st.booleans(),
)
optional_keys = st.one_of(st.none(), keys)
names = st.lists(words, max_size=3).map(tuple)
parts = st.lists(keys, max_size=3, unique=True).map(tuple)
epochs = st.integers(0, 5)
functions = st.lists(
    st.builds(m.FunctionDef, keys, words, payloads, words, names, names, parts, epochs), max_size=3
)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), seconds, words, keys),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.dictionaries(words, inner, max_size=3)
    ),
    max_leaves=8,
)
# hypothesis takes words out of our source, and the known keys have types of their own.
unknown_keys = words.filter(lambda word: word not in DETAIL_TYPES)
details = st.one_of(st.none(), st.dictionaries(unknown_keys, plain, max_size=4))
statuses = st.sampled_from(m.Status)
depends_on = st.lists(words, max_size=3).map(tuple)
values = st.lists(payloads, max_size=3).map(tuple)


def with_unbegun(entry: Any) -> st.SearchStrategy[Any]:
    return st.integers(0, entry.attempt - 1).map(lambda unbegun: entry._replace(unbegun=unbegun))


bodies = st.builds(m.CallBody, keys, payloads, kinds, options, optional_keys, count)
tasks = st.builds(m.TaskSpec, words, bodies, depends_on)
assignments = st.builds(m.Assignment, words, attempts, bodies, values).flatmap(with_unbegun)
outcomes = st.builds(m.Outcome, words, st.integers(0, LARGEST_32), statuses, payloads, seconds, details)
held = st.builds(m.Held, words, attempts, st.booleans()).flatmap(with_unbegun)
chunks = st.builds(m.OutputChunk, words, words, st.sampled_from([m.STDOUT, m.STDERR]), words)
patience = st.floats(SHORTEST_PEER_TIMEOUT, MAX_PEER_TIMEOUT)


def lists(entries: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(entries, max_size=4)


MESSAGES: dict[type, st.SearchStrategy[Any]] = {
    m.ClientHello: st.builds(
        m.ClientHello, words, words, words, words, count, patience, st.booleans(), count
    ),
    m.WorkerHello: st.builds(
        m.WorkerHello,
        *[words] * 5,
        count,
        patience,
        st.integers(1, MAX_SLOTS),
        st.dictionaries(words, amounts, max_size=3),
        lists(held),
        count,
    ),
    m.Welcome: st.builds(m.Welcome, words, words, count, positive, positive, words),
    m.Submit: st.builds(m.Submit, lists(tasks), functions, lists(keys)),
    m.ResubmissionComplete: st.builds(m.ResubmissionComplete),
    m.Cancel: st.builds(m.Cancel, lists(st.builds(m.CancelRequest, words, st.booleans()))),
    m.CancelRefused: st.builds(m.CancelRefused, lists(words)),
    m.Divide: st.builds(m.Divide, lists(words)),
    m.Query: st.builds(m.Query, count, words, words),
    m.Reply: st.builds(m.Reply, count, plain, words),
    m.Assign: st.builds(m.Assign, lists(assignments), functions),
    m.DropFunctions: st.builds(m.DropFunctions, lists(keys)),
    m.Outcomes: st.builds(m.Outcomes, lists(outcomes)),
    m.Running: st.builds(m.Running, lists(words)),
    m.TasksReturned: st.builds(
        m.TasksReturned, lists(st.tuples(words, attempts)), lists(words), st.booleans()
    ),
    m.Capacity: st.builds(m.Capacity, count),
    m.Stuck: st.builds(m.Stuck, words),
    m.Waits: st.builds(m.Waits, lists(st.builds(m.Wait, words, lists(words).map(tuple), st.booleans()))),
    m.Output: st.builds(m.Output, lists(chunks)),
    m.Drain: st.builds(m.Drain),
    m.Goodbye: st.builds(m.Goodbye, words),
    m.Heartbeat: st.builds(m.Heartbeat),
    m.Reset: st.builds(m.Reset),
    m.Refused: st.builds(m.Refused, words, st.sampled_from(m.REFUSAL_KINDS)),
    m.Join: st.builds(m.Join, words, words, words),
    m.Joined: st.builds(m.Joined, words),
    m.Watch: st.builds(m.Watch, lists(words)),
    m.Accepted: st.builds(m.Accepted, lists(words)),
    m.ResultRequest: st.builds(m.ResultRequest, lists(words)),
    m.ResultReply: st.builds(m.ResultReply, lists(outcomes), lists(words)),
}
any_message = st.one_of(*MESSAGES.values())
envelopes = st.builds(m.Envelope, words, count, count, any_message)


def one_form(payload: Any) -> tuple[bytes, ...]:
    return (payload,) if isinstance(payload, bytes) else tuple(bytes(part) for part in payload)


def comparable(value: Any) -> Any:
    """With every payload as a tuple of bytes: which of its two forms it has depends on its size alone."""
    if isinstance(value, (m.CallBody, m.Outcome)):
        return value._replace(payload=one_form(value.payload))
    if isinstance(value, m.TaskSpec):
        return value._replace(body=comparable(value.body))
    if isinstance(value, m.Assignment):
        values = tuple(map(one_form, value.values))
        return value._replace(body=comparable(value.body), values=values)
    if isinstance(value, m.FunctionDef):
        return value._replace(blob=one_form(value.blob))
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: comparable(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def test_every_message_has_a_strategy_here():
    assert set(MESSAGES) == set(NUMBERS)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_arrives_as_it_was_sent(kind):
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.builds(m.Envelope, words, count, count, MESSAGES[kind]))
    def check(envelope: m.Envelope) -> None:
        frames = encode(envelope)
        arrived = decode(frames)
        assert type(arrived.message) is kind
        assert decode([memoryview(frame) for frame in frames]) == arrived
        assert arrived.size == sum(map(len, frames))
        arrived.size = 0
        assert comparable(arrived) == comparable(envelope)

    check()


@given(st.lists(st.binary(max_size=60), max_size=4))
@settings(max_examples=300, deadline=None)
def test_random_frames_raise_a_protocol_error_and_nothing_else(frames):
    with pytest.raises(ProtocolError):
        decode(frames)


@given(st.lists(plain, max_size=14), st.lists(st.binary(max_size=9), max_size=2))
@settings(max_examples=400, deadline=None)
def test_well_formed_nonsense_raises_a_protocol_error_or_is_a_message(values, extra):
    for kind in range(len(NUMBERS) + 1):
        check_nonsense([msgpack.packb([VERSION, "s", 1, 1, kind, *values]), *extra])


@given(envelopes, st.data())
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_messages_raise_a_protocol_error_or_are_another_message(envelope, data):
    frames = [bytearray(frame) for frame in encode(envelope)]
    for _ in range(data.draw(st.integers(1, 3))):
        head = frames[0] if frames else bytearray()
        match data.draw(st.sampled_from(["flip", "cut", "grow", "drop a frame", "add a frame"])):
            case "flip" if head:
                head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
            case "cut":
                del head[data.draw(st.integers(0, len(head))) :]
            case "grow":
                head += data.draw(st.binary(max_size=4))
            case "drop a frame" if frames:
                frames.pop()
            case "add a frame":
                frames.append(bytearray(b"x"))
    check_nonsense(frames)


def check_nonsense(frames: list[Any]) -> None:
    try:
        envelope = decode(frames)
    except ProtocolError:
        return
    encode(envelope)  # what a core is given can be sent on


def test_small_payloads_ride_inside_and_large_ones_are_frames_of_their_own():
    large = bytes(INLINE_LIMIT + 1)
    parts = (b"pickle", memoryview(b"one"), bytearray(b"two"))
    submit = m.Submit([spec(1, payload=bytes(INLINE_LIMIT)), spec(2, payload=large), spec(3, payload=parts)])
    frames = encode(m.Envelope("s", 1, 0, submit))
    assert frames[1] is large, "not copied"
    assert all(there is here for there, here in zip(frames[2:], parts, strict=True))
    message = decode(frames).message
    assert isinstance(message, m.Submit)
    assert [task.body.payload for task in message.tasks] == [bytes(INLINE_LIMIT), (large,), parts]


def test_default_options_cost_a_byte():
    plain_call = encode(m.Envelope("s", 1, 0, m.Submit([spec(1)])))[0]
    named = encode(m.Envelope("s", 1, 0, m.Submit([spec(1, priority=1)])))[0]
    assert len(named) > len(plain_call) + 4
    assert len(plain_call) < 60


@pytest.mark.parametrize("number", [0, VERSION + 1, "1", None])
def test_another_version_is_named(number):
    head = msgpack.unpackb(encode(m.Envelope("s", 0, 0, m.Heartbeat()))[0])
    head[0] = number
    with pytest.raises(VersionMismatch) as caught:
        decode([msgpack.packb(head)])
    assert str(caught.value) == f"the peer speaks protocol version {number!r}, this is version {VERSION}"


def test_a_refusal_is_read_across_versions():
    refusal = m.Envelope("", 0, 0, m.Refused("use the same version"))
    head = msgpack.unpackb(encode(refusal)[0])
    assert head == [VERSION, "", 0, 0, REFUSED, "use the same version"], "this shape must never change"
    assert REFUSED == 20
    head[0] = VERSION + 7
    assert decode([msgpack.packb([*head, "what a later version adds"])]) == refusal


def test_frames_that_no_payload_names_are_an_error():
    frames = encode(m.Envelope("s", 1, 0, m.Submit([spec(1, payload=(b"a", b"b"))], [DOUBLE])))
    with pytest.raises(ProtocolError, match="1 frames belong to no payload"):
        decode([*frames, b"c"])
    with pytest.raises(ProtocolError, match="names 2 frames"):
        decode(frames[:-1])


@pytest.mark.parametrize(
    "kind",
    [
        (3, 3),
        (4, 3),
        (-1, 3),
        (0, 0),
        (0,),
        (-1,),
        (2**40,),
        (True,),
        (1.0,),
        (0, 1, 2),
        (0, "1"),
        3,
        "ab",
        {0: 1},
    ],
)
def test_a_chunk_or_a_bundle_holds_a_call(kind):
    with pytest.raises(ProtocolError):
        decode(encode(m.Envelope("s", 1, 0, m.Submit([spec(1, kind=kind)]))))


@pytest.mark.parametrize("text", ["\ud800", "name \udcff"])
def test_texts_that_are_not_unicode_arrive_too(text):
    """Such texts come from file names and from what tasks print; they must not stop a daemon."""
    output = m.Envelope("s", 1, 0, m.Output([m.OutputChunk("c-1", text, m.STDOUT, text)]))
    assert decode(encode(output)) == output


@pytest.mark.parametrize("timeout", [0.0, MAX_PEER_TIMEOUT + 1])
def test_a_peer_timeout_has_bounds(timeout):
    hello = m.ClientHello("c", "1", "3", "h", 1, timeout)
    with pytest.raises(ProtocolError, match="peer timeout"):
        decode(encode(m.Envelope("s", 0, 0, hello)))
