"""Every setting, once: its default, its unit, its environment variable.

A setting comes from the first of these that names it: an argument or command line option, its environment
variable, the config file, the default below. The result is one frozen object per role, and nothing reads a
setting elsewhere.

The config file is TOML: `jobrunner.toml` in the user's config directory (`jobrunner version` prints where
that is), or the file that JOBRUNNER_CONFIG names. It has a table per role:

    [client]
    backend = "cluster"
    address = "tcp://10.0.0.5:7077"
    [worker]
    slots = 8
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from jobrunner.errors import ConfigError

DEFAULT_PORT = 7077

EXIT_WAIT = 10.0
"""Seconds that the process of a slot has for what its calls have left to do at its end."""

EXIT_WAIT_MEANING = (
    "how long a slot's process may take for what calls left to its end: threads, atexit; 0: none"
)

JOIN_SCHEME = "jobrunner://"
"""What a line to join a cluster with starts with, see `invitation`."""

PEER_TIMEOUT = 10.0
"""Seconds of silence after which a peer counts as lost."""

MAX_PEER_TIMEOUT = 3600.0
"""Seconds; a peer that asked for more could leave its traces at the coordinator for ever."""

SHORTEST_PEER_TIMEOUT = 0.05
"""Seconds; of a peer that comes over a network. Settings ask for more."""

HEARTBEATS_PER_TIMEOUT = 10
"""Signs of life on an otherwise quiet connection, per `PEER_TIMEOUT`."""

UNREACHABLE_GRACE = 2.0
"""Seconds that a peer has to come back once the transport says that its connection is gone."""

MAX_NAME_LENGTH = 256
"""Characters of the name of a call, worker, host or resource, and of every id."""

MAX_AMOUNT = 1e15
"""Of a resource, asked for or offered: the coordinator adds and divides amounts, and what comes of it must be a number
that a float can hold."""

MAX_SLOTS = 2**20
"""Of one worker."""

MAX_PAYLOAD = 2**30
"""Bytes of the arguments of one call, and of its result, that a coordinator takes by default."""

MAX_WINDOW = 2**50
"""Tasks or bytes; as good as no limit."""


SIZES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""Suffixes of integers, as in 512M."""


