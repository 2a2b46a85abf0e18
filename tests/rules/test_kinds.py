"""A checkpoint without gradients is judged as what it is: weights, moments, or both."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run
from safetensors.torch import save_file

import gradtool
from gradtool.torch import dump_gradients

NAN = math.nan


def trained(folder: Path, weight: float = 1.0, moment: float = 1.0) -> Path:
    """As a trainer leaves it: weights in one file, an optimizer's state in another."""
    folder.mkdir(exist_ok=True)
    save_file({"a": torch.full((3,), weight), "b": torch.ones(2)}, folder / "model.safetensors")
    state = {0: {"step": torch.tensor(NAN), "exp_avg": torch.full((3,), moment)}}
    torch.save({"state": state, "param_groups": []}, folder / "optimizer.pt")
    torch.save({"last": torch.tensor(NAN)}, folder / "scheduler.pt")
    return folder


def statuses(path: Path, **options: Any) -> list[tuple[str, int, bool]]:
    (verdict,) = gradtool.check(path, **options).verdicts
    return [(kind.kind, kind.tensors, kind.failed) for kind in verdict.kinds]


def test_a_kind_is_judged_under_its_own_name_a_line_each(tmp_path: Path) -> None:
    path = trained(tmp_path / "run")
    result = run("check", str(path), "--no-progress")
    assert result.returncode == 0
    lines = ["2 weights ok", "1 optimizer state ok"]
    assert result.stdout.splitlines()[:2] == [f"{path}: {line}" for line in lines]
    (dump,) = json.loads(run("check", str(path), "-f", "json").stdout)["dumps"]
    assert (dump["total"], dump["verdict"], dump["exit_code"]) == (None, "pass", 0)
    assert dump["kinds"] == [
        {"kind": "weights", "tensors": 2, "verdict": "pass"},
        {"kind": "optimizer", "tensors": 1, "verdict": "pass"},
    ]


@pytest.mark.parametrize(("weight", "moment"), [(NAN, 1.0), (1.0, NAN)])
def test_the_kind_that_is_broken_is_the_one_that_failed(
    weight: float, moment: float, tmp_path: Path
) -> None:
    path = trained(tmp_path / "run", weight, moment)
    assert statuses(path) == [
        ("weights", 2, math.isnan(weight)),
        ("optimizer", 1, math.isnan(moment)),
    ]
    outcome = gradtool.check(path)
    assert [finding.code for finding in outcome.all_findings] == ["GT104"]
    assert outcome.exit_code == 1


def test_rules_of_norms_are_not_for_weights(tmp_path: Path) -> None:
    path = trained(tmp_path / "run", weight=1e6)
    for limits in ({}, {"GT203.min_norm": 5.0}, {"GT204.max_norm": 1.0}, {"GT302.max_z": 0.5}):
        assert not gradtool.check(path, thresholds=limits).failed
    save_file({"a": torch.full((3,), 1e6)}, tmp_path / "dump.safetensors")
    assert gradtool.check(tmp_path / "dump.safetensors").failed


def test_gradients_that_are_asked_for_are_missed(tmp_path: Path) -> None:
    path = trained(tmp_path / "run")
    codes: dict[str, Any] = {
        "GT006": {"thresholds": {"GT006.min_tensors": 3}},
        "GT007": {"thresholds": {"GT007.names": ["a"]}},
        "GT401": {"thresholds": {"GT401.norm": 2.0}},
    }
    dump = tmp_path / "dump.safetensors"
    save_file({"a": torch.ones(3)}, dump)
    gradtool.save_baseline([dump], tmp_path / "baseline.json")
    codes["GT404"] = {"baseline": tmp_path / "baseline.json"}
    for code, options in codes.items():
        assert code in {one.code for one in gradtool.check(path, **options).all_findings}


WEIGHTS = [
    *("model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"),
    *("pytorch_model-00002-of-00002.bin", "adapter_model.safetensors", "adapter_model.bin"),
    *("consolidated.00.pth", "model.fp16.safetensors", "pytorch_model_1.bin"),
]


def written(path: Path) -> Path:
    tree = {"model.a": torch.ones(3), "lm_head.b": torch.ones(1)}
    (save_file if path.suffix == ".safetensors" else torch.save)(tree, path)
    return path


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_told_by_the_name_of_their_file(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name)
    found = gradtool.measure(path)
    assert [(one.name, one.kind) for one in found.sections] == [("", "weights")]
    assert statuses(path) == [("weights", 2, False)]
    with pytest.raises(gradtool.UsageError, match="holds weights, no gradients"):
        gradtool.clip(path, tmp_path / "out", max_norm=1.0)
    outcome = gradtool.clip(path, tmp_path / "out", max_norm=1.0, include="*", eps=0)
    assert outcome.norm_before == 2.0


@pytest.mark.parametrize(
    "name", ["mymodel.safetensors", "model_grads.safetensors", "grads-00001-of-00002.safetensors"]
)
def test_another_name_tells_nothing(name: str, tmp_path: Path) -> None:
    assert [one.kind for one in gradtool.measure(written(tmp_path / name)).sections] == [None]


