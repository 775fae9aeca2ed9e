"""The coordinator's process, and the clusters that an Executor starts on its own host."""
