"""No fact of a catalogue gets lost on the way through layouts and measurements."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Extent
from gradtool.core.measurement import Measurement
from gradtool.core.shapes.boxes import Box, Held
from gradtool.core.tensors import (
    Placed,
    Replica,
    SerializationId,
    Skipped,
    StoredChecksum,
    TensorSpec,
)
from gradtool.formats.layouts._joined import joined
from gradtool.storage.reader import LocalFile

FILE = LocalFile("a.safetensors", 1, 2, 12, 3, 4)
WHOLE = Extent(FILE, 0, 12)
OF_EACH_FIELD: dict[str, Any] = {
    "path": "a.safetensors",
    "format": "safetensors",
    "files": (FILE,),
    "tensors": (TensorSpec("w", DTYPES["F32"], (3,), (WHOLE,), section="grads"),),
    "replicas": (
        Replica("rank 1", TensorSpec("w", DTYPES["F32"], (3,), (WHOLE,), section="grads")),
    ),
    "skipped": (Skipped("n", "I64", "integer", "grads"),),
    "section_kinds": {"grads": "gradients"},
    "checksums": (StoredChecksum("w", WHOLE, 7, (1, 2)),),
    "serialization_ids": (SerializationId(WHOLE, {"w": 7}),),
    "loss_scale": 1024.0,
    "step": 5,
    "writer": (0, 2),
    "ranks": frozenset({(0, 2)}),
    "placed": {"w": Placed((Held(Box((3,), (3,)), (0,)),), (6,))},
    "is_dump": True,
    "notes": ("a note",),
    "part_notes": ("a part",),
    "essential_notes": ("it matters",),
    "measure_only": "it is a program",
    "in_model_order": True,
    "left_out": ("v",),
    "skipped_left_out": ("m",),
    "fp8": frozenset({"v"}),
}
NOT_MEASURED = {
    *("section_kinds", "checksums", "serialization_ids"),
    *("writer", "placed", "part_notes", "left_out", "skipped_left_out", "measure_only"),
    *("is_dump", "fp8"),
}
"""What a measurement uses up: sections have their kinds, checksums are verified, boxes are put
together, scales are set apart; what nobody asked for; and what matters to clipping alone, or to
what lies beside.
"""


def test_a_catalogue_joined_of_one_is_that_one() -> None:
    assert OF_EACH_FIELD.keys() == {field.name for field in fields(Checkpoint)}
    defaults = Checkpoint("", "", (), ())
    part = Checkpoint(**OF_EACH_FIELD)
    assert all(getattr(part, name) != getattr(defaults, name) for name in OF_EACH_FIELD)
    assert joined("x", "directory", [part]) == replace(part, path="x", format="directory")


def test_a_measurement_has_the_facts_of_its_catalogue() -> None:
    known = {field.name for field in fields(Measurement)}
    assert OF_EACH_FIELD.keys() - known == NOT_MEASURED
