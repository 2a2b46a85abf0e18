"""Configuration files: `gradtool.toml`, and `[tool.gradtool.check]` in `pyproject.toml`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gradtool.errors import UsageError
from gradtool.rules.settings import Settings, read_settings, shown

OWN: Final = "gradtool.toml"
SHARED: Final = "pyproject.toml"
_LARGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration and the file that it was read from, if there is one."""

    path: str | None = None
    settings: Settings = field(default_factory=Settings)


def find_config(start: str) -> Config:
    """The configuration that counts in the directory `start`.

    That of the nearest directory, from `start` upwards, with a `gradtool.toml` or with a
    `pyproject.toml` that has a table for it. UsageError for one that is wrong.
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
    """The configuration in a file that was named; UsageError where it holds none."""
    return _config(path, _load(path), named=True)


def _config(path: str, tables: Mapping[str, Any], *, named: bool = False) -> Config:
    if os.path.basename(path) == SHARED or _has_table(tables):
        if not _has_table(tables):
            raise UsageError(f"{path}: has no [tool.gradtool.check]")
        table, prefix = tables["tool"]["gradtool"], "tool.gradtool."
        if not isinstance(table, dict):
            raise UsageError(f"{path}: tool.gradtool: must be a table, not {shown(table)}")
        if os.path.basename(path) != SHARED and "check" in tables:
            raise UsageError(f"{path}: has both [check] and [tool.gradtool.check]")
    else:
        table, prefix = tables, ""
    for key in table:
        if key != "check":
            raise UsageError(f"{path}: [{prefix}{key}]: there is no such table, only check")
    if named and "check" not in table:
        raise UsageError(f"{path}: has no [{prefix}check]")
    settings = table.get("check", {})
    if not isinstance(settings, dict):
        raise UsageError(f"{path}: {prefix}check: must be a table, not {shown(settings)}")
    found = read_settings(settings, f"{path}: [{prefix}check]")
    if found.baseline is not None:
        beside = os.path.join(os.path.dirname(path), found.baseline)
        found = replace(found, baseline=beside)
    return Config(path, found)


def _has_table(tables: Mapping[str, Any]) -> bool:
    tool = tables.get("tool")
    return isinstance(tool, dict) and "gradtool" in tool


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise UsageError(f"{path}: is too large for a configuration")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no TOML: {error}") from error
