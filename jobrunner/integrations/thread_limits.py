"""Keeps numerical libraries in the slots from starting a thread for every CPU in each of them.

A module of its own: it has to run in a slot before numpy is imported there, so it imports nothing.
"""

from __future__ import annotations

import os


def limit_threads(variables: dict[str, str]) -> None:
    """Set OMP_NUM_THREADS and its like, which libraries read once when they are loaded; this is an initializer."""
    os.environ.update(variables)
