"""What a program has configured is found, and another process can be configured so."""

from __future__ import annotations

import decimal
import json
import subprocess
import sys

import pytest

from jobrunner.program.configuration import configuration

PROGRAM = """
import json, logging, sys
from jobrunner.program.configuration import configuration, configure
{before}
print(configuration())
"""

COPY = """
import sys
from jobrunner.program.configuration import configuration, configure
configure(sys.argv[1])
{after}
print(configuration())
"""


def run(text, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    "before",
    [
        "sys.setrecursionlimit(2000)",
        "import decimal; decimal.getcontext().prec = 3",
        "import decimal; decimal.getcontext().traps[decimal.Inexact] = True",
        "import numpy; numpy.seterr(over='ignore')",
        "import numpy; numpy.set_printoptions(suppress=True, threshold=sys.maxsize)",
        "logging.basicConfig(level='INFO')",
        "logging.basicConfig(stream=sys.stdout, format='{message}', style='{', datefmt='%H')",
        "logging.getLogger('a.b').setLevel(5); logging.getLogger('a.b').propagate = False",
        "logging.getLogger('a').disabled = True",
        "logging.disable(logging.CRITICAL)",
        "import decimal; decimal.DefaultContext.prec = 9; decimal.DefaultContext.traps[decimal.Inexact] = True",
        "import decimal; decimal.DefaultContext.prec = 9; decimal.setcontext(decimal.DefaultContext)",
        "logging.addLevelName(25, 'NOTICE'); logging.addLevelName(logging.INFO, 'info')",
        "logging.root.addHandler(logging.NullHandler())",
        "logging.root.addHandler(logging.FileHandler('/dev/null', encoding='ascii', errors='replace'))",
        "logging.basicConfig(); logging.root.handlers[0].terminator = '|'",
        "logging.basicConfig(); logging.root.handlers[0].setFormatter("
        "logging.Formatter('%(who)s %(message)s', defaults={'who': 'me'}))",
    ],
)
def test_a_process_that_is_configured_as_another_one_finds_the_same(before):
    found, _ = run(PROGRAM.format(before=before))
    assert found
    again, _ = run(COPY.format(after=""), found)
    assert json.loads(again) == json.loads(found)


@pytest.mark.parametrize(
    "before",
    [
        "",
        "import decimal, numpy, logging, concurrent.futures, asyncio, jobrunner",
        "import numpy; numpy.seterrcall(print); numpy.seterr(all='call')",
        "logging.basicConfig(); logging.root.handlers[0].setFormatter(logging.Formatter(defaults={'who': print}))",
        "logging.getLogger('json.decoder').addHandler(logging.StreamHandler())",  # it does so wherever it is imported
        "import io; logging.getLogger('a').addHandler(logging.StreamHandler(io.StringIO()))",
        "logging.getLogger('a').addHandler(type('Own', (logging.StreamHandler,), {})())",
    ],
)
def test_nothing_is_found_where_nothing_is_configured_that_could_go_along(before):
    assert run(PROGRAM.format(before=before))[0] == ""


def test_records_go_to_the_file_of_the_program_and_empty_it_for_nobody(tmp_path):
    path = tmp_path / "log"
    before = f"logging.basicConfig(filename={str(path)!r}, filemode='w', format='%(levelname)s %(message)s')"
    found, _ = run(PROGRAM.format(before=f"{before}\nlogging.error('first')"))
    run(COPY.format(after="import logging\nlogging.error('second')"), found)
    assert path.read_text() == "ERROR first\nERROR second\n"


def test_records_go_to_the_stream_that_is_the_present_one():
    found, _ = run(PROGRAM.format(before="logging.basicConfig()"))
    after = "import io, logging\nsys.stderr = io.StringIO()\nlogging.error('x')\nprint(sys.stderr.getvalue(), end='')"
    assert run(COPY.format(after=after), found)[0].splitlines()[0] == "ERROR:root:x"


def test_a_handler_can_be_given_another_stream_in_a_call():
    found, _ = run(PROGRAM.format(before="logging.basicConfig()"))
    after = (
        "import io, logging\nstream = io.StringIO()\nlogging.root.handlers[0].setStream(stream)\nlogging.error('x')\n"
        "print(stream.getvalue(), end='')"
    )
    printed, errors = run(COPY.format(after=after), found)
    assert printed.splitlines()[0] == "ERROR:root:x"
    assert not errors


def test_the_context_of_decimal_is_that_of_the_thread_that_asks():
    with decimal.localcontext() as context:
        context.prec = 7
        assert json.loads(configuration())["decimal"]["prec"] == 7
    assert "decimal" not in json.loads(configuration() or "{}")
