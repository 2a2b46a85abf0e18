"""Adaptive clipping: each unit to a share of the norm of its weights, as Brock et al. define it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

import gradtool

Arrays = dict[str, NDArray[Any]]
ULP = {"f2": 2.0**-10, "f4": 2.0**-23, "f8": 1e-14}
SHAPES = st.sampled_from([(), (7,), (1,), (4, 6), (5, 1), (1, 5), (3, 2, 4), (4, 3, 3, 3), (0, 3)])


def units_of(array: NDArray[Any], p: float) -> NDArray[np.float64]:
    """Norms along all axes but the first, kept as axes; of a vector as a whole."""
    wide = np.abs(array.astype(np.float64))
    axes = tuple(range(1, wide.ndim)) if wide.ndim > 1 else None
    norms: NDArray[np.float64] = np.sum(wide**p, axis=axes, keepdims=True) ** (1 / p)
    return norms


def clipped_by_hand(
    grad: NDArray[Any], weight: NDArray[Any], factor: float, eps: float, p: float = 2.0
) -> NDArray[np.float64]:
    norms, bounds = units_of(grad, p), factor * np.maximum(units_of(weight, p), eps)
    with np.errstate(invalid="ignore"):  # infinitely often 0, where nothing is to be scaled
        scaled = grad.astype(np.float64) * (bounds / np.maximum(norms, 1e-6))
    clipped: NDArray[np.float64] = np.where(norms > bounds, scaled, grad.astype(np.float64))
    return clipped


def clipped_as_timm_does(grad: Tensor, weight: Tensor, factor: float, eps: float) -> Tensor:
    """The formula of `adaptive_clip_grad`, in torch's arithmetic."""

    def unitwise(x: Tensor) -> Tensor:
        return (
            x.norm(2.0) if x.ndim <= 1 else x.norm(2.0, dim=tuple(range(1, x.ndim)), keepdim=True)
        )

    bound = unitwise(weight).clamp(min=eps) * factor
    norm = unitwise(grad)
    return torch.where(norm < bound, grad, grad * (bound / norm.clamp(min=1e-6)))


