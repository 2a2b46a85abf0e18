"""Bytes that reach new code of a reader, found by coverage; needs `pip install atheris`.

    python tests/hostile/fuzz/guided.py torch --runs 1000000
    python tests/hostile/fuzz/guided.py torch --merge

Starts from the corpus of the reader, tests/hostile/corpus/READER, and puts what it finds into
--found. `--merge`, which needs nothing, makes the corpus anew of the old one and --found: short
files first, each that takes a step between two lines of gradtool that none took before.
Stops at the first input of which anything but an error of gradtool's comes, which takes more than
10 s, or more than 1 GiB.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

_HOSTILE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_HOSTILE))

_MOST_BYTES = 4096
_LIMITS = ("-timeout=10", "-rss_limit_mb=1024", f"-max_len={_MOST_BYTES}", "-len_control=20")

Steps = set[tuple[str, int, int]]
"""From one line of a file to another."""


def main() -> None:
    """Search, or make the corpus of what was found."""
    options = _options()
    corpus, found = _HOSTILE / "corpus" / options.reader, options.found / options.reader
    found.mkdir(parents=True, exist_ok=True)
    if options.merge:
        _merge(options.reader, corpus, found)
    else:
        _search(options, corpus, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reader", help="a key of judging.readers.READERS")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    found = Path(tempfile.gettempdir()) / "gradtool-found"
    parser.add_argument("--found", type=Path, default=found)
    parser.add_argument("--merge", action="store_true")
    return parser.parse_args()


def _search(options: argparse.Namespace, corpus: Path, found: Path) -> None:
    import atheris  # noqa: PLC0415 - a merge does without

    with atheris.instrument_imports(include=["gradtool"]):
        from fuzz.judging.readers import READERS  # noqa: PLC0415 - it is what is instrumented
    os.chdir(found)
    arguments = [f"-runs={options.runs}", f"-seed={options.seed}", str(found), str(corpus)]
    atheris.Setup([sys.argv[0], *_LIMITS, *arguments], READERS[options.reader])
    atheris.Fuzz()


def _merge(reader: str, corpus: Path, found: Path) -> None:
    every = {file.name: file.read_bytes() for file in (*corpus.iterdir(), *found.iterdir())}
    known: Steps = set()
    kept = set()
    for name, content in sorted(every.items(), key=lambda item: (len(item[1]), item[0])):
        steps = _steps(reader, content)
        if not steps <= known:
            known |= steps
            kept.add(name)
            (corpus / name).write_bytes(content)
    for file in corpus.iterdir():
        if file.name not in kept:
            file.unlink()
    sys.stdout.write(f"{len(kept)} files of {len(every)}, {len(known)} steps\n")


def _steps(reader: str, content: bytes) -> Steps:
    """The steps that a reader takes over some bytes."""
    from fuzz.judging.readers import READERS  # noqa: PLC0415 - not before a search instruments it

    steps: Steps = set()
    before: dict[int, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if "/gradtool/" not in file:
            return None
        if event == "line":
            steps.add((file, before.get(id(frame), 0), frame.f_lineno))
            before[id(frame)] = frame.f_lineno
        elif event == "call":
            before.pop(id(frame), None)
        return trace

    sys.settrace(trace)
    try:
        READERS[reader](content)
    finally:
        sys.settrace(None)
    return steps


if __name__ == "__main__":
    main()
