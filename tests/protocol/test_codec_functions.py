from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgpack
import pytest

from jobrunner.errors import ProtocolError
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.checks import Count, Entries, Length, Name, Slots
from jobrunner.protocol.wire.codec import KINDS, VERSION, decode
from jobrunner.protocol.wire.codec_functions import HEAD, fields_of, message_reader, message_writer


class Point(NamedTuple):
    label: Name
    more: Any


class Bare(NamedTuple):
    number: int


class Misplaced(NamedTuple):
    number: Slots | str


@dataclass
class Unlimited:
    entries: list[Bare]


@dataclass
class Undecided:
    entries: Entries[Misplaced]


@dataclass
class OfAnything:
    point: Entries[Point]


@dataclass
class LimitOfOneEntry:
    names: Annotated[list[str], Length(3, "a name has {} characters")]


@dataclass
class TwoLimits:
    name: Annotated[Name, Length(3, "a name has {} characters")]


@dataclass
class Alone:
    pair: tuple[Count, Count]


@dataclass
class Shadow:
    len: Count


@pytest.mark.parametrize("message", [Unlimited, Undecided, OfAnything])
def test_a_field_says_what_it_may_hold(message):
    with pytest.raises(TypeError, match="without a limit for it"):
        message_reader(message)


@pytest.mark.parametrize("message", [LimitOfOneEntry, TwoLimits])
def test_a_limit_that_would_not_be_checked_is_an_error(message):
    with pytest.raises(TypeError, match="a Length has no effect here"):
        message_reader(message)


def test_a_pair_stands_in_a_list():
    with pytest.raises(TypeError, match="pair: a record stands in an entry of a list"):
        message_reader(Alone)


def test_a_field_does_not_hide_what_the_compiled_code_calls():
    for make in (message_reader, lambda message: message_writer(message, 1, 1)):
        with pytest.raises(TypeError, match="'len'"):
            make(Shadow)


@pytest.mark.parametrize("kind", [k for k in KINDS if fields_of(k) and k is not m.Refused])
def test_nothing_may_be_missing_at_the_end(kind):
    number, count = KINDS.index(kind), len(fields_of(kind))
    for there in range(count):
        with pytest.raises(ProtocolError, match=f"too few fields for {kind.__name__}: {there} of {count}"):
            decode([msgpack.packb([VERSION, "s", 1, 0, number, *[None] * there])])


def test_a_traceback_shows_the_line_in_which_a_value_was_refused():
    read = message_reader(m.Capacity)
    with pytest.raises(ProtocolError) as caught:
        read((*[None] * HEAD, -1), None)
    shown = "".join(traceback.format_exception(caught.value))
    assert "<jobrunner.protocol: reads Capacity>" in shown
    assert "type(slots) is int and 0 <= slots <=" in shown
