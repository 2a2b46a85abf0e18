"""Whoever may write in a directory gets nothing outside of it written, changed or removed.

Not by what is planted there before somebody else, root even, writes to it, nor by what is put
in the place of something while that is being written.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from dumps import write_safetensors
from forks import ENVIRONMENT, PYTHON
from moments import before_call
from nobody import IS_ROOT, NOBODY

import gradtool
from gradtool.cli.console import write_result
from gradtool.errors import FileAccessError
from gradtool.storage.leftovers import workspace_names

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only the superuser gives files away")

LEFTOVER = ".gradtool-0123456789abcdef.tmp"
BIG = 5_000_000
"""Elements of a dump that is written in several tasks."""

WRITERS = {
    "clip": "clip IN --max-norm 1 -o OUT",
    "clip in place": "clip OUT --max-norm 1 --in-place",
    "clip a directory": "clip DIR --max-norm 1 -o OUT",
    "inspect": "inspect IN -o OUT",
    "baseline": "baseline save IN -o OUT",
    "check": "check IN -f junit:OUT",
}


def everything(folder: Path) -> dict[str, object]:
    """All that lies below `folder`: kind, mode, owner, inode, time, and content or target."""
    return {
        str(path.relative_to(folder)): (
            (status := path.lstat()).st_mode,
            status.st_uid,
            status.st_ino,
            status.st_mtime_ns,
            os.readlink(path)
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else None,
        )
        for path in [folder, *folder.rglob("*")]
    }


def dump(path: Path, numel: int = 3) -> Path:
    return write_safetensors(path, {"w": ("F32", np.arange(1, 1 + numel, dtype=np.float32))})


class Ground:
    """A folder in which an attacker may write, and one outside of it that is precious."""

    def __init__(self, top: Path) -> None:
        self.folder, self.outside = top / "folder", top / "outside"
        self.out = self.folder / "out"
        self.source = dump(top / "in.safetensors")
        self.run = top / "run"
        for made in (self.folder, self.run, self.outside / "built" / "deep"):
            made.mkdir(parents=True)
        dump(self.run / "g.safetensors")
        for name in ("lock", "file", "built/file", "built/deep/file"):
            (self.outside / name).write_text("" if name == "lock" else "kept")
        dump(self.outside / "in.safetensors", 5)
        workspace(self.outside / "like one of ours")
        (self.outside / "empty").mkdir()
        (self.outside / "built").chmod(0o555)

    def write(self, writer: str) -> tuple[int, str]:
        """Run one of the commands; its exit code, and what it said that is no result."""
        if "OUT" in WRITERS[writer].split()[1]:
            dump(self.out)
        places = {"IN": self.source, "OUT": self.out, "DIR": self.run, "junit:OUT": self.out}
        words = WRITERS[writer].split()
        args = [str(places.get(word, word)) for word in words]
        args = [
            f"junit:{self.out}" if word == "junit:OUT" else arg
            for word, arg in zip(words, args, strict=True)
        ]
        ended = run(*args)
        return ended.returncode, ended.stderr

    def others(self) -> dict[str, object]:
        """All in the folder but the output and the folder itself, and all outside."""
        inside = {
            name: found
            for name, found in everything(self.folder).items()
            if Path(name).parts[:1] != (self.out.name,) and name != "."
        }
        return {**inside, **{f"outside/{n}": f for n, f in everything(self.outside).items()}}


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    (made.outside / "built").chmod(0o755)


def workspace(at: Path, lock: str | None = "", built: str | None = "directory") -> None:
    """What a run that was killed leaves at `at`."""
    at.mkdir()
    if lock is not None:
        (at / "lock").write_text(lock)
    if built == "directory":
        (at / "built").mkdir()
        (at / "built" / "half").write_bytes(b"half")


def linked_whole(at: Path, outside: Path) -> None:
    at.symlink_to(outside)


def link_to_what_is_just_like_one(at: Path, outside: Path) -> None:
    at.symlink_to(outside / "like one of ours")


def link_to_a_file(at: Path, outside: Path) -> None:
    at.symlink_to(outside / "file")


def link_to_nothing(at: Path, outside: Path) -> None:
    at.symlink_to(outside / "nothing")


def linked_built(at: Path, outside: Path) -> None:
    workspace(at, built=None)
    (at / "built").symlink_to(outside / "built")


def linked_lock(at: Path, outside: Path) -> None:
    workspace(at, lock=None)
    (at / "lock").symlink_to(outside / "lock")


def hard_linked_lock(at: Path, outside: Path) -> None:
    workspace(at, lock=None)
    os.link(outside / "lock", at / "lock")


def fifo_for_a_lock(at: Path, outside: Path) -> None:  # noqa: ARG001 - as all of them
    workspace(at, lock=None)
    os.mkfifo(at / "lock")


def directory_for_a_lock(at: Path, outside: Path) -> None:  # noqa: ARG001
    workspace(at, lock=None)
    (at / "lock").mkdir()


def lock_that_says_something(at: Path, outside: Path) -> None:  # noqa: ARG001
    workspace(at, lock="pid 7")


def no_lock(at: Path, outside: Path) -> None:  # noqa: ARG001
    workspace(at, lock=None)


def project_renamed(at: Path, outside: Path) -> None:  # noqa: ARG001
    """A directory of the user's own, which whoever may write in its parent may rename."""
    workspace(at)
    (at / "README").write_text("mine")


