"""What tests of several folders share. Importable as `support`: here since `tests` is on the path of pytest, and in the
programs that tests start since `tests/conftest.py` says so."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
"""The folder of all tests."""
