"""Lists of checkpoints for programs, schema `gradtool.listing/1`: a line for each list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from gradtool._version import __version__
from gradtool.errors import FoundCheckpoint, SeveralCheckpointsError
from gradtool.report.model import Picking, Style

SCHEMA: Final = "gradtool.listing/1"


def render(
    lists: Sequence[SeveralCheckpointsError],
    style: Style,  # noqa: ARG001
    picking: Picking,  # noqa: ARG001
) -> str:
    """Each list as a JSON object on a line of its own."""
    return "".join(f"{json.dumps(_list(several))}\n" for several in lists)


def _list(several: SeveralCheckpointsError) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "gradtool": __version__,
        "path": several.path,
        "kind": several.kind,
        "checkpoints": list(map(_checkpoint, several.found)),
    }


def _checkpoint(one: FoundCheckpoint) -> dict[str, object]:
    return {
        "path": one.path,
        "step": one.step,
        "layout": one.layout,
        "files": one.files,
        "bytes": one.nbytes,
    }
