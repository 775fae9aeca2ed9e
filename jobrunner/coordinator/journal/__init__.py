"""The coordinator's journal: accepted work on disk, so that it survives the coordinator's death."""
