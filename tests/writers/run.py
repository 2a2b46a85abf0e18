"""Write real checkpoints with the frameworks that are installed here.

    python tests/writers/run.py DIRECTORY [LAYOUT ...]

Each layout that is named, or all, becomes a new folder of DIRECTORY. Exit status 1 where what was
written tells of this machine: its name, or where it was written.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

if os.environ.get("PYTHONHASHSEED") != "0":  # some files hold sets, in the order of hashes
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606 - itself
sys.path[0] = str(Path(__file__).resolve().parents[1])

from writers.processes import seed  # noqa: E402 - after the path is set

MODULES: Final = (
    "accelerate_fsdp",
    "arrays",
    "dcp",
    "exchanged",
    "hugging_face",
    "lightnings",
    "ranks",
    "torch_files",
    "zero.write",
)
"""Those of this package that write; each has a table WRITERS."""


def _telling(folder: Path) -> list[str]:
    """The files that hold the name of this machine, or of a folder that only it has."""
    words = [os.fsencode(folder.parent), os.fsencode(sys.path[0])]
    if len(name := os.uname().nodename) > 4:  # shorter ones occur by chance
        words.append(name.encode())
    return [
        str(file)
        for file in folder.rglob("*")
        if file.is_file() and any(word in piece for piece in _pieces(file) for word in words)
    ]


def _pieces(file: Path) -> Iterator[bytes]:
    """The bytes of a file, and if it is an archive, those of its members unpacked."""
    yield file.read_bytes()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            yield from map(archive.read, archive.namelist())


def main() -> int:
    """Write the layouts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT")
    asked = parser.parse_args()
    writers: dict[str, Callable[[], None]] = {}
    for module in MODULES:
        writers |= importlib.import_module(f"writers.{module}").WRITERS
    for name in asked.layouts or writers:
        folder = asked.directory.resolve() / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.chdir(folder)
        seed()
        writers[name]()
        if telling := _telling(folder):
            sys.stderr.write(f"these tell where they were written: {' '.join(telling)}\n")
            return 1
        sys.stderr.write(f"{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
