"""Stored checksums: verified when asked for, and always where the format's own reader does."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import gradtool
from gradtool.formats import open_checkpoint


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def written(path: Path) -> Path:
    if path.suffix == ".pt":
        torch.save({"a": torch.ones(1000), "b": torch.full((500_000,), 2.0)}, path)
    else:
        np.savez(path, a=np.ones(1000, np.float32), b=np.full(500_000, 2, np.float32))
    return path


@pytest.mark.parametrize("name", ["x.pt", "x.npz"])
def test_a_flipped_bit_is_found_where_the_reader_would_or_when_asked_for(
    name: str, tmp_path: Path
) -> None:
    path = written(tmp_path / name)
    *_, checksum = (one for one in open_checkpoint(str(path)).checksums if one.covers.nbytes > 1000)
    gradtool.measure(path, verify=True)
    flip(path, checksum.covers.end - 1)
    reads = [
        lambda **how: gradtool.measure(path, **how),
        lambda **how: gradtool.clip(path, tmp_path / "clipped", max_norm=1.0, dry_run=True, **how),
    ]
    for read in reads:
        if loads(path):
            read()
        else:
            with pytest.raises(gradtool.CorruptFileError, match="CRC-32"):
                read()
        with pytest.raises(gradtool.CorruptFileError, match="CRC-32") as caught:
            read(verify=True)
        assert repr(checksum.record) in str(caught.value)
    # What the filters leave out is not read at all.
    gradtool.measure(path, verify=True, include=["a"])


def loads(path: Path) -> bool:
    """Whether the library that wrote a file reads all of it."""
    try:
        if path.suffix == ".pt":
            torch.load(path)
        else:
            dict(np.load(path))
    except zipfile.BadZipFile:
        return False
    return True


def test_a_checksum_of_0_is_one_where_the_reader_compares_it(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.ones(1000, np.float32))
    (checksum,) = open_checkpoint(str(path)).checksums
    content = bytearray(path.read_bytes())
    for place in checksum.places:
        content[place : place + 4] = bytes(4)
    path.write_bytes(content)
    assert not loads(path)
    with pytest.raises(gradtool.CorruptFileError, match="CRC-32"):
        gradtool.measure(path)


def test_a_checksum_lies_where_the_archive_stores_it(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt")
    content = path.read_bytes()
    checksums = open_checkpoint(str(path)).checksums
    assert {checksum.record for checksum in checksums} >= {"x/data/0", "x/data/1"}
    for checksum in checksums:
        for place in checksum.places:
            assert int.from_bytes(content[place : place + 4], "little") == checksum.crc32


def test_a_flipped_bit_of_inflated_data_is_always_found(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).standard_normal(1000))
    flip(path, path.stat().st_size // 2)
    with pytest.raises(gradtool.CorruptFileError, match=r"'a\.npy'"):
        gradtool.measure(path)


def test_files_without_checksums_have_nothing_to_verify(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(1000)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert {checksum.crc32 for checksum in open_checkpoint(str(path)).checksums} == {0}
    assert gradtool.measure(path, verify=True).tensors[0].stats.power_sum == 1000.0
