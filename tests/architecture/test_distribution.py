"""What is distributed: which files, and the same bytes wherever and whenever they are packed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import gradtool

ROOT = Path(gradtool.__file__).parents[1]
NAME = f"gradtool-{gradtool.__version__}"
BUILD = """
import os, sys
os.umask(int(sys.argv[2], 8))
from hatchling import build
build.build_wheel(sys.argv[1])
build.build_sdist(sys.argv[1])
"""
STRAY = [
    "gradtool/__pycache__/errors.cpython-311.pyc",
    "gradtool/core/__pycache__/x.pyc",
    "gradtool.egg-info/PKG-INFO",
    "build/lib/gradtool/errors.py",
    ".hypothesis/unicode_data/x",
    ".venv/lib/gradtool/errors.py",
    "docs/__pycache__/x.pyc",
]
"""What git ignores, and lies about where tests have run."""

needs_hatchling = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None,
    reason="hatchling, which packs distributions, is not here: the extra 'test' has it",
)
needs_git = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="which files are there to be packed, git knows"
)


def tracked() -> list[str]:
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


def packed(tree: Path, *, umask: int, mtime: int, **environment: str) -> tuple[Path, Path]:
    """The wheel and the sdist of a copy of what git knows, in `tree`, among what it ignores."""
    for name in tracked():
        copy = tree / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)
        executable = os.access(ROOT / name, os.X_OK)
        copy.chmod((0o777 if executable else 0o666) & ~umask)
        os.utime(copy, (mtime, mtime))
    for name in STRAY:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x = 1\n")
    return built(tree, umask=umask, **environment)


def built(tree: Path, *, umask: int = 0o022, **environment: str) -> tuple[Path, Path]:
    out = tree.with_name(f"{tree.name}.out")
    subprocess.run(
        [sys.executable, "-c", BUILD, str(out), f"{umask:o}"],
        cwd=tree,
        check=True,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
    )
    return out / f"{NAME}-py3-none-any.whl", out / f"{NAME}.tar.gz"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("one")
    return packed(folder / "tree", umask=0o022, mtime=1_000_000_000, TZ="UTC", PYTHONHASHSEED="1")


@needs_git
@needs_hatchling
def test_whoever_packs_them_and_when_gives_the_same_bytes(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    deeper = tmp_path / "another place" / "tree"
    others = packed(deeper, umask=0o077, mtime=1_700_000_000, TZ="Asia/Tokyo", PYTHONHASHSEED="2")
    for one, other in zip(distributions, others, strict=True):
        assert one.read_bytes() == other.read_bytes()


@needs_git
@needs_hatchling
def test_the_wheel_holds_the_package_as_git_knows_it_and_nothing_else(
    distributions: tuple[Path, Path],
) -> None:
    package = {name for name in tracked() if name.startswith("gradtool/")}
    about = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    with zipfile.ZipFile(distributions[0]) as wheel:
        names = wheel.namelist()
        assert set(names) == package | {f"{NAME}.dist-info/{one}" for one in about}
        assert len(names) == len(set(names))
        for name in package:
            assert wheel.read(name) == (ROOT / name).read_bytes()
        # Whatever permissions the files had where it was packed.
        assert {info.external_attr >> 16 & 0o777 for info in wheel.infolist()} == {0o644}


@needs_git
@needs_hatchling
def test_the_sdist_holds_what_the_wheel_is_made_of_and_what_there_is_to_read(
    distributions: tuple[Path, Path],
) -> None:
    folders = ("gradtool/", "docs/")
    files = {"README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "pyproject.toml", ".gitignore"}
    known = set(tracked())
    assert files <= known
    wanted = files | {name for name in known if name.startswith(folders)}
    with tarfile.open(distributions[1]) as sdist:
        members = sdist.getmembers()
        assert all(member.isfile() for member in members)
        names = {member.name.removeprefix(f"{NAME}/") for member in members}
        assert names == wanted | {"PKG-INFO"}
        assert {(one.uid, one.gid, one.uname, one.gname) for one in members} == {(0, 0, "", "")}
        for name in wanted:
            packed_file = sdist.extractfile(f"{NAME}/{name}")
            assert packed_file is not None
            assert packed_file.read() == (ROOT / name).read_bytes()


@needs_git
@needs_hatchling
def test_the_sdist_gives_the_same_wheel(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, sdist = distributions
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    assert built(tmp_path / NAME)[0].read_bytes() == wheel.read_bytes()


def test_locked_versions_are_versions_and_no_places() -> None:
    lines = (ROOT / ".ci" / "locked.txt").read_text("utf-8").splitlines()
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line)