def test_a_noted_dump_is_gradients_whatever_its_name(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    weight.grad = torch.ones(4)
    path = tmp_path / "model.safetensors"
    dump_gradients([("w", weight)], path)
    assert gradtool.check(path).verdicts[0].summary is not None
    assert gradtool.clip(path, tmp_path / "out", max_norm=1.0, eps=0).norm_before == 2.0


def test_a_dump_beside_weights_is_judged_as_it_is_alone(tmp_path: Path) -> None:
    path = trained(tmp_path / "run")
    save_file({"g": torch.from_numpy(np.float32([3, 4]))}, path / "last.safetensors")
    (verdict,) = gradtool.check(path).verdicts
    assert verdict.summary is not None
    assert (verdict.summary.norm, verdict.summary.tensors) == (5.0, 1)
    assert gradtool.measure(path).total is None


def beside_gradients(path: Path, **others: float) -> Path:
    tree = {name: torch.tensor(value) for name, value in others.items()}
    torch.save({"grads": {"w": torch.tensor([3.0, 4.0])}, **tree}, path)
    return path


TOLD = "not finite, and no finding, as it is neither gradient, weight nor moment: "


@pytest.mark.parametrize("number", [NAN, math.inf])
def test_a_loss_that_is_not_finite_is_told_and_is_no_finding(number: float, tmp_path: Path) -> None:
    path = beside_gradients(tmp_path / "dump.pt", loss=number, lr=0.1)
    (verdict,) = gradtool.check(path).verdicts
    assert (verdict.failed, verdict.findings) == (False, ())
    said = TOLD + ("'loss' (1 NaN)" if math.isnan(number) else "'loss' (1 +Inf)")
    assert verdict.notes == (said,)
    # A best score begins with infinity: that is not worth a line where little is said.
    assert verdict.essential_notes == ((said,) if math.isnan(number) else ())
    for quiet in ([], ["-q"]):
        result = run("check", str(path), *quiet)
        assert (result.returncode, result.stderr) == (0, "")
        assert (said in result.stdout) == (not quiet or math.isnan(number))
    (dump,) = json.loads(run("check", str(path), "-f", "json").stdout)["dumps"]
    assert (dump["verdict"], dump["notes"]) == ("pass", [said])


def test_what_is_nan_is_told_before_infinities(tmp_path: Path) -> None:
    infinite = dict.fromkeys(("epoch", "global_step", "learning_rate"), math.inf)
    path = beside_gradients(tmp_path / "dump.pt", **infinite, loss=NAN)
    (verdict,) = gradtool.check(path).verdicts
    assert verdict.notes[0].startswith(f"{TOLD}'loss' (1 NaN), 'epoch' (1 +Inf), ")
    assert verdict.notes[0].endswith(" and 1 more")


def test_nothing_is_told_of_what_is_finite_or_was_not_asked_for(tmp_path: Path) -> None:
    path = beside_gradients(tmp_path / "dump.pt", loss=NAN)
    assert gradtool.check(path, section="grads").verdicts[0].notes == ()
    assert gradtool.check(beside_gradients(path, loss=2.0)).verdicts[0].notes == ()
    # Asked for by its section it is what is judged.
    chosen = gradtool.check(beside_gradients(path, loss=NAN), section="other")
    assert [finding.code for finding in chosen.all_findings] == ["GT101"]


def of_each_kind(folder: Path) -> Path:
    """As many keep it: a file for each, the weights of a norm that no gradients may have."""
    folder.mkdir(parents=True)
    torch.save({"a": torch.tensor([3.0, 4.0])}, folder / "grads.pt")
    torch.save({"b": torch.full((2,), 1e6)}, folder / "weights.pt")
    torch.save({"c": torch.full((2,), 1e6)}, folder / "my_optimizer.pt")
    return folder


def test_a_glob_says_of_files_what_their_directory_says(tmp_path: Path) -> None:
    path = of_each_kind(tmp_path / "run")
    whole, apart = gradtool.check(path), gradtool.check(path / "*.pt")
    assert (whole.exit_code, apart.exit_code) == (0, 0)
    assert [
        (Path(one.path).stem, one.summary and one.summary.norm, [kind.kind for kind in one.kinds])
        for one in apart.verdicts
    ] == [("grads", 5.0, []), ("my_optimizer", None, ["optimizer"]), ("weights", None, ["weights"])]


@pytest.mark.parametrize("name", ["weights", "model_10", "params", "my_model", "ema", "optimizer"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_a_file_is_of_its_kind_alone_and_alone_in_a_directory(
    name: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"{name}{suffix}"
    if suffix == ".npz":
        np.savez(path, a=np.full(2, 1e6), b=np.ones(1))
    else:
        tree = {"a": torch.full((2,), 1e6), "b": torch.ones(1)}
        (save_file if suffix == ".safetensors" else torch.save)(tree, path)
    kind = "optimizer" if name == "optimizer" else "weights"
    for source in (path, tmp_path):
        assert statuses(source) == [(kind, 2, False)]
        (section,) = gradtool.measure(source).sections
        assert (section.name, section.kind) == ("", kind)
    with pytest.raises(gradtool.UsageError, match="no gradients"):
        gradtool.clip(path, tmp_path / "out", max_norm=1.0)


def test_losses_alone_are_measured_and_are_no_gradients(tmp_path: Path) -> None:
    path = tmp_path / "loss_step_1.npy"
    np.save(path, np.float32([3.0, 4.0]))
    found = gradtool.measure(path)
    assert [(one.name, one.kind, one.norm) for one in found.sections] == [("other", None, 5.0)]
    assert gradtool.check(path).verdicts[0].summary is None
    with pytest.raises(gradtool.UsageError, match="no gradients"):
        gradtool.clip(path, tmp_path / "out.npy", max_norm=1.0)
    clipped = gradtool.clip(path, tmp_path / "out.npy", max_norm=1.0, include="*", eps=0)
    assert clipped.norm_before == 5.0
