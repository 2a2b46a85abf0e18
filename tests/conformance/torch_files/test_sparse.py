"""Sparse tensors of coordinates, coalesced or not, are what their values add up to."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import close, exact_norm

import gradtool
from gradtool.formats import open_checkpoint
from gradtool.torch import dump_gradients

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")

NAN, INF = math.nan, math.inf


def sparse(indices: Any, values: Any, shape: tuple[int, ...], **how: Any) -> torch.Tensor:
    """A tensor of these entries, unchecked."""
    made = torch.as_tensor(indices, dtype=torch.int64)
    return torch.sparse_coo_tensor(made, values, shape, check_invariants=False, **how)


def saved(tmp_path: Path, **tensors: torch.Tensor) -> Path:
    path = tmp_path / "dump.pt"
    torch.save(tensors, path)
    return path


def sums(tensor: torch.Tensor) -> dict[tuple[int, ...], list[complex]]:
    """The exact sum of the values at each index, rounded once; by index."""
    found: dict[tuple[int, ...], list[list[complex]]] = defaultdict(list)
    for index, row in zip(tensor._indices().T.tolist(), tensor._values(), strict=True):
        wide = row.to(torch.complex128).reshape(-1)
        found[tuple(index)].append(wide.tolist())
    return {
        index: [
            complex(math.fsum(z.real for z in column), math.fsum(z.imag for z in column))
            for column in zip(*rows, strict=True)
        ]
        for index, rows in sorted(found.items())
    }


SHAPES = [((7,), ()), ((7,), (3,)), ((4, 5), (2, 3)), ((1 << 40, 3), ()), ((), (4,))]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "complex64"])
@pytest.mark.parametrize(("places", "dense"), SHAPES, ids=str)
def test_what_is_not_coalesced_is_measured_by_its_sums(
    places: tuple[int, ...], dense: tuple[int, ...], dtype: str, tmp_path: Path
) -> None:
    torch.manual_seed(len(places) + len(dense))
    indices = (
        torch.stack([torch.randint(0, min(size, 6), (40,)) for size in places] or [], 0)
        if (places)
        else torch.zeros(0, 40)
    )
    values = torch.randn(40, *dense, dtype=torch.complex64 if dtype == "complex64" else None)
    tensor = sparse(indices, values.to(getattr(torch, dtype)), (*places, *dense))
    exact = sums(tensor)
    path = saved(tmp_path, w=tensor)
    for p in (2.0, 1.0, INF, 0.0, 3.5):
        (found,) = gradtool.measure(path, norm_type=p).tensors
        flat = [abs(z) for row in exact.values() for z in row]
        assert close(found.norm, exact_norm(flat, p))
        (live,) = gradtool.measure({"w": tensor}, norm_type=p).tensors
        assert live.norm == found.norm
    assert found.spec.shape == (len(exact), *dense)
    assert found.spec.dtype.name == {"float64": "F64", "float32": "F32", "float16": "F16",
                                     "bfloat16": "BF16", "complex64": "C64"}[dtype]  # fmt: skip
    (skipped,) = open_checkpoint(str(path)).skipped
    stream = skipped.stored and skipped.stored.stream
    assert stream is not None
    at = np.frombuffer(b"".join(map(bytes, stream.pieces(24))), np.int64)
    assert at.reshape(len(places), len(exact)).T.tolist() == [list(index) for index in exact]


LAYOUTS = {
    "transposed indices": lambda: (torch.tensor([[0, 1], [2, 3], [0, 1]]).t(), torch.randn(3)),
    "expanded values": lambda: (torch.tensor([[1, 1, 0]]), torch.randn(1, 1).expand(3, 4)),
    "transposed values": lambda: (torch.tensor([[1, 1, 0]]), torch.randn(5, 3).t()),
    "a window of values": lambda: (torch.tensor([[1, 1, 0]]), torch.randn(6, 9)[::2, 2:7]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_entries_may_be_views(layout: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    indices, values = LAYOUTS[layout]()
    tensor = sparse(indices, values, (*[5] * len(indices), *values.shape[1:]))
    flat = [abs(z) for row in sums(tensor).values() for z in row]
    assert close(gradtool.measure(saved(tmp_path, w=tensor)).tensors[0].norm, exact_norm(flat, 2))
    assert close(gradtool.measure({"w": tensor}).tensors[0].norm, exact_norm(flat, 2))


@pytest.mark.parametrize(
    ("values", "exact"),
    [
        ([1e16, 1.0, -1e16], 1.0),
        ([1e308, 1e308, -1e308], 1e308),
        ([1e308, 1e308, -1e308, -1e308, 3e-300], 3e-300),
        ([1.0, 2.0**-80, -1.0], 2.0**-80),
        ([5e-324, 5e-324, 5e-324], 15e-324),
        ([1e308] * 3, INF),
        ([1.0, INF, 2.0], INF),
        ([INF, -INF, 1.0], NAN),
        ([NAN, 1.0, INF], NAN),
        ([2.5, -2.5, 0.0], 0.0),
    ],
)
def test_sums_are_exact_however_much_cancels(
    values: list[float], exact: float, tmp_path: Path
) -> None:
    for order in itertools.islice(itertools.permutations(values), 30):
        tensor = sparse([[3] * len(order)], torch.tensor(order, dtype=torch.float64), (9,))
        (found,) = gradtool.measure(saved(tmp_path, w=tensor)).tensors
        assert repr(found.norm) == repr(abs(exact))
        assert found.spec.shape == (1,)


def test_a_sum_beyond_the_dtype_is_finite_and_its_native_norm_is_not(tmp_path: Path) -> None:
    tensor = sparse([[1, 1]], torch.full((2,), 6e4, dtype=torch.float16), (3,))
    (found,) = gradtool.measure(saved(tmp_path, w=tensor)).tensors
    assert found.norm == 120000.0
    assert found.native_norm == INF
    assert tensor.coalesce().values().isinf().all()


MANY = {
    "more entries than are sorted at once": (1_300_000, 400_000, 1),
    "one place of more entries": (700_000, 1, 1),
    "rows of which one is named most": (20_000, 3, 70),
    "more entries than are sorted, of few places": (600_000, 2, 1),
}


@pytest.mark.parametrize("case", MANY)
def test_many_entries_are_summed_in_windows(case: str, tmp_path: Path) -> None:
    count, places, columns = MANY[case]
    rng = np.random.default_rng(5)
    at = rng.integers(0, places, count)
    values = rng.standard_normal((count, columns)).astype(np.float32)
    tensor = sparse(at[None] * 7, torch.from_numpy(values), (7 * places, columns))
    (found,) = gradtool.measure(saved(tmp_path, w=tensor)).tensors
    exact = np.stack([np.bincount(at, column, places) for column in values.T.astype(np.float64)])
    named = np.bincount(at, minlength=places) > 0
    assert found.spec.shape == (int(named.sum()), columns)
    assert close(found.norm, math.sqrt(math.fsum((exact * exact).ravel().tolist())), 1e-11)


def test_sums_of_very_many_are_exact() -> None:
    from gradtool.storage.elements.sums import RunningSums  # noqa: PLC0415 - for this alone

    rng = np.random.default_rng(3)
    parts = [np.ldexp(rng.standard_normal((50, 2)), rng.integers(-900, 900, (50, 2)))
             for _ in range(6)]  # fmt: skip
    parts += [-part for part in parts[:5]] + [np.full((3, 2), 1.7e308), np.full((3, 2), -1.7e308)]
    running = RunningSums(2)
    for part in parts:
        running.add(part)
    exact = [sum(map(Fraction, np.concatenate(parts)[:, column].tolist())) for column in range(2)]
    assert running.sums() == [float(one) for one in exact]


def embedded() -> torch.nn.Module:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Embedding(30, 5, sparse=True), torch.nn.Linear(5, 3))
    net(torch.randint(0, 30, (8, 16))).square().sum().backward()
    return net


def test_live_gradients_the_file_of_them_and_a_dump_agree(tmp_path: Path) -> None:
    net = embedded()
    grads = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert not grads["0.weight"].is_coalesced()
    live, stored = gradtool.measure(net), gradtool.measure(saved(tmp_path, **grads))
    assert [(t.name, t.spec.shape, t.norm) for t in live.tensors] == [
        (t.name, t.spec.shape, t.norm) for t in stored.tensors
    ]
    assert live.total is not None and stored.total is not None
    assert live.total.norm == stored.total.norm
    assert gradtool.diff(net, tmp_path / "dump.pt").identical
    dump_gradients(net, tmp_path / "dump.safetensors")
    dumped = gradtool.measure(tmp_path / "dump.safetensors").total
    assert dumped is not None
    assert close(dumped.norm, live.total.norm, 2.0**-24)  # it has sums rounded to F32


@pytest.mark.parametrize("flag", [True, False])
def test_not_the_flag_but_the_indices_tell_what_is_coalesced(flag: bool, tmp_path: Path) -> None:
    twice = sparse([[1, 1]], torch.tensor([3.0, 4.0]), (4,), is_coalesced=flag)
    turned = sparse([[2, 1]], torch.tensor([3.0, 4.0]), (4,), is_coalesced=flag)
    once = sparse([[1, 2]], torch.tensor([3.0, 4.0]), (4,), is_coalesced=flag)
    path = saved(tmp_path, twice=twice, turned=turned, once=once)
    found = {t.name: (t.norm, t.spec.shape) for t in gradtool.measure(path).tensors}
    assert found == {"twice": (7.0, (1,)), "turned": (5.0, (2,)), "once": (5.0, (2,))}
    gradtool.clip(path, tmp_path / "out.pt", max_norm=2.5, eps=0, include="once")
    assert torch.load(tmp_path / "out.pt")["once"]._values().tolist() == [1.5, 2.0]
    with pytest.raises(gradtool.UnsupportedFormatError, match="'twice': is sparse and not coa"):
        gradtool.clip(path, tmp_path / "no.pt", max_norm=0.1)
    assert not (tmp_path / "no.pt").exists()


LIES = {
    "out of bounds": (lambda: sparse([[0, 9]], torch.ones(2), (9,)), "index 9 on axis 0, whose s"),
    "negative": (lambda: sparse([[0, 1], [2, -3]], torch.ones(2), (9, 9)), "entry 1 .* index -3 "),
    "of a coalesced one": (
        lambda: sparse([[0, 9]], torch.ones(2), (9,), is_coalesced=True), "index 9 on axis 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_an_index_out_of_bounds_is_an_error_that_names_it(case: str, tmp_path: Path) -> None:
    made, words = LIES[case]
    path = saved(tmp_path, w=made())
    with pytest.raises(gradtool.CorruptFileError, match=words) as caught:
        gradtool.measure(path)
    assert str(path) in str(caught.value)
    assert "'w.indices'" in str(caught.value)
    assert "at byte" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_entries_add_up_to_is_compared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    indices, values = torch.randint(0, 20, (1, 90)), torch.randn(90, 3)
    tensor = sparse(indices, values, (20, 3))
    order = torch.randperm(90)
    torch.save({"w": tensor}, tmp_path / "a.pt")
    torch.save({"w": sparse(indices[:, order], values[order], (20, 3))}, tmp_path / "b.pt")
    assert gradtool.diff(tmp_path / "a.pt", tmp_path / "b.pt", rtol=1e-13).same
    values[4, 1] += 1
    torch.save({"w": tensor}, tmp_path / "c.pt")
    found = gradtool.diff(tmp_path / "a.pt", tmp_path / "c.pt")
    assert not found.same
    assert found.tensors[0].differing == 1
    at = int((indices.unique() == indices[0, 4]).nonzero())
    assert found.tensors[0].first_differing == (at, 1)
    moved = indices.clone()
    moved[moved == indices[0, 4]] = 19 if 19 not in indices else 0
    torch.save({"w": sparse(moved * 2, values, (40, 3))}, tmp_path / "d.pt")
    assert not gradtool.diff(tmp_path / "c.pt", tmp_path / "d.pt").same


def test_one_sparse_tensor_under_two_names_counts_once(tmp_path: Path) -> None:
    tensor = sparse([[1, 1]], torch.tensor([3.0, 4.0]), (4,))
    other = sparse([[1, 2]], tensor._values(), (4,))
    found = gradtool.measure(saved(tmp_path, a=tensor, b=tensor, c=other))
    assert [(t.name, t.alias_of) for t in found.tensors] == [("a", None), ("b", "a"), ("c", None)]
    assert found.total is not None
    assert close(found.total.norm, math.sqrt(49 + 25))


@pytest.mark.parametrize("layout", ["csr", "csc", "bsr", "bsc"])
def test_compressed_layouts_are_measured_by_their_values(layout: str, tmp_path: Path) -> None:
    dense = torch.tensor([[0.0, 3.0, 0.0, 0.0], [4.0, 0.0, 0.0, 12.0]])
    blocks = ((1, 2),) if layout in ("bsr", "bsc") else ()
    tensor = getattr(dense, f"to_sparse_{layout}")(*blocks)
    (found,) = gradtool.measure(saved(tmp_path, w=tensor)).tensors
    assert (found.norm, found.spec.shape) == (13.0, tuple(tensor.values().shape))
