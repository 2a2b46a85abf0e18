"""Combining the settings of a configuration and of the call into the policy to judge by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from gradtool.core.judging.policy import ActiveRule, Override, Policy
from gradtool.core.judging.rule import Rule, Thresholds
from gradtool.errors import UsageError
from gradtool.rules import RULES
from gradtool.rules.baseline.drift import EXPECTED, TENSOR_DRIFT, TOTAL_DRIFT, ZERO
from gradtool.rules.evidence import DumpRule
from gradtool.rules.reference import DIFFERS
from gradtool.rules.settings import ALL, Settings, matching_codes


def resolve(
    configured: Settings,
    given: Settings,
    *,
    has_baseline: bool,
    has_reference: bool = False,
    norm_type: float = 2.0,
    config: str | None = None,
    may_be_idle: bool = False,
) -> Policy:
    """The policy of the settings in a configuration and of those given in the call, which win.

    Mandatory rules are always in force, rules that compare only if there is something to compare
    with. `config` is the path of the configuration, for messages.

    Raises UsageError for a setting of a rule that is not in force, which would have no effect, and,
    unless `may_be_idle`, if no rule but the mandatory ones is in force.
    """
    chosen = _chosen(configured, given)
    merged = partial(_merged, configured, given, norm_type)
    can_judge = partial(
        _can_judge,
        expects={
            EXPECTED: merged(RULES[EXPECTED])["norm"] is not None,
            ZERO: bool(merged(RULES[ZERO])["names"]),
            DIFFERS: has_reference,
        },
        has_baseline=has_baseline,
    )
    in_force = {
        code
        for code, rule in RULES.items()
        if rule.mandatory or (code in chosen and can_judge(rule))
    }
    where = f"{config}: " if config else ""
    _refuse_contradictions(configured, where)
    _refuse_contradictions(given)
    _refuse_idle(given, in_force, chosen)
    for code in configured.select or () if given.select is None else ():
        if code in RULES and code in chosen - in_force:
            raise UsageError(f"{where}{code} is selected and needs {_need(code)}")
    if not chosen & in_force and not may_be_idle:
        by_call = given.select is not None or given.ignore
        problem = "no rule is in force but those that cannot be switched off"
        raise UsageError(problem if by_call else f"{where}{problem}")
    given = _with_tolerance(given, in_force)
    merged = partial(_merged, configured, given, norm_type)
    severities = {**configured.severities, **given.severities}
    rules = {
        code: ActiveRule(rule, severities.get(code, rule.severity), merged(rule))
        for code, rule in RULES.items()
        if code in in_force
    }
    return Policy(
        rules=rules,
        overrides=tuple(_without_replaced(configured.overrides, given.thresholds)),
        fail_on=given.fail_on or configured.fail_on or "error",
        config=config,
    )


def _chosen(configured: Settings, given: Settings) -> frozenset[str]:
    """Codes of the rules selected and not ignored.

    A selection in the call replaces both selection and ignored rules of the configuration.
    """
    if given.select is not None:
        return matching_codes(given.select) - matching_codes(given.ignore)
    selected = matching_codes((ALL,) if configured.select is None else configured.select)
    return selected - matching_codes(configured.ignore) - matching_codes(given.ignore)


def _merged(configured: Settings, given: Settings, norm_type: float, rule: Rule) -> Thresholds:
    """The thresholds of `rule`: as given, else as configured, else its defaults."""
    code = rule.code
    return {
        **rule.defaults(norm_type),
        **configured.thresholds.get(code, {}),
        **given.thresholds.get(code, {}),
    }


def _with_tolerance(given: Settings, in_force: set[str]) -> Settings:
    """The settings given, with `rtol` as thresholds of the rules in force that compare norms."""
    if given.rtol is None:
        return given
    thresholds = dict(given.thresholds)
    by_rtol = dict.fromkeys((EXPECTED, DIFFERS), ("rtol", given.rtol))
    by_rtol |= dict.fromkeys((TOTAL_DRIFT, TENSOR_DRIFT), ("max_factor", 1.0 + given.rtol))
    if not in_force & by_rtol.keys():
        hint = "give `GT401.norm`, `baseline` or `against`"
        raise UsageError("`rtol` has nothing to compare with", hint=hint)
    for code in in_force & by_rtol.keys():
        name, value = by_rtol[code]
        if name in thresholds.get(code, {}):
            raise UsageError(f"`rtol` and {code}.{name} exclude each other")
        thresholds[code] = {**thresholds.get(code, {}), name: value}
    return replace(given, thresholds=thresholds)


def _can_judge(rule: Rule, *, expects: Mapping[str, bool], has_baseline: bool) -> bool:
    if rule.code in expects:
        return expects[rule.code]
    return has_baseline or not (isinstance(rule, DumpRule) and rule.needs_baseline)


def _refuse_idle(given: Settings, in_force: set[str], chosen: frozenset[str]) -> None:
    """UsageError for a setting in the call that concerns a rule not in force."""
    if given.select is not None and not given.select:
        raise UsageError("`select` names no rule")
    for code in given.select or ():
        if not matching_codes((code,)) & in_force and code not in RULES:
            hint = "GT4 compares: give `baseline` or `against`" if code.startswith("GT4") else None
            raise UsageError(f"{code} is selected, and none of its rules is in force", hint=hint)
    named = {code for code in given.select or () if code in RULES}
    for code in sorted({*given.thresholds, *given.severities, *named} - in_force):
        if code not in chosen:
            raise UsageError(f"{code} is set and not in force", hint="select it, or leave it alone")
        raise UsageError(f"{code} needs {_need(code)}")


def _need(code: str) -> str:
    needs = {
        EXPECTED: "an expected norm: `GT401.norm`",
        ZERO: "names of what must be 0: `GT410.names`",
        DIFFERS: "a dump to compare with: `against`",
    }
    return needs.get(code, "a baseline: `baseline`")


def _refuse_contradictions(settings: Settings, where: str = "") -> None:
    ignored = matching_codes(settings.ignore)
    for code in settings.select or ():
        if matching_codes((code,)) <= ignored:
            raise UsageError(f"{where}{code} is both selected and ignored")
    for code in settings.ignore:
        if code in RULES and RULES[code].mandatory:
            raise UsageError(
                f"{where}{code} cannot be ignored: where it finds something there is nothing "
                "to judge"
            )


def _without_replaced(
    overrides: tuple[Override, ...], given: Mapping[str, Thresholds]
) -> Iterator[Override]:
    """The overrides without thresholds that are also given in the call, which win."""
    for override in overrides:
        kept: dict[str, Thresholds] = {}
        for code, thresholds in override.thresholds.items():
            replaced = given.get(code, {})
            kept[code] = {name: value for name, value in thresholds.items() if name not in replaced}
        yield replace(override, thresholds={code: rest for code, rest in kept.items() if rest})
