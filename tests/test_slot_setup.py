"""What prepares a slot for the calls of a program."""

from __future__ import annotations

import pytest

from jobrunner import ConfigError
from jobrunner.calls.initializers import NOTHING
from jobrunner.calls.serialization import dump_initializer, load_function
from jobrunner.program import slot_setup
from jobrunner.program.slot_setup import SlotInitializer
from jobrunner.shipping import archive as shipment
from jobrunner.shipping.module_versions import Version, digest_of


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch):
    monkeypatch.setattr(shipment, "installed", None)
    monkeypatch.setattr(slot_setup, "_provided", {})


@pytest.fixture
def noted(tmp_path):
    return tmp_path / "noted"


@pytest.fixture
def initializer(noted):
    return dump_initializer(note, (str(noted),))


def note(path):
    with open(path, "a") as file:
        file.write("run\n")


def test_its_key_is_the_same_for_the_same_facts(initializer):
    dumped = SlotInitializer(initializer, number=2).dump()
    assert (dumped.epoch, dumped.name, dumped.modules) == (2, initializer.name, initializer.modules)
    assert load_function(dumped.blob).dump().key == dumped.key
    others = [
        SlotInitializer(initializer, number=3),
        SlotInitializer(None, number=2),
        SlotInitializer(initializer, number=2, program="another"),
    ]
    assert len({dumped.key, *(other.dump().key for other in others)}) == 4
    assert SlotInitializer(dumped, number=3).dump().epoch == 5


def test_an_initializer_runs_once_whatever_comes(initializer, noted):
    for slot_initializer in (
        SlotInitializer(initializer, number=1),
        SlotInitializer(initializer, number=2),
    ):
        assert load_function(slot_initializer.dump().blob)() == NOTHING
    assert noted.read_text() == "run\n"


def test_calls_of_calls_get_what_makes_them_at_home(initializer):
    slot_initializer = SlotInitializer(initializer, number=1)
    slot_initializer()
    assert shipment.installed is slot_initializer


def test_nothing_runs_where_a_module_is_another_version(initializer, noted):
    file = SlotInitializer.__init__.__code__.co_filename
    slot_initializer = SlotInitializer(
        initializer, number=1, versions=(Version("jobrunner.program.slot_setup", "/there.py", "0" * 12),)
    )
    with pytest.raises(ConfigError, match=digest_of(file)):
        slot_initializer()
    assert not noted.exists()
