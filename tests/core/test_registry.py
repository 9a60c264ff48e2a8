import pytest

from crossdraft.core.errors import SettingError
from crossdraft.core.registry import find

CATALOGUE = {"ordered": "collections:OrderedDict", "counter": "collections:Counter"}


def test_finds_by_name() -> None:
    from collections import Counter

    assert find("thing", CATALOGUE, "counter") is Counter


def test_an_unknown_name_gets_a_hint_and_the_list() -> None:
    with pytest.raises(
        SettingError, match="unknown thing 'countr'. Did you mean 'counter'. Known: counter, ordered"
    ):
        find("thing", CATALOGUE, "countr")
