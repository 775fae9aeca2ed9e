"""What a script is to its calls: its functions, classes and globals are there, as in the standard library's pools.

Each test is a program of its own, since it is about `__main__`. It ends with an error where something is wrong.
"""

from __future__ import annotations

import sys
import textwrap

import pytest

BEGIN = """
from programs import open_executor
"""


@pytest.fixture
def run_script(run_program):
    """Runs a program whose first lines import `open_executor`; it must print "right"."""

    def run(text):
        assert run_program(BEGIN + textwrap.dedent(text) + "\nprint('right')\n").splitlines()[-1] == "right"

    return run


# --- globals --------------------------------------------------------------------------------------------


@pytest.mark.apart
def test_what_one_call_sets_the_next_one_sees(run_script):
    run_script("""
        connection = None

        def connect():
            global connection
            connection = "open"

        def query():
            return connection

        with open_executor(max_workers=1) as ex:
            ex.submit(connect).result()
            assert [ex.submit(query).result() for _ in range(3)] == ["open"] * 3
            assert list(ex.map(lambda _: query(), range(3))) == ["open"] * 3
            assert connection is None
    """)


def test_a_global_that_is_none(run_script):
    run_script("""
        nothing = None

        def use():
            return nothing, 1

        with open_executor() as ex:
            assert ex.submit(use).result() == (None, 1)
            assert list(ex.map(lambda x: (nothing, x), range(3))) == [(None, 0), (None, 1), (None, 2)]
    """)


def test_a_global_may_have_any_name(run_script):
    run_script("""
        import __main__

        script = module = program = find = 3

        def look():
            import __main__

            return __main__.script, __main__.module, __main__.program, __main__.find

        def change():
            import __main__

            __main__.script = 4
            return script, look()

        with open_executor(max_workers=1) as ex:
            assert ex.submit(look).result() == (3, 3, 3, 3)
            assert ex.submit(change).result() == (4, (4, 3, 3, 3))
            assert ex.submit(look).result()[1:] == (3, 3, 3)
    """)


@pytest.mark.apart
def test_a_global_that_the_program_changes_arrives_anew_and_others_stay(run_script):
    run_script("""
        limit, seen = 1, []

        def look():
            seen.append(limit)
            return limit, list(seen)

        with open_executor(max_workers=1) as ex:
            assert ex.submit(look).result() == (1, [1])
            limit = 2
            assert ex.submit(look).result() == (2, [1, 2])
            seen.append("mine")
            assert ex.submit(look).result() == (2, ["mine", 2])
            assert ex.submit(look).result() == (2, ["mine", 2, 2])
    """)


@pytest.mark.apart
def test_globals_are_as_they_are_at_submit(run_script):
    run_script("""
        value = 0

        def now():
            return value

        with open_executor() as ex:
            futures = []
            for value in range(200):
                futures.append(ex.submit(now))
            assert [future.result() for future in futures] == list(range(200))
    """)


@pytest.mark.parametrize(
    "change",
    [
        "def helper(): return 'new'",
        "helper.__code__ = (lambda: 'new').__code__",
        "helper.__defaults__, helper.__code__ = ('new',), (lambda x='': x).__code__",
        "helper.__kwdefaults__, helper.__code__ = {'x': 'new'}, (lambda *, x='': x).__code__",
        "helper.said = 'new'",
        "work.said = 'new'",
        "word = 'new'",
        "work.__doc__ = 'new'",
        "work.__name__ = 'new'",
        "helper.__qualname__ = 'new'",
        "work.__annotations__['return'] = 'new'",
        "operator = type('', (), {'name': 'new'})",
    ],
)
def test_whatever_changes_in_a_function_or_what_it_needs_arrives(run_script, change):
    run_script(f"""
        import operator

        word = "old"

        def helper():
            return "old"

        def work(x: int) -> int:
            own = work.__doc__, work.__name__, getattr(work, "said", ""), dict(work.__annotations__)
            its = helper(), helper.__qualname__, getattr(helper, "said", "")
            return repr((own, its, word, getattr(operator, "name", "")))

        with open_executor(max_workers=1) as ex:
            for _ in range(3):
                assert ex.submit(work, 1).result() == work(1)
            {change}
            assert "new" in work(1)
            for _ in range(3):
                assert ex.submit(work, 1).result() == work(1)
                assert list(ex.map(work, range(3))) == [work(1)] * 3
    """)


@pytest.mark.apart
def test_a_global_inside_of_others_that_changes_is_the_new_one_there(run_script):
    run_script("""
        class Holder:
            kept = 0

            def __init__(self, held):
                self.held = held

        shared = [1]
        inside = {"it": shared}
        deeper = (inside,)
        holder = Holder(shared)
        Holder.shared = shared
        loop = [shared]
        loop.append(loop)
        default = lambda it=shared: it
        alone = []
        alias = shared
        point = Holder(None)
        same_point = point

        def by_dict(): return inside["it"]
        def by_tuple(): return deeper[0]["it"]
        def by_object(): return holder.held
        def by_class(): return Holder.shared
        def by_loop(): return loop[1][0]
        def by_default(): return default()
        def by_argument(it=shared): return it
        def by_alias(): return alias

        ways = [by_dict, by_tuple, by_object, by_class, by_loop, by_default, by_argument, by_alias]

        def by_all():
            Holder.kept += 1
            alone.append(1)
            assert same_point is point and loop[1] is loop
            return [way() is shared for way in ways], Holder.kept, len(alone)

        with open_executor(max_workers=1) as ex:
            for count in range(1, 4):
                for way in ways:
                    assert ex.submit(way).result() == [1] * count, (way, count)
                assert ex.submit(by_all).result() == ([True] * len(ways), count, count)
                shared.append(1)
    """)


@pytest.mark.apart
def test_what_was_a_global_and_is_none_any_more_stays_where_it_is_held(run_script):
    run_script("""
        class Holder:
            pass

        first, second, third = (5, 1), [5, 1], {"a": 1}
        also_first, also_second = first, second
        Holder.third = third
        fourth = lambda: "fourth"
        also_fourth = fourth

        def by_default(one=first, two=second, three=third): return one, two, three
        def by_class(): return Holder.third
        def by_name(): return also_first, also_second, also_fourth()
        def all_of_them(): return first, second, third

        with open_executor(max_workers=1) as ex:
            for _ in range(2):
                assert ex.submit(by_default).result() == ((5, 1), [5, 1], {"a": 1})
                assert ex.submit(by_class).result() == {"a": 1}
                assert ex.submit(by_name).result() == ((5, 1), [5, 1], "fourth")
                assert ex.submit(all_of_them).result() == (first, second, third)
                first, second, third = "another", ["another"], {"another": 1}
                fourth = lambda: "another"
    """)


@pytest.mark.apart
def test_globals_that_hold_each_other(run_script):
    run_script("""
        listed = []
        fixed = (listed, "fixed")
        listed.append(fixed)
        table = {"fixed": fixed}
        both = (table, fixed)
        table["both"] = both

        def by_fixed(): return fixed[0] is listed, listed[0][0] is listed, len(fixed)
        def by_table(): return both[0] is table, table["both"][0] is table, both[1][0] is listed

        with open_executor(max_workers=1) as ex:
            for _ in range(3):
                assert ex.submit(by_fixed).result() == (True, True, 2)
                assert ex.submit(by_table).result() == (True, True, True)
                table["new"] = listed.append(table)
    """)


@pytest.mark.apart
def test_a_function_that_others_hold_and_that_changes_is_the_new_one_there(run_script):
    run_script("""
        from functools import partial

        def helper(): return "old"

        class Holder:
            kept = 0
            helps = staticmethod(helper)

        table = {"helper": helper}
        part = partial(helper)
        def default(it=helper): return it()
        def by_table(): return table["helper"]()
        def by_part(): return part()
        def by_class():
            Holder.kept += 1
            return Holder.helps(), Holder.kept

        with open_executor(max_workers=1) as ex:
            for count, word in enumerate(["old", "new", "newer"], 1):
                helper.__defaults__ = (word,)
                helper.__code__ = (lambda x: x).__code__
                assert ex.submit(by_class).result() == (word, count)
                assert [ex.submit(way).result() for way in (default, by_table, by_part)] == [word] * 3
    """)


def test_what_a_builtin_method_belongs_to_arrives(run_script):
    run_script("""
        said = ["old"]
        count = said.count

        def work():
            return count("new")

        with open_executor(max_workers=1) as ex:
            assert ex.submit(work).result() == 0
            said.append("new")
            assert ex.submit(work).result() == 1
            count = ["new", "new"].count
            assert ex.submit(work).result() == 2
    """)


