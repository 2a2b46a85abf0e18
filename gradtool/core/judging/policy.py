"""Policies: the rules in force, their thresholds, and exceptions for some tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from gradtool.core.judging.rule import Rule, Severity, Thresholds
from gradtool.core.names import NameFilter, name_filter


@dataclass(frozen=True, slots=True)
class ActiveRule:
    """A rule that is in force, with the severity of its findings and its thresholds."""

    rule: Rule
    severity: Severity
    thresholds: Thresholds


@dataclass(frozen=True)
class Override:
    """An exception for some tensors: rules that ignore them, or other thresholds.

    Attributes:
        patterns: globs over the names of the tensors.
        ignore: codes of the rules that do not judge them.
        thresholds: by the code of the rule, those that replace its own for them.
    """

    patterns: tuple[str, ...]
    ignore: frozenset[str] = frozenset()
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)

    @cached_property
    def _filter(self) -> NameFilter:
        return name_filter(self.patterns, ())

    def matches(self, name: str) -> bool:
        """Whether the override is for the tensor `name`."""
        return self._filter(name)


@dataclass(frozen=True)
class Policy:
    """All that a verdict depends on besides the dump and the baseline.

    Attributes:
        rules: those in force, by code, in the order of codes.
        overrides: exceptions; of those that match a tensor the first counts.
        fail_on: the least severity of a finding that fails the dump.
        config: path of the configuration file; None without one.
    """

    rules: Mapping[str, ActiveRule]
    overrides: tuple[Override, ...] = ()
    fail_on: Severity = "error"
    config: str | None = None

    def override(self, names: Iterable[str]) -> Override | None:
        """The override that counts for a tensor with these names, if one does."""
        matching = (override for override in self.overrides if any(map(override.matches, names)))
        return next(matching, None)

    def thresholds(self, code: str, *names: str) -> Thresholds | None:
        """The thresholds of rule `code` for a tensor with these names; None if that is ignored."""
        return self.thresholds_with(self.override(names), code)

    def thresholds_with(self, override: Override | None, code: str) -> Thresholds | None:
        """The thresholds of rule `code` under `override`; None if the override ignores the rule."""
        if override is None:
            return self.rules[code].thresholds
        if code in override.ignore:
            return None
        return {**self.rules[code].thresholds, **override.thresholds.get(code, {})}

    def fails(self, severity: Severity) -> bool:
        """Whether a finding of that severity fails the dump."""
        return severity == "error" or self.fail_on == "warning"
