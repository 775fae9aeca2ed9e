"""Several hosts on one: network namespaces that hang on a bridge, and cables that can be cut or made bad.

    hub (a namespace with the bridge) --- coordinator, one, two, three, client (a namespace each)

Everything is inside namespaces with a name of their own, so that nothing of the machine's network is touched; to
delete the namespaces deletes all links. A guard does that, also if the process of the tests is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

IP = shutil.which("ip") or "ip"
NETWORK = "10.213.0."

GUARD = """\
import os, signal, subprocess, sys
ip, names = sys.argv[1], sys.argv[2:]
os.read(0, 1)  # until the tests have ended, however
for name in names:
    pids = subprocess.run([ip, "netns", "pids", name], capture_output=True, text=True).stdout.split()
    for pid in map(int, pids):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    subprocess.run([ip, "netns", "del", name], capture_output=True)
"""


def why_not() -> str:
    """Why this machine cannot have such hosts; empty if it can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    name = f"jr{os.getpid()}-try"
    try:
        run("netns", "add", name)
        try:
            run("-n", name, "link", "add", "try0", "type", "veth", "peer", "name", "try1")
            run("-n", name, "link", "add", "try2", "type", "bridge")
        finally:
            run("netns", "del", name)
    except subprocess.CalledProcessError as exc:
        return f"network namespaces do not work here: {exc.stderr.strip()}"
    return ""


def run(*arguments: str) -> str:
    return subprocess.run([IP, *arguments], check=True, capture_output=True, text=True).stdout


class Hosts:
    """The network. Processes start with `command(host)` in front."""

    def __init__(self, names: list[str]) -> None:
        prefix = f"jr{os.getpid()}-"
        self._namespaces = {name: prefix + name for name in ["hub", *names]}
        self._addresses = {name: f"{NETWORK}{number}" for number, name in enumerate(names, 1)}
        self._bad: list[subprocess.Popen[str]] = []
        self._guard = subprocess.Popen(
            [sys.executable, "-c", GUARD, IP, *self._namespaces.values()],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._make(names)
        except BaseException:
            self.end()
            raise

    def _make(self, names: list[str]) -> None:
        hub = self._namespaces["hub"]
        run("netns", "add", hub)
        run("-n", hub, "link", "add", "bridge", "type", "bridge")
        run("-n", hub, "link", "set", "bridge", "up")
        for name in names:
            host = self._namespaces[name]
            run("netns", "add", host)
            run("-n", host, "link", "set", "lo", "up")
            run("-n", hub, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", host)
            self._plug_in(name)

    def _plug_in(self, name: str) -> None:
        hub, host = self._namespaces["hub"], self._namespaces[name]
        run("-n", hub, "link", "set", name, "master", "bridge", "up")
        run("-n", host, "addr", "add", f"{self._addresses[name]}/24", "dev", "eth0")
        run("-n", host, "link", "set", "eth0", "up")

    def address(self, name: str) -> str:
        return self._addresses[name]

    def command(self, name: str) -> list[str]:
        return [IP, "netns", "exec", self._namespaces[name]]

    def cut(self, name: str) -> None:
        """Without a word to either end: it is the hub's side of the cable that goes down."""
        run("-n", self._namespaces["hub"], "link", "set", name, "down")

    def heal(self, name: str) -> None:
        run("-n", self._namespaces["hub"], "link", "set", name, "up")

    def make_bad(self, name: str, loss: float, delay: float) -> None:
        """Give the host a cable that loses this share of its packets and delays the others, each way."""
        hub, host = self._namespaces["hub"], self._namespaces[name]
        run("-n", hub, "link", "del", name)
        program = str(Path(__file__).with_name("bad_cable.py"))
        command = [*self.command("hub"), sys.executable, program, name, "far-" + name, str(loss), str(delay)]
        cable = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._bad.append(cable)
        assert cable.stdout is not None
        assert cable.stdout.readline() == "ready\n"
        run("-n", hub, "link", "set", "far-" + name, "netns", host, "name", "eth0")
        self._plug_in(name)

    def end(self) -> None:
        self._guard.communicate()
        for cable in self._bad:
            assert cable.stdout is not None
            cable.stdout.close()
            cable.wait(30)
