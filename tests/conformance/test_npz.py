"""Archives as NumPy, zipfile and torch write them: every byte where the catalogue says."""

from __future__ import annotations

import gc
import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

import gradtool
from gradtool.core.checkpoint import Checkpoint
from gradtool.core.dtypes import DTYPES
from gradtool.core.tensors import TensorSpec
from gradtool.formats.files.npy import open_npy
from gradtool.formats.files.npz import open_npz, recognises
from gradtool.storage.archives.inflate import inflate
from gradtool.storage.archives.zip import DEFLATED, Entry, read_directory
from gradtool.storage.reader import open_source

ARRAYS = {
    "f16": np.linspace(-1, 1, 7, dtype="<f2"),
    "f32.big_endian": np.arange(6, dtype=">f4").reshape(2, 3) / 3,
    "f64.fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "f64.fortran_vector": np.asfortranarray(np.arange(5.0)),
    "c64": np.array([1 + 2j, -3j], "<c8"),
    "c128": np.array([[1 + 2j]], "<c16"),
    "scalar": np.array(2.5, "<f4"),
    "empty": np.zeros((3, 0, 2), "<f4"),
    "weißes/rauschen": np.random.default_rng(0).standard_normal(70_000),
}


def catalogue(path: Path, raw_dtype: str | None = None) -> Checkpoint:
    dtype = DTYPES[raw_dtype] if raw_dtype else None
    with open_source(str(path)) as source:
        if path.suffix == ".npy":
            return open_npy(source, dtype)
        return open_npz(source, read_directory(source), dtype)


def directory(path: Path) -> tuple[Entry, ...]:
    with open_source(str(path)) as source:
        return read_directory(source)


def stored_bytes(tensor: TensorSpec, max_bytes: int = 1 << 20) -> bytes:
    if tensor.stream is not None:
        return b"".join(bytes(piece) for piece in tensor.stream.pieces(max_bytes))
    pieces = []
    for extent in tensor.extents:
        with open(extent.file.path, "rb") as file:
            file.seek(extent.offset)
            pieces.append(file.read(extent.nbytes))
    return b"".join(pieces)


def as_array(tensor: TensorSpec) -> np.ndarray:
    """The tensor by NumPy's own reading of dtype, strides and bytes."""
    names = {"F16": "f2", "F32": "f4", "F64": "f8", "C64": "c8", "C128": "c16"}
    dtype = np.dtype((">" if tensor.big_endian else "<") + names[tensor.dtype.name])
    strides = tensor.strides and tuple(step * dtype.itemsize for step in tensor.strides)
    return np.ndarray(tensor.shape, dtype, stored_bytes(tensor), strides=strides)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_member_has_the_bytes_type_shape_and_order_that_numpy_saved(tmp_path, save):
    save(tmp_path / "grads.npz", **ARRAYS)
    found = catalogue(tmp_path / "grads.npz")
    assert (found.format, found.skipped, found.notes) == ("npz", (), ())
    assert [tensor.name for tensor in found.tensors] == list(ARRAYS)
    for tensor in found.tensors:
        array = ARRAYS[tensor.name]
        assert tensor.numel == array.size
        assert tensor.nbytes == array.nbytes
        assert (tensor.strides is None) == array.flags.c_contiguous
        np.testing.assert_array_equal(as_array(tensor), array)
        assert stored_bytes(tensor) == array.tobytes("A")


@pytest.mark.parametrize("name", ARRAYS)
def test_a_single_array_reads_as_numpy_reads_it(tmp_path, name):
    path = tmp_path / "layer.0.weight.npy"
    np.save(path, ARRAYS[name])
    found = catalogue(path)
    (tensor,) = found.tensors
    assert (found.format, tensor.name) == ("npy", "layer.0.weight")
    np.testing.assert_array_equal(as_array(tensor), np.load(path))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_header_versions_give_the_same_array(tmp_path, version):
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, ARRAYS["f64.fortran"], version=version)
    (tensor,) = catalogue(tmp_path / "a.npy").tensors
    np.testing.assert_array_equal(as_array(tensor), ARRAYS["f64.fortran"])


@pytest.mark.parametrize("ndim", [20, 32])
def test_headers_longer_than_usual_are_read_whole(tmp_path, ndim):
    array = np.arange(3.0).reshape((1,) * (ndim - 1) + (3,))
    np.savez_compressed(tmp_path / "a.npz", array=array)
    (tensor,) = catalogue(tmp_path / "a.npz").tensors
    assert tensor.shape == array.shape
    assert stored_bytes(tensor) == array.tobytes()


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i2", ">u2", "<i4", "<u4", "<i8", "<u8"])
def test_integers_are_listed_as_skipped(tmp_path, dtype):
    np.savez(tmp_path / "a.npz", step=np.zeros(2, dtype), w=np.ones(2))
    np.save(tmp_path / "step.npy", np.zeros(2, dtype))
    kind = "bool" if dtype == "?" else "integer"
    for path in (tmp_path / "a.npz", tmp_path / "step.npy"):
        found = catalogue(path)
        assert [(skipped.name, skipped.reason) for skipped in found.skipped] == [("step", kind)]
        assert "step" not in [tensor.name for tensor in found.tensors]


