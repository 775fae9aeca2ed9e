"""The text streams of a slot."""

from __future__ import annotations

import pytest

from jobrunner.workers.outbox import SlotWriter


class Items:
    """An outbox that keeps what it is given."""

    def __init__(self):
        self.texts = []

    def put(self, item):
        self.texts.append(item[3])

    def flush(self):
        pass

    def arm(self):
        pass


@pytest.mark.parametrize("ending", ["\n", "\nrest"])
def test_a_write_within_a_write_repeats_nothing(ending):
    """As by a destructor that prints, called while a line is on its way."""
    inner = iter(["gone", "\n"])
    outbox = Items()

    def current():
        for text in inner:
            writer.write(text)
        return 7

    writer = SlotWriter(1, outbox, current)
    writer.write("300")
    writer.write(ending)
    writer.write("\n")
    text = "".join(outbox.texts)
    assert text.count("300") == text.count("gone") == 1
    assert text.count("\n") == 3
