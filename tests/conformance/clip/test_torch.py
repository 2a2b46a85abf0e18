"""Clipped torch files: what torch loads, and the very bytes that torch would have saved."""

from __future__ import annotations

import math
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dumps import transformed
from numpy.lib.stride_tricks import as_strided
from oracle import close

import gradtool
from gradtool.engine.backend import TASK_BYTES

DTYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.complex128: "C128",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}


def filled(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
    if dtype.is_complex:
        tensor = torch.complex(tensor, tensor.flip(0))
    return tensor.to(dtype)


def tensors_in(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from tensors_in(item)
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from tensors_in(item)


def scale_in_place(tree: Any, coef: float = 1.0, bound: float = math.inf) -> None:
    """Change every element that a tensor of `tree` names, each of them once."""
    done: dict[int, np.ndarray[Any, Any]] = {}
    for tensor in tensors_in(tree):
        if tensor.dtype not in DTYPES or not tensor.numel():
            continue
        storage = tensor.untyped_storage()
        raw = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()  # type: ignore[call-overload]
        size = tensor.element_size()
        pending = done.setdefault(storage.data_ptr(), np.ones(len(raw) // size, bool))
        strides = tensor.stride()
        named = np.zeros_like(pending)
        as_strided(named[tensor.storage_offset() :], tensor.shape, strides)[...] = True
        chosen = named & pending
        pending &= ~named
        rows = raw.reshape(-1, size)
        parts = size // 2 if tensor.dtype.is_complex else size
        codes = rows[chosen].reshape(-1).view(f"u{parts}")
        after = transformed(codes, DTYPES[tensor.dtype], coef, bound)
        rows[chosen] = after.view(np.uint8).reshape(-1, size)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    def raw(tensor: torch.Tensor) -> bytes:
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    same = (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
    return same and raw(one) == raw(other)


def true_norm(tensors: list[torch.Tensor]) -> float:
    """Of tensors that share nothing, by Python's own sums."""
    squares = []
    for tensor in tensors:
        plain = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
        parts = torch.view_as_real(plain) if plain.is_complex() else plain
        squares += [x * x for x in parts.reshape(-1).tolist()]
    return math.sqrt(math.fsum(squares))


def check_clipped(
    tmp_path: Path,
    make: Callable[[], Any],
    *,
    save: Callable[[Any, Path], None] = torch.save,  # type: ignore[assignment]
    **options: Any,
) -> gradtool.ClipOutcome:
    """Clip what `make` makes: torch must load it, and would have saved the same bytes."""
    paths = [tmp_path / name / "grads.pt" for name in ("before", "after", "expected")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
    before, after, expected = paths
    save(make(), before)
    outcome = gradtool.clip(before, after, **({"max_norm": 0.37} | options))
    scaled = make()
    scale_in_place(scaled, 1.0 if outcome.clip_coef is None else outcome.clip_coef)
    save(scaled, expected)
    loaded = list(tensors_in(torch.load(after, weights_only=False)))
    wanted = list(tensors_in(scaled))
    assert len(loaded) == len(wanted)
    assert all(same_bits(*pair) for pair in zip(loaded, wanted, strict=True))
    with zipfile.ZipFile(after) as archive:
        assert archive.testzip() is None
    assert after.read_bytes() == expected.read_bytes()
    assert before.read_bytes() != after.read_bytes()
    return outcome


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_is_as_torch_would_have_saved_it_scaled(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    def make() -> dict[str, torch.Tensor]:
        return {"w": filled(dtype, 40, 30), "b": filled(dtype, 30, seed=1)}

    outcome = check_clipped(tmp_path, make)
    norm = true_norm(list(make().values()))
    assert close(outcome.norm_before, norm)
    assert outcome.clip_coef is not None
    assert close(outcome.clip_coef, 0.37 / (norm + 1e-6))
    written = torch.load(tmp_path / "after" / "grads.pt")
    assert outcome.norm_after is not None
    assert close(outcome.norm_after, true_norm(list(written.values())))


def test_half_complex_is_scaled_too(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls complex32 experimental
        halves = filled(torch.float16, 8, 2)
        source = torch.view_as_complex(halves.clone())
        torch.save({"w": source}, tmp_path / "in.pt")
        outcome = gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", max_norm=0.1)
        assert outcome.clip_coef is not None
        found = torch.view_as_real(torch.load(tmp_path / "out.pt")["w"])
    codes = halves.numpy().reshape(-1).view(np.uint16)
    expected = transformed(codes, "F16", outcome.clip_coef)
    assert found.numpy().reshape(-1).view(np.uint16).tolist() == expected.tolist()


def test_several_types_in_one_file_are_scaled_by_one_coefficient(tmp_path: Path) -> None:
    def make() -> dict[str, Any]:
        found: dict[str, Any] = {str(d): filled(d, 17, seed=i) for i, d in enumerate(DTYPES)}
        return found | {"step": torch.arange(5), "mask": torch.ones(3, dtype=torch.bool)}

    outcome = check_clipped(tmp_path, make)
    assert outcome.tensors_changed == len(DTYPES)


def views() -> dict[str, dict[str, torch.Tensor]]:
    base = filled(torch.float32, 12, 10)
    flat = base.reshape(-1)
    return {
        "transposed": {"w": base.T},
        "sliced": {"w": base[3:7]},
        "gapped": {"w": base[:, ::3]},
        "one column": {"w": base[:, 4]},
        "expanded": {"w": base[:1].expand(6, 10)},
        "windows": {"w": flat.unfold(0, 4, 2)},
        "scalar": {"w": base[2, 3]},
        "tied": {"a": base, "b": base},
        "tied and turned": {"a": base, "b": base.T, "c": flat},
        "fsdp group": {"a": flat[:48].view(6, 8), "b": flat[48:101], "c": flat[101:119]},
        "overlapping slices": {"a": flat[:70], "b": flat[50:], "c": flat[60:65]},
        "columns": {f"c{i}": base[:, i] for i in range(10)},
        "some columns": {f"c{i}": base[:, i] for i in (1, 4, 5)},
        "whole and part": {"part": base[2:4, ::2], "whole": base},
        "empty": {"e": torch.empty(0, 3), "w": base},
        "tied and expanded": {"a": flat[:1], "b": flat[:1].expand(5)},
        "named backwards": {"late": flat[70:], "early": flat[:70]},
        "overlapping slices before a lone one": {"a": flat[:40], "b": flat[20:60], "c": flat[60:]},
        "gapped before a whole": {"gapped": flat[:61:2], "whole": flat[61:]},
        "gapped after a whole": {"whole": flat[:60], "gapped": flat[60::2]},
    }


@pytest.mark.parametrize("name", views())
def test_each_stored_element_that_is_named_is_scaled_once_and_no_other(
    name: str, tmp_path: Path
) -> None:
    check_clipped(tmp_path, lambda: views()[name])


def test_views_longer_than_a_task_are_scaled_once(tmp_path: Path) -> None:
    count = 3 * TASK_BYTES // 4 + 12345

    def make() -> dict[str, torch.Tensor]:
        flat = filled(torch.float32, count)
        half = count // 2
        return {"front": flat[: half + 1000], "back": flat[half:], "odd": flat[1::2]}

    check_clipped(tmp_path, make, max_norm=3.0)


def test_what_lies_in_the_gaps_of_a_view_longer_than_a_task_stays_as_it_is(tmp_path: Path) -> None:
    count = TASK_BYTES // 4 + 12345
    check_clipped(tmp_path, lambda: {"even": filled(torch.float32, count)[::2]})


def test_storages_of_several_tasks_are_scaled(tmp_path: Path) -> None:
    def make() -> dict[str, torch.Tensor]:
        return {
            "a": filled(torch.float64, TASK_BYTES // 4 + 501),
            "b": filled(torch.float32, TASK_BYTES // 4 + 77, seed=1),
            "c": filled(torch.bfloat16, 100_001, seed=2),
        }

    assert make()["a"].nbytes > 2 * TASK_BYTES
    check_clipped(tmp_path, make, threads=4)


def test_a_training_checkpoint_changes_in_the_chosen_section_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(5, 8)).square().sum().backward()
    optimizer.step()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "grads": grads,
        "args": {"lr": 1e-3, "betas": (0.9, 0.999)},
    }
    paths = [tmp_path / name / "ckpt.pt" for name in ("before", "after", "expected")]
    for path in paths:
        path.parent.mkdir()
    torch.save(checkpoint, paths[0])
    outcome = gradtool.clip(paths[0], paths[1], max_norm=0.5, section="grads")
    assert outcome.clip_coef is not None
    assert outcome.clip_coef < 1
    assert close(outcome.norm_before, true_norm(list(tensors_in(grads))))
    scale_in_place(grads, outcome.clip_coef)
    torch.save(checkpoint, paths[2])
    assert paths[1].read_bytes() == paths[2].read_bytes()
    globbed = gradtool.clip(paths[0], tmp_path / "ckpt.pt", max_norm=0.5, include="grads.*")
    assert globbed.clip_coef == outcome.clip_coef
    assert (tmp_path / "ckpt.pt").read_bytes() == paths[2].read_bytes()


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_arrays_inside_the_pickle_are_scaled(
    protocol: int, order: Any, tmp_path: Path
) -> None:
    def make(coef: float = 1.0) -> dict[str, Any]:
        array = np.random.default_rng(2).standard_normal((30, 4)) * coef
        return {
            "array": np.array(array, order=order),
            "big": (np.arange(1.0, 9.0) * coef).astype(">f4"),
            "tensor": (filled(torch.float32, 50).double() * coef).float(),
            "name": "run",
        }

    def save(value: Any, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        torch.save(value, path, pickle_protocol=protocol)

    before, after, expected = (tmp_path / n / "g.pt" for n in ("before", "after", "expected"))
    save(make(), before)
    after.parent.mkdir()
    outcome = gradtool.clip(before, after, max_norm=1)
    assert outcome.clip_coef is not None
    save(make(outcome.clip_coef), expected)
    loaded, wanted = torch.load(after, weights_only=False), make(outcome.clip_coef)
    for name in ("array", "big"):
        np.testing.assert_array_equal(loaded[name], wanted[name])
    assert same_bits(loaded["tensor"], wanted["tensor"])
    assert after.read_bytes() == expected.read_bytes()
    with zipfile.ZipFile(after) as archive:
        assert archive.testzip() is None


def test_text_arrays_of_old_protocols_are_refused_only_where_they_would_change(
    tmp_path: Path,
) -> None:
    path, out = tmp_path / "g.pt", tmp_path / "out.pt"
    torch.save({"text": np.array([3.0, 4.0]), "w": filled(torch.float32, 9)}, path)
    with pytest.raises(gradtool.UnsupportedFormatError, match=r"'text': is stored as text"):
        gradtool.clip(path, out, max_norm=1)
    assert not out.exists()
    gradtool.clip(path, out, max_norm=1000)
    assert out.read_bytes() == path.read_bytes()
    outcome = gradtool.clip(path, out, max_norm=1, exclude="text", force=True)
    assert outcome.clip_coef is not None
    found = torch.load(out, weights_only=False)
    assert found["text"].tolist() == [3.0, 4.0]
    wanted = {"w": filled(torch.float32, 9)}
    scale_in_place(wanted, outcome.clip_coef)
    assert same_bits(found["w"], wanted["w"])


def test_a_storage_whose_checksum_happens_to_be_zero_gets_a_new_one(tmp_path: Path) -> None:
    # A CRC-32 is linear: these four bytes after nothing have one of 0, and after others those
    # do that differ from them as the CRC-32 of the others does from 0.
    alone = int.from_bytes(bytes.fromhex("9d0ad96d"), "little")

    def make() -> dict[str, torch.Tensor]:
        for seed in range(1000):
            found = filled(torch.float32, 50, seed=seed)
            last = alone ^ zlib.crc32(found[:-1].numpy().tobytes())
            found.view(torch.int32).numpy().view(np.uint32)[-1] = last
            if 1e-3 < abs(found[-1]) < 100:
                assert zlib.crc32(found.numpy().tobytes()) == 0
                return {"a": filled(torch.float32, 9), "w": found, "z": filled(torch.float32, 3)}
        raise AssertionError("none of a thousand")

    check_clipped(tmp_path, make)


def test_an_id_of_another_length_is_none_that_could_be_renewed(tmp_path: Path) -> None:
    torch.save({"w": filled(torch.float32, 9)}, tmp_path / "saved.pt")
    path, out = tmp_path / "grads.pt", tmp_path / "out.pt"
    with zipfile.ZipFile(tmp_path / "saved.pt") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            is_id = name.endswith("serialization_id")
            new.writestr(name, b"7 bytes" if is_id else old.read(name))
    assert gradtool.clip(path, out, max_norm=0.37).plan.changed
    with zipfile.ZipFile(out) as clipped:
        (name,) = [name for name in clipped.namelist() if name.endswith("serialization_id")]
        assert clipped.read(name) == b"7 bytes"
        assert clipped.testzip() is None


def test_files_without_checksums_get_none(tmp_path: Path) -> None:
    def save(value: Any, path: Path) -> None:
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(value, path)
        finally:
            torch.serialization.set_crc32_options(True)

    def make() -> dict[str, torch.Tensor]:
        return {"w": filled(torch.float32, 100), "b": filled(torch.bfloat16, 33)}

    paths = [tmp_path / name / "grads.pt" for name in ("before", "after", "expected")]
    for path in paths:
        path.parent.mkdir()
    save(make(), paths[0])
    outcome = gradtool.clip(paths[0], paths[1], max_norm=0.37)
    assert outcome.clip_coef is not None
    wanted = make()
    scale_in_place(wanted, outcome.clip_coef)
    save(wanted, paths[2])
    assert paths[1].read_bytes() == paths[2].read_bytes()
    loaded = torch.load(paths[1])
    assert all(same_bits(loaded[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("alignment", [64, 4096])
def test_another_storage_alignment_is_kept(alignment: int, tmp_path: Path) -> None:
    from torch.utils.serialization import config  # noqa: PLC0415 - torch loads it when asked for

    with config.patch("save.storage_alignment", alignment):
        check_clipped(tmp_path, lambda: views()["overlapping slices"])


def test_a_buffer_saved_without_a_name_keeps_its_root(tmp_path: Path) -> None:
    def save(value: Any, path: Path) -> None:
        with path.open("wb") as file:
            torch.save(value, file)

    check_clipped(tmp_path, lambda: views()["fsdp group"], save=save)


def test_a_bare_tensor_keeps_the_name_that_its_file_gives_it(tmp_path: Path) -> None:
    outcome = check_clipped(tmp_path, lambda: filled(torch.float32, 20), include="grads")
    assert outcome.after is not None
    assert [tensor.name for tensor in outcome.after.tensors] == ["grads"]


def test_parameters_and_modules_are_clipped_where_they_are(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(filled(torch.float32, 6, 5))
    torch.save({"w": weight}, tmp_path / "in.pt")
    outcome = gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", max_norm=1)
    assert outcome.clip_coef is not None
    found = torch.load(tmp_path / "out.pt")["w"]
    assert isinstance(found, torch.nn.Parameter)
    wanted = [weight.detach().clone()]
    scale_in_place(wanted, outcome.clip_coef)
    assert same_bits(found.detach(), wanted[0])


def test_coalesced_sparse_gradients_are_scaled_by_their_values(tmp_path: Path) -> None:
    indices = torch.tensor([[1, 5, 7]])
    sparse = torch.sparse_coo_tensor(
        indices, filled(torch.float32, 3, 4), (9, 4), check_invariants=True
    ).coalesce()
    torch.save({"w": sparse}, tmp_path / "in.pt")
    outcome = gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", max_norm=0.5)
    assert outcome.clip_coef is not None
    found = torch.load(tmp_path / "out.pt", weights_only=False)["w"]
    wanted = [sparse.values().clone()]
    scale_in_place(wanted, outcome.clip_coef)
    assert found.is_coalesced()
    assert same_bits(found.values(), wanted[0])
    assert found.indices().tolist() == indices.tolist()


def test_conjugated_and_negated_views_are_scaled_where_they_are_stored(tmp_path: Path) -> None:
    z = filled(torch.complex64, 20)

    def make() -> dict[str, torch.Tensor]:
        base = z.clone()
        return {"conj": base.conj(), "imaginary": base.imag.clone(), "plain": base.abs()}

    torch.save(make(), tmp_path / "in.pt")
    outcome = gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", max_norm=1)
    assert outcome.clip_coef is not None
    found, wanted = torch.load(tmp_path / "out.pt"), make()
    for name, tensor in found.items():
        exact = wanted[name].to(torch.complex128) * outcome.clip_coef
        torch.testing.assert_close(
            tensor.to(torch.complex128), exact, rtol=2.0**-23, atol=0, check_stride=False
        )


def test_clamping_moves_only_what_lies_outside(tmp_path: Path) -> None:
    tensors = {"w": filled(torch.bfloat16, 100), "b": filled(torch.float32, 50) / 100}
    torch.save(tensors, tmp_path / "in.pt")
    outcome = gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", clip_value=0.5)
    assert (outcome.clip_coef, outcome.tensors_changed) == (None, 1)
    found = torch.load(tmp_path / "out.pt")
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor.clamp(-0.5, 0.5))


PLENTY = 100.0


def test_filters_change_the_chosen_tensors_alone(tmp_path: Path) -> None:
    tensors = {"a": filled(torch.float32, 9), "b": filled(torch.float32, 9, seed=1)}
    tensors["b"][3] = math.nan
    torch.save(tensors, tmp_path / "in.pt")
    outcome = gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", max_norm=0.1, exclude="b")
    assert close(outcome.norm_before, true_norm([tensors["a"]]))
    found = torch.load(tmp_path / "out.pt")
    assert same_bits(found["b"], tensors["b"])
    assert not same_bits(found["a"], tensors["a"])


@pytest.mark.parametrize("chosen", [{"exclude": "tied"}, {"include": "first"}])
def test_leaving_out_one_name_of_tied_tensors_is_refused(
    chosen: dict[str, str], tmp_path: Path
) -> None:
    weight = filled(torch.float32, 9)
    torch.save({"first": weight, "tied": weight}, tmp_path / "in.pt")
    with pytest.raises(gradtool.UsageError) as caught:
        gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", max_norm=0.1, **chosen)
    assert "'first'" in str(caught.value)
    assert "'tied'" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pt"]
    # Nothing would change, so that there is nothing to refuse.
    gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", max_norm=PLENTY, **chosen)


def test_overlapping_views_with_two_coefficients_are_refused(tmp_path: Path) -> None:
    flat = filled(torch.float32, 100)
    torch.save({"front": flat[:60], "back": flat[59:]}, tmp_path / "in.pt")
    with pytest.raises(gradtool.UsageError) as caught:
        gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", max_norm=0.1, per_tensor=True)
    assert "'front'" in str(caught.value)
    assert "'back'" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pt"]


def test_interleaved_columns_share_nothing_and_have_their_own_coefficients(tmp_path: Path) -> None:
    base = filled(torch.float64, 20, 3)
    torch.save({f"c{i}": base[:, i] for i in range(3)}, tmp_path / "in.pt")
    outcome = gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", max_norm=0.1, per_tensor=True)
    assert outcome.tensors_changed == 3
    found = torch.load(tmp_path / "out.pt")
    for i in range(3):
        column = base[:, i]
        coef = 0.1 / (true_norm([column]) + 1e-6)
        torch.testing.assert_close(found[f"c{i}"], column * coef, rtol=1e-12, atol=0)
    excluded = gradtool.clip(tmp_path / "in.pt", tmp_path / "o2.pt", max_norm=0.1, exclude="c1")
    assert excluded.tensors_changed == 2
    assert same_bits(torch.load(tmp_path / "o2.pt")["c1"], base[:, 1])


def test_many_columns_with_their_own_coefficients_take_bounded_memory(tmp_path: Path) -> None:
    base = filled(torch.float32, 2000, 500)
    torch.save({f"c{i}": base[:, i] for i in range(500)}, tmp_path / "in.pt")
    tracemalloc.start()
    try:
        gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", max_norm=1, per_tensor=True, eps=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 120 << 20
    found = torch.load(tmp_path / "out.pt")
    for name in ("c0", "c250", "c499"):
        assert close(true_norm([found[name]]), 1.0, 2.0**-23)


def test_a_slice_of_zeros_is_no_reason_to_refuse_the_whole(tmp_path: Path) -> None:
    def make() -> dict[str, torch.Tensor]:
        flat = filled(torch.float32, 20)
        flat[:5] = 0
        return {"whole": flat, "zeros": flat[:5]}

    check_clipped(tmp_path, make)


@pytest.mark.parametrize("mode", ["zero", "keep"])
def test_a_slice_without_nan_is_no_reason_to_refuse_the_whole(mode: Any, tmp_path: Path) -> None:
    flat = filled(torch.float32, 20)
    flat[17] = math.nan
    torch.save({"whole": flat, "finite": flat[:5]}, tmp_path / "in.pt")
    out = tmp_path / "out.pt"
    outcome = gradtool.clip(tmp_path / "in.pt", out, max_norm=0.1, nonfinite=mode)
    assert outcome.clip_coef is not None
    wanted = [flat.clone()]
    scale_in_place(wanted, outcome.clip_coef)
    if mode == "zero":
        wanted[0][17] = 0
    assert same_bits(torch.load(out)["whole"], wanted[0])


def test_a_slice_within_the_bound_is_no_reason_to_refuse_the_whole(tmp_path: Path) -> None:
    flat = torch.arange(8.0)
    torch.save({"whole": flat, "small": flat[:3]}, tmp_path / "in.pt")
    gradtool.clip(tmp_path / "in.pt", tmp_path / "out.pt", clip_value=3.0)
    assert torch.load(tmp_path / "out.pt")["whole"].tolist() == [0, 1, 2, 3, 3, 3, 3, 3]
