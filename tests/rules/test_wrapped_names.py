"""Names with what wraps modules: matched without it, and shown with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import run
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import gradtool
from gradtool.api.baselines import save_baseline
from gradtool.core.names import BareNames, name_filter, nearest, unwrapped
from gradtool.core.order.layers import split_name

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
PARTS = st.sampled_from(["layers", "3", "attn", "weight", "modules", "my_module", "w"])


def wrapped_by_hand(parts: list[str], wrappers: list[list[str]]) -> str:
    mixed = [one for part, before in zip(parts, wrappers, strict=False) for one in (*before, part)]
    return ".".join(mixed)


@given(
    st.lists(PARTS, min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from(WRAPPERS), max_size=3), min_size=4, max_size=4),
)
def test_wrappers_are_taken_off_wherever_they_stand(
    parts: list[str], wrappers: list[list[str]]
) -> None:
    name, plain = wrapped_by_hand(parts, wrappers), ".".join(parts)
    assert unwrapped(name) == plain
    assert unwrapped(plain) == plain
    for glob in (plain, plain[:3] + "*", name):
        assert name_filter([glob], [])(name)
        assert not name_filter([], [glob])(name)
    assert split_name(name).layer == split_name(plain).layer


def test_a_wrapper_is_a_whole_component_and_never_the_last() -> None:
    for name in ("module", "my_module.w", "modules.w", "h._orig_mod", "xmodule.w"):
        assert unwrapped(name) == name


@pytest.mark.parametrize(
    ("prefixes", "name", "bare"),
    [
        (["net."], "net.w", "w"),
        (["net"], "net.w", "w"),
        (["net"], "network.w", "network.w"),
        (["net"], "net", "net"),
        (["net."], "module.net._orig_mod.w", "w"),
        (["module.net."], "net.w", "w"),
        (["module."], "module.w", "w"),
        (["model"], "model.model.w", "model.w"),
        (["model", "model"], "model.model.w", "w"),
        (["a.", "b."], "a.b.w", "w"),
        (["params/"], "params/h/w", "h/w"),
    ],
)
def test_prefixes_are_taken_off_the_start_once_each(
    prefixes: list[str], name: str, bare: str
) -> None:
    assert BareNames(tuple(prefixes))(name) == bare


# Against baselines.


def dump(path: Path, seed: int, names: list[str], scale: float = 1e-3) -> str:
    rng = np.random.default_rng(seed)
    tree = {name: (rng.standard_normal((16, 16)) * scale).astype("f4") for name in names}
    save_file(tree, path)
    return str(path)


EAGER = [f"attn_blocks.{layer}.attn.heads.{h}.key.weight" for layer in range(3) for h in (0, 1)]


def baseline(at: Path) -> str:
    dumps = [dump(at / f"eager_step{step}.safetensors", step, EAGER) for step in (1, 2, 3)]
    save_baseline(dumps, at / "b.json")
    return str(at / "b.json")


def test_a_compiled_models_dump_is_compared_with_the_eager_models_baseline(tmp_path: Path) -> None:
    """The case `orig-mod-baseline`."""
    known = baseline(tmp_path)
    names = [f"module._orig_mod.{name}" for name in EAGER]
    steps = [dump(tmp_path / f"compiled_step{n}.safetensors", n, names) for n in (4, 5)]
    result = run("check", *steps, "--baseline", known, "-q")
    assert result.returncode == 0
    said = "all 6 names agree after module._orig_mod. is taken off"
    assert result.stdout.count(said) == 1  # though two dumps have such names


def test_what_drifts_vanishes_or_appears_is_told_under_the_names_of_the_dump(
    tmp_path: Path,
) -> None:
    known = baseline(tmp_path)
    names = [f"module.{name}" for name in EAGER]
    path = dump(tmp_path / "x.safetensors", 4, [*names[1:], "module.new.weight"], scale=1.0)
    outcome = gradtool.check(path, baseline=known, thresholds={"GT405.severity": "error"})
    found = {(one.code, one.tensor) for told in outcome.all_findings for one in told.each}
    assert {("GT403", name) for name in names[1:]} <= found
    assert ("GT406", EAGER[0]) in found
    assert ("GT405", "module.new.weight") in found
    assert not any(code == "GT404" for code, _ in found)
    assert outcome.notes == ("5 of 6 names agree after module. is taken off",)


def test_names_that_become_one_are_not_guessed_at(tmp_path: Path) -> None:
    save_baseline([dump(tmp_path / "a.safetensors", 1, ["w", "b"])], tmp_path / "b.json")
    path = dump(tmp_path / "x.safetensors", 2, ["module.w", "_orig_mod.w", "module.b"])
    outcome = gradtool.check(path, baseline=tmp_path / "b.json")
    assert [one.code for one in outcome.all_findings] == ["GT404"]


@pytest.mark.parametrize("by_option", [True, False])
def test_other_prefixes_are_taken_off_where_they_are_named(by_option: bool, tmp_path: Path) -> None:
    known = baseline(tmp_path)
    path = dump(tmp_path / "x.safetensors", 4, [f"student.{name}" for name in EAGER])
    assert gradtool.check(path, baseline=known).failed
    options = ["--strip-prefix", "student."]
    if not by_option:
        options = ["--config", str(tmp_path / "gradtool.toml")]
        (tmp_path / "gradtool.toml").write_text('[check]\nstrip_prefix = ["student."]\n')
    result = run("check", path, "--baseline", known, "-q", *options)
    assert (result.returncode, result.stderr) == (0, "")
    assert "all 6 names agree after student. is taken off" in result.stdout


def test_overrides_and_expected_names_match_bare_names(tmp_path: Path) -> None:
    path = dump(tmp_path / "x.safetensors", 1, ["module.net.head.w", "module.net.body.w"], 1e-9)
    (tmp_path / "gradtool.toml").write_text(
        '[check]\n[[check.overrides]]\npattern = "head.*"\nignore = ["GT204"]\n'
    )
    options = {"config": tmp_path / "gradtool.toml", "strip_prefix": "net"}
    thresholds = {"GT204.min_norm": 1.0, "GT007.names": ["head.w", "body.w"]}
    outcome = gradtool.check(path, thresholds=thresholds, **options)  # type: ignore[arg-type]
    of_tensors = {one.tensor for one in outcome.all_findings if one.code in ("GT204", "GT007")}
    assert of_tensors == {"module.net.body.w"}


# Filters, and what is said where nothing matches.


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    path = dump(tmp_path / "x.safetensors", 1, [f"module._orig_mod.{name}" for name in EAGER])
    found = gradtool.measure(path, include="attn_blocks.1.*")
    assert [one.name for one in found.tensors] == [
        f"module._orig_mod.{name}" for name in EAGER if ".1.attn" in name
    ]
    assert [one.name for one in found.grouped("attn_blocks.#.attn")] == [
        "module._orig_mod.attn_blocks.#.attn"
    ]


def test_a_group_may_go_over_wrappers(tmp_path: Path) -> None:
    names = [f"h.{layer}._checkpoint_wrapped_module.mlp.w" for layer in range(2)]
    found = gradtool.measure(dump(tmp_path / "x.safetensors", 1, [*names, "h.2.mlp.w"]))
    assert [one.name for one in found.grouped("h.#.mlp")] == ["h.#.mlp"]


def test_two_names_that_a_prefix_makes_one_are_refused_by_name(tmp_path: Path) -> None:
    path = dump(tmp_path / "x.safetensors", 1, ["a.w", "b.w", "c.w"])
    result = run("inspect", path, "--strip-prefix", "a", "--strip-prefix", "b")
    assert (result.returncode, result.stdout) == (2, "")
    assert "'a.w' and 'b.w' become one name, 'w'" in result.stderr
    assert run("inspect", path, "--strip-prefix", "a").returncode == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-i", "attn_block.1.*"], ["--include 'attn_block.1.*'", "attn_blocks.1.attn.heads.0"]),
        (["-i", "*.key.*", "-x", "attn*"], ["--exclude 'attn*' leaves none of what", "'*.key.*'"]),
        (["-g", "attn_block.#"], ["--group-by 'attn_block.#'", "'attn_blocks.0.attn.heads.0"]),
        (["--section", "grad"], ["has no section 'grad'"]),
    ],
)
def test_what_matches_nothing_is_named_and_what_is_nearest(
    options: list[str], words: list[str], tmp_path: Path
) -> None:
    result = run("inspect", dump(tmp_path / "x.safetensors", 1, EAGER), *options)
    assert (result.returncode, result.stdout) == (2, "")
    for word in words:
        assert word in result.stderr


def test_the_nearest_of_a_hundred_thousand_names_is_found() -> None:
    names = [f"layers.{i}.{'abc'[i % 3]}{i % 1700}x.weight" for i in range(100_000)]
    names += [f"tower.{chr(97 + i % 26)}{chr(97 + i // 26)}.bias" for i in range(26 * 26)]
    names += ["x" * 100_000 + str(i) for i in range(10)]
    assert nearest("towr.qz.bias", names)[0] == "tower.qz.bias"
    assert nearest("layer.77.c77x.weight", names)[0] == "layers.77.c77x.weight"
