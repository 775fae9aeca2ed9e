"""Functions that go by value are pickled again whenever anything in them may have changed, and else not."""

from __future__ import annotations

import math
import sys
import types

import cloudpickle
import pytest
import zoo

from jobrunner.calls import serialization as s
from jobrunner.script import pickler


def there(fn):
    """The function that another process would have."""
    return s.load_function(s.dump_function(fn).blob)


def namespace(**names):
    """Globals that no other process can import."""
    return {"__name__": "__main__", "__builtins__": __builtins__, **names}


def define(code, **names):
    variables = namespace(**names)
    exec(code, variables)
    return variables


def rebind_a_closed_over_name():
    value = 1

    def fn():
        return value

    def change():
        nonlocal value
        value = 2

    return fn, change


def change_a_list_that_is_closed_over():
    values = [1]
    return lambda: values[0], lambda: values.__setitem__(0, 2)


def change_a_list_in_a_tuple():
    values = ([1],)
    return lambda: values[0][0], lambda: values[0].__setitem__(0, 2)


def rebind_a_global():
    variables = define("def fn(): return value", value=1)
    return variables["fn"], lambda: variables.update(value=2)


def rebind_a_global_of_a_function_inside():
    variables = define("def fn(): return [value for _ in range(1)][0]", value=1)
    return variables["fn"], lambda: variables.update(value=2)


def define_a_name_that_was_missing():
    variables = define("def fn(): return value if 'value' in globals() else 1")
    return variables["fn"], lambda: variables.update(value=2)


def shadow_a_builtin():
    variables = define("def fn(): return abs(-1)")
    return variables["fn"], lambda: variables.update(abs=lambda _: 2)


def change_a_default():
    def fn(value=1):
        return value

    return fn, lambda: setattr(fn, "__defaults__", (2,))


def change_a_keyword_default():
    def fn(*, value=1):
        return value

    return fn, lambda: fn.__kwdefaults__.update(value=2)


def change_a_list_that_is_a_default():
    values = [1]

    def fn(values=values):
        return values[0]

    return fn, lambda: values.__setitem__(0, 2)


def change_the_code():
    def fn():
        return 1

    def other():
        return 2

    return fn, lambda: setattr(fn, "__code__", other.__code__)


def change_an_attribute():
    def fn():
        return fn.value

    fn.value = 1
    return fn, lambda: setattr(fn, "value", 2)


def redefine_a_function_that_it_calls():
    variables = define("def helper(): return 1\ndef fn(): return helper()")
    return variables["fn"], lambda: exec("def helper(): return 2", variables)


def change_what_a_function_that_it_calls_closes_over():
    value = 1

    def helper():
        return value

    def fn():
        return helper()

    def change():
        nonlocal value
        value = 2

    return fn, change


def change_a_class_of_the_program():
    variables = define("class C:\n    value = 1\ndef fn(): return C.value")
    return variables["fn"], lambda: setattr(variables["C"], "value", 2)


def change_an_object_whose_method_it_calls():
    values = [1]
    get = values.__getitem__
    return lambda: get(0), lambda: values.__setitem__(0, 2)


def change_a_dynamic_module():
    module = types.ModuleType("nowhere_to_be_imported")
    module.value = 1
    variables = define("def fn(): return module.value", module=module)
    return variables["fn"], lambda: setattr(module, "value", 2)


def start_over_in_another_of_two_functions_that_call_each_other():
    variables = define(
        "def fn(n=0): return step(n) if n < 10 else 1\ndef step(n): return 2 if n >= 10 else nxt(n + 10)"
    )
    variables["nxt"] = variables["fn"]
    return variables["fn"], lambda: variables.update(nxt=variables["step"])


CHANGES = [
    start_over_in_another_of_two_functions_that_call_each_other,
    rebind_a_closed_over_name,
    change_a_list_that_is_closed_over,
    change_a_list_in_a_tuple,
    rebind_a_global,
    rebind_a_global_of_a_function_inside,
    define_a_name_that_was_missing,
    shadow_a_builtin,
    change_a_default,
    change_a_keyword_default,
    change_a_list_that_is_a_default,
    change_the_code,
    change_an_attribute,
    redefine_a_function_that_it_calls,
    change_what_a_function_that_it_calls_closes_over,
    change_a_class_of_the_program,
    change_an_object_whose_method_it_calls,
    change_a_dynamic_module,
]


@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
def test_a_change_is_never_missed(make):
    fn, change = make()
    assert [there(fn)() for _ in range(3)] == [1, 1, 1]
    change()
    assert [there(fn)() for _ in range(3)] == [2, 2, 2]


def test_a_default_is_not_taken_for_a_keyword_default():
    def fn(p=None, *, a=None):
        return p, a

    fn.__defaults__, fn.__kwdefaults__ = ("a",), {}
    first = s.dump_function(fn)
    fn.__defaults__, fn.__kwdefaults__ = (), {"a": "a"}
    assert s.dump_function(fn).key != first.key


def test_one_value_after_the_other_is_closed_over():
    def multiply_by(factor):
        return lambda value: value * factor

    functions = [multiply_by(factor) for factor in (1, 2, 1, 1.0, True, 2)]
    assert [repr(there(fn)(3)) for fn in functions] == ["3", "6", "3", "3.0", "3", "6"]


def test_a_helper_that_was_importable_and_is_replaced(monkeypatch):
    variables = define("def fn(): return helper(1)", helper=zoo.echo)
    fn = variables["fn"]
    assert there(fn)() == 1
    monkeypatch.setattr(zoo, "echo", lambda value: value)
    assert b"echo" not in s.dump_function(fn).blob[-40:]
    assert there(fn)() == 1


def test_a_module_that_was_replaced_or_registered(monkeypatch):
    variables = define("def fn(): return zoo.echo(1)", zoo=zoo)
    fn = variables["fn"]
    before = s.dump_function(fn).blob
    cloudpickle.register_pickle_by_value(zoo)
    try:
        assert len(s.dump_function(fn).blob) > len(before)
    finally:
        cloudpickle.unregister_pickle_by_value(zoo)
    assert s.dump_function(fn).blob == before


@pytest.mark.parametrize(
    "code",
    [
        "fn = lambda value: value + one",
        "def fn(value: int, more: float = 0.5) -> int: return math.floor(value + more) + len(names)",
        "def fn(value): return value if value < 2 else fn(value - 1) + fn(value - 2)",
        "def helper(value): return value\ndef fn(value): return [helper(v) for v in range(value)]",
    ],
)
def test_what_cannot_have_changed_is_pickled_once(code, monkeypatch):
    fn = define(code, one=1, math=math, names=("a", "b"))["fn"]
    first = s.dump_function(fn)
    monkeypatch.setattr(pickler, "pickled", None)  # from here on it would raise
    assert s.dump_function(fn) is first


def test_a_function_made_again_of_the_same_code_is_the_same(monkeypatch):
    def make(one):
        return lambda value: value + one

    first = s.dump_function(make(1))
    monkeypatch.setattr(pickler, "pickled", None)
    assert s.dump_function(make(1)) is first


def test_the_memory_of_functions_is_bounded():
    for number in range(2 * s.MAX_VALUES):
        s.dump_function(define(f"def fn(): return {number}")["fn"])
    assert len(s._values_sent) <= s.MAX_VALUES


def test_sys_modules_is_not_touched():
    before = set(sys.modules)
    there(lambda: 1)
    assert set(sys.modules) == before
