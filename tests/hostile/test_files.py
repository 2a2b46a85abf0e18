"""Files that are missing, strange, or change under the reader."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from dumps import write_safetensors
from nobody import as_nobody

import gradtool
from gradtool.storage.reader import open_source


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(gradtool.FileAccessError, match="no such file"):
        gradtool.measure(tmp_path / "nothing.pt")


def test_a_path_with_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gradtool.FileAccessError, match="cannot be opened"):
        gradtool.measure(f"{tmp_path}/a\0b")


def test_a_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(gradtool.FileAccessError, match="is a named pipe"):
        gradtool.measure(tmp_path / "pipe.pt")


def test_a_device_is_refused() -> None:
    with pytest.raises(gradtool.FileAccessError, match="is a character device"):
        gradtool.measure(os.devnull)


def test_a_file_without_permission_is_named(anyones: Path) -> None:
    path = anyones / "secret.pt"
    path.touch(mode=0)
    measure = gradtool.measure  # loaded while everything may be read
    with as_nobody(), pytest.raises(gradtool.FileAccessError, match="Permission denied") as caught:
        measure(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (bytes(257) + b"ustar\x0000" + bytes(300), "tar archive"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"<!doctype html><html>", "web page"),
        (b"\x80\x04\x95", "cut off by the end of the pickle"),
        (b"\x78\x9c\0", "compressed with zlib"),
        (b"hello", "in no format that gradtool knows"),
    ],
)
def test_what_is_no_checkpoint_is_named_as_what_it_is(
    content: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(gradtool.InputError) as caught:
        gradtool.measure(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def big(path: Path) -> Path:
    return write_safetensors(path, {"x": ("F32", np.ones(20_000_000, np.float32))})


def test_a_file_that_changes_while_it_is_read_gives_no_figure(tmp_path: Path) -> None:
    path = big(tmp_path / "x.safetensors")

    def touch(done: int, todo: int) -> None:
        if done < todo // 3:
            with path.open("r+b") as file:
                file.seek(-4, os.SEEK_END)
                file.write(b"\0\0\0\0")

    with pytest.raises(gradtool.FileChangedError, match="changed while it was read"):
        gradtool.measure(path, progress=touch, threads=1)


def test_a_file_that_shrinks_while_it_is_read_gives_no_figure(tmp_path: Path) -> None:
    path = big(tmp_path / "x.safetensors")

    def cut(done: int, _: int) -> None:
        os.truncate(path, done)

    with pytest.raises(gradtool.FileChangedError):
        gradtool.measure(path, progress=cut, threads=1)


def test_a_read_of_bytes_that_are_gone_says_that_it_shrank(tmp_path: Path) -> None:
    path = big(tmp_path / "x.safetensors")
    with open_source(str(path)) as source:
        os.truncate(path, 1000)
        with pytest.raises(gradtool.FileChangedError, match="it shrank"):
            source.read(2000, 10)


def test_a_file_replaced_by_another_gives_no_figure(tmp_path: Path) -> None:
    path = big(tmp_path / "x.safetensors")
    other = big(tmp_path / "y.safetensors")

    def swap(_: int, __: int) -> None:
        if other.exists():
            os.replace(other, path)

    with pytest.raises(gradtool.FileChangedError):
        gradtool.measure(path, progress=swap, threads=1)
