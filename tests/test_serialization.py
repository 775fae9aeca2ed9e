"""Each stage at which pickling can fail, and the rules that keep functions from going stale."""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
import types

import numpy as np
import pytest
import zoo

from jobrunner.calls import serialization as s
from jobrunner.errors import SerializationError
from jobrunner.protocol.wire.payloads import payload_size

HERE = sys.version_info[:2]


def call(fn, *args):
    return s.load_function(s.dump_function(fn).blob)(*args)


# --- functions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [zoo.add, math.gcd, divmod, os.path.join, zoo.Counter, str.upper, dict])
def test_importable_functions_go_by_reference(fn):
    dumped = s.dump_function(fn)
    assert dumped.blob[0] == s.BY_REFERENCE
    assert s.load_function(dumped.blob) is fn
    assert dumped == s.dump_function(fn)
    assert len(dumped.blob) < 80


def test_the_key_is_a_hash_of_the_blob():
    assert s.dump_function(zoo.add).key != s.dump_function(zoo.echo).key
    assert len(s.dump_function(zoo.add).key) == 16


def test_lambdas_and_closures_go_by_value():
    factor = 3
    dumped = s.dump_function(lambda x: x * factor)
    assert dumped.blob[0] == s.BY_VALUE
    assert s.load_function(dumped.blob)(5) == 15


def test_a_changed_closure_cell_is_never_stale():
    factor = 1

    def scaled(x):
        return x * factor

    first = s.dump_function(scaled)
    factor = 2
    second = s.dump_function(scaled)
    assert first.key != second.key
    assert (s.load_function(first.blob)(5), s.load_function(second.blob)(5)) == (5, 10)


def test_a_changed_global_is_never_stale():
    space: dict[str, object] = {"__name__": "__main__", "SCALE": 1}
    exec("def scaled(x): return x * SCALE", space)
    first = s.dump_function(space["scaled"])
    space["SCALE"] = 2
    second = s.dump_function(space["scaled"])
    assert (s.load_function(first.blob)(5), s.load_function(second.blob)(5)) == (5, 10)


def test_a_function_redefined_under_its_name_is_never_stale(monkeypatch):
    module = types.ModuleType("redefined")
    monkeypatch.setitem(sys.modules, "redefined", module)
    exec("def fn(): return 1", module.__dict__)
    old = module.fn
    by_reference = s.dump_function(old)
    exec("def fn(): return 2", module.__dict__)
    assert by_reference.blob[0] == s.BY_REFERENCE
    assert s.dump_function(old).blob[0] == s.BY_VALUE, "its name now means something else"
    assert call(old) == 1
    assert call(module.fn) == 2


def test_a_function_that_was_renamed_is_not_found_under_its_old_name(monkeypatch):
    module = types.ModuleType("renaming")
    monkeypatch.setitem(sys.modules, "renaming", module)
    exec("def one(): return 1\ndef two(): return 2", module.__dict__)
    s.dump_function(module.one)
    module.one.__qualname__ = "two"
    assert call(module.one) == 1


def test_partials_methods_and_callable_objects_carry_their_state():
    counter = zoo.Counter(10)
    assert call(counter) == 11
    counter.count = 20
    assert call(counter) == 21
    assert call(counter.next) == 21
    assert call(functools.partial(zoo.add, 1, right=2)) == 3
    assert call(functools.partial(lambda x: x + 1, 1)) == 2


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (zoo.add, "add"),
        (functools.partial(functools.partial(zoo.add, 1), 2), "add"),
        (zoo.Counter(1), "Counter"),
        (zoo.Counter(1).next, "Counter.next"),
        (math.gcd, "gcd"),
    ],
)
def test_names(fn, name):
    assert s.dump_function(fn).name == name


def test_a_module_registered_by_value_is_sent_along():
    import cloudpickle

    cloudpickle.register_pickle_by_value(zoo)
    try:
        assert s.dump_function(zoo.add).blob[0] == s.BY_VALUE
    finally:
        cloudpickle.unregister_pickle_by_value(zoo)
    assert s.dump_function(zoo.add).blob[0] == s.BY_REFERENCE


def test_an_unpicklable_function_is_named():
    with pytest.raises(SerializationError, match=r"partial|echo"):
        s.dump_function(functools.partial(zoo.echo, threading.Lock()))


