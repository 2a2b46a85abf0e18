"""The callback for the Trainer, run by the Trainer: `.ci/run --full` has it installed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from environment import PLAIN

import gradtool

sys.path.insert(0, str(Path(__file__).parent))

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

import trained_by_two  # noqa: E402 - it needs what was just looked for
from trained_by_two import arguments, examples, llama  # noqa: E402
from witness import Witness, live_norm  # noqa: E402

from gradtool.errors import UsageError  # noqa: E402
from gradtool.integrations import TrainerDumpCallback  # noqa: E402
from gradtool.torch import Recorder  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = range(1, 7)


class Probe(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """The norm before clipping, by a witness, and after it, for each step."""

    def __init__(self, model: torch.nn.Module, scale: float = 1.0) -> None:
        self.before: dict[int, float] = {}
        self.after: dict[int, float] = {}
        self._witness, self._scale = Witness(model), scale

    def on_pre_optimizer_step(self, _args: Any, state: Any, _control: Any, **live: Any) -> None:
        self.before[state.global_step + 1] = self._witness.norm() / self._scale
        self.after[state.global_step + 1] = live_norm(live["model"])


class Unscaling(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Has accelerate divide gradients by the loss scale before it clips them."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def on_train_begin(self, *_args: Any, **_live: Any) -> None:
        self._accelerator.native_amp = True
        self._accelerator.state._mixed_precision = "fp16"

    def on_train_end(self, *_args: Any, **_live: Any) -> None:
        self._accelerator.state._mixed_precision = "no"


def trainer(callback: Any, folder: Path, **changes: Any) -> tuple[Any, Probe]:
    model = llama()
    probe = Probe(model)
    options = arguments(folder, **changes)
    callbacks = [callback, probe]
    return transformers.Trainer(
        model, options, train_dataset=examples(), callbacks=callbacks
    ), probe


def dumped(directory: Path) -> dict[int, float]:
    measured = [gradtool.measure(str(path)) for path in sorted(directory.iterdir())]
    return {each.step: each.total.norm for each in measured if each.step is not None}


@pytest.mark.parametrize("max_grad_norm", [0.01, 0.0])
@pytest.mark.parametrize("batches", [1, 3])
def test_dumps_are_of_what_was_there_before_clipping(
    tmp_path: Path, max_grad_norm: float, batches: int
) -> None:
    callback = TrainerDumpCallback(tmp_path / "grads", every=1, on_error="raise")
    run, probe = trainer(
        callback,
        tmp_path,
        max_grad_norm=max_grad_norm,
        gradient_accumulation_steps=batches,
    )
    run.train()
    found = dumped(tmp_path / "grads")
    assert list(found) == list(STEPS)
    logged = {log["step"]: log["grad_norm"] for log in run.state.log_history if "grad_norm" in log}
    for step in STEPS:
        assert found[step] == pytest.approx(probe.before[step], rel=1e-12)
        assert found[step] == pytest.approx(logged[step], rel=1e-5)
        if max_grad_norm:
            assert probe.after[step] == pytest.approx(max_grad_norm, rel=1e-3)
            assert found[step] > 10 * max_grad_norm


def test_the_last_step_of_an_epoch_has_fewer_batches_and_is_a_step(tmp_path: Path) -> None:
    callback = TrainerDumpCallback(tmp_path / "grads", every=1, on_error="raise")
    # 16 examples in batches of 2, 3 to a step: 3, 3 and 2.
    run, probe = trainer(callback, tmp_path, gradient_accumulation_steps=3, max_grad_norm=0.01)
    run.train()
    assert dumped(tmp_path / "grads")[3] == pytest.approx(probe.before[3], rel=1e-12)


def test_nothing_is_dumped_before_the_last_batch_of_a_step(tmp_path: Path) -> None:
    early: list[bool] = []

    class Between(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_substep_end(self, _args: Any, state: Any, _control: Any, **_live: Any) -> None:
            name = f"grads_step{state.global_step + 1:06d}.safetensors"
            early.append((tmp_path / "grads" / name).exists())

    callback = TrainerDumpCallback(tmp_path / "grads", every=1, on_error="raise")
    run, _ = trainer(callback, tmp_path, gradient_accumulation_steps=2)
    run.add_callback(Between())
    run.train()
    assert early == [False] * len(STEPS)
    assert list(dumped(tmp_path / "grads")) == list(STEPS)


def test_it_shows_what_it_was_made_with() -> None:
    assert repr(TrainerDumpCallback("grads", every=5, nonfinite=False)) == (
        "TrainerDumpCallback('grads', every=5, nonfinite=False, most_nonfinite=10, on_error='warn')"
    )


def test_a_step_that_breaks_is_dumped_and_not_those_that_follow(tmp_path: Path) -> None:
    class Poison(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_begin(self, _args: Any, state: Any, _control: Any, **live: Any) -> None:
            if state.global_step == 2:
                live["model"].model.layers[1].mlp.down_proj.weight.data[3, 5] = math.nan

    run, _ = trainer(TrainerDumpCallback(tmp_path / "grads"), tmp_path)
    run.add_callback(Poison())
    run.train()
    (path,) = (tmp_path / "grads").iterdir()
    assert path.name == "grads_step000003.safetensors"
    assert run.state.global_step == STEPS[-1]


def test_a_loss_scale_is_noted(tmp_path: Path) -> None:
    callback = TrainerDumpCallback(tmp_path / "grads", every=2, on_error="raise")
    run, probe = trainer(callback, tmp_path, max_grad_norm=0.01)
    # As accelerate sets itself up for fp16 on a GPU; it refuses that on a CPU.
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    run.add_callback(Unscaling(run.accelerator))
    probe._scale = 1024.0
    run.train()
    for path in (tmp_path / "grads").iterdir():
        measured = gradtool.measure(str(path))
        assert measured.loss_scale == 1024.0
        assert measured.step is not None
        assert measured.total.norm == pytest.approx(probe.before[measured.step], rel=1e-12)
        assert probe.after[measured.step] == pytest.approx(0.01, rel=1e-3)
    assert sorted(dumped(tmp_path / "grads")) == [2, 4, 6]


def test_training_goes_on_without_a_dump_and_leaves_the_model_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "grads").write_text("in the way")
    run, _ = trainer(TrainerDumpCallback(tmp_path / "grads", every=1), tmp_path)
    run.train()
    assert run.state.global_step == STEPS[-1]
    assert caplog.text.count("gradients not dumped") == 1
    (tmp_path / "grads").unlink()
    row = {name: value[None] for name, value in examples()[0].items()}
    run.model(**row).loss.backward()
    assert not (tmp_path / "grads").exists()


def test_gradients_that_are_kept_elsewhere_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a backward pass that leaves gradients in the parameters, as with FSDP1."""

    class Elsewhere(transformers.Trainer):  # type: ignore[misc, name-defined]
        def training_step(self, model: Any, inputs: Any, _items: Any = None) -> Any:
            loss = model(**self._prepare_inputs(inputs)).loss
            parameters = list(model.parameters())
            for each, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                each.grad = grad
            return loss.detach()

    callback = TrainerDumpCallback(tmp_path / "grads", every=1)
    options = arguments(tmp_path)
    Elsewhere(llama(), options, train_dataset=examples(), callbacks=[callback]).train()
    assert caplog.text.count("gradients not dumped") == 1
    assert not (tmp_path / "grads").exists()


