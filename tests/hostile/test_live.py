"""What is no gradient, no number or no place to write to: a clear error, and nothing changed."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from numpy.typing import NDArray
from torch import nn

import gradtool
from gradtool.errors import (
    EmptyDumpError,
    FileAccessError,
    UnsupportedFormatError,
    UsageError,
)
from gradtool.numpy import clip_grad_norm
from gradtool.torch import dump_gradients

Array = NDArray[Any]


def good() -> Array:
    return np.array([3.0, -4.0, 0.0], np.float32)


def cycle() -> dict[str, Any]:
    tree: dict[str, Any] = {"good": good()}
    tree["inner"] = [tree]
    return tree


def expected(kind: type[BaseException], words: str) -> Any:
    """Exactly that error, opening with these words."""

    def opens(error: BaseException) -> bool:
        return type(error) is kind and str(error).startswith(words)

    return pytest.raises(kind, check=opens)


NOT_KNOWN = "memory: 'a': gradtool does not know the type"
NO_DTYPE = "{!r} object has no attribute 'dtype'"
# What each leaf is to measure(), and to clip_grad_norm(), there in MLX's words where it has some.
LEAVES: dict[str, tuple[Any, type[Exception], str, type[Exception], str]] = {
    name: (leaf, ours, our_words, theirs, their_words or NO_DTYPE.format(type(leaf).__name__))
    for name, (leaf, ours, our_words, theirs, their_words) in {
        "text": ("x", UsageError, "'a' is no array of numbers: str", AttributeError, ""),
        "object": (object(), UsageError, "'a' is no array of", AttributeError, ""),
        "number": (3.0, UsageError, "'a' is no array of numbers: float", AttributeError, ""),
        "set": ({1.0}, UsageError, "'a' is no array of numbers: set", AttributeError, ""),
        "ragged": (
            [[1.0], [2.0, 3.0]], UsageError, "'a.0.0' is no array of", AttributeError,
            NO_DTYPE.format("float"),
        ),
        "objects": (
            np.array([1, None]), UsageError, "'a' is no array of numbers: ndarray", TypeError,
            "'a' is an array of objects",
        ),
        "fields": (
            np.zeros(2, [("x", "f4")]), UnsupportedFormatError, NOT_KNOWN, TypeError,
            "'a' is an array of void32",
        ),
        "no fields": (
            np.zeros(2, np.dtype([])), UnsupportedFormatError, NOT_KNOWN, TypeError, "'a' is an",
        ),
        "long double": (
            np.zeros(2, np.longdouble), UnsupportedFormatError, NOT_KNOWN, TypeError, "'a' is an",
        ),
        "windows": (
            sliding_window_view(np.ones(3000, "f4"), 1000), UnsupportedFormatError,
            "memory: 'a': repeats 3000 stored elements to make 2001000", UnsupportedFormatError,
            "memory: 'a': repeats 3000",
        ),
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("case", LEAVES)
def test_a_leaf_that_is_no_gradient_is_named_and_nothing_changes(case: str) -> None:
    leaf, ours, our_words, theirs, their_words = LEAVES[case]
    array = good()
    with expected(ours, our_words):
        gradtool.measure({"good": array, "a": leaf})
    with expected(theirs, their_words):
        clip_grad_norm({"good": array, "a": leaf}, 1.0)
    assert array.tobytes() == good().tobytes()


@pytest.mark.parametrize("leaf", ["x", None, 3, object()], ids=["str", "None", "int", "object"])
def test_what_mlx_refuses_is_refused_in_its_words(leaf: Any) -> None:
    optimizers = pytest.importorskip("mlx.optimizers", reason="MLX has no wheel for every platform")
    mx = pytest.importorskip("mlx.core")
    for tree, bound in (({"a": leaf}, 1.0), ({"a": mx.ones(3)}, -1.0)):
        with pytest.raises((AttributeError, ValueError)) as theirs:
            optimizers.clip_grad_norm(tree, bound)
        with expected(theirs.type, str(theirs.value)):
            clip_grad_norm(tree, bound)


@pytest.mark.parametrize("array", [np.arange(4), np.array([True, False]), np.arange(3, dtype="u1")])
def test_numbers_that_are_no_gradients_are_listed_and_not_measured(array: Array) -> None:
    found = gradtool.measure({"good": good(), "a": array, "t": np.array(["text"])})
    assert [tensor.name for tensor in found.tensors] == ["good"]
    reason = "bool" if array.dtype == bool else "integer"
    assert [(s.name, s.reason) for s in found.skipped] == [("a", reason), ("t", "text or dates")]
    assert found.total is not None and not found.total.lower_bound


def test_what_is_no_array_of_numbers_is_not_clipped() -> None:
    with expected(TypeError, "'a' is an array of str32, which is no gradient"):
        clip_grad_norm({"a": np.array(["x"])}, 1.0)


TREES: dict[str, tuple[Any, type[Exception], str]] = {
    "cycle": (cycle(), UsageError, "the tree nests too deeply, or holds itself"),
    "dotted twice": ({"a.b": good(), "a": {"b": good()}}, UsageError, "two tensors come by the"),
    "1 and text": ({1: good(), "1": good()}, UsageError, "two tensors come by the name '1'"),
    "indices twice": (
        {"e": torch.eye(2).to_sparse(), "e.indices": good()}, UsageError, "two tensors come by",
    ),
    "nothing": ({}, EmptyDumpError, "memory: holds no tensor at all"),
    "None alone": ([None, {"a": None}], EmptyDumpError, "memory: holds no tensor at all"),
    "integers alone": ([np.arange(2)], EmptyDumpError, "memory: holds no gradient: every tensor"),
    "no pair": ((item for item in [3]), UsageError, "expected pairs of name and parameter"),
    "three": (iter([("a", good(), 1)]), UsageError, "expected pairs of name and parameter"),
    "name of bytes": (iter([(b"a", good())]), UsageError, "expected pairs of name and parameter"),
    "pair, then none": ([("a", good()), None], UsageError, "expected pairs of name and parameter"),
    "a name twice": (iter([("a", good())] * 2), UsageError, "two tensors come by the name 'a'"),
    "a parameter of text": (iter([("a", "b")]), UsageError, "'a' is no array of numbers: str"),
}  # fmt: skip


@pytest.mark.parametrize("case", TREES)
def test_a_tree_that_is_none_is_one_clear_error(case: str) -> None:
    tree, kind, words = TREES[case]
    with expected(kind, words):
        gradtool.measure(tree)


def layouts() -> dict[str, Array]:
    """Arrays of few bytes, which end where memory is not to be read."""
    raw = np.arange(40, dtype=np.uint8)
    record = np.zeros(3, [("flag", "i1"), ("value", "f8")])
    record["value"] = 3.0, math.inf, 4.0
    read_only = good()
    read_only.flags.writeable = False
    return {
        "reversed": good()[::-1],
        "reversed columns": np.arange(12.0).reshape(3, 4)[:, ::-2],
        "unaligned": np.ndarray((4,), np.float64, raw.data, offset=3),
        "field": record["value"],
        "read-only": read_only,
        "expanded": np.broadcast_to(np.float32(2.0), (3, 5)),
        "one far row": as_strided(good(), (1, 3), (1 << 40, 4)),
        "no rows": as_strided(good(), (0, 3), (1 << 40, 1 << 33)),
        "no columns": as_strided(good(), (1 << 33, 0), (1 << 33, 1 << 40)),
        "overlapping": sliding_window_view(np.arange(9.0), 4),
        "number": np.float32(7.0),
    }


@pytest.mark.parametrize("name", layouts())
def test_arrays_laid_out_anyhow_are_their_elements_and_stay(name: str) -> None:
    array = layouts()[name]
    before = array.tobytes()
    plain = np.array(array, order="C")
    (found,), (expects,) = (gradtool.measure(a).tensors for a in (array, plain))
    assert (found.stats.numel, found.norm, found.stats.zeros, found.first_nonfinite) == (
        expects.stats.numel, pytest.approx(expects.norm), expects.stats.zeros,
        expects.first_nonfinite,
    )  # fmt: skip
    clipped, _ = clip_grad_norm([array], 0.5)
    assert clipped[0].shape == array.shape
    assert array.tobytes() == before


def test_a_gradient_named_more_often_than_memory_has_bytes_is_measured() -> None:
    (found,) = gradtool.measure(np.broadcast_to(np.float32(2.0), (1 << 40,))).tensors
    assert (found.stats.numel, found.norm) == (1 << 40, 2.0 * 2.0**20)
    assert found.unique is not None
    assert found.unique.numel == 1


def test_any_dict_is_given_back_as_it_was() -> None:
    tree: defaultdict[str, Any] = defaultdict(list, {"a": good()})
    clipped, norm = clip_grad_norm(tree, 2.5, eps=0.0)
    assert (type(clipped), clipped["new"], norm) == (defaultdict, [], 5.0)
    assert (clipped["a"].tolist(), tree.keys()) == ([1.5, -2.0, 0.0], {"a"})


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"max_norm": -1.0}, ValueError, "max_norm should be >=0, -1.0 was provided instead"),
        ({"max_norm": math.nan}, ValueError, "max_norm should be >=0, nan was provided instead"),
        ({"max_norm": "much"}, ValueError, "could not convert"),
        ({"max_norm": None}, TypeError, ""),
        ({"norm_type": math.nan}, ValueError, "norm_type should be a number"),
        ({"norm_type": "two"}, ValueError, "could not convert"),
        ({"norm_type": 0}, ValueError, "norm_type should be >0 to clip by, 0 was"),
        ({"norm_type": -math.inf}, ValueError, "norm_type should be >0 to clip by"),
        ({"norm_type": 2j}, TypeError, ""),
        ({"eps": -1e-9}, ValueError, "eps should be >=0"),
        ({"eps": math.nan}, ValueError, "eps should be >=0"),
        ({"eps": math.inf}, ValueError, "eps should be >=0 and finite"),
        ({"eps": "small"}, ValueError, "could not convert"),
    ],
)
def test_a_bound_that_is_none_is_refused_and_nothing_changes(
    arguments: dict[str, Any], kind: type[Exception], words: str
) -> None:
    array = good()
    with expected(kind, words):
        clip_grad_norm({"a": array}, **{"max_norm": 1.0, **arguments})
    assert array.tobytes() == good().tobytes()


def parameter(grad: torch.Tensor) -> nn.Parameter:
    made = nn.Parameter(torch.zeros(2))
    made.main_grad = grad  # type: ignore[assignment]
    return made


ONE = [("w", parameter(torch.ones(2)))]
SPARSE = parameter(torch.eye(2).to_sparse())
DUMPS: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no gradient": (nn.Linear(2, 2), {}, EmptyDumpError, "PATH: not written: no parameter has a"),
    "no parameter": (nn.Identity(), {}, EmptyDumpError, "PATH: not written: no parameter has a"),
    "a dict": ({"w": ONE[0][1]}, {}, UsageError, "expected a module or pairs of name and param"),
    "a number": ([ONE[0], 3], {}, UsageError, "expected pairs of name and parameter, not int"),
    "an array": ([("w", good())], {}, UsageError, "'w' is no tensor of torch: ndarray"),
    **{
        str(dtype): ([("w", torch.ones(2, dtype=dtype))], {}, UsageError, "'w': safetensors has no")
        for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex128)
    },
    "meta": (
        [("w", torch.ones(2, device="meta"))], {}, UsageError, "'w': safetensors has no tensors wi",
    ),
    "metadata": ([("__metadata__", torch.ones(2))], {}, UsageError, "safetensors has no tensor ca"),
    "surrogate": ([("w\ud800", torch.ones(2))], {}, UsageError, "safetensors has no tensor called"),
    "indices": ([("e", SPARSE), ("e.indices", torch.ones(2))], {}, UsageError, "two tensors come"),
    "indices of none": (
        [("e", SPARSE), ("e.indices", nn.Parameter(torch.ones(2)))], {}, UsageError, "two tensors",
    ),
    **{
        f"{key} {value!r}": (ONE, {key: value}, UsageError, f"`{key}` must be ")
        for key, values in {
            "step": (-1, True, 1.5, 3.0, math.nan, "3"),
            "loss_scale": (0, -1.0, math.nan, math.inf, "x", [1.0], 10**400),
        }.items()
        for value in values
    },
}  # fmt: skip


@pytest.mark.parametrize("case", DUMPS)
@pytest.mark.parametrize("old", [b"", b"old"])
def test_what_cannot_be_dumped_is_refused_and_nothing_written(
    case: str, old: bytes, tmp_path: Path
) -> None:
    source, notes, kind, words = DUMPS[case]
    path = tmp_path / "dump.safetensors"
    if old:
        path.write_bytes(old)
    with expected(kind, words.replace("PATH", str(path))):
        dump_gradients(source, path, **notes)
    assert os.listdir(tmp_path) == ([path.name] if old else [])
    assert not old or path.read_bytes() == old


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_rows_of_values_are_measured_and_not_dumped(tmp_path: Path) -> None:
    rows = torch.tensor([[3.0, 0.0], [0.0, 4.0]]).to_sparse_csr()
    found = gradtool.measure({"w": rows})
    assert (found.tensors[0].norm, len(found.skipped)) == (5.0, 2)
    with expected(UsageError, "'w': safetensors has no tensors of the layout torch.sparse_csr"):
        dump_gradients([("w", rows)], tmp_path / "dump")
    assert os.listdir(tmp_path) == []


def test_a_place_that_takes_no_file_is_named_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    before = {name: os.lstat(tmp_path / name) for name in sorted(os.listdir(tmp_path))}
    for name in ("folder", "pipe", "loop", "missing/dump", "new/", "nul\0", "long" * 70):
        path = f"{tmp_path}/{name}"
        with expected(FileAccessError, f"{path}: cannot be written: "):
            dump_gradients(ONE, path)
    assert [*before] == sorted(os.listdir(tmp_path))
    assert all(os.path.samestat(at, os.lstat(tmp_path / name)) for name, at in before.items())
    assert os.listdir(tmp_path / "folder") == []
