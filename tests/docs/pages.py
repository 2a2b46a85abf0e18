"""Pages of docs/ as tests read them: their examples, and the commands that run these."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from environment import PLAIN

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
SECONDS = 120.0


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
