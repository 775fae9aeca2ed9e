"""The contract that every backend keeps, run against any of them.

    python -m jobrunner.testing.backend_contract threads processes
    python -m jobrunner.testing.backend_contract mybackend --option queue=fast --promise map --promise cancel
    python -m jobrunner.testing.backend_contract mybackend -- -k submit -x       what follows `--` goes to pytest

runs a few hundred tests with `Executor(NAME, max_workers=2)` and prints, promise by promise, whether it is kept,
broken, or not claimed (`Backend.capabilities`). It ends with 1 if something is broken. In the tests of a package,

    from jobrunner.testing.backend_contract import contract_test

    test_contract = contract_test("mybackend")

is a pytest test for each promise, and `run("mybackend")` gives the whole as a Report. All of it needs the extra
`jobrunner[test]`, and is done in a process of its own, for the tests end processes, send signals, and count threads.

The tests start programs too, which open the backend by its name and these options.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobrunner.backends import registry
from jobrunner.errors import ConfigError
from jobrunner.testing.promises import (
    BROKEN,
    NOT_CLAIMED,
    OPTIONS,
    PROMISES,
    TOLD,
    WANTED,
    Report,
    markdown,
    table,
)

SUITE = Path(__file__).parent / "contract"

TEST_SECONDS = 120
"""Maximum time in seconds of a test."""

QUIET_SECONDS = 2.0 * TEST_SECONDS
"""Maximum time in seconds without the end of a test; then the tests hang where the limit of a test has no effect."""

STDERR = 2
"""The descriptor, whatever `sys.stderr` is."""

END_SECONDS = 30.0
"""Maximum time in seconds for the end of the tests' process after the last test."""


def run(
    backend: str,
    arguments: Sequence[str] = (),
    launch: Sequence[str] = (sys.executable,),
    *,
    options: Mapping[str, Any] | None = None,
    promises: Sequence[str] = (),
) -> Report:
    """Run the contract against a backend, in a process of its own.

    Args:
        backend: The name of the backend.
        arguments: Arguments for pytest.
        launch: The command that starts Python; for "mpi" it is ("mpiexec", "-n", "3", sys.executable, "-m",
            "mpi4py.futures").
        options: Keyword arguments of each Executor, which may be numbers, strings, lists and dicts.
        promises: The promises to test, which are keys of `promises.PROMISES`. Default: all.

    Raises:
        ConfigError: The backend or pytest is not installed, or an option or a promise cannot be used.
    """
    require_pytest()
    unknown = {*promises} - {*PROMISES}
    if unknown:
        raise ConfigError(f"no such promise: {', '.join(sorted(unknown))} (known: {', '.join(PROMISES)})")
    report = Report(backend, registry.capabilities(backend))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jobrunner-contract-") as folder:
        told = Path(folder) / "report"
        told.touch()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBRUNNER_")}
        environment = {
            **kept,  # but without the user's settings
            "XDG_CONFIG_HOME": folder,
            "XDG_STATE_HOME": folder,
            "JOBRUNNER_CONTRACT": backend,
            OPTIONS: _as_json(options or {}),
            WANTED: ",".join(promises),
            TOLD: str(told),
        }
        code = _run_pytest([*launch, *_pytest(), *arguments], environment, told)
        _read(told, report)
        if not report.error and not _finished(told):
            report.error = (
                f"the process of the tests ended before they did, with code {code}: see what it printed"
            )
    report.seconds = time.monotonic() - started
    return report


def contract_test(backend: str, **settings: Any) -> Callable[[str], None]:
    """Return a pytest test for each promise; the settings are those of `run`.

    Promises that are not claimed are skipped.
    """
    require_pytest()
    import pytest

    @pytest.mark.parametrize("promise", list(PROMISES))
    def test_contract(promise: str) -> None:
        report = run(backend, promises=[promise], **settings)
        if not report.error and report.verdict(promise) == NOT_CLAIMED:
            pytest.skip(f"{backend} does not claim it")
        assert report.kept, str(report)

    return test_contract


