"""Clips that must not happen: each is refused by name, writes nothing and loses nothing."""

from __future__ import annotations

import math
import os
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from nobody import as_nobody, give

import gradtool
from gradtool.errors import (
    CorruptFileError,
    EmptyDumpError,
    FileAccessError,
    FileChangedError,
    GradtoolError,
    NonFiniteError,
    NormRangeError,
    UnsupportedFormatError,
    UsageError,
)

BIG = 3_000_000
"""Elements of a file of several tasks."""


def dump(directory: Path, **tensors: Any) -> Path:
    path = directory / "grads.safetensors"
    found = tensors or {"w": torch.tensor([3.0, 4.0])}
    safetensors.torch.save_file(found, path)
    return path


def everything(directory: Path) -> dict[str, object]:
    """All that lies in a directory: content of files, targets of links, names of directories."""
    return {
        str(path.relative_to(directory)): (
            os.readlink(path)
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else None
        )
        for path in sorted(directory.rglob("*"))
    }


def refused(
    kind: type[GradtoolError], directory: Path, path: object, out: object, **options: Any
) -> str:
    """The error's words; nothing in `directory` may have changed, leftovers included."""
    before = everything(directory)
    with pytest.raises(kind) as caught:
        gradtool.clip(path, out, **({"max_norm": 1.0} | options))  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert everything(directory) == before
    return str(caught.value)


# What cannot be clipped


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", [{}, {"per_tensor": True}, {"max_norm": None, "clip_value": 1}])
def test_nonfinite_gradients_are_refused_by_name(
    value: float, options: dict[str, Any], tmp_path: Path
) -> None:
    bad = torch.ones(3, 4)
    bad[1, 2] = value
    path = dump(tmp_path, good=torch.ones(2), spoilt=bad, other=torch.tensor([value]))
    words = refused(NonFiniteError, tmp_path, path, tmp_path / "out", **options)
    assert "'spoilt'" in words
    assert "[1, 2]" in words
    assert "'good'" not in words
    with pytest.raises(NonFiniteError) as caught:
        gradtool.clip(path, tmp_path / "out", **({"max_norm": 1.0} | options))
    assert set(caught.value.tensors) == {"spoilt", "other"}
    assert caught.value.exit_code == 1


def test_a_total_norm_does_not_let_nonfinite_gradients_through(tmp_path: Path) -> None:
    path = dump(tmp_path, w=torch.tensor([1.0, math.nan]))
    refused(NonFiniteError, tmp_path, path, tmp_path / "out", total_norm=5.0)
    refused(NonFiniteError, tmp_path, path, None, dry_run=True)


@pytest.mark.parametrize("max_norm", [0, 1, math.inf])
@pytest.mark.parametrize("options", [{}, {"per_tensor": True}, {"nonfinite": "keep"}])
@pytest.mark.parametrize(("value", "p"), [(1.5e308, 2.0), (1e305, 0.5), (1e306, 1)])
def test_a_norm_beyond_float64_is_refused(
    value: float, p: float, options: dict[str, Any], max_norm: float, tmp_path: Path
) -> None:
    path = dump(tmp_path, huge=torch.full((1000,), value, dtype=torch.float64))
    options = options | {"max_norm": max_norm, "norm_type": p}
    words = refused(NormRangeError, tmp_path, path, tmp_path / "out", **options)
    assert "larger than any float64" in words
    assert NormRangeError.exit_code == 1


def test_a_norm_that_a_loss_scale_takes_below_float64_is_refused(tmp_path: Path) -> None:
    path = dump(tmp_path, w=torch.tensor([5e-324], dtype=torch.float64))
    with pytest.raises(GradtoolError) as caught:
        gradtool.clip(path, tmp_path / "out", max_norm=0, loss_scale=1e300, eps=0)
    assert isinstance(caught.value, NormRangeError)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_norm_from_elsewhere_serves_where_float64_cannot_hold_it(tmp_path: Path) -> None:
    path = dump(tmp_path, w=torch.full((4,), 1.5e308, dtype=torch.float64))
    refused(NormRangeError, tmp_path, path, tmp_path / "out")
    gradtool.clip(path, tmp_path / "out", max_norm=1, total_norm=1e308, eps=0)
    found = safetensors.torch.load_file(tmp_path / "out")["w"]
    assert found.tolist() == [1.5e308 * (1 / 1e308)] * 4


