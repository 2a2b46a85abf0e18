"""What links in a clipped directory may have copied along: nothing that only looks harmless."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from dumps import write_safetensors
from forks import ENVIRONMENT, PYTHON
from moments import before_call
from nobody import IS_ROOT

import gradtool
from gradtool.errors import FileAccessError, UsageError
from gradtool.storage.copying import Companions
from gradtool.storage.directories import opened

BIG = 5_000_000
OPTIONS: dict[str, Any] = {"total_norm": 2.0, "max_norm": 1.0, "eps": 0.0}


def dump(path: Path, numel: int = 3, name: str = "w") -> Path:
    return write_safetensors(path, {name: ("F32", np.ones(numel, np.float32))})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory to be clipped, beside things that are not in it."""
    made = tmp_path / "run"
    (made / "sub").mkdir(parents=True)
    dump(made / "grads.safetensors")
    (made / "config.json").write_text("config")
    (made / "sub" / "notes").write_text("notes")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("far away")
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def content(path: Path) -> dict[str, str | bytes | None]:
    return {
        str(one.relative_to(path)): (
            f"-> {os.readlink(one)}"
            if one.is_symlink()
            else None
            if one.is_dir()
            else one.read_bytes()
        )
        for one in path.rglob("*")
    }


NEAR = {
    "relative": ("config.json", b"config"),
    "absolute": ("FOLDER/config.json", b"config"),
    "from within": ("sub/notes", b"notes"),
    "round about": ("../run/sub/../config.json", b"config"),
    "by another link": ("first", b"config"),
    "by a hard link": ("hard", b"config"),
}


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize("name", ["link", "sub/link"])
@pytest.mark.parametrize("way", NEAR)
def test_a_link_to_a_file_of_the_directory_becomes_that_file(
    way: str, name: str, follow_links: bool, folder: Path, out: Path
) -> None:
    text, expected = NEAR[way]
    (folder / "first").symlink_to("config.json")
    os.link(folder / "config.json", folder / "hard")
    (folder / "config.json").chmod(0o640)
    os.utime(folder / "config.json", ns=(10**18, 10**18 + 7))
    text = text.replace("FOLDER", str(folder))
    (folder / name).symlink_to(text if name == "link" or text[0] == "/" else f"../{text}")
    gradtool.clip(folder, out, follow_links=follow_links, **OPTIONS)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert (out / name).read_bytes() == expected
    if expected == b"config":
        status = (out / name).stat()
        assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 10**18 + 7)


def elsewhere(folder: Path) -> Path:
    return folder.parent / "elsewhere" / "file"


def test_a_link_to_a_file_elsewhere_is_refused_by_name_before_any_work(
    folder: Path, out: Path
) -> None:
    seen: list[int] = []
    for name in ("link", "sub/link"):
        (folder / name).symlink_to(elsewhere(folder))
        with pytest.raises(UsageError) as caught:
            gradtool.clip(folder, out, progress=lambda done, _: seen.append(done), **OPTIONS)
        assert str(caught.value) == (
            f"{folder / name}: a link to {elsewhere(folder)}, outside of {folder}; "
            "`follow_links=True` copies it as a file"
        )
        assert seen == []
        assert not out.exists()
        (folder / name).unlink()
    gradtool.clip(folder, out, **OPTIONS)


def test_the_command_refuses_it_with_2_and_follows_if_asked_to(folder: Path, out: Path) -> None:
    (folder / "sub" / "link").symlink_to(elsewhere(folder))
    command = ("clip", str(folder), "--max-norm", "1", "-o", str(out))
    for dry in ([], ["--dry-run"]):
        ended = run(*command, *dry)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert f"{folder / 'sub' / 'link'}: a link to {elsewhere(folder)}" in ended.stderr
    ended = run(*command, "--follow-links")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not (out / "sub" / "link").is_symlink()
    assert (out / "sub" / "link").read_text() == "far away"


