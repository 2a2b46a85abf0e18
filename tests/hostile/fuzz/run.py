"""Judge mutants by the thousand, and count.

    python tests/hostile/fuzz/run.py --agree 200000 --workers 2
    python tests/hostile/fuzz/run.py --replay torch/views 1234 --changes 0,2

Exit status 1 where gradtool and a loader disagree, where one refuses for a reason that
`judging/reasons.py` does not list, or where gradtool crashes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

_ENVIRONMENT = {
    # Memory that nobody wrote holds a pattern, so that a loader that reads it reads no zeros.
    "MALLOC_PERTURB_": "128",
    # There must be no thread in a process that forks.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
if any(os.environ.get(key) != value for key, value in _ENVIRONMENT.items()):
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, command, {**os.environ, **_ENVIRONMENT})  # noqa: S606 - itself
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.files.seeds import seeds  # noqa: E402
from fuzz.judging.loaders import silence  # noqa: E402 - after the path is set
from fuzz.mutations.mutants import mutant  # noqa: E402
from fuzz.smaller import verdicts_of  # noqa: E402
from fuzz.tally import FAILURES, Tally, kind_of, say  # noqa: E402
from fuzz.workers import judged  # noqa: E402

_IN_MEMORY = "/dev/shm"  # noqa: S108 - for a directory of a name of its own


def main() -> int:
    """Exit status 1 where anything failed."""
    options = _options()
    silence()
    seeds()
    place = _IN_MEMORY if os.path.isdir(_IN_MEMORY) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        return (_replay if options.replay else _run)(options, folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1 << 40, help="mutants to judge at most")
    parser.add_argument("--agree", type=int, default=10_000, help="files to agree upon at most")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="where to put files that failed")
    parser.add_argument("--json", type=Path, help="where to write the counts")
    parser.add_argument("--replay", nargs=2, metavar=("SEED", "NUMBER"), help="judge one mutant")
    parser.add_argument("--changes", help="with --replay: positions of the changes to make, 0,2")
    return parser.parse_args()


def _replay(options: argparse.Namespace, folder: str) -> int:
    seed, number = options.replay
    keep = options.changes and {int(position) for position in options.changes.split(",")}
    one = mutant(seeds()[seed], int(number), keep)
    say(f"{one.seed} {one.number}: {', '.join(one.changes)}")
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        (options.keep / "mutant").write_bytes(one.content)
    verdicts = verdicts_of(os.path.join(folder, "mutant"), one.content)
    for verdict in verdicts:
        say("\n    ".join((f"{verdict.loader}: {kind_of(verdict)}", *verdict.why)))
    return int(any(kind_of(verdict) in FAILURES for verdict in verdicts))


def _run(options: argparse.Namespace, folder: str) -> int:
    started = time.monotonic()
    tally = Tally(folder, options.keep)
    numbers = range(options.first, options.first + options.files)
    for one in judged(numbers, options.workers, folder):
        tally.add(one)
        if tally.agreed >= options.agree:
            break
    rate = tally.files / (time.monotonic() - started)
    say(f"{tally.files} files, {tally.accepted} read by gradtool, {tally.agreed} agreed upon; "
        f"{rate:.0f} files a second")  # fmt: skip
    for (loader, kind), count in sorted(tally.counts.items()):
        say(f"{count:9} {loader}: {kind}")
    for alike, failed in sorted(tally.failures.items(), key=lambda pair: -len(pair[1])):
        say(f"{len(failed):9} failures like {alike[:300]!r}, {failed[0]} for one")
    if options.json:
        counts = {f"{loader}: {kind}": count for (loader, kind), count in tally.counts.items()}
        facts = {"files": tally.files, "accepted": tally.accepted, "agreed": tally.agreed}
        options.json.write_text(json.dumps(facts | {"counts": counts, "failures": tally.failures}))
    return int(bool(tally.failures))


if __name__ == "__main__":
    sys.exit(main())