def test_a_recorder_has_what_was_there_before_clipping(tmp_path: Path) -> None:
    model = llama()
    probe = Probe(model)
    recorder = Recorder(model, tmp_path / "run.rows")
    callback = TrainerDumpCallback(recorder=recorder)
    options = arguments(tmp_path, max_grad_norm=0.01, gradient_accumulation_steps=2)
    transformers.Trainer(
        model, options, train_dataset=examples(), callbacks=[callback, probe]
    ).train()
    (run,) = gradtool.trend(tmp_path / "run.rows").runs
    found = {step.number: step.total.norm for step in run.steps if step.total is not None}
    assert [*found] == [*STEPS]
    for step, norm in found.items():
        assert math.isclose(norm, probe.before[step or 0], rel_tol=1e-12)


def test_a_recorder_dumps_a_spike_as_it_was_before_clipping(tmp_path: Path) -> None:
    class Scaled(transformers.Trainer):  # type: ignore[misc, name-defined]
        """The loss of the last step is 50 times what it should be."""

        def compute_loss(self, *given: Any, **options: Any) -> Any:
            loss = super().compute_loss(*given, **options)
            return loss * 50.0 if self.state.global_step == STEPS[-1] - 1 else loss

    model = llama()
    probe = Probe(model)
    recorder = Recorder(model, tmp_path / "run.rows", dump_on="nonfinite|spike")
    callbacks = [TrainerDumpCallback(recorder=recorder), probe]
    options = arguments(tmp_path, max_grad_norm=0.01, gradient_accumulation_steps=2)
    Scaled(model, options, train_dataset=examples(), callbacks=callbacks).train()
    found = dumped(tmp_path / "run-dumps")
    assert list(found) == [STEPS[-1]]
    assert math.isclose(found[STEPS[-1]], probe.before[STEPS[-1]], rel_tol=1e-12)


def test_it_needs_a_directory_or_a_recorder() -> None:
    with pytest.raises(UsageError, match="recorder"):
        TrainerDumpCallback()


def test_two_ranks_dump_what_both_have_summed_up(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run = subprocess.run(
        [*launcher, "--nproc-per-node", "2", trained_by_two.__file__, str(tmp_path)],
        env={**PLAIN, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=False,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    before = [float(line) for line in (tmp_path / "before.txt").read_text().split()]
    names = sorted(path.name for path in (tmp_path / "grads").iterdir())
    assert names == [
        f"grads_step{step:06d}-rank{rank}.safetensors" for step in (2, 4, 6) for rank in (0, 1)
    ]
    outcome = gradtool.check(str(tmp_path / "grads"))
    assert not outcome.failed
    assert [verdict.step for verdict in outcome.verdicts] == [2, 4, 6]
    for name in names:
        measured = gradtool.measure(str(tmp_path / "grads" / name))
        assert measured.step is not None
        assert measured.total.norm == pytest.approx(before[measured.step - 1], rel=1e-12)
