"""The worker's core."""
