"""All settings, each declared once with its default, its unit and its environment variable.

The value of a setting is taken from the first of these that gives one: an argument or command line option, its
environment variable, the config file, the default below. The result is one frozen object per role. No other
module reads settings from the environment or the file.

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
"""Default time in seconds for the threads and atexit functions of calls when the process of their slot ends."""

EXIT_WAIT_MEANING = (
    "maximum time for threads and atexit functions of calls to finish when their slot's process ends; 0: none"
)

JOIN_SCHEME = "jobrunner://"
"""The beginning of every invitation line, see `keys.invitation`."""

PEER_TIMEOUT = 10.0
"""Default silence in seconds after which a peer counts as lost; for a connected client, six times as long."""

MAX_PEER_TIMEOUT = 3600.0
"""Maximum peer timeout in seconds, because the coordinator keeps the records of a silent peer for that long."""

SHORTEST_PEER_TIMEOUT = 0.05
"""Minimum peer timeout in seconds that the protocol accepts; settings have a larger minimum."""

HEARTBEATS_PER_TIMEOUT = 10
"""Number of heartbeats on an otherwise idle connection per peer timeout."""

UNREACHABLE_GRACE = 2.0
"""Time in seconds in which a peer can reconnect after the transport has reported that its connection is gone."""

MAX_NAME_LENGTH = 256
"""Maximum number of characters in the name of a call, worker, host or resource, and in every id."""

MAX_AMOUNT = 1e15
"""Maximum amount of a resource, because sums and quotients of amounts must be numbers that a float can hold."""

MAX_SLOTS = 2**20
"""Maximum number of slots of one worker."""

MAX_PAYLOAD = 2**30
"""Default maximum size in bytes of the arguments of one call, and of its result."""

MAX_WINDOW = 2**50
"""Maximum setting of a limit in tasks or bytes; it is so large that it means no limit."""


SIZES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""The suffixes of integers, as in 512M, and the factors that they stand for."""