def test_several_sections_and_none_chosen_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save({"model": {"w": torch.ones(3)}, "grads": {"w": torch.ones(3)}}, path)
    words = refused(UsageError, tmp_path, path, tmp_path / "out.pt")
    assert "'model'" in words
    assert "'grads'" in words
    assert "`section`" in words
    refused(UsageError, tmp_path, path, tmp_path / "out.pt", max_norm=None, clip_value=1)
    refused(UsageError, tmp_path, path, tmp_path / "out.pt", section="nothing")


@pytest.mark.parametrize("kind", ["sparse", "scale"])
def test_what_cannot_be_measured_is_refused_by_name_unless_left_out(
    kind: str, tmp_path: Path
) -> None:
    if kind == "sparse":
        odd = torch.sparse_coo_tensor(
            torch.tensor([[1, 1]]), torch.ones(2), (4,), check_invariants=True, is_coalesced=False
        )
    else:
        odd = torch.ones(4).to(torch.float8_e8m0fnu)
    path, out = tmp_path / "grads.pt", tmp_path / "out.pt"
    torch.save({"odd": odd, "w": torch.tensor([3.0, 4.0])}, path)
    assert "'odd'" in refused(UnsupportedFormatError, tmp_path, path, out)
    gradtool.clip(path, out, max_norm=2.5, eps=0, exclude="odd")
    found = torch.load(out, weights_only=False)
    assert found["w"].tolist() == [1.5, 2.0]
    if kind == "sparse":
        assert not found["odd"].is_coalesced()
        assert found["odd"].to_dense().tolist() == [0, 2, 0, 0]


def test_complex_gradients_are_not_clipped_by_value(tmp_path: Path) -> None:
    path = tmp_path / "g.pt"
    torch.save({"real": torch.ones(2), "z": torch.ones(2, dtype=torch.complex64)}, path)
    options = {"max_norm": None, "clip_value": 0.5}
    assert "'z'" in refused(UsageError, tmp_path, path, tmp_path / "out.pt", **options)
    gradtool.clip(path, tmp_path / "out.pt", clip_value=0.5, exclude="z")


def test_dumps_without_gradients_are_refused(tmp_path: Path) -> None:
    path = dump(tmp_path, step=torch.tensor(5))
    refused(EmptyDumpError, tmp_path, path, tmp_path / "out")
    refused(UsageError, tmp_path, dump(tmp_path), tmp_path / "out", include="nothing*")


# Arguments that make no sense


@pytest.mark.parametrize(
    "options",
    [
        {"max_norm": -1.0},
        {"max_norm": -5e-324},
        {"max_norm": math.nan},
        {"max_norm": -math.inf},
        {"max_norm": "much"},
        {"max_norm": []},
        {"max_norm": None},
        {"max_norm": 1, "clip_value": 1},
        {"max_norm": None, "clip_value": math.nan},
        {"max_norm": None, "clip_value": -1},
        {"max_norm": None, "clip_value": "x"},
        {"max_norm": None, "clip_value": 1, "per_tensor": True},
        {"max_norm": None, "clip_value": 1, "total_norm": 1},
        {"eps": -1e-6},
        {"eps": math.nan},
        {"eps": math.inf},
        {"eps": "small"},
        {"eps": None},
        {"norm_type": 0},
        {"norm_type": -1},
        {"norm_type": -math.inf},
        {"norm_type": math.nan},
        {"total_norm": math.inf},
        {"total_norm": math.nan},
        {"total_norm": -1},
        {"total_norm": 1, "per_tensor": True},
        {"nonfinite": "ignore"},
        {"loss_scale": 0},
        {"threads": 0},
        {"in_place": True},
    ],
    ids=str,
)
def test_arguments_out_of_their_range_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    refused(UsageError, tmp_path, dump(tmp_path), tmp_path / "out", **options)