def test_another_python_version_is_refused_for_by_value_only():
    by_value, by_reference = s.dump_function(lambda: 1).blob, s.dump_function(zoo.add).blob
    foreign = bytes((3, 99))
    with pytest.raises(SerializationError, match=rf"3\.99.*{HERE[0]}\.{HERE[1]}"):
        s.load_function(by_value[:1] + foreign + by_value[3:])
    assert s.load_function(by_reference[:1] + foreign + by_reference[3:]) is zoo.add


def test_a_missing_module_is_named_with_what_to_do(monkeypatch):
    module = types.ModuleType("only_here")
    monkeypatch.setitem(sys.modules, "only_here", module)
    exec("def fn(): return 1", module.__dict__)
    blob = s.dump_function(module.fn).blob
    monkeypatch.delitem(sys.modules, "only_here")
    with pytest.raises(SerializationError, match=r"module 'only_here'.*install it"):
        s.load_function(blob)


def test_an_initializer_is_a_function_without_arguments():
    dumped = s.dump_initializer(zoo.add, (1, 2))
    assert dumped.name == "add"
    assert s.load_function(dumped.blob)() == 3


# --- calls and results ------------------------------------------------------------------------------------


def test_an_argument_of_an_initializer_that_cannot_be_pickled_is_named():
    with pytest.raises(SerializationError) as caught:
        s.dump_initializer(zoo.add, (1, threading.Lock()))
    assert "cannot pickle argument 1 of add, of type _thread.lock" in str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_what_needs_a_module_that_is_not_here_says_where_and_what_to_do():
    with pytest.raises(
        SerializationError,
        match=r"the arguments cannot be unpickled on .* \(Python 3.*\), which lacks the module 'no_such_module':"
        r" install it there, or ship it with Executor\(\.\.\., ship=\[no_such_module\]\)",
    ):
        s.load_call(b"cno_such_module\nthing\n.")


def test_a_function_with_something_that_does_not_unpickle_is_not_blamed_alone():
    blob = s.dump_initializer(zoo.add, (1, zoo.FailsOnUnpickle())).blob
    with pytest.raises(SerializationError, match=r"the function, or an object in it, could not be unpickled"):
        s.load_function(blob)


def test_small_calls_are_plain_bytes():
    payload = s.dump_call((1, "two"), {"three": [4]}, snapshot=True)
    assert isinstance(payload, bytes)
    assert s.load_call(payload) == ((1, "two"), {"three": [4]})


def test_large_pickles_and_buffers_travel_apart():
    array = np.arange(100_000)
    small = np.arange(10)
    payload = s.dump_call((array, small), {}, snapshot=False)
    assert isinstance(payload, tuple)
    assert len(payload) == 2
    assert payload_size(payload) == pytest.approx(array.nbytes, rel=0.01)
    (loaded, _), _ = s.load_call(payload)
    assert (loaded == array).all()
    assert isinstance(s.dump_result(b"x" * 100_000), tuple)
    assert s.load_result(s.dump_result(b"x" * 100_000)) == b"x" * 100_000


def test_a_snapshot_does_not_see_later_changes():
    array = np.zeros(100_000)
    fixed, live = (s.dump_call((array,), {}, snapshot=snapshot) for snapshot in (True, False))
    array[0] = 1
    assert s.load_call(fixed)[0][0][0] == 0
    assert s.load_call(live)[0][0][0] == 1


@pytest.mark.parametrize("size", [10, 100_000])
def test_arrays_arrive_writable_exactly_where_they_were(size):
    array = np.zeros(size)
    frozen = np.zeros(size)
    frozen.flags.writeable = False
    one, two = s.load_result(s.dump_call((array, frozen), {}, snapshot=True))[0]
    assert (one.flags.writeable, two.flags.writeable) == (True, False)
    one[0] = 1


def test_lambdas_among_arguments_with_large_arrays():
    array = np.arange(100_000)
    (loaded, fn), _ = s.load_call(s.dump_call((array, lambda x: x + 1), {}, snapshot=True))
    assert (loaded == array).all()
    assert fn(1) == 2


def test_the_argument_that_cannot_be_pickled_is_named():
    with pytest.raises(SerializationError, match=r"argument 1, of type _thread\.lock") as caught:
        s.dump_call((1, threading.Lock()), {}, snapshot=True)
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(SerializationError, match=r"argument 'bad', of type zoo\.FailsOnPickle.*will not be"):
        s.dump_call((), {"bad": zoo.FailsOnPickle()}, snapshot=True)
    with pytest.raises(SerializationError, match=r"result, of type _thread\.lock"):
        s.dump_result(threading.Lock())


