"""`gradtool.torch` of DTensors, on two and on four ranks that are real processes.

FSDP2's gradients are DTensors; the last tests re-express what torch publishes of them in
test/distributed/_composable/fsdp/test_fully_shard_clip_grad_norm_.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import close

if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

from parity.sharded_models import BOUND, STEPS
from parity.two_ranks import (
    LAYOUTS,
    MAGNITUDES,
    MAX_NORM,
    NONFINITE,
    ORDERS,
    SUM,
    full_tensors,
    one_bad_element,
    run,
)

SECONDS = 90
"""A rank that is not done by then is ended, and what it has not seen fails."""

Seen = Callable[[str], list[Any]]
"""What each rank saw of a case."""


def _seen(world: int, folder: Path) -> Seen:
    printed = run(world, folder, SECONDS)

    def of(case: str) -> list[Any]:
        files = [folder / f"{case}.{rank}" for rank in range(world)]
        missing = [file.suffix for file in files if not file.exists()]
        if missing:
            pytest.fail(f"{case}: nothing seen by rank {' '.join(missing)}: {printed[-4000:]}")
        return [torch.load(file, weights_only=True) for file in files]

    return of


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return _seen(2, tmp_path_factory.mktemp("two_ranks"))


@pytest.fixture(scope="module")
def on_four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return _seen(4, tmp_path_factory.mktemp("four_ranks"))


@pytest.fixture
def ranks(request: pytest.FixtureRequest, world: int) -> Seen:
    seen: Seen = request.getfixturevalue({2: "on_two_ranks", 4: "on_four_ranks"}[world])
    return seen


def true_norm(tensors: Sequence[torch.Tensor], p: float) -> float:
    """The norm of real tensors, with powers in range by a power of two, and their exact sum."""
    values = [abs(value) for t in tensors for value in t.to(torch.float64).flatten().tolist()]
    if p == 0.0:
        return float(sum(value != 0.0 for value in values))
    if any(map(math.isnan, values)):
        return math.nan
    if math.isinf(p):
        return max(values) if p > 0.0 else min(values)
    if p > 0.0 and math.inf in values:
        return math.inf
    if p < 0.0 and 0.0 in values:
        return 0.0
    finite = [value for value in values if value and value != math.inf]
    exponent = math.frexp((max if p > 0.0 else min)(finite))[1]
    powers = math.fsum(math.ldexp(value, -exponent) ** p for value in finite)
    return math.ldexp(powers ** (1.0 / p), exponent)


def is_norm(found: float, true: float) -> bool:
    return math.isnan(found) if math.isnan(true) else close(found, true)


def scaled(tensor: torch.Tensor, norm: float, max_norm: float) -> torch.Tensor:
    """fl(g * coef), with a coefficient that is never rounded to a narrow type."""
    coef = min(1.0, max_norm / (norm + 1e-6))
    return tensor.to(torch.float64).mul(coef).to(tensor.dtype)


EACH_LAYOUT = [
    pytest.param(world, name, dtype, id=f"{world} ranks, {name}, {dtype}")
    for world, layouts in LAYOUTS.items()
    for name, dtype in itertools.product(layouts, MAGNITUDES)
]
each_layout = pytest.mark.parametrize(("world", "name", "dtype"), EACH_LAYOUT)


@each_layout
def test_every_rank_is_told_the_norm_of_the_whole_gradients(
    world: int, name: str, dtype: torch.dtype, ranks: Seen
) -> None:
    fulls = full_tensors(LAYOUTS[world][name], dtype)
    found = ranks(f"{name} {dtype}")
    for p in ORDERS:
        true = true_norm(fulls, p)
        norms = {seen[str(p)][key]["value"] for seen in found for key in ("measured", "returned")}
        assert len(norms) == 1, "bit for bit the same on every rank"
        assert is_norm(norms.pop(), true), f"p = {p}"


@each_layout
def test_every_rank_scales_its_part_by_the_one_coefficient(
    name: str, dtype: torch.dtype, ranks: Seen
) -> None:
    for p, seen in itertools.product(ORDERS, ranks(f"{name} {dtype}")):
        norm = seen[str(p)]["returned"]["value"]
        for key in ("after", "after halves"):
            for before, after in zip(seen["before"], seen[str(p)][key], strict=True):
                assert torch.equal(after, scaled(before, norm, MAX_NORM)), f"{key}, p = {p}"


@each_layout
def test_the_norm_is_a_replicated_dtensor_where_the_first_gradient_is_a_dtensor(
    world: int, name: str, dtype: torch.dtype, ranks: Seen
) -> None:
    placements = LAYOUTS[world][name][0].placements
    mesh = (2,) * len(placements) if placements else None
    for p, seen in itertools.product(ORDERS, ranks(f"{name} {dtype}")):
        for key in ("measured", "returned", "rounded"):
            norm = seen[str(p)][key]
            assert norm["replicated"] is bool(placements)
            assert (tuple(norm["mesh"]) if norm["mesh"] else None) == mesh
            assert norm["as float"] == norm["value"]


@each_layout
def test_the_norm_is_rounded_to_float32_unless_gradients_are_wider_or_float64_is_asked_for(
    name: str, dtype: torch.dtype, ranks: Seen
) -> None:
    for p, seen in itertools.product(ORDERS, ranks(f"{name} {dtype}")):
        norms = seen[str(p)]
        assert {norms[key]["dtype"] for key in ("measured", "returned")} == {torch.float64}
        rounded = torch.promote_types(dtype, torch.float32)
        assert norms["rounded"]["dtype"] is rounded
        wide = torch.tensor(norms["measured"]["value"], dtype=torch.float64)
        assert norms["rounded"]["value"] == wide.to(rounded).item()


@each_layout
def test_every_rank_bounds_the_values_of_its_part(
    world: int, name: str, dtype: torch.dtype, ranks: Seen
) -> None:
    """Sums that are pending have no values yet: every rank refuses, and changes nothing."""
    bound, error = MAGNITUDES[dtype], "nothing"
    if any(SUM in layout.placements for layout in LAYOUTS[world][name]):
        bound, error = math.inf, "NotImplementedError: gradients that are sums over ranks yet to be"
    for seen in ranks(f"{name} {dtype}"):
        assert seen["error of values"].startswith(error)
        for before, after in zip(seen["before"], seen["after values"], strict=True):
            assert torch.equal(after, before.clamp(-bound, bound))


each_nonfinite = pytest.mark.parametrize("name", NONFINITE)


@each_nonfinite
def test_what_is_not_finite_on_one_rank_is_in_the_norm_of_every_rank(
    name: str, on_two_ranks: Seen
) -> None:
    found = on_two_ranks(name)
    assert [seen["has it"] for seen in found] == [False, True]
    tensors = [*one_bad_element(NONFINITE[name]).values()]
    for p, seen in itertools.product(ORDERS, found):
        assert is_norm(seen["norms"][str(p)], true_norm(tensors, p)), f"p = {p}"


@each_nonfinite
def test_every_rank_raises_for_what_one_rank_has_and_scales_nothing(
    name: str, on_two_ranks: Seen
) -> None:
    for seen in on_two_ranks(name):
        for call in ("named", "unnamed", "measured"):
            assert seen[call].startswith("RuntimeError: The total norm of order 2.0 for gradients")
        assert "Non-finite gradients" not in seen["unnamed"]
        assert seen["kept"]


@each_nonfinite
def test_every_rank_names_the_same_culprits(name: str, on_two_ranks: Seen) -> None:
    for seen in on_two_ranks(name):
        assert seen["named"].endswith("Non-finite gradients: 'second'")
        assert seen["measured"] == seen["named"]


def test_fsdp2_trains_as_with_torchs_clipping(on_two_ranks: Seen) -> None:
    """In float64, where torch's norms are as good as true; in float32 they are its own affair."""
    for seen in on_two_ranks("training"):
        ours, theirs = seen["ours"], seen["theirs"]
        for each in (ours, seen["ours narrow"]):
            assert len(each["norms"]) == STEPS
            for norm, gradients in zip(each["norms"], each["gradients"], strict=True):
                assert close(norm, true_norm(gradients, 2.0))
                assert norm > BOUND, "every step is clipped"
        assert ours["norms"] == pytest.approx(theirs["norms"], rel=1e-9)
        for mine, other in zip(ours["parameters"], theirs["parameters"], strict=True):
            torch.testing.assert_close(mine, other, rtol=0.0, atol=1e-9)