def test_a_single_file_has_no_links_to_follow(folder: Path, out: Path) -> None:
    gradtool.clip(folder / "grads.safetensors", out, follow_links=True, **OPTIONS)
    assert out.exists()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    at = os.getcwd()
    os.chdir(tmp_path)  # paths of sockets are short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        os.chdir(at)
        yield tmp_path / "socket"


MOUNTED_IN_SYS = ("/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/unified/cgroup.procs")
NEVER = {
    "a directory": "../elsewhere",
    "a directory within": "sub",
    "itself": ".",
    "its parent": "..",
    "the root": "/",
    "a process's environment": "/proc/self/environ",
    "a kernel's setting": "/proc/sys/kernel/ostype",
    "what a process has open": "/proc/self/fd/0",
    "an open file of its": "/dev/fd/0",
    "the way by a process's root": "/proc/self/root/etc/passwd",
    "a kernel's object": "/sys/kernel/uevent_seqnum",
    "a kernel's object by a link": "../by",
    "a device": "/dev/zero",
    "a terminal": "/dev/tty",
    "a pipe": "../pipe",
    "a socket": "../socket",
    "a link to a device": "../device",
    "nothing elsewhere": "../nothing",
    "nothing anywhere": "/nonexistent/nothing",
    "the way through a file": "../elsewhere/file/more",
}


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize("kind", NEVER)
def test_links_to_all_else_are_refused_even_if_links_are_to_be_followed(
    kind: str, follow_links: bool, folder: Path, out: Path, listening: Path
) -> None:
    assert listening.exists()
    os.mkfifo(folder.parent / "pipe")
    (folder.parent / "device").symlink_to("/dev/zero")
    (folder.parent / "by").symlink_to(next(filter(os.path.exists, MOUNTED_IN_SYS), "/sys/nothing"))
    (folder / "link").symlink_to(NEVER[kind])
    names = Path(os.path.realpath(folder / "link"))
    if str(names).startswith(("/sys", "/proc/sys")) and not names.exists():
        pytest.skip("this system has no such thing")
    with pytest.raises(UsageError) as caught:
        gradtool.clip(folder, out, follow_links=follow_links, **OPTIONS)
    assert str(caught.value).startswith(f"{folder / 'link'}: a link to /")
    assert "follow-links" not in str(caught.value)
    assert ", a directory; " in str(caught.value) or not names.is_dir()
    assert sorted(p.name for p in folder.parent.iterdir()) == [
        "by",
        "device",
        "elsewhere",
        "pipe",
        "run",
        "socket",
    ]


@pytest.mark.parametrize("count", [1, 41, 3000])
def test_links_without_end_are_an_error_in_words(count: int, folder: Path, out: Path) -> None:
    for i in range(count):
        (folder / f"link{i}").symlink_to(f"link{(i + 1) % count}")
    with pytest.raises(FileAccessError, match=r"link0: .*: Too many levels of symbolic links"):
        gradtool.clip(folder, out, follow_links=True, **OPTIONS)
    for place in (folder / "link0", folder / "link0" / "out"):
        with pytest.raises(gradtool.GradtoolError, match="link0"):
            gradtool.clip(folder / "grads.safetensors", place, force=True, **OPTIONS)
        with pytest.raises(gradtool.GradtoolError, match="link0"):
            gradtool.clip(place, out, **OPTIONS)
        for report in (["inspect", "-o"], ["check", "-f"]):
            where = f"json:{place}" if report[0] == "check" else str(place)
            ended = run(report[0], str(folder / "grads.safetensors"), report[1], where)
            assert (ended.returncode, ended.stdout) == (3, "")
            assert "Too many levels of symbolic links" in ended.stderr
    assert not out.exists()


