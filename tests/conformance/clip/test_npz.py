"""Clipped NumPy files: the bytes that NumPy would have saved, or the same members deflated anew."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from dumps import NUMPY_TYPES, transformed
from numpy.typing import NDArray
from oracle import close

import gradtool

Arrays = dict[str, NDArray[Any]]

NUMPY = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "<c8": "C64", "<c16": "C128"}


def filled(dtype: Any, *shape: int, seed: int = 0) -> NDArray[Any]:
    found: NDArray[Any] = np.random.default_rng(seed).standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        found = found + 1j * found[::-1]
    return found.astype(dtype)


def scaled(array: NDArray[Any], coef: float) -> NDArray[Any]:
    """As `transformed`, in the array's own byte order and memory order."""
    little = array.astype(array.dtype.newbyteorder("<"))
    kind = "C" if array.flags.c_contiguous else "F"
    flat = little.reshape(-1, order=kind)
    parts = flat.dtype.itemsize // (2 if flat.dtype.kind == "c" else 1)
    codes = transformed(flat.view(f"u{parts}"), NUMPY[little.dtype.str], coef)
    found: NDArray[Any] = codes.view(little.dtype).reshape(array.shape, order=kind)
    return found.astype(array.dtype, order="K")


def several() -> Arrays:
    return {
        "w": filled("f4", 30, 20),
        "fortran": np.asfortranarray(filled("f8", 5, 7, 3)),
        "big": filled(">f4", 11),
        "big double": filled(">c16", 4, 4),
        "half": filled("f2", 1000),
        "complex": filled("c8", 9),
        "scalar": np.array(2.5),
        "empty": np.empty((0, 3)),
        "step": np.arange(5),
        "names": np.array(["a", "bc"]),
    }


