"""The coordinator's core, and its scheduler."""
