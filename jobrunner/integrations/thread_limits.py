"""Limits for the threads of numerical libraries in slots, which would otherwise start one for every CPU in each.

This is a module of its own, because it must run in a slot before numpy is imported there, so it imports nothing.
"""

from __future__ import annotations

import os


def limit_threads(variables: dict[str, str]) -> None:
    """Set OMP_NUM_THREADS and its like, which libraries read once when they are loaded; this is an initializer."""
    os.environ.update(variables)