def setting(
    default: Any,
    *,
    env: str,
    doc: str,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Return a dataclass field with the metadata of a setting; the bounds of a string concern its length."""
    metadata = {"env": env, "unit": unit, "doc": doc, "minimum": minimum, "maximum": maximum}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ClientConfig:
    """The settings of an Executor, in the table [client] of the config file."""

    backend: str | None = setting(
        None,
        env="JOBRUNNER_BACKEND",
        doc='"processes", "threads", "cluster", an address or another backend\'s name; default: "cluster" if an address'
        ' is set, else "processes"',
    )
    address: str | None = setting(
        None, env="JOBRUNNER_ADDRESS", doc="the coordinator's address, for example tcp://10.0.0.5:7077"
    )
    peer_timeout: float = setting(
        PEER_TIMEOUT,
        env="JOBRUNNER_PEER_TIMEOUT",
        unit="s",
        doc="silence after which a client considers the coordinator lost; the coordinator considers a client lost after"
        " six times this time",
        minimum=0.5,
        maximum=MAX_PEER_TIMEOUT,
    )
    max_workers: int | None = setting(
        None,
        env="JOBRUNNER_MAX_WORKERS",
        doc="number of slots of a local pool; default: the number of usable CPUs",
        minimum=1,
    )
    connect_timeout: float = setting(
        10.0,
        env="JOBRUNNER_CONNECT_TIMEOUT",
        unit="s",
        doc="maximum wait for the coordinator at the start",
        minimum=0,
    )
    reconnect_timeout: float = setting(
        120.0,
        env="JOBRUNNER_RECONNECT_TIMEOUT",
        unit="s",
        doc="maximum wait for a coordinator that has become unreachable, after which pending Futures fail",
        minimum=0,
    )
    show_output: bool = setting(
        True, env="JOBRUNNER_SHOW_OUTPUT", doc="print the output of tasks at the client"
    )
    crash_limit: int = setting(
        3, env="JOBRUNNER_CRASH_LIMIT", doc="number of process deaths after which a task fails", minimum=1
    )
    identity: str | None = setting(
        None,
        env="JOBRUNNER_IDENTITY",
        doc="this program's key for the cluster: the path of a key file, or its content; default: the key of this user"
        " for the address",
    )
    invitation: str | None = setting(
        None,
        env="JOBRUNNER_INVITATION",
        doc="the invitation for `jobrunner join`: the line that the coordinator printed, or a file that holds it",
    )
    insecure: bool = setting(
        False, env="JOBRUNNER_INSECURE", doc="connect without keys, and trust any coordinator that answers"
    )
    exit_wait: float = setting(
        EXIT_WAIT, env="JOBRUNNER_EXIT_WAIT", unit="s", doc=EXIT_WAIT_MEANING, minimum=0
    )
    interpreter: str | None = setting(
        None,
        env="JOBRUNNER_INTERPRETER",
        doc="the Python interpreter for calls; default: that of this program; required if the program is frozen or"
        " embedded",
    )
    cancel_wait: float = setting(
        5.0, env="JOBRUNNER_CANCEL_WAIT", unit="s", doc="maximum wait of cancel() for an answer", minimum=0
    )


@dataclass(frozen=True)
class CoordinatorConfig:
    """The settings of a coordinator, in the table [coordinator] of the config file."""

    host: str = setting("127.0.0.1", env="JOBRUNNER_HOST", doc="the interface on which it listens")
    port: int = setting(
        DEFAULT_PORT,
        env="JOBRUNNER_PORT",
        doc="the TCP port on which it listens; 0 selects a free port",
        minimum=0,
        maximum=65535,
    )
    insecure: bool = setting(
        False,
        env="JOBRUNNER_INSECURE",
        doc="listen without keys: everybody who reaches the port can run any code",
    )
    keys: str | None = setting(
        None,
        env="JOBRUNNER_KEYS",
        doc="the folder of the cluster's keys; default: a folder in the user's config directory",
    )
    invitation_time: float = setting(
        3600.0,
        env="JOBRUNNER_INVITATION_TIME",
        unit="s",
        doc="validity of the lines that a coordinator prints at its start",
        minimum=0,
    )
    invitation_uses: int = setting(
        100,
        env="JOBRUNNER_INVITATION_USES",
        doc="maximum number of peers that can join with each of these lines; 0: no lines are printed",
        minimum=0,
    )
    crash_limit: int = setting(
        3, env="JOBRUNNER_CRASH_LIMIT", doc="number of process deaths after which a task fails", minimum=1
    )
    client_grace: float = setting(
        30.0,
        env="JOBRUNNER_CLIENT_GRACE",
        unit="s",
        doc="time for which the tasks of a lost client continue before they are cancelled",
        minimum=0,
    )
    client_window_tasks: int = setting(
        100_000,
        env="JOBRUNNER_CLIENT_WINDOW_TASKS",
        doc="maximum number of unfinished tasks of one client at the coordinator",
        minimum=1,
        maximum=MAX_WINDOW,
    )
    client_window_bytes: int = setting(
        256 * 1024 * 1024,
        env="JOBRUNNER_CLIENT_WINDOW_BYTES",
        unit="bytes",
        doc="maximum total payload of the unfinished tasks of one client at the coordinator",
        minimum=1,
        maximum=MAX_WINDOW,
    )
    max_payload: int = setting(
        MAX_PAYLOAD,
        env="JOBRUNNER_MAX_PAYLOAD",
        unit="bytes",
        doc="maximum size of the pickled arguments of one call, and of its pickled result; a larger one fails with"
        " QuotaError; the limit is 900 MB if there is a journal",
        minimum=2**16,
        maximum=MAX_WINDOW,
    )
    quota_tasks: int = setting(
        2_000_000,
        env="JOBRUNNER_QUOTA_TASKS",
        doc="maximum number of calls, unfinished or with kept results, that all clients of one key may have; further"
        " calls fail with QuotaError; 0: no limit",
        minimum=0,
        maximum=MAX_WINDOW,
    )
    quota_bytes: int = setting(
        8 * 1024**3,
        env="JOBRUNNER_QUOTA_BYTES",
        unit="bytes",
        doc="maximum total size of the arguments, dependency results and kept results of these calls; 0: no limit",
        minimum=0,
        maximum=MAX_WINDOW,
    )
    drain_timeout: float = setting(
        60.0, env="JOBRUNNER_DRAIN_TIMEOUT", unit="s", doc="maximum wait for running tasks", minimum=0
    )
    journal: str | None = setting(
        None,
        env="JOBRUNNER_JOURNAL",
        doc="the file in which accepted calls are stored; default: one file per port, in the user's state directory",
    )
    no_journal: bool = setting(
        False,
        env="JOBRUNNER_NO_JOURNAL",
        doc="store nothing: accepted calls are lost if both the coordinator and their client die",
    )
    keep_detached: float = setting(
        7 * 24 * 3600.0,
        env="JOBRUNNER_KEEP_DETACHED",
        unit="s",
        doc="time for which the outcome of a detached call is kept",
        minimum=0,
    )
    result_cache: int = setting(
        64 * 1024 * 1024,
        env="JOBRUNNER_RESULT_CACHE",
        unit="bytes",
        doc="maximum total size of the outcomes kept for dependent calls and for clients that ask for them",
        minimum=0,
    )
    log_level: str = setting("info", env="JOBRUNNER_LOG_LEVEL", doc="debug, info, warning or error")


@dataclass(frozen=True)
class WorkerConfig:
    """The settings of a worker daemon, in the table [worker] of the config file."""

    address: str = setting(
        f"tcp://127.0.0.1:{DEFAULT_PORT}", env="JOBRUNNER_ADDRESS", doc="the coordinator's address"
    )
    slots: int | None = setting(
        None,
        env="JOBRUNNER_SLOTS",
        doc="number of tasks that run at the same time; default: the number of usable CPUs",
        minimum=1,
        maximum=MAX_SLOTS,
    )
    name: str | None = setting(
        None,
        env="JOBRUNNER_WORKER_NAME",
        doc="the worker's name; default: the host's name",
        maximum=MAX_NAME_LENGTH,
    )
    resources: Mapping[str, float] = setting(
        None,
        env="JOBRUNNER_RESOURCES",
        doc="the resources that tasks may require, for example gpu=2,licence=1",
    )
    peer_timeout: float = setting(
        PEER_TIMEOUT,
        env="JOBRUNNER_PEER_TIMEOUT",
        unit="s",
        doc="silence after which worker and coordinator consider each other lost",
        minimum=0.5,
        maximum=MAX_PEER_TIMEOUT,
    )
    drain_timeout: float = setting(
        60.0, env="JOBRUNNER_DRAIN_TIMEOUT", unit="s", doc="maximum wait for running tasks", minimum=0
    )
    stop_grace: float = setting(
        5.0,
        env="JOBRUNNER_STOP_GRACE",
        unit="s",
        doc="time between SIGINT and SIGTERM, and between SIGTERM and SIGKILL, when a task is stopped",
        minimum=0,
    )
    exit_wait: float = setting(
        EXIT_WAIT, env="JOBRUNNER_EXIT_WAIT", unit="s", doc=EXIT_WAIT_MEANING, minimum=0
    )
    interpreter: str | None = setting(
        None,
        env="JOBRUNNER_INTERPRETER",
        doc="the Python interpreter for calls; default: that of this program; required if the program is frozen or"
        " embedded",
    )
    unacknowledged_bytes: int = setting(
        256 * 1024 * 1024,
        env="JOBRUNNER_UNACKNOWLEDGED_BYTES",
        unit="bytes",
        doc="size of the outcomes without an acknowledgement above which no new task is started",
        minimum=1,
    )
    identity: str | None = setting(
        None,
        env="JOBRUNNER_IDENTITY",
        doc="this worker's key for the cluster: the path of a key file, or its content; default: the key of this user"
        " for the address",
    )
    invitation: str | None = setting(
        None,
        env="JOBRUNNER_INVITATION",
        doc="the invitation for this worker: the line that the coordinator printed, or a file that holds it",
    )
    insecure: bool = setting(
        False,
        env="JOBRUNNER_INSECURE",
        doc="connect without keys, and run the code that any coordinator sends",
    )
    slot_memory: int | None = setting(
        None,
        env="JOBRUNNER_SLOT_MEMORY",
        unit="bytes",
        doc="memory limit of each slot, for example 512M; a call that needs more gets MemoryError; default: no limit",
        minimum=64 * 2**20,
    )
    max_tasks_per_slot: int | None = setting(
        None,
        env="JOBRUNNER_MAX_TASKS_PER_SLOT",
        doc="number of calls after which a slot's process is replaced, for functions that leak memory; default: never",
        minimum=1,
    )
    log_level: str = setting("info", env="JOBRUNNER_LOG_LEVEL", doc="debug, info, warning or error")


TABLES = {ClientConfig: "client", CoordinatorConfig: "coordinator", WorkerConfig: "worker"}

ConfigT = TypeVar("ConfigT", ClientConfig, CoordinatorConfig, WorkerConfig)


def load(cls: type[ConfigT], **arguments: Any) -> ConfigT:
    """Return the settings of one role; an argument that is None counts as not given.

    Raises:
        ConfigError: A value cannot be used, or the file has an unknown key. The message names the place.
    """
    path, table = read_file(TABLES[cls])
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{path}: there is no setting {key!r} in [{TABLES[cls]}]; its settings are {', '.join(known)}"
            )
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
    """Return the path of the config file, whether or not it exists."""
    named = os.environ.get("JOBRUNNER_CONFIG")
    if named:
        return Path(named)
    return config_folder() / "jobrunner.toml"


def config_folder() -> Path:
    """Return the user's directory of the config file and the keys; raise ConfigError as `user_folder` does."""
    return user_folder("config")


def user_folder(kind: str) -> Path:
    """Return this user's directory for our files of a kind, "config" or "state".

    Raises:
        ConfigError: The user has no home folder, as a user id without an account in a container.
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
    """Return the path of the config file and one of its tables, which is empty if there is no file, or no home for it.

    Raises:
        ConfigError: The file cannot be read, is not valid TOML, or has an unknown table.
    """
    try:
        path = file_path()
    except ConfigError:
        return Path(), {}
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if os.environ.get("JOBRUNNER_CONFIG"):
            raise ConfigError(
                f"JOBRUNNER_CONFIG names {path}, which does not exist; create it or unset the variable"
            ) from None
        return path, {}
    except OSError as exc:
        raise ConfigError(f"cannot read the config file {path}: {exc.strerror}") from exc
    import tomllib  # here: a slot reads no config file, and starts sooner without it

    try:
        content = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the config file {path} is not valid TOML: {exc}") from exc
    known = ", ".join(f"[{t}]" for t in TABLES.values())
    for name, value in content.items():
        if name not in TABLES.values():
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: {name!r} is outside of a table; put it below one of {known}")
            raise ConfigError(f"{path}: there is no table [{name}]; the tables are {known}")
    part = content.get(table, {})
    if not isinstance(part, dict):
        raise ConfigError(f"{path}: {table} must be a table; write [{table}] above its settings")
    return path, part


def convert(value: Any, spec: dataclasses.Field[Any], where: str) -> Any:
    """Return `value` converted to the type of the setting; the message of a ConfigError starts with `where`."""
    kind = str(spec.type)
    if kind.startswith("Mapping"):
        return parse_resources(value, where)
    if kind.startswith("bool"):
        return to_bool(value, where)
    if kind.startswith(("int", "float")):
        bounds = {name: spec.metadata[name] for name in ("minimum", "maximum")}
        return to_number(value, where, whole=kind.startswith("int"), **bounds)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {value!r} is not a non-empty string")
    longest = spec.metadata["maximum"]
    if longest is not None and len(value) > longest:
        raise ConfigError(f"{where}: the name has {len(value)} characters; at most {longest} are allowed")
    return value


def line_is_no_address(line: str) -> ConfigError:
    """Return the error for an invitation line in the place of an address; it does not repeat the secret."""
    address = line.strip().removeprefix(JOIN_SCHEME).partition("/")[0]
    return ConfigError(
        "this is an invitation line, not an address; run `jobrunner join -` once on this host and paste the line there,"
        f" then use the address tcp://{address}"
    )


def to_bool(value: Any, where: str) -> bool:
    """Return the bool that `value` is, or that its text means; raise ConfigError for anything else."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ConfigError(f"{where}: {value!r} is not a boolean; use 1 or 0")


def to_number(
    value: Any, where: str, *, whole: bool, minimum: float | None, maximum: float | None = None
) -> int | float:
    """Return `value` as a number within the bounds, an integer if `whole`; raise ConfigError for anything else."""
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
        size = "; write a size as in 512M" if whole and re.fullmatch(r"\d+ *[A-Za-z]+", str(value)) else ""
        raise ConfigError(f"{where}: {value!r} is not {kind}{size}") from None
    if minimum is not None and number < minimum:
        raise ConfigError(f"{where}: {value!r} is too small; the minimum is {minimum:g}")
    if maximum is not None and number > maximum:
        raise ConfigError(f"{where}: {value!r} is too large; the maximum is {maximum:g}")
    return number


def parse_resources(value: Any, where: str = "resources") -> dict[str, float]:
    """Return resources as {"gpu": 2.0, ...} from a mapping or from a string like "gpu=2,licence=1".

    Raises:
        ConfigError: A name or an amount cannot be used.
    """
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        value = {name.strip(): amount.strip() or "1" for name, _, amount in pairs}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {value!r} is not a list of resources; write it as gpu=2,licence=1")
    resources = {}
    for name, amount in value.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{where}: {name!r} is not a resource name; it must be a non-empty string")
        if len(name) > MAX_NAME_LENGTH:
            raise ConfigError(
                f"{where}: the resource name {name[:40]!r}... has {len(name)} characters; at most {MAX_NAME_LENGTH} are"
                " allowed"
            )
        of_one = f"{where}: {name}"
        resources[name] = float(to_number(amount, of_one, whole=False, minimum=0, maximum=MAX_AMOUNT))
    return resources