def test_sums_that_are_under_way_are_waited_for(on_two_ranks: Seen) -> None:
    for seen in on_two_ranks("arriving"):
        assert seen["kinds"] == {"AsyncCollectiveTensor"}
        assert close(seen["norm"], math.sqrt(15 * 36))
        scaled = 6.0 / (math.sqrt(15 * 36) + 1e-6)
        assert [value for grad in seen["after"] for value in grad] == pytest.approx([scaled] * 15)


def assert_as_replicas(seen: dict[str, Any], p: float) -> None:
    """What the published cases ask of each rank, and that norms are true to twelve digits."""
    for full, true in zip(seen["full"], seen["true"], strict=True):
        torch.testing.assert_close(full, true, rtol=1e-9, atol=1e-9)
    assert close(seen["ours"], true_norm(seen["full"], p))
    assert close(seen["ours narrow"], true_norm(seen["full narrow"], p))
    assert seen["ours"] == pytest.approx(seen["theirs"], rel=1e-9)
    for before, after in zip(seen["before"], seen["after"], strict=True):
        assert torch.equal(after, scaled(before, seen["ours"], 1.0))
        assert true_norm([after], p) <= 1.0
        assert not torch.equal(after, before) or not before.count_nonzero()
    assert all(true_norm([true], p) > 1.0 for true in seen["true"]), "clipping is not vacuous"


def test_fsdp2_clips_as_a_replicated_model(on_two_ranks: Seen) -> None:
    """test_clip_grad_norm_1d, with DistributedDataParallel and a feed-forward model on CPUs.

    Its count of all-reduces is torch's own way to the norm, and not asked for.
    """
    for seen in on_two_ranks("published 1d"):
        assert {"(Shard(dim=0),)"} == {*seen["2.0"]["placements"]}
        for p in (2.0, 1.0, math.inf):
            assert_as_replicas(seen[str(p)], p)


def test_fsdp2_over_tensor_parallelism_clips_as_a_replicated_model(on_four_ranks: Seen) -> None:
    """test_clip_grad_norm_2d, with some parameters on the mesh of FSDP2 alone, as well."""
    for seen in on_four_ranks("published 2d"):
        placements = {*seen["2.0"]["placements"]}
        assert len(placements) == 4, placements
        assert any("_StridedShard" in each for each in placements)
        for p in (2.0, 1.0, 3.0, math.inf):
            assert_as_replicas(seen[str(p)], p)
