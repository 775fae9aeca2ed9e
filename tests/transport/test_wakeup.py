from __future__ import annotations

import select

from jobrunner.transport.wakeup import Wakeup


def readable(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup.fileno()], [], [], 0)[0])


def test_it_is_readable_from_set_to_clear():
    wakeup = Wakeup()
    assert not readable(wakeup)
    wakeup.set()
    assert readable(wakeup)
    wakeup.set()
    wakeup.clear()
    assert not readable(wakeup)
    wakeup.clear()
    wakeup.close()


def test_it_never_blocks_however_often_it_is_set():
    wakeup = Wakeup()
    for _ in range(200_000):
        wakeup.set()
    wakeup.clear()
    assert not readable(wakeup)
    wakeup.close()


def test_setting_a_closed_one_is_harmless():
    wakeup = Wakeup()
    wakeup.close()
    wakeup.set()