def test_unpickling_failures_say_where():
    payload = s.dump_call((zoo.FailsOnUnpickle(),), {}, snapshot=True)
    with pytest.raises(
        SerializationError, match=r"arguments could not be unpickled on .*will not be unpickled"
    ):
        s.load_call(payload)
    with pytest.raises(SerializationError, match="result"):
        s.load_result(s.dump_result(zoo.FailsOnUnpickle()))


# --- exceptions -------------------------------------------------------------------------------------------


def travelled(fn, *args):
    """What arrives of the exception that fn raises."""
    try:
        fn(*args)
    except BaseException as exc:
        return s.load_exception(s.dump_exception(exc))


def test_exceptions_arrive_as_raised_with_the_whole_chain_as_text():
    exc = travelled(zoo.raise_chained)
    assert type(exc) is ValueError
    assert exc.args == ("second",)
    text = str(exc.__cause__)
    assert "KeyError: 'first'" in text
    assert "direct cause" in text
    assert "in raise_chained" in text


@pytest.mark.parametrize("fn", [zoo.raise_two_arguments, zoo.raise_unpicklable])
def test_exceptions_that_cannot_travel_keep_type_text_and_traceback(fn):
    exc = travelled(fn)
    assert isinstance(exc, SerializationError)
    assert "zoo.TwoArgumentsError: 7: seven" in str(exc) or "zoo.UnpicklableError: holds a lock" in str(exc)
    assert fn.__name__ in str(exc.__cause__)


def test_an_exception_without_text_arrives():
    exc = travelled(zoo.raise_str_fails)
    assert type(exc) is zoo.StrFailsError
    assert exc.args == ("hidden",)


@pytest.mark.parametrize(
    ("fn", "kind"),
    [(lambda: zoo.exit_with(4), SystemExit), (zoo.raise_keyboard_interrupt, KeyboardInterrupt)],
)
def test_exits_and_interrupts_are_exceptions_like_others(fn, kind):
    assert type(travelled(fn)) is kind


def test_an_exception_class_that_is_missing_here_becomes_text(monkeypatch):
    module = types.ModuleType("elsewhere")
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    exec("class OwnError(Exception): pass", module.__dict__)
    payload = s.dump_exception(module.OwnError("hello"))
    monkeypatch.delitem(sys.modules, "elsewhere")
    exc = s.load_exception(payload)
    assert isinstance(exc, SerializationError)
    assert "elsewhere.OwnError: hello" in str(exc)


def test_a_local_exception_class_is_the_same_class_on_return():
    class LocalError(Exception):
        pass

    assert type(s.load_exception(s.dump_exception(LocalError("x")))) is LocalError


def test_damaged_exceptions_become_an_error():
    assert isinstance(s.load_exception(b"garbage"), SerializationError)


class Frozen(Exception):
    """As a frozen dataclass."""

    def __init__(self, number):
        vars(self)["number"] = number
        super().__init__(number)

    def __setattr__(self, name, value):
        raise AttributeError(f"cannot assign to {name}")


class WithAState(Frozen):
    def __setstate__(self, state):
        raise ValueError("its own way")


def raise_frozen(kind):
    raise kind(7)


def test_an_exception_that_refuses_attributes_arrives_all_the_same():
    exc = travelled(raise_frozen, Frozen)
    assert type(exc) is Frozen
    assert exc.number == 7
    assert exc.args == (7,)
    assert isinstance(exc.__cause__, s.RemoteTraceback)
    assert s.without_frames_of((__file__,), exc) is exc
    assert isinstance(travelled(raise_frozen, WithAState), SerializationError)


class EndsTheReader(Exception):
    def __reduce__(self):
        return _end_unless_first, (os.getpid(),)


_seen = []


def _end_unless_first(pid):
    if _seen:
        raise SystemExit(3)
    _seen.append(pid)
    return ValueError("read once")


def test_loading_an_exception_never_fails():
    stream = s.dump_exception(EndsTheReader())
    exc = s.load_exception(stream)
    assert isinstance(exc, SerializationError)
    assert "SystemExit" in str(exc)
