"""What every test may use."""

from __future__ import annotations

import contextlib
import os
import resource
import signal

import pytest
from support import TESTS

# The programs that tests start, and their slots, find `support` and `zoo` where this process does (by `pythonpath` in
# pyproject.toml). The zoo is in tests/contract and not in tests/support, because the contract is shipped as
# jobrunner/testing/contract.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(TESTS), str(TESTS / "contract"), *filter(None, [os.environ.get("PYTHONPATH")])]
)

# Where the tests run in the background (nohup, `&` in a script), SIGINT may be ignored, and the programs that they
# start would inherit that; many of them are about what Ctrl-C does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch, tmp_path_factory):
    """Tests see the defaults, whatever the environment and the user's config file say."""
    for name in list(os.environ):
        if name.startswith("JOBRUNNER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def small_files():
    """A context in which this process cannot write to files, nor to memory that stands for one."""

    @contextlib.contextmanager
    def limited():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
