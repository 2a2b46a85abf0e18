"""Plain pickles of arrays, and `.npy` files of objects: all that a loader gets of them."""

from __future__ import annotations

import math
import os
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from oracle import close

import gradtool
from gradtool.formats import open_checkpoint

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
RNG = np.random.default_rng(8)
CRAFTED = {
    "w": RNG.standard_normal((150, 140)).astype(np.float32),  # more bytes than go into a frame
    "fortran": np.asfortranarray(RNG.standard_normal((5, 7))),
    "big": RNG.standard_normal(9).astype(">f4"),
    "half": RNG.standard_normal(6).astype(np.float16),
    "brain": RNG.standard_normal(6).astype(ml_dtypes.bfloat16),
    "wave": RNG.standard_normal(3) + 1j * RNG.standard_normal(3),
    "blocks": [np.ones(3, np.float32), (np.full((2, 2), 2.0), {"deep": np.array(3.0)})],
    "odd": np.array([np.arange(2.0), None, "text", {"in": np.ones(2)}], object),
    "ordered": OrderedDict(b=np.ones(1), a=np.full(1, 5.0)),
    "bad": np.array([[1.0, math.nan], [math.inf, -math.inf]], np.float32),
    "view": np.arange(24.0).reshape(4, 6)[::2, 1:4],
    "empty": np.zeros((0, 3)),
    "step": np.int64(7), "rate": 0.1, "none": None, "ids": np.arange(4),
    "fields": np.zeros(2, [("a", "<f4"), ("b", "<i4")]), "names": np.array(["a", "b"]),
}  # fmt: skip


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays of numbers with a fraction in plain containers, by dotted names."""
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    elif isinstance(value, np.ndarray) and value.dtype == object:
        parts = enumerate(value.ravel())
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fcV" and not value.dtype.names:
        yield name, value
    for key, part in parts:
        yield from leaves(part, f"{name}.{key}" if name else str(key))


def norm(array: Any) -> float:
    wide = np.asarray(array).astype(np.complex128).ravel().tolist()
    squares = (part * part for z in wide for part in (z.real, z.imag))
    return math.sqrt(math.fsum(square for square in squares if math.isfinite(square)))


def saved(path: Path, value: Any, protocol: int) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def loaded(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301 - of our own


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_array_is_measured_under_the_keys_that_lead_to_it(
    protocol: int, tmp_path: Path
) -> None:
    path = saved(tmp_path / "dump.pkl", CRAFTED, protocol)
    found = gradtool.measure(path)
    exact = dict(leaves(CRAFTED))
    assert [t.name for t in found.tensors] == [*exact]
    for tensor in found.tensors:
        assert close(tensor.stats.finite_norm, norm(exact[tensor.name]))
        assert tensor.spec.shape == exact[tensor.name].shape
    bad = next(t for t in found.tensors if t.name == "bad")
    assert (bad.stats.nan, bad.stats.posinf, bad.stats.neginf) == (1, 1, 1)
    assert bad.first_nonfinite == (0, 1)
    skipped = {item.name: item.reason for item in found.skipped}
    assert skipped == {
        "step": "NumPy scalar",
        "ids": "integer",
        "fields": "NumPy type that holds no gradients",
        "names": "text or dates",
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_before_2_is_read_as_numpy_since(protocol: int, tmp_path: Path) -> None:
    """Its modules have other names; the lengths of texts, and of the frame, are the names'."""
    content = pickle.dumps({"w": np.arange(5.0)}, protocol)
    older = content.replace(b"cnumpy._core", b"cnumpy.core")
    for module in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        text = bytes((0x8C, len(module))) + module
        shorter = module.replace(b"_", b"")
        if text in older:
            older = older.replace(text, bytes((0x8C, len(shorter))) + shorter)
            older = older[:3] + struct.pack("<Q", len(older) - 11) + older[11:]
    assert older != content
    (tmp_path / "dump.pkl").write_bytes(older)
    (found,) = gradtool.measure(tmp_path / "dump.pkl").tensors
    assert found.norm == math.sqrt(30)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_clipped_is_scaled_when_it_is_loaded(protocol: int, tmp_path: Path) -> None:
    tree = {**CRAFTED, "again": CRAFTED["w"]}
    del tree["fields"]
    path = saved(tmp_path / "dump.pkl", tree, protocol)
    out = tmp_path / "out.pkl"
    if protocol == 2:  # as text
        with pytest.raises(gradtool.UnsupportedFormatError, match="or with pickle protocol 3"):
            gradtool.clip(path, out, max_norm=0.5, exclude="bad")
        assert not out.exists()
        return
    coef = gradtool.clip(path, out, max_norm=0.5, exclude="bad").clip_coef
    assert coef is not None
    before, after = dict(leaves(loaded(path))), dict(leaves(loaded(out)))
    assert before.keys() == after.keys()
    for name, array in before.items():
        factor = 1.0 if name == "bad" else coef
        wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
        wanted = wide if name == "bad" else wide * factor
        assert after[name].dtype == array.dtype
        assert after[name].tobytes() == wanted.astype(array.dtype).tobytes()
    tree = loaded(out)
    assert tree["again"] is tree["w"]
    assert tree["rate"] == 0.1


def test_an_array_without_a_name_is_called_as_its_file(tmp_path: Path) -> None:
    for protocol in PROTOCOLS:
        path = saved(tmp_path / f"w{protocol}.pkl", np.array([3.0, 4.0]), protocol)
        (found,) = gradtool.measure(path).tensors
        assert (found.name, found.norm) == (f"w{protocol}", 5.0)