@pytest.mark.apart
def test_an_initializer_sets_globals_for_all_that_follows(run_script):
    run_script("""
        model = None

        def load(value):
            global model, extra
            model = {"weights": value}
            extra = "not there before"

        def use(x):
            return model["weights"] * x, extra

        with open_executor(initializer=load, initargs=(3,)) as ex:
            assert ex.submit(use, 2).result() == (6, "not there before")
            assert list(ex.map(use, range(50))) == [(3 * x, "not there before") for x in range(50)]
            assert ex.submit(lambda: model).result() == {"weights": 3}
    """)


def test_what_an_initializer_of_the_script_was_given_is_let_go_of(run_script):
    run_script("""
        import gc, time, weakref

        class Thing:
            pass

        def begin(thing):
            pass

        thing = Thing()
        reference = weakref.ref(thing)
        with open_executor(max_workers=1, initializer=begin, initargs=(thing,)) as ex:
            assert ex.submit(abs, -1).result() == 1
        del ex, thing
        deadline = time.monotonic() + 10
        while reference() is not None and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        assert reference() is None
    """)


def test_a_cached_function_of_the_script(run_script):
    run_script("""
        import functools

        @functools.lru_cache(maxsize=64)
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        @functools.cache
        def double(n):
            return 2 * n

        def both(n):
            return fib(n) + double(n)

        with open_executor() as ex:
            assert ex.submit(fib, 40).result() == 102334155
            assert list(ex.map(fib, range(20))) == [fib(n) for n in range(20)]
            assert ex.submit(both, 10).result() == 75
            assert ex.submit(lambda: (fib.cache_parameters(), fib.__name__)).result() == (
                {"maxsize": 64, "typed": False}, "fib")
    """)


def test_things_that_pickle_refuses_as_globals(run_script):
    run_script("""
        import contextvars
        import functools
        import threading

        lock, again, event = threading.Lock(), threading.RLock(), threading.Event()
        local = threading.local()
        var = contextvars.ContextVar("var", default=7)

        @functools.singledispatch
        def describe(value):
            return "something"

        @describe.register
        def _(value: int):
            return "a number"

        def guarded(value):
            with lock, again:
                local.value = value
                return describe(value), describe("x"), var.get(), event.is_set(), local.value

        def decorator(fn):
            calls = threading.Lock()

            @functools.wraps(fn)
            def inner(*args):
                with calls:
                    return fn(*args)

            return inner

        @decorator
        def decorated(value):
            return value + 1

        with open_executor() as ex:
            assert ex.submit(guarded, 1).result() == ("a number", "something", 7, False, 1)
            assert ex.submit(decorated, 1).result() == 2
            assert list(ex.map(decorated, range(10))) == list(range(1, 11))
    """)


def test_globals_that_answer_oddly_when_they_are_asked(run_script):
    run_script("""
        import sys

        class Settings(dict):
            def __getattr__(self, name):
                return self[name]

        class Refusing:
            def __getattr__(self, name):
                raise RuntimeError(f"no {name}")

        class Eager:
            made = False

            def __getattr__(self, name):
                Eager.made = True
                raise AttributeError(name)

        class Unbound:
            @property
            def __class__(self):
                raise RuntimeError("nothing is bound")

        class Pretending:
            __class__ = property(lambda self: type)

        settings, refusing, eager, unbound = Settings(x=1), Refusing(), Eager(), Unbound()
        pretending = Pretending()

        def plain():
            return 1

        def named():
            return settings["x"], type(refusing).__name__

        def searching():
            return [name for name in ("plain", "Settings", "Unbound") if name not in globals()]

        with open_executor() as ex:
            assert ex.submit(plain).result() == 1
            assert ex.submit(searching).result() == []
            assert Eager.made is False
            assert ex.submit(named).result() == (1, "Refusing")
    """)


@pytest.mark.apart
def test_a_global_whose_pickle_asks_the_script_for_it(run_script):
    run_script("""
        class Only:
            def __reduce__(self):
                return the_only, ()

        def the_only():
            return only

        class Late:
            def __reduce__(self):
                return the_late, ()

        late = None

        def the_late():
            global late
            if late is None:
                late = Late()
            return late

        class Single:
            one = None

            @classmethod
            def get(cls):
                if cls.one is None:
                    cls.one = cls()
                return cls.one

            def __reduce__(self):
                return Single.get, ()

        only, alias, single = Only(), the_late(), Single.get()
        only.mark, late.mark, single.mark = "only", "late", "single"

        def marks():
            assert only is the_only() and alias is the_late() is late and single is Single.get()
            return only.mark, late.mark, single.mark

        def is_it(one, *others):
            return one is only, others == (late, single)

        with open_executor(max_workers=1) as ex:
            assert ex.submit(marks).result() == ("only", "late", "single")
            only.mark = single.mark = "new"
            assert ex.submit(marks).result() == ("new", "late", "new")
            assert ex.submit(is_it, only, late, single).result() == (True, True)
            assert ex.submit(the_only).result() is only and ex.submit(Single.get).result() is single
    """)


def test_globals_that_another_thread_changes_while_calls_are_submitted(run_script):
    run_script("""
        import sys, threading

        notes, seen, nested = {}, set(), {"inner": {}}

        class Holder:
            pass

        holder, ended = Holder(), threading.Event()

        def change():
            i = 0
            while not ended.is_set():
                i += 1
                for mapping in (notes, nested["inner"], vars(holder)):
                    mapping[f"a{i % 97}"] = i
                    mapping.pop(f"a{i * 7 % 97}", None)
                seen.add(i % 97)
                seen.discard(i * 7 % 97)
                setattr(Holder, f"b{i % 7}", i)

        def look():
            return isinstance(notes, dict) and isinstance(seen, set) and isinstance(holder, Holder) and len(nested)

        sys.setswitchinterval(1e-5)
        thread = threading.Thread(target=change)
        with open_executor(max_workers=1) as ex:
            thread.start()
            try:
                assert [ex.submit(look).result() for _ in range(100)] == [1] * 100
            finally:
                ended.set()
                thread.join()
    """)


def test_what_a_weak_reference_refers_to(run_script):
    run_script("""
        import weakref

        class Thing:
            pass

        thing, other = Thing(), Thing()
        reference = weakref.ref(thing)
        notes = weakref.WeakKeyDictionary({thing: "note"})
        by_name = weakref.WeakValueDictionary(first=other)

        def check():
            return reference() is thing, notes.get(thing), by_name.get("first") is other

        with open_executor() as ex:
            assert ex.submit(check).result() == (True, "note", True)
    """)


@pytest.mark.apart
def test_a_mapped_file_is_that_file_in_calls(run_script, tmp_path):
    """What they write is in it, and what others write they see. One that is mapped for private changes is a copy."""
    run_script(f"""
        import numpy

        mapped = numpy.memmap({str(tmp_path / "data")!r}, "i8", "w+", offset=4096, shape=(4, 2), order="F")
        seen = numpy.memmap({str(tmp_path / "data")!r}, "i8", "r", offset=4096, shape=8)
        private = numpy.memmap({str(tmp_path / "data")!r}, "i8", "c", offset=4096, shape=8)
        private[0] = 5

        def write(i):
            mapped[i, 1] = i + 1

        def read():
            return seen.tolist(), seen.flags.writeable, int(private[0])

        with open_executor() as ex:
            list(ex.map(write, range(4)))
            assert mapped.tolist() == [[0, 1], [0, 2], [0, 3], [0, 4]]
            assert ex.submit(read).result() == ([0, 0, 0, 0, 1, 2, 3, 4], False, 5)
            mapped[0, 0] = 9
            assert ex.submit(read).result()[0][0] == 9
    """)


@pytest.mark.apart
@pytest.mark.parametrize("make", ["multiprocessing.Pipe()", "socket.socketpair()"])
def test_a_connection_cannot_be_a_global(run_script, make):
    """In another process its number would be that of another descriptor, or of none."""
    run_script(f"""
        import multiprocessing, socket

        first, second = {make}

        def use():
            return first.fileno()

        with open_executor() as ex:
            error = ex.submit(use).exception()
            assert isinstance(error, TypeError) and "'first'" in str(error), error
            assert "give it as an argument of a call" in str(error), error
        first.close(), second.close()
    """)