@pytest.mark.parametrize(
    ("saved_as", "raw_dtype"),
    [
        (ml_dtypes.bfloat16, "BF16"),
        (ml_dtypes.bfloat16, "F16"),
        (ml_dtypes.float8_e4m3fn, "F8_E4M3"),
        (ml_dtypes.float8_e5m2, "F8_E5M2"),
        (np.dtype("V2"), "BF16"),
    ],
)
def test_nameless_elements_are_what_the_user_says(tmp_path, saved_as, raw_dtype):
    array = np.arange(8, dtype=np.uint8).view(saved_as)
    np.save(tmp_path / "a.npy", array)
    (tensor,) = catalogue(tmp_path / "a.npy", raw_dtype).tensors
    assert (tensor.dtype.name, tensor.shape) == (raw_dtype, array.shape)
    assert stored_bytes(tensor) == array.tobytes()


def test_what_the_user_says_changes_nothing_that_numpy_can_name(tmp_path):
    np.savez(tmp_path / "a.npz", f16=np.zeros(2, "f2"), i16=np.zeros(2, "i2"))
    assert catalogue(tmp_path / "a.npz", "BF16") == catalogue(tmp_path / "a.npz")


def test_gradients_beside_weights_lie_in_sections(tmp_path):
    one = np.ones(1)
    np.savez(tmp_path / "a.npz", **{"grads.w": one, "model.w": one, "loss": one})
    found = catalogue(tmp_path / "a.npz")
    assert found.section_kinds == {"grads": "gradients", "model": "weights"}
    assert [tensor.section for tensor in found.tensors] == ["grads", "model", "other"]


def test_archives_of_arrays_are_told_by_their_members(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(1))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("w.npy.txt", "hello")
    assert recognises(directory(tmp_path / "a.npz"))
    assert not recognises(directory(tmp_path / "b.zip"))


def test_names_that_differ_by_case_are_two_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", W=np.ones(1), w=np.zeros(1))
    assert [tensor.name for tensor in catalogue(tmp_path / "a.npz").tensors] == ["W", "w"]


def test_members_that_are_no_arrays_are_ignored_and_noted(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(1))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README.txt", "hello")
        archive.mkdir("folder")
    found = catalogue(tmp_path / "a.npz")
    assert [tensor.name for tensor in found.tensors] == ["w"]
    (note,) = found.notes
    assert "'README.txt'" in note
    assert "folder" not in note