def test_arrays_of_objects_are_read_behind_their_header(tmp_path: Path) -> None:
    several = np.array([np.array([3.0, 4.0]), np.ones(3)], object)
    np.save(tmp_path / "several.npy", several, allow_pickle=True)
    found = gradtool.measure(tmp_path / "several.npy")
    assert [(t.name, t.norm) for t in found.tensors] == [("0", 5.0), ("1", math.sqrt(3))]
    np.save(tmp_path / "dict.npy", {"grads": {"w": np.array([3.0, 4.0])}}, allow_pickle=True)
    coef = gradtool.clip(tmp_path / "dict.npy", tmp_path / "out.npy", max_norm=1, eps=0).clip_coef
    assert coef == 0.2
    tree = np.load(tmp_path / "out.npy", allow_pickle=True).item()
    assert tree["grads"]["w"].tolist() == [3.0 * 0.2, 4.0 * 0.2]


def test_two_dumps_are_compared_in_whatever_protocol(tmp_path: Path) -> None:
    tree = {name: value for name, value in CRAFTED.items() if name != "fields"}
    paths = [saved(tmp_path / f"{protocol}.pkl", tree, protocol) for protocol in PROTOCOLS]
    for path in paths[1:]:
        assert gradtool.diff(paths[0], path).same
    ids = saved(tmp_path / "ids.pkl", {**tree, "ids": np.arange(4) + 1}, 4)
    assert not gradtool.diff(paths[2], ids).same


def test_large_arrays_stay_in_the_file(tmp_path: Path) -> None:
    tree = {f"h.{n}.w": np.ones(1 << 22, np.float32) for n in range(5)}
    path = saved(tmp_path / "dump.pkl", tree, 4)
    tracemalloc.start()
    checkpoint = open_checkpoint(str(path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 << 20
    content = path.read_bytes()
    for spec in checkpoint.tensors:
        (extent,) = spec.extents
        assert content[extent.offset : extent.end] == tree[spec.name].tobytes()


def test_nothing_that_is_named_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/ran",)

    path = saved(tmp_path / "dump.pkl", {"w": np.array([3.0, 4.0]), "evil": Evil()}, 4)
    assert gradtool.measure(path).tensors[0].norm == 5.0
    assert not (tmp_path / "ran").exists()


def _joblib(array: Any) -> bytes:
    """As joblib 1.6 writes it: the array's bytes lie between the opcodes, aligned."""
    return bytes.fromhex(
        "800495d7000000000000007d948c0177948c136a6f626c69622e6e756d70795f7069636b6c65948c114e756d"
        "70794172726179577261707065729493942981947d94288c08737562636c617373948c056e756d7079948c07"
        "6e6461727261799493948c057368617065944b0285948c056f72646572948c0143948c056474797065946808"
        "8c0564747970659493948c02663494898887945294284b038c013c944e4e4e4affffffff4affffffff4b0074"
        "94628c0a616c6c6f775f6d6d617094888c1b6e756d70795f61727261795f616c69676e6d656e745f62797465"
        "73944b1075620dffffffffffffffffffffffffff"
    ) + array.tobytes() + b"s."  # fmt: skip


def _two_pickles() -> bytes:
    return pickle.dumps({"w": np.ones(2)}) * 2


def _of_torch() -> bytes:
    return pickle.dumps({"w": torch.ones(3)})


def _promising(nbytes: int) -> bytes:
    """An array whose bytes object claims to be larger than it is."""
    content = pickle.dumps({"w": np.ones(20_000)}, 4)
    return content.replace(b"B" + struct.pack("<I", 160_000), b"B" + struct.pack("<I", nbytes))


REFUSED = {
    "joblib": (_joblib(np.ones(2, np.float32)), "is a file of joblib"),
    "joblib, large": (_joblib(np.full(9000, 7.0, np.float32)), "is a file of joblib"),
    "two pickles": (_two_pickles(), "bytes follow the pickle"),
    "tensors of torch": (_of_torch(), "save it with torch.save"),
    "too few bytes": (_promising(159_992), ""),
    "beyond the file": (_promising(200_000_000), "promises 200000000 bytes: truncated"),
    "protocol 6": (b"\x80\x06N.", "is in no format"),
    "an array without bytes": (
        pickle.dumps({"w": np.ones(2)}, 4).replace(b"C\x10", b"K\x10N."), "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_pickle_of_arrays_is_named_as_what_it_is(case: str, tmp_path: Path) -> None:
    content, words = REFUSED[case]
    path = tmp_path / "dump.pkl"
    path.write_bytes(content)
    with pytest.raises(gradtool.InputError) as caught:
        gradtool.measure(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_in_a_directory_those_count_that_are_called_like_tensors(tmp_path: Path) -> None:
    np.save(tmp_path / "grads.npy", np.array([3.0, 4.0]))
    saved(tmp_path / "scaler.pkl", {"mean_": np.ones(4)}, 4)
    saved(tmp_path / "vocab.pkl", {"the": 1}, 4)
    (tmp_path / "junk.pkl").write_bytes(b"\x80\x04not a pickle")
    found = gradtool.measure(tmp_path)
    assert [t.name for t in found.tensors] == ["grads"]
    run = tmp_path / "run"
    run.mkdir()
    for step in (1, 2):
        saved(run / f"grads_step_{step}.pkl", {"w": np.full(4, float(step))}, 4)
    verdicts = gradtool.check(run).verdicts
    assert len(verdicts) == 2
