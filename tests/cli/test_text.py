from __future__ import annotations

import pytest

from jobrunner.cli import text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (-1, "0 ms"),
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (307, "5 min 7 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 3600 * 4, "3 d 4 h"),
    ],
)
def test_durations_are_in_the_unit_that_people_read(seconds: float | None, words: str) -> None:
    assert text.duration(seconds) == words


def test_text_from_elsewhere_cannot_drive_a_terminal() -> None:
    assert text.plain("\x1b[2Jname\r") == "\\x1b[2Jname\\r"
    assert text.plain("größe [bold] 北") == "größe [bold] 北"


def test_a_message_of_several_lines_becomes_one() -> None:
    assert text.one_line("one\n  two\r\n\x1b[0m") == "one two \\x1b[0m"


def test_resources_and_counts() -> None:
    assert text.resources({"x": 0.5, "gpu": 2.0}) == "gpu=2, x=0.5"
    assert [text.count(number, "task") for number in (0, 1, 2000)] == ["0 tasks", "1 task", "2,000 tasks"]
