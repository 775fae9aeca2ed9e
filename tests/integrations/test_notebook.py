"""A real IPython kernel: what cells define runs everywhere, as it is when it is submitted."""

from __future__ import annotations

import os

import jupyter_client
import pytest

FACES = ("text/plain", "text/html")


class Notebook:
    """Runs cells one after the other; `output` is what the last one printed, `shown` what it showed."""

    def __init__(self, client):
        self._client = client
        self.output = ""
        self.shown = []
        self.error = None

    def run(self, cell):
        self.output, self.shown, self.error = "", [], None
        self._client.execute_interactive(cell, timeout=50, output_hook=self._note)
        return self.shown[-1]["text/plain"] if self.shown else self.output

    def _note(self, message):
        content = message["content"]
        if message["msg_type"] == "stream":
            self.output += content["text"]
        elif message["msg_type"] in ("execute_result", "display_data"):
            self.shown.append(content["data"])
        elif message["msg_type"] == "error":
            self.error = content["ename"], "\n".join(content["traceback"])


@pytest.fixture(scope="session", params=["processes", "cluster"])
def notebook(request, tmp_path_factory):
    """A kernel with an Executor `ex` that is open in it."""
    folder = tmp_path_factory.mktemp("kernel")
    manager = jupyter_client.KernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/k")
    manager.start_kernel(cwd=str(folder), env={**os.environ, "IPYTHONDIR": str(folder)})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=50)
        opened = Notebook(client)
        opened.run("from jobrunner import AsyncExecutor, Executor, as_completed")
        opened.run(f"ex = Executor({request.param!r}, max_workers=2)")
        assert opened.error is None
        yield opened
        opened.run("ex.shutdown()")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_functions_of_cells(notebook):
    notebook.run("scale = 2\ndef f(x):\n    return scale * x")
    assert notebook.run("list(ex.map(f, range(5)))") == "[0, 2, 4, 6, 8]"
    assert notebook.run("ex.submit(lambda x: f(x) + 1, 5).result()") == "11"


def test_a_function_that_is_defined_again_is_never_stale(notebook):
    for factor in (3, 4):
        notebook.run(f"def g(x):\n    return {factor} * x")
        assert notebook.run("ex.submit(g, 1).result()") == str(factor)
    notebook.run("scale = 10\ndef f(x):\n    return scale * x")
    assert notebook.run("scale = 11\nex.submit(f, 1).result()") == "11"


def test_classes_of_cells(notebook):
    notebook.run("class Point:\n    def __init__(self, x):\n        self.x = x")
    assert notebook.run("p = ex.submit(Point, 3).result()\nisinstance(p, Point), p.x") == "(True, 3)"


def test_what_calls_print_is_the_cells_output(notebook):
    notebook.run("ex.submit(print, 'from the call').result()")
    assert notebook.output == "from the call\n"


def test_an_exception_shows_where_it_was_raised(notebook):
    notebook.run("def wrong():\n    return 1 / 0\nex.submit(wrong).result()")
    name, traceback = notebook.error
    assert name == "ZeroDivisionError"
    assert "in wrong" in traceback


def test_awaiting_at_the_top_level(notebook):
    notebook.run(
        "def h(x):\n    return x + 1\n"
        "async with AsyncExecutor('processes', max_workers=1) as a:\n"
        "    print(await a.submit(h, 1), [x async for x in a.map(h, range(3))])"
    )
    assert notebook.output == "2 [1, 2, 3]\n"


def test_progress(notebook):
    """Without ipywidgets, which rich would warn about."""
    assert notebook.run("list(ex.map(str, range(3), progress=True))") == "['0', '1', '2']"
    assert "3/3" in notebook.output
    assert "ipywidgets" not in str(notebook.shown)


def test_what_is_shown_of_a_future_and_an_executor(notebook):
    notebook.run("future = ex.submit(abs, -1)\nfuture.result()")
    for expression, words in (("future", ["succeeded", "int"]), ("ex", ["open", "max_workers"])):
        notebook.run(expression)
        (shown,) = notebook.shown
        assert set(FACES) <= set(shown)
        assert all(word in shown["text/html"] for word in words)


def test_an_interrupt_ends_a_wait_and_nothing_else(notebook, tmp_path):
    go = tmp_path / "go"
    notebook.run(
        "import pathlib, time\n"
        f"go = pathlib.Path({str(go)!r})\n"
        "def wait():\n    while not go.exists():\n        time.sleep(0.01)\n    return 'done'\n"
        "future = ex.submit(wait)\n"
        "import os, signal, threading\n"
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "future.result()"
    )
    assert notebook.error[0] == "KeyboardInterrupt"
    go.touch()
    assert notebook.run("future.result()") == "'done'"
