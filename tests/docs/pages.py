"""Pages of docs/ as tests read them: their examples, and the commands that run these."""

from __future__ import annotations

import re
import subprocess
from decimal import Decimal
from pathlib import Path

from environment import PLAIN

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
DECIMAL = re.compile(r"-?\d+\.\d+(?:e[+-]\d+)?|-?\d+e[+-]\d+")
SECONDS = 120.0

NOISE = Decimal("5e-3")
"""How much of a figure float16 may account for."""


def example(page: Path, kind: str, name: str) -> str:
    """The example of a kind whose first line, a comment, ends in its name."""
    (found,) = [
        text
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8"))
        if language == kind and text.split("\n", 1)[0].endswith(name)
    ]
    return str(found)


def run(
    command: list[str], directory: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        env={**PLAIN, "COLUMNS": "100", "NO_COLOR": "1", **environment},
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=SECONDS,
    )


def assert_shown(printed: str, shown: str) -> None:
    """The same text, but for the width of columns and for how decimals are rounded.

    Sums of float32 and float16 in another order are what another machine may differ by, and then
    by one in the last place shown, however few there are.
    """
    skeleton = [re.sub(r"\s+", " ", DECIMAL.sub("#", text)) for text in (printed, shown)]
    assert skeleton[0] == skeleton[1], printed
    for ours, theirs in zip(DECIMAL.findall(printed), DECIMAL.findall(shown), strict=True):
        last_place = Decimal(theirs).as_tuple().exponent
        slack = Decimal(10) ** last_place + abs(Decimal(theirs)) * NOISE
        assert abs(Decimal(ours) - Decimal(theirs)) <= slack, printed
