"""Python imports this at its start where this folder is in PYTHONPATH: in all processes of a run with "locks"."""

import os
import sys

TESTS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

if "EDGE_PAUSES" in os.environ:
    sys.path.insert(0, TESTS)
    try:
        # What they make subclasses of, or look at the types of, are the real ones.
        import multiprocessing.util  # noqa: F401

        from edge import pauses

        seed, share = os.environ["EDGE_PAUSES"].split()
        pauses.installed = pauses.install(seed, float(share))
    finally:
        sys.path.remove(TESTS)
