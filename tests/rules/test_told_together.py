"""What is alike in many tensors is told once, with what they have in common and where it began."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run
from safetensors.torch import save_file

import gradtool
from gradtool.core.judging.verdict import Finding
from gradtool.rules import RULES
from gradtool.rules.evidence import DumpRule
from gradtool.torch import dump_gradients

NAN = math.nan


def only(source: Any, **options: Any) -> Finding:
    (finding,) = gradtool.check(source, **options).all_findings
    return finding


def told(finding: Finding) -> str:
    return f"{finding.pattern}: {finding.message}"


# LoRA of a model with pads: NaN in all A, or from one layer's attention backwards.


def adapters(bad: Any) -> Iterator[tuple[str, torch.Tensor]]:
    torch.manual_seed(0)
    for layer in range(12):
        for part in ("q_proj", "v_proj"):
            for factor, shape in (("lora_A", (4, 32)), ("lora_B", (32, 4))):
                value = torch.randn(*shape) * 1e-3
                if bad(layer, part, factor):
                    value[:] = NAN
                name = f"base_model.model.model.layers.{layer}.self_attn.{part}"
                yield f"{name}.{factor}.default.weight", value.bfloat16()


def from_layer_7(layer: int, part: str, _factor: str) -> bool:
    return layer < 7 or (layer == 7 and part == "q_proj")


def test_nan_in_one_factor_of_all_layers_is_one_finding(tmp_path: Path) -> None:
    path = tmp_path / "grads.safetensors"
    save_file(dict(adapters(lambda *at: at[2] == "lora_A")), path)
    finding = only(path)
    assert "self_attn.{q,v}_proj.lora_A: NaN in 12 of 12 layers, all elements" in told(finding)
    assert len(finding.details) == 24
    assert {one.tensor for one in finding.details} == {
        name for name, _ in adapters(lambda *_: False) if "lora_A" in name
    }
    shown = run("inspect", str(path), "-q").stdout
    line = "self_attn.{q,v}_proj.lora_A  NaN in 12 of 12 layers, all elements"
    assert line in shown


def test_where_names_are_sorted_the_frontier_lies_between_layers(tmp_path: Path) -> None:
    path = tmp_path / "grads.safetensors"
    save_file(dict(adapters(from_layer_7)), path)
    message = only(path).message
    assert message.startswith("30 of 48 gradients are NaN")
    assert "in natural order of names: layers 0 to 6 and layer 7 in part" in message
    assert "layer 8 is finite" in message
    assert message.endswith("comes to layer 7 first: it broke there")
    shown = run("inspect", str(path), "-q").stdout.splitlines()
    (finite,) = [at for at, line in enumerate(shown) if line.endswith("  finite")]
    assert shown[finite].startswith("base_model.model.model.layers.7.self_attn.v_proj.lora_A")
    assert shown[finite - 1].startswith("  base_model.model.model.layers.7.self_attn.q_proj.lora_B")
    assert "layer 7 in part" in shown[finite + 1]
    (verdict,) = gradtool.check(path).verdicts
    single = next(one for one in verdict.findings[0].each if one.tensor and ".7." in one.tensor)
    assert "2 of 4 tensors of 'base_model.model.model.layers.7' are not finite" in single.message
    assert single.message.endswith(
        "natural order of names: 'base_model.model.model.layers.8' after"
    )


@pytest.mark.parametrize("suffix", ["npz", "pt", "tree"])
@pytest.mark.parametrize("separator", [".", "/"])
def test_a_dict_that_was_sorted_is_not_in_the_model_s_order(
    tmp_path: Path, suffix: str, separator: str
) -> None:
    """As JAX sorts what it flattens: layer 10 lies between layers 1 and 2 of the file."""
    tensors = {}
    for layer in range(12):
        for part in ("attn", "attn_norm", "mlp"):
            name = separator.join(("params", "layers", str(layer), part))
            tensors[name] = np.full(3, NAN if layer == 10 else 1e-2)
    for put_in_order in (sorted, list):
        of_file = {name: tensors[name] for name in put_in_order(tensors)}
        path = tmp_path / f"grads.{suffix}"
        if suffix == "npz":
            np.savez(path, **of_file)
        elif suffix == "pt":
            torch.save({name: torch.from_numpy(value) for name, value in of_file.items()}, path)
        source = of_file if suffix == "tree" else path
        finding = only(source)
        if put_in_order is sorted:
            assert "in natural order of names: layer 10, layer 9 and layer 11" in finding.message
        else:
            assert "in the model's order: from" in finding.message
        first, *_, last = gradtool.measure(source).in_order
        assert (first.name.split(separator)[2], last.name.split(separator)[2]) == ("0", "11")


def resnet(blocks: int = 2) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "conv1.weight", (4, 3, 3, 3)
    yield from (("bn1.weight", (4,)), ("bn1.bias", (4,)))
    for stage in range(1, 5):
        for block in range(blocks):
            for part in (1, 2):
                yield f"layer{stage}.{block}.conv{part}.weight", (4, 4, 3, 3)
                yield f"layer{stage}.{block}.bn{part}.weight", (4,)
                yield f"layer{stage}.{block}.bn{part}.bias", (4,)
    yield from (("fc.weight", (2, 4)), ("fc.bias", (2,)))


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_numbers_that_are_no_layers_do_not_divide_what_broke(tmp_path: Path, suffix: str) -> None:
    """In a ResNet `conv1` and `bn1` are the stem, and no first layers of stacks of their own."""
    names = [name for name, _ in resnet()]
    bad = names[: names.index("layer2.0.bn1.weight")]
    tensors = {
        name: torch.full(shape, NAN if name in bad else 1e-3) for name, shape in resnet()
    }  # fmt: skip
    path = tmp_path / f"grads.{suffix}"
    if suffix == "npz":
        np.savez(path, **{name: value.numpy() for name, value in tensors.items()})
    else:
        save_file(tensors, path)
    finding = only(path)
    assert f"{len(bad)} of {len(names)} gradients are NaN" in finding.message
    if suffix == "npz":
        assert "nearest finite: 'layer2.0.bn1.weight' after" in finding.message
    else:
        assert "layer 1 and layer 2 in part, layer 3 is finite" in finding.message
        assert "3 tensors of no layer" in finding.message
        of_layer = next(one for one in finding.details if one.tensor == "layer1.0.bn1.bias")
        assert of_layer.message.endswith("nearest finite in natural order of names: 'layer3' after")
        assert "bn* " not in finding.message


@pytest.mark.parametrize("dead", ["layer3.1.", "layer3.2.", "layer1.0."])
def test_a_dead_block_of_a_stage_is_one_error(dead: str) -> None:
    """Its siblings are the blocks of its stage: other stages have other shapes."""
    tensors = {}
    for at, (name, shape) in enumerate(resnet(blocks=3)):
        stage = int(name[5]) if name.startswith("layer") else 0
        tensors[name] = torch.full((*shape[:-1], shape[-1] + stage), 1e-3 * (1 + at % 3))
    assert gradtool.check(tensors)
    broken = {
        name: 0 * value if name.startswith(dead) else value for name, value in tensors.items()
    }
    finding = only(broken)
    assert (finding.code, finding.severity) == ("GT207", "error")
    assert f"{dead}{{conv1.weight" in str(finding.pattern)
    assert len(finding.details) == 6
    assert "in 2 of 2 other blocks it is not" in finding.details[0].message


def test_parts_that_are_no_blocks_of_a_stage_may_rest() -> None:
    """Experts that were not used, and modules of a Sequential, which are of many kinds."""
    for pattern in ("layers.{}.experts.{}.up.weight", "layers.{}.{}.weight"):
        tensors = {
            pattern.format(layer, at): torch.full((2, 2), 0.0 if (layer, at) == (1, 2) else 1e-2)
            for layer in range(4)
            for at in range(4)
        }
        finding = only(tensors)
        assert (finding.code, finding.severity) == ("GT205", "warning")
        assert finding.message == "is all 0"


def test_one_layer_is_not_told_as_one_of_one() -> None:
    tensors = {f"h.0.{part}": torch.full((2,), NAN) for part in "ab"}
    finding = only({**tensors, "h.0.c": torch.ones(2), "x": torch.ones(2)})
    assert "NaN in 2 tensors" in finding.message
    assert "1 of 1" not in finding.message


def test_groups_and_json_are_in_the_order_that_the_report_says(tmp_path: Path) -> None:
    tree = dict(adapters(from_layer_7))
    layers = [f"base_model.model.model.layers.{layer}" for layer in range(12)]
    save_file(tree, tmp_path / "grads.safetensors")
    torch.save(dict(reversed(tree.items())), tmp_path / "grads.pt")
    for name, order, groups in (
        ("grads.safetensors", "names", layers),
        ("grads.pt", "model", layers[::-1]),
    ):
        made = run("inspect", str(tmp_path / name), "-g", "layers.*", "-f", "json").stdout
        (report,) = json.loads(made)["reports"]
        assert report["order"] == order
        assert [group["name"] for group in report["groups"]] == groups
        names = [tensor["name"] for tensor in report["tensors"]]
        assert names == list(tree if order == "names" else reversed(tree))
        shown = run("inspect", str(tmp_path / name)).stdout.splitlines()[0]
        wanted = "the model's order" if order == "model" else "natural order of names"
        assert shown.endswith(f", in {wanted}")


# The backbone of FSDP1, NaN from block 17 backwards.


def backbone() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    start, grads = "backbone._fsdp_wrapped_module.", {}
    for name in ("cls_token", "pos_embed", "mask_token", "patch_embed.proj.weight"):
        grads[start + name] = torch.full((4,), NAN)
    for layer in range(24):
        for name in ("dt_bias", "A_log", "D", "in_proj.weight", "conv1d.weight", "out_proj.weight"):
            bad = layer < 17 or (layer == 17 and name != "out_proj.weight")
            value = torch.full((4,), NAN) if bad else torch.randn(4) * 1e-3
            grads[f"{start}blocks.{layer}._fsdp_wrapped_module.mixer.{name}"] = value
    grads[start + "norm_f.weight"] = torch.randn(4) * 4e-5
    return grads


def test_the_end_of_a_run_that_broke_first_is_shown_beside_what_is_finite(tmp_path: Path) -> None:
    path = tmp_path / "grads.pt"
    torch.save(backbone(), path)
    block = "backbone._fsdp_wrapped_module.blocks.17._fsdp_wrapped_module.mixer"
    message = only(path).message
    assert message.startswith("111 of 149 gradients are NaN; in the model's order: ")
    assert f"'{block}.out_proj.weight' after" in message
    assert message.endswith(f"comes to '{block}.conv1d.weight' first: it broke there")
    shown = run("inspect", str(path), "-q").stdout.splitlines()
    at = next(at for at, line in enumerate(shown) if line.endswith("finite"))
    assert f"{block}.conv1d.weight" in shown[at - 1]
    assert f"{block}.out_proj.weight" in shown[at]
    assert any("… 103 more" in line for line in shown)
    save_file(backbone(), tmp_path / "grads.safetensors")
    message = only(tmp_path / "grads.safetensors").message
    assert "layers 0 to 16 and layer 17 in part, layer 18 is finite" in message


def test_all_gradients_that_are_nan_are_no_fault_of_a_layer() -> None:
    tree = {f"h.{n}.{part}": np.full(3, NAN) for n in range(25) for part in "abc"}
    tree["wte"] = np.full(3, NAN)
    finding = only(tree)
    wanted = "all 76 gradients are NaN: look at the loss or the inputs, not at a layer"
    assert (finding.tensor, finding.message) == (None, wanted)
    tree["wte"][0] = 1.0
    assert "all 76 gradients are NaN in whole or in part" in only(tree).message


def test_what_broke_first_is_not_guessed() -> None:
    """Where finite layers lie before, nothing spread; two runs have no one beginning."""
    healthy = {f"h.{n}.w": np.ones(2) for n in range(9)}
    for bad in ((3, 4), (0, 1, 5, 6), (7, 8)):
        tree = healthy | {f"h.{n}.w": np.full(2, NAN) for n in bad}
        assert "broke" not in only(tree).message, bad
    assert "broke" in only(healthy | {f"h.{n}.w": np.full(2, NAN) for n in (0, 1)}).message


# Zeros.


def zeros_of(dead: Any) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    return {
        f"model.layers.{n}.self_attn.{part}.{factor}.weight": np.zeros(8)
        if dead(n, factor)
        else random.normal(0.0, 1e-3, 8)
        for n in range(24)
        for part in ("q_proj", "v_proj")
        for factor in ("lora_A", "lora_B")
    }


def test_only_the_last_layer_gets_gradients() -> None:
    finding = only(zeros_of(lambda n, _: n < 23))
    assert (finding.code, finding.severity) == ("GT208", "error")
    pattern = "self_attn.{q,v}_proj.lora_{A,B}"
    wanted = f"{pattern}: 0 in 23 of 24 layers; only layer 23 gets gradients"
    assert told(finding).endswith(wanted)


def test_layers_that_are_0_behind_one_that_is_not_are_not_cut_off() -> None:
    finding = only(zeros_of(lambda n, _: n != 5))
    assert finding.code == "GT209"
    assert "0 in 23 of 24 layers" in finding.message


def test_one_factor_of_lora_may_be_0_in_the_first_step_and_the_other_not() -> None:
    finding = only(zeros_of(lambda _, factor: factor == "lora_B"))
    assert (finding.code, finding.severity) == ("GT209", "error")
    assert told(finding).endswith("self_attn.{q,v}_proj.lora_B: 0 in 24 of 24 layers")
    first_step = zeros_of(lambda _, factor: factor == "lora_A")
    assert not list(gradtool.check(first_step).all_findings)
    one_alive = first_step | {"model.layers.5.self_attn.q_proj.lora_A.weight": np.ones(8)}
    assert "GT209" in {one.code for one in gradtool.check(one_alive).all_findings}


def test_a_norm_of_0_is_told_of_all() -> None:
    finding = only(zeros_of(lambda *_: True))
    assert (finding.code, finding.tensor, finding.value) == ("GT203", None, 0.0)
    assert finding.message.startswith("all 96 gradients are 0: ")
    codes = {
        one.code for one in gradtool.check(zeros_of(lambda *_: True), norm_type=1).all_findings
    }
    assert codes == {"GT205"}, "without a bound of the norm each tensor is still told"


@pytest.mark.parametrize(("step", "found"), [(0, []), (1, []), (2, ["GT209"]), (None, ["GT209"])])
def test_what_starts_at_0_may_keep_others_at_0_for_one_step(
    step: int | None, found: list[str], tmp_path: Path
) -> None:
    """A projection that starts at 0 gets a gradient, and what is before it in the branch none."""
    model = torch.nn.Module()
    for n in range(4):
        for part in ("up", "down"):
            parameter = torch.nn.Parameter(torch.ones(3))
            parameter.grad = torch.full((3,), float(part == "down"))
            model.register_parameter(f"layer{n}_{part}", parameter)
    path = dump_gradients(model, tmp_path / "grads.safetensors", step=step)
    assert [one.code for one in gradtool.check(path).all_findings] == found


@pytest.mark.parametrize(
    ("kept", "told"), [("weight bias", "0"), ("", "missing"), ("weight", "0 or missing")]
)
def test_a_cut_leaves_zeros_or_nothing_behind(kept: str, told: str, tmp_path: Path) -> None:
    """As zero_grad() leaves it, or as it was before any backward, or some of each."""
    torch.manual_seed(0)
    layers = torch.nn.ModuleDict({f"h{n}": torch.nn.Linear(4, 4) for n in range(6)})
    embed = torch.nn.Parameter(torch.ones(4))
    layers.register_parameter("embed", embed)
    x = torch.ones(2, 4) * embed
    for n in range(6):
        if n == 4:
            x = x.detach()
        x = layers[f"h{n}"](x)
    x.sum().backward()
    for name, parameter in layers.named_parameters():
        if parameter.grad is None and name.split(".")[-1] in kept:
            parameter.grad = torch.zeros_like(parameter)
    finding = only(dump_gradients(layers, tmp_path / "grads.safetensors"))
    assert finding.code == "GT208"
    assert f": {told} in 4 of 6 layers; only layers 4 and 5 get gradients; 'embed'" in (
        f": {finding.message}"
    )


# Gradients that are missing.


def complete(*, without: tuple[str, ...] = (), none: tuple[str, ...] = ()) -> torch.nn.Module:
    model = torch.nn.Module()
    model.h = torch.nn.ModuleList(torch.nn.Module() for _ in range(6))
    for n, layer in enumerate(model.h):
        for part in "abc":
            if f"{n}{part}" not in without:
                parameter = torch.nn.Parameter(torch.ones(3))
                parameter.grad = None if f"{n}{part}" in none else torch.ones(3)
                layer.register_parameter(part, parameter)
    return model


@pytest.mark.parametrize(
    ("missing", "noted", "silent"),
    [
        (("2b",), "GT010", "GT010"),
        (("2a", "2b"), "GT010", "GT010"),
        (("3a", "3b", "3c"), "GT010", "GT010"),
        (("0b",), "GT010", None),  # which may be of another make, unless its name is there
        (("5b",), "GT010", None),
        (("0a", "0b", "0c"), "GT010", None),  # frozen, unless it could be trained
        (("5a", "5b", "5c"), "GT008", None),  # not used
        (("0a", "0b", "0c", "1a", "1b", "1c"), "GT010", None),
        (("1b", "2b"), "GT010", None),  # two of six are a design
        (tuple(f"{n}b" for n in range(6)), "GT008", None),
        (tuple(f"{n}b" for n in range(4)), "GT008", None),
    ],
)
def test_a_layer_lacks_what_its_siblings_have(
    missing: tuple[str, ...], noted: str, silent: str | None, tmp_path: Path
) -> None:
    told_none = only(dump_gradients(complete(none=missing), tmp_path / "none.safetensors"))
    assert told_none.code == noted
    assert {one.tensor for one in told_none.each} == {f"h.{name[0]}.{name[1]}" for name in missing}
    path = dump_gradients(complete(without=missing), tmp_path / "without.safetensors")
    found = list(gradtool.check(path).all_findings)
    assert [one.code for one in found] == ([] if silent is None else [silent])
    if silent is not None:
        assert {one.tensor for one in found[0].each} == {
            f"h.{name[0]}.{name[1]}" for name in missing
        }
    wanted = tuple(f"h.{name[0]}.{name[1]}" for name in missing)
    assert not list(gradtool.check(path, exclude=wanted).all_findings)


def test_no_work_grows_with_the_numbers_of_layers() -> None:
    tree = {f"h.{n}.{part}": np.ones(1) for n in (*range(5), 999_999_999) for part in "abc"}
    assert not list(gradtool.check(tree).all_findings)


def test_an_embedding_may_have_nearly_all_of_the_norm_and_a_layer_may_not() -> None:
    layers = {f"h.{n}.{part}": np.ones(1) for n in range(4) for part in "abc"}
    assert not list(gradtool.check(layers | {"wte.weight": np.full(1, 30.0)}).all_findings)
    finding = only(layers | {"h.2.a": np.full(1, 30.0)})
    assert (finding.code, finding.tensor) == ("GT301", "h.2.a")


# Telling together.


def test_every_rule_of_tensors_says_what_they_are_together() -> None:
    for rule in RULES.values():
        one_by_one = {"GT005", "GT410"}  # what says enough by itself, and what was named itself
        if isinstance(rule, DumpRule) and rule.per_tensor and rule.code not in one_by_one:
            assert rule.alike, rule.code


def test_details_stay_and_are_shown_where_all_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "grads.npz"
    tree = {f"h.{n}.w": np.full(2, NAN if n < 3 else 1.0) for n in range(5)}
    np.savez(path, **tree)
    brief, whole = (run("check", str(path), "-q", *more).stdout for more in ((), ("--all",)))
    assert brief.count("GT101") == 1
    assert "h.*.w: NaN in 3 of 5 layers, all elements" in brief
    for n in range(3):
        line = f"h.{n}.w: 2 NaN among 2 elements, first at [0]"
        assert line in whole
        assert line not in brief
    (dump,) = json.loads(run("check", str(path), "-f", "json").stdout)["dumps"]
    (finding,) = dump["findings"]
    assert (finding["pattern"], finding["tensor"]) == ("h.*.w", None)
    assert [one["tensor"] for one in finding["details"]] == ["h.0.w", "h.1.w", "h.2.w"]
    assert all(one["details"] == [] and one["index"] == [0] for one in finding["details"])


def test_neighbours_that_stand_out_by_other_tensors_are_one_fault() -> None:
    tree = {f"h.{n}.{part}": np.ones(1) for n in range(9) for part in "ab"}
    finding = only(tree | {"h.3.a": np.full(1, 1e-4), "h.4.b": np.full(1, 1e-5)})
    assert finding.code == "GT302"
    assert finding.message.startswith("2 of 18 gradients (layers 3 and 4) are far from their kind")
    assert "most of all 'h.4.b'" in finding.message
    apart = gradtool.check(tree | {"h.3.a": np.full(1, 1e-4), "h.7.b": np.full(1, 1e-5)})
    assert [one.tensor for one in apart.all_findings] == ["h.3.a", "h.7.b"]


def test_of_several_the_worst_is_named_with_its_figures() -> None:
    tree = {f"h.{n}.w": np.array([10.0**n]) for n in range(5)}
    finding = only(tree, thresholds={"GT204.max_norm": 50}, ignore=["GT203", "GT302"])
    assert told(finding).startswith("h.*.w: out of bounds in 3 of 5 layers (layers 2 to 4)")
    assert finding.message.endswith("'h.4.w': its norm, 10000, is not at most 50")
    assert (finding.value, finding.limit) == (10000.0, 50.0)


@pytest.mark.parametrize("others", [True, False])
def test_layers_that_are_gone_are_some_of_those_that_the_baseline_has(
    tmp_path: Path, *, others: bool
) -> None:
    tree = {f"h.{n}.{part}.weight": np.ones((2, 2)) for n in range(6) for part in ("up", "down")}
    if others:
        tree |= {f"h.{n}.norm.weight": np.ones(2) for n in range(6)}
    np.savez(tmp_path / "known.npz", **tree)
    gradtool.save_baseline(tmp_path / "known.npz", tmp_path / "b.json")
    rest = {name: each for name, each in tree.items() if not name.startswith(("h.0.", "h.1."))}
    found = gradtool.check(rest, baseline=str(tmp_path / "b.json"), select=["GT406"]).all_findings
    assert [one.message for one in found] == [
        "gone since the baseline in 2 of 6 layers (layers 0 and 1)"
    ]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (range(12), "all 24 gradients are not finite: look at the loss or the inputs"),
        (range(5), "10 of 24 gradients are not finite; in natural order of names: layers 0 to 4, "),
        (range(1), "non-finite gradients in 'layers.0.a' (2 NaN, first at [0]), 'layers.0.b' ("),
    ],
)
def test_what_clip_refuses_is_told_by_where_it_began(tmp_path: Path, bad: range, told: str) -> None:
    tensors = {
        f"layers.{at}.{part}": torch.full((2,), NAN if at in bad else 1.0)
        for at in range(12)
        for part in "ab"
    }
    save_file(tensors, tmp_path / "g.safetensors")
    with pytest.raises(gradtool.NonFiniteError) as caught:
        gradtool.clip(tmp_path / "g.safetensors", max_norm=1, dry_run=True)
    assert told in str(caught.value)
    assert len(caught.value.tensors) == 2 * len(bad)
