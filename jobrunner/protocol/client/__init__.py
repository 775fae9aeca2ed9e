"""The client's core."""
