"""Lists of checkpoints for programs, schema `gradtool.listing/1`: an object for each list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from gradtool._version import __version__
from gradtool.errors import FoundCheckpoint, SeveralCheckpointsError
from gradtool.report.model import Style

SCHEMA: Final = "gradtool.listing/1"


def render(lists: Sequence[SeveralCheckpointsError], style: Style) -> str:  # noqa: ARG001
    """Each list as a JSON object, with a line for each checkpoint."""
    return "".join(map(_object, lists))


def _object(several: SeveralCheckpointsError) -> str:
    head = {
        "schema": SCHEMA,
        "gradtool": __version__,
        "path": several.path,
        "kind": several.kind,
    }
    fields = ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
    lines = ",\n ".join(json.dumps(_checkpoint(one)) for one in several.found)
    return f'{{{fields}, "checkpoints": [\n {lines}\n]}}\n'


def _checkpoint(one: FoundCheckpoint) -> dict[str, object]:
    return {
        "path": one.path,
        "step": one.step,
        "layout": one.layout,
        "files": one.files,
        "bytes": one.nbytes,
    }
