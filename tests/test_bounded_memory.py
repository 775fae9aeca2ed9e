"""What is kept of what was found out."""

from __future__ import annotations

from jobrunner.pickling.bounded_memory import Kept


def test_the_last_ones_are_kept():
    kept = Kept[int, str](2, 100)
    for number in range(3):
        kept.put(number, str(number), 10)
    assert [kept.get(number) for number in range(3)] == [None, "1", "2"]


def test_bytes_are_bounded():
    kept = Kept[int, str](10, 100)
    kept.put(1, "large", 60)
    kept.put(2, "small", 40)
    assert (kept.get(1), kept.get(2)) == ("large", "small")
    kept.put(3, "one more", 1)
    assert (kept.get(1), kept.get(2), kept.get(3)) == (None, "small", "one more")
    kept.put(2, "too large", 101)
    assert (kept.get(2), kept.get(3)) == (None, "one more")
    kept.put(3, "again", 100)
    assert kept.get(3) == "again", "what it had before does not count"