@st.composite
def models(draw: st.DrawFn, dtypes: tuple[str, ...] = ("f2", "f4", "f8")) -> tuple[Arrays, Arrays]:
    """Weights and gradients of the same names, some units of either 0."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights: Arrays = {}
    grads: Arrays = {}
    for number, shape in enumerate(draw(st.lists(SHAPES, min_size=1, max_size=4))):
        name = f"h.{number}.w"
        for arrays, scale in ((weights, 0.1), (grads, draw(st.sampled_from([1e-4, 1.0, 30.0])))):
            array = rng.standard_normal(shape) * scale
            if len(shape) > 1:
                array[rng.random(shape[0]) < 0.2] = 0.0
            arrays[name] = np.asarray(array, dtype=draw(st.sampled_from(dtypes)))
    return weights, grads


def save_torch(weights: Arrays, grads: Arrays, path: Path) -> Path:
    sections = {"model": weights, "grads": grads}
    torch.save(
        {
            key: {name: torch.from_numpy(one) for name, one in arrays.items()}
            for key, arrays in sections.items()
        },
        path,
    )
    return path


def load_torch(path: Path) -> tuple[Arrays, Arrays]:
    found = torch.load(path)
    weights, grads = ({n: t.numpy() for n, t in found[key].items()} for key in ("model", "grads"))
    return weights, grads


def in_one(weights: Arrays, grads: Arrays) -> Arrays:
    named = {f"model.{name}": array for name, array in weights.items()}
    return named | {f"grads.{name}": array for name, array in grads.items()}


def out_of_one(arrays: Arrays) -> tuple[Arrays, Arrays]:
    weights, grads = (
        {name.removeprefix(key): array for name, array in arrays.items() if name.startswith(key)}
        for key in ("model.", "grads.")
    )
    return weights, grads


def save_safetensors(weights: Arrays, grads: Arrays, path: Path) -> Path:
    save_file(in_one(weights, grads), path)
    return path


def save_npz(weights: Arrays, grads: Arrays, path: Path) -> Path:
    named = in_one(weights, grads)  # asfortranarray gives a scalar an axis
    fortran = {name: np.asfortranarray(one) if one.ndim else one for name, one in named.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **fortran)  # type: ignore[arg-type]
    return path


def load_npz(path: Path) -> tuple[Arrays, Arrays]:
    with np.load(path) as archive:
        return out_of_one({name: archive[name] for name in archive.files})


FORMATS: dict[str, tuple[Any, Any]] = {
    "torch.pt": (save_torch, load_torch),
    "x.safetensors": (save_safetensors, lambda path: out_of_one(load_file(path))),
    "deflated.npz": (save_npz, load_npz),
}


@pytest.mark.parametrize("layout", FORMATS)
@settings(max_examples=25)
@given(
    model=models(),
    factor=st.sampled_from([0.0, 1e-4, 0.01, 0.5, math.inf]),
    eps=st.sampled_from(["auto", 0.0, 1e-3, 1.0]),
    p=st.sampled_from([1.0, 2.0]),
)
def test_each_unit_is_scaled_as_by_hand(
    layout: str,
    model: tuple[Arrays, Arrays],
    factor: float,
    eps: Any,
    p: float,
    scratch: Path,
) -> None:
    weights, grads = model
    save, load = FORMATS[layout]
    path, out = save(weights, grads, scratch / f"in-{layout}"), scratch / f"out-{layout}"
    if not any(array.size for array in grads.values()):
        return
    if math.isinf(factor) and eps == 0.0:
        return  # infinitely many norms of 0
    outcome = gradtool.clip(
        path, out, section="grads", agc=factor, eps=eps, norm_type=p, force=True
    )
    weights_after, after = load(out)
    total = 0.0
    for name, grad in grads.items():
        assert weights_after[name].tobytes() == weights[name].tobytes()
        true = clipped_by_hand(grad, weights[name], factor, 1e-3 if eps == "auto" else eps, p)
        found = after[name].astype(np.float64)
        ulp = ULP[grad.dtype.str[1:]]
        tiny = float(np.finfo(grad.dtype).smallest_subnormal)
        assert np.allclose(found, true, rtol=ulp, atol=tiny)
        same = true == grad
        assert np.array_equal(np.where(same, after[name], grad), grad)
        total += float(np.sum(np.abs(found) ** p))
    assert outcome.norm_after == pytest.approx(total ** (1 / p), rel=1e-12)
    assert outcome.clip_coef is None


@settings(max_examples=25)
@given(model=models(("f4",)), factor=st.sampled_from([1e-3, 0.01, 0.3]))
def test_it_is_what_timm_does(model: tuple[Arrays, Arrays], factor: float, scratch: Path) -> None:
    weights, grads = model
    if not any(array.size for array in grads.values()):
        return
    path = save_torch(weights, grads, scratch / "in.pt")
    gradtool.clip(path, scratch / "out.pt", agc=factor, force=True)
    _, after = load_torch(scratch / "out.pt")
    for name, grad in grads.items():
        sides = (torch.from_numpy(grad), torch.from_numpy(weights[name]))
        true = clipped_as_timm_does(*sides, factor, 1e-3)
        assert np.allclose(after[name], true.numpy(), rtol=1e-5, atol=1e-12)


@settings(max_examples=20)
@given(model=models(), factor=st.sampled_from([1e-3, 0.01, 0.3]))
def test_clipping_again_changes_nothing_but_by_rounding(
    model: tuple[Arrays, Arrays], factor: float, scratch: Path
) -> None:
    weights, grads = model
    if not any(array.size for array in grads.values()):
        return
    path = save_torch(weights, grads, scratch / "in.pt")
    gradtool.clip(path, scratch / "once.pt", agc=factor, force=True)
    gradtool.clip(scratch / "once.pt", scratch / "twice.pt", agc=factor, force=True)
    _, once = load_torch(scratch / "once.pt")
    _, twice = load_torch(scratch / "twice.pt")
    for name, grad in grads.items():
        ulp, tiny = ULP[grad.dtype.str[1:]], float(np.finfo(grad.dtype).smallest_subnormal)
        assert np.allclose(twice[name], once[name], rtol=2 * ulp, atol=tiny)


def test_the_last_layer_is_left_out_as_the_paper_does(tmp_path: Path) -> None:
    """The case `agc`."""
    torch.manual_seed(0)
    weights = {
        "stem.weight": torch.randn(8, 8) * 0.1,
        "block.0.weight": torch.randn(8, 8) * 0.1,
        "head.weight": torch.randn(3, 8) * 0.1,
    }
    grads = {name: torch.randn_like(weight) for name, weight in weights.items()}
    torch.save({"model": weights, "grads": grads}, tmp_path / "training.pt")
    options = ["--section", "grads", "--agc", "0.01", "-x", "*head*", "-o", "out.pt", "-f", "json"]
    report = json.loads(run("clip", "training.pt", *options, cwd=tmp_path).stdout)
    assert (report["agc"], report["eps"], report["clip_coef"]) == (0.01, 1e-3, None)
    after = torch.load(tmp_path / "out.pt")["grads"]
    norms = {name: after[name].double().norm().item() for name in weights}
    assert norms == {
        "stem.weight": pytest.approx(0.0083704535, rel=1e-7),
        "block.0.weight": pytest.approx(0.0082727661, rel=1e-6),
        "head.weight": pytest.approx(5.24787, rel=1e-6),
    }
    assert torch.equal(after["head.weight"], grads["head.weight"])


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2, torch.complex64]
)
def test_units_are_longer_than_blocks_and_views_are_walked(
    dtype: torch.dtype, backend: str, tmp_path: Path
) -> None:
    """Rows span tasks; a transposed matrix and one with gaps have rows too; tied ones agree."""
    torch.manual_seed(1)
    base = torch.randn(40, 60)
    kinds = {
        "long": torch.randn(3, 1_500_000),
        "t": torch.randn(50, 70).t(),
        "gaps": base[::2, 5:21:3],
    }
    kinds |= {"small": torch.randn(3000, 2), "bias": torch.randn(700_001)}
    grads = {}
    for name, kind in kinds.items():
        stored = torch.as_strided(kind, (kind.untyped_storage().nbytes() // 4,), (1,), 0).to(dtype)
        grads[name] = torch.as_strided(stored, kind.shape, kind.stride(), kind.storage_offset())
    grads["tied"] = grads["long"]
    weights = {name: torch.randn(grad.shape) * 0.1 for name, grad in grads.items()}
    for weight in weights.values():
        weight.mul_(torch.arange(1.0, len(weight) + 1).view(-1, *(1,) * (weight.ndim - 1)))
    weights["tied"] = weights["long"]
    torch.save({"model": weights, "grads": grads}, tmp_path / "in.pt")
    engine: dict[str, Any] = {"backend": backend} | (
        {"device": "cpu"} if backend == "torch" else {}
    )
    gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", agc=0.01, **engine)
    after = torch.load(tmp_path / "out.pt")["grads"]
    ulp = {torch.bfloat16: 2**-8, torch.float8_e5m2: 2**-2}.get(dtype, 1e-6)
    for name, grad in grads.items():
        wide = grad.to(torch.complex128 if dtype.is_complex else torch.float64)
        axes = tuple(range(1, wide.ndim)) or (0,)
        norms = wide.abs().square().sum(dim=axes, keepdim=True).sqrt()
        of_weights = weights[name].double().square().sum(dim=axes, keepdim=True).sqrt()
        bounds = 0.01 * of_weights.clamp(min=1e-3)
        true = torch.where(norms > bounds, wide * (bounds / norms), wide)
        found = after[name].to(wide.dtype)
        tiny = 2.0**-16 if dtype == torch.float8_e5m2 else 1e-30
        assert torch.allclose(found, true, rtol=ulp, atol=tiny), name
        assert after[name].stride() == grad.stride()
    between = [torch.as_strided(one["gaps"], (20, 60), (120, 1), 60) for one in (grads, after)]
    assert torch.equal(*(one.to(torch.complex64) for one in between))


def test_both_engines_write_the_same_bytes(tmp_path: Path) -> None:
    torch.manual_seed(2)
    grads = {
        str(dtype): torch.randn(300, 5000).to(dtype)
        for dtype in (torch.float64, torch.float16, torch.float8_e4m3fn)
    }
    weights = {name: torch.randn(300, 5000) * 0.01 for name in grads}
    torch.save({"model": weights, "grads": grads}, tmp_path / "in.pt")
    gradtool.clip(tmp_path / "in.pt", tmp_path / "a.pt", agc=0.05, backend="numpy")
    for threads in (1, 3):
        options: dict[str, Any] = {"backend": "torch", "device": "cpu", "device_memory": 64 << 20}
        gradtool.clip(
            tmp_path / "in.pt", tmp_path / "b.pt", agc=0.05, threads=threads, force=True, **options
        )
        assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_bounds_are_the_trainers_and_weights_are_not_scaled(tmp_path: Path) -> None:
    weights = {"w": np.array([[3.0, 4.0], [0.3, 0.4]])}
    grads = {"w": np.array([[6.0, 8.0], [0.0, 1e-3]]) * 1024.0}
    path = save_safetensors(weights, grads, tmp_path / "in.safetensors")
    gradtool.clip(path, tmp_path / "out.safetensors", agc=0.1, loss_scale=1024)
    _, after = out_of_one(load_file(tmp_path / "out.safetensors"))
    assert after["w"][0].tolist() == pytest.approx([0.3 * 1024, 0.4 * 1024], rel=1e-12)
    assert after["w"][1].tolist() == grads["w"][1].tolist()


def test_names_meet_without_wrappers_and_prefixes(tmp_path: Path) -> None:
    grads = {"module.net.w": torch.tensor([[3.0, 4.0]])}
    weights = {"_orig_mod.w": torch.tensor([[0.6, 0.8]])}
    torch.save({"model": weights, "grads": grads}, tmp_path / "in.pt")
    with pytest.raises(gradtool.UsageError, match="no weights of that name") as caught:
        gradtool.clip(tmp_path / "in.pt", agc=1.0, dry_run=True)
    assert "model._orig_mod.w" in str(caught.value.hint)
    gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", agc=1.0, strip_prefix="net.")
    after = torch.load(tmp_path / "out.pt")["grads"]["module.net.w"]
    assert torch.allclose(after, torch.tensor([[0.6, 0.8]]), rtol=1e-6)


NAN, W = math.nan, np.ones((2, 2))


@pytest.mark.parametrize(
    ("weights", "grads", "options", "error", "words"),
    [
        ({"w": W}, {"w": np.ones((2, 3))}, {}, gradtool.UsageError, "[2, 3], and its weights"),
        ({"x": W}, {"w": W}, {}, gradtool.UsageError, "'grads.w': there are no weights"),
        ({"w": W * NAN}, {"w": W}, {}, gradtool.NonFiniteError, "weights 'model.w' of 'grads.w'"),
        ({"w": W}, {"w": W * NAN}, {}, gradtool.NonFiniteError, "'grads.w' (4 NaN"),
        ({"w": W}, {"w": W}, {"agc": -1.0}, gradtool.UsageError, "`agc` must be at least 0"),
        ({"w": W}, {"w": W}, {"agc": NAN}, gradtool.UsageError, "`agc` must be at least 0"),
        ({"w": W}, {"w": W}, {"max_norm": 1.0}, gradtool.UsageError, "give one of"),
        ({"w": W}, {"w": W}, {"per_tensor": True}, gradtool.UsageError, "not for `agc`"),
        ({"w": W}, {"w": W}, {"section": "model"}, gradtool.UsageError, "holds no gradients"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    weights: Arrays,
    grads: Arrays,
    options: dict[str, Any],
    error: type[Exception],
    words: str,
    tmp_path: Path,
) -> None:
    path = save_torch(weights, grads, tmp_path / "in.pt")
    with pytest.raises(error) as caught:
        gradtool.clip(path, tmp_path / "out.pt", **{"agc": 0.1, **options})
    assert words in str(caught.value)
    assert not (tmp_path / "out.pt").exists()


def test_gradients_alone_have_no_weights(tmp_path: Path) -> None:
    save_file({"w": W}, tmp_path / "in.safetensors")
    with pytest.raises(gradtool.UsageError, match="needs weights, and there are none"):
        gradtool.clip(tmp_path / "in.safetensors", agc=0.1, dry_run=True)


@pytest.mark.parametrize("mode", ["zero", "keep"])
def test_nonfinite_elements_leave_their_units_norm(mode: Any, tmp_path: Path) -> None:
    grads = {"w": np.array([[3.0, 4.0, NAN], [0.01, math.inf, 0.0]], "f4")}
    path = save_torch({"w": np.ones((2, 3), "f4")}, grads, tmp_path / "in.pt")
    gradtool.clip(path, tmp_path / "out.pt", agc=0.1, nonfinite=mode)
    after = load_torch(tmp_path / "out.pt")[1]["w"]
    scale = 0.1 * math.sqrt(3) / 5
    bad = (0.0, 0.0) if mode == "zero" else (NAN, math.inf)
    assert after[0].tolist() == pytest.approx([3 * scale, 4 * scale, bad[0]], nan_ok=True)
    assert after[1].tolist() == pytest.approx([0.01, bad[1], 0.0])


def test_elements_of_rows_and_of_columns_are_refused(tmp_path: Path) -> None:
    """The transposed view of a square matrix names the same elements in other units."""
    base = torch.randn(4, 4)
    weights = {"a": torch.ones(4, 4), "b": torch.ones(4, 4)}
    torch.save({"model": weights, "grads": {"a": base, "b": base.t()}}, tmp_path / "in.pt")
    with pytest.raises(gradtool.UsageError, match="share stored elements"):
        gradtool.clip(tmp_path / "in.pt", agc=1e-3, dry_run=True)


@pytest.mark.parametrize("ranks", ["shard", "replica"])
def test_gradients_in_pieces_or_copies_are_refused_by_name(ranks: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for rank in range(2):
        save_torch({"w": W}, {"w": W}, tmp_path / "in" / f"rank{rank}.pt")
    with pytest.raises(gradtool.UnsupportedFormatError, match=r"'grads\.w': is held in pieces"):
        gradtool.clip(tmp_path / "in", tmp_path / "out", agc=0.1, section="grads", ranks=ranks)


def test_each_rank_is_clipped_by_its_own_weights(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    grad = np.array([[3.0, 4.0], [0.0, 1.0]])
    for rank in range(2):
        weight = np.array([[1.0, 0.0], [0.0, 8.0]]) * (rank + 1)
        save_torch({"w": weight}, {"w": grad}, tmp_path / "in" / f"rank{rank}.pt")
    outcome = gradtool.clip(tmp_path / "in", tmp_path / "out", agc=0.5, ranks="each")
    assert [one.norm_after for one in outcome.ranks] == pytest.approx([1.25**0.5, 2.0**0.5])
    for rank in range(2):
        weights, grads = load_torch(tmp_path / "out" / f"rank{rank}.pt")
        assert weights["w"].tolist() == [[rank + 1, 0], [0, 8 * (rank + 1)]]
        assert grads["w"][0] == pytest.approx(grad[0] * (rank + 1) / 10, rel=1e-12)
        assert grads["w"][1].tolist() == [0.0, 1.0]
    rows = outcome.to_rows()
    assert [row["clip_coef"] for row in rows] == [None, None]
