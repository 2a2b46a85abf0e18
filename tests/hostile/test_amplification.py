"""A file takes memory and time in proportion to its metadata, whatever it asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from amplifiers import MB, NAMES, Cost, costs, most_memory, most_seconds

import gradtool
from gradtool.engine.overlaps.sharing import FREE_ELEMENTS, MOST_VIEWS

NBYTES = MB
BUSY = 20
"""A machine that does much else takes a few times as long, what is out of proportion minutes;
`amplifiers.py` by itself holds files to the figure."""


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    return costs(tmp_path_factory.mktemp("bombs"), NBYTES)


@pytest.mark.parametrize("case", NAMES)
def test_memory_and_time_are_bounded_by_the_metadata(case: str, taken: dict[str, Cost]) -> None:
    cost = taken[case]
    assert cost.nbytes < most_memory(NBYTES)
    assert cost.seconds < BUSY * most_seconds(NBYTES)
    if cost.error is not None and "budget" in cost.error:
        assert " MB of memory" in cost.error


def test_a_pickle_that_is_refused_for_its_memory_says_the_budget(taken: dict[str, Cost]) -> None:
    error = taken["empty sets"].error or ""
    assert "the pickle expands far beyond its size: 1.0 MB of it may take" in error


def test_real_pickles_stay_within_the_budget(tmp_path: Path) -> None:
    # Modules pickled whole take the most: a dozen empty dicts each.
    module = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(4_000)))
    torch.save(module, tmp_path / "module.pt", pickle_protocol=4)
    assert len(gradtool.measure(tmp_path / "module.pt").tensors) == 8_000


def test_views_that_name_elements_without_end_are_refused_with_the_budget(tmp_path: Path) -> None:
    base = torch.ones(1 << 20)
    path = tmp_path / "views.pt"
    torch.save({f"v{i}": base[i:] for i in range(3000)}, path)
    budget = f"{MOST_VIEWS * len(base) + FREE_ELEMENTS:,}"
    with pytest.raises(gradtool.UnsupportedFormatError, match=budget):
        gradtool.measure(path)
    assert gradtool.measure(path, include=["v1", "v2"]).total.stats.numel == len(base) - 1


def test_windows_that_overlap_count_what_they_name(tmp_path: Path) -> None:
    # Each is small by itself, and shares its storage with no other.
    windows = {f"v{i}": torch.ones(2047).unfold(0, 1024, 1) for i in range(80)}
    path = tmp_path / "windows.pt"
    torch.save(windows, path)
    assert sum(window.numel() for window in windows.values()) > FREE_ELEMENTS
    with pytest.raises(gradtool.UnsupportedFormatError, match="budget"):
        gradtool.measure(path)


def test_views_without_gradients_in_common_are_never_refused(tmp_path: Path) -> None:
    # As FSDP2 has them: all parts of one storage, next to each other.
    base = torch.ones(12_000)
    path = tmp_path / "views.pt"
    torch.save({f"v{i}": base[3 * i : 3 * i + 3] for i in range(4_000)}, path)
    assert gradtool.measure(path).total.stats.numel == 12_000
