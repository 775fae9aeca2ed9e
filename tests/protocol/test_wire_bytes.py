"""The bytes on the wire of a message of each type: who changes them meets peers, and journals, that know others.

What packs messages is derived from their declarations (`protocol.messages`), so that a change there which nobody meant
for the wire would pass every test in which both ends have changed. Where one was meant, `codec.VERSION` rises, but for
a new type of message, and the bytes here change with it.
"""

from __future__ import annotations

import pytest

from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import INLINE_LIMIT, KINDS, decode, encode
from jobrunner.protocol.wire.kinds import Bundle, Chunk

KEY, OTHER_KEY = b"\x01key", b"\x02key"
OPTIONS = m.TaskOptions("named", -1, 2, 3.5, (("gpu", 0.5),), True, b"classes", False, 0.25, True)
DEFINITION = m.FunctionDef(KEY, "f", b"blob", "3.11", ("numpy",), ("torch",), (OTHER_KEY,), 2)
LARGE = (b"pickle", b"buffer")
DETAIL = {"error": "it failed", "attempts": ("one",), "need_detail": None, "new": {"a": (1, b"x")}}
OUTCOMES = [
    m.Outcome("c-1", 1, m.OK, b"result", 0.5),
    m.Outcome("c-2", 2, m.ERROR, LARGE, 0.0, DETAIL),
]

MESSAGES: list[m.Message] = [
    m.ClientHello("c", "1.0", "3.11", "host", 77, 10.0, False, 3, "d-1"),
    m.WorkerHello(
        "w", "1.0", "3.11", "name", "host", 77, 10.0, 2, {"gpu": 1.5}, [m.Held("c-1", 2, True, 1)], 3
    ),
    m.Welcome("coo", "1.0", 4, 1000, 2**24, "session", 2**30, 5),
    m.Submit(
        [
            m.TaskSpec("c-1", m.CallBody(KEY, b"payload")),
            m.TaskSpec("c-2", m.CallBody(KEY, LARGE, Chunk(0, 9), OPTIONS, OTHER_KEY, 1), ("c-1",)),
            m.TaskSpec("c-3", m.CallBody(KEY, bytes(INLINE_LIMIT + 1), Bundle(64))),
        ],
        [DEFINITION, m.FunctionDef(OTHER_KEY, "g", LARGE)],
        [OTHER_KEY],
    ),
    m.ResubmissionComplete(),
    m.Cancel([m.CancelRequest("c-1", True)]),
    m.CancelRefused(["c-1", "c-2"]),
    m.Query(7, "tasks", "running 5"),
    m.Reply(7, {"tasks": ({"id": "c-1"},), "more": None}, "an error"),
    m.Assign(
        [
            m.Assignment("c-1", 1, m.CallBody(KEY, b"payload")),
            m.Assignment(
                "c-2", 3, m.CallBody(KEY, LARGE, Chunk(0, 9), OPTIONS, OTHER_KEY, 1), (b"value", LARGE), 2
            ),
        ],
        [DEFINITION],
        "owner",
    ),
    m.DropFunctions([KEY, OTHER_KEY]),
    m.Outcomes(OUTCOMES),
    m.Running(["c-1"]),
    m.TasksReturned([("c-1", 2)], ["numpy"], True),
    m.Capacity(70_000),
    m.Output([m.OutputChunk("c-1", "f", m.STDERR, "half a pair: \ud800\n")]),
    m.Drain(),
    m.Goodbye("farewell"),
    m.Heartbeat(),
    m.Reset(),
    m.Refused("go away", "AuthenticationError"),
    m.Watch(["c-1"]),
    m.Accepted(["c-1"]),
    m.ResultRequest(["c-1"]),
    m.ResultReply(OUTCOMES, ["c-3"]),
    m.Join("key", "name", "client"),
    m.Joined("name"),
    m.Divide(["c-1"]),
    m.Stuck("all wait"),
    m.Waits([m.Wait("c-1", ("c-2", "c-3"), False)]),
]
"""One of each type, in the order of their numbers; as far as possible, no field is what it is by default."""

