"""The display for people: tables in notebooks, and the output of calls."""
