"""Files written in place: their space is there first, and all that is asked for is written once."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradtool.storage.sink import PIECE_NBYTES, Sink, create_sink, open_sink

_numbers = itertools.count()


class ShortWrites:
    """A system that takes fewer bytes than it is given, and a count of those it took.

    A stand-in for the real calls: those stop short only at a limit or on a full disk, where
    the next one fails, and for signals and network file systems that no test can command.
    """

    def __init__(self, most: Sequence[int]) -> None:
        self._most = itertools.cycle(most)
        self._pwrite = os.pwrite
        self.taken = 0

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        return self.pwritev(descriptor, [data], offset)

    def pwritev(self, descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        part = b"".join(buffers)[: next(self._most)]
        done = self._pwrite(descriptor, part, offset)
        assert done == len(part)
        self.taken += done
        return done

    def write(self, path: Path, offset: int, pieces: Sequence[bytes], *, at_once: bool) -> None:
        with pytest.MonkeyPatch.context() as patched, open_sink(str(path)) as sink:
            patched.setattr(os, "pwrite", self.pwrite)
            patched.setattr(os, "pwritev", self.pwritev)
            put(sink, offset, pieces, at_once=at_once)


def put(sink: Sink, offset: int, pieces: Sequence[bytes], *, at_once: bool) -> None:
    """Write `pieces` one after another, by one call or by one for each."""
    if at_once:
        sink.write_vector(offset, map(memoryview, pieces))
        return
    for piece in pieces:
        sink.write(offset, memoryview(piece))
        offset += len(piece)


def filled(directory: Path, nbytes: int) -> Path:
    path = directory / str(next(_numbers))
    path.write_bytes(b"." * nbytes)
    return path


some_pieces = st.lists(st.binary(max_size=20), max_size=8)


@pytest.mark.parametrize("at_once", [False, True])
@given(
    pieces=some_pieces,
    offset=st.integers(0, 9),
    most=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
def test_a_system_that_takes_a_part_at_a_time_is_given_every_byte_once(
    at_once: bool, pieces: list[bytes], offset: int, most: list[int], scratch: Path
) -> None:
    whole = b"".join(pieces)
    path = filled(scratch, offset + len(whole) + 5)
    short = ShortWrites(most)
    short.write(path, offset, pieces, at_once=at_once)
    assert path.read_bytes() == b"." * offset + whole + b"." * 5
    assert short.taken == len(whole)


@pytest.mark.parametrize("most", [1000, PIECE_NBYTES - 1, PIECE_NBYTES])
def test_more_than_one_call_writes_is_written_whole_by_a_system_that_stops_short(
    most: int, tmp_path: Path
) -> None:
    count = PIECE_NBYTES // 8
    pieces = [i.to_bytes(8, "little") * count for i in range(1, 4)] + [b"end"]
    path = filled(tmp_path, 7 + 3 * PIECE_NBYTES + 3)
    short = ShortWrites([most])
    short.write(path, 7, pieces, at_once=True)
    assert path.read_bytes() == b"." * 7 + b"".join(pieces)
    assert short.taken == 3 * PIECE_NBYTES + 3


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("sizes", [[], [0], [5, 0, 7], [1] * 1024, [PIECE_NBYTES - 1, 3, 400_000]])
def test_what_the_system_takes_whole_is_where_it_was_to_be(
    sizes: list[int], at_once: bool, tmp_path: Path
) -> None:
    pieces = [(b"%d," % i * size)[:size] for i, size in enumerate(sizes)]
    path = filled(tmp_path, 3 + sum(sizes) + 2)
    with open_sink(str(path)) as sink:
        put(sink, 3, pieces, at_once=at_once)
    assert path.read_bytes() == b"..." + b"".join(pieces) + b".."


def test_a_file_has_its_space_before_anything_is_written_to_it(tmp_path: Path) -> None:
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("this system reserves no space")
    nbytes = (5 << 20) + 3
    with (tmp_path / "known").open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, nbytes)
        except OSError as error:
            pytest.skip(f"this file system reserves no space: {error}")
    with create_sink(str(tmp_path / "file")) as sink:
        sink.allocate(nbytes)
    found, known = ((tmp_path / name).stat() for name in ("file", "known"))
    assert (found.st_size, found.st_blocks) == (nbytes, known.st_blocks)
