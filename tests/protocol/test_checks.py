"""Each limit of what may come over a wire: just within it is a message, just beyond it a ProtocolError that says so."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from support.cores import assignment, spec

from jobrunner.config import MAX_AMOUNT, MAX_NAME_LENGTH, MAX_SLOTS
from jobrunner.errors import ProtocolError
from jobrunner.protocol.wire import checks, codec
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import NUMBERS, VERSION, decode, encode
from jobrunner.protocol.wire.kinds import Bundle, Chunk

NAN, INFINITY = float("nan"), float("inf")


def sent(message: m.Message, seq: int = 1, ack: int = 0, session: str = "s") -> m.Message:
    return decode(encode(m.Envelope(session, seq, ack, message))).message


def rejected(message: m.Message, match: str) -> None:
    with pytest.raises(ProtocolError, match=match):
        sent(message)


def header(kind: type, *fields: Any) -> bytes:
    packed: bytes = msgpack.packb([VERSION, "s", 1, 0, NUMBERS[kind], *fields])
    return packed


def nested(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = (value,)
    return value


def outcome(**fields: Any) -> m.Outcomes:
    return m.Outcomes([m.Outcome("c-1", 1, m.ERROR)._replace(**fields)])


def worker_hello(**fields: Any) -> m.WorkerHello:
    given = {"slots": 1, "resources": {}, **fields}
    return m.WorkerHello("w", "1", "3.11", "w", "host", 1, 10.0, **given)


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [NAN, INFINITY, -INFINITY, -1, -0.5])
@pytest.mark.parametrize(
    "message",
    [
        lambda amount: m.Submit([spec(1, timeout=amount)]),
        lambda amount: m.Submit([spec(1, backoff=amount)]),
        lambda amount: m.Submit([spec(1, resources=(("gpu", amount),))]),
        lambda amount: outcome(duration=amount),
        lambda amount: worker_hello(resources={"gpu": amount}),
        lambda amount: m.ClientHello("c", "1", "3.11", "host", 1, amount),
    ],
    ids=["timeout", "backoff", "resource of a call", "duration", "resource of a worker", "peer timeout"],
)
def test_seconds_and_amounts_are_finite_and_not_negative(message, amount):
    rejected(message(amount), r"expected a finite number from 0")


@pytest.mark.parametrize(
    "message",
    [
        lambda amount: m.Submit([spec(1, resources=(("gpu", amount),))]),
        lambda amount: worker_hello(resources={"gpu": amount}),
    ],
    ids=["of a call", "of a worker"],
)
def test_sums_of_amounts_stay_numbers(message):
    assert sent(message(MAX_AMOUNT)) == message(MAX_AMOUNT)
    rejected(message(1.01 * MAX_AMOUNT), r"at most 1e\+15")


@pytest.mark.parametrize(
    ("message", "largest"),
    [
        (lambda n: m.Outcomes([m.Outcome("c-1", n, m.OK)]), checks.LARGEST_32),
        (lambda n: worker_hello(held=[m.Held("c-1", n, True)]), checks.LARGEST_32),
        (lambda n: m.TasksReturned([("c-1", n)]), checks.LARGEST_32),
        (lambda n: m.Submit([spec(1, retries=n)]), checks.LARGEST_32),
        (lambda n: m.Submit([spec(1, priority=n)]), checks.LARGEST_32),
        (lambda n: m.Submit([spec(1, depth=n)]), checks.MAX_INTEGER),
        (lambda n: m.Submit([spec(1, kind=Chunk(0, n))]), checks.MAX_INTEGER),
        (lambda n: m.Submit([spec(1, kind=Bundle(n))]), checks.MAX_BUNDLED),
        (lambda n: worker_hello(slots=n), MAX_SLOTS),
        (lambda n: m.Capacity(n), checks.MAX_INTEGER),
        (lambda n: m.Query(n, "status"), checks.MAX_INTEGER),
        (lambda n: m.Output([m.OutputChunk("c-1", "f", n, "text")]), m.STDERR),
    ],
    ids=[
        "attempt",
        "held attempt",
        "returned attempt",
        "retries",
        "priority",
        "depth",
        "stop of a chunk",
        "calls of a bundle",
        "slots",
        "capacity",
        "query",
        "stream",
    ],
)
def test_whole_numbers_have_an_end(message, largest):
    assert sent(message(largest)) == message(largest)
    rejected(message(largest + 1), rf"expected an integer from [-\d]+ to {largest}, got {largest + 1}")


@pytest.mark.parametrize(
    "message",
    [
        lambda n: m.Assign([assignment(1, 3)._replace(unbegun=n)]),
        lambda n: worker_hello(held=[m.Held("c-1", 3, True, n)]),
    ],
    ids=["assigned", "held"],
)
def test_the_present_attempt_has_begun_or_may_have(message):
    assert sent(message(2)) == message(2)
    rejected(message(3), "expected an integer from 0 to 2, got 3")


@pytest.mark.parametrize("zero", [0.0, False])
@pytest.mark.parametrize(
    "message",
    [
        lambda n: m.Assign([assignment(1)._replace(unbegun=n)]),
        lambda n: m.Submit([], [m.FunctionDef(b"key", "f", b"", epoch=n)]),
    ],
    ids=["unbegun", "epoch"],
)
def test_what_equals_zero_is_no_integer_yet(message, zero):
    sent(message(0))
    rejected(message(zero), "expected an integer from 0 to")


@pytest.mark.parametrize("field", ["seq", "ack"])
def test_the_numbers_of_a_link_have_an_end(field):
    sent(m.Heartbeat(), **{field: checks.MAX_INTEGER})
    with pytest.raises(ProtocolError, match="integer"):
        sent(m.Heartbeat(), **{field: checks.MAX_INTEGER + 1})


# --- lengths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        lambda text: m.Submit([spec(1)._replace(depends_on=("c-1", text))]),
        lambda text: m.Submit([spec(1, name=text)]),
        lambda text: m.Submit([spec(1, resources=((text, 1.0),))]),
        lambda text: worker_hello(resources={text: 1.0}),
        lambda text: worker_hello(held=[m.Held(text, 1, True)]),
        lambda text: m.ClientHello(text, "1", "3.11", "host", 1, 10.0),
        lambda text: m.ClientHello("c", "1", "3.11", text, 1, 10.0),
        lambda text: m.Watch([text]),
        lambda text: m.Cancel([m.CancelRequest(text, True)]),
        lambda text: m.Output([m.OutputChunk("c-1", text, m.STDOUT, "")]),
        lambda text: outcome(id=text),
    ],
)
def test_names_and_ids_have_a_longest(message):
    longest = "n" * MAX_NAME_LENGTH
    assert sent(message(longest)) == message(longest)
    rejected(
        message(longest + "n"), f"{MAX_NAME_LENGTH + 1} characters, at most {MAX_NAME_LENGTH} are allowed"
    )


def test_the_name_of_a_function_is_cut_when_it_is_sent():
    """Nobody has chosen it, so nobody can be asked for a shorter one."""
    long = m.FunctionDef(b"key", "n" * (MAX_NAME_LENGTH + 1), b"")
    assert sent(m.Submit([], [long])) == m.Submit([], [long._replace(name="n" * MAX_NAME_LENGTH)])
    with pytest.raises(ProtocolError, match="257 characters"):
        decode([header(m.Submit, (), (long,), ())])


def test_a_session_has_a_longest_name():
    with pytest.raises(ProtocolError, match="characters"):
        sent(m.Heartbeat(), session="s" * (MAX_NAME_LENGTH + 1))


def test_the_key_of_a_function_has_a_longest():
    longest = b"k" * checks.MAX_KEY_LENGTH
    assert sent(m.DropFunctions([longest])) == m.DropFunctions([longest])
    rejected(m.DropFunctions([longest + b"k"]), "a function's key has 257 bytes, at most 256 are allowed")


def test_a_map_has_so_many_entries():
    most = {str(n): 1.0 for n in range(checks.MAX_MAP_ENTRIES)}
    assert sent(worker_hello(resources=most)) == worker_hello(resources=most)
    rejected(worker_hello(resources={**most, "one more": 1.0}), "exceeds max_map_len")


def test_a_header_has_a_largest_size_whatever_is_in_it():
    with pytest.raises(ProtocolError, match=r"a header of 67108865 bytes; at most 67108864 are allowed"):
        decode([bytes(checks.MAX_HEADER_BYTES + 1)])


def test_a_message_has_so_many_frames():
    with pytest.raises(ProtocolError, match="more than 1048576 frames"):
        decode([header(m.Heartbeat), *[b""] * checks.MAX_FRAMES])


# --- shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [lambda value: outcome(detail={"new": value}), lambda value: m.Reply(1, value)],
    ids=["detail", "reply"],
)
def test_what_may_hold_anything_is_not_deep(message):
    rejected(message(nested(checks.MAX_DEPTH + 1)), "nested more than 32 levels deep")
    rejected(message(nested(500)), "nested more than 32 levels deep")
    sent(message(nested(checks.MAX_DEPTH - 1)))


def test_details_within_details_are_not_deep_either():
    detail: dict[str, Any] = {"error": "it failed"}
    for _ in range(checks.MAX_DEPTH):
        detail = {"need": "c-1", "need_status": m.UNMET, "need_detail": detail}
    rejected(outcome(detail=detail), "nested more than 32 levels deep")


@pytest.mark.parametrize("levels", [400, 1000, 1100, 5000, 100_000])
def test_a_header_of_brackets_is_rejected_however_many_there_are(levels):
    for bracket in (b"\x91", b"\xdd\x00\x00\x00\x01", b"\x81\xa1a"):
        with pytest.raises(ProtocolError):
            decode([bracket * levels + b"\xc0"])


def test_extension_types_are_not_for_us():
    for extension in (msgpack.ExtType(5, b"x"), msgpack.Timestamp(1), msgpack.ExtType(5, b"")):
        with pytest.raises(ProtocolError):
            decode([header(m.Reply, 1, {"at": extension}, "")])


@pytest.mark.parametrize(
    "facts",
    [
        {"error": b"bytes"},
        {"stderr": 1},
        {"element": "first"},
        {"peak_memory": "much"},
        {"attempts": "one"},
        {"need_detail": {"error": None}},
        {"need_detail": ()},
    ],
)
def test_the_facts_of_an_outcome_have_their_types(facts):
    rejected(outcome(detail=facts), r"may not be of type|expected a map")


def test_the_bytes_of_a_function_may_be_frames_as_those_of_a_payload():
    blob = (b"stream", bytes(codec.INLINE_LIMIT + 1))
    frames = encode(m.Envelope("s", 1, 0, m.Submit([], [m.FunctionDef(b"key", "f", blob)])))
    assert frames[1:] == [*blob]
    assert frames[2] is blob[1], "nothing is copied"
    assert decode(frames).message == m.Submit([], [m.FunctionDef(b"key", "f", blob)])


def test_a_function_names_a_bounded_number_of_parts_each_once():
    few, many = (tuple(b"%d" % n for n in range(count)) for count in (4096, 4097))
    good = m.FunctionDef(b"key", "f", b"", parts=few)
    assert sent(m.Submit([], [good])) == m.Submit([], [good])
    rejected(m.Submit([], [good._replace(parts=many)]), "a function has 4097 parts, at most 4096 are allowed")
    rejected(m.Submit([], [good._replace(parts=(b"a", b"a"))]), "a function names one part twice")


def test_a_function_names_a_bounded_number_of_modules():
    few, many = ("m",) * 256, ("m",) * 257
    good = m.FunctionDef(b"key", "f", b"", "", few, few)
    assert sent(m.Submit([], [good])) == m.Submit([], [good])
    for bad in (good._replace(modules=many), good._replace(ships=many)):
        rejected(m.Submit([], [bad]), "a function names 257 modules, at most 256 are allowed")


def test_an_error_does_not_show_a_whole_message():
    for wrong in ("x" * 10_000, b"x" * 10_000, ("x",) * 10_000, {"x": "x" * 10_000}):
        with pytest.raises(ProtocolError) as caught:
            decode([header(m.Capacity, wrong)])
        assert len(str(caught.value)) < 150


# --- memory -------------------------------------------------------------------------------------------------------


CLAIMS = {
    "a list": b"\xdd\xff\xff\xff\xff",
    "a short list": b"\xdc\xff\xff",
    "a map": b"\xdf\xff\xff\xff\xff",
    "a string": b"\xdb\xff\xff\xff\xff",
    "bytes": b"\xc6\xff\xff\xff\xff",
    "an extension": b"\xc9\xff\xff\xff\xff\x01",
}


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("times", [1, 300, 1000])
def test_nothing_is_allocated_for_what_is_only_claimed(claim, times):
    """Lists within lists, each of which claims to fill the rest: with msgpack alone that is gigabytes."""
    frame = CLAIMS[claim] * times + bytes(300_000)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode([frame])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(frame)


@pytest.mark.parametrize(
    "container",
    [b"\x80", b"\x81\xa0\xc0", b"\x91\xc0", b"\x91" * 400 + b"\xc0"],
    ids=["empty maps", "maps of one", "lists of one", "lists in lists"],
)
def test_much_is_not_made_of_a_message_of_lists_and_maps(container):
    """An empty map is one byte of a message, and seventy here."""
    count = 1_000_000 // len(container)
    head = header(m.Query, 1, "status")
    frame = bytes([head[0] + 1]) + head[1:] + b"\xdd" + count.to_bytes(4, "big") + container * count
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="too many lists and maps for a header of"):
            decode([frame])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 25 * len(frame)


def test_nor_of_a_very_large_one():
    count = codec.MAX_CONTAINERS + 1
    frame = (
        header(m.Query, 1, "x" * (8 * count), ())[:-1] + b"\xdd" + count.to_bytes(4, "big") + b"\x80" * count
    )
    with pytest.raises(ProtocolError, match="too many lists and maps"):
        decode([frame])


@pytest.mark.parametrize(
    "message",
    [
        m.Cancel([m.CancelRequest(f"9f3ac2e1b7d0-{n:05}-0123456789abcdef", True) for n in range(20_000)]),
        m.Submit(
            [
                spec(f"{n:05}-0123456789abcdef", resources=tuple((f"gpu{i}", 1.0) for i in range(20)))
                for n in range(5000)
            ]
        ),
    ],
    ids=["requests", "resources"],
)
def test_real_messages_are_not_of_lists_and_maps_alone(message):
    assert sent(message) == message


def test_a_payload_that_names_frames_that_are_not_there_costs_nothing():
    with pytest.raises(ProtocolError, match="names 9007199254740992 frames, which the message does not have"):
        decode([header(m.Outcomes, (("c-1", 1, 0, 2**53, 0.0, None),))])


def test_very_many_small_payloads_leave_the_header():
    count = codec.LARGE_HEADER // codec.INLINE_LIMIT + 1
    submit = m.Submit([spec(n, payload=bytes(codec.INLINE_LIMIT)) for n in range(count)])
    frames = encode(m.Envelope("s", 1, 0, submit))
    assert len(frames) == 1 + count
    assert len(frames[0]) < 100 * count
    arrived = decode(frames).message
    assert isinstance(arrived, m.Submit)
    assert [task.body.payload for task in arrived.tasks] == [(task.body.payload,) for task in submit.tasks]
