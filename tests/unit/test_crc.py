"""Checksums put together from those of parts, and the id that torch makes of them."""

from __future__ import annotations

import zipfile
import zlib
from functools import reduce
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradtool.storage.archives.crc import combine_crc32, serialization_digits


@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=8))
def test_parts_put_together_have_the_checksum_of_the_whole(parts: list[bytes]) -> None:
    def joined(crc32: int, part: bytes) -> int:
        return combine_crc32(crc32, zlib.crc32(part), len(part))

    assert reduce(joined, parts, 0) == zlib.crc32(b"".join(parts))


@given(data=st.binary(max_size=2000), at=st.integers(0, 2000))
def test_where_a_file_is_cut_does_not_matter(data: bytes, at: int) -> None:
    first, second = data[:at], data[at:]
    found = combine_crc32(zlib.crc32(first), zlib.crc32(second), len(second))
    assert found == zlib.crc32(data)


def test_long_parts_are_put_together_without_reading_them() -> None:
    first, zeros = b"start", bytes(5_000_000)
    found = combine_crc32(zlib.crc32(first), zlib.crc32(zeros), len(zeros))
    assert found == zlib.crc32(first + zeros)
    # Beyond 4 GiB, where a length takes more than 32 bits: 1,024 times five million zeros.
    crc32, nbytes = zlib.crc32(zeros), len(zeros)
    for _ in range(10):
        crc32, nbytes = combine_crc32(crc32, crc32, nbytes), 2 * nbytes
    assert nbytes > 1 << 32
    other = combine_crc32(zlib.crc32(zeros), zlib.crc32(zeros), len(zeros))
    for _ in range(511):
        other = combine_crc32(other, zlib.crc32(2 * zeros), 2 * len(zeros))
    assert crc32 == other


def stored_digits(path: Path) -> tuple[bytes, list[int]]:
    """The id's second half, and the CRCs of the other records in the order written."""
    with zipfile.ZipFile(path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        (id_name,) = [i.filename for i in infos if i.filename.endswith("serialization_id")]
        digits = archive.read(id_name)[20:]
        checksums = [zlib.crc32(archive.read(i.filename)) for i in infos if i.filename != id_name]
    return digits, checksums


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_the_digits_are_those_that_torch_writes(count: int, tmp_path: Path) -> None:
    path = tmp_path / "grads.pt"
    torch.manual_seed(count)
    torch.save({f"w{i}": torch.randn(i + 1) for i in range(count)}, path)
    digits, checksums = stored_digits(path)
    assert serialization_digits(checksums) == digits


def test_the_digits_change_with_one_bit_of_one_record(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "g.pt", tmp_path / "b" / "g.pt"
    for path, value in ((first, 1.0), (second, 1.0000001)):
        path.parent.mkdir()
        torch.save({"w": torch.tensor([value])}, path)
    (one, _), (other, checksums) = stored_digits(first), stored_digits(second)
    assert one != other
    assert serialization_digits(checksums) == other
