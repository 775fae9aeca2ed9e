"""Real slots, and an owner for them."""

from __future__ import annotations

import pytest
from support.slot_owner import Owner


@pytest.fixture
def owner():
    owner = Owner()
    yield owner
    owner.pool.close()


@pytest.fixture
def slot(owner):
    """A slot that is ready, number 1."""
    owner.ready(1)
    return 1


@pytest.fixture
def make_owner():
    owners = []

    def make(**options):
        owners.append(Owner(**options))
        return owners[-1]

    yield make
    for owner in owners:
        owner.pool.close()
