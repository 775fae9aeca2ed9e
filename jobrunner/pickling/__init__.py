"""Pickling and unpickling of any objects: loading, errors, and the modules that a pickle refers to."""
