"""What a configuration says about which tensors to measure."""

from __future__ import annotations

import os
from dataclasses import fields

from gradtool.arguments import globs, texts
from gradtool.core.judging.policy import Policy
from gradtool.core.shapes.rows import Rows
from gradtool.request import MeasureOptions, MeasureRequest
from gradtool.rules import suggestion
from gradtool.rules.baseline.drift import ZERO
from gradtool.rules.config_file import Command, Config, load_config
from gradtool.rules.settings import Settings


def config_of(config: str | os.PathLike[str] | Config | None, command: Command = "check") -> Config:
    """The configuration that was given to a command: its file, itself, or none."""
    if config is None:
        return Config()
    return config if isinstance(config, Config) else load_config(os.fspath(config), command)


def requested(options: MeasureOptions) -> MeasureRequest:
    """What a call asks for; TypeError, as Python raises it, for a keyword that nothing takes."""
    known = [field.name for field in fields(MeasureRequest) if field.init]
    for name in options:
        if name not in known:
            meant = suggestion(name, known)
            also = f"; {meant}" if meant else ""
            raise TypeError(f"got an unexpected keyword argument {name!r}{also}")
    return MeasureRequest(**options)


def request_of(options: MeasureOptions, configured: Settings) -> MeasureRequest:
    """What is to be measured, and how: as given in the call, else as configured."""
    choices: MeasureOptions = {**options}
    choices["include"] = globs("include", options.get("include", ())) or configured.include
    choices["exclude"] = globs("exclude", options.get("exclude", ())) or configured.exclude
    choices["replicated"] = globs("replicated", options.get("replicated", ())) or (
        configured.replicated
    )
    choices["strip_prefix"] = texts("strip_prefix", options.get("strip_prefix", ())) or (
        configured.strip_prefix
    )
    if "ranks" not in options and configured.ranks is not None:
        choices["ranks"] = configured.ranks
    if options.get("section") is None:
        choices["section"] = configured.section
    return requested(choices)


def rows_to_know(policy: Policy) -> tuple[Rows, ...]:
    """The rows that a rule in force has to know apart from others."""
    names = policy.rules[ZERO].thresholds["names"] if ZERO in policy.rules else ()
    return tuple(map(Rows.read, names)) if isinstance(names, tuple) else ()
