"""Reading configuration files: `gradtool.toml`, or `[tool.gradtool]` in `pyproject.toml`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

from gradtool.core.comparing.tolerances import PatternTolerance, read_patterns
from gradtool.errors import UsageError
from gradtool.rules.settings import Settings, read_settings
from gradtool.shortening import brief_repr

OWN: Final = "gradtool.toml"
SHARED: Final = "pyproject.toml"
_MAX_NBYTES: Final = 1 << 20

Command = Literal["check", "diff"]
"""The commands that have a table of their own."""

_COMMANDS: Final = get_args(Command)


@dataclass(frozen=True, slots=True)
class Config:
    """What a configuration file says, and its path; nothing and None without one.

    Attributes:
        settings: those of `check`.
        tolerances: those of `diff`.
    """

    path: str | None = None
    settings: Settings = field(default_factory=Settings)
    tolerances: tuple[PatternTolerance, ...] = ()


def find_config(start: str) -> Config:
    """The configuration of the directory `start`, or of the nearest one above that has any.

    A directory has one in a `gradtool.toml`, or else in a `pyproject.toml` with `[tool.gradtool]`.
    UsageError for one that is wrong.
    """
    try:
        directory = os.path.abspath(start)
    except OSError as error:
        problem = f"there is no directory to look for a configuration in: {error.strerror}"
        raise UsageError(problem) from error
    while True:
        for name in (OWN, SHARED):
            path = os.path.join(directory, name)
            if os.path.lexists(path):
                tables = _load(path)
                if name == OWN or _has_table(tables):
                    return _config(os.path.relpath(path, start), tables)
        parent = os.path.dirname(directory)
        if parent == directory:
            return Config()
        directory = parent


def load_config(path: str, command: Command = "check") -> Config:
    """The configuration in the file at `path`; UsageError if it holds none for that command."""
    return _config(path, _load(path), command)


def _config(path: str, tables: Mapping[str, Any], needed: Command | None = None) -> Config:
    """What is in a file; UsageError if there is no table for a command that has `needed` one."""
    table, prefix = _own_table(path, tables, needed or "check")
    for key in table:
        if key not in _COMMANDS:
            valid = " and ".join(_COMMANDS)
            raise UsageError(f"{path}: [{prefix}{key}]: there is no such table, only {valid}")
    if needed is not None and needed not in table:
        raise UsageError(f"{path}: has no [{prefix}{needed}]")
    for name in _COMMANDS:
        found = table.get(name, {})
        if not isinstance(found, dict):
            raise UsageError(f"{path}: {prefix}{name}: must be a table, not {brief_repr(found)}")
    settings = read_settings(table.get("check", {}), f"{path}: [{prefix}check]")
    if settings.baseline is not None:
        beside_file = os.path.join(os.path.dirname(path), settings.baseline)
        settings = replace(settings, baseline=beside_file)
    return Config(path, settings, _tolerances(table.get("diff", {}), f"{path}: [{prefix}diff]"))


def _own_table(
    path: str, tables: Mapping[str, Any], command: Command
) -> tuple[Mapping[str, Any], str]:
    """The table of gradtool in a file, and what names of tables begin with there."""
    if os.path.basename(path) != SHARED and not _has_table(tables):
        return tables, ""
    if not _has_table(tables):
        raise UsageError(f"{path}: has no [tool.gradtool.{command}]")
    table = tables["tool"]["gradtool"]
    if not isinstance(table, dict):
        raise UsageError(f"{path}: tool.gradtool: must be a table, not {brief_repr(table)}")
    for name in _COMMANDS if os.path.basename(path) != SHARED else ():
        if name in tables:
            raise UsageError(f"{path}: has both [{name}] and [tool.gradtool.{name}]")
    return table, "tool.gradtool."


def _tolerances(table: Mapping[str, Any], where: str) -> tuple[PatternTolerance, ...]:
    for key in table:
        if key != "tolerance":
            raise UsageError(f"{where} {brief_repr(key)}: there is no such key, only tolerance")
    return read_patterns(table.get("tolerance", []), f"{where} tolerance")


def _has_table(tables: Mapping[str, Any]) -> bool:
    tool = tables.get("tool")
    return isinstance(tool, dict) and "gradtool" in tool


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_NBYTES + 1)
        if len(data) > _MAX_NBYTES:
            raise UsageError(f"{path}: is too large for a configuration")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no TOML: {error}") from error
