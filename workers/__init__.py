"""Slots and their processes, and the daemon of a worker."""
