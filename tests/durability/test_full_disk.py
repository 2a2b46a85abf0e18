"""A disk that takes no more is one clear error; what was there is there, and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import Forks
from halved import HALVE, content, deflated_npz, halved_directory, halved_file, same_arrays

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

    def check(self) -> None:
        """Assert that it was clipped."""
        if self._deflated:
            assert same_arrays(self.target.read_bytes(), deflated_npz(ELEMENTS, 0.5))
        else:
            assert self._dump.state(self.target) == "new"


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
    assert f"{target}: cannot be written: {os.strerror(errno.ENOSPC)}" in run.error
    assert content(disk.folder) == before
    assert sorted(os.listdir(disk.folder)) == names
    assert disk.free == free
    (disk.folder / "ballast").unlink()
    run = disk.forks.run(*case.args(disk.seen_at))
    assert (run.code, run.err) == (0, "")
    case.check()


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
