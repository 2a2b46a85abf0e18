"""Clipped safetensors files: header verbatim, data as the library would have saved it scaled."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from dumps import NUMPY_TYPES, transformed, write_safetensors
from oracle import close

import gradtool

TORCH = {
    "F32": torch.float32,
    "F64": torch.float64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def filled(dtype: str, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(TORCH[dtype])


def codes_of(tensor: torch.Tensor) -> Any:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return raw.view(f"u{tensor.element_size()}")


def scaled(tensor: torch.Tensor, coef: float) -> torch.Tensor:
    name = next(name for name, dtype in TORCH.items() if dtype is tensor.dtype)
    codes = transformed(codes_of(tensor), name, coef)
    return torch.from_numpy(codes.view(np.uint8).copy()).view(tensor.dtype).reshape(tensor.shape)


def header(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: 8 + struct.unpack("<Q", data[:8])[0]]


def paths(tmp_path: Path) -> tuple[Path, Path, Path]:
    found = [tmp_path / f"{name}.safetensors" for name in ("before", "after", "expected")]
    return found[0], found[1], found[2]


@pytest.mark.parametrize("dtype", TORCH)
def test_every_type_is_as_the_library_would_have_saved_it_scaled(
    dtype: str, tmp_path: Path
) -> None:
    before, after, expected = paths(tmp_path)
    tensors = {"w": filled(dtype, 30, 20), "b": filled(dtype, 20, seed=1)}
    metadata = {"format": "pt", "step": "7"}
    safetensors.torch.save_file(tensors, before, metadata)
    outcome = gradtool.clip(before, after, max_norm=0.37)
    assert outcome.clip_coef is not None
    norm = math.sqrt(
        math.fsum(x * x for t in tensors.values() for x in t.double().flatten().tolist())
    )
    assert close(outcome.clip_coef, 0.37 / (norm + 1e-6))
    wanted = {name: scaled(tensor, outcome.clip_coef) for name, tensor in tensors.items()}
    loaded = safetensors.torch.load_file(after)
    for name, tensor in wanted.items():
        assert loaded[name].shape == tensor.shape
        assert codes_of(loaded[name]).tolist() == codes_of(tensor).tolist()
    # Compare per key: the library's own order of metadata is not fixed.
    safetensors.torch.save_file(wanted, expected, metadata)
    with safetensors.safe_open(after, "pt") as file:
        assert file.metadata() == metadata
    assert header(after) == header(before)
    assert after.read_bytes()[len(header(after)) :] == expected.read_bytes()[len(header(after)) :]


def test_without_metadata_the_whole_file_is_what_the_library_would_have_saved(
    tmp_path: Path,
) -> None:
    before, after, expected = paths(tmp_path)
    tensors = {f"layer.{i}": filled(d, 9, i + 1, seed=i) for i, d in enumerate(TORCH)}
    tensors |= {"step": torch.tensor(5), "mask": torch.ones(3, dtype=torch.bool)}
    safetensors.torch.save_file(tensors, before)
    outcome = gradtool.clip(before, after, max_norm=0.37)
    assert outcome.clip_coef is not None
    wanted = {
        name: scaled(tensor, outcome.clip_coef) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    safetensors.torch.save_file(wanted, expected)
    assert after.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("dtype", ["F8_E5M2FNUZ", "F8_E4M3FNUZ", "C64"])
def test_types_that_torch_does_not_save_here_are_scaled_too(dtype: str, tmp_path: Path) -> None:
    before, after, _ = paths(tmp_path)
    rng = np.random.default_rng(1)
    array = rng.standard_normal(200).astype(NUMPY_TYPES[dtype])
    write_safetensors(before, {"w": (dtype, array)}, {"k": "é\n"})
    outcome = gradtool.clip(before, after, max_norm=0.7)
    assert outcome.clip_coef is not None
    part = 4 if dtype == "C64" else 1
    wanted = transformed(array.view(f"u{part}"), dtype, outcome.clip_coef)
    assert after.read_bytes() == header(before) + wanted.tobytes()


def test_a_header_with_spaces_and_its_own_order_stays_as_it_is(tmp_path: Path) -> None:
    before, after, _ = paths(tmp_path)
    text = (
        b'{ "b": {"shape": [2], "dtype":"F32", "data_offsets":[0,8]} ,'
        b'\n "__metadata__":{"x":"y"}}   '
    )
    data = struct.pack("<2f", 3.0, -4.0)
    before.write_bytes(struct.pack("<Q", len(text)) + text + data)
    gradtool.clip(before, after, max_norm=2.5, eps=0)
    assert after.read_bytes() == struct.pack("<Q", len(text)) + text + struct.pack("<2f", 1.5, -2)


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"include": "layers.*"}, {"layers.0.w", "layers.0.b", "layers.1.w"}),
        ({"exclude": "*.b"}, {"layers.0.w", "layers.1.w", "head.w"}),
        ({"include": ["*.w"], "exclude": ["layers.1.*", "head*"]}, {"layers.0.w"}),
    ],
)
def test_filters_change_the_chosen_tensors_alone(
    options: dict[str, Any], changed: set[str], tmp_path: Path
) -> None:
    before, after, _ = paths(tmp_path)
    names = ["layers.0.w", "layers.0.b", "layers.1.w", "head.w"]
    tensors = {name: filled("F32", 50, seed=i) for i, name in enumerate(names)}
    safetensors.torch.save_file(tensors, before)
    outcome = gradtool.clip(before, after, max_norm=0.1, **options)
    assert outcome.clip_coef is not None
    squares = [x * x for name in changed for x in tensors[name].double().tolist()]
    assert close(outcome.norm_before, math.sqrt(math.fsum(squares)))
    loaded = safetensors.torch.load_file(after)
    for name, tensor in tensors.items():
        wanted = scaled(tensor, outcome.clip_coef) if name in changed else tensor
        assert codes_of(loaded[name]).tolist() == codes_of(wanted).tolist()


def test_a_section_is_clipped_and_the_others_stay(tmp_path: Path) -> None:
    before, after, _ = paths(tmp_path)
    tensors = {"model.w": filled("F32", 50), "grads.w": filled("F32", 50, seed=1)}
    safetensors.torch.save_file(tensors, before)
    if gradtool.measure(before).total is None:
        gradtool.clip(before, after, max_norm=0.1, section="grads")
    else:
        gradtool.clip(before, after, max_norm=0.1, include="grads.*")
    loaded = safetensors.torch.load_file(after)
    assert torch.equal(loaded["model.w"], tensors["model.w"])
    assert loaded["grads.w"].norm() < 0.11


def test_in_place_gives_what_a_new_file_would_hold(tmp_path: Path) -> None:
    before, after, _ = paths(tmp_path)
    safetensors.torch.save_file({"w": filled("BF16", 1000)}, before)
    before.chmod(0o640)
    gradtool.clip(before, after, max_norm=0.1)
    outcome = gradtool.clip(before, in_place=True, max_norm=0.1)
    assert outcome.written
    assert before.read_bytes() == after.read_bytes()
    assert before.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == [after.name, before.name]


def test_many_small_tensors_are_all_scaled(tmp_path: Path) -> None:
    before, after, expected = paths(tmp_path)
    tensors = {f"t{i:05}": filled("F32", 3, seed=i) for i in range(4000)}
    safetensors.torch.save_file(tensors, before)
    outcome = gradtool.clip(before, after, max_norm=0.37)
    assert outcome.clip_coef is not None
    coef = outcome.clip_coef
    safetensors.torch.save_file({n: scaled(t, coef) for n, t in tensors.items()}, expected)
    assert after.read_bytes() == expected.read_bytes()


def test_metadata_that_are_null_are_none_and_stay_null(tmp_path: Path) -> None:
    before, after, _ = paths(tmp_path)
    data = np.array([3, 4], np.float32).tobytes()
    entry = b'{"__metadata__":null,"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    before.write_bytes(struct.pack("<Q", len(entry)) + entry + data)
    outcome = gradtool.clip(before, after, max_norm=1.0)
    assert outcome.before.total is not None
    assert outcome.before.total.norm == 5.0
    assert header(after) == header(before)
    with safetensors.safe_open(after, "np") as file:
        assert file.metadata() is None


def test_what_mlx_writes_without_metadata_is_read_and_clipped(tmp_path: Path) -> None:
    core: Any = pytest.importorskip("mlx.core", reason="MLX has no wheel for every platform")
    before, after, _ = paths(tmp_path)
    core.save_safetensors(str(before), {"w": core.array([3.0, 4.0])})
    assert b'"__metadata__":null' in header(before)
    gradtool.clip(before, after, max_norm=1.0, eps=0.0)
    assert header(after) == header(before)
    assert core.load(str(after))["w"].tolist() == np.array([0.6, 0.8], np.float32).tolist()
