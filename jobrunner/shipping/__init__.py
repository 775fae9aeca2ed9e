"""Modules of the program that travel to the workers, and which version of a module is loaded where."""
