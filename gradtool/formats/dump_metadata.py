"""What `dump_gradients` says about a dump, in the string map of its header."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gradtool.core.json_text import is_unicode, parse
from gradtool.core.shapes.placements import read_placement
from gradtool.core.tensors import Placed

DUMP_VERSION: Final = 1

PREFIX: Final = "gradtool."
"""What the keys of these facts begin with."""

MODEL_ORDER: Final = "model"
"""The order in which the model has its parameters."""


@dataclass(frozen=True, slots=True)
class DumpMetadata:
    """Facts about a dump of gradients that its tensors do not tell.

    Attributes:
        dump: the version of these facts; None for a file that `dump_gradients` did not write.
        step: of the training.
        loss_scale: what the gradients are multiplied by.
        rank, world_size: whose gradients they are, and of how many processes.
        aliases: further names of a gradient, and the one under which it is stored.
        absent: parameters that were to have a gradient and had none, with their dtype.
        shards: of gradients that are split over ranks, the whole one's shape, the placements of
            its parts, and the mesh's shape, names and this rank's place in it.
        sparse: shapes of gradients of which the values are stored, and the indices beside them.
        order: which order `names` are in: MODEL_ORDER, or one of a version to come; None where
            nothing is said, and then they mean nothing.
        names: all that the dump lists, aliases and absent ones included.
    """

    dump: int | None = None
    step: int | None = None
    loss_scale: float = 1.0
    rank: int | None = None
    world_size: int | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    shards: dict[str, Any] = field(default_factory=dict)
    sparse: dict[str, list[int]] = field(default_factory=dict)
    order: str | None = None
    names: list[str] = field(default_factory=list)

    def strings(self) -> dict[str, str]:
        """The facts as texts, under the names above; those that say nothing left out.

        All are JSON, but for `order`, which is a plain word.
        """
        found = {name: getattr(self, name) for name in _CHECKS}
        return {
            PREFIX + name: value if name == "order" else json.dumps(value, allow_nan=False)
            for name, value in found.items()
            if value not in (None, {}, []) and (name, value) != ("loss_scale", 1.0)
        }

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> DumpMetadata:
        """The facts in a header's string map; ValueError naming the one that is none."""
        found: dict[str, Any] = {}
        for name in _CHECKS:
            text = metadata.get(PREFIX + name)
            if text is None:
                continue
            try:
                value = text if name == "order" else parse(text)
            except ValueError:
                value = None
            if not _CHECKS[name](value):
                raise ValueError(PREFIX + name)
            found[name] = value
        facts = cls(**found)
        if facts.shards and not (facts.rank or 0) < (facts.world_size or 0):
            raise ValueError(f"{PREFIX}rank")
        return facts


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_scale(value: object) -> bool:
    return type(value) in (int, float) and 0 < value <= sys.float_info.max  # type: ignore[operator]


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_names(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, [*value, *value.values()]))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and is_unicode(value)


def _is_map(value: object) -> bool:
    return isinstance(value, dict)


_CHECKS: Final = {
    "dump": _is_count,
    "step": _is_count,
    "loss_scale": _is_scale,
    "rank": _is_count,
    "world_size": _is_count,
    "aliases": _are_names,
    "absent": _are_names,
    "shards": _is_map,
    "sparse": _is_map,
    "order": _is_text,
    "names": _are_texts,
}


def noted_part(shard: object) -> Placed | None:
    """Where a part of a gradient belongs, by what is noted of it in `shards`; None if it is not."""
    if not isinstance(shard, dict):
        return None
    whole, mesh, coordinate = (_sizes(shard.get(name)) for name in ("shape", "mesh", "coordinate"))
    texts = shard.get("placements")
    if not isinstance(texts, list) or not _are_texts(texts):
        return None
    placements = [read_placement(text) for text in texts]
    if whole is None or mesh is None or coordinate is None or None in placements:
        return None
    return Placed.on_mesh(whole, mesh, coordinate, [one for one in placements if one is not None])


def _sizes(value: object) -> tuple[int, ...] | None:
    is_shape = isinstance(value, list) and all(map(_is_count, value))
    return tuple(value) if is_shape else None  # type: ignore[arg-type]
