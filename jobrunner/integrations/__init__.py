"""Adapters for other libraries beyond the Executor; the rest of the package imports none of them."""