def is_gradient(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "fc"


def true_norm(arrays: Arrays) -> float:
    values = [v for a in arrays.values() if is_gradient(a) for v in a.reshape(-1).tolist()]
    return math.sqrt(math.fsum(p * p for v in values for p in (v.real, v.imag)))


def clipped(before: Path, after: Path, arrays: Arrays, **options: Any) -> Arrays:
    """What the arrays are after clipping the file that holds them."""
    outcome = gradtool.clip(before, after, **({"max_norm": 0.37} | options))
    assert outcome.clip_coef is not None
    norm = true_norm(arrays)
    assert close(outcome.norm_before, norm)
    assert close(outcome.clip_coef, 0.37 / (norm + 1e-6))
    wanted = {
        name: scaled(array, outcome.clip_coef) if is_gradient(array) else array
        for name, array in arrays.items()
    }
    assert outcome.norm_after is not None
    assert close(outcome.norm_after, true_norm(wanted))
    return wanted


def assert_loads_as(path: Path, arrays: Arrays) -> None:
    with np.load(path) as archive:
        assert archive.files == list(arrays)
        for name, array in arrays.items():
            assert archive[name].dtype == array.dtype
            assert archive[name].tobytes("A") == array.tobytes("A")
            assert archive[name].shape == array.shape
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_savez_of_scaled_arrays_is_the_very_same_file(tmp_path: Path) -> None:
    before, after, expected = (tmp_path / f"{n}.npz" for n in ("before", "after", "expected"))
    np.savez(before, **several())
    wanted = clipped(before, after, several())
    np.savez(expected, **wanted)
    assert after.read_bytes() == expected.read_bytes()
    assert_loads_as(after, wanted)


def test_a_deflated_archive_keeps_names_order_and_all_else(tmp_path: Path) -> None:
    before, after = tmp_path / "before.npz", tmp_path / "after.npz"
    np.savez_compressed(before, **several())
    wanted = clipped(before, after, several())
    assert_loads_as(after, wanted)
    with zipfile.ZipFile(before) as old, zipfile.ZipFile(after) as new:
        for one, other in zip(old.infolist(), new.infolist(), strict=True):
            assert described(one) == described(other)
        for name in ("step", "names", "empty"):
            assert old.read(f"{name}.npy") == new.read(f"{name}.npy")


def described(info: zipfile.ZipInfo) -> tuple[object, ...]:
    return (
        info.filename,
        info.date_time,
        info.compress_type,
        info.external_attr,
        info.internal_attr,
        info.create_system,
        info.comment,
        info.extra,
        info.file_size,
    )


def npy_bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def odd_archive(path: Path, arrays: Arrays, methods: list[int]) -> None:
    """An archive with dates, comments and members that are no arrays, stored and deflated.

    Its members come from several systems, with and without attributes and times of their own,
    and its directory lists them in another order than they lie in.
    """
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = b"of the archive"
        for i, (name, array) in enumerate(arrays.items()):
            info = zipfile.ZipInfo(f"{name}.npy", (2011 + i, 12, 13, 14, 15, 16))
            info.compress_type = methods[i % len(methods)]
            info.comment = b"of member %d" % i
            info.create_system = (0, 3, 19)[i % 3]
            if i % 3:
                info.extra = extended_timestamp(1_000_000_000 + i)
            archive.writestr(info, npy_bytes(array))
            # Only now: Python's writer gives a member without attributes some.
            info.external_attr = (0, 0o600 << 16, 0o100755 << 16 | 0x20)[i % 3]
            info.internal_attr = i % 2
        archive.writestr("README.txt", "not an array")
        archive.writestr("notes.txt", "deflated " * 99, zipfile.ZIP_DEFLATED)
        archive.filelist.sort(key=lambda info: info.filename)


def extended_timestamp(seconds: int) -> bytes:
    """The extra field in which Info-ZIP keeps when a file was modified."""
    return struct.pack("<2HBi", 0x5455, 5, 1, seconds)


def local_extra(path: Path, info: zipfile.ZipInfo) -> bytes:
    """The extra fields in the header before a member, but for the zip64 one with its sizes."""
    header = path.read_bytes()[info.header_offset :]
    name_nbytes, nbytes = struct.unpack_from("<2H", header, 26)
    extra = header[30 + name_nbytes : 30 + name_nbytes + nbytes]
    at = 0
    while extra[at : at + 2] not in (b"\1\0", b""):
        at += 4 + struct.unpack_from("<H", extra, at + 2)[0]
    return extra[:at] + extra[at + 20 :]


def in_data_order(archive: zipfile.ZipFile) -> list[str]:
    return [i.filename for i in sorted(archive.infolist(), key=lambda info: info.header_offset)]


@pytest.mark.parametrize(
    "methods",
    [[zipfile.ZIP_STORED], [zipfile.ZIP_DEFLATED], [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]],
)
def test_members_keep_their_order_dates_attributes_comments_and_methods(
    methods: list[int], tmp_path: Path
) -> None:
    before, after = tmp_path / "before.npz", tmp_path / "after.npz"
    odd_archive(before, several(), methods)
    wanted = clipped(before, after, several())
    with zipfile.ZipFile(before) as old, zipfile.ZipFile(after) as new:
        assert new.testzip() is None
        assert new.comment == old.comment
        assert list(map(described, new.infolist())) == list(map(described, old.infolist()))
        assert in_data_order(new) == in_data_order(old) != new.namelist()
        for one, other in zip(old.infolist(), new.infolist(), strict=True):
            assert local_extra(before, one) == local_extra(after, other) == one.extra
        for name in ("README.txt", "notes.txt", "names.npy", "step.npy"):
            assert new.read(name) == old.read(name)
        for name, array in wanted.items():
            assert new.read(f"{name}.npy") == npy_bytes(array)


def with_crc32_zero(array: NDArray[Any]) -> NDArray[Any]:
    """The array with its last four bytes such that the CRC-32 of its member is 0."""
    found = array.copy()
    member = npy_bytes(found)
    # A CRC-32 is linear: these four bytes after nothing have one of 0, and after other bytes
    # those do that differ from them as the CRC-32 of these does from 0.
    alone = int.from_bytes(bytes.fromhex("9d0ad96d"), "little")
    last = (alone ^ zlib.crc32(member[:-4])).to_bytes(4, "little")
    found.view(np.uint8)[-4:] = np.frombuffer(last, np.uint8)
    assert zlib.crc32(npy_bytes(found)) == 0
    return found


def moderate_with_crc32_zero(dtype: str) -> NDArray[Any]:
    """The first such array whose last elements are neither NaN nor out of all proportion."""
    for seed in range(1000):
        found = with_crc32_zero(filled(dtype, 50, seed=seed))
        if (abs(found[-4:].astype("f8")) < 100).all() and abs(found[-1]) > 1e-3:
            return found
    raise AssertionError("none of a thousand")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_a_member_whose_checksum_happens_to_be_zero_gets_a_new_one(
    dtype: str, tmp_path: Path
) -> None:
    before, after, expected = (tmp_path / f"{n}.npz" for n in ("before", "after", "expected"))
    arrays = {"a": filled("f4", 9), "w": moderate_with_crc32_zero(dtype), "z": filled("f4", 5)}
    np.savez(before, **arrays)
    with zipfile.ZipFile(before) as archive:
        assert archive.getinfo("w.npy").CRC == 0
    wanted = clipped(before, after, arrays)
    assert_loads_as(after, wanted)
    np.savez(expected, **wanted)
    assert after.read_bytes() == expected.read_bytes()


def test_sizes_of_64_bits_in_the_directory_are_no_second_ones(tmp_path: Path) -> None:
    before, after = tmp_path / "before.npz", tmp_path / "after.npz"
    with zipfile.ZipFile(before, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in several().items():
            archive.writestr(f"{name}.npy", npy_bytes(array))
        for info in archive.infolist():
            info.extra = struct.pack("<2H2Q", 1, 16, info.file_size, info.compress_size)
    wanted = clipped(before, after, several())
    assert_loads_as(after, wanted)


@pytest.mark.parametrize("deflated", [False, True])
def test_filters_change_the_chosen_members_alone(deflated: bool, tmp_path: Path) -> None:
    before, after = tmp_path / "before.npz", tmp_path / "after.npz"
    arrays = {"a": filled("f4", 50), "b": filled("f4", 50, seed=1), "c": filled("f8", 9)}
    (np.savez_compressed if deflated else np.savez)(before, **arrays)
    outcome = gradtool.clip(before, after, max_norm=0.1, exclude="b")
    assert outcome.clip_coef is not None
    wanted = {n: a if n == "b" else scaled(a, outcome.clip_coef) for n, a in arrays.items()}
    assert_loads_as(after, wanted)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize(
    ("raw_dtype", "kind"),
    [("BF16", ml_dtypes.bfloat16), ("F8_E4M3", ml_dtypes.float8_e4m3fn)],
)
def test_nameless_elements_are_what_the_user_says(
    raw_dtype: str, kind: Any, deflated: bool, tmp_path: Path
) -> None:
    before, after = tmp_path / "before.npz", tmp_path / "after.npz"
    array = filled("f8", 200).astype(kind)
    assert NUMPY_TYPES[raw_dtype] == kind
    (np.savez_compressed if deflated else np.savez)(before, w=array)
    outcome = gradtool.clip(before, after, max_norm=0.5, raw_dtype=raw_dtype)
    assert outcome.clip_coef is not None
    codes = array.view(f"u{array.itemsize}")
    with np.load(after) as archive:
        found = archive["w"].view(codes.dtype)
    assert found.tolist() == transformed(codes, raw_dtype, outcome.clip_coef).tolist()


def test_a_deflated_array_longer_than_a_block_is_scaled(tmp_path: Path) -> None:
    before, after = tmp_path / "before.npz", tmp_path / "after.npz"
    arrays = {"w": filled("f4", 1_300_001).round(1), "half": filled("f2", 600_001).round(1)}
    np.savez_compressed(before, **arrays)
    outcome = gradtool.clip(before, after, max_norm=0.37)
    assert outcome.clip_coef is not None
    assert_loads_as(after, {n: scaled(a, outcome.clip_coef) for n, a in arrays.items()})


@pytest.mark.parametrize(
    "array",
    [
        filled("f4", 10, 3),
        np.asfortranarray(filled("f8", 4, 5)),
        filled(">f8", 7),
        filled("f2", 70_000),
    ],
    ids=["C", "Fortran", "big endian", "long half"],
)
def test_a_single_array_is_what_numpy_would_have_saved(array: NDArray[Any], tmp_path: Path) -> None:
    before, after, expected = (tmp_path / f"{n}.npy" for n in ("before", "after", "expected"))
    np.save(before, array)
    wanted = clipped(before, after, {"before": array})
    np.save(expected, wanted["before"])
    assert after.read_bytes() == expected.read_bytes()


def test_a_linked_array_goes_by_the_name_it_was_given(tmp_path: Path) -> None:
    np.save(tmp_path / "blob.npy", filled("f4", 20))
    (tmp_path / "grads.npy").symlink_to("blob.npy")
    out = tmp_path / "out.npy"
    outcome = gradtool.clip(tmp_path / "grads.npy", out, max_norm=0.1, include="grads")
    assert outcome.after is not None
    assert [tensor.name for tensor in outcome.after.tensors] == ["grads"]
    assert np.linalg.norm(np.load(out)) < 0.11