def test_what_is_mounted_of_proc_elsewhere_is_refused_too(folder: Path, out: Path) -> None:
    unshare = ["unshare", "-m"] if IS_ROOT else ["unshare", "-Urm"]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here, to mount something with")
    far = folder.parent / "elsewhere"
    mount = f"mount --bind /proc '{far}'"
    tried = subprocess.run([*unshare, "sh", "-c", mount], check=False, capture_output=True)
    if tried.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.decode().strip()}")
    (folder / "link").symlink_to(far / "version")
    clip = ["clip", str(folder), "--max-norm", "1", "-o", str(out), "--follow-links"]
    ended = subprocess.run(
        [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh", *PYTHON, "-m", "gradtool", *clip],
        check=False,
        capture_output=True,
        env=ENVIRONMENT,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "which is no file on a disk" in ended.stderr


@pytest.mark.parametrize("text", ["nothing", "sub/nothing/more", "FOLDER/nothing", "./sub/../gone"])
def test_a_link_to_nothing_in_the_directory_stays_one_that_leads_into_the_copy(
    text: str, folder: Path, out: Path
) -> None:
    (folder / "sub" / ".#notes").symlink_to("somebody@somewhere.1234:5678")
    (folder / "link").symlink_to(text.replace("FOLDER", str(folder)))
    gradtool.clip(folder, out, **OPTIONS)
    assert os.readlink(out / "sub" / ".#notes") == "somebody@somewhere.1234:5678"
    assert not os.path.isabs(os.readlink(out / "link"))
    led, leads = (os.path.realpath(one / "link") for one in (folder, out))
    assert os.path.relpath(leads, out) == os.path.relpath(led, folder)


# Tensor files, and the cache of Hugging Face


def test_tensor_files_may_be_links_to_anywhere_and_have_other_names(
    folder: Path, out: Path
) -> None:
    far = folder.parent / "elsewhere"
    old = dump(far / "a.safetensors", name="a").read_bytes()
    dump(far / "b.safetensors", name="b")
    (folder / "grads.safetensors").unlink()
    for name in "ab":
        (folder / f"{name}.safetensors").symlink_to(far / f"{name}.safetensors")
        (folder / "sub" / f"again-{name}").symlink_to(far / f"{name}.safetensors")
    gradtool.clip(folder, out, exclude="a", **OPTIONS)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    # Not changed, and copied; changed, and its other name with it.
    assert (out / "a.safetensors").read_bytes() == (out / "sub" / "again-a").read_bytes() == old
    assert (out / "b.safetensors").samefile(out / "sub" / "again-b")
    assert (out / "b.safetensors").read_bytes() != (far / "b.safetensors").read_bytes()


@pytest.mark.parametrize("named", [False, True])
def test_an_index_may_be_a_link_to_anywhere(named: bool, folder: Path, out: Path) -> None:
    name = "grads.safetensors.index.json"
    index = folder.parent / "elsewhere" / name
    index.write_text('{"metadata": {}, "weight_map": {"w": "grads.safetensors"}}')
    (folder / name).symlink_to(index)
    gradtool.clip(folder / name if named else folder, out, **OPTIONS)
    assert not (out / name).is_symlink()
    assert (out / name).read_bytes() == index.read_bytes()


class Cache:
    """A snapshot as `huggingface_hub` leaves it, of blobs under their digests."""

    def __init__(self, top: Path, revisions: str = "snapshots") -> None:
        self.blobs = top / "models--x" / "blobs"
        self.snapshot = top / "models--x" / revisions / "abc"
        self.blobs.mkdir(parents=True)
        (self.snapshot / "onnx").mkdir(parents=True)
        dump(self.blobs / "00")
        (self.blobs / "11").write_text("config")
        (self.snapshot / "grads.safetensors").symlink_to("../../blobs/00")
        (self.snapshot / "config.json").symlink_to("../../blobs/11")
        (self.snapshot / "onnx" / "config.json").symlink_to("../../../blobs/11")


def test_links_to_the_blobs_of_the_same_cache_become_files(tmp_path: Path, out: Path) -> None:
    cache = Cache(tmp_path)
    (cache.snapshot / "absolute").symlink_to(cache.blobs / "11")
    (tmp_path / "by a link").symlink_to(cache.snapshot)
    for source in (cache.snapshot, tmp_path / "by a link"):
        gradtool.clip(source, out / source.name if out.exists() else out, **OPTIONS)
        assert not any(path.is_symlink() for path in out.rglob("*"))
        for name in ("config.json", "onnx/config.json", "absolute"):
            assert (out / name).read_text() == "config"


@pytest.mark.parametrize(
    "kind", ["no snapshot", "blobs are a link", "a blob is one", "another's", "deeper", "no blob"]
)
def test_what_only_looks_like_a_blob_of_the_same_cache_is_refused(
    kind: str, tmp_path: Path, out: Path
) -> None:
    cache = Cache(tmp_path, revisions="revisions" if kind == "no snapshot" else "snapshots")
    private = tmp_path / "private"
    private.mkdir()
    (private / "11").write_text("secret")
    dump(private / "00")
    if kind == "blobs are a link":
        cache.blobs.rename(tmp_path / "moved")
        cache.blobs.symlink_to(private)
    elif kind == "a blob is one":
        (cache.blobs / "11").unlink()
        (cache.blobs / "11").symlink_to(private / "11")
    elif kind == "another's":
        other = Cache(tmp_path / "other")
        (cache.snapshot / "config.json").unlink()
        (cache.snapshot / "config.json").symlink_to(other.blobs / "11")
    elif kind == "deeper":
        (cache.blobs / "deeper").mkdir()
        (cache.blobs / "11").rename(cache.blobs / "deeper" / "11")
        (cache.snapshot / "config.json").unlink()
        (cache.snapshot / "config.json").symlink_to("../../blobs/deeper/11")
    elif kind == "no blob":
        (cache.blobs / "11").unlink()
    with pytest.raises(UsageError, match=r"config\.json: a link to "):
        gradtool.clip(cache.snapshot, out, **OPTIONS)
    assert not out.exists()


# What lies in the directory itself


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_refused_before_any_work(
    kind: str, follow_links: bool, folder: Path, out: Path, listening: Path
) -> None:
    if kind == "pipe":
        os.mkfifo(folder / "sub" / "odd")
    else:
        listening.rename(folder / "sub" / "odd")
    seen: list[int] = []
    with pytest.raises(FileAccessError, match="odd: cannot be copied along: no regular file"):
        gradtool.clip(
            folder,
            out,
            follow_links=follow_links,
            progress=lambda done, _: seen.append(done),
            **OPTIONS,
        )
    assert seen == []
    assert not out.exists()


@pytest.mark.parametrize(("levels", "copied"), [(64, True), (65, False), (2000, False)])
def test_directories_nest_so_deep_and_no_deeper(
    levels: int, copied: bool, folder: Path, out: Path
) -> None:
    at = os.getcwd()
    os.chdir(folder)
    try:
        for _ in range(levels):
            os.mkdir("d")
            os.chdir("d")
        Path("file").write_text("down here")
        os.chdir(at)
        if copied:
            gradtool.clip(folder, out, **OPTIONS)
            assert out.joinpath(*["d"] * levels, "file").read_text() == "down here"
            return
        with pytest.raises(FileAccessError, match="nests more than 64 directories deep"):
            gradtool.clip(folder, out, **OPTIONS)
        assert sorted(p.name for p in folder.parent.iterdir()) == ["elsewhere", "run"]
    finally:
        os.chdir(at)
        subprocess.run(["rm", "-rf", str(folder / "d")], check=True)


# What is put in the place of something after it was looked at


def swapped(folder: Path, out: Path, name: str, to: Path) -> str:
    """How a clip ends during which `name` becomes a link, once all was looked at."""
    dump(folder / "grads.safetensors", BIG)
    done: list[int] = []

    def progress(so_far: int, todo: int) -> None:
        if not done and so_far > 0.5 * todo:
            done.append(so_far)
            (folder / name).rename(folder.parent / "moved")
            (folder / name).symlink_to(to)

    with pytest.raises(UsageError) as caught:
        gradtool.clip(folder, out, threads=1, progress=progress, **OPTIONS)
    assert done
    assert not out.exists()
    assert not [*folder.parent.glob(".gradtool-*")]
    return str(caught.value)


def test_a_file_that_becomes_a_link_while_others_are_written_is_refused(
    folder: Path, out: Path
) -> None:
    said = swapped(folder, out, "config.json", elsewhere(folder))
    assert f"{folder / 'config.json'}: a link to {elsewhere(folder)}" in said


def test_a_directory_that_becomes_a_link_while_others_are_written_is_refused(
    folder: Path, out: Path
) -> None:
    said = swapped(folder, out, "sub", folder.parent / "elsewhere")
    assert f"{folder / 'sub'}: a link to {folder.parent / 'elsewhere'}, a directory" in said


SWAPS = {
    "a file": "file",
    "a file within": "onnx/file",
    "a directory": "onnx",
    "a link": "config.json",
    "what a link names": "../../blobs/11",
    "where that lies": "../../blobs",
    "all of it": ".",
    "where it lies": "..",
}


class World:
    """A snapshot to be copied, and in another place something private for each of its names."""

    def __init__(self, top: Path) -> None:
        self.private = top / "private"
        self.snapshot = Cache(top).snapshot
        self.made, self._moved = top / "made", top / "moved"
        self.made.mkdir()
        for folder in (self.snapshot, self.snapshot / "onnx"):
            (folder / "file").write_text("harmless")
        for folder in ("", "onnx", "blobs", "abc", "abc/onnx"):
            (self.private / folder).mkdir()
            for name in ("00", "11", "file", "config.json", "grads.safetensors"):
                (self.private / folder / name).write_text("secret")
        self._rest = Companions(str(self.snapshot), [], base=str(self.snapshot))

    def swap(self, name: str) -> None:
        """Put a link to something private in the place of what is so named in the snapshot."""
        at = Path(os.path.normpath(self.snapshot / name))
        at.rename(self._moved)
        at.symlink_to(self.private if self._moved.is_dir() else self.private / at.name)

    def copy(self) -> str:
        """How copying ended."""
        try:
            with opened(str(self.made)) as new:
                self._rest.copy(new, {})
        except (UsageError, gradtool.InputError) as error:
            return type(error).__name__
        return "copied"


@pytest.mark.parametrize("name", SWAPS.values(), ids=SWAPS)
def test_what_becomes_a_link_at_whatever_moment_is_never_followed(
    name: str, tmp_path: Path
) -> None:
    ended: Counter[str] = Counter()
    for number in itertools.count():
        world = World(tmp_path / f"{number}")
        with before_call(number, lambda: world.swap(name)) as moment:  # noqa: B023 - called here
            ended[world.copy()] += 1
        found = [path.read_bytes() for path in world.made.rglob("*") if path.is_file()]
        assert b"secret" not in found, number
        if not moment.is_reached:
            break
    assert ended["copied"] < number
    assert len(found) == 5


def test_of_a_file_that_grows_what_was_there_is_copied(tmp_path: Path) -> None:
    """It may grow without end, and faster than it is copied."""
    cut = 0
    for number in itertools.count():
        world = World(tmp_path / f"{number}")
        copy, at = world.made / "file", world.snapshot / "file"
        begun: list[bool] = []

        def grow(at: Path = at, copy: Path = copy, begun: list[bool] = begun) -> None:
            begun.append(copy.exists())
            with at.open("a") as file:
                file.write(" and more")

        with before_call(number, grow) as moment:
            assert world.copy() == "copied"
        assert copy.read_text() in ("harmless", "harmless and more")
        cut += begun == [False] and copy.read_text() == "harmless"
        if not moment.is_reached:
            break
    assert cut > 0
