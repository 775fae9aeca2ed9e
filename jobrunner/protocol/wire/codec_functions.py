"""Functions that pack a record, and that unpack and check it, derived from its declaration (see `messages`).

The functions are written as source text and compiled, as in `dataclasses`, so that a message of hundreds of calls is
checked in one pass in which a legal value costs no call. Tracebacks show that text, and

    python -m jobrunner.protocol.wire.codec_functions Submit

prints it. In the text, fields are variables of their own names, and names that begin with an underscore come from this
module. `codec` creates the functions when the first message of a type is sent or received, because a process uses only
some types.
"""

from __future__ import annotations

import builtins
import linecache
import sys
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import cache, partial
from types import FunctionType, NoneType, UnionType
from typing import Annotated, Any, NewType, NoReturn, Union, get_args, get_origin, get_type_hints

from jobrunner.errors import ProtocolError
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.checks import (
    NAME,
    AtMost,
    Cut,
    Different,
    LeftOut,
    Length,
    Limit,
    mapping,
    sequence,
    shown,
    wrong_type,
)
from jobrunner.protocol.wire.payloads import Payload

HEAD = 5
"""Number of fields of a header before those of its message: version, session, seq, ack, number of the type."""

UNUSED_BUILTINS = {"id"}
"""The names of fields that are also names of built-in functions, which the compiled code does not call."""

new_tuple = tuple.__new__
"""The function that the class of a NamedTuple calls in the end; calling the class itself takes three times as long."""


class Declared:
    """The declared type of a field: its class, its limits, and whether the field may be None."""

    def __init__(self, hint: Any) -> None:
        self.optional = False
        self.marks: tuple[Any, ...] = ()
        while True:
            origin, args = get_origin(hint), get_args(hint)
            if origin is Annotated:
                hint, self.marks = args[0], self.marks + args[1:]
            elif origin in (Union, UnionType) and NoneType in args:
                (hint,) = [arg for arg in args if arg is not NoneType]
                self.optional = True
            elif isinstance(hint, NewType):
                hint, self.marks = hint.__supertype__, self.marks or (NAME,)
            else:
                break
        self.hint = hint
        self.kind = origin or hint
        """The class; it is list for list[int]."""
        self.args = args
        self._refuse_marks_without_effect()

    def _refuse_marks_without_effect(self) -> None:
        if any(isinstance(mark, FunctionType) for mark in self.marks):
            known: tuple[type, ...] = (FunctionType, LeftOut)
        elif self.fields is not None:
            known = (LeftOut,)
        else:
            known = {list: (AtMost,), tuple: (AtMost, Different)}.get(self.kind, (Limit, Cut))
        for mark in self.marks:
            if not isinstance(mark, known) or sum(type(mark) is type(other) for other in self.marks) > 1:
                raise TypeError(f"{self.hint}: a {type(mark).__name__} has no effect here")

    def mark(self, kind: type) -> Any:
        """Return the limit or other mark of this class, or None."""
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)

    @property
    def fields(self) -> dict[str, Any] | None:
        """The names and types of the contents of a record or of a tuple of fixed length, in their order."""
        if self.kind is tuple and self.args[-1] is not ...:
            return {f"entry_{number}": arg for number, arg in enumerate(self.args)}
        return fields_of(self.kind) if hasattr(self.kind, "_fields") else None

    @property
    def inlined(self) -> dict[str, Any] | None:
        """Return the fields of a record whose fields stand in the place of the record itself."""
        return None if self.optional or self.mark(LeftOut) else self.fields


@cache
def fields_of(record: type) -> dict[str, Any]:
    """Return the fields of a dataclass or NamedTuple, in their order, with their types."""
    hints = get_type_hints(record, include_extras=True)
    if taken := hints.keys() & vars(builtins).keys() - UNUSED_BUILTINS:
        raise TypeError(f"{record.__name__}: {taken} may mean something else in the code that is compiled")
    return hints


