"""Calls, results and exceptions, to bytes and back. Being written."""
