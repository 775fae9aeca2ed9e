"""The soak of benchmarks/soak.py, for a few seconds: the long one finds what grows, this one that it works."""

from __future__ import annotations

from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_a_short_soak(cluster):
    soak = cluster.run(str(SOAK), "--minutes", "0.15", "--sample", "0.4", "--fault-every", "1.2")
    assert soak.popen.wait(55) == 0, soak.output
    soak.wait()
    assert "nothing was lost" in soak.output
    for name in ("slots killed", "workers stopped", "workers killed"):
        assert name in soak.output