def flattened(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the fields of inlined records in the place of these."""
    flat: dict[str, Any] = {}
    for name, hint in fields.items():
        inner = Declared(hint).inlined
        more = {name: hint} if inner is None else flattened(inner)
        if taken := flat.keys() & more.keys():
            raise TypeError(f"{taken} would be two fields of one record")
        flat |= more
    return flat


def target(fields: dict[str, Any]) -> str:
    """Return the text that takes a record apart, down to the fields of inlined records."""
    inner = {name: Declared(hint).inlined for name, hint in fields.items()}
    return ", ".join([name if within is None else f"({target(within)})" for name, within in inner.items()])


class Code:
    """The source text of one function, and the objects that it names."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.has_payloads = False

    def name(self, what: str, value: Any) -> str:
        """Return the name of an object in the text: `what`, with a number if another object has that name."""
        name, number = what, 1
        while self.objects.setdefault(name, value) is not value:
            number += 1
            name = f"{what}_{number}"
        return name

    def compiled(self, text: str, title: str) -> Callable[..., Any]:
        file = f"<jobrunner.protocol: {title}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec"), self.objects)
        function: Callable[..., Any] = self.objects["function"]
        return function

    # --- packing: expressions for what msgpack is given; the variable itself where it takes that ------------------

    def write(self, hint: Any, value: str) -> str:
        declared = Declared(hint)
        written = self._write(declared, value)
        if declared.optional and written != value:
            return f"(None if {value} is None else {written})"
        return written

    def _write(self, declared: Declared, value: str) -> str:
        if declared.hint == Payload:
            self.has_payloads = True
            return f"({value} if type({value}) is bytes and len({value}) <= _inline else _payload({value}))"
        if declared.mark(Cut):
            return f"{value}[:{declared.mark(Length).most}]"
        if left_out := declared.mark(LeftOut):
            default = self.name("_default", left_out.default)
            return f"(None if {value} is {default} or {value} == {default} else {value})"
        if declared.mark(FunctionType):
            return value
        if declared.kind is Mapping:
            return f"dict({value})"
        if declared.kind in (list, tuple) and declared.fields is None:
            return self._write_all(declared.args[0], value)
        return value

    def _write_all(self, entry: Any, values: str) -> str:
        """Return the text that writes all entries of a list, or of a tuple of any length."""
        fields = Declared(entry).fields
        if fields is None:
            each = f"{values}_entry"
            written = self.write(entry, each)
        else:
            each = target(fields)
            written = ", ".join([self.write(hint, name) for name, hint in flattened(fields).items()])
        if written == each:
            return values
        if fields is not None:
            written = f"({written})"
        return f"[{block(written, f'for {each} in {values}')}]"

    # --- unpacking: expressions for what is legal in a variable; anything else there raises a ProtocolError -------

    def read(self, hint: Any, value: str) -> str:
        declared = Declared(hint)
        read = self._read(declared, value)
        return f"(None if {value} is None else {read})" if declared.optional else read

    def _read(self, declared: Declared, value: str) -> str:
        kind = declared.kind
        if declared.hint == Payload:
            self.has_payloads = True
            return f"({value} if type({value}) is bytes else _payload({value}))"
        check = declared.mark(FunctionType)
        if left_out := declared.mark(LeftOut):
            read = self.name("_record", check or record_reader(kind))
            return f"({self.name('_default', left_out.default)} if {value} is None else {read}({value}))"
        if check:
            return f"{self.name('_' + check.__name__, check)}({value})"
        if declared.fields is not None:
            raise TypeError(
                f"{value}: a record stands in an entry of a list, or is LeftOut where it is the default"
            )
        if kind is Mapping:
            what, entry = declared.args
            pairs = f"{self.name('_mapping', mapping)}({value}).items()"
            return f"{{{self.read(what, 'key')}: {self.read(entry, 'entry')} for key, entry in {pairs}}}"
        if kind is list:
            return f"[{self._read_all(declared, value)}]"
        if kind is tuple:
            read = f"tuple([{self._read_all(declared, value)}])"
            if different := declared.mark(Different):
                read = f"{self.name('_different', different.checked)}({read})"
            return f"(() if {value} == () else {read})"
        return self._read_scalar(declared, value)

    def _read_all(self, declared: Declared, values: str) -> str:
        """Return the inside of a comprehension that reads a list, or a tuple of any length."""
        limit, entry = declared.mark(AtMost), declared.args[0]
        checked = self.name("_limited", limit.checked) if limit else self.name("_sequence", sequence)
        entries = f"{checked}({values})"
        fields = Declared(entry).fields
        if fields is None:
            each = f"{values}_entry"
            read = self.read(entry, each)
        else:
            each = ", ".join(flattened(fields))
            entries = f"map({self.name('_sequence', sequence)}, {entries})"
            read = self.record(Declared(entry).kind, fields)
        return block(read, f"for {each} in {entries}")

    def record(self, kind: type, fields: dict[str, Any]) -> str:
        """Return the text that creates a record, or a tuple of fixed length, from the variables of its fields."""
        read = block(*[f"{self._read_field(hint, name)}," for name, hint in fields.items()])
        if kind is tuple:
            return f"({read})"
        return f"{self.name('_new', new_tuple)}({self.name('_' + kind.__name__, kind)}, ({read}))"

    def _read_field(self, hint: Any, value: str) -> str:
        declared = Declared(hint)
        inner = declared.inlined
        return self.read(hint, value) if inner is None else self.record(declared.kind, inner)

    def _read_scalar(self, declared: Declared, value: str) -> str:
        kind, limit = declared.kind, declared.mark(Limit)
        if kind is bool:
            return f"({value} if type({value}) is bool else {self.name('_not_bool', not_bool)}({value}))"
        if isinstance(kind, type) and issubclass(kind, IntEnum):
            members = self.name(f"_{value}_by_number", tuple(kind))
            refuse = self.name(f"_refuse_{value}", partial(no_member, kind))
            return f"({members}[{value}] if type({value}) is int and 0 <= {value} < {len(kind)} else {refuse}({value}))"
        if limit is None or kind not in limit.types:
            raise TypeError(f"{value}: a message holds no {declared.hint} without a limit for it")
        refuse = self.name(f"_refuse_{value}", partial(limit.refuse, kind))
        return f"({value} if {limit.test(value, kind)} else {refuse}({limit.arguments(value)}))"


