"""The options that several commands share, and the search for the cluster's address.

Options default to None, which means "not given", so that only `config` decides between the environment variable, the
config file and the built-in default.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import Annotated, Any

import typer

from jobrunner.config import (
    DEFAULT_PORT,
    JOIN_SCHEME,
    ClientConfig,
    CoordinatorConfig,
    WorkerConfig,
    line_is_no_address,
    load,
)
from jobrunner.errors import ConfigError

DEFAULT_ADDRESS = f"tcp://127.0.0.1:{DEFAULT_PORT}"

QUERY_TIMEOUT = 5.0
"""Default maximum wait of a command for the coordinator, in seconds, because a person waits for the command."""


class LogLevel(StrEnum):
    """The values of --log-level."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def help_of(config: type[Any], name: str, text: str | None = None) -> str:
    """Return the help of the option for the setting `name`: its meaning, default and environment variable."""
    spec = next(spec for spec in dataclasses.fields(config) if spec.name == name)
    doc = text or spec.metadata["doc"]
    notes = [f"environment: {spec.metadata['env']}"]
    if spec.default is not None and not isinstance(spec.default, bool):
        unit = spec.metadata["unit"]
        notes.insert(
            0,
            f"default: {spec.default:g} {unit}".rstrip()
            if _is_number(spec.default)
            else f"default: {spec.default}",
        )
    return f"{doc[0].upper()}{doc[1:]} ({'; '.join(notes)})."


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def examples(*lines: str) -> str:
    """Return an epilog with one example per line, which the mark of typer keeps from being joined."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        "-a",
        metavar="ADDRESS",
        help=f"The coordinator's address, tcp://HOST:PORT (default: {DEFAULT_ADDRESS}; "
        "environment: JOBRUNNER_ADDRESS).",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", min=0.1, help="Maximum wait for the coordinator's answer, in seconds."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only names or ids, one per line.")]
CoordinatorLogLevel = Annotated[
    LogLevel | None,
    typer.Option("--log-level", metavar="LEVEL", help=help_of(CoordinatorConfig, "log_level")),
]
WorkerLogLevel = Annotated[
    LogLevel | None, typer.Option("--log-level", metavar="LEVEL", help=help_of(WorkerConfig, "log_level"))
]


def configured_address(address: str | None) -> str | None:
    """Return the address in the option, environment or config file, as tcp://HOST:PORT; None if none is given."""
    config = load(ClientConfig, address=address)
    named = config.address
    if named is None and config.backend is not None and "://" in config.backend:
        named = config.backend
    return None if named is None else full_address(named)


def cluster_address(address: str | None) -> str:
    """Return the configured address, else the default address of a coordinator on this host."""
    return configured_address(address) or DEFAULT_ADDRESS


def full_address(text: str) -> str:
    """Return "tcp://host:port" for a text like that, "host:port" or "host"; raise ConfigError for any other."""
    if text.strip().startswith(JOIN_SCHEME):
        raise line_is_no_address(text)
    scheme, found, rest = text.strip().rpartition("://")
    if scheme == "ipc" and rest:
        return f"ipc://{rest}"  # a path, on this host
    if found and scheme != "tcp":
        raise ConfigError(f"{text!r} is not an address: the scheme must be tcp://, as in {DEFAULT_ADDRESS}")
    if rest.count(":") > 1 and not rest.startswith("["):
        raise ConfigError(
            f"{text!r} is not an address: write an IPv6 host in brackets, as in tcp://[::1]:7077"
        )
    host, separator, port = rest.rpartition(":") if not rest.endswith("]") else (rest, "", "")
    if not separator:
        host, port = rest, str(DEFAULT_PORT)
    usable = host and not any(char.isspace() or char in "/@" for char in host)
    if not usable or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"{text!r} is not an address: it must look like tcp://HOST:PORT, as in {DEFAULT_ADDRESS}"
        )
    return f"tcp://{host}:{int(port)}"


def with_full_address(config: WorkerConfig) -> WorkerConfig:
    """Return the config with its address in the form tcp://HOST:PORT."""
    return dataclasses.replace(config, address=full_address(config.address))
