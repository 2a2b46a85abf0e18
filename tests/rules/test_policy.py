"""Which rules judge, by which thresholds, and for which tensors."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

import gradtool
from gradtool.api.baselines import save_baseline
from gradtool.core.judging.policy import Policy
from gradtool.core.judging.rule import Thresholds
from gradtool.rules import RULES
from gradtool.rules.config_file import Config
from gradtool.rules.settings import read_settings

ALWAYS = {"GT001", "GT002", "GT003"}
COMPARING = {code for code in RULES if "GT401" < code < "GT410"}
ASKED = {"GT401", "GT410", "GT411"}
"""Rules that are in force where the call says what to compare with."""

WITHOUT_BASELINE = {code for code in RULES if code < "GT4"}
TREE = {"a": np.array([3.0, 4.0]), "b.w": np.array([1.0])}


def configured(**table: Any) -> Config:
    return Config("gradtool.toml", read_settings(table, "test"))


def policy(**options: Any) -> Policy:
    return gradtool.check(TREE, **options).policy


def in_force(**options: Any) -> set[str]:
    return set(policy(**options).rules)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("known")
    save_file(TREE, at / "a.safetensors")
    save_baseline([at / "a.safetensors"], at / "a.json")
    return at / "a.json"


# Which rules are in force.

WORDS = ["ALL", "GT0", "GT1", "GT2", "GT20", "GT3", "GT30", "GT4", *RULES]
words = st.lists(st.sampled_from(WORDS), unique=True, max_size=4)


def meant(asked: list[str]) -> set[str]:
    """Codes that words stand for."""
    return {code for code in RULES for word in asked if word in ("ALL", code[: len(word)])}


@given(
    select=st.none() | words,
    ignore=words,
    configured_select=st.none() | words,
    configured_ignore=words,
    compares=st.booleans(),
)
def test_select_and_ignore(
    select: list[str] | None,
    ignore: list[str],
    configured_select: list[str] | None,
    configured_ignore: list[str],
    *,
    compares: bool,
    known: Path,
) -> None:
    table: dict[str, Any] = {"ignore": configured_ignore}
    if configured_select is not None:
        table["select"] = configured_select
    if configured_select == []:
        with pytest.raises(gradtool.UsageError, match="names no rule"):
            configured(**table)
        return
    options: dict[str, Any] = {"select": select, "ignore": ignore, "config": configured(**table)}
    if compares:
        options["baseline"] = known
    if select is not None:  # whoever selects in the call takes back what a file ignores
        chosen = meant(select) - meant(ignore)
    elif configured_select is not None:
        chosen = meant(configured_select) - meant(configured_ignore) - meant(ignore)
    else:
        chosen = set(RULES) - meant(configured_ignore) - meant(ignore)
    judging = chosen - ASKED - (set() if compares else COMPARING)
    contradiction = any(
        ALWAYS & {*out} or any(meant([word]) <= meant(out) for word in into or ())
        for into, out in ((select, ignore), (configured_select, configured_ignore))
    )
    in_force = judging | ALWAYS
    idle = select == [] or any(not meant([word]) & in_force for word in select or ())
    if select is None:  # a full code in a file, too, unless the call ignores it
        idle |= bool({*(configured_select or ())} & chosen - in_force)
    if contradiction or idle or not chosen & in_force:
        with pytest.raises(gradtool.UsageError):
            policy(**options)
    else:
        found = policy(**options)
        assert set(found.rules) == judging | ALWAYS
        assert list(found.rules) == sorted(found.rules)
        assert found.config == "gradtool.toml"


def test_all_that_can_judge_is_in_force_unless_something_is_said(known: Path) -> None:
    assert in_force() == WITHOUT_BASELINE
    assert in_force(baseline=known) == WITHOUT_BASELINE | COMPARING
    assert in_force(thresholds={"GT401.norm": 5}) == WITHOUT_BASELINE | {"GT401"}
    assert in_force(config=configured(GT401={"norm": 5})) == WITHOUT_BASELINE | {"GT401"}


@pytest.mark.parametrize("code", sorted(ALWAYS))
def test_some_rules_are_always_in_force_and_always_errors(code: str) -> None:
    assert code in in_force(select=["GT203"])
    assert code in in_force(ignore=["GT1", "GT2", "GT3", "GT004"])
    assert code in in_force(ignore=["GT0"])
    for options in (
        {"ignore": [code]},
        {"config": configured(ignore=[code])},
        {"thresholds": {f"{code}.severity": "warning"}},
    ):
        with pytest.raises(gradtool.UsageError, match=code):
            policy(**options)


def test_what_is_ignored_finds_nothing_and_the_rest_does() -> None:
    sick = {"a": np.array([math.nan]), "b": np.array([math.inf])}
    found = gradtool.check(sick, ignore=["GT102", "GT2"])
    assert [one.code for one in found.all_findings] == ["GT101"]
    found = gradtool.check(sick, select=["GT102"])
    assert [one.code for one in found.all_findings] == ["GT102"]
    assert gradtool.check(sick, select=["GT006"]).exit_code == 0
    assert gradtool.check({}, select=["GT006"]).exit_code == 3


@pytest.mark.parametrize("options", [
    {"ignore": ["ALL"]},
    {"ignore": ["GT0", "GT1", "GT2", "GT3", "GT4"]},
    {"config": configured(ignore=["ALL"])},
    {"config": configured(select=["GT4"])},
    {"config": configured(select=["GT101"]), "ignore": ["GT1"]},
], ids=str)  # fmt: skip
def test_a_call_by_which_nothing_is_judged_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(gradtool.UsageError, match="no rule is in force but those"):
        policy(**options)


def test_a_code_that_a_file_selects_in_vain_is_refused_naming_the_file(known: Path) -> None:
    for select in (["GT403"], ["GT403", "GT2"], ["GT2", "GT405"]):
        config = configured(select=select)
        with pytest.raises(gradtool.UsageError, match=r"gradtool\.toml: GT40\d .* a baseline"):
            policy(config=config)
        assert in_force(config=config, baseline=known) >= {one for one in select if len(one) > 3}
        assert in_force(config=config, select=["GT1"]) == ALWAYS | meant(["GT1"])
        assert in_force(config=configured(select=["GT2", "GT4"])) == ALWAYS | meant(["GT2"])
    with pytest.raises(gradtool.UsageError, match="an expected norm"):
        policy(config=configured(select=["GT401", "GT1"]), baseline=known)
    both = configured(select=["GT101", "GT403"])
    assert in_force(config=both, ignore=["GT403"]) == ALWAYS | {"GT101"}
    both = configured(select=["GT101", "GT102"])
    assert in_force(config=both, ignore=["GT102"]) == ALWAYS | {"GT101"}


def test_names_are_as_good_as_codes_in_any_case() -> None:
    for code, rule in RULES.items():
        if code in WITHOUT_BASELINE - ALWAYS:
            for word in (rule.name, rule.name.upper(), code.lower()):
                assert in_force(select=word) == ALWAYS | {code}
                assert in_force(ignore=word) == WITHOUT_BASELINE - {code}


def test_a_suggestion_is_one_rule_and_never_many() -> None:
    for word in ("al", "nann", "GT1x", "GT22", "gradients", "xyzzy"):
        with pytest.raises(gradtool.UsageError) as caught:
            policy(ignore=word)
        hint = caught.value.hint
        names = {*RULES, *(rule.name for rule in RULES.values())}
        assert hint is None or hint.removeprefix("did you mean ").removesuffix("?") in names


def test_a_code_or_a_beginning_is_enough(known: Path) -> None:
    assert in_force(select="GT2") == in_force(select=["GT2"]) == ALWAYS | meant(["GT2"])
    assert in_force(ignore="GT2") == WITHOUT_BASELINE - meant(["GT2"])
    assert in_force(select="GT403", baseline=known) == ALWAYS | {"GT403"}
    assert gradtool.assert_healthy(TREE, select="GT2", ignore="GT203") is None
    with pytest.raises(AssertionError, match="GT204"):
        gradtool.assert_healthy(TREE, select="GT2", thresholds={"GT204.max_norm": 1})
    for word in ("", "G", "GT999"):
        with pytest.raises(gradtool.UsageError):
            policy(select=word)


WRONG: list[dict[str, Any]] = [
    {"select": ["GT"]},
    {"select": ["G"]},
    {"select": ["gt2033"]},
    {"select": ["GT999"]},
    {"select": ["GT2033"]},
    {"select": [""]},
    {"select": []},
    {"select": ["GT4"]},
    {"select": ["GT40"]},
    {"select": ["GT1", "GT4"]},
    {"select": ["GT2", "GT1"], "ignore": ["GT101", "GT102", "GT103", "GT104"]},
    {"select": ["GT2"], "rtol": 0.1},
    {"rtol": 0.1},
    *({"thresholds": {"GT401.norm": 5}, "rtol": value} for value in (
        -1, math.nan, math.inf, "1", True, 1j, [1],
    )),
    {"thresholds": {"GT401.norm": 5, "GT401.rtol": 0.1}, "rtol": 0.1},
    {"ignore": ["all"]},
    {"ignore": ["GT2", "GT2"]},
    {"ignore": [203]},
    {"select": ["GT203"], "ignore": ["GT203"]},
    {"select": ["GT203"], "thresholds": {"GT204.max_norm": 1}},
    {"ignore": ["GT2"], "thresholds": {"GT203.max_norm": 1}},
    {"ignore": ["GT203"], "thresholds": {"GT203.severity": "warning"}},
    {"select": ["GT403"]},
    {"thresholds": {"GT403.max_factor": 2}},
    {"select": ["GT401"]},
    {"thresholds": {"GT401.rtol": 0.1}},
    {"thresholds": {"GT203": 1}},
    {"thresholds": {"GT203.": 1}},
    {"thresholds": {"GT203.max": 1}},
    {"thresholds": {"GT203.max_norm.max_norm": 1}},
    {"thresholds": {"max_norm": 1}},
    {"thresholds": {"GT101.max_norm": 1}},
    {"thresholds": {"GT203.severity": "fatal"}},
    {"fail_on": "never"},
    {"fail_on": ""},
    *({"thresholds": {"GT203.max_norm": value}} for value in (
        "1", "None", "NONE", "", True, math.nan, np.float64(math.nan), np.bool_(True), np.ones(1),
        -1, -1e-9, [1], 10**400, 2**63, 1j,
    )),
    *({"thresholds": {"GT401.norm": value}} for value in (math.inf, math.nan, -1)),
    *({"thresholds": {"GT401.norm": 1, "GT401.rtol": value}} for value in (math.inf, -1)),
    *({"thresholds": {"GT302.min_spread": value}} for value in (math.inf, 0, 1e-7)),
    *({"thresholds": {"GT006.min_tensors": value}} for value in (
        1.0, 0, True, "1", 2**63, None, "none", np.float64(2), np.int8(-1),
    )),
    *({"thresholds": {"GT205.max_share": value}} for value in (1.1, math.inf, -0.1)),
    *({"thresholds": {"GT402.max_factor": value}} for value in (0.9, math.nan)),
    *({"thresholds": {"GT007.names": value}} for value in (1, [1], [""], {"a": 1}, None)),
]  # fmt: skip


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_what_is_wrong_is_refused_and_never_guessed(options: dict[str, Any]) -> None:
    with pytest.raises(gradtool.UsageError) as caught:
        policy(**options)
    assert "\n" not in str(caught.value)


# Thresholds.


def test_every_threshold_in_force_is_told(known: Path) -> None:
    found = policy(baseline=known, thresholds={"GT401.norm": 5})
    for code, one in found.rules.items():
        parameters = {parameter.name: parameter.default for parameter in RULES[code].parameters}
        assert one.thresholds == parameters | ({"norm": 5.0} if code == "GT401" else {})
        assert one.severity == RULES[code].severity


ranges = st.sampled_from(["GT203.min_norm", "GT203.max_norm", "GT204.max_norm", "GT302.max_z"])
limits = st.dictionaries(ranges, st.floats(0, 1e9), max_size=4)


@given(from_file=limits, from_call=limits)
def test_the_call_wins_over_the_file_and_the_file_over_the_rule(
    from_file: dict[str, float], from_call: dict[str, float]
) -> None:
    tables: dict[str, Any] = {}
    for key, value in from_file.items():
        tables.setdefault(key[:5], {})[key[6:]] = value
    found = policy(config=configured(**tables), thresholds=from_call)
    for code in ("GT203", "GT204", "GT302"):
        for name, value in found.rules[code].thresholds.items():
            key = f"{code}.{name}"
            default = RULES[code].defaults()[name]
            assert value == from_call.get(key, from_file.get(key, default))


@pytest.mark.parametrize("nothing", [None, "none"])
def test_a_number_may_set_no_limit(nothing: object) -> None:
    huge = {"a": np.array([1e9]), "b": np.zeros(3)}
    limits = {"GT203.max_norm": nothing, "GT205.max_share": nothing}
    tables = {"GT203": {"max_norm": nothing}, "GT205": {"max_share": nothing}}
    for options in ({"thresholds": limits}, {"config": configured(**tables)}):
        outcome = gradtool.check(huge, **options)
        assert outcome.exit_code == 0
        assert list(outcome.all_findings) == []
        assert outcome.policy.rules["GT203"].thresholds == {"min_norm": 1e-8, "max_norm": None}


@pytest.mark.parametrize("number", [
    np.float32(50), np.float64(50), np.float16(50), np.int64(50), np.uint8(50), Fraction(50),
])  # fmt: skip
def test_scalars_of_numpy_are_numbers(number: Any) -> None:
    found = policy(thresholds={"GT203.max_norm": number}).rules["GT203"].thresholds["max_norm"]
    assert (found, type(found) in (int, float)) == (50, True)
    if isinstance(number, np.integer):
        found = policy(thresholds={"GT006.min_tensors": number}).rules["GT006"].thresholds
        assert type(found["min_tensors"]) is int


def test_a_tolerance_is_that_of_every_rule_that_compares_norms(known: Path) -> None:
    tolerance = {"GT401": "rtol", "GT402": "max_factor", "GT403": "max_factor"}

    def limits(**options: Any) -> dict[str, Any]:
        rules = policy(rtol=0.25, **options).rules
        return {code: rules[code].thresholds[n] for code, n in tolerance.items() if code in rules}

    assert limits(thresholds={"GT401.norm": 5}) == {"GT401": 0.25}
    assert limits(baseline=known) == {"GT402": 1.25, "GT403": 1.25}
    assert limits(baseline=known, select=["GT403"]) == {"GT403": 1.25}
    norm = math.sqrt(26)
    for rtol, code in ((0.3, 0), (0.2, 1)):
        thresholds = {"GT401.norm": norm / 1.25}
        assert gradtool.check(TREE, thresholds=thresholds, rtol=rtol).exit_code == code


def test_what_a_file_sets_for_rules_that_are_not_in_force_is_noted(known: Path) -> None:
    config = configured(
        GT403={"max_factor": 5}, GT404={"severity": "warning"}, GT203={"max_norm": 9}
    )
    said = [note.split()[0] for note in gradtool.check(TREE, config=config).notes]
    assert said == ["GT403", "GT404"]
    assert gradtool.check(TREE, config=config, baseline=known).notes == ()
    chosen = gradtool.check(TREE, config=config, select=["GT1"])
    assert [note.split()[0] for note in chosen.notes] == ["GT203", "GT403", "GT404"]
    assert all("not in force" in note for note in chosen.notes)


# What is judged, and what is said about that.


def test_globs_may_be_given_once_and_are_told(tmp_path: Path) -> None:
    save_file({"a.w": np.ones(2), "a.b": np.ones(3), "c": np.full(2, 1e9)}, tmp_path / "a")
    plain = gradtool.check(tmp_path / "a")
    assert (plain.norm_type, plain.include, plain.exclude, plain.section) == (2.0, (), (), None)
    assert plain.exit_code == 1
    outcome = gradtool.check(
        tmp_path / "a",
        tmp_path / "a",
        include=(glob for glob in ["a.*", "d"]),
        exclude=(glob for glob in ["*.b"]),
        norm_type=1,
    )
    assert (outcome.norm_type, outcome.include, outcome.exclude) == (1.0, ("a.*", "d"), ("*.b",))
    norms = [one.summary.norm for one in outcome.verdicts if one.summary]
    assert (outcome.exit_code, norms) == (0, [2.0, 2.0])
    config = configured(include=["a.*"], exclude=["*.w"])
    outcome = gradtool.check(tmp_path / "a", config=config, exclude=iter(["*.b"]))
    assert (outcome.include, outcome.exclude) == (("a.*",), ("*.b",))
    tree = {"grads": {"w": np.ones(2)}, "model": {"w": np.ones(2)}}
    assert gradtool.check(tree, section="model").section == "model"
    assert gradtool.check(tree, config=configured(section="grads")).section == "grads"


@given(
    sizes=st.lists(
        st.sampled_from([0, 1, 100_000, 3_000_000, "missing", "cut"]), min_size=1, max_size=5
    )
)
def test_progress_over_several_sources_is_that_of_one_piece_of_work(
    sizes: list[int | str], scratch: Path
) -> None:
    """It never goes back, and ends where everything that could be opened is done."""
    paths = []
    for size in sizes:
        paths.append(scratch / f"progress{size}.safetensors")
        if size == "cut":
            paths[-1].write_bytes(b"\0" * 40)
        elif isinstance(size, int):
            save_file({"w": np.ones(size, "u1").view("i1"), "g": np.ones(size // 8)}, paths[-1])
    alone: list[int] = []
    for path in paths:
        calls: list[tuple[int, int]] = []
        gradtool.check(path, progress=lambda done, total, calls=calls: calls.append((done, total)))
        alone.append(calls[-1][1] if calls else 0)
    told: list[tuple[int, int]] = []
    gradtool.check(*paths, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert all(0 <= done <= total for done, total in told)
    if any(alone):
        assert told[-1] == (sum(alone), sum(alone))
    if all(alone) and len({*alone}) == 1:  # what is not open yet is taken for as large
        assert {total for _, total in told} == {sum(alone)}


def test_severity_and_what_fails_are_the_calls_then_the_files() -> None:
    sick = {"a": np.array([5e4])}

    def found(config: dict[str, Any], **options: Any) -> tuple[str, int]:
        outcome = gradtool.check(sick, config=configured(**config), **options)
        (finding,) = outcome.all_findings
        return finding.severity, outcome.exit_code

    warn, grave = {"GT203.severity": "warning"}, {"GT203.severity": "error"}
    assert found({}) == ("error", 1)
    assert found({"GT203": {"severity": "warning"}}) == ("warning", 0)
    assert found({"GT203": {"severity": "warning"}, "fail_on": "warning"}) == ("warning", 1)
    assert found({"GT203": {"severity": "warning"}}, thresholds=grave) == ("error", 1)
    assert found({}, thresholds=warn) == ("warning", 0)
    assert found({"fail_on": "warning"}, thresholds=warn, fail_on="error") == ("warning", 0)
    assert found({"fail_on": "error"}, thresholds=warn, fail_on="warning") == ("warning", 1)


# Overrides.

LETTERS = "ab.01"
names = st.text(LETTERS, min_size=1, max_size=5)
globs = st.text(LETTERS + "*?", min_size=1, max_size=4)


def fits(name: str, glob: str) -> bool:
    """Whether a glob of `*` and `?` matches, letter by letter."""
    if not glob:
        return not name
    if glob[0] == "*":
        return any(fits(name[at:], glob[1:]) for at in range(len(name) + 1))
    return bool(name) and glob[0] in ("?", name[0]) and fits(name[1:], glob[1:])


overrides = st.fixed_dictionaries(
    {"pattern": st.lists(globs, min_size=1, max_size=2, unique=True)},
    optional={"GT204": st.fixed_dictionaries({"max_norm": st.sampled_from([1.0, 5.0, 9.0])})},
).flatmap(
    lambda one: st.just(one) if "GT204" in one else st.just(one | {"ignore": ["GT204"]})
)  # fmt: skip


@given(
    st.dictionaries(names, st.sampled_from([0.5, 3.0, 7.0, 20.0]), min_size=1, max_size=6),
    st.lists(overrides, max_size=4),
    st.sampled_from([None, 4.0]),
    st.sampled_from([None, 6.0]),
)
def test_the_first_override_that_fits_is_the_one_that_counts(
    tensors: dict[str, float],
    tables: list[dict[str, Any]],
    in_file: float | None,
    in_call: float | None,
) -> None:
    table: dict[str, Any] = {"overrides": tables}
    if in_file is not None:
        table["GT204"] = {"max_norm": in_file}
    sick = set()
    counting: set[int] = set()
    for name, norm in tensors.items():
        bound = in_file if in_call is None else in_call
        for number, one in enumerate(tables):
            if any(fits(name, glob) for glob in one["pattern"]):
                counting.add(number)
                if "ignore" in one:
                    bound = None
                elif in_call is None:  # what the call says, it says of all
                    bound = one["GT204"]["max_norm"]
                break
        if bound is not None and norm > bound:
            sick.add(name)
    outcome = gradtool.check(
        {name: np.array([norm]) for name, norm in tensors.items()},
        config=configured(**table),
        thresholds={} if in_call is None else {"GT204.max_norm": in_call},
    )
    findings = [each for one in outcome.all_findings for each in one.each]
    found = {one.tensor for one in findings if one.code == "GT204"}
    assert found == sick
    idle = [one["pattern"] for number, one in enumerate(tables) if number not in counting]
    assert [re.findall("'([^']+)'", note) for note in outcome.notes] == idle
    assert len(outcome.policy.overrides) == len(tables)


def test_an_override_that_fits_no_tensor_is_noted(tmp_path: Path) -> None:
    config = configured(overrides=[{"pattern": "head.*", "ignore": ["GT204"]}])
    (note,) = gradtool.check(TREE, config=config).notes
    assert "'head.*'" in note
    head = {"head.w": np.ones(2)}
    for source in ([head], [TREE, head], [head, TREE]):
        assert gradtool.check(*source, config=config).notes == ()
    # It fits, whatever rules are in force; and of what cannot be read nothing is known.
    assert gradtool.check(head, config=config, select=["GT203"]).notes == ()
    assert gradtool.check(tmp_path / "missing.safetensors", config=config).notes == ()


SILENCED: dict[str, NDArray[Any]] = {
    "GT101": np.array([math.nan]),
    "GT102": np.array([math.inf]),
    "GT202": np.array([60000.0], np.float16),
    "GT204": np.array([30.0]),
    "GT205": np.zeros(2),
    "GT207": np.zeros(2),
    "GT301": np.array([1e3]),
    "GT302": np.array([1e3]),
}


@pytest.mark.parametrize("code", SILENCED)
def test_an_override_silences_a_rule_for_its_tensors_alone(code: str) -> None:
    sick = SILENCED[code]
    tree = {f"layers.{n}.w": np.ones_like(sick) for n in range(9)} | {"layers.3.w": sick}
    ignored = ["GT207"] if code == "GT205" else []  # to which it leaves layers
    limits = {"GT204.max_norm": 10} if code == "GT204" else {}

    def found(pattern: str) -> list[str | None]:
        config = configured(overrides=[{"pattern": pattern, "ignore": [code]}])
        outcome = gradtool.check(tree, config=config, thresholds=limits, ignore=ignored)
        return [one.tensor for one in outcome.all_findings if one.code == code]

    assert found("layers.4.*") == ["layers.3.w"]
    assert found("layers.3.*") == []


BAD_OVERRIDES: list[dict[str, Any]] = [
    {"pattern": "a"},
    {"pattern": [], "ignore": ["GT204"]},
    {"ignore": ["GT204"]},
    {"pattern": 1, "ignore": ["GT204"]},
    {"pattern": "a", "ignore": ["GT203"]},
    {"pattern": "a", "ignore": ["GT103"]},
    {"pattern": "a", "ignore": ["GT001"]},
    {"pattern": "a", "GT203": {"max_norm": 1}},
    {"pattern": "a", "GT204": {"severity": "warning"}},
    {"pattern": "a", "GT204": {"max": 1}},
    {"pattern": "a", "GT204": {"max_norm": "1"}},
    {"pattern": "a", "GT204": 1},
    {"pattern": "a", "ignore": "GT204"},
    {"pattern": "a", "ignored": ["GT204"]},
]


@pytest.mark.parametrize("override", BAD_OVERRIDES, ids=str)
def test_overrides_that_cannot_be_are_refused(override: dict[str, Any]) -> None:
    with pytest.raises(gradtool.UsageError):
        configured(overrides=[override])


def test_thresholds_of_the_call_leave_the_others_of_an_override() -> None:
    one = {"pattern": "a", "GT204": {"min_norm": 2, "max_norm": 3}}
    found = policy(config=configured(overrides=[one]), thresholds={"GT204.max_norm": 9})
    wanted: Thresholds = {"min_norm": 2.0, "max_norm": 9.0}
    assert found.thresholds("GT204", "a") == wanted
    assert found.thresholds("GT204", "b") == {"min_norm": None, "max_norm": 9.0}
