"""Calls that are made in calls: how their waits let the slot be used meanwhile."""
