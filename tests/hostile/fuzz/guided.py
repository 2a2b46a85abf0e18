"""Bytes that reach new code of a reader, found by coverage; needs `pip install atheris`.

    python tests/hostile/fuzz/guided.py torch --runs 1000000
    python tests/hostile/fuzz/guided.py torch --merge

Starts from the corpus of the reader, tests/hostile/corpus/READER, and puts what it finds into
--found. `--merge` makes the corpus anew: the fewest and shortest files that reach what the old
one and --found reach. Stops at the first input of which anything but an error of gradtool's
comes, which takes more than 10 s, or more than 1 GiB.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

_HOSTILE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_HOSTILE))

with atheris.instrument_imports(include=["gradtool"]):
    from fuzz.readers import READERS

_MOST_BYTES = 4096
_LIMITS = ("-timeout=10", "-rss_limit_mb=1024", f"-max_len={_MOST_BYTES}", "-len_control=20")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--found", type=Path, default=Path(tempfile.gettempdir()) / "gradtool-found"
    )
    parser.add_argument("--merge", action="store_true")
    options = parser.parse_args()
    corpus, found = _HOSTILE / "corpus" / options.reader, options.found / options.reader
    found.mkdir(parents=True, exist_ok=True)
    if options.merge:
        arguments = _merging(corpus, found)
    else:
        arguments = [f"-runs={options.runs}", f"-seed={options.seed}", str(found), str(corpus)]
    os.chdir(found)
    atheris.Setup([sys.argv[0], *_LIMITS, *arguments], READERS[options.reader])
    atheris.Fuzz()


def _merging(corpus: Path, found: Path) -> list[str]:
    for file in corpus.iterdir():
        shutil.move(file, found / file.name)
    return ["-merge=1", str(corpus), str(found)]


if __name__ == "__main__":
    main()