def test_a_clip_to_nowhere_is_refused(tmp_path: Path) -> None:
    refused(UsageError, tmp_path, dump(tmp_path), None)


# Places that results must not go to


PLACES: dict[str, tuple[Callable[[Path, Path], object], type[GradtoolError]]] = {
    "the input": (lambda path, _: path, UsageError),
    "the input by another spelling": (
        lambda path, tmp: f"{tmp}/./sub/../{path.name}",
        UsageError,
    ),
    "a link to the input": (lambda _, tmp: tmp / "link", UsageError),
    "a link to that link": (lambda _, tmp: tmp / "link2", UsageError),
    "a hard link to the input": (lambda _, tmp: tmp / "hard", UsageError),
    "a file that exists": (lambda _, tmp: tmp / "there", UsageError),
    "a directory": (lambda _, tmp: tmp / "sub", UsageError),
    "a directory by its slash": (lambda _, tmp: f"{tmp}/out/", UsageError),
    "no name": (lambda _, __: "", UsageError),
    "a missing directory": (lambda _, tmp: tmp / "gone" / "out", FileAccessError),
    "a file as a directory": (lambda _, tmp: tmp / "there" / "out", FileAccessError),
    "a device": (lambda _, __: "/dev/null", UsageError),
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_must_not_be_written_is_refused(
    place: str, force: bool, tmp_path: Path
) -> None:
    where, kind = PLACES[place]
    path = dump(tmp_path)
    (tmp_path / "link").symlink_to(path.name)
    (tmp_path / "link2").symlink_to("link")
    (tmp_path / "hard").hardlink_to(path)
    (tmp_path / "there").write_text("precious")
    (tmp_path / "sub").mkdir()
    if place == "a file that exists" and force:
        gradtool.clip(path, tmp_path / "there", max_norm=2.5, eps=0, force=True)
        loaded = safetensors.torch.load_file(tmp_path / "there")
        assert loaded["w"].tolist() == [1.5, 2.0]
        return
    refused(kind, tmp_path, path, where(path, tmp_path), force=force)


def test_a_link_that_names_nothing_yet_is_followed(tmp_path: Path) -> None:
    path = dump(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "out").symlink_to("sub/new")
    gradtool.clip(path, tmp_path / "out", max_norm=2.5, eps=0, force=True)
    assert (tmp_path / "out").is_symlink()
    loaded = safetensors.torch.load_file(tmp_path / "sub" / "new")
    assert loaded["w"].tolist() == [1.5, 2.0]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "where", ["run", "run/out", "run/sub/out", "link", "link/out", "full", "file"]
)
def test_directories_go_to_new_directories_outside_of_them(
    where: str, force: bool, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "sub").mkdir(parents=True)
    dump(run)
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    (tmp_path / "file").write_text("x")
    refused(UsageError, tmp_path, run, tmp_path / where, force=force)


def test_a_directory_beside_one_of_a_similar_name_is_not_inside_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    dump(run)
    gradtool.clip(run, tmp_path / "run2", max_norm=1)
    assert (tmp_path / "run2" / "grads.safetensors").exists()


