"""A disk that takes no more is one clear error; what was there is there, and nothing else."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dumps import write_safetensors
from forks import Forks
from halved import (
    HALVE,
    content,
    deflated_npz,
    gradients,
    halved_directory,
    halved_file,
    same_arrays,
)
from nobody import IS_ROOT, as_nobody

import gradtool
from gradtool.errors import FileAccessError
from gradtool.storage.directories import opened
from gradtool.storage.files import require_space

MODES = ["new file", "forced", "in place", "directory", "deflated", "deflated in place"]
ELEMENTS = 1 << 18
NBYTES = 4 * ELEMENTS
PAGE = 4096


class Case:
    """A source in a folder, how it is clipped, and what must come of it."""

    def __init__(self, mode: str, folder: Path) -> None:
        self.folder = folder
        self.source, self.target = folder / "source", folder / "out"
        if mode.endswith("in place"):
            self.target = self.source
        self._deflated = mode.startswith("deflated")
        if self._deflated:
            self.source.write_bytes(deflated_npz(ELEMENTS))
        elif mode == "directory":
            self._dump = halved_directory(ELEMENTS // 2, NBYTES)
            self._dump.write(self.source)
        else:
            self._dump = halved_file(ELEMENTS, 100)
            self._dump.write(self.source)
        if mode == "forced":
            self.target.write_bytes(b"old")
        self._where = ["--in-place"] if mode.endswith("in place") else ["-o", "OUT"]
        self._where += ["--force"] if mode == "forced" else []

    def args(self, seen_at: Path) -> list[str]:
        """The command, where a process sees the folder at `seen_at`."""
        where = [str(seen_at / "out") if word == "OUT" else word for word in self._where]
        return ["clip", str(seen_at / "source"), *where, *HALVE]

    @property
    def nbytes_on_disk(self) -> int:
        """What the source takes of a disk in whole pages, and so does what becomes of it."""
        found = [self.source] if self.source.is_file() else self.source.rglob("*")
        sizes = [path.stat().st_size for path in found if path.is_file()]
        return sum(-(-size // PAGE) * PAGE for size in sizes)

    def check(self) -> None:
        """Assert that it was clipped."""
        if self._deflated:
            assert same_arrays(self.target.read_bytes(), deflated_npz(ELEMENTS, 0.5))
        else:
            assert self._dump.state(self.target) == "new"


def reserve(needed: int) -> int:
    """What a clip leaves of a disk for others."""
    return (1 << 20) + needed // 128


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [0, 1, PAGE, NBYTES // 4, NBYTES // 2 - 1])
def test_a_file_that_may_not_grow_so_long_is_an_error_with_the_target_untouched(
    mode: str, limit: int, forks: Forks, tmp_path: Path
) -> None:
    case = Case(mode, tmp_path)
    before, names = content(tmp_path), sorted(os.listdir(tmp_path))
    run = forks.run(*case.args(tmp_path), fsize=limit)
    assert (run.code, run.out) == (3, "")
    assert f"{case.target}: cannot be written: {os.strerror(errno.EFBIG)}" in run.error
    assert content(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == names
    assert forks.run(*case.args(tmp_path)).code == 0
    case.check()


class SmallDisk:
    """A tmpfs that only one warmed process and its children see."""

    def __init__(self, seen_at: Path, forks: Forks) -> None:
        self.seen_at = seen_at
        self.forks = forks
        self.folder = Path(f"/proc/{forks.pid}/root{seen_at}")

    @property
    def free(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def leave(self, nbytes: int) -> None:
        """Fill it up but for so many bytes."""
        with (self.folder / "ballast").open("wb") as file:
            left = self.free - nbytes
            assert left > 0
            file.write(bytes(left))
        assert self.free == nbytes


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], SmallDisk]]:
    folder = tmp_path_factory.mktemp("disk")
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    mount = f"mount -t tmpfs -o size=16m,nr_inodes=64 tmpfs '{folder}'"
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here, to mount a small disk with")
    tried = subprocess.run(
        [*unshare, "sh", "-c", mount], check=False, capture_output=True, text=True
    )
    if tried.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {tried.stderr.strip()}")
    within = [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    with Forks(tmp_path_factory.mktemp("warm"), within) as forks:
        yield lambda: SmallDisk(folder, forks)


@pytest.fixture
def disk(mounted: Callable[[], SmallDisk]) -> Iterator[SmallDisk]:
    small = mounted()
    yield small
    for path in small.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("free", [0, PAGE, 2 * PAGE, NBYTES // 2, NBYTES // 4 * 3])
def test_a_full_disk_is_an_error_with_the_target_untouched(
    mode: str, free: int, disk: SmallDisk
) -> None:
    case = Case(mode, disk.folder)
    disk.leave(free)
    before, names = content(disk.folder), sorted(os.listdir(disk.folder))
    run = disk.forks.run(*case.args(disk.seen_at))
    assert (run.code, run.out) == (3, "")
    target = disk.seen_at / case.target.name
    # What is free is what was there before anything was written.
    needed = case.nbytes_on_disk
    told = f"{needed:,} bytes and a reserve of {reserve(needed):,} are needed, {free:,} are free"
    assert f"{target}: cannot be written: {os.strerror(errno.ENOSPC)}: {told}" in run.error
    assert content(disk.folder) == before
    assert sorted(os.listdir(disk.folder)) == names
    assert disk.free == free
    (disk.folder / "ballast").unlink()
    run = disk.forks.run(*case.args(disk.seen_at))
    assert (run.code, run.err) == (0, "")
    case.check()


@pytest.mark.parametrize("mode", ["new file", "forced", "directory"])
def test_a_clip_leaves_a_reserve_and_takes_what_is_there_beyond_it(
    mode: str, disk: SmallDisk
) -> None:
    case = Case(mode, disk.folder)
    enough = case.nbytes_on_disk + reserve(case.nbytes_on_disk)
    enough += -enough % PAGE
    disk.leave(enough - PAGE)
    run = disk.forks.run(*case.args(disk.seen_at))
    assert run.code == 3
    assert f"{enough - PAGE:,} are free" in run.error
    (disk.folder / "ballast").unlink()
    disk.leave(enough)
    run = disk.forks.run(*case.args(disk.seen_at))
    assert (run.code, run.err) == (0, "")
    case.check()


def test_shards_that_fit_one_by_one_and_not_together_are_refused_before_any_is_written(
    disk: SmallDisk,
) -> None:
    source = disk.folder / "run"
    source.mkdir()
    for i in range(4):
        write_safetensors(
            source / f"{'abcd'[i]}.safetensors", {f"w{i}": ("F32", gradients(1 << 18, i))}
        )
    free = disk.free
    disk.leave(3 * NBYTES)
    run = disk.forks.run("clip", disk.seen_at / "run", "-o", disk.seen_at / "out", *HALVE)
    assert run.code == 3
    assert f" {3 * NBYTES:,} are free" in run.error
    (disk.folder / "ballast").unlink()
    assert disk.free == free


def test_what_cannot_fit_is_refused_before_it_is_measured(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    nbytes = 2 * status.f_blocks * status.f_frsize
    entry = {"dtype": "F32", "shape": [nbytes // 4], "data_offsets": [0, nbytes // 4 * 4]}
    header = json.dumps({"w": entry}).encode()
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        try:
            file.truncate(8 + len(header) + nbytes // 4 * 4)
        except OSError as error:
            pytest.skip(f"no file may be as large as that here: {error.strerror}")
    seen: list[int] = []
    with pytest.raises(FileAccessError, match="are needed"):
        gradtool.clip(
            source, tmp_path / "out", max_norm=1, progress=lambda done, _: seen.append(done)
        )
    assert seen == []


def test_of_two_clips_that_fit_alone_and_not_together_each_is_done_or_a_clear_error(
    disk: SmallDisk,
) -> None:
    dump = halved_file(4 * ELEMENTS, 100)
    dump.write(disk.folder / "source")
    outs = [disk.folder / f"out-{i}" for i in range(2)]
    commands = [
        ["clip", disk.seen_at / "source", "-o", disk.seen_at / out.name, *HALVE] for out in outs
    ]
    # One and the reserve, but not two even without it.
    disk.leave(6 * NBYTES)
    free = disk.free
    for _ in range(20):
        runs = disk.forks.together(commands)
        for run, out in zip(runs, outs, strict=True):
            assert dump.state(out) == ("new" if run.code == 0 else "absent")
            if run.code != 0:
                assert run.code == 3
                assert f"cannot be written: {os.strerror(errno.ENOSPC)}" in run.error
            out.unlink(missing_ok=True)
        assert any(run.code != 0 for run in runs)
        assert disk.free == free
        assert sorted(os.listdir(disk.folder)) == ["ballast", "source"]


def test_who_is_not_root_is_told_of_no_room_that_is_kept_for_root(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    kept = (status.f_bfree - status.f_bavail) * status.f_frsize
    if kept == 0:
        pytest.skip("this file system keeps nothing for root")

    def free(folder: int) -> int:
        with pytest.raises(FileAccessError) as caught:
            require_space("out", folder, [1 << 60])
        found = re.search(r"needed, ([\d,]+) are free", str(caught.value))
        assert found
        return int(found[1].replace(",", ""))

    # Others write to the disk meanwhile.
    with opened(str(tmp_path)) as folder:
        if IS_ROOT:
            assert free(folder) == pytest.approx(status.f_bfree * status.f_frsize, abs=kept / 3)
        with as_nobody():
            assert free(folder) == pytest.approx(status.f_bavail * status.f_frsize, abs=kept / 3)


@pytest.mark.parametrize(
    ("spare", "mode"),
    [(spare, mode) for mode in MODES for spare in (0, 1)] + [(2, "directory"), (4, "directory")],
)
def test_a_disk_without_room_for_names_is_an_error_with_the_target_untouched(
    spare: int, mode: str, disk: SmallDisk
) -> None:
    case = Case(mode, disk.folder)
    full = disk.folder / "full"
    full.mkdir()
    while os.statvfs(disk.folder).f_ffree > spare:
        (full / str(os.statvfs(disk.folder).f_ffree)).touch()
    before, names = content(disk.folder), sorted(os.listdir(disk.folder))
    run = disk.forks.run(*case.args(disk.seen_at))
    assert (run.code, run.out) == (3, "")
    assert os.strerror(errno.ENOSPC) in run.error
    assert content(disk.folder) == before
    assert sorted(os.listdir(disk.folder)) == names
