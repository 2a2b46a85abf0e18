"""Commands to the runner of a GitHub workflow, one a line, that annotate its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gradtool.report.escaping import visible
from gradtool.shortening import LONGEST_LINE, LONGEST_NAME, shortened

MAX_ANNOTATIONS: Final = 10
"""Annotations of one severity that GitHub shows for a step."""


def begun(name: str, properties: Mapping[str, str]) -> str:
    """What stands before the message of an annotation: its severity, file and title."""
    pairs = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {pairs}::"


def command(start: str, message: str) -> str:
    """A line that the runner reads as one command, whatever the message holds."""
    return start + shortened(_data(message), LONGEST_LINE - len(start))


def _property(text: str) -> str:
    encoded = _data(visible(text)).replace(":", "%3A").replace(",", "%2C")
    return shortened(encoded, LONGEST_NAME)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
