"""The settings of `check`, from a configuration or a call, each key and value checked.

An unknown key is refused rather than ignored: a threshold with a typing error would not be in
force.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast, get_args

from gradtool.core.checkpoint import RanksMode
from gradtool.core.judging.policy import Override
from gradtool.core.judging.rule import SEVERITIES, Rule, Severity, Threshold, Thresholds
from gradtool.errors import UsageError
from gradtool.rules import RULES, suggestion
from gradtool.rules.baseline.drift import EXPECTED
from gradtool.rules.evidence import DumpRule
from gradtool.shortening import brief_repr, shortened

ALL = "ALL"
"""The word that selects or ignores every rule."""

_LONGEST = 100
"""Characters of a wrong key or value that a message shows."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a configuration or a call sets; None or empty where it sets nothing.

    Attributes:
        select, ignore: codes, beginnings of codes such as GT2, or ALL; no names any more.
        thresholds: by the code of the rule.
        severities: by the code of the rule, where not the rule's own.
        overrides: exceptions for some tensors; of those that match one the first counts.
        rtol: relative tolerance of all rules that compare norms.
        fail_on: the least severity of a finding that fails a dump.
        baseline: path of the baseline to compare with.
        include, exclude: globs over the names of the tensors to judge.
        section: the only section to judge.
        ranks: what files of several ranks are to each other.
        replicated: globs over the names of tensors that each rank holds whole.
        strip_prefix: what to take off names where they are matched.
    """

    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)
    severities: Mapping[str, Severity] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    rtol: float | None = None
    fail_on: Severity | None = None
    baseline: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    section: str | None = None
    ranks: RanksMode | None = None
    replicated: tuple[str, ...] = ()
    strip_prefix: tuple[str, ...] = ()


_KEYS = (
    *("select", "ignore", "overrides", "fail_on", "baseline"),
    *("include", "exclude", "section", "ranks", "replicated", "strip_prefix"),
)


def read_settings(table: Mapping[str, Any], where: str) -> Settings:
    """The settings in a table of a configuration.

    Raises UsageError, naming `where` and the key, for what is wrong.
    """
    select = table.get("select")
    if select == []:
        raise UsageError(f"{where} select: names no rule")
    for key in table:
        if key not in _KEYS and key not in RULES:
            _refuse(where, key, "there is no such key", [*_KEYS, *RULES])
    return Settings(
        select=None if select is None else _codes(select, f"{where} select"),
        ignore=_codes(table.get("ignore", []), f"{where} ignore"),
        thresholds=dict(_all_thresholds(table, where)),
        severities=dict(_severities(table, where)),
        overrides=tuple(_overrides(table.get("overrides", []), f"{where} overrides")),
        fail_on=_severity(table["fail_on"], f"{where} fail_on") if "fail_on" in table else None,
        baseline=_text(table, "baseline", where),
        include=_texts(table.get("include", []), f"{where} include"),
        exclude=_texts(table.get("exclude", []), f"{where} exclude"),
        section=_text(table, "section", where),
        ranks=_ranks(table["ranks"], f"{where} ranks") if "ranks" in table else None,
        replicated=_texts(table.get("replicated", []), f"{where} replicated"),
        strip_prefix=_texts(table.get("strip_prefix", []), f"{where} strip_prefix"),
    )


def read_call(
    *,
    select: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] = (),
    thresholds: Mapping[str, object] | None = None,
    rtol: object = None,
    fail_on: object = None,
) -> Settings:
    """The settings given in a call, with thresholds as `{"GT203.max_norm": 50}`.

    Raises UsageError for what is wrong.
    """
    by_code: dict[str, dict[str, object]] = {}
    for key, value in (thresholds or {}).items():
        code, dot, name = key.partition(".")
        if code not in RULES:
            _refuse(_CALL, key, "there is no such code", [*RULES])
        if not dot:
            raise UsageError(f"{_CALL} {key}: which threshold? give {code}.NAME")
        by_code.setdefault(code, {})[name] = value
    return Settings(
        select=None if select is None else _codes(_listed(select), "`select`"),
        ignore=_codes(_listed(ignore), "`ignore`"),
        thresholds=dict(_all_thresholds(by_code, _CALL)),
        severities=dict(_severities(by_code, _CALL)),
        rtol=None if rtol is None else _tolerance(rtol),
        fail_on=None if fail_on is None else _severity(fail_on, "`fail_on`"),
    )


_CALL = "`thresholds`"


def _listed(codes: str | Sequence[str]) -> list[str]:
    return [codes] if isinstance(codes, str) else list(codes)


def _tolerance(value: object) -> float:
    try:
        rtol = RULES[EXPECTED].parameter("rtol").checked(value)  # type: ignore[union-attr]
    except ValueError as error:
        raise UsageError(f"`rtol` is no tolerance: {error}") from error
    return cast(float, rtol)


def _threshold(rule: Rule, name: str, value: object, where: str) -> Threshold:
    """`value` as the rule's threshold `name`; UsageError if there is none or it is not allowed."""
    parameter = rule.parameter(name)
    if parameter is None:
        valid = [parameter.name for parameter in rule.parameters]
        valid += [] if rule.mandatory else ["severity"]
        if not valid:
            raise UsageError(f"{where} {rule.code}.{name}: {rule.code} has no thresholds to set")
        hint = suggestion(name, valid, least=0.0)
        raise UsageError(
            f"{where} {rule.code}.{shortened(name, _LONGEST)}: there is no such threshold",
            hint=hint,
        )
    try:
        return parameter.checked(value)
    except ValueError as error:
        raise UsageError(f"{where} {rule.code}.{name}: {error}") from error


