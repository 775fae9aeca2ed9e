"""Calls, results and exceptions as bytes, and back."""
