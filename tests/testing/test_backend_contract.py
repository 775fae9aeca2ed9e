"""The contract as others run it: against backends by name, with a report; and the example of a backend in a package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobrunner import ConfigError
from jobrunner.testing.backend_contract import main, run, table

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "third_party_backend"
SOME = ("-k", "buffersize or test_submit")


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
    assert report.counts["submit, functions, arguments and results"]["kept"] > 0
    assert "threads:" in str(report)
    assert "| promise | threads |" in table([report])


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
    assert report.failures == ["test_calls.py::test_an_argument_is_fixed_at_submit[liar]"]
    assert "1 BROKEN" in str(report)


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


@pytest.mark.timeout(150)
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
        timeout=140,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
