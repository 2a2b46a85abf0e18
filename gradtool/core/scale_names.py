"""What scales fp8 tensors, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

_SCALES: Final = re.compile(
    r"(weight_|input_|output_|activation_)?scale(_inv|_weight|_input|_2)?"
    r"|(weights|activation)_scaling_factor",
    re.ASCII,
)
_ATTENTION_SCALES: Final = re.compile(r"(k|v|q|kv|prob)_scale|kv_cache_scaling_factor", re.ASCII)
_SCALES_OF_PARAMETERS: Final = re.compile(
    r"_((input|activation)_scale|scale(_inv|_2)?)\Z", re.ASCII
)
_WEIGHT: Final = "weight"
_WEIGHT_SCALES: Final = ("scale_weight", "weights_scaling_factor", "scale")
"""What fp8 tensors are to be multiplied by, as DeepSeek, vLLM, TensorRT-LLM and ComfyUI call it.

The scales of a weight are its own, of its inputs, and of what attention keeps. Whatever their names
promise, none is to be divided by. Sources: `weight_dequant` and the names in convert.py of
DeepSeek-V3; `FP8Experts` of Transformers for those that follow the name of a parameter; the page on
checkpoints of TensorRT-LLM; QUANTIZATION.md of ComfyUI.
"""


def scales_among(names: Iterable[str], fp8: AbstractSet[str]) -> frozenset[str]:
    """Those of the names that are of scales which belong to fp8 tensors, whose names are given.

    Those of attention may lie one level above the tensors: `attn.k_scale`, `attn.k_proj.weight`.
    """
    if not fp8:
        return frozenset()
    places = {name.rpartition(".")[0] for name in fp8}
    above = places | {place.rpartition(".")[0] for place in places}

    def is_scale(name: str) -> bool:
        place, _, last = name.rpartition(".")
        if place in places and _SCALES.fullmatch(last) is not None:
            return True
        if place in above and _ATTENTION_SCALES.fullmatch(last) is not None:
            return True
        end = _SCALES_OF_PARAMETERS.search(name)
        return end is not None and name[: end.start()] in fp8

    return frozenset(name for name in names if name not in fp8 and is_scale(name))


def scale_names(weight: str) -> tuple[str, ...]:
    """The names under which the scale may be found that an fp8 weight is multiplied by."""
    place, dot, last = weight.rpartition(".")
    own = (f"{weight}_scale_inv", f"{weight}_scale")
    return own if last != _WEIGHT else (*own, *(f"{place}{dot}{s}" for s in _WEIGHT_SCALES))
