"""The contract as others run it: against backends by name, with a report; and the example of a backend in a package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobrunner import ConfigError
from jobrunner.testing import backend_contract
from jobrunner.testing.backend_contract import main, run
from jobrunner.testing.promises import BY_FILE, markdown

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "third_party_backend"
CONTRACT_FILES = sorted(path.stem for path in (ROOT / "tests" / "contract").glob("test_*.py"))
SOME = ("-k", "endless_input or test_submit")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a package with a backend, where this process and those that it starts find it."""

    def install(name, text):
        folder = tmp_path / "site"
        (folder / f"{name}-1.dist-info").mkdir(parents=True)
        (folder / f"{name}-1.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
        (folder / f"{name}-1.dist-info" / "entry_points.txt").write_text(
            f"[jobrunner.backends]\n{name} = {name}_backend:Backend\n"
        )
        (folder / f"{name}_backend.py").write_text(text)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))

    return install


def test_what_is_kept_is_counted_by_promise():
    report = run("threads", SOME)
    assert report.kept, str(report)
    assert report.counts["submit"]["kept"] > 0
    assert report.verdict("submit") == "kept"
    assert report.verdict("crashes") == "not claimed"
    assert report.verdict("dependencies") == "not tried"
    page = markdown([report])
    assert page.startswith("| promise | threads |")
    assert "| kept, not copies, apart |" in page


def test_a_promise_that_is_claimed_and_not_kept_is_broken(installed):
    installed(
        "liar",
        "from jobrunner.backends.threads import ThreadsBackend\n"
        "class Backend(ThreadsBackend):\n"
        "    name = 'liar'\n"
        "    capabilities = ThreadsBackend.capabilities | {'copies'}\n",
    )
    report = run("liar", ("-k", "test_an_argument_is_fixed_at_submit"))
    assert not report.kept
    assert [*report.failures] == ["test_calls.py::test_an_argument_is_fixed_at_submit[liar]"]
    assert "assert [1, 2] == [1]" in str(report)
    assert "BROKEN (1 of 1 tests)" in str(report)
    assert main(["liar", "--promise", "submit", "--", "-k", "test_an_argument_is_fixed_at_submit"]) == 1


def test_what_is_not_claimed_is_said(capsys):
    assert main(["threads", "--promise", "timeouts", "--promise", "crashes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1].strip() for line in lines[2:4]] == ["not claimed", "not claimed"]
    assert "interactive" not in "".join(lines)  # nor is what was not tried


def test_the_options_reach_the_tests_and_their_programs(installed):
    installed(
        "choosy",
        "from dataclasses import replace\n"
        "from jobrunner import ConfigError\n"
        "from jobrunner.backends.threads import ThreadsBackend\n"
        "class Backend(ThreadsBackend):\n"
        "    name = 'choosy'\n"
        "    def __init__(self, settings):\n"
        "        if settings.extra != {'colour': 'red', 'size': [1]}: raise ConfigError(f'{settings.extra}')\n"
        "        super().__init__(replace(settings, extra={}))\n",
    )
    some = [
        "--",
        "-k",
        "test_submit_returns or test_a_command or test_wait or test_an_unpicklable or without_a_main",
    ]
    assert main(["choosy", "--option", "colour=red", "--option", "size=[1]", *some]) == 0
    assert main(["choosy", "--option", "colour=blue", *some]) == 1


@pytest.mark.parametrize("options", ["colour", "=red", "two words=1"])
def test_what_is_no_option_is_refused(options):
    with pytest.raises(SystemExit):
        main(["threads", "--option", options])


def test_options_that_cannot_travel_are_refused():
    with pytest.raises(ConfigError, match="must be numbers, strings"):
        run("threads", options={"pool": object()})


def test_a_promise_that_there_is_not(capsys):
    with pytest.raises(ConfigError, match="no such promise: haste"):
        run("threads", promises=["haste"])


def test_a_process_that_never_ends_is_ended_and_said(installed, monkeypatch):
    monkeypatch.setattr(backend_contract, "END_SECONDS", 0.5)
    installed(
        "lingering",
        "import threading\n"
        "from jobrunner.backends.threads import ThreadsBackend\n"
        "class Backend(ThreadsBackend):\n"
        "    name = 'lingering'\n"
        "    def __init__(self, settings):\n"
        "        super().__init__(settings)\n"
        "        threading.Thread(target=threading.Event().wait).start()\n",
    )
    report = run("lingering", SOME)
    assert "hung, and was ended" in report.error
    assert not report.kept
    assert report.counts["submit"]["kept"] == 1


def test_a_process_that_dies_is_said(installed):
    installed(
        "deadly",
        "import os\n"
        "from jobrunner.backends.threads import ThreadsBackend\n"
        "class Backend(ThreadsBackend):\n"
        "    name = 'deadly'\n"
        "    def pack(self, columns): os._exit(7)\n",
    )
    report = run("deadly", SOME)
    assert "ended before they did, with code 7" in report.error
    assert not report.kept


def test_a_package_has_a_test_for_each_promise(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "from jobrunner.testing.backend_contract import contract_test\n"
        "test_contract = contract_test('threads')\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "-k",
        "waiting or timeouts",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert "1 passed, 1 skipped" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("name", CONTRACT_FILES)
def test_each_file_belongs_to_a_promise(name):
    assert name in BY_FILE, "add it to jobrunner.testing.promises"


def test_nothing_tested_is_nothing_kept():
    assert not run("threads", ("-k", "no_such_test")).kept


def test_a_backend_that_is_not_there(capsys):
    with pytest.raises(ConfigError, match="unknown backend"):
        run("nowhere")
    assert main(["nowhere"]) == 2
    assert "unknown backend" in capsys.readouterr().err


def test_a_package_that_cannot_be_loaded_is_named(installed):
    installed("broken", "import a_module_that_nobody_has\n")
    with pytest.raises(
        ConfigError, match=r"'broken' of the package broken cannot be loaded.*a_module_that_nobody_has"
    ):
        run("broken")


@pytest.mark.timeout(330)
def test_the_example_of_a_package_with_a_backend(tmp_path):
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, str(EXAMPLE)], check=True, timeout=60)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            str(EXAMPLE / "tests"),
        ],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