def file_for_built(at: Path, outside: Path) -> None:  # noqa: ARG001
    workspace(at, built=None)
    (at / "built").write_text("kept")


def plain_file(at: Path, outside: Path) -> None:  # noqa: ARG001
    at.write_text("kept")


def fifo(at: Path, outside: Path) -> None:  # noqa: ARG001
    os.mkfifo(at)


def another_users(at: Path, outside: Path) -> None:  # noqa: ARG001
    workspace(at)
    for path in (at / "built" / "half", at / "built", at / "lock", at):
        os.chown(path, NOBODY, NOBODY)


def another_users_with_a_lock_of_ours(at: Path, outside: Path) -> None:  # noqa: ARG001
    workspace(at)
    os.chown(at, NOBODY, NOBODY)


def another_users_lock(at: Path, outside: Path) -> None:  # noqa: ARG001
    workspace(at)
    os.chown(at / "lock", NOBODY, NOBODY)


PLANTS: list[Callable[[Path, Path], None]] = [
    linked_whole,
    link_to_what_is_just_like_one,
    link_to_a_file,
    link_to_nothing,
    linked_built,
    linked_lock,
    hard_linked_lock,
    fifo_for_a_lock,
    directory_for_a_lock,
    lock_that_says_something,
    no_lock,
    project_renamed,
    file_for_built,
    plain_file,
    fifo,
]
TO_GIVE_AWAY = [another_users, another_users_with_a_lock_of_ours, another_users_lock]


def planted(function: Any) -> Any:
    """A test of each thing that may be planted."""
    plants = [*PLANTS, *(pytest.param(one, marks=needs_root) for one in TO_GIVE_AWAY)]
    return pytest.mark.parametrize("plant", plants, ids=lambda one: one.__name__)(function)


@planted
@pytest.mark.parametrize("writer", WRITERS)
def test_what_no_run_of_this_user_left_is_left_alone_and_stops_nothing(
    writer: str, plant: Callable[[Path, Path], None], ground: Ground
) -> None:
    plant(ground.folder / LEFTOVER, ground.outside)
    # And where this very output would be built, twice.
    for name in islice(workspace_names(ground.out.name), 2):
        plant(ground.folder / name, ground.outside)
    before = ground.others()
    assert ground.write(writer) == (0, "")
    assert ground.out.exists()
    assert ground.others() == before


