"""Calls that are made in calls, whose waits yield the slot to others."""