def no_member(kind: type[IntEnum], value: Any) -> NoReturn:
    raise ProtocolError(f"there is no {kind.__name__.lower()} {shown(value)}")


def not_bool(value: Any) -> NoReturn:
    wrong_type(bool, value)


def writer_text(code: Code, message: type, version: int, number: int) -> str:
    """Return a function from an envelope to its header for msgpack; it passes frames of payloads to the `Writer`."""
    fields = fields_of(message)
    head = [str(version), "_envelope.session", "_envelope.seq", "_envelope.ack", str(number)]
    written = [f"{code.write(hint, name)}," for name, hint in fields.items()]
    lines = ["_message = _envelope.message"] if fields else []
    lines += [f"{name} = _message.{name}" for name in fields]
    if code.has_payloads:
        lines.append("_payload, _inline = _writer.payload, _writer.inline_limit")
    return function_text("_envelope, _writer", *lines, f"return ({block(', '.join(head) + ',', *written)})")


def reader_text(code: Code, message: type) -> str:
    """Return a function from an unpacked header to its message; it takes frames of payloads from the `Reader`."""
    fields = fields_of(message)
    read = [f"{code.read(hint, name)}," for name, hint in fields.items()]
    lines = []
    if fields:
        lines += ["try:", *[f"    {name} = _head[{number}]" for number, name in enumerate(fields, HEAD)]]
        lines += ["except IndexError:", f"    {code.name('_too_few', partial(too_few, message))}(_head)"]
    if code.has_payloads:
        lines.append("_payload = _reader.payload")
    return function_text("_head, _reader", *lines, f"return {code.name('_message', message)}({block(*read)})")


def function_text(parameters: str, *lines: str) -> str:
    return f"def function({parameters}):{block(*lines)}"


def block(*lines: str) -> str:
    """Return lines of source text with a larger indentation."""
    return "".join(["\n    " + line.replace("\n", "\n    ") for line in lines]) + "\n" if lines else ""


def too_few(message: type, head: tuple[Any, ...]) -> NoReturn:
    """Raise the error for missing fields; additional fields of a later version are ignored."""
    there = len(head) - HEAD
    raise ProtocolError(f"too few fields for {message.__name__}: {there} of {len(fields_of(message))}")


def message_writer(
    message: type[m.Message], version: int, number: int
) -> Callable[[m.Envelope, Any], tuple[Any, ...]]:
    code = Code()
    return code.compiled(writer_text(code, message, version, number), f"writes {message.__name__}")


def message_reader(message: type[m.Message]) -> Callable[[tuple[Any, ...], Any], m.Message]:
    code = Code()
    return code.compiled(reader_text(code, message), f"reads {message.__name__}")


@cache
def record_reader(record: type) -> Callable[[Any], Any]:
    """Return the function that unpacks and checks a record outside of a message, without a payload in it."""
    code, fields = Code(), fields_of(record)
    names = f"{', '.join(fields)} = {code.name('_sequence', sequence)}(_value)"
    text = function_text("_value", names, f"return {code.record(record, fields)}")
    return code.compiled(text, f"reads {record.__name__}")


def value_functions(hint: Any, title: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the functions that pack, and that unpack and check, a value of this declared type without a payload."""
    writes, reads = Code(), Code()
    return (
        writes.compiled(function_text("value", f"return {writes.write(hint, 'value')}"), f"writes {title}"),
        reads.compiled(function_text("value", f"return {reads.read(hint, 'value')}"), f"reads {title}"),
    )


if __name__ == "__main__":
    for message in [getattr(m, name) for name in sys.argv[1:]]:
        print(writer_text(Code(), message, 0, 0), reader_text(Code(), message), sep="\n")