def test_directories_are_not_clipped_in_place(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    dump(run)
    refused(UsageError, tmp_path, run, None, in_place=True)


def test_a_read_only_directory_is_refused(anyones: Path) -> None:
    closed, run = anyones / "closed", anyones / "run"
    closed.mkdir()
    run.mkdir()
    path, other = dump(closed), dump(run)
    give(anyones)
    closed.chmod(0o555)
    with as_nobody():
        refused(FileAccessError, anyones, other, closed / "out")
        refused(FileAccessError, anyones, run, closed / "out")
        refused(FileAccessError, anyones, path, None, in_place=True)


def test_an_input_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(FileAccessError, tmp_path, tmp_path / "gone.pt", tmp_path / "out.pt")
    refused(FileAccessError, tmp_path, tmp_path / "gone.pt", None, in_place=True)


# Files that are damaged, or change


def members_of(path: Path) -> dict[str, tuple[int, int]]:
    """Where each member's data is: offset and bytes, by the directory and the local header."""
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return {
            info.filename: (
                info.header_offset
                + 30
                + int.from_bytes(data[info.header_offset + 26 : info.header_offset + 28], "little")
                + int.from_bytes(data[info.header_offset + 28 : info.header_offset + 30], "little"),
                info.compress_size,
            )
            for info in archive.infolist()
        }


def spoil(path: Path, member: str) -> None:
    """Turn one bit in the last tensor byte but three of a member."""
    offset, nbytes = members_of(path)[member]
    data = bytearray(path.read_bytes())
    data[offset + nbytes - 4] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("count", [100, BIG])
@pytest.mark.parametrize("writer", ["torch", "npz"])
def test_stored_data_that_fails_its_checksum_is_refused(
    writer: str, count: int, tmp_path: Path
) -> None:
    values = np.linspace(-1, 1, count, dtype=np.float32)
    if writer == "torch":
        path, member = tmp_path / "g.pt", "g/data/1"
        torch.save({"a": torch.ones(7), "w": torch.from_numpy(values)}, path)
    else:
        path, member = tmp_path / "g.npz", "w.npy"
        np.savez(path, a=np.ones(7), w=values)
    spoil(path, member)
    words = refused(CorruptFileError, tmp_path, path, tmp_path / "out")
    assert member in words
    assert "CRC" in words
    refused(CorruptFileError, tmp_path, path, None, in_place=True)
    # What does not change is not vouched for, and stays as it is.
    gradtool.clip(path, tmp_path / "out", max_norm=1, exclude="w")
    after, before = (members_of(p)[member] for p in (tmp_path / "out", path))
    assert after == before
    slices = [p.read_bytes()[after[0] : sum(after)] for p in (tmp_path / "out", path)]
    assert slices[0] == slices[1]


@pytest.mark.parametrize("at", [3, -3], ids=["names", "checksums"])
def test_an_id_that_fails_its_checksum_is_refused(at: int, tmp_path: Path) -> None:
    path, record = tmp_path / "g.pt", "g/.data/serialization_id"
    torch.save({"w": torch.tensor([3.0, 4.0])}, path)
    offset, nbytes = members_of(path)[record]
    data = bytearray(path.read_bytes())
    data[offset + at % nbytes] ^= 1
    path.write_bytes(data)
    words = refused(CorruptFileError, tmp_path, path, tmp_path / "out")
    assert record in words
    assert "CRC" in words
    refused(CorruptFileError, tmp_path, path, None, in_place=True)


class Reading:
    """Bytes as numbers of a type, saved as NumPy saves an array, but sharing the bytes."""

    def __init__(self, raw: bytes, dtype: str) -> None:
        self._raw = raw
        self._dtype = np.dtype(dtype)

    def __reduce__(self) -> tuple[object, ...]:
        rebuild, args, *_ = np.zeros(0).__reduce__()
        count = len(self._raw) // self._dtype.itemsize
        return rebuild, args, (1, (count,), self._dtype, False, self._raw)


@pytest.mark.parametrize("chosen", [{"exclude": "other"}, {"include": "first"}])
@pytest.mark.parametrize("other", ["<f8", "<f2", "<c8"])
def test_leaving_out_one_of_two_types_of_the_same_bytes_is_refused(
    other: str, chosen: dict[str, str], tmp_path: Path
) -> None:
    path, raw = tmp_path / "g.pt", np.array([3.0, 4.0] * 40, np.float32).tobytes()
    arrays = {"first": Reading(raw, "<f4"), "other": Reading(raw, other)}
    torch.save(arrays, path, pickle_protocol=4)
    loaded = torch.load(path, weights_only=False)
    assert loaded["first"].tobytes() == loaded["other"].tobytes() == raw
    assert path.read_bytes().count(raw) == 1
    words = refused(CorruptFileError, tmp_path, path, tmp_path / "out", **chosen)
    assert "'first'" in words
    assert "'other'" in words
    refused(CorruptFileError, tmp_path, path, None, in_place=True, **chosen)


@pytest.mark.parametrize("count", [100, 600_000])
def test_deflated_data_that_fails_its_checksum_is_refused(count: int, tmp_path: Path) -> None:
    path = tmp_path / "g.npz"
    np.savez_compressed(path, a=np.ones(7), w=np.linspace(-1, 1, count))
    with zipfile.ZipFile(path) as archive:
        crc32 = archive.getinfo("w.npy").CRC.to_bytes(4, "little")
    data = path.read_bytes()
    assert data.count(crc32) == 2
    path.write_bytes(data.replace(crc32, bytes([crc32[0] ^ 1]) + crc32[1:]))
    assert "w.npy" in refused(CorruptFileError, tmp_path, path, tmp_path / "out.npz")
    refused(CorruptFileError, tmp_path, path, None, in_place=True)


def test_a_deflated_member_that_does_not_change_is_checked_when_it_is_repacked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "g.npz"
    np.savez_compressed(path, a=np.ones(7), text=np.array(["x" * 50]))
    with zipfile.ZipFile(path) as archive:
        crc32 = archive.getinfo("text.npy").CRC.to_bytes(4, "little")
    data = path.read_bytes()
    path.write_bytes(data.replace(crc32, bytes([crc32[0] ^ 1]) + crc32[1:]))
    assert "text.npy" in refused(CorruptFileError, tmp_path, path, tmp_path / "out.npz")


def deflated(path: Path, extra: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        member = zipfile.ZipInfo("w.npy")
        member.compress_type, member.extra = zipfile.ZIP_DEFLATED, extra
        with archive.open(member, "w") as sink:
            np.lib.format.write_array(sink, np.float32([3, 4]))
    return path


def foreign_field(nbytes: int) -> bytes:
    """An extra field that no reader knows, of `nbytes` in all."""
    return struct.pack("<2H", 0xCAFE, nbytes - 4) + bytes(nbytes - 4)


@pytest.mark.parametrize("version", [64, 99])
def test_an_archive_of_a_later_version_than_pythons_is_not_repacked(
    version: int, tmp_path: Path
) -> None:
    path = deflated(tmp_path / "g.npz")
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, data.index(b"PK\1\2") + 6, version)
    path.write_bytes(data)
    words = refused(CorruptFileError, tmp_path, path, tmp_path / "out.npz")
    assert f"zip file version {version / 10}" in words
    refused(CorruptFileError, tmp_path, path, None, in_place=True)
    assert CorruptFileError.exit_code == 3


@pytest.mark.parametrize("nbytes", [65_508, 65_520, 65_535])
def test_an_extra_field_that_leaves_no_room_for_sizes_is_refused(
    nbytes: int, tmp_path: Path
) -> None:
    path = deflated(tmp_path / "g.npz", foreign_field(nbytes))
    words = refused(UnsupportedFormatError, tmp_path, path, tmp_path / "out.npz")
    assert f"'w.npy': {nbytes} bytes of extra fields" in words
    refused(UnsupportedFormatError, tmp_path, path, None, in_place=True)
    assert UnsupportedFormatError.exit_code == 3


def test_an_extra_field_that_leaves_just_enough_room_survives(tmp_path: Path) -> None:
    extra = foreign_field(65_507)
    path = deflated(tmp_path / "g.npz", extra)
    gradtool.clip(path, in_place=True, max_norm=2.5, eps=0)
    with zipfile.ZipFile(path) as archive, np.load(path) as arrays:
        assert archive.getinfo("w.npy").extra == extra
        assert arrays["w"].tolist() == [1.5, 2.0]


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def touch(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.replace(path)


def overwrite_and_put_the_time_back(path: Path) -> None:
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = [append, touch, shrink, replaced, overwrite_and_put_the_time_back]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("layout", ["safetensors", "npz", "directory"])
def test_a_source_that_changes_meanwhile_is_refused(
    layout: str, part: float, change: Callable[[Path], None], tmp_path: Path
) -> None:
    # 0.2 is in the first pass, 0.5 in the second, 0.9 in the third, which reads what was written.
    tensor = torch.linspace(-1, 1, BIG)
    run = tmp_path / "run"
    run.mkdir()
    source = run / "grads.safetensors"
    path: Path = run if layout == "directory" else source
    if layout == "npz":
        path = source = run / "grads.npz"
        np.savez(source, w=tensor.numpy())
    else:
        safetensors.torch.save_file({"w": tensor}, source)
    changed: list[dict[str, object]] = []

    def progress(done: int, todo: int) -> None:
        if not changed and done >= part * todo:
            change(source)
            changed.append(everything(run))

    with pytest.raises(FileChangedError, match="grads"):
        gradtool.clip(path, tmp_path / "out", max_norm=1, progress=progress)
    assert changed
    assert everything(run) == changed[0]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("change", CHANGES)
def test_no_norm_is_told_of_a_file_that_changes_while_it_is_measured(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = dump(tmp_path, w=torch.ones(20 * BIG))
    changed = []

    def progress(done: int, todo: int) -> None:
        if not changed and done > 0.1 * todo:
            changed.append(done)
            change(path)

    with pytest.raises(FileChangedError):
        gradtool.measure(path, threads=1, progress=progress)
    assert changed


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path, out = dump(tmp_path), tmp_path / "out"

    def progress(done: int, todo: int) -> None:
        if done == todo:
            out.write_text("somebody else's")

    with pytest.raises(UsageError, match="exists"):
        gradtool.clip(path, out, max_norm=1, progress=progress)
    assert out.read_text() == "somebody else's"
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "out"]


def test_an_observer_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = dump(tmp_path, w=torch.ones(BIG))

    def progress(done: int, todo: int) -> None:
        if done > todo / 2:
            raise KeyboardInterrupt

    for out, in_place in ((tmp_path / "out", False), (None, True)):
        before = everything(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            gradtool.clip(path, out, in_place=in_place, max_norm=1, progress=progress)
        assert everything(tmp_path) == before


@pytest.mark.parametrize("layout", ["safetensors", "npz", "deflated", "directory"])
@pytest.mark.parametrize("options", [{}, {"verify": True}, {"max_norm": 1e9}])
def test_progress_goes_forwards_to_an_end_that_stays_where_it_is(
    layout: str, options: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    path = dump(run, w=torch.ones(BIG), b=torch.ones(9))
    (run / "notes.txt").write_text("unrelated")
    if layout in ("npz", "deflated"):
        path = tmp_path / "g.npz"
        save = np.savez if layout == "npz" else np.savez_compressed
        save(path, w=np.ones(BIG, np.float32), b=np.ones(9))
    seen: list[tuple[int, int]] = []
    source = run if layout == "directory" else path
    gradtool.clip(
        source,
        tmp_path / "out",
        progress=lambda done, todo: seen.append((done, todo)),
        **({"max_norm": 1.0} | options),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len({todo for _, todo in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


def test_no_warning_is_left_for_the_user_to_read(tmp_path: Path) -> None:
    path = dump(tmp_path, w=torch.tensor([math.nan, math.inf, 1e-38, 3e38]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradtool.clip(path, tmp_path / "out", max_norm=1e-30, nonfinite="keep")
