"""Reading configuration files: `gradtool.toml`, or `[tool.gradtool.check]` in `pyproject.toml`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gradtool.errors import UsageError
from gradtool.rules.settings import Settings, brief_repr, read_settings

OWN: Final = "gradtool.toml"
SHARED: Final = "pyproject.toml"
_MAX_NBYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of a configuration file, and its path; no settings and None without one."""

    path: str | None = None
    settings: Settings = field(default_factory=Settings)


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


def load_config(path: str) -> Config:
    """The configuration in the file at `path`; UsageError if it holds none."""
    return _config(path, _load(path), named=True)


def _config(path: str, tables: Mapping[str, Any], *, named: bool = False) -> Config:
    if os.path.basename(path) == SHARED or _has_table(tables):
        if not _has_table(tables):
            raise UsageError(f"{path}: has no [tool.gradtool.check]")
        table, prefix = tables["tool"]["gradtool"], "tool.gradtool."
        if not isinstance(table, dict):
            raise UsageError(f"{path}: tool.gradtool: must be a table, not {brief_repr(table)}")
        if os.path.basename(path) != SHARED and "check" in tables:
            raise UsageError(f"{path}: has both [check] and [tool.gradtool.check]")
    else:
        table, prefix = tables, ""
    for key in table:
        if key != "check":
            raise UsageError(f"{path}: [{prefix}{key}]: there is no such table, only check")
    if named and "check" not in table:
        raise UsageError(f"{path}: has no [{prefix}check]")
    check = table.get("check", {})
    if not isinstance(check, dict):
        raise UsageError(f"{path}: {prefix}check: must be a table, not {brief_repr(check)}")
    settings = read_settings(check, f"{path}: [{prefix}check]")
    if settings.baseline is not None:
        beside_file = os.path.join(os.path.dirname(path), settings.baseline)
        settings = replace(settings, baseline=beside_file)
    return Config(path, settings)


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
