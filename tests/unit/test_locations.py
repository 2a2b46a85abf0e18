"""Locations are known again wherever the same bytes are, and nowhere else."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradtool.core.locations import Location
from gradtool.errors import FileChangedError, UsageError
from gradtool.storage.memory import ProcessMemory, memory
from gradtool.storage.reader import LocalFile, open_source


def first_bytes(location: Location, offset: int, nbytes: int) -> bytes:
    """What lies there, for whichever process asks."""
    with location.open() as source:
        data = bytearray(nbytes)
        source.read_into(offset, memoryview(data))
        source.check_unchanged()
    return bytes(data)


def local(path: Path) -> LocalFile:
    """The location of a file."""
    with open_source(str(path)) as source:
        file = source.file
    assert isinstance(file, LocalFile)
    return file


def test_a_file_is_the_same_on_a_host_that_numbers_its_devices_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"gradients")
    here = local(path)
    there = replace(here, device=here.device + 7)
    assert there == here
    assert hash(there) == hash(here)
    assert first_bytes(there, 0, 4) == b"grad"
    assert there.identity != here.identity, "two files of one host are told apart by it"


@pytest.mark.parametrize("field", ["inode", "size", "mtime_ns", "ctime_ns"])
def test_another_file_of_that_name_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"gradients")
    file = local(path)
    with pytest.raises(FileChangedError, match=r"a\.bin: changed while it was read"):
        replace(file, **{field: getattr(file, field) + 1}).open()


def test_memory_is_read_by_its_own_process_only() -> None:
    array = np.arange(4, dtype=np.uint8)
    here = memory()
    assert first_bytes(here, array.ctypes.data, 4) == bytes(range(4))
    assert pickle.loads(pickle.dumps(here)) == here  # noqa: S301 - what was pickled here
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as others:
        with pytest.raises(UsageError, match="by the process that has them only"):
            others.submit(first_bytes, here, array.ctypes.data, 4).result()
        assert others.submit(memory).result() != here
    # Processes of two containers may have the same number.
    with pytest.raises(UsageError, match="by the process that has them only"):
        ProcessMemory(here.pid, b"another").open()


def test_memory_has_no_size_to_run_into_and_is_no_file() -> None:
    assert memory() is memory()
    assert memory().identity is None
    with pytest.raises(UsageError):
        ProcessMemory(os.getpid() + 1, memory().start).open()
