"""What names tell is found out once for the dumps of a call: no dump is judged by another's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import gradtool

NAMES = [
    *(f"layers.{layer}.{part}" for layer in range(5) for part in ("q", "k", "experts.0.w")),
    *(f"module.layers.{layer}.blocks.1.conv.w" for layer in range(4)),
    *("embed", "head.weight", "layers.2.lora_A.w", "layers.3.lora_B.w"),
]
KINDS = ("sound", "zero", "large", "nan")


@st.composite
def dumps(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Some of the names in any order, of two shapes, each tensor sound or sick."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    if draw(st.booleans()):
        names = draw(st.permutations(NAMES))  # a model whose layers are whole, as most are
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    size = draw(st.integers(2, 3))
    return dict(_tensors(names, kinds, size))


def _tensors(names: list[str], kinds: list[str], size: int) -> Iterator[tuple[str, np.ndarray]]:
    for number, name in enumerate(names):
        tensor = np.linspace(0.1, 1.0, size) * (1 + number % 3)
        kind = kinds[number % len(kinds)] if number % 4 == 0 else "sound"
        yield name, tensor * {"sound": 1.0, "zero": 0.0, "large": 1e6, "nan": np.nan}[kind]


@given(st.lists(dumps(), min_size=2, max_size=4))
@settings(max_examples=60)
def test_a_dump_is_judged_after_others_as_it_is_alone(several: list[dict[str, np.ndarray]]) -> None:
    together = gradtool.check(*several)
    alone = [gradtool.check(dump).verdicts[0] for dump in several]
    assert [one.findings for one in together.verdicts] == [one.findings for one in alone]
    assert [repr(one.summary) for one in together.verdicts] == [repr(one.summary) for one in alone]