def matching_codes(codes: tuple[str, ...]) -> frozenset[str]:
    """Codes of the rules that `codes` stand for: codes, their beginnings, or ALL."""
    return frozenset(
        code for code in RULES for prefix in codes if prefix == ALL or code.startswith(prefix)
    )


def _codes(value: object, where: str) -> tuple[str, ...]:
    """The codes that texts stand for: codes, beginnings of them, names of rules, or ALL."""
    by_name = {rule.name: rule.code for rule in RULES.values()}
    codes = []
    for text in _texts(value, where):
        code = by_name.get(text.lower(), text.upper())
        if code != ALL and not (len(code) > 2 and matching_codes((code,))):
            # No family, nor ALL: what one rule was meant to do must not be done to many.
            _refuse(where, text, "there is no such rule", [*RULES, *by_name])
        codes.append(code)
    (twice, times), *_ = Counter(codes).most_common(1) or [("", 1)]
    if times > 1:
        raise UsageError(f"{where}: {twice!r} is there twice")
    return tuple(codes)


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise UsageError(f"{where}: must be a list of texts, not {brief_repr(value)}")
    (twice, times), *_ = Counter(value).most_common(1) or [("", 1)]
    if times > 1:
        raise UsageError(f"{where}: {twice!r} is there twice")
    return tuple(value)


def _text(table: Mapping[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is not None and not (isinstance(value, str) and value):
        raise UsageError(f"{where} {key}: must be a text, not {brief_repr(value)}")
    return value


def _severity(value: object, where: str) -> Severity:
    for severity in SEVERITIES:
        if value == severity:
            return severity
    choices = " or ".join(map(repr, SEVERITIES))
    raise UsageError(f"{where}: must be {choices}, not {brief_repr(value)}")


def _ranks(value: object, where: str) -> RanksMode:
    modes: tuple[RanksMode, ...] = get_args(RanksMode)
    for mode in modes:
        if value == mode:
            return mode
    raise UsageError(f"{where}: must be one of {', '.join(modes)}, not {brief_repr(value)}")


def _severities(table: Mapping[str, Any], where: str) -> Iterator[tuple[str, Severity]]:
    for code in RULES:
        if "severity" in (values := _table(table.get(code, {}), f"{where} {code}")):
            if RULES[code].mandatory:
                raise UsageError(f"{where} {code}.severity: {code} is an error always")
            yield code, _severity(values["severity"], f"{where} {code}.severity")


def _all_thresholds(table: Mapping[str, Any], where: str) -> Iterator[tuple[str, Thresholds]]:
    for code, rule in RULES.items():
        values = _table(table.get(code, {}), f"{where} {code}")
        thresholds = {
            name: _threshold(rule, name, value, where)
            for name, value in values.items()
            if name != "severity"
        }
        if thresholds:
            yield code, thresholds


def _overrides(value: object, where: str) -> Iterator[Override]:
    if not isinstance(value, list):
        problem = "must be a list of tables ([[…overrides]])"
        raise UsageError(f"{where}: {problem}, not {brief_repr(value)}")
    for number, table in enumerate(value, start=1):
        yield _override(_table(table, where), f"{where} {number}")


def _override(table: Mapping[str, Any], where: str) -> Override:
    for key in table:
        if key not in ("pattern", "ignore") and key not in RULES:
            _refuse(where, key, "there is no such key", ["pattern", "ignore", *RULES])
        if key in RULES and "severity" in _table(table[key], f"{where} {key}"):
            raise UsageError(f"{where} {key}.severity: one rule has one severity")
    pattern = table.get("pattern")
    patterns = _texts([pattern] if isinstance(pattern, str) else pattern, f"{where} pattern")
    if not patterns:
        raise UsageError(f"{where} pattern: an override needs at least one")
    ignore = matching_codes(_codes(table.get("ignore", []), f"{where} ignore"))
    thresholds = dict(_all_thresholds(table, where))
    if not ignore and not thresholds:
        raise UsageError(f"{where}: it changes nothing; give ignore, or thresholds")
    for code in (*_codes(table.get("ignore", []), where), *thresholds):
        if code in RULES and not _judges_tensors(RULES[code]):
            raise UsageError(f"{where} {code}: {code} judges whole dumps, not tensors")
    return Override(patterns, ignore, thresholds)


def _judges_tensors(rule: Rule) -> bool:
    return isinstance(rule, DumpRule) and rule.per_tensor


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: must be a table, not {brief_repr(value)}")
    return value


def _refuse(where: str, key: str, problem: str, valid: list[str]) -> NoReturn:
    short = shortened(key, _LONGEST)
    raise UsageError(f"{where} {short}: {problem}", hint=suggestion(short, valid))