def setting(
    default: Any,
    *,
    env: str,
    doc: str,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A dataclass field that knows its environment variable, unit, help text and bounds (of a string: its length)."""
    metadata = {"env": env, "unit": unit, "doc": doc, "minimum": minimum, "maximum": maximum}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ClientConfig:
    """What an Executor needs to know. The config file's table is [client]."""

    backend: str | None = setting(
        None,
        env="JOBRUNNER_BACKEND",
        doc='"processes", "threads", "cluster" or an address; default: "cluster" where an address is set,'
        ' else "processes"',
    )
    address: str | None = setting(
        None, env="JOBRUNNER_ADDRESS", doc="the coordinator's address, e.g. tcp://10.0.0.5:7077"
    )
    peer_timeout: float = setting(
        PEER_TIMEOUT,
        env="JOBRUNNER_PEER_TIMEOUT",
        unit="s",
        doc="silence after which a client takes the coordinator for lost; the coordinator waits for a client six times"
        " as long",
        minimum=0.5,
        maximum=MAX_PEER_TIMEOUT,
    )
    max_workers: int | None = setting(
        None, env="JOBRUNNER_MAX_WORKERS", doc="slots of a local pool; default: usable CPUs", minimum=1
    )
    connect_timeout: float = setting(
        10.0,
        env="JOBRUNNER_CONNECT_TIMEOUT",
        unit="s",
        doc="wait for the coordinator at the start",
        minimum=0,
    )
    reconnect_timeout: float = setting(
        120.0,
        env="JOBRUNNER_RECONNECT_TIMEOUT",
        unit="s",
        doc="wait for a coordinator that went away before pending Futures fail",
        minimum=0,
    )
    show_output: bool = setting(True, env="JOBRUNNER_SHOW_OUTPUT", doc="print at the client what tasks print")
    crash_limit: int = setting(
        3, env="JOBRUNNER_CRASH_LIMIT", doc="deaths of its process after which a task fails", minimum=1
    )
    identity: str | None = setting(
        None,
        env="JOBRUNNER_IDENTITY",
        doc="the key to show to the cluster: a file's path, or its text; default: the one that knows the address",
    )
    invitation: str | None = setting(
        None,
        env="JOBRUNNER_INVITATION",
        doc="what `jobrunner join` joins with: a file with the line that the coordinator printed, or that line",
    )
    insecure: bool = setting(
        False, env="JOBRUNNER_INSECURE", doc="talk to a coordinator without keys, and trust whoever answers"
    )
    exit_wait: float = setting(
        EXIT_WAIT, env="JOBRUNNER_EXIT_WAIT", unit="s", doc=EXIT_WAIT_MEANING, minimum=0
    )
    interpreter: str | None = setting(
        None,
        env="JOBRUNNER_INTERPRETER",
        doc="the Python that calls run in; default: the one of this program, which must not be frozen or embedded",
    )
    cancel_wait: float = setting(
        5.0, env="JOBRUNNER_CANCEL_WAIT", unit="s", doc="longest wait of cancel() for an answer", minimum=0
    )


@dataclass(frozen=True)
class CoordinatorConfig:
    """What a coordinator needs to know. The config file's table is [coordinator]."""

    host: str = setting("127.0.0.1", env="JOBRUNNER_HOST", doc="the interface to listen on")
    port: int = setting(
        DEFAULT_PORT, env="JOBRUNNER_PORT", doc="the TCP port; 0 takes a free one", minimum=0, maximum=65535
    )
    insecure: bool = setting(
        False, env="JOBRUNNER_INSECURE", doc="listen without keys: whoever reaches the port can run any code"
    )
    keys: str | None = setting(
        None,
        env="JOBRUNNER_KEYS",
        doc="the folder of the cluster's keys; default: in the user's config directory",
    )
    invitation_time: float = setting(
        3600.0,
        env="JOBRUNNER_INVITATION_TIME",
        unit="s",
        doc="how long the lines can be used that a coordinator prints at its start",
        minimum=0,
    )
    invitation_uses: int = setting(
        100,
        env="JOBRUNNER_INVITATION_USES",
        doc="how many can join with each of these lines; 0: it prints none",
        minimum=0,
    )
    crash_limit: int = setting(
        3, env="JOBRUNNER_CRASH_LIMIT", doc="deaths of its process after which a task fails", minimum=1
    )
    client_grace: float = setting(
        30.0, env="JOBRUNNER_CLIENT_GRACE", unit="s", doc="how long a lost client's tasks go on", minimum=0
    )
    client_window_tasks: int = setting(
        100_000,
        env="JOBRUNNER_CLIENT_WINDOW_TASKS",
        doc="unfinished tasks a client may have here",
        minimum=1,
        maximum=MAX_WINDOW,
    )
    client_window_bytes: int = setting(
        256 * 1024 * 1024,
        env="JOBRUNNER_CLIENT_WINDOW_BYTES",
        unit="bytes",
        doc="payload of unfinished tasks a client may have here",
        minimum=1,
        maximum=MAX_WINDOW,
    )
    max_payload: int = setting(
        MAX_PAYLOAD,
        env="JOBRUNNER_MAX_PAYLOAD",
        unit="bytes",
        doc="the arguments of one call, and its result, pickled, that are taken at most; more fails with QuotaError;"
        " with a journal 900 MB at most",
        minimum=2**16,
        maximum=MAX_WINDOW,
    )
    quota_tasks: int = setting(
        2_000_000,
        env="JOBRUNNER_QUOTA_TASKS",
        doc="calls that all clients of one key may have here, unfinished or with results kept; more fail with"
        " QuotaError; 0: no limit",
        minimum=0,
        maximum=MAX_WINDOW,
    )
    quota_bytes: int = setting(
        8 * 1024**3,
        env="JOBRUNNER_QUOTA_BYTES",
        unit="bytes",
        doc="their arguments, the results of others that they wait with, and kept results; 0: no limit",
        minimum=0,
        maximum=MAX_WINDOW,
    )
    drain_timeout: float = setting(
        60.0, env="JOBRUNNER_DRAIN_TIMEOUT", unit="s", doc="longest wait for running tasks", minimum=0
    )
    journal: str | None = setting(
        None,
        env="JOBRUNNER_JOURNAL",
        doc="the file that keeps accepted calls; default: one per port, in the user's state directory",
    )
    no_journal: bool = setting(
        False, env="JOBRUNNER_NO_JOURNAL", doc="keep nothing: accepted calls die with coordinator and client"
    )
    keep_detached: float = setting(
        7 * 24 * 3600.0,
        env="JOBRUNNER_KEEP_DETACHED",
        unit="s",
        doc="how long the outcome of a detached call is kept for somebody to fetch it",
        minimum=0,
    )
    result_cache: int = setting(
        64 * 1024 * 1024,
        env="JOBRUNNER_RESULT_CACHE",
        unit="bytes",
        doc="outcomes remembered for calls that need them and clients that ask for them",
        minimum=0,
    )
    log_level: str = setting("info", env="JOBRUNNER_LOG_LEVEL", doc="debug, info, warning or error")


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker daemon needs to know. The config file's table is [worker]."""

    address: str = setting(
        f"tcp://127.0.0.1:{DEFAULT_PORT}", env="JOBRUNNER_ADDRESS", doc="the coordinator's address"
    )
    slots: int | None = setting(
        None,
        env="JOBRUNNER_SLOTS",
        doc="tasks at a time; default: usable CPUs",
        minimum=1,
        maximum=MAX_SLOTS,
    )
    name: str | None = setting(
        None, env="JOBRUNNER_WORKER_NAME", doc="default: the host's name", maximum=MAX_NAME_LENGTH
    )
    resources: Mapping[str, float] = setting(
        None, env="JOBRUNNER_RESOURCES", doc="what tasks may ask for, e.g. gpu=2,licence=1"
    )
    peer_timeout: float = setting(
        PEER_TIMEOUT,
        env="JOBRUNNER_PEER_TIMEOUT",
        unit="s",
        doc="silence after which worker and coordinator take each other for lost",
        minimum=0.5,
        maximum=MAX_PEER_TIMEOUT,
    )
    drain_timeout: float = setting(
        60.0, env="JOBRUNNER_DRAIN_TIMEOUT", unit="s", doc="longest wait for running tasks", minimum=0
    )
    stop_grace: float = setting(
        5.0,
        env="JOBRUNNER_STOP_GRACE",
        unit="s",
        doc="between SIGINT, SIGTERM and SIGKILL when a task is stopped",
        minimum=0,
    )
    exit_wait: float = setting(
        EXIT_WAIT, env="JOBRUNNER_EXIT_WAIT", unit="s", doc=EXIT_WAIT_MEANING, minimum=0
    )
    interpreter: str | None = setting(
        None,
        env="JOBRUNNER_INTERPRETER",
        doc="the Python that calls run in; default: the one of this program, which must not be frozen or embedded",
    )
    unacknowledged_bytes: int = setting(
        256 * 1024 * 1024,
        env="JOBRUNNER_UNACKNOWLEDGED_BYTES",
        unit="bytes",
        doc="outcomes kept before new tasks wait",
        minimum=1,
    )
    identity: str | None = setting(
        None,
        env="JOBRUNNER_IDENTITY",
        doc="the key to show to the cluster: a file's path, or its text; default: the one that knows the address",
    )
    invitation: str | None = setting(
        None,
        env="JOBRUNNER_INVITATION",
        doc="what a worker joins with: a file with the line that the coordinator printed, or that line",
    )
    insecure: bool = setting(
        False, env="JOBRUNNER_INSECURE", doc="talk to a coordinator without keys, and run whatever it sends"
    )
    slot_memory: int | None = setting(
        None,
        env="JOBRUNNER_SLOT_MEMORY",
        unit="bytes",
        doc="memory of each slot, e.g. 512M; a call that needs more gets MemoryError; default: no limit",
        minimum=64 * 2**20,
    )
    max_tasks_per_slot: int | None = setting(
        None,
        env="JOBRUNNER_MAX_TASKS_PER_SLOT",
        doc="calls after which a slot's process is replaced, for functions that leak; default: never",
        minimum=1,
    )
    log_level: str = setting("info", env="JOBRUNNER_LOG_LEVEL", doc="debug, info, warning or error")


TABLES = {ClientConfig: "client", CoordinatorConfig: "coordinator", WorkerConfig: "worker"}

ConfigT = TypeVar("ConfigT", ClientConfig, CoordinatorConfig, WorkerConfig)


def load(cls: type[ConfigT], **arguments: Any) -> ConfigT:
    """The settings of one role; an argument that is None counts as not given.

    Raises ConfigError, naming the place, for a value that cannot be used and for an unknown key in the file.
    """
    path, table = read_file(TABLES[cls])
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in table:
        if key not in known:
            raise ConfigError(f"{path}: [{TABLES[cls]}] has no setting {key!r}; it knows {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, spec in known.items():
        env = spec.metadata["env"]
        if arguments.get(name) is not None:
            values[name] = convert(arguments[name], spec, name)
        elif os.environ.get(env, "") != "":
            values[name] = convert(os.environ[env], spec, f"environment variable {env}")
        elif name in table:
            values[name] = convert(table[name], spec, f"{path}: {TABLES[cls]}.{name}")
        elif name == "resources":
            values[name] = {}
    return cls(**values)


def file_path() -> Path:
    """Where the config file is, whether or not it exists."""
    named = os.environ.get("JOBRUNNER_CONFIG")
    if named:
        return Path(named)
    return config_folder() / "jobrunner.toml"


def config_folder() -> Path:
    """The user's config directory: the config file, and the keys. Raises ConfigError as `user_folder`."""
    return user_folder("config")


def user_folder(kind: str) -> Path:
    """The directory of this user's for our files of a kind, "config" or "state".

    Raises ConfigError for a user without a home, as a container may have one: a number that no account has.
    """
    import platformdirs  # here: a program that has its files elsewhere need not load it

    try:
        folder = Path(getattr(platformdirs, f"user_{kind}_dir")("jobrunner"))
    except RuntimeError:
        folder = Path("~")  # what older versions leave as it is
    if folder.parts[:1] == ("~",):
        raise ConfigError(f"this user has no home folder; set HOME, or XDG_{kind.upper()}_HOME")
    return folder


def read_file(table: str) -> tuple[Path, dict[str, Any]]:
    """One table of the config file; empty when there is no such file, or no home for one."""
    try:
        path = file_path()
    except ConfigError:
        return Path(), {}
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if os.environ.get("JOBRUNNER_CONFIG"):
            raise ConfigError(f"JOBRUNNER_CONFIG names {path}, which does not exist") from None
        return path, {}
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    import tomllib  # here: a slot reads no config file, and starts sooner without it

    try:
        content = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc
    known = ", ".join(f"[{t}]" for t in TABLES.values())
    for name, value in content.items():
        if name not in TABLES.values():
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: {name!r} stands outside of a table; put it below one of {known}")
            raise ConfigError(f"{path} has no table [{name}]; it knows {known}")
    part = content.get(table, {})
    if not isinstance(part, dict):
        raise ConfigError(f"{path}: {table} must be a table, [{table}]")
    return path, part


def convert(value: Any, spec: dataclasses.Field[Any], where: str) -> Any:
    """`value`, of the type that the setting has; `where` starts the error's message."""
    kind = str(spec.type)
    if kind.startswith("Mapping"):
        return parse_resources(value, where)
    if kind.startswith("bool"):
        return to_bool(value, where)
    if kind.startswith(("int", "float")):
        bounds = {name: spec.metadata[name] for name in ("minimum", "maximum")}
        return to_number(value, where, whole=kind.startswith("int"), **bounds)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {value!r} is not a string")
    longest = spec.metadata["maximum"]
    if longest is not None and len(value) > longest:
        raise ConfigError(f"{where}: a name of {len(value)} characters is too long; at most {longest} may be")
    return value


def line_is_no_address(line: str) -> ConfigError:
    """The error of a line to join with that stands where an address is wanted; it does not repeat the secret."""
    address = line.strip().removeprefix(JOIN_SCHEME).partition("/")[0]
    return ConfigError(
        "this is a line to join with, and not an address: run `jobrunner join -` once on this host, then the address"
        f" is tcp://{address}"
    )


def to_bool(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ConfigError(f"{where}: {value!r} is neither yes nor no; use 1 or 0")


def to_number(
    value: Any, where: str, *, whole: bool, minimum: float | None, maximum: float | None = None
) -> int | float:
    kind = "an integer" if whole else "a number"
    if whole and isinstance(value, str) and value[-1:].upper() in SIZES and value[:-1].strip().isdigit():
        value = int(value[:-1]) * SIZES[value[-1:].upper()]
    if isinstance(value, (bool, bytes)):
        raise ConfigError(f"{where}: {value!r} is not {kind}")
    try:
        number: int | float = int(value) if whole else float(value)
        exact = isinstance(value, (int, str)) or number == float(value)
        if not exact or not math.isfinite(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        size = (
            "; a size is written as in 512M" if whole and re.fullmatch(r"\d+ *[A-Za-z]+", str(value)) else ""
        )
        raise ConfigError(f"{where}: {value!r} is not {kind}{size}") from None
    if minimum is not None and number < minimum:
        raise ConfigError(f"{where}: {value!r} is too small; the smallest is {minimum:g}")
    if maximum is not None and number > maximum:
        raise ConfigError(f"{where}: {value!r} is too large; the largest is {maximum:g}")
    return number


def parse_resources(value: Any, where: str = "resources") -> dict[str, float]:
    """{"gpu": 2.0} from a mapping or from the text "gpu=2,licence=1"."""
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        value = {name.strip(): amount.strip() or "1" for name, _, amount in pairs}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {value!r} must look like gpu=2,licence=1")
    resources = {}
    for name, amount in value.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{where}: {name!r} is not the name of a resource")
        if len(name) > MAX_NAME_LENGTH:
            raise ConfigError(f"{where}: the name of a resource has at most {MAX_NAME_LENGTH} characters")
        of_one = f"{where}: {name}"
        resources[name] = float(to_number(amount, of_one, whole=False, minimum=0, maximum=MAX_AMOUNT))
    return resources