HEADERS = """
9e08a173050400a163a3312e30a4332e3131a4686f73744dcb4024000000000000c203a3642d31
dc001008a173050401a177a3312e30a4332e3131a46e616d65a4686f73744dcb40240000000000000281a3677075cb3ff8000000000000
    9194a3632d3102c30103
9d08a173050402a3636f6fa3312e3004cd03e8ce01000000a773657373696f6ece4000000005
9808a1730504039398a3632d31c404016b6579c4077061796c6f6164c0c0c0009098a3632d32c404016b6579029200099aa56e616d6564
    ff02cb400c0000000000009192a3677075cb3fe0000000000000c3c407636c6173736573c2cb3fd0000000000000c3c404026b65790191
    a3632d3198a3632d33c404016b6579019140c0c000909298c404016b6579a166c404626c6f62a4332e313191a56e756d707991a5746f7263
    6891c404026b65790298c404026b6579a16702a09090900091c404026b6579
9508a173050404
9608a1730504059192a3632d31c3
9608a17305040692a3632d31a3632d32
9808a17305040707a57461736b73a972756e6e696e672035
9808a1730504080782a57461736b739181a26964a3632d31a46d6f7265c0a8616e206572726f72
9808a173050409929aa3632d3101c404016b6579c4077061796c6f6164c0c0c00090009aa3632d3203c404016b6579029200099aa56e61
    6d6564ff02cb400c0000000000009192a3677075cb3fe0000000000000c3c407636c6173736573c2cb3fd0000000000000c3c404026b65
    790192c40576616c756502029198c404016b6579a166c404626c6f62a4332e313191a56e756d707991a5746f72636891c404026b657902
    a56f776e6572
9608a17305040a92c404016b6579c404026b6579
9608a17305040b9296a3632d310100c406726573756c74cb3fe0000000000000c096a3632d32020102cb000000000000000084a5657272
    6f72a96974206661696c6564a8617474656d70747391a36f6e65ab6e6565645f64657461696cc0a36e657781a1619201c40178
9608a17305040c91a3632d31
9808a17305040d9192a3632d310291a56e756d7079c3
9608a17305040ece00011170
9608a17305040f9194a3632d31a16602b168616c66206120706169723a20eda0800a
9508a173050410
9608a173050411a86661726577656c6c
9508a173050412
9508a173050413
9708a173050414a7676f2061776179b341757468656e7469636174696f6e4572726f72
9608a17305041591a3632d31
9608a17305041691a3632d31
9608a17305041791a3632d31
9708a1730504189296a3632d310100c406726573756c74cb3fe0000000000000c096a3632d32020102cb000000000000000084a5657272
    6f72a96974206661696c6564a8617474656d70747391a36f6e65ab6e6565645f64657461696cc0a36e657781a1619201c4017891a3632d
    33
9808a173050419a36b6579a46e616d65a6636c69656e74
9608a17305041aa46e616d65
9608a17305041b91a3632d31
9608a17305041ca8616c6c2077616974
9608a17305041d9193a3632d3192a3632d32a3632d33c2
"""
"""Of each of these, in an Envelope("s", 5, 4, ...); further lines of one are indented."""


def headers() -> list[bytes]:
    return [bytes.fromhex(header) for header in HEADERS.replace("\n    ", "").split()]


def test_there_is_one_of_each_type_here():
    assert [type(message) for message in MESSAGES] == [*KINDS]
    assert len(headers()) == len(KINDS)


@pytest.mark.parametrize("number", range(len(KINDS)), ids=[kind.__name__ for kind in KINDS])
def test_a_message_has_these_bytes(number):
    frames = encode(m.Envelope("s", 5, 4, MESSAGES[number]))
    assert frames[0] == headers()[number]
    assert encode(decode(frames)) == frames


def test_large_payloads_are_frames_in_the_order_of_the_header():
    frames = encode(m.Envelope("s", 5, 4, next(x for x in MESSAGES if isinstance(x, m.Submit))))
    assert frames[1:] == [*LARGE, bytes(INLINE_LIMIT + 1), *LARGE]
    frames = encode(m.Envelope("s", 5, 4, next(x for x in MESSAGES if isinstance(x, m.Assign))))
    assert frames[1:] == [*LARGE, *LARGE]


if __name__ == "__main__":  # what stands in HEADERS above, for a new version
    for message in MESSAGES:
        header = encode(m.Envelope("s", 5, 4, message))[0].hex()
        print("\n    ".join(header[start : start + 110] for start in range(0, len(header), 110)))
