"""GGUF and Flax's files in what the suite of all formats does not ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import mlx.core as mx
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from fuzz.judging.exchanged import flax_arrays
from oracle import close

import gradtool
from gradtool.errors import SameTensorsError, UnsupportedFormatError
from gradtool.formats import open_checkpoint

RNG = np.random.default_rng(19)
TYPES = gguf.GGMLQuantizationType


def write_gguf(
    path: Path,
    arrays: dict[str, Any],
    order: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
    **packed: Any,
) -> Path:
    """By gguf-py; `packed` has types by the names of arrays of bytes."""
    writer = gguf.GGUFWriter(path, "net", endianess=order)
    for name, array in arrays.items():
        writer.add_tensor(name, array, raw_dtype=packed.get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_mlx_saves_is_clipped_as_mlx_loads_it(tmp_path: Path) -> None:
    path, out = tmp_path / "grads.gguf", tmp_path / "out.gguf"
    arrays = {
        "layers.10.w": mx.array(RNG.standard_normal((4, 3)).astype(np.float32)),
        "layers.9.w": mx.array(RNG.standard_normal((2, 1, 2, 1, 3)).astype(np.float16)),
        "b" * 70: mx.array(RNG.standard_normal(5).astype(np.float32)),
        "ids": mx.array([1, 2, 3], mx.int32),
    }
    mx.save_gguf(str(path), arrays)
    found = gradtool.measure(path)
    assert {one.name: one.spec.shape for one in found.tensors} == {
        name: array.shape for name, array in arrays.items() if name != "ids"
    }
    assert not found.in_model_order  # MLX has it in that of a hash
    outcome = gradtool.clip(path, out, max_norm=0.5)
    assert outcome.clip_coef is not None
    loaded = mx.load(str(out))
    for name, array in arrays.items():
        before, after = np.array(array), np.array(loaded[name])
        scale = 1.0 if name == "ids" else outcome.clip_coef
        assert after.tobytes() == (before.astype(np.float64) * scale).astype(before.dtype).tobytes()


@pytest.mark.parametrize("kind", [TYPES.Q4_0, TYPES.Q5_1, TYPES.Q8_0, TYPES.TQ1_0, TYPES.MXFP4])
def test_what_is_quantised_is_listed_and_the_rest_is_measured(
    kind: gguf.GGMLQuantizationType, tmp_path: Path
) -> None:
    rows = RNG.standard_normal((2, 256)).astype(np.float32)
    arrays = {"a": rows, "packed": gguf.quants.quantize(rows, kind), "z": rows[0]}
    path = write_gguf(tmp_path / "any.gguf", arrays, packed=kind)
    found = gradtool.measure(path)
    assert [(one.name, one.dtype, one.reason) for one in found.skipped] == [
        ("packed", kind.name, "quantized")
    ]
    for one in found.tensors:
        assert close(one.norm, float(np.linalg.norm(arrays[one.name].astype(np.longdouble))))
    with pytest.raises(UnsupportedFormatError, match=f"'packed': may be a gradient.*{kind.name}"):
        gradtool.clip(path, tmp_path / "out.gguf", max_norm=0.5)
    gradtool.clip(path, tmp_path / "out.gguf", max_norm=0.5, exclude=["packed"])
    after = {one.name: one.data for one in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert np.array_equal(after["packed"], arrays["packed"])


def test_bfloat16_of_big_endian_files_is_listed_only(tmp_path: Path) -> None:
    """gguf-py writes it as it is, and swaps it where it converts a file."""
    halves = RNG.standard_normal(4).astype(ml_dtypes.bfloat16).view(np.uint8)
    arrays = {"a": np.float32([3, 4]), "packed": halves}
    order = gguf.GGUFEndian.BIG
    path = write_gguf(tmp_path / "any.gguf", arrays, order, packed=TYPES.BF16)
    found = gradtool.measure(path)
    assert [(one.name, one.norm) for one in found.tensors] == [("a", 5.0)]
    assert [(one.name, one.dtype) for one in found.skipped] == [("packed", "BF16")]
    assert "big-endian" in found.skipped[0].reason


def test_types_of_numpy_and_of_ml_dtypes_are_measured_as_flax_restores_them(
    tmp_path: Path,
) -> None:
    kinds = (
        *(np.float16, np.float32, np.float64, np.complex64, np.complex128, ml_dtypes.bfloat16),
        *(ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
    )
    arrays = {np.dtype(kind).name: np.arange(1, 7).reshape(2, 3).astype(kind) for kind in kinds}
    path = tmp_path / "grads.msgpack"
    parts = {
        name: msgpack.ExtType(1, msgpack.packb((one.shape, name, one.tobytes())))
        for name, one in arrays.items()
    }
    path.write_bytes(msgpack.packb(parts))
    restored = dict(flax_arrays(str(path)))
    for one in gradtool.measure(path).tensors:
        values = restored[one.name].astype(np.complex128)
        assert close(one.norm, float(np.sqrt((values * values.conj()).real.sum())))


def test_a_model_for_flax_is_the_model_beside_it(tmp_path: Path) -> None:
    array = msgpack.ExtType(1, msgpack.packb(((2,), "float32", bytes(8))))
    (tmp_path / "flax_model.msgpack").write_bytes(msgpack.packb({"w": array}))
    assert open_checkpoint(str(tmp_path)).format == "flax-msgpack"
    safetensors.numpy.save_file({"v": np.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(SameTensorsError, match="are one model, as their names tell"):
        open_checkpoint(str(tmp_path))
