"""The elements of a `map` in the state of one moment: arguments when they were taken, results when their call returned.

Chunks concern only the transport, so a call must see what it would see if it travelled alone. Therefore no two elements
share an object, whatever the input yields and the function returns, even if that is one list that changes in between.
Atoms (see `atoms`) travel together in one pickle. Every other value is pickled by itself, at that moment, and loaded
for its element alone. The arguments of one element are pickled together, so that objects that they share stay shared.

An array of plain numbers refers to no other object, so it needs no pickle of its own. It must only be used once, and
must not change until it is pickled together with the others.
"""

from __future__ import annotations

from jobrunner.fixed.arguments import (
    FixedElements,
    LoadedColumns,
    LoadedElements,
    calls,
    dump_elements,
    load_elements,
)
from jobrunner.fixed.fixed_results import FixedResults, load_element_results, run_fixed
from jobrunner.fixed.taking import FixingInput

__all__ = [
    "FixedElements",
    "FixedResults",
    "FixingInput",
    "LoadedColumns",
    "LoadedElements",
    "calls",
    "dump_elements",
    "load_element_results",
    "load_elements",
    "run_fixed",
]
