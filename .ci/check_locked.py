"""Whether all that is installed here is what a file of locked versions says."""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

NOT_LOCKED = {"gradtool", "pip"}
"""What is tested, and what an environment is made with."""


def main(path: str) -> int:
    """Say what differs; 1 if anything does."""
    lines = Path(path).read_text("utf-8").splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    locked = {canonicalize_name(name): version for name, version in locked.items()}
    installed = {canonicalize_name(one.name): one for one in distributions()}
    pinned = {
        canonicalize_name(required.name)
        for name in locked.keys() & installed.keys()
        for required in map(Requirement, installed[name].requires or ())
        if re.fullmatch(r"==[^*,]+", str(required.specifier))
    }
    wrong = [
        f"{name} {one.version} is installed, locked is {locked.get(name, 'none')}"
        for name, one in sorted(installed.items())
        if name not in NOT_LOCKED | (pinned - locked.keys())
        and Version(one.version).public != locked.get(name)
    ]
    print(*wrong or [f"{len(installed)} packages as locked"], sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
