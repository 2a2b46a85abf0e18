"""Overlaps of a catalogue, found once, are those of any tensors chosen from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.dtypes import DTYPES
from gradtool.core.locations import Extent
from gradtool.core.tensors import Replica, Skipped, TensorSpec
from gradtool.engine.overlaps.sharing import find_overlaps, overlapping
from gradtool.storage.reader import LocalFile

FILES = [LocalFile(name, 1, number, 1 << 20, 0, 0) for number, name in enumerate("ab")]
RANGES = st.lists(
    st.tuples(st.sampled_from(FILES), st.integers(0, 30), st.integers(0, 9), st.booleans()),
    max_size=12,
)


@given(ranges=RANGES, chosen=st.sets(st.integers(0, 11)))
def test_they_are_found_among_those_chosen_as_if_there_were_no_others(
    ranges: list[tuple[LocalFile, int, int, bool]], chosen: set[int]
) -> None:
    """What linked two of them may have been left out: then nothing links them."""
    listed: list[TensorSpec | Skipped] = []
    for index, (file, offset, nbytes, is_skipped) in enumerate(ranges):
        extents = (Extent(file, offset, nbytes),) if nbytes else ()
        if is_skipped:
            listed.append(Skipped(f"t{index}", "BOOL", "bool", extents=extents))
        else:
            listed.append(TensorSpec(f"t{index}", DTYPES["F8_E5M2"], (nbytes,), extents))
    tensors = tuple(item for item in listed if isinstance(item, TensorSpec))
    skipped = tuple(item for item in listed if isinstance(item, Skipped))
    overlaps = find_overlaps(Checkpoint("by hand", "raw", tuple(FILES), tensors, skipped))
    some = [item for index, item in enumerate(listed) if index in chosen]
    assert sorted(overlaps.among(some)) == sorted(overlapping(some))


def test_names_that_share_bytes_in_several_files_are_one_set() -> None:
    def copy(name: str, file: LocalFile) -> TensorSpec:
        return TensorSpec(name, DTYPES["F8_E5M2"], (8,), (Extent(file, 0, 8),))

    first, second = FILES
    linked = [copy("a", first), copy("b", first)]
    copies = [copy("b", second), copy("c", second)]
    replicas = tuple(Replica("rank 1", spec) for spec in copies)
    checkpoint = Checkpoint("by hand", "raw", (first, second), tuple(linked), replicas=replicas)
    assert list(find_overlaps(checkpoint).among([*linked, *copies])) == [[0, 1], [2, 3]]
