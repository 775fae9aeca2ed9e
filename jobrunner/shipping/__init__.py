"""Modules of the program that are sent to the workers, and the versions of modules that processes have loaded."""
