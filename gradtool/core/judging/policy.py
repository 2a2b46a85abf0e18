"""What a dump is judged by: rules in force, their thresholds, and exceptions for some tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from gradtool.core.judging.rule import Rule, Severity, Thresholds
from gradtool.core.names import NameFilter, name_filter


@dataclass(frozen=True, slots=True)
class InForce:
    """A rule as it is applied: how grave its findings are, and its thresholds."""

    rule: Rule
    severity: Severity
    thresholds: Thresholds


@dataclass(frozen=True)
class Override:
    """An exception for tensors with certain names.

    Attributes:
        patterns: globs over their names.
        ignore: codes of the rules that do not judge them.
        thresholds: of other rules, by code: those that differ for them.
    """

    patterns: tuple[str, ...]
    ignore: frozenset[str] = frozenset()
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)

    @cached_property
    def _filter(self) -> NameFilter:
        return name_filter(self.patterns, ())

    def matches(self, name: str) -> bool:
        """Whether it is for the tensor so named."""
        return self._filter(name)


@dataclass(frozen=True)
class Policy:
    """All that a verdict depends on besides the dump and the baseline.

    Attributes:
        rules: those in force, by code, in the order of codes.
        overrides: for some tensors; the first that matches a name is the one that counts.
        fail_on: the least severity that makes a verdict a failure.
        config: the file that it came from, where one did.
    """

    rules: Mapping[str, InForce]
    overrides: tuple[Override, ...] = ()
    fail_on: Severity = "error"
    config: str | None = None

    def override(self, names: Iterable[str]) -> Override | None:
        """The exception that counts for a tensor with these names."""
        matching = (one for one in self.overrides if any(map(one.matches, names)))
        return next(matching, None)

    def thresholds(self, code: str, *names: str) -> Thresholds | None:
        """The rule's thresholds for a tensor with these names; None where it does not judge it."""
        return self.thresholds_with(self.override(names), code)

    def thresholds_with(self, override: Override | None, code: str) -> Thresholds | None:
        """The same for the tensors for which that exception counts."""
        if override is None:
            return self.rules[code].thresholds
        if code in override.ignore:
            return None
        return {**self.rules[code].thresholds, **override.thresholds.get(code, {})}

    def fails(self, severity: Severity) -> bool:
        """Whether a finding of that severity makes a verdict a failure."""
        return severity == "error" or self.fail_on == "warning"