def test_checksums_hold_the_checksum_of_whole_stored_members(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS, step=np.arange(3))
    found = catalogue(tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    assert [checksum.record for checksum in found.checksums] == [f"{name}.npy" for name in ARRAYS]
    for checksum in found.checksums:
        assert (
            zipfile.crc32(content[checksum.covers.offset : checksum.covers.end]) == checksum.crc32
        )
        assert len(checksum.places) == 2
        for place in checksum.places:
            assert content[place : place + 4] == checksum.crc32.to_bytes(4, "little")


def test_deflated_members_have_no_checksum(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
    assert catalogue(tmp_path / "a.npz").checksums == ()


@pytest.mark.parametrize("max_bytes", [1, 7, 4096, 100_000, 280_000, 560_000, 1 << 30])
def test_a_stream_comes_in_pieces_of_the_size_asked_for(tmp_path, max_bytes):
    size = 1_000 if max_bytes < 100 else 70_000
    array = np.random.default_rng(1).standard_normal(size)
    np.savez_compressed(tmp_path / "a.npz", a=array)
    (tensor,) = catalogue(tmp_path / "a.npz").tensors
    sizes, content = [], b""
    for piece in tensor.stream.pieces(max_bytes):
        sizes.append(len(piece))
        content += piece
    assert content == array.tobytes()
    assert set(sizes[:-1]) <= {max_bytes}
    assert 0 < sizes[-1] <= max_bytes


def test_a_stream_can_be_opened_in_another_process(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=ARRAYS["f16"])
    (tensor,) = catalogue(tmp_path / "a.npz").tensors
    assert stored_bytes(pickle.loads(pickle.dumps(tensor))) == ARRAYS["f16"].tobytes()  # noqa: S301


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="counts open files in /dev/fd")
def test_a_stream_that_is_left_early_keeps_no_file_open(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=ARRAYS["weißes/rauschen"])
    (tensor,) = catalogue(tmp_path / "a.npz").tensors
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    pieces = tensor.stream.pieces(1024)
    next(pieces)
    assert len(os.listdir("/dev/fd")) == before + 1
    pieces.close()
    assert len(os.listdir("/dev/fd")) == before


class Pipe(io.RawIOBase):
    """A file that cannot seek: zipfile then writes data descriptors."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.content += data
        return len(data)


def numpy_stored(path: Path) -> None:
    np.savez(path, **ARRAYS)


def numpy_deflated(path: Path) -> None:
    np.savez_compressed(path, **ARRAYS)


def torch_saved(path: Path) -> None:
    torch.save({"w": torch.arange(100.0), "empty": torch.zeros(0), "b": torch.ones(3)}, path)


def torch_rebuilt_by_zipfile(path: Path) -> None:
    torch_saved(path)
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in records.items():
            new.writestr(name, content)


def zipfile_streamed(path: Path) -> None:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        archive.writestr("stored", b"hello" * 9)
        archive.writestr("deflated", b"hello" * 99, zipfile.ZIP_DEFLATED)
        archive.writestr("empty", b"")
        archive.writestr("folder/", b"")
        with archive.open("wide", "w", force_zip64=True) as member:
            member.write(b"content")
    path.write_bytes(pipe.content)


def zipfile_with_folders_and_comment(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("folder")
        archive.writestr("folder/naïve", b"hello")
        archive.writestr("folder/plain", b"hello", zipfile.ZIP_DEFLATED)
        archive.comment = b"a comment " * 500


def zipfile_appended(path: Path) -> None:
    numpy_stored(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more", b"hello")


def zipfile_empty(path: Path) -> None:
    zipfile.ZipFile(path, "w").close()


WRITERS = [
    numpy_stored,
    numpy_deflated,
    torch_saved,
    torch_rebuilt_by_zipfile,
    zipfile_streamed,
    zipfile_with_folders_and_comment,
    zipfile_appended,
    zipfile_empty,
]


@pytest.mark.parametrize("write", WRITERS)
def test_the_directory_is_what_zipfile_reads(tmp_path, write):
    path = tmp_path / "archive.npz"
    write(path)
    entries = directory(path)
    with zipfile.ZipFile(path) as archive:
        assert [entry.name for entry in entries] == archive.namelist()
        for entry, info in zip(entries, archive.infolist(), strict=True):
            assert entry.method == info.compress_type
            assert entry.crc32 == info.CRC
            assert entry.compressed_nbytes == info.compress_size
            assert entry.nbytes == info.file_size
            assert entry.header_offset == info.header_offset
            assert unpacked(path, entry) == archive.read(info)


@pytest.mark.parametrize("write", WRITERS)
def test_every_stored_copy_of_a_crc_is_known(tmp_path, write):
    path = tmp_path / "archive.npz"
    write(path)
    entries = directory(path)
    headers = bytearray(path.read_bytes())
    for entry in entries:
        headers[entry.offset : entry.offset + entry.compressed_nbytes] = bytes(
            entry.compressed_nbytes
        )
    for crc32 in {entry.crc32 for entry in entries} - {0}:
        copies = re.finditer(re.escape(crc32.to_bytes(4, "little")), headers)
        known = [place for entry in entries if entry.crc32 == crc32 for place in entry.crc_places]
        assert [copy.start() for copy in copies] == sorted(known)


def unpacked(path: Path, entry: Entry) -> bytes:
    with open_source(str(path)) as source:
        if entry.method == DEFLATED:
            return b"".join(map(bytes, inflate(source.file, entry, 0, max_bytes=50)))
        return source.read(entry.offset, entry.nbytes)


def test_more_entries_than_the_plain_end_record_can_count_are_all_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(65_600):
            archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
    assert [entry.name for entry in directory(tmp_path / "a.zip")] == list(map(str, range(65_600)))


@pytest.mark.parametrize("alignment", [1, 64, 4096, 65536])
def test_every_alignment_that_torch_can_write_is_read(tmp_path, alignment):
    before = torch.utils.serialization.config.save.storage_alignment
    torch.utils.serialization.config.save.storage_alignment = alignment
    try:
        torch.save({"w": torch.arange(9.0)}, tmp_path / "a.pt")
    finally:
        torch.utils.serialization.config.save.storage_alignment = before
    (entry,) = [entry for entry in directory(tmp_path / "a.pt") if entry.name == "a/data/0"]
    assert entry.offset % alignment == 0
    assert unpacked(tmp_path / "a.pt", entry) == np.arange(9, dtype="<f4").tobytes()


def test_switched_off_checksums_read_as_zero_and_cover_nothing(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(9.0)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert {entry.crc32 for entry in directory(tmp_path / "a.pt")} == {0}


def test_text_and_dates_beside_gradients_are_listed_and_hide_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(
        path,
        g=np.ones(4),
        names=np.array(["wte", "wpe"]),
        tags=np.array([b"a", b"bc"]),
        when=np.array(["2026-01-01"], dtype="datetime64[D]"),
    )
    measurement = gradtool.measure(path)
    assert [(item.name, item.reason) for item in measurement.skipped] == [
        (name, "text or dates") for name in ("names", "tags", "when")
    ]
    assert measurement.total is not None
    assert measurement.total.stats.norm == 2.0
    assert not measurement.total.lower_bound


def test_an_archive_of_no_array_is_an_empty_dump(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz")
    with pytest.raises(gradtool.EmptyDumpError, match="holds no tensor at all"):
        gradtool.measure(tmp_path / "x.npz")
