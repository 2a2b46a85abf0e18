"""Laws of names: their order, filters, groups."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradtool.core.names import UNGROUPED, group_namer, name_filter, natural_key, ordered
from gradtool.core.order.layers import layers_text
from gradtool.core.order.patterns import patterns
from gradtool.errors import UsageError

NUMBERS = st.integers(min_value=0, max_value=10**9)
COMPONENTS = st.one_of(st.sampled_from(["layers", "mlp", "weight", "h"]), NUMBERS.map(str))
NAMES = st.lists(COMPONENTS, min_size=1, max_size=5).map(".".join)
GLOBS = st.text(alphabet="abw.*?[]!0", max_size=6)

SIBLINGS = [
    *("wte", "norm.b"),
    *(
        f"h.{n}.{part}"
        for n in range(4)
        for part in ("attn.q.w", "attn.q.b", "attn.k.w", "attn.k.b", "norm.b")
    ),
]


@dataclass(frozen=True)
class Listed:
    name: str


@given(NUMBERS, NUMBERS)
def test_numbers_order_names_as_numbers_do(one: int, other: int) -> None:
    keys = natural_key(f"h.{one}.w"), natural_key(f"h.{other}.w")
    assert (keys[0] < keys[1]) == (one < other)


@given(st.lists(st.text(max_size=8)))
def test_any_names_can_be_ordered(names: list[str]) -> None:
    ordered = sorted(names, key=natural_key)
    assert sorted(ordered) == sorted(names)


def test_layers_come_in_the_order_of_their_numbers() -> None:
    names = [f"layers.{layer}.{part}" for layer in (10, 9, 100, 1) for part in ("w", "b")]
    assert sorted(names, key=natural_key) == [
        f"layers.{layer}.{part}" for layer in (1, 9, 10, 100) for part in ("b", "w")
    ]


@given(st.lists(st.text(alphabet="0a.1", max_size=2), unique=True), st.randoms())
def test_the_order_of_names_is_that_of_any_listing_and_the_models_is_its_own(
    names: list[str], random: Random
) -> None:
    listed = [*map(Listed, names)]
    assert ordered(listed, in_model_order=True) == tuple(listed)
    by_name = ordered(listed, in_model_order=False)
    keys = [natural_key(item.name) for item in by_name]
    assert (keys, set(by_name)) == (sorted(keys), set(listed))
    random.shuffle(listed)
    assert ordered(listed, in_model_order=False) == by_name


@given(NAMES, st.lists(GLOBS, max_size=3), st.lists(GLOBS, max_size=3))
def test_filters_are_any_include_and_no_exclude(
    name: str, include: list[str], exclude: list[str]
) -> None:
    included = not include or any(fnmatchcase(name, glob) for glob in include)
    excluded = any(fnmatchcase(name, glob) for glob in exclude)
    assert name_filter(include, exclude)(name) == (included and not excluded)


def test_a_star_matches_dots_too() -> None:
    assert name_filter(["*.bias"], [])("layers.0.mlp.bias")
    assert not name_filter(["*.bias"], ["layers.0.*"])("layers.0.mlp.bias")


@given(NAMES, st.integers(min_value=1, max_value=7))
def test_a_depth_groups_by_that_many_components(name: str, depth: int) -> None:
    group = group_namer(str(depth))(name)
    assert f"{name}.".startswith(f"{group}.")
    assert group.count(".") + 1 == min(depth, name.count(".") + 1)


@given(NAMES)
def test_grouping_twice_is_grouping_once(name: str) -> None:
    by_depth = group_namer("2")
    assert by_depth(by_depth(name)) == by_depth(name)


@given(NUMBERS, NUMBERS)
def test_a_hash_folds_numbers_and_a_star_keeps_them(one: int, other: int) -> None:
    names = f"model.layers.{one}.mlp.w", f"model.layers.{other}.attn.w"
    assert set(map(group_namer("layers.#"), names)) == {"model.layers.#"}
    apart = set(map(group_namer("layers.*"), names))
    assert apart == {f"model.layers.{one}", f"model.layers.{other}"}


def test_a_pattern_leaves_what_it_does_not_match_in_one_group() -> None:
    group_of = group_namer("layers.#.*")
    assert group_of("layers.3.mlp.w") == "layers.#.mlp"
    assert group_of("embed.w") == group_of("layers.norm.w") == UNGROUPED


@pytest.mark.parametrize("request_", ["0", "00", "", "layers..#", ".a", "a.", "9" * 5000])
def test_a_request_for_no_group_is_refused(request_: str) -> None:
    with pytest.raises(UsageError):
        group_namer(request_)


def test_a_depth_may_be_larger_than_any_name_is_deep() -> None:
    assert group_namer("000123456789012345678")("a.b") == "a.b"


@given(st.lists(st.sampled_from(SIBLINGS), min_size=1, unique=True))
def test_patterns_stand_for_every_name_once_and_say_how_many(names: list[str]) -> None:
    found = patterns(names, SIBLINGS)
    assert sorted(name for one in found for name in one.names) == sorted(names)
    for one in found:
        layers = {int(name.split(".")[1]) for name in one.names if name.startswith("h.")}
        assert one.layers == layers
        if len(layers) > 1:
            assert one.extent == f"in {len(layers)} of 4 layers"
            assert len(one.names) % len(layers) == 0, "each of its kinds is in each of its layers"
        if len(one.names) == 1 and not layers:
            assert one.text == one.names[0]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["h.0.attn.q.w", "h.1.attn.q.w"], "h.*.attn.q.w"),
        (["h.0.attn.q.w", "h.0.attn.k.w"], "h.0.attn.{q,k}.w"),
        ([f"h.{n}.attn.{part}" for n in (0, 2) for part in ("q.w", "q.b", "k.w", "k.b")],
         "h.*.attn.{q,k}.{w,b}"),
        (["h.1.attn.q.w", "h.1.norm.b"], "h.1.{attn.q.w,norm.b}"),
        ([name for name in SIBLINGS if name.startswith("h.")], "h.*"),
        (["wte", "norm.b"], "{wte,norm.b}"),
    ],
)  # fmt: skip
def test_a_pattern_is_what_names_have_in_common(names: list[str], text: str) -> None:
    assert [one.text for one in patterns(names, SIBLINGS)] == [text]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([7], "layer 7"),
        ([1, 0], "layers 0 and 1"),
        ([0, 1, 2, 9], "layers 0 to 2 and 9"),
        ([0, 1, 2, 5, 6, 9, 11], "layers 0 to 2, 5, 6, 9 and 11"),
        (range(0, 20, 2), "layers 0, 2, 4, 6, 8, 10 and 4 more"),
    ],
)
def test_numbers_of_layers_are_told_in_ranges(numbers: list[int], text: str) -> None:
    assert layers_text(numbers) == text