def require_pytest() -> None:
    """Raise ConfigError if a package that the tests need is not installed."""
    needed = ("pytest", "pytest_timeout", "numpy")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the contract needs {', '.join(missing)}: pip install 'jobrunner[test]'")


def _as_json(options: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(options))
    except (TypeError, ValueError) as exc:
        raise ConfigError(
            "the options must be numbers, strings, lists or dicts, since programs that the tests start need them"
            f" too: {exc}"
        ) from exc


def _pytest() -> list[str]:
    command = ["-m", "pytest", "-q", "-p", f"{__package__}.contract_report", "--import-mode=importlib"]
    command += ["-c", os.devnull, "--rootdir", str(SUITE), "-p", "no:cacheprovider"]
    return [*command, f"--timeout={TEST_SECONDS}", "-W", "error", str(SUITE)]


def _run_pytest(command: Sequence[str], environment: dict[str, str], told: Path) -> int:
    """Run pytest in a session of its own, which is ended with all its processes; return the exit code."""
    process = subprocess.Popen(command, env=environment, stdout=STDERR, start_new_session=True)
    try:
        size, since = -1, time.monotonic()
        while process.poll() is None:
            if told.stat().st_size != size:
                size, since = told.stat().st_size, time.monotonic()
            elif time.monotonic() - since > (END_SECONDS if _finished(told) else QUIET_SECONDS):
                with told.open("a") as file:
                    file.write(json.dumps({"error": "the process of the tests hung, and was ended"}) + "\n")
                break
            time.sleep(0.1)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # as it should be: nothing is left
        process.wait()
    return process.returncode


def _lines(told: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in told.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _finished(told: Path) -> bool:
    return any("finished" in line for line in _lines(told))


def _read(told: Path, report: Report) -> None:
    for line in _lines(told):
        if "error" in line:
            report.error = report.error or line["error"]
        elif "promise" in line and line["test"] not in report.failures:  # a test may fail in its end, too
            report.add(line["promise"], line["end"])
            if line["end"] == BROKEN:
                report.failures[line["test"]] = line["text"]


# --- the command line -----------------------------------------------------------------------------------------


def option(text: str) -> tuple[str, Any]:
    """Return name and value of "name=value"; the value is parsed if it is JSON, else it is a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m jobrunner.testing.backend_contract",
        description="Run the contract that every backend keeps, and print what is kept.",
        epilog="What follows -- goes to pytest.",
    )
    made.add_argument("backends", nargs="+", metavar="BACKEND")
    made.add_argument(
        "--option", action="append", default=[], type=option, metavar="NAME=VALUE", help="of each Executor"
    )
    made.add_argument(
        "--promise", action="append", default=[], choices=list(PROMISES), help="try this one only"
    )
    made.add_argument("--launch", metavar="COMMAND", help="what starts Python, where that alone does not do")
    made.add_argument("--markdown", action="store_true", help="print the table for a page")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the contract as the options say.

    Returns 0 if all that is claimed is kept, 1 if something is broken, and 2 if the contract could not be tried.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    split = given.index("--") if "--" in given else len(given)
    parsed = parser().parse_args(given[:split])
    launch = shlex.split(parsed.launch) if parsed.launch else (sys.executable,)
    try:
        reports = [
            run(
                name,
                given[split + 1 :],
                launch,
                options=dict(parsed.option),
                promises=parsed.promise,
            )
            for name in parsed.backends
        ]
    except ConfigError as exc:
        print(f"backend_contract: {exc}", file=sys.stderr)
        return 2
    for report in reports:
        print(f"{report.backend}: {report.seconds:.0f} s", file=sys.stderr)
    print((markdown if parsed.markdown else table)(reports))
    broken = [report for report in reports if not report.kept]
    for report in broken:
        print(f"\n{report}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
