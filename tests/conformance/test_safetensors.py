"""safetensors files, as the reference library writes them."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from random import Random

import ml_dtypes
import numpy as np
import pytest
import torch
from dumps import write_safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

import gradtool
from gradtool.core.dtypes import DTYPES
from gradtool.formats import open_checkpoint


def test_extents_hold_the_tensors_bytes(tmp_path: Path) -> None:
    arrays = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array(3.5, np.float16),
        "empty": np.zeros((0, 4), np.float64),
        "half": np.ones(5).astype(ml_dtypes.bfloat16),
    }
    path = tmp_path / "x.safetensors"
    save_file(arrays, path, metadata={"format": "pt", "step": "7"})
    checkpoint = open_checkpoint(str(path))
    assert {spec.name for spec in checkpoint.tensors} == set(arrays)
    content = path.read_bytes()
    for spec in checkpoint.tensors:
        raw = b"".join(content[e.offset : e.end] for e in spec.extents)
        assert raw == arrays[spec.name].tobytes()
        assert spec.shape == arrays[spec.name].shape


TORCH_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}


def test_every_dtype_that_the_library_writes_is_known(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_torch({name: torch.ones(8).to(dtype) for dtype, name in TORCH_TYPES.items()}, path)
    checkpoint = open_checkpoint(str(path))
    found = {s.name: s.dtype.name for s in checkpoint.tensors}
    found |= {s.name: s.dtype for s in checkpoint.skipped}
    assert found == {name: name for name in TORCH_TYPES.values()}
    measured = {s.name for s in checkpoint.tensors}
    assert measured == {n for n in TORCH_TYPES.values() if n[0] in "FCB" and n not in _SKIPPED}


_SKIPPED = {"BOOL", "F8_E8M0"}


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"])
def test_totals_beside_a_dtype_that_cannot_be_measured_are_lower_bounds(
    dtype: str, tmp_path: Path
) -> None:
    # Written by hand: torch cannot store 4- and 6-bit floats through this library.
    count = 32
    nbytes = count * DTYPES[dtype].bits // 8
    path = tmp_path / "x.safetensors"
    header = (
        f'{{"g":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},'
        f'"q":{{"dtype":"{dtype}","shape":[{count}],"data_offsets":[4,{4 + nbytes}]}}}}'
    ).encode()
    path.write_bytes(
        len(header).to_bytes(8, "little") + header + np.float32(2).tobytes() + bytes(nbytes)
    )
    measurement = gradtool.measure(path)
    assert measurement.total is not None
    assert measurement.total.lower_bound
    assert [item.dtype for item in measurement.skipped] == [dtype]


def test_integers_are_skipped_and_bound_nothing(tmp_path: Path) -> None:
    path = write_safetensors(
        tmp_path / "x.safetensors",
        {"g": ("F32", np.ones(4, np.float32)), "step": ("I64", np.array(7))},
    )
    measurement = gradtool.measure(path)
    assert measurement.total is not None
    assert not measurement.total.lower_bound
    assert [(s.name, s.reason) for s in measurement.skipped] == [("step", "integer")]


def test_sections_need_two_kinds_of_first_components(tmp_path: Path) -> None:
    one = np.ones(1, np.float32)
    gradients = write_safetensors(
        tmp_path / "g.safetensors", {"model.a": ("F32", one), "lm_head.b": ("F32", one)}
    )
    assert [s.name for s in gradtool.measure(gradients).sections] == [""]
    training = write_safetensors(
        tmp_path / "t.safetensors",
        {"model.a": ("F32", one), "optimizer.b": ("F32", one), "step": ("F32", one)},
    )
    measurement = gradtool.measure(training)
    assert measurement.total is None
    assert [(s.name, s.kind) for s in measurement.sections] == [
        ("model", "weights"),
        ("optimizer", "optimizer"),
        ("other", None),
    ]
    chosen = gradtool.measure(training, section="model")
    assert chosen.total is not None
    assert chosen.total.stats.norm == 1.0


def test_no_group_mixes_sections(tmp_path: Path) -> None:
    names = ("model.a", "model.layers.0.b", "optimizer.a", "optimizer.layers.0.b", "c")
    one = np.ones(1, np.float32)
    path = write_safetensors(tmp_path / "t.safetensors", dict.fromkeys(names, ("F32", one)))
    groups = gradtool.measure(path).grouped("layers.#")
    assert {group.name: group.tensors for group in groups} == {
        "model.(other)": 1,
        "model.layers.#": 1,
        "optimizer.(other)": 1,
        "optimizer.layers.#": 1,
        "other.(other)": 1,
    }


SPELLINGS = [
    lambda entry: json.dumps(entry, separators=(",", ":")),
    lambda entry: json.dumps(entry, separators=(", ", ": ")),
    lambda entry: json.dumps(entry, sort_keys=True, separators=(",", ":")),  # as MLX writes them
    lambda entry: json.dumps(entry, separators=(",", ":")).replace("t", "\\u0074"),
]


@given(
    shapes=st.lists(st.sampled_from([(), (0,), (1,), (2, 3), (2, 0)]), max_size=8),
    random=st.randoms(use_true_random=False),
    data=st.data(),
)
def test_entries_may_come_in_any_order_and_spelling(
    shapes: list[tuple[int, ...]], random: Random, data: st.DataObject, scratch: Path
) -> None:
    entries, end = [], 0
    for at, shape in enumerate(shapes):
        dtype = data.draw(st.sampled_from(["F16", "F64"]))
        nbytes = int(dtype[1:]) // 8 * math.prod(shape)
        fields = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + nbytes]}
        spelled = data.draw(st.sampled_from(SPELLINGS))(fields)
        entries.append((str(at), spelled, shape, dtype, end, nbytes))
        end += nbytes
    random.shuffle(entries)
    header = "{" + ",".join(f'"{name}":{spelled}' for name, spelled, *_ in entries) + "}"
    path = scratch / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(end))
    found = {spec.name: spec for spec in open_checkpoint(str(path)).tensors}
    assert found.keys() == {name for name, *_ in entries}
    for name, _, shape, dtype, begin, nbytes in entries:
        spec = found[name]
        assert (spec.shape, spec.dtype.name) == (shape, dtype)
        assert [(extent.offset, extent.nbytes) for extent in spec.extents] == (
            [(8 + len(header) + begin, nbytes)] if nbytes else []
        )


def test_an_empty_tensor_may_be_listed_after_the_one_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = (
        b'{"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    )
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.float32(2).tobytes())
    assert [t.stats.numel for t in gradtool.measure(path).tensors] == [0, 1]