@pytest.mark.apart
def test_an_error_names_the_global_that_cannot_be_sent(run_script):
    run_script("""
        import pickle

        stream = (number for number in range(3))

        def use():
            return next(stream)

        def uses_it():
            return use()

        with open_executor() as ex:
            error = ex.submit(uses_it).exception()
            assert "'stream'" in str(error) and "generator" in str(error), error
            assert "create it in an initializer or in the function itself" in str(error), error
            assert ex.submit(int, 3).result() == 3
    """)


# --- the module -----------------------------------------------------------------------------------------


@pytest.mark.apart
def test_the_module_can_be_imported_and_searched(run_script):
    run_script("""
        class Account:
            pass

        def helper():
            return TABLE["a"]

        TABLE = {"a": 1}

        def imported():
            from __main__ import helper as found
            return found()

        def by_module():
            import __main__
            return __main__.helper(), __main__.__name__, hasattr(__main__, "nothing"), __name__

        def by_name(name):
            return globals()[name]

        def searched():
            import sys
            return getattr(sys.modules["__main__"], "Account").__name__

        with open_executor() as ex:
            assert ex.submit(imported).result() == 1
            assert ex.submit(by_module).result() == (1, "__main__", False, "__main__")
            assert ex.submit(by_name, "TABLE").result() == {"a": 1}
            assert ex.submit(by_name, "helper").result() is helper
            assert ex.submit(searched).result() == "Account"
            assert ex.submit(lambda: __file__).result() == __file__
            error = ex.submit(by_name, "nothing").exception()
            assert type(error) is KeyError, error
    """)


SEARCHES = {
    "modules": "inspect.getmembers(sys.modules[__name__], inspect.isclass)",
    "modules by name": "inspect.getmembers(modules[__name__], inspect.isclass)",
    "__globals__": "(lambda: 0).__globals__.items()",
    "f_globals": "sys._getframe().f_globals.items()",
    "__import__": "__import__('__main__').__dict__.items()",
}


@pytest.mark.apart
@pytest.mark.parametrize("search", SEARCHES)
def test_all_classes_are_there_for_code_that_goes_through_the_module(run_script, search):
    run_script(f"""
        import inspect, sys
        from sys import modules

        class Plugin:
            pass

        class First(Plugin):
            pass

        class Second(Plugin):
            pass

        def search():
            found = list({SEARCHES[search]})
            return sorted(name for name, value in found if inspect.isclass(value) and value.__module__ == __name__)

        with open_executor(max_workers=1) as ex:
            assert ex.submit(search).result() == ["First", "Plugin", "Second"]
            assert list(ex.map(lambda _: search(), range(2))) == [["First", "Plugin", "Second"]] * 2
    """)


@pytest.mark.apart
def test_what_the_script_says_of_itself_is_found_by_its_names(run_script):
    run_script("""
        import sys

        __doc__ = "Usage: ..."
        __version__, __author__ = "1.2", "somebody"
        __all__ = ["names"]

        def by_module():
            return [getattr(sys.modules["__main__"], name, None) for name in ("__version__", "__all__", "__path__")]

        def imported():
            import __main__
            from __main__ import __author__ as author
            return __main__.__version__, author, globals()["__all__"], __main__.__doc__

        with open_executor(max_workers=1) as ex:
            assert ex.submit(by_module).result() == ["1.2", ["names"], None]
            assert ex.submit(imported).result() == ("1.2", "somebody", ["names"], "Usage: ...")
    """)


@pytest.mark.apart
def test_pickle_copy_and_shelve_inside_of_a_call(run_script):
    run_script("""
        import copy, dataclasses, pickle, shelve, tempfile

        RATE = [2]

        @dataclasses.dataclass
        class Account:
            amount: int = 0

            def total(self):
                return self.amount * RATE[0]

        def round_trip(account):
            there = pickle.loads(pickle.dumps(account))
            other = copy.deepcopy(copy.copy(account))
            with tempfile.TemporaryDirectory() as folder, shelve.open(folder + "/s") as shelf:
                shelf["account"] = account
                kept = shelf["account"]
            return there == other == kept == account, type(there) is Account

        stored = pickle.dumps(Account(5))

        with open_executor() as ex:
            assert ex.submit(round_trip, Account(3)).result() == (True, True)
            # The class is named in no code of these calls.
            assert ex.submit(pickle.loads, pickle.dumps(Account(4))).result() == Account(4)
            assert ex.submit(lambda: pickle.loads(stored).total()).result() == 10
            assert ex.submit(copy.deepcopy, Account(6)).result().total() == 12
    """)


@pytest.mark.apart
@pytest.mark.skipif(sys.platform != "linux", reason="the start method is fork there alone")
def test_a_pool_inside_of_a_call(run_script):
    run_script("""
        import concurrent.futures, multiprocessing

        def square(x):
            return x * x

        def pool():
            with multiprocessing.get_context("fork").Pool(2) as inner:
                return inner.map(square, range(5))

        def executor():
            context = multiprocessing.get_context("fork")
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as inner:
                return list(inner.map(square, range(5)))

        with open_executor() as ex:
            assert ex.submit(pool).result() == [0, 1, 4, 9, 16]
            assert ex.submit(executor).result() == [0, 1, 4, 9, 16]
    """)


@pytest.mark.apart
def test_tracebacks_and_inspect_have_the_source(run_script):
    run_script("""
        import inspect

        def fails():
            raise KeyError("here")  # the line

        def source():
            return inspect.getsource(fails)

        with open_executor() as ex:
            cause = str(ex.submit(fails).exception().__cause__)
            assert 'raise KeyError("here")  # the line' in cause and "in fails" in cause and __file__ in cause, cause
            assert ex.submit(source).result() == inspect.getsource(fails)
            cause = str(ex.submit(lambda: 1 / 0).exception().__cause__)
            assert "lambda: 1 / 0" in cause, cause
    """)


@pytest.mark.alone
@pytest.mark.apart
def test_a_child_of_multiprocessing(run_script):
    run_script("""
        import multiprocessing, sys

        class Point:
            def __init__(self, x):
                self.x = x

        def move(point):
            return Point(point.x + 1)

        def child(queue):
            with open_executor(max_workers=1) as ex:
                moved = ex.submit(move, Point(1)).result()
                queue.put((moved.x, type(moved) is Point, ex.submit(lambda: move(Point(4)).x).result()))

        if __name__ == "__main__":
            for method in ("spawn", "forkserver"):
                context = multiprocessing.get_context(method)
                queue = context.Queue()
                process = context.Process(target=child, args=(queue,))
                process.start()
                assert queue.get(timeout=40) == (2, True, 5), method
                process.join()
    """)


