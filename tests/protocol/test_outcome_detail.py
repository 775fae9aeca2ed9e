from __future__ import annotations

import pytest

from jobrunner.errors import ProtocolError
from jobrunner.protocol.wire.checks import checked_detail
from jobrunner.protocol.wire.outcome_detail import DETAIL_TYPES


def test_the_check_follows_the_declaration():
    assert DETAIL_TYPES["error"] == (str,)
    assert DETAIL_TYPES["exit_code"] == (int, type(None))
    assert DETAIL_TYPES["timeout"] == (int, float, type(None))
    assert DETAIL_TYPES["attempts"] == (tuple,)
    assert DETAIL_TYPES["need"] == (str,)
    assert DETAIL_TYPES["need_detail"] == (dict, type(None))


@pytest.mark.parametrize(
    "fact", [{"error": 1}, {"pid": True}, {"final": 1}, {"need_detail": {"worker": b"w"}}]
)
def test_a_known_fact_of_another_type_is_refused(fact):
    with pytest.raises(ProtocolError, match="may not be of type"):
        checked_detail(fact)


def test_other_facts_are_passed_on():
    assert checked_detail({"of a later version": (1, "two")}) == {"of a later version": (1, "two")}
