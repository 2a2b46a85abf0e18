"""Maps of names: each `*` stands for any text, the first for as much as can be."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from gradtool.core.comparing.names.maps import NameMap

TEXTS = st.text("ab.*", min_size=1, max_size=8)


@given(TEXTS, st.text("ab.\n", max_size=12))
def test_what_stars_stand_for_is_what_a_regular_expression_finds(old: str, name: str) -> None:
    stars = old.count("*")
    found = NameMap(old, "|".join("*" * stars)).function()(name)
    wanted = re.fullmatch("(.*)".join(map(re.escape, old.split("*"))), name, re.DOTALL)
    if stars:
        assert found == (wanted and "|".join(wanted.groups()))
    else:
        assert (found is None) == (wanted is None)


def test_a_name_that_almost_fits_many_stars_takes_no_time_to_speak_of() -> None:
    """Tried one after another, where the stars end would be more than anybody waits for."""
    mapped = NameMap("layers" + ".*" * 8 + ".w", "*").function()
    assert mapped("layers" + "." * 100_000 + "x") is None
    assert mapped("layers" + "." * 100_000 + ".w") == "." * 99_992