@pytest.mark.alone
@pytest.mark.apart
def test_a_program_that_is_a_module_of_a_package(kind, tmp_path):
    import subprocess

    from programs import environment

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sibling.py").write_text("VALUE = 42\n")
    (package / "program.py").write_text(
        "from programs import open_executor\n"
        "from . import sibling\n"
        "def late():\n"
        "    from .sibling import VALUE\n"
        "    return VALUE, sibling.VALUE, __package__, __spec__.name\n"
        "if __name__ == '__main__':\n"
        "    with open_executor() as ex:\n"
        "        print(ex.submit(late).result())\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "package.program"],
        cwd=tmp_path,
        env=environment(kind),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("(42, 42, 'package', 'package.program')\n", "")


# --- classes --------------------------------------------------------------------------------------------


def test_what_arrives_leaves_the_programs_classes_alone(run_script):
    run_script("""
        class Account:
            opened = 0
            registry = []

            def __init__(self, owner=None):
                self.owner = owner

        registry = Account.registry

        def open_account(owner):
            return Account(owner)

        with open_executor() as ex:
            future = ex.submit(open_account, "ann")
            Account.opened = 7
            Account.registry.append("bob")
            account = future.result()
            assert type(account) is Account and isinstance(account, Account)
            assert Account.opened == 7 and Account.registry is registry == ["bob"]
            assert account.opened == 7
            accounts = list(ex.map(open_account, "abc"))
            assert all(type(one) is Account for one in accounts) and Account.opened == 7
            assert type(ex.submit(lambda: Account).result()) is type and ex.submit(lambda: Account).result() is Account

        def local():
            class Local:
                count = 0
            return Local

        Local = local()
        with open_executor() as ex:
            future = ex.submit(lambda: Local())
            Local.count = 5
            assert type(future.result()) is Local and Local.count == 5
    """)


@pytest.mark.apart
def test_a_class_that_a_function_of_the_script_has_made_is_as_it_was_at_submit(run_script):
    run_script("""
        import time

        def run(ex):
            class Settings:
                rate = 0

            class Derived(Settings):
                pass

            def look():
                return Derived.rate, Derived().rate, hasattr(Settings, "extra")

            futures = [ex.submit(time.sleep, 0.1)]
            for rate in (1, 2, 1, 2, 2, 1):
                Settings.rate = rate
                if rate == 2:
                    Settings.extra = True
                elif hasattr(Settings, "extra"):
                    del Settings.extra
                futures.append(ex.submit(look))
            return [future.result() for future in futures[1:]]

        with open_executor(max_workers=1) as ex:
            assert run(ex) == [(rate, rate, rate == 2) for rate in (1, 2, 1, 2, 2, 1)]
    """)


@pytest.mark.apart
def test_what_calls_keep_on_a_class_stays(run_script):
    run_script("""
        class Cache:
            loaded = None
            hits = 0

            def __init__(self, key):
                self.key = key

            def load(self):
                if Cache.loaded is None:
                    Cache.loaded = self.key
                Cache.hits += 1
                return Cache.loaded, Cache.hits

        def use(cache):
            return cache.load()

        with open_executor(max_workers=1) as ex:
            assert ex.submit(use, Cache("first")).result() == ("first", 1)
            assert ex.submit(use, Cache("second")).result() == ("first", 2)
            assert ex.submit(Cache("third").load).result() == ("first", 3)
            Cache.hits = 10  # changed in the program: it arrives, and the rest stays
            assert ex.submit(use, Cache("fourth")).result() == ("first", 11)
            assert Cache.loaded is None
    """)


@pytest.mark.apart
def test_a_class_defined_anew(run_script):
    run_script("""
        class Shape:
            def area(self):
                return 1

        def area(shape):
            return shape.area(), isinstance(shape, Shape)

        with open_executor(max_workers=1) as ex:
            assert ex.submit(area, Shape()).result() == (1, True)

            class Shape:
                def area(self):
                    return 2

            assert ex.submit(area, Shape()).result() == (2, True)
            Shape.area = lambda self: 3
            assert ex.submit(area, Shape()).result() == (3, True)
    """)


INSIDE = {
    "the name of a class": ("Plain.__name__", "Plain.__name__ = 'Renamed'"),
    "what copyreg was told of a class": (
        "Plain in copyreg.dispatch_table",
        "copyreg.pickle(Plain, reduced)",
    ),
    "the annotations of a class": ("Plain.__annotations__", "Plain.__annotations__['y'] = str"),
    "the text of a property": ("Plain.twice.__doc__", "Plain.twice.__doc__ = 'new'"),
    "a class that is told to be a subclass": ("issubclass(Plain, Base)", "Base.register(Plain)"),
    "an attribute of a member": ("Color.RED.label", "Color.RED.label = 'new'"),
    "the value of a member": ("Color.RED.value", "Color.RED._value_ = 7"),
    "what the value of a member holds": ("Color.BLUE.value", "Color.BLUE.value.append(3)"),
    "an attribute of a cached function": ("cached.tag", "cached.tag = 'new'"),
    "another cached class": ("made('ab')", "made = again"),
    "an implementation of a generic function": ("show(1)", "show.register(int, shown)"),
    "an implementation that changes": (
        "show('')",
        "show.registry[str].__code__ = (lambda x: 'new').__code__",
    ),
    "another generic function": ("spell([])", "spell = another"),
    "an attribute of a generic function": ("show.tag", "show.tag = 'new'"),
    "a module that the script has made": ("settings.limit", "settings.limit = 2"),
    "what a module holds that the script has made": ("settings.seen", "settings.seen.append('new')"),
}
"""What to look at, and what changes it."""


@pytest.mark.apart
def test_whatever_changes_inside_of_a_global_arrives(run_script):
    run_script(f"""
        import abc, copyreg, enum, functools, types

        class Base(abc.ABC):
            pass

        class Plain:
            x: int

            @property
            def twice(self):
                return 2

        class Color(enum.Enum):
            RED = 1
            BLUE = [2]

        Color.RED.label = "old"

        @functools.lru_cache
        def cached(x):
            return x

        cached.tag = "old"

        @functools.cache
        class made(list):
            pass

        again = made

        @functools.cache
        class made(tuple):
            pass

        @functools.singledispatch
        def show(x):
            return "any"

        @show.register
        def shown(x: str):
            return "text"

        show.tag = "old"

        @functools.singledispatch
        def spell(x):
            return "new"

        another = spell

        @functools.singledispatch
        def spell(x):
            return "old"

        def reduced(plain):
            return Plain, ()

        settings = types.ModuleType("settings")
        settings.limit, settings.seen = 1, []

        wrong = []
        with open_executor(max_workers=1) as ex:
            for what, (look, change) in {INSIDE}.items():
                exec(f"def seen(): return repr({{look}})")  # for each a function that names what it looks at
                before = seen()
                assert [ex.submit(seen).result() for _ in range(3)] == [before] * 3, what
                exec(change)
                assert seen() != before, what
                found = [ex.submit(seen).result(), *ex.map(lambda _: seen(), range(3))]
                if found != [seen()] * 4:
                    wrong.append((what, found))
        assert not wrong, wrong
    """)


@pytest.mark.apart
def test_instances_that_a_process_has_are_of_a_class_that_was_built_anew(run_script):
    run_script("""
        class Base:
            def name(self):
                return "old"

        class Other:
            def name(self):
                return "other"

        class Derived(Base):
            def name(self):
                return super().name() + "!"

        class Holder:
            kind = Base
            of = {"base": Base}

        def given(kind=Other):
            return kind is Other

        first, kept = Base, Derived()
        many = [kept, {"kept": kept}]

        def look():
            return (kept.name(), isinstance(kept, Base), isinstance(kept, Derived), Derived().name(), many[0] is kept,
                    type(many[1]["kept"]) is Derived, type(kept).__name__, issubclass(Derived, Other),
                    Holder.kind is Base, Holder.of["base"] is Base, given(), Other.__name__)

        with open_executor(max_workers=1) as ex:
            assert ex.submit(look).result() == look()

            class Base:
                def name(self):
                    return "new"

            assert look()[:2] == ("old!", False)
            assert ex.submit(look).result() == look()
            Derived.__name__ = "Renamed"
            assert ex.submit(look).result() == look()
            Derived.__bases__ = (Other,)
            assert look()[0] == "other!"
            assert ex.submit(look).result() == look()
            Other.__name__ = "Another"
            assert ex.submit(look).result() == look()
            Holder.kind = Base
            Base.__name__ = "Changed"
            assert ex.submit(look).result() == look()
    """)


def test_a_class_has_its_attributes_in_their_order(run_script):
    run_script("""
        class Field:
            pass

        class Model:
            zeta = Field()
            alpha = Field()

            def save(self):
                pass

            middle = [1]

            def open(self):
                pass

            close = property(open)

            @classmethod
            def names(cls):
                return [name for name in vars(cls) if not name.startswith("__")]

        class Derived(Model):
            b = Field()
            a = 1

        def names():
            return Model.names(), Derived.names()

        with open_executor(max_workers=1) as ex:
            assert ex.submit(names).result() == names()
            Model.late, Model.early, Derived.alpha = Field(), names, 2
            assert ex.submit(names).result() == names()
            assert names()[0][-2:] == ["late", "early"]
    """)


def test_classes_of_many_kinds(run_script):
    run_script("""
        import abc, collections, dataclasses, enum, typing

        class Base(abc.ABC):
            @abc.abstractmethod
            def name(self): ...

            def greet(self):
                return "hi " + self.name()

        class Derived(Base):
            def name(self):
                return "derived"

            def greet(self):
                return super().greet() + "!"

        class Slotted:
            __slots__ = ("x", "__private")

            def __init__(self, x):
                self.x, self.__private = x, -x

            def both(self):
                return self.x, self.__private

        class Color(enum.Enum):
            RED = 1
            BLUE = "b"

        class Flags(enum.IntFlag):
            A = 1
            B = 2

        Point = collections.namedtuple("Point", "x y")

        class Typed(typing.NamedTuple):
            x: int
            y: str = "y"

        @dataclasses.dataclass(frozen=True, order=True)
        class Data:
            x: int
            items: list = dataclasses.field(default_factory=list)

        T = typing.TypeVar("T")

        class Box(typing.Generic[T]):
            def __init__(self, item: T):
                self.item = item

        class Meta(type):
            def __call__(cls, *args):
                made = super().__call__(*args)
                made.made_by = "meta"
                return made

        class Made(metaclass=Meta):
            @property
            def twice(self):
                return self.made_by * 2

            @classmethod
            def build(cls):
                return cls()

            @staticmethod
            def plain():
                return "static"

        class Outer:
            class Inner:
                value = 1

        class OwnError(Exception):
            def __init__(self, code, text):
                super().__init__(code, text)
                self.code = code

        def same(value):
            return value, type(value) in globals().values() or value is not None

        def build():
            return (Derived().greet(), Slotted(1).both(), Color.RED, Flags.A | Flags.B, Point(1, 2), Typed(1),
                    Data(1, [2]), Box(3).item, Made().twice, Made.build().made_by, Made.plain(), Outer.Inner.value,
                    isinstance(Derived(), Base), issubclass(Derived, Base))

        def fail():
            raise OwnError(3, "three")

        VALUES = [Derived(), Slotted(2), Color.BLUE, Flags.B, Point(3, 4), Typed(5), Data(6), Box(7), Outer.Inner()]

        with open_executor() as ex:
            assert ex.submit(build).result() == build()
            for value, result in zip(VALUES, ex.map(same, VALUES)):
                assert type(result[0]) is type(value), value
            for value in VALUES:
                assert type(ex.submit(same, value).result()[0]) is type(value)
            assert ex.submit(lambda c: c is Color.RED, Color.RED).result()
            assert ex.submit(same, Color.RED).result()[0] is Color.RED
            try:
                ex.submit(fail).result()
            except OwnError as error:
                assert error.code == 3
            else:
                raise AssertionError
            patient = ex.with_options(retries=1, retry_on=OwnError, backoff=0)
            assert type(patient.submit(fail).exception()) is OwnError
    """)


def test_a_generic_named_tuple(run_script):
    run_script("""
        import typing

        T = typing.TypeVar("T")

        class Pair(typing.NamedTuple, typing.Generic[T]):
            first: T
            second: int = 2

            def total(self):
                return self.first + self.second

        def turned(pair):
            assert type(pair) is Pair and Pair[int](3) == (3, 2), pair
            assert typing.get_args(Pair[int]) == (int,) and Pair.__parameters__ == (T,)
            return Pair(pair.second, pair.first)

        if __name__ == "__main__":
            with open_executor() as ex:
                pair = ex.submit(turned, Pair(1)).result()
                assert type(pair) is Pair and pair == (2, 1), pair
                assert ex.submit(pair.total).result() == 3
    """)


def test_classes_of_ctypes(run_script):
    run_script("""
        import ctypes

        Triple = ctypes.c_int * 3
        Adder = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)

        class Point(ctypes.Structure):
            _fields_ = [("x", ctypes.c_double), ("tail", Triple)]

            def doubled(self):
                return self.x * 2

        class Solid(Point):
            _fields_ = [("z", ctypes.c_double)]

        class Node(ctypes.Structure):
            pass

        Node._fields_ = [("value", ctypes.c_int), ("next", ctypes.POINTER(Node))]

        class Header(ctypes.BigEndianStructure):
            _pack_ = 1
            _fields_ = [("kind", ctypes.c_uint8), ("size", ctypes.c_uint32), ("low", ctypes.c_uint16, 3)]

        class Bytes(ctypes.Union):
            _fields_ = [("number", ctypes.c_uint32), ("bytes", ctypes.c_uint8 * 4)]

        class Tagged(ctypes.Structure):
            _anonymous_ = ["content"]
            _fields_ = [("content", Bytes), ("tag", ctypes.c_char * 8)]

        class Four(ctypes.Array):
            _type_, _length_ = ctypes.c_int, 4

        class Number(ctypes.c_int):
            pass

        def moved(point, by):
            assert type(point) is Point, type(point)
            point.x += by
            return point

        def in_solid():
            solid = Solid(1, Triple(1, 2, 3), 4)
            return solid.x, list(solid.tail), solid.z, solid.doubled(), ctypes.sizeof(solid) == ctypes.sizeof(Solid)

        def chained(values):
            nodes = [Node(value) for value in values]
            for node, following in zip(nodes, nodes[1:]):
                node.next = ctypes.pointer(following)
            found, at = [], ctypes.pointer(nodes[0])
            while at:
                found.append(at.contents.value)
                at = at.contents.next
            return found

        def header(stream):
            found = Header.from_buffer_copy(stream)
            return found.kind, found.size, found.low, bytes(found)

        def others():
            return Tagged(Bytes(5), b"t").number, sum(Four(1, 2, 3, 4)), Number(3).value, Adder(int.__add__)(1, 2)

        if __name__ == "__main__":
            with open_executor() as ex:
                for _ in range(2):
                    made = ex.submit(moved, Point(1, Triple(1, 2, 3)), 2).result()
                    assert type(made) is Point and made.x == 3 and list(made.tail) == [1, 2, 3]
                    assert ex.submit(made.doubled).result() == 6
                    assert list(ex.map(Point.doubled, [Point(1), Solid(2)])) == [2, 4]
                    assert ex.submit(in_solid).result() == in_solid()
                    assert ex.submit(chained, [1, 2, 3]).result() == [1, 2, 3]
                    stream = bytes(Header(1, 2, 3))
                    assert ex.submit(header, stream).result() == (1, 2, 3, stream)
                    assert ex.submit(others).result() == others() == (5, 10, 3, 3)
                    Point.note = "new"
                    assert ex.submit(getattr, made, "note").result() == "new"
    """)


@pytest.mark.apart
def test_properties_and_methods_of_kinds_of_their_own(run_script):
    run_script("""
        import abc

        class ClassProperty(property):
            def __get__(self, instance, owner):
                return self.fget(owner)

        class Noted(property):
            "With a constructor of its own."

            def __init__(self, note, fget=None, fset=None, fdel=None, doc=None):
                super().__init__(fget, fset, fdel, doc)
                self.note = note

            def getter(self, fget):
                return Noted(self.note, fget, self.fset, self.fdel, fget.__doc__)

        class Logged(classmethod):
            def __get__(self, instance, owner=None):
                return lambda *args: (self.mark, super(Logged, self).__get__(instance, owner)(*args))

        class Marked(staticmethod):
            mark = 1

        class Shape(abc.ABC):
            @abc.abstractproperty
            def area(self): ...

        class Square(Shape):
            area = 4

            @ClassProperty
            def kind(cls):
                return cls.__name__

            side = Noted("in metres")

            @side.getter
            def side(self):
                "The side."
                return 2

            @Logged
            def unit(cls, size):
                return cls, size

            vars()["unit"].mark = "old"

            @Marked
            def plain():
                return "plain"

        def look():
            side, plain = vars(Square)["side"], vars(Square)["plain"]
            return (Square.kind, Square().side, type(side).__name__, side.note, side.__doc__, Square.unit(3),
                    Square.plain(), type(plain).__name__, plain.mark, vars(Shape)["area"].__isabstractmethod__)

        with open_executor(max_workers=1) as ex:
            assert ex.submit(look).result() == look()
            vars(Square)["unit"].mark, vars(Square)["side"].note = "new", "in feet"
            vars(Square)["plain"].mark = 2
            assert look()[3] == "in feet" and look()[5][0] == "new"
            assert ex.submit(look).result() == look()
    """)


def test_code_that_runs_while_globals_arrive_has_what_it_names(run_script):
    run_script("""
        import threading, time
        from collections import OrderedDict

        LIMITS = {"most": 3}
        names = OrderedDict()

        def fresh():
            return threading.Lock(), LIMITS["most"]

        class Connection:
            first = None

            def __init__(self):
                self.lock, self.most = fresh()
                self.since = time.time()

            def __getstate__(self):
                return {"since": self.since}

            def __setstate__(self, state):
                self.since = min(state["since"], time.time())
                self.lock, self.most = fresh()

            def use(self):
                with self.lock:
                    return self.most, connection is self, list(names)

        class Key:
            def __init__(self, text):
                self.text = text

            def __hash__(self):
                return hash(order(self.text))

            def __eq__(self, other):
                return order(self.text) == order(other.text)

        def order(text):
            return text.translate(TABLE)

        TABLE = {ord("b"): "a"}
        connection = Connection()
        Connection.first = connection
        counts = {Key("b"): 1}

        def look():
            return connection.use(), counts[Key("a")]

        def only_the_class():
            return Connection.first is connection

        def default(value=connection):
            return value is Connection.first, value.use()

        for functions in ([look], [only_the_class], [default], [default, look]):
            with open_executor(max_workers=1) as ex:
                for function in functions:
                    assert ex.submit(function).result() == function()
        names["x"] = 1
        LIMITS["most"] = 4
        connection.since -= 1
        with open_executor(max_workers=1) as ex:
            assert ex.submit(look).result()[0][1:] == (True, ["x"])
    """)


def test_classes_whose_instances_answer_for_others(run_script):
    run_script("""
        class Proxy:
            def __init__(self, target):
                object.__setattr__(self, "target", target)

            @property
            def __class__(self):
                return type(self.target)

            def __getattr__(self, name):
                return getattr(self.target, name)

        class Wrapper:
            def __init__(self, function):
                self.function = function

            @property
            def __name__(self):
                return self.function.__name__

            @property
            def __doc__(self):
                return self.function.__doc__

            def __call__(self, *args):
                return self.function(*args)

        proxy = Proxy([1, 2])

        def work(x):
            "Says so."
            return x + 1

        wrapped = Wrapper(work)

        def check():
            return isinstance(proxy, list), proxy.count(1), wrapped.__name__, wrapped.__doc__, wrapped(1)

        with open_executor() as ex:
            assert ex.submit(check).result() == (True, 1, "work", "Says so.", 2)
            assert ex.submit(wrapped, 2).result() == 3
    """)


def test_typed_dictionaries(run_script):
    run_script("""
        import typing

        class Row(typing.TypedDict, total=False):
            x: int

        class Longer(Row):
            y: "Row"

        Made = typing.TypedDict("Made", {"z": int})

        def build():
            return Row(x=1), Longer(x=1, y={}), Made(z=3), Row.__total__, Longer.__total__, Longer.__required_keys__

        def annotated(row: Longer) -> Made:
            return Made(z=row["x"])

        def hints():
            return typing.get_type_hints(Longer) == {"x": int, "y": Row}, typing.is_typeddict(Longer)

        with open_executor() as ex:
            assert ex.submit(build).result() == build()
            assert ex.submit(annotated, Longer(x=1, y={})).result() == {"z": 1}
            assert ex.submit(hints).result() == (True, True)
            assert ex.submit(lambda kind: kind, Longer).result() is Longer
    """)


def test_annotations(run_script):
    run_script("""
        import dataclasses, typing

        class Plain:
            x: int
            text: "Later"

        class Node:
            after: typing.Optional["Node"]
            x: int = 1

        class Later:
            pass

        class Empty:
            pass

        class Fields(typing.NamedTuple):
            x: int

        class Heir(Plain):
            more: list[Plain]

        @dataclasses.dataclass
        class Data:
            x: int
            y: list[Plain] = dataclasses.field(default_factory=list)

        def plain(row: Plain, data: "Data" = None) -> Later:
            return Later()

        annotated = Plain, Node, Empty, Fields, Heir, Data, plain

        def hints():
            return [typing.get_type_hints(one) for one in annotated]

        def own():
            return [list(one.__annotations__) for one in annotated]

        def made():
            new = dataclasses.make_dataclass("Made", [(name, kind) for name, kind in Data.__annotations__.items()])
            return [field.name for field in dataclasses.fields(new)]

        with open_executor() as ex:
            for _ in range(2):
                assert ex.submit(hints).result() == hints()
                assert ex.submit(own).result() == own()
                assert ex.submit(made).result() == ["x", "y"]
            Plain.__annotations__ = {"z": float}
            assert ex.submit(lambda: Plain.__annotations__).result() == {"z": float}
    """)


@pytest.mark.apart
def test_annotations_that_are_texts_find_what_they_name(run_program):
    begin = "from __future__ import annotations\n" + BEGIN
    out = run_program(
        begin
        + textwrap.dedent("""
        import collections.abc as containers, dataclasses, decimal, typing
        from fractions import Fraction
        from typing import ClassVar, Optional, TypeVar

        Count = Optional[int]
        Either = int | Fraction
        Names = list[str]
        T = TypeVar("T")
        Key = typing.NewType("Key", int)

        @dataclasses.dataclass
        class Row:
            count: Count
            price: decimal.Decimal
            kind: ClassVar[str] = "row"

        def total(rows: containers.Sequence[Row], key: Key, first: T, either: Either) -> Names:
            return []

        def hints():
            return repr((typing.get_type_hints(total), typing.get_type_hints(Row)))

        def derived():
            @dataclasses.dataclass
            class Long(Row):
                more: ClassVar[int] = 1
                length: int = 0

            return [field.name for field in dataclasses.fields(Long)]

        with open_executor(max_workers=1) as ex:
            assert ex.submit(hints).result() == hints()
            assert ex.submit(derived).result() == derived() == ["count", "price", "length"]
            Count = Optional[str]
            assert ex.submit(hints).result() == hints()
            assert typing.get_type_hints(Row)["count"] == Optional[str]
        print("right")
    """)
    )
    assert out.splitlines() == ["right"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated where they stand")
def test_annotations_that_name_what_comes_later(run_script):
    run_script("""
        import annotationlib, typing

        class Node:
            after: Node
            last: Later

        def plain(row: Later) -> Node:
            return row

        with open_executor() as ex:
            texts = ex.submit(lambda: annotationlib.get_annotations(Node, format=annotationlib.Format.STRING))
            assert texts.result() == {"after": "Node", "last": "Later"}
            assert ex.submit(plain, 1).result() == 1

            class Later:
                pass

            assert ex.submit(lambda: typing.get_type_hints(Node)).result() == {"after": Node, "last": Later}
            assert ex.submit(lambda: typing.get_type_hints(plain)).result() == {"row": Later, "return": Node}
    """)


def test_two_names_for_one_thing(run_script):
    run_script("""
        def work(x):
            return x + 1

        alias = work
        HANDLERS = {"a": work, "b": alias}

        def check():
            return alias is work, HANDLERS["a"] is work, HANDLERS["b"](1)

        with open_executor() as ex:
            assert ex.submit(check).result() == (True, True, 2)
            assert ex.submit(alias, 1).result() == 2
    """)


@pytest.mark.apart
def test_a_global_inside_of_another_one_is_the_same_object(run_script):
    run_script("""
        import types

        MISSING = object()
        shared = [1]
        first, second = {"list": shared}, {"list": shared}
        loop = []
        loop.append(loop)
        app = types.SimpleNamespace()
        database = types.SimpleNamespace(app=app)
        app.database = database
        lower = lambda text: text.lower()
        handlers = {"lower": lower}

        class Once:
            instance = None

            def __new__(cls):
                if cls.instance is None:
                    cls.instance = super().__new__(cls)
                return cls.instance

        once = Once()

        class Options:
            unset = MISSING

            def get(self, value=MISSING):
                return value is MISSING and self.unset is MISSING

        def default(value=MISSING):
            return value is MISSING

        def add():
            first["list"].append(2)
            return second["list"], shared is first["list"]

        def round():
            return app.database.app is app, database.app is app, loop[0] is loop, handlers["lower"] is lower

        def single():
            return Once() is once

        with open_executor(max_workers=1) as ex:
            assert ex.submit(default).result()
            assert ex.submit(lambda value=MISSING: value is MISSING).result()
            assert ex.submit(Options().get).result()
            assert ex.submit(add).result() == ([1, 2], True)
            assert ex.submit(add).result() == ([1, 2, 2], True)
            assert ex.submit(round).result() == (True,) * 4
            assert ex.submit(single).result()
    """)


@pytest.mark.apart
@pytest.mark.parametrize(
    "table",
    [
        "{}",
        "collections.OrderedDict()",
        "collections.defaultdict(lambda: None)",
        "weakref.WeakValueDictionary()",
    ],
)
def test_a_class_that_keeps_a_table_of_its_instances_has_one_of_each(run_script, table):
    """The table is an attribute of the class or a global, and what it holds is a global, or is not."""
    run_script(f"""
        import collections, weakref

        SYMBOLS = {table}
        LATER = {table}

        class Named:
            table = {table}

            def __new__(cls, name):
                found = cls.table.get(name)
                if found is None:
                    found = cls.table[name] = super().__new__(cls)
                    found.name = name
                return found

            def __getnewargs__(self):
                return (self.name,)

        class Symbol(Named):
            def __new__(cls, name):
                found = SYMBOLS.get(name)
                if found is None:
                    found = SYMBOLS[name] = object.__new__(cls)
                    found.name = name
                return found

        class Late(Named):
            def __new__(cls, name):
                found = LATER.get(name)
                if found is None:
                    found = LATER[name] = object.__new__(cls)
                    found.name = name
                return found

        one, symbol = Named("one"), Symbol("one")
        kept = [Late("one"), Late("two")]

        def is_one(given):
            return given is one, Named("one") is one, "one" in Named.table, Named("two") is Named("two")

        def is_symbol(given):
            return given is symbol, Symbol("one") is symbol, list(SYMBOLS), [symbol] == list(SYMBOLS.values())

        def is_kept(given):
            return given is kept[0], Late("two") is kept[1], sorted(LATER), LATER["one"] is given

        with open_executor(max_workers=1) as ex:
            for _ in range(2):
                assert ex.submit(is_one, one).result() == (True, True, True, True)
                assert list(ex.map(is_symbol, [symbol] * 2)) == [(True, True, ["one"], True)] * 2
                assert ex.submit(is_kept, kept[0]).result() == (True, True, ["one", "two"], True)
                assert ex.submit(Named, "one").result() is one
            more = Symbol("more")
            assert ex.submit(lambda: Symbol("more") is more and Symbol("one") is symbol).result()
    """)


@pytest.mark.apart
def test_what_is_bound_to_another_object_stays_what_it_is_where_others_hold_it(run_script):
    run_script("""
        import types

        def first():
            return "first"

        lower = lambda: "lower"
        class Tool:
            def use(self):
                return "used"

        pair, held, listed = (1, 2), types.SimpleNamespace(value=1), [1]
        also, other, use = pair, first, Tool.use
        def defaults(a=held, b=lower, c=pair, d=listed, e=Tool.use):
            return a.value, b(), c, d, e(None)
        class Kept:
            a, b, c, d = held, [lower], pair, listed
        def kept():
            return Kept.a.value, Kept.b[0](), Kept.c, Kept.d

        def aliases():
            return also, other(), use(None)

        def check():
            for fn in defaults, kept, aliases:
                assert ex.submit(fn).result() == fn(), fn

        with open_executor(max_workers=1) as ex:
            check()
            pair = held = listed = None
            check()
            lower = lambda: "new"
            def first():
                return "new"
            Tool.use = lambda self: "new"
            check()
            Tool = first = 1
            check()
    """)


@pytest.mark.apart
def test_an_attribute_that_a_base_has_too_is_the_classes_own(run_script):
    run_script("""
        class Base:
            limit = 10

        class Derived(Base):
            limit = 10

        def limits():
            return Base.limit, Derived.limit

        with open_executor(max_workers=1) as ex:
            assert ex.submit(limits).result() == (10, 10)
            Base.limit = 20
            assert ex.submit(limits).result() == (20, 10)
            Derived.limit = 20
            assert ex.submit(limits).result() == (20, 20)
            del Derived.limit
            Base.limit = 30
            assert ex.submit(limits).result() == (30, 30)
    """)


@pytest.mark.apart
def test_a_global_that_the_program_deletes_is_gone(run_script):
    run_script("""
        value, others, set_by_calls = 1, [1], []

        def get():
            try:
                return value
            except NameError:
                return "gone"

        def set_own():
            global own
            own = 1

        def get_own():
            set_by_calls.append(1)
            return own, len(set_by_calls)

        with open_executor(max_workers=1) as ex:
            ex.submit(set_own).result()
            assert ex.submit(get).result() == 1
            assert ex.submit(get_own).result() == (1, 1)
            del value
            assert ex.submit(get).result() == "gone"
            assert ex.submit(get).result() == "gone"
            assert ex.submit(get_own).result() == (1, 2)
            value = 2
            del others
            assert ex.submit(get).result() == 2
            assert ex.submit(get_own).result() == (1, 3)
    """)


@pytest.mark.apart
@pytest.mark.parametrize("first", range(5))
def test_globals_that_hold_each_other_arrive_whichever_is_needed_first(run_script, first):
    text = """
        import functools

        class Base:
            kept = None

        class Node(Base):
            def method(self):
                return self

        def work(first=None, second=None):
            return 1

        node = Node()
        bound = node.method
        partial = functools.partial(work, bound)
        pair = (partial, bound, Base)
        listed = [pair, work]
        work.held, work.__defaults__ = partial, (bound, partial)
        Node.kept, Base.kept = bound, [partial, bound]
        node.value, node.listed = work, listed

        def of_work():
            return work.held is partial, work.__defaults__[0] is bound, work.__defaults__[1] is partial

        def of_classes():
            return Node.kept is bound, Base.kept[0] is partial, Node.kept.__self__.listed[0][1] is Node.kept

        def of_pair():
            return pair[0] is partial, listed[0] is pair, pair[0].func is work, bound.__self__ is node

        def of_bound():
            return bound.__self__.value is work, bound.__self__.listed[0][1] is bound

        def of_partial():
            return partial.func.held is partial, partial.args[0].__self__.listed[0][0] is partial

        functions = [of_work, of_classes, of_pair, of_bound, of_partial]
        with open_executor(max_workers=1) as ex:
            for fn in functions[FIRST:] + functions[:FIRST]:
                assert all(ex.submit(fn).result()), fn
    """
    run_script(text.replace("FIRST", str(first)))


@pytest.mark.apart
def test_what_new_classes_are_told_by_others(run_script):
    run_script("""
        class Plugin:
            known = {}

            def __init_subclass__(cls, name, **options):
                super().__init_subclass__(**options)
                Plugin.known[name] = cls

        class Csv(Plugin, name="csv"):
            def load(self):
                return "csv"

        class Json(Plugin, name="json"):
            def load(self):
                return "json of " + str(len(self.known))

        class Meta(type):
            made = []

            def __new__(kind, name, bases, namespace, tag=None):
                cls = super().__new__(kind, name, bases, namespace)
                kind.made.append(name)
                return cls

            def __init__(cls, name, bases, namespace, tag=None):
                super().__init__(name, bases, namespace)
                cls.tag = tag

        class First(metaclass=Meta, tag="a"):
            pass

        class Second(First, tag="b"):
            pass

        def load(name):
            return Plugin.known[name]().load(), sorted(Plugin.known)

        def subclasses():
            return [cls.__name__ for cls in Plugin.__subclasses__()]

        def tags():
            return First.tag, Second.tag, Meta.made

        with open_executor() as ex:
            assert ex.submit(load, "json").result() == ("json of 2", ["csv", "json"])
            assert ex.submit(lambda plugin: plugin.load(), Csv()).result() == "csv"
            assert ex.submit(subclasses).result() == ["Csv", "Json"]
            assert ex.submit(tags).result() == ("a", "b", ["First", "Second"])
            assert type(ex.submit(Second).result()) is Second

        for first in (Csv(), Json()):
            with open_executor(max_workers=1) as ex:
                assert ex.submit(lambda plugin: plugin.known, first).result().keys() == Plugin.known.keys()
                assert ex.submit(subclasses).result() == ["Csv", "Json"]
    """)


def test_enumerations_with_aliases_and_attributes(run_script):
    run_script("""
        import copy, copyreg, dataclasses, enum, struct, typing, weakref

        class Planet(enum.Enum):
            EARTH = 1.0, "e"
            MARS = 2.0, "m"
            HOME = EARTH

            def __init__(self, mass, letter):
                self.mass, self.letter = mass, letter

        class Code(bytes, enum.Enum):
            A = 1, "one"
            B = 2, "two"

            def __new__(cls, number, label):
                member = bytes.__new__(cls, [number])
                member._value_, member.label = number, label
                return member

        @dataclasses.dataclass(frozen=True, slots=True)
        class Point:
            x: int

        class Sent:
            def __init__(self, x):
                self.x = x

        copyreg.pickle(Sent, lambda sent: (Sent, (sent.x + 1,)))
        Number = typing.NewType("Number", int)
        header = struct.Struct("=I")
        reference = weakref.ref(Planet)

        def typed(number: "Number", point: "Point") -> "Planet":
            return Planet.EARTH

        def look():
            return (Planet.HOME is Planet.EARTH, Planet.MARS.mass, Planet.MARS.letter, Code.B.label, bytes(Code.B),
                    Code(1) is Code.A, Number(3), header.pack(1), reference() is Planet,
                    typing.get_type_hints(typed)["point"] is Point)

        with open_executor() as ex:
            assert ex.submit(look).result() == look()
            assert ex.submit(lambda point: point, Point(3)).result() == Point(3)
            copied = ex.submit(lambda: copy.copy(Sent(1)).x).result()
            assert copied == copy.copy(Sent(1)).x == 2
            assert ex.submit(lambda member: member is Code.A, Code.A).result()
    """)


# --- what is called -------------------------------------------------------------------------------------


@pytest.mark.copies
def test_what_the_called_object_holds_is_an_argument(run_script):
    run_script("""
        import functools

        def take(options, x):
            return options.pop("f") * x

        class Model:
            def __init__(self):
                self.seen = []

            def fit(self, x):
                self.seen.append(x)
                return list(self.seen)

            def __call__(self, x):
                return self.fit(x)

        model = Model()
        with open_executor(max_workers=1) as ex:
            for fn in (functools.partial(take, {"f": 2}), functools.partial(take, options={"f": 2})):
                keyword = "options" in fn.keywords
                if keyword:
                    results = [ex.submit(fn, x=x).result() for x in range(5)]
                else:
                    results = [ex.submit(fn, x).result() for x in range(5)]
                    assert list(ex.map(fn, range(300))) == [2 * x for x in range(300)]
                assert results == [2 * x for x in range(5)]
            for fn in (model.fit, model):
                assert [ex.submit(fn, x).result() for x in range(3)] == [[0], [1], [2]]
                assert list(ex.map(fn, range(300))) == [[x] for x in range(300)]
                assert list(ex.map(fn, range(300), chunksize=50)) == [[x] for x in range(300)]
            assert model.seen == []
            assert ex.submit([3, 1, 2].index, 2).result() == 2
            assert ex.submit(functools.partial(take, {"f": 2}), 1, 2).exception() is not None
            assert ex.submit(model.fit, 1).name == "Model.fit"
    """)


def test_elements_may_be_of_classes_of_the_script(run_script):
    run_script("""
        import copy
        import operator

        class Point:
            def __init__(self, x):
                self.x = x

        points = [Point(x) for x in range(60)]

        with open_executor() as ex:
            for chunksize in (None, 20):
                # Functions that the script does not define bring nothing of it along.
                xs = ex.map(operator.attrgetter("x"), points, chunksize=chunksize)
                assert list(xs) == list(range(60))
                copies = list(ex.map(copy.copy, (Point(x) for x in range(60)), chunksize=chunksize))
                assert [point.x for point in copies] == list(range(60))
                assert {type(point) for point in copies} == {Point}
    """)


def test_classes_of_the_script_are_found_wherever_their_names_are_in_a_pickle(run_script):
    """It spells out each text once: a name that is there as a value, too, is not repeated."""
    run_script("""
        from pprint import pformat

        class Point:
            def __repr__(self):
                return "a point"

        class A_class_of_the_script_whose_name_has_50_characters(Point):
            pass

        class Größe(Point):
            pass

        class Maß(Point):
            pass

        def show(value):
            with open_executor(max_workers=1) as executor:
                return {executor.submit(pformat, value).result(), *executor.map(pformat, [value] * 3)}

        with_long_name = A_class_of_the_script_whose_name_has_50_characters()

        assert show(["Point", Point()]) == {"['Point', a point]"}
        assert show({"Point": Point()}) == {"{'Point': a point}"}
        assert show([*"abc" * 100, b"\\x8c" * 60_000, "Point", Point()]).pop().endswith(" a point]")
        assert show(with_long_name) == show(Größe()) == show(Maß()) == {"a point"}
    """)


@pytest.mark.apart
def test_what_the_script_has_imported_by_name_is_the_modules_own(run_script, tmp_path):
    (tmp_path / "beside.py").write_text(BESIDE)
    run_script("""
        import os
        from decimal import DefaultContext
        from os import environ
        from random import random, seed, shuffle
        from secrets import choice
        from sys import modules, path
        from warnings import filters
        from beside import ENGINE, LOCK, count

        variables = os.environ

        def seeded(seed=seed):
            seed(1)
            numbers = [1, 2, 3, 4]
            shuffle(numbers)
            return numbers, random()

        def again():
            import random as module
            module.seed(7)
            first = random()
            module.seed(7)
            return first == module.random()

        def look():
            import beside, decimal, sys, warnings
            environ["BY_NAME"] = "1"
            variables["BY_ANOTHER"] = "2"
            path.append("by name")
            assert os.environ["BY_NAME"] + os.environ["BY_ANOTHER"] == "12"
            assert "by name" in sys.path
            assert modules is sys.modules
            assert filters is warnings.filters
            assert DefaultContext is decimal.DefaultContext
            assert choice("a") == "a"
            assert ENGINE is beside.ENGINE
            assert LOCK is beside.LOCK
            assert (count(), count(), beside.total()) == (1, 2, 2)

        with open_executor(max_workers=1) as executor:
            assert executor.submit(seeded).result() == seeded()
            assert executor.submit(again).result()
            executor.submit(look).result()
            assert "BY_NAME" not in os.environ
    """)


def test_what_the_script_has_put_into_a_module_is_a_global_as_others(run_script, tmp_path):
    (tmp_path / "beside.py").write_text(BESIDE)
    run_script("""
        import builtins
        import json
        import sys
        import threading
        import beside

        class Settings:
            def __init__(self):
                self.name = "set"

            def named(self):
                return self.name

        config = builtins.config = {"a": 1}
        plugins = sys.plugins = [config]
        settings = json.settings = Settings()
        named = json.named = settings.named
        GUARD = beside.GUARD = threading.RLock()
        STATE = beside.STATE = threading.Lock()  # where it is something else at first
        done = beside.done = threading.Event()

        def look():
            with GUARD, STATE:
                assert plugins[0] is config
                return config["a"], settings.name, named(), done.is_set()

        with open_executor(max_workers=1) as executor:
            assert executor.submit(look).result() == (1, "set", "set", False)
            config["a"] = 2
            settings.name = "reset"
            assert executor.submit(look).result() == (2, "reset", "reset", False)
    """)


BESIDE = """
import threading

ENGINE = (x for x in ())  # nobody can pickle it
LOCK = threading.Lock()
STATE = None


class Counter:
    def __init__(self):
        self.total = 0

    def count(self):
        self.total += 1
        return self.total


_counter = Counter()
count = _counter.count


def total():
    return _counter.total
"""


@pytest.mark.apart
def test_an_object_without_contents_is_the_one_that_its_module_has(run_script, tmp_path):
    (tmp_path / "beside.py").write_text(ABSENT)
    run_script("""
        import dataclasses
        import beside
        from dataclasses import MISSING as M
        from beside import ABSENT, NOTHING as NONE, is_absent

        BY_NAME = {"missing": dataclasses.MISSING, "absent": beside.ABSENT, "made": object()}
        OWN = object()

        @dataclasses.dataclass
        class Options:
            count: int
            names: list = dataclasses.field(default_factory=list)
            depth: object = ABSENT

        def without(value=dataclasses.MISSING, other=beside.ABSENT, own=OWN):
            return value is M, value is dataclasses.MISSING, is_absent(other), own is OWN

        def enclosing(value):
            def enclosed():
                return value is beside.ABSENT
            return enclosed

        closed = enclosing(ABSENT)

        class Table(dict):
            __unset = object()
            unset = __unset

            def take(self, name, default=__unset):
                return default is self.__unset, default is self.unset

        def pair(both):
            return (lambda: both), (lambda: both)

        first, second = pair(object())

        def look():
            assert without() == (True, True, True, True)
            assert is_absent(ABSENT) and NONE is beside.NOTHING
            assert BY_NAME["missing"] is M and BY_NAME["absent"] is ABSENT and BY_NAME["made"] is not OWN
            assert [field.default is M for field in dataclasses.fields(Options)] == [True, True, False]
            assert is_absent(Options(1).depth)
            assert closed()
            assert Table().take("a") == (True, True) and Table().take("a", None) == (False, False)
            assert first() is second() and first() is not OWN

            @dataclasses.dataclass
            class More(Options):
                more: int = 0

            assert More(1).names == []

        with open_executor(max_workers=1) as executor:
            executor.submit(look).result()
            beside.LATER = later = object()  # which the calls' processes do not have
            assert executor.submit(lambda: type(later) is object).result()
    """)


ABSENT = """
class Nothing:
    __slots__ = ()


ABSENT = object()
NOTHING = Nothing()


def is_absent(value):
    return value is ABSENT
"""
