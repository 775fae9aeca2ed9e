"""The elements of a `map` as they were: arguments when they were taken, results when their call returned.

Chunks are an affair of transport: a call must see what it would see if it travelled alone. So no two elements share an
object, whatever the input yields and the function returns, a single list that changes in between included. Atoms (see
`atoms`) travel many in one pickle. Every other value is pickled by itself, at that moment, and loaded for its element
alone. The arguments of one element are pickled together: what they share stays shared.

An array of plain numbers holds no other object, so that it needs no pickle of its own. It only has to be there once,
and must not be changed until it is pickled together with the others.
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
