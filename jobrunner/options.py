"""Checks of the options of a call, which `Executor.with_options` takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jobrunner.calls.serialization import dump_classes
from jobrunner.config import MAX_AMOUNT, MAX_NAME_LENGTH
from jobrunner.errors import ConfigError, TaskTimeoutError
from jobrunner.protocol.wire.checks import MAX_RESOURCES, MAX_RETRY_ON_BYTES
from jobrunner.protocol.wire.messages import TaskOptions


def merged(
    options: TaskOptions,
    *,
    name: str | None = None,
    priority: int | None = None,
    retries: int | None = None,
    timeout: float | None = None,
    resources: Mapping[str, float] | None = None,
    at_most_once: bool | None = None,
    retry_on: type[BaseException] | Sequence[type[BaseException]] | None = None,
    backoff: float | None = None,
    detach: bool | None = None,
) -> TaskOptions:
    """Return `options` with the given values; None keeps the old value, and resources are merged by name.

    Raises:
        ConfigError: A value cannot be used.
    """
    if name is not None:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"name={name!r}: must be a non-empty string")
        if len(name) > MAX_NAME_LENGTH:
            raise ConfigError(
                f"name={name[:40]!r}...: has {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed"
            )
        options = options._replace(name=name)
    if priority is not None:
        options = options._replace(priority=_whole("priority", priority))
    if retries is not None:
        if _whole("retries", retries) < 0:
            raise ConfigError(f"retries={retries!r}: must be 0 or more; it is the number of further attempts")
        options = options._replace(retries=retries)
    if timeout is not None:
        options = options._replace(timeout=_positive("timeout", timeout, "seconds"))
    if resources is not None:
        options = options._replace(resources=_resources(dict(options.resources), resources))
    if at_most_once is not None:
        options = options._replace(at_most_once=_flag("at_most_once", at_most_once))
    if retry_on is not None:
        classes = _exceptions(retry_on)
        pickled = dump_classes(classes)
        if len(pickled) > MAX_RETRY_ON_BYTES:
            raise ConfigError(
                f"retry_on: the pickled classes have {len(pickled):,} bytes, and the limit is {MAX_RETRY_ON_BYTES:,};"
                " define them in a module that the workers can import, or make the objects they refer to smaller"
            )
        options = options._replace(retry_on=pickled, retry_timeouts=issubclass(TaskTimeoutError, classes))
    if backoff is not None:
        options = options._replace(backoff=0.0 if backoff == 0 else _positive("backoff", backoff, "seconds"))
    if detach is not None:
        options = options._replace(detach=_flag("detach", detach))
    if options.at_most_once and options.retries:
        raise ConfigError(
            f"at_most_once=True and retries={options.retries} contradict each other; give one of them"
        )
    return options


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name}={value!r}: must be an integer")
    if not -(2**31) <= value < 2**31:
        raise ConfigError(f"{name}={value!r}: must fit into 32 bits")
    return value


def _exceptions(given: Any) -> tuple[type[BaseException], ...]:
    classes = (
        (given,) if isinstance(given, type) else tuple(given) if isinstance(given, (tuple, list)) else ()
    )
    if not classes or not all(isinstance(one, type) and issubclass(one, BaseException) for one in classes):
        raise ConfigError(f"retry_on={given!r}: must be an exception class, or a tuple of exception classes")
    return classes


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r}: must be True or False")
    return value


def _positive(name: str, value: Any, unit: str) -> float:
    try:
        if isinstance(value, (bool, str)):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name}={value!r}: must be a number of {unit}") from None
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"{name}={value!r}: must be a finite number of {unit} above 0")
    return number


def _resources(known: dict[str, float], added: Any) -> tuple[tuple[str, float], ...]:
    if not isinstance(added, Mapping):
        raise ConfigError(f'resources={added!r}: must be a mapping such as {{"gpu": 1}}')
    for name, amount in added.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"resources: {name!r} is not a resource name; it must be a non-empty string")
        if len(name) > MAX_NAME_LENGTH:
            raise ConfigError(
                f"resources: {name[:40]!r}... has {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed"
            )
        known[name] = _positive(f"resources[{name!r}]", amount, "units")
        if known[name] > MAX_AMOUNT:
            raise ConfigError(f"resources[{name!r}]={amount!r}: must be at most {MAX_AMOUNT:g}")
    if len(known) > MAX_RESOURCES:
        raise ConfigError(
            f"resources: {len(known)} different resources are named; a call may name at most {MAX_RESOURCES}"
        )
    return tuple(sorted(known.items()))
