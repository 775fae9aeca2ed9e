"""What tests of the journal share."""

from __future__ import annotations

import subprocess

import pytest


@pytest.fixture
def small_disk(request, tmp_path):
    """A file system of the size that the test asks for, as `mount` takes it: "2m"."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
