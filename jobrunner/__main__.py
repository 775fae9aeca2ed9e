"""`python -m jobrunner`, the same as the command `jobrunner`."""

from __future__ import annotations

import sys

from jobrunner.cli.app import main

# The guard matters: processes that are spawned from here import this module again under another name.
if __name__ == "__main__":
    sys.exit(main())
