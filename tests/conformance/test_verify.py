"""Stored checksums: verified when asked for, and always where data is inflated anyway."""

from __future__ import annotations

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
def test_a_flipped_bit_is_found_only_when_asked_for(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name)
    *_, seal = (one for one in open_checkpoint(str(path)).seals if one.covers.nbytes > 1000)
    gradtool.measure(path, verify=True)
    flip(path, seal.covers.end - 1)
    gradtool.measure(path)
    with pytest.raises(gradtool.CorruptFileError, match="CRC-32") as caught:
        gradtool.measure(path, verify=True)
    assert repr(seal.record) in str(caught.value)
    # What the filters leave out is not read at all.
    gradtool.measure(path, verify=True, include=["a"])


def test_a_seal_lies_where_the_archive_stores_it(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt")
    content = path.read_bytes()
    seals = open_checkpoint(str(path)).seals
    assert {seal.record for seal in seals} >= {"x/data/0", "x/data/1"}
    for seal in seals:
        for place in seal.places:
            assert int.from_bytes(content[place : place + 4], "little") == seal.crc32


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
    assert {seal.crc32 for seal in open_checkpoint(str(path)).seals} == {0}
    assert gradtool.measure(path, verify=True).tensors[0].stats.power_sum == 1000.0