@pytest.mark.parametrize("writer", WRITERS)
def test_hundreds_of_foreign_things_stop_nothing(writer: str, ground: Ground) -> None:
    for name in islice(workspace_names(ground.out.name), 500):
        (ground.folder / name).touch()
    before = ground.others()
    assert ground.write(writer) == (0, "")
    assert ground.out.exists()
    assert ground.others() == before


def test_two_of_one_target_meet_at_one_lock_beyond_what_is_foreign(ground: Ground) -> None:
    *foreign, name = islice(workspace_names(ground.out.name), 4)
    for one in foreign:
        (ground.folder / one).symlink_to(ground.outside)
    workspace(ground.folder / name)
    lock = os.open(ground.folder / name / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(gradtool.TargetBusyError, match=name):
        gradtool.clip(ground.source, ground.out, max_norm=1)
    os.close(lock)
    gradtool.clip(ground.source, ground.out, max_norm=1)
    assert not (ground.folder / name).exists()


@pytest.mark.parametrize("plant", [linked_lock, hard_linked_lock], ids=lambda one: one.__name__)
def test_a_lock_that_a_service_holds_under_another_name_stops_nothing(
    plant: Callable[[Path, Path], None], ground: Ground
) -> None:
    lock = os.open(ground.outside / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    at = ground.folder / next(workspace_names(ground.out.name))
    plant(at, ground.outside)
    assert ground.write("clip") == (0, "")
    os.close(lock)
    assert (at / "lock").samefile(ground.outside / "lock")


def test_a_leftover_that_nests_without_end_is_left_alone(ground: Ground) -> None:
    at = os.getcwd()
    workspace(ground.folder / LEFTOVER)
    os.chdir(ground.folder / LEFTOVER / "built")
    try:
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(at)
    try:
        assert ground.write("clip") == (0, "")
        assert (ground.folder / LEFTOVER / "lock").exists()
    finally:
        subprocess.run(["rm", "-rf", str(ground.folder / LEFTOVER)], check=True)


@pytest.mark.parametrize("at", ["built", "built/mounted"])
def test_what_is_mounted_in_a_leftover_is_not_emptied(at: str, ground: Ground) -> None:
    workspace(ground.folder / LEFTOVER)
    (ground.folder / LEFTOVER / at).mkdir(exist_ok=True)
    unshare = ["unshare", "-m"] if IS_ROOT else ["unshare", "-Urm"]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here, to mount something with")
    mount = f"mount --bind '{ground.outside}' '{ground.folder / LEFTOVER / at}'"
    tried = subprocess.run([*unshare, "sh", "-c", mount], check=False, capture_output=True)
    if tried.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.decode().strip()}")
    before = everything(ground.outside)
    clip = ["-m", "gradtool", "clip", str(ground.source), "--max-norm", "1", "-o", str(ground.out)]
    subprocess.run(
        [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh", *PYTHON, *clip],
        check=True,
        capture_output=True,
        env=ENVIRONMENT,
    )
    assert everything(ground.outside) == before


# What is put in the place of something meanwhile


class Swap:
    """A `progress` that does something once, when a part of the work is done.

    At 0.2 the source is being read, at 0.5 the result written, at 0.9 that is being read.
    """

    def __init__(self, part: float, action: Callable[[], None]) -> None:
        self._part = part
        self._action = action
        self.done = False

    def __call__(self, done: int, todo: int) -> None:
        if not self.done and done > self._part * todo:
            self.done = True
            self._action()


def clipped(source: Path, out: Path, swap: Swap, **options: Any) -> str:
    """How a clip during which something was swapped ended."""
    try:
        gradtool.clip(source, out, max_norm=1, threads=1, progress=swap, **options)
    except gradtool.GradtoolError as error:
        assert error.exit_code in (2, 3)
        ended = str(error)
    else:
        ended = "done"
    assert swap.done
    return ended


@pytest.mark.parametrize("part", [0.45, 0.6, 0.9])
@pytest.mark.parametrize("layout", ["file", "directory"])
def test_a_workspace_that_is_swapped_while_it_is_built_in_leads_nowhere(
    layout: str, part: float, ground: Ground
) -> None:
    path = dump(ground.folder / "in.safetensors", BIG)
    (ground.outside / "in.safetensors").write_bytes(b"p" * path.stat().st_size)
    if layout == "directory":
        (ground.outside / "dumps").mkdir()
        (ground.outside / "in.safetensors").rename(ground.outside / "dumps" / "in.safetensors")
        (ground.folder / "dumps").mkdir()
        path = path.rename(ground.folder / "dumps" / "in.safetensors").parent
    before = everything(ground.outside)

    def swap() -> None:
        (found,) = ground.folder.glob(".gradtool-*.tmp")
        found.rename(ground.folder / "moved away")
        found.mkdir()
        (found / "built").symlink_to(ground.outside)

    said = clipped(path, ground.out, Swap(part, swap))
    assert everything(ground.outside) == before
    if said != "done":  # it had all been read by then
        assert "was replaced meanwhile" in said or "changed while it was read" in said


@pytest.mark.parametrize("part", [0.1, 0.6, 0.9])
@pytest.mark.parametrize("force", [False, True])
def test_a_directory_that_is_swapped_for_a_link_has_nothing_put_behind_that(
    force: bool, part: float, ground: Ground
) -> None:
    path = dump(ground.source, BIG)
    (ground.outside / "out").write_text("kept")
    if not force:
        (ground.outside / "out").unlink()
    before = everything(ground.outside)
    moved = ground.folder.with_name("moved")

    def swap() -> None:
        ground.folder.rename(moved)
        ground.folder.symlink_to(ground.outside)

    said = clipped(path, ground.out, Swap(part, swap), force=force)
    assert "out: cannot be written: " in said
    assert everything(ground.outside) == before
    assert list(moved.iterdir()) == []


def test_a_directory_that_another_takes_the_place_of_is_not_written_in(ground: Ground) -> None:
    path = dump(ground.source, BIG)

    def swap() -> None:
        ground.folder.rename(ground.folder.with_name("moved"))
        ground.folder.mkdir()

    said = clipped(path, ground.out, Swap(0.1, swap))
    assert said.endswith("its directory was replaced meanwhile; run again")
    assert list(ground.folder.iterdir()) == []


def test_nothing_is_inherited_from_what_a_link_in_the_place_of_the_old_file_names(
    ground: Ground,
) -> None:
    path = dump(ground.source, BIG)
    ground.out.write_text("old")
    ground.out.chmod(0o600)
    (ground.outside / "file").chmod(0o4755)
    before = everything(ground.outside)

    def swap() -> None:
        ground.out.unlink()
        ground.out.symlink_to(ground.outside / "file")

    assert clipped(path, ground.out, Swap(0.9, swap), force=True) == "done"
    assert not ground.out.is_symlink()
    assert stat.S_IMODE(ground.out.stat().st_mode) & 0o7000 == 0
    assert everything(ground.outside) == before


# Links that lead to what is written


@pytest.fixture
def anyones(ground: Ground) -> Path:
    """A directory such as /tmp."""
    ground.folder.chmod(0o1777)
    return ground.folder


@needs_root
@pytest.mark.parametrize("way", ["{link}", "{second}", "{folder}/lib/file"])
@pytest.mark.parametrize("names", ["file", "new"])
@pytest.mark.parametrize(
    "writer", ["clip FORCE", "clip in place", "inspect", "baseline FORCE", "check"]
)
def test_another_users_link_where_anyone_may_put_one_is_not_written_through(
    writer: str, names: str, way: str, anyones: Path, ground: Ground
) -> None:
    link, second, lib = (anyones / name for name in ("link", "second", "lib"))
    link.symlink_to(ground.outside / names)
    second.symlink_to("link")
    lib.symlink_to(ground.outside)
    for one in (link, lib):
        os.lchown(one, NOBODY, NOBODY)
    if "place" in writer:
        dump(ground.outside / "file")
    before = ground.others()
    out = way.format(link=link, second=second, folder=anyones)
    words = WRITERS[writer.removesuffix(" FORCE")].split() + ["--force"] * ("FORCE" in writer)
    args = [w.replace("IN", str(ground.source)).replace("OUT", out) for w in words]
    ended = run(*args)
    assert ended.returncode == 3
    assert "is a link, which another user put where anyone may" in ended.stderr or names == "new"
    assert ended.stdout == ""
    assert ground.others() == before


WHOSE = ["mine", "mine in another's", "the directory's owner's", "not anyone's to put"]


@pytest.mark.parametrize("whose", WHOSE)
def test_other_links_stay_and_what_they_name_is_written(whose: str, ground: Ground) -> None:
    link = ground.folder / "link"
    link.symlink_to(ground.outside / "file")
    if whose.startswith("mine"):
        ground.folder.chmod(0o1777)
        if IS_ROOT and whose != "mine":
            os.chown(ground.folder, NOBODY, NOBODY)
    elif whose == "the directory's owner's" and IS_ROOT:
        ground.folder.chmod(0o1777)
        os.chown(ground.folder, NOBODY, NOBODY)
        os.lchown(link, NOBODY, NOBODY)
    elif IS_ROOT:
        os.lchown(link, NOBODY, NOBODY)
    ended = run("inspect", str(ground.source), "-f", "json", "-o", str(link))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert link.is_symlink()
    assert "gradtool.inspect/1" in (ground.outside / "file").read_text()


# Whatever is swapped, at whatever moment


def swap_workspace(ground: Ground) -> None:
    """Links where a workspace is, or would be."""
    for i, name in enumerate(islice(workspace_names(ground.out.name), 2)):
        at = ground.folder / name
        if at.exists():
            at.rename(ground.folder / f"moved {i}")
        at.symlink_to(ground.outside / "like one of ours")


def swap_workspace_for_an_empty_one(ground: Ground) -> None:
    """A link to where nothing is in the way of whoever begins."""
    swap_workspace(ground)
    for name in islice(workspace_names(ground.out.name), 2):
        (ground.folder / name).unlink()
        (ground.folder / name).symlink_to(ground.outside / "empty")


def swap_inside(ground: Ground) -> None:
    """A directory of the attacker's with links in it where a workspace is, or would be."""
    for i, name in enumerate(islice(workspace_names(ground.out.name), 2)):
        at = ground.folder / name
        if at.exists():
            at.rename(ground.folder / f"moved {i}")
        at.mkdir()
        os.link(ground.outside / "lock", at / "lock")
        (at / "built").symlink_to(ground.outside)


def swap_leftover(ground: Ground) -> None:
    if (ground.folder / LEFTOVER).exists():
        (ground.folder / LEFTOVER).rename(ground.folder / "moved")
        (ground.folder / LEFTOVER).symlink_to(ground.outside / "like one of ours")


def swap_target(ground: Ground) -> None:
    if ground.out.exists():
        ground.out.rename(ground.folder / "moved")
    ground.out.symlink_to(ground.outside / "file")


def swap_folder(ground: Ground) -> None:
    ground.folder.rename(ground.folder.with_name("moved"))
    ground.folder.symlink_to(ground.outside)


def write_clip(ground: Ground) -> None:
    outcome = gradtool.clip(ground.source, ground.out, max_norm=1, eps=0, threads=1, force=True)
    # What was measured in the end is what was written.
    assert outcome.norm_after == pytest.approx(1.0)


def write_directory(ground: Ground) -> None:
    outcome = gradtool.clip(ground.run, ground.out, max_norm=1, eps=0, threads=1)
    assert outcome.norm_after == pytest.approx(1.0)


def write_report(ground: Ground) -> None:
    write_result("report", str(ground.out))


@pytest.mark.parametrize(
    "swap",
    [
        swap_workspace,
        swap_workspace_for_an_empty_one,
        swap_inside,
        swap_leftover,
        swap_target,
        swap_folder,
    ],
)
@pytest.mark.parametrize("write", [write_clip, write_directory, write_report])
def test_what_is_swapped_at_whatever_moment_leads_nowhere(
    write: Callable[[Ground], None], swap: Callable[[Ground], None], tmp_path: Path
) -> None:
    """Between a look and what follows there is a moment, which somebody will hit."""
    for number in itertools.count():
        top = tmp_path / f"{number}"
        top.mkdir()
        ground = Ground(top)
        workspace(ground.folder / LEFTOVER)
        if write is write_clip:
            ground.out.write_text("old")
        (ground.outside / "file").chmod(0o4755)
        for name in ("out", "data"):
            (ground.outside / name).write_text("kept")
        (ground.outside / "run").mkdir()
        dump(ground.outside / "run" / "g.safetensors", 5)
        before = everything(ground.outside)
        with before_call(number, lambda: swap(ground)) as moment:  # noqa: B023 - called here
            try:
                write(ground)
            except gradtool.GradtoolError as error:
                assert error.exit_code in (2, 3)
        after = everything(ground.outside)
        (ground.outside / "built").chmod(0o755)
        assert after == before, number
        if not moment.is_reached:
            break
    assert number > 20
    assert ground.out.exists()


@needs_root
def test_nothing_is_built_in_what_another_user_puts_in_the_place_of_a_workspace(
    tmp_path: Path,
) -> None:
    """Whose it is may change what is in it, up to the moment at which it is put in place."""
    ended: Counter[str] = Counter()
    for number in itertools.count():
        top = tmp_path / f"{number}"
        top.mkdir()
        ground = Ground(top)
        at = ground.folder / next(workspace_names(ground.out.name))
        unclaimed: list[Path] = []
        early: list[Path] = []

        def swap(
            ground: Ground = ground,
            at: Path = at,
            unclaimed: list[Path] = unclaimed,
            early: list[Path] = early,
        ) -> None:
            if not ground.out.exists():
                early.append(at)
            if at.exists():
                if early and not os.listdir(at):
                    unclaimed.append(at)
                at.rename(ground.folder / "moved")
            at.mkdir()
            os.chown(at, NOBODY, NOBODY)

        with before_call(number, swap) as moment:
            try:
                write_clip(ground)
            except FileAccessError as error:
                assert "was replaced meanwhile" in str(error)
                ended["refused"] += 1
            else:
                assert not unclaimed
                ended["done"] += 1
        if not moment.is_reached:
            break
        assert [*at.rglob("*")] == [], number
        assert at.is_dir() or not early, number
    assert min(ended["refused"], ended["done"]) > 1


@needs_root
def test_a_pipe_that_becomes_a_link_at_whatever_moment_is_not_written_through(
    anyones: Path, ground: Ground
) -> None:
    before = everything(ground.outside)

    def swap() -> None:
        ground.out.unlink()
        ground.out.symlink_to(ground.outside / "file")
        os.lchown(ground.out, NOBODY, NOBODY)

    for number in itertools.count():
        ground.out.unlink(missing_ok=True)
        os.mkfifo(ground.out)
        reader = os.open(ground.out, os.O_RDWR | os.O_NONBLOCK)
        with before_call(number, swap) as moment:
            try:
                write_result("report", str(ground.out))
            except FileAccessError:
                assert moment.is_reached
            else:
                assert os.read(reader, 100) == b"report"
        os.close(reader)
        assert everything(ground.outside) == before
        if not moment.is_reached:
            break
    assert number > 0
    assert anyones.stat().st_mode & stat.S_ISVTX
