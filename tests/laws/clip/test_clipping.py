"""Clipping: what holds for any gradients, in every format, from the file to the file."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from dumps import transformed
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import close, exact_norm
from safetensors.numpy import load_file, save_file

import gradtool
from gradtool.core.clip.plan import NonFinite
from gradtool.core.clipping import IDENTITY

Arrays = dict[str, NDArray[Any]]

NAMES = ("a", "layers.0.w", "layers.10.w", "z")
DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
ULP = {"F16": 2.0**-10, "F32": 2.0**-23, "F64": 1e-12}
ORDERS = (0.5, 1.0, 2.0, 3.0, math.inf)
EPS = 1e-6

files = settings(max_examples=20)
"""Each example writes and syncs files."""

_numbers = itertools.count()


def save_torch(arrays: Arrays, path: Path) -> None:
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def load_torch(path: Path) -> Arrays:
    return {name: tensor.numpy() for name, tensor in torch.load(path).items()}


def save_npy(arrays: Arrays, path: Path) -> None:
    np.save(path, np.concatenate([array.reshape(-1) for array in arrays.values()]))


def load_npz(path: Path) -> Arrays:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def save_sharded(arrays: Arrays, path: Path) -> None:
    path.mkdir()
    weight_map = {}
    for i, name in enumerate(arrays):
        shard = f"grads-{i % 2}.safetensors"
        weight_map[name] = shard
        (path / shard).touch()
    for shard in set(weight_map.values()):
        inside = {name: arrays[name] for name, home in weight_map.items() if home == shard}
        save_file(inside, path / shard)
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (path / "grads.safetensors.index.json").write_text(index)
    (path / "README.md").write_text("unrelated")
    (path / "empty").touch()


def load_sharded(path: Path) -> Arrays:
    return {k: v for shard in path.glob("*.safetensors") for k, v in load_file(shard).items()}


Save = Callable[[Arrays, Path], None]
Load = Callable[[Path], Arrays]

FORMATS: dict[str, tuple[str, Save, Load]] = {
    "safetensors": (".safetensors", save_file, load_file),
    "torch": (".pt", save_torch, load_torch),
    "npz": (".npz", lambda arrays, path: np.savez(path, **arrays), load_npz),
    "deflated": (".npz", lambda arrays, path: np.savez_compressed(path, **arrays), load_npz),
    "npy": (".npy", save_npy, lambda path: {"all": np.load(path)}),
    "sharded": ("", save_sharded, load_sharded),
}


class Dump:
    """Arrays as one library wrote them, and a place for what is made of them."""

    def __init__(self, scratch: Path, layout: str, arrays: Arrays) -> None:
        suffix, save, self.load = FORMATS[layout]
        self._directory = Path(tempfile.mkdtemp(dir=scratch))
        self._suffix = suffix
        self.path = self._directory / f"grads{suffix}"
        save(arrays, self.path)

    def beside(self) -> Path:
        return self._directory / f"out{next(_numbers)}{self._suffix}"

    def clipped(self, **options: Any) -> tuple[gradtool.ClipOutcome, Arrays]:
        out = self.beside()
        outcome = gradtool.clip(self.path, out, **options)
        return outcome, self.load(out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._directory)


def contents(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {file.name: file.read_bytes() for file in path.iterdir()}


def values(arrays: Arrays) -> list[float]:
    return [x for array in arrays.values() for x in array.astype(np.float64).reshape(-1).tolist()]


def norm_of(arrays: Arrays, p: float = 2.0) -> float:
    return exact_norm(values(arrays), p)


def code_of(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")


def assert_scaled(
    before: Arrays, after: Arrays, coef: float = 1.0, bound: float = math.inf
) -> None:
    assert set(before) == set(after)
    for name, array in before.items():
        dtype = next(key for key, known in DTYPES.items() if known == array.dtype)
        expected = transformed(code_of(array), dtype, coef, bound)
        assert after[name].shape == array.shape
        np.testing.assert_array_equal(code_of(after[name]), expected)


@st.composite
def gradients(
    draw: st.DrawFn, dtypes: tuple[str, ...] = ("F32", "F64", "F16"), *, moderate: bool = False
) -> Arrays:
    """A few arrays of one type; `moderate` ones stay away from subnormals."""
    dtype = DTYPES[draw(st.sampled_from(dtypes))]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    found = {}
    for name in NAMES[: draw(st.integers(1, 4))]:
        shape = draw(st.sampled_from([(), (1,), (7,), (3, 5), (2, 0), (4, 1, 6)]))
        kind = draw(st.sampled_from(["normal", "third", "near one", "zero", "far apart"]))
        array = rng.standard_normal(shape)
        if kind == "third":
            array = np.full(shape, 1 / 3)
        elif kind == "near one":
            array = 1 + rng.random(shape) / 1000
        elif kind == "zero":
            array = np.zeros(shape)
        elif kind == "far apart" and not moderate:
            array = array * 2.0 ** rng.integers(-14, 13, shape)
        found[name] = np.asarray(array, dtype)
    if not any(array.any() for array in found.values()):
        found[NAMES[0]] = np.asarray([3.0, -4.0], dtype)
    return found


layouts = st.sampled_from(list(FORMATS))
bounds = st.sampled_from([1e-3, 0.1, 1 / 3, 1.0, 5.0, 1000.0])


def dtype_name(arrays: Arrays) -> str:
    (dtype,) = {array.dtype for array in arrays.values()}
    return next(key for key, known in DTYPES.items() if known == dtype)


def slack(arrays: Arrays) -> float:
    """Half the smallest subnormal for each element."""
    tiny = float(np.finfo(DTYPES[dtype_name(arrays)]).smallest_subnormal)
    return sum(array.size for array in arrays.values()) * tiny


@pytest.mark.parametrize(
    "options", [{"max_norm": math.inf}, {"max_norm": 1e9}, {"max_norm": 1, "total_norm": 0.5}]
)
@pytest.mark.parametrize("layout", FORMATS)
@files
@given(arrays=gradients())
def test_a_coefficient_of_one_gives_the_same_bytes(
    layout: str, options: dict[str, float], arrays: Arrays, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        out = dump.beside()
        outcome = gradtool.clip(dump.path, out, **options)
        assert (outcome.clip_coef, outcome.tensors_changed) == (1.0, 0)
        assert outcome.written
        assert contents(out) == contents(dump.path)


@files
@given(arrays=gradients(), layout=layouts, max_norm=bounds, p=st.sampled_from(ORDERS))
def test_elements_are_multiplied_by_the_coefficient_and_rounded_once(
    arrays: Arrays, layout: str, max_norm: float, p: float, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        stored = dump.load(dump.path)
        outcome, after = dump.clipped(max_norm=max_norm, norm_type=p)
        norm = norm_of(stored, p)
        assert close(outcome.norm_before, norm)
        assert outcome.clip_coef is not None
        assert close(outcome.clip_coef, min(1.0, max_norm / (norm + EPS)))
        assert_scaled(stored, after, outcome.clip_coef)


@files
@given(arrays=gradients(), layout=layouts, p=st.sampled_from(ORDERS), max_norm=bounds)
def test_the_norm_after_is_that_of_what_the_library_loads(
    arrays: Arrays, layout: str, p: float, max_norm: float, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        outcome, after = dump.clipped(max_norm=max_norm, norm_type=p)
        assert outcome.norm_after is not None
        assert close(outcome.norm_after, norm_of(after, p))
        if p == 2.0:
            squares = math.fsum(value * value for value in values(after))
            assert close(outcome.norm_after, math.sqrt(squares))


@pytest.mark.parametrize("eps", [EPS, 0.0])
@files
@given(
    arrays=gradients(),
    layout=layouts,
    max_norm=bounds,
    p=st.sampled_from([1.0, 2.0, 3.0, math.inf]),
)
def test_the_norm_after_is_within_the_bound_and_rounding(
    eps: float, arrays: Arrays, layout: str, max_norm: float, p: float, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        _, after = dump.clipped(max_norm=max_norm, norm_type=p, eps=eps)
        assert norm_of(after, p) <= max_norm * (1 + ULP[dtype_name(arrays)]) + slack(arrays)


@files
@given(arrays=gradients(("F32", "F64"), moderate=True), layout=layouts, max_norm=bounds)
def test_orders_below_one_keep_the_bound_too(
    arrays: Arrays, layout: str, max_norm: float, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        _, after = dump.clipped(max_norm=max_norm, norm_type=0.5)
        assert norm_of(after, 0.5) <= max_norm * (1 + ULP[dtype_name(arrays)])


@files
@given(arrays=gradients(("F32", "F64"), moderate=True), layout=layouts, max_norm=bounds)
def test_without_an_epsilon_what_exceeds_the_bound_lands_on_it(
    arrays: Arrays, layout: str, max_norm: float, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        before = norm_of(dump.load(dump.path))
        _, after = dump.clipped(max_norm=max_norm, eps=0)
        tolerance = ULP[dtype_name(arrays)]
        assert close(norm_of(after), min(before, max_norm), tolerance)


@pytest.mark.parametrize("eps", [EPS, 0.0])
@files
@given(arrays=gradients(), layout=layouts, max_norm=bounds, p=st.sampled_from(ORDERS))
def test_clipping_again_changes_nothing_but_by_epsilon_and_rounding(
    eps: float, arrays: Arrays, layout: str, max_norm: float, p: float, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        once, again = dump.beside(), dump.beside()
        gradtool.clip(dump.path, once, max_norm=max_norm, norm_type=p, eps=eps)
        gradtool.clip(once, again, max_norm=max_norm, norm_type=p, eps=eps)
        first, second = values(dump.load(once)), values(dump.load(again))
        ulp = ULP[dtype_name(arrays)]
        shrinks = eps / (max_norm + eps) + 4 * ulp
        tiny = float(np.finfo(DTYPES[dtype_name(arrays)]).smallest_subnormal)
        if p < 1:  # roundings of small elements weigh more there than those of large ones
            shrinks += 4 * ulp * len(first) + 1e-2 * (dtype_name(arrays) == "F16")
        for x, y in zip(first, second, strict=True):
            assert abs(y) <= abs(x)
            assert abs(x - y) <= shrinks * abs(x) + tiny


@files
@given(arrays=gradients(), layout=layouts, p=st.sampled_from(ORDERS))
def test_a_bound_of_zero_leaves_zeros(arrays: Arrays, layout: str, p: float, scratch: Path) -> None:
    with Dump(scratch, layout, arrays) as dump:
        outcome, after = dump.clipped(max_norm=0, norm_type=p)
        assert (outcome.clip_coef, outcome.norm_after) == (0.0, 0.0)
        assert not any(values(after))


@files
@given(arrays=gradients(), layout=layouts, total_norm=st.sampled_from([0.5, 2.0, 1e6]), eps=bounds)
def test_a_norm_from_elsewhere_replaces_the_one_measured(
    arrays: Arrays, layout: str, total_norm: float, eps: float, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        stored = dump.load(dump.path)
        outcome, after = dump.clipped(max_norm=1, total_norm=total_norm, eps=eps)
        coef = min(1.0, 1.0 / (total_norm + eps))
        assert outcome.clip_coef == coef
        assert close(outcome.norm_before, norm_of(stored))
        assert_scaled(stored, after, coef)


@files
@given(arrays=gradients(), layout=layouts, max_norm=bounds, p=st.sampled_from(ORDERS))
def test_per_tensor_each_tensor_is_clipped_as_if_it_were_alone(
    arrays: Arrays, layout: str, max_norm: float, p: float, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        stored = dump.load(dump.path)
        outcome, after = dump.clipped(max_norm=max_norm, norm_type=p, per_tensor=True)
        assert outcome.clip_coef is None
        for name, array in stored.items():
            known_as = "grads" if layout == "npy" else name
            coef = outcome.plan.transforms.get(known_as, IDENTITY).coef
            # Close, not equal: a sum's last bit may depend on what is summed beside it.
            assert close(coef, min(1.0, max_norm / (norm_of({name: array}, p) + EPS)))
            assert_scaled({name: array}, {name: after[name]}, coef)


@files
@given(
    arrays=gradients(),
    layout=layouts,
    clip_value=st.sampled_from([0.0, 0.1, 1 / 3, 1.0, 1e4]),
    loss_scale=st.sampled_from([1.0, 4.0, 0.3]),
)
def test_values_are_clamped_to_the_trainers_bound(
    arrays: Arrays, layout: str, clip_value: float, loss_scale: float, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        stored = dump.load(dump.path)
        outcome, after = dump.clipped(clip_value=clip_value, loss_scale=loss_scale)
        assert outcome.clip_coef is None
        bound = clip_value * loss_scale
        for name, array in stored.items():
            expected = np.clip(array.astype(np.float64), -bound, bound).astype(array.dtype)
            np.testing.assert_array_equal(after[name], expected)


@files
@given(
    arrays=gradients(),
    layout=layouts,
    max_norm=bounds,
    loss_scale=st.sampled_from([2.0**16, 3.0, 0.1]),
)
def test_a_loss_scale_divides_norms_and_stays_in_what_is_written(
    arrays: Arrays, layout: str, max_norm: float, loss_scale: float, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        stored = dump.load(dump.path)
        outcome, after = dump.clipped(max_norm=max_norm, loss_scale=loss_scale)
        norm = norm_of(stored) / loss_scale
        assert close(outcome.norm_before, norm)
        assert outcome.clip_coef is not None
        assert close(outcome.clip_coef, min(1.0, max_norm / (norm + EPS)))
        assert_scaled(stored, after, outcome.clip_coef)
        assert outcome.norm_after is not None
        assert close(outcome.norm_after, norm_of(after) / loss_scale)


@pytest.mark.parametrize("mode", ["zero", "keep"])
@files
@given(arrays=gradients(), layout=layouts, max_norm=bounds, seed=st.integers(0, 99))
def test_nonfinite_elements_are_zeroed_or_kept_and_the_rest_clipped_by_its_own_norm(
    mode: NonFinite, arrays: Arrays, layout: str, max_norm: float, seed: int, scratch: Path
) -> None:
    rng = np.random.default_rng(seed)
    for array in arrays.values():
        spoilt = rng.random(array.shape) < 0.2
        array[spoilt] = rng.choice([math.nan, math.inf, -math.inf], spoilt.sum())
    with Dump(scratch, layout, arrays) as dump:
        stored = dump.load(dump.path)
        bad = sum(not math.isfinite(value) for value in values(stored))
        outcome, after = dump.clipped(max_norm=max_norm, nonfinite=mode)
        norm = exact_norm(filter(math.isfinite, values(stored)), 2.0)
        assert outcome.clip_coef is not None
        assert close(outcome.clip_coef, min(1.0, max_norm / (norm + EPS)))
        assert outcome.nonfinite_replaced == (bad if mode == "zero" else 0)
        if mode == "zero":
            finite = {k: np.where(np.isfinite(v), v, 0).astype(v.dtype) for k, v in stored.items()}
            assert_scaled(finite, after, outcome.clip_coef)
        else:
            assert_scaled(stored, after, outcome.clip_coef)


@files
@given(arrays=gradients(), layout=layouts)
def test_nonfinite_elements_are_refused_by_name_unless_something_is_said(
    arrays: Arrays, layout: str, scratch: Path
) -> None:
    name = next(name for name, array in arrays.items() if array.size)
    arrays[name].reshape(-1)[-1] = math.nan
    with Dump(scratch, layout, arrays) as dump:
        out = dump.beside()
        with pytest.raises(gradtool.NonFiniteError) as caught:
            gradtool.clip(dump.path, out, max_norm=math.inf)
        assert caught.value.tensors == (("grads",) if layout == "npy" else (name,))
        assert not out.exists()


@files
@given(arrays=gradients(), layout=layouts, max_norm=bounds)
def test_a_dry_run_says_the_same_and_writes_nothing(
    arrays: Arrays, layout: str, max_norm: float, scratch: Path
) -> None:
    with Dump(scratch, layout, arrays) as dump:
        there = contents(dump.path.parent) if layout != "sharded" else contents(dump.path)
        said = gradtool.clip(dump.path, max_norm=max_norm, dry_run=True)
        assert (said.written, said.norm_after, said.output) == (False, None, None)
        assert there == (contents(dump.path.parent if layout != "sharded" else dump.path))
        done, _ = dump.clipped(max_norm=max_norm)
        assert said.plan == done.plan


@pytest.mark.parametrize("layout", ["safetensors", "torch", "npz", "deflated"])
def test_any_number_of_threads_gives_the_same_bytes(layout: str, scratch: Path) -> None:
    rng = np.random.default_rng(3)
    # Longer than a task or, where one thread deflates them all, longer than a block.
    big, small = (600_000, 300) if layout == "deflated" else (2_500_000, 2500)
    arrays = {
        "a": rng.standard_normal(big, dtype=np.float32),
        "b": rng.standard_normal((1000, 333)),
        "c": rng.standard_normal(big).astype(np.float16),
        **{f"small.{i}": rng.standard_normal(9, dtype=np.float32) for i in range(small)},
    }
    with Dump(scratch, layout, arrays) as dump:
        outs = [dump.beside() for _ in range(3)]
        for threads, out in zip((1, 4, 3), outs, strict=True):
            gradtool.clip(dump.path, out, max_norm=1, threads=threads)
        assert outs[0].read_bytes() == outs[1].read_bytes() == outs[2].read_bytes()
        after = dump.load(outs[0])
        coef = gradtool.clip(dump.path, max_norm=1, dry_run=True).clip_coef
        assert coef is not None
        assert_scaled(arrays, after, coef)


def test_a_measurement_knows_its_coefficient_where_a_norm_can_be_scaled() -> None:
    tree = {"a": np.array([3.0, -4.0]), "b": np.array([12.0])}
    for p in (0.5, 1.0, 2.0, 64.0, math.inf):
        found = gradtool.measure(tree, norm_type=p)
        total = exact_norm([3.0, -4.0, 12.0], p)
        coef = found.clip_coef(1.5, eps=0.0)
        assert coef is not None
        assert close(coef, 1.5 / total)
        assert found.clip_coef(math.nextafter(total, math.inf) * 2) == 1.0
    for p in (0.0, -0.0, -0.5, -1.0, -math.inf):
        found = gradtool.measure(tree, norm_type=p)
        for max_norm in (0.0, 1.5, math.inf):
            with pytest.raises(gradtool.UsageError, match=f"of order {p + 0.0:g}"):
                found.clip_coef(max_norm)
