"""The options of `gradtool check` that no other command has, and what their words mean."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from gradtool.errors import UsageError
from gradtool.report import CHECK_REPORTERS
from gradtool.storage.links import target_path

if TYPE_CHECKING:  # the rules come with it, which --help is not for
    from gradtool.rules.config_file import Config

_STDOUT = ("-", "/dev/stdout")


class FailOn(StrEnum):
    """What `core.rule.Severity` may be."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Sink:
    """A format to report in, and the file to write to; None for stdout."""

    format: str
    file: str | None


def read_sinks(texts: Sequence[str]) -> tuple[Sink, ...]:
    """What `-f FORMAT[:FILE]` asks for; UsageError where two reports would get in one place."""
    sinks = [_sink(text) for text in texts or ["text"]]
    places = [None if sink.file is None else target_path(sink.file) for sink in sinks]
    for sink, place in zip(sinks, places, strict=True):
        if places.count(place) > 1:
            where = "stdout" if sink.file is None else sink.file
            raise UsageError(f"two reports cannot both go to {where}", hint="give -f FORMAT:FILE")
    return tuple(sinks)


def _sink(text: str) -> Sink:
    name, colon, file = text.partition(":")
    if name not in CHECK_REPORTERS:
        raise UsageError(f"--format {name!r}: give one of {', '.join(CHECK_REPORTERS)}")
    if colon and not file:
        raise UsageError(f"--format {text!r}: there is no file after the colon")
    return Sink(name, file if colon and file not in _STDOUT else None)


def read_assignments(texts: Sequence[str]) -> dict[str, object]:
    """What `--set CODE.NAME=VALUE` asks for, values as TOML has them, bare words as texts."""
    found: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r}: give CODE.NAME=VALUE, as GT203.max_norm=50")
        if key in found:
            raise UsageError(f"--set {key} is given twice")
        found[key] = _value(value)
    return found


def _value(text: str) -> object:
    try:
        return float(text) if text.startswith(".") else _toml(text)
    except (ValueError, RecursionError):
        return text


def _toml(text: str) -> object:
    values = tomllib.loads(f"value = {text}")
    return values["value"] if len(values) == 1 else text


def read_codes(texts: Sequence[str] | None) -> list[str] | None:
    """Codes of an option that is repeatable and takes several with commas between."""
    if texts is None:
        return None
    return [code.strip() for text in texts for code in text.split(",")]


def read_config(config: str | None, *, isolated: bool) -> Config:
    """The configuration that counts; UsageError for one that is wrong."""
    from gradtool.rules.config_file import Config, find_config, load_config  # noqa: PLC0415

    if isolated and config is not None:
        raise UsageError("--config and --isolated exclude each other")
    if isolated:
        return Config()
    return find_config(os.curdir) if config is None else load_config(config)


def _tolerance(value: float | None) -> float | None:
    if value is not None and not 0.0 <= value < math.inf:
        raise typer.BadParameter(f"{value} is no tolerance; give a finite number >= 0")
    return value


Formats: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        metavar="FORMAT[:FILE]",
        help=f"{', '.join(CHECK_REPORTERS)}; to stdout unless a FILE is given. Repeatable.",
        show_default="text",
    ),
]
ConfigFile: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="By default the nearest gradtool.toml, or pyproject.toml with [tool.gradtool.check].",
    ),
]
Isolated: TypeAlias = Annotated[bool, typer.Option("--isolated", help="Look for no configuration.")]
Select: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--select", metavar="CODES", help="Only these rules: GT101, or GT1 for all GT1xx."
    ),
]
Ignore: TypeAlias = Annotated[
    list[str] | None, typer.Option("--ignore", metavar="CODES", help="Not these rules.")
]
Assignments: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="CODE.NAME=VALUE", help="A threshold: GT203.max_norm=50. Repeatable."
    ),
]
BaselineFile: TypeAlias = Annotated[
    str | None,
    typer.Option("--baseline", metavar="FILE", help="Compare with it; see `gradtool baseline`."),
]
FailOnChoice: TypeAlias = Annotated[
    FailOn | None,
    typer.Option("--fail-on", help="The least severity that fails.", show_default="error"),
]
ExitZero: TypeAlias = Annotated[
    bool, typer.Option("--exit-zero", help="Exit 0 for findings; not for what cannot be read.")
]
MinTensors: TypeAlias = Annotated[
    int | None,
    typer.Option("--min-tensors", metavar="N", help="Expect at least N gradients (GT006)."),
]
Expect: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--expect", metavar="GLOB", help="Expect a gradient so named (GT007)."),
]
ExpectNorm: TypeAlias = Annotated[
    float | None,
    typer.Option("--expect-norm", metavar="X", help="Expect this total norm (GT401)."),
]
RTol: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--rtol",
        metavar="R",
        callback=_tolerance,
        help="Relative tolerance of --expect-norm and --baseline: GT401.rtol; 1 + R is the "
        "factor of GT402 and GT403.",
    ),
]
MaxConsecutive: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-consecutive-nonfinite",
        metavar="N",
        help="Up to N non-finite steps in a row are warnings (GT103).",
    ),
]
AllFindings: TypeAlias = Annotated[
    bool, typer.Option("--all", help="List every finding, however many there are.")
]
