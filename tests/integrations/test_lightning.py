"""The callback for Lightning, run by Lightning: `.ci/run --full` has it installed."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from environment import PLAIN

import gradtool

sys.path.insert(0, str(Path(__file__).parent))

pytest.importorskip("lightning")

import lightning
import lightning_by_two
from lightning.pytorch.plugins import MixedPrecision
from lightning_by_two import Module, batches, options

from gradtool.integrations import LightningDumpCallback
from gradtool.torch import Recorder

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = range(1, 7)


def dumped(directory: Path) -> dict[int, float]:
    measured = [gradtool.measure(str(path)) for path in sorted(directory.iterdir())]
    return {each.step: each.total.norm for each in measured if each.step is not None}


@pytest.mark.parametrize("clip", [0.01, None])
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_dumps_are_of_what_was_there_before_clipping(
    tmp_path: Path, clip: float | None, accumulated: int, package: str
) -> None:
    frame: Any = pytest.importorskip(package)
    module = lightning_by_two.module_of(frame)()
    callback = LightningDumpCallback(tmp_path / "grads", every=1, on_error="raise")
    changes = {"gradient_clip_val": clip, "accumulate_grad_batches": accumulated}
    frame.Trainer(**options(tmp_path, callbacks=[callback], **changes)).fit(module, batches())
    found = dumped(tmp_path / "grads")
    assert list(found) == list(STEPS)
    for step, before, after in zip(STEPS, module.before, module.after, strict=True):
        assert found[step] == pytest.approx(before, rel=1e-12)
        if clip:
            assert after == pytest.approx(clip, rel=1e-3)
            assert found[step] > 10 * clip


def test_a_recorder_has_what_was_there_before_clipping(tmp_path: Path) -> None:
    module = lightning_by_two.module_of(lightning.pytorch)()
    with Recorder(module, tmp_path / "run.rows") as recorder:
        callback = LightningDumpCallback(recorder=recorder)
        changes = {"gradient_clip_val": 0.01, "accumulate_grad_batches": 2}
        lightning.Trainer(**options(tmp_path, callbacks=[callback], **changes)).fit(
            module, batches()
        )
    (run,) = gradtool.trend(tmp_path / "run.rows").runs
    assert [step.number for step in run.steps] == [*STEPS]
    for step, before in zip(run.steps, module.before, strict=True):
        assert step.total is not None
        assert step.total.norm == pytest.approx(before, rel=1e-12)


def test_a_recorder_dumps_a_spike_as_it_was_before_clipping(tmp_path: Path) -> None:
    class Scaled(Module):
        """The loss of the last step is 50 times what it should be."""

        def loss(self, inputs: Any) -> Any:
            return super().loss(inputs) * (50.0 if self.global_step == STEPS[-1] - 1 else 1.0)

    module = Scaled()
    recorder = Recorder(module, tmp_path / "run.rows", dump_on="nonfinite|spike")
    callback = LightningDumpCallback(recorder=recorder)
    changes = {"gradient_clip_val": 0.01, "callbacks": [callback]}
    lightning.Trainer(**options(tmp_path, **changes)).fit(module, batches())
    found = dumped(tmp_path / "run-dumps")
    assert list(found) == [STEPS[-1]]
    assert math.isclose(found[STEPS[-1]], module.before[-1], rel_tol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_scale_is_noted_where_gradients_are_still_multiplied(
    tmp_path: Path, fused: bool
) -> None:
    module = Module(lambda own: torch.optim.Adam(own.parameters(), lr=1e-3, fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    callback = LightningDumpCallback(tmp_path / "grads", every=2, on_error="raise")
    trainer = lightning.Trainer(**options(tmp_path, callbacks=[callback], plugins=[precision]))
    trainer.fit(module, batches())
    for path in sorted((tmp_path / "grads").iterdir()):
        measured = gradtool.measure(str(path))
        assert measured.loss_scale == (1024.0 if fused else 1.0)
        assert measured.step is not None
        # What the backward pass left is multiplied by the scale in both cases.
        before = module.before[measured.step - 1] / 1024.0
        assert measured.total.norm == pytest.approx(before, rel=1e-12)


def test_each_of_two_optimizers_has_a_run_of_its_own(tmp_path: Path) -> None:
    class Two(Module):
        """Steps one optimizer for each batch, and the other one for every second batch."""

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [
                torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[0], self.net[2])
            ]

        def training_step(self, batch: Any, index: int) -> None:
            for optimizer in self.optimizers()[: 1 + index % 2]:
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch[0]))
                optimizer.step()

    callback = LightningDumpCallback(tmp_path / "grads", every=2, on_error="raise")
    trainer = lightning.Trainer(**options(tmp_path, callbacks=[callback], max_steps=12))
    trainer.fit(Two(), batches())
    assert list(dumped(tmp_path / "grads" / "optimizer0")) == [2, 4, 6, 8]
    assert list(dumped(tmp_path / "grads" / "optimizer1")) == [2, 4]
    for number, names in enumerate(
        (["net.0.bias", "net.0.weight"], ["net.2.bias", "net.2.weight"])
    ):
        path = tmp_path / "grads" / f"optimizer{number}" / "grads_step000002.safetensors"
        assert sorted(each.name for each in gradtool.measure(str(path)).tensors) == names
    assert gradtool.check(str(tmp_path / "grads" / "optimizer0")).exit_code == 0
    later = LightningDumpCallback(tmp_path / "later", every=10)
    later.load_state_dict(callback.state_dict())
    trainer = lightning.Trainer(**options(tmp_path, callbacks=[later], max_steps=3))
    trainer.fit(Two(), batches())
    assert list(dumped(tmp_path / "later" / "optimizer0")) == [10]


def test_it_shows_what_it_was_made_with() -> None:
    told = "('grads', every=5, nonfinite=False, most_nonfinite=10, on_error='warn')"
    assert repr(LightningDumpCallback("grads", every=5, nonfinite=False)) == (
        f"LightningDumpCallback{told}"
    )


def test_a_step_that_breaks_is_dumped_and_not_those_that_follow(tmp_path: Path) -> None:
    class Breaks(Module):
        def on_train_batch_start(self, _batch: Any, index: int) -> None:
            if index == 2:
                self.net[2].weight.data[0, 1] = math.inf

    callback = LightningDumpCallback(tmp_path / "grads")
    trainer = lightning.Trainer(**options(tmp_path, callbacks=[callback]))
    trainer.fit(Breaks(), batches())
    (path,) = (tmp_path / "grads").iterdir()
    assert path.name == "grads_step000003.safetensors"
    assert trainer.global_step == STEPS[-1]


def by_two(folder: Path, *mode: str) -> str:
    """What two ranks write to stderr."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run = subprocess.run(
        [*launcher, "--nproc-per-node", "2", lightning_by_two.__file__, str(folder), *mode],
        env={**PLAIN, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stderr


def test_two_ranks_dump_what_both_have_summed_up(tmp_path: Path) -> None:
    by_two(tmp_path)
    before = [float(line) for line in (tmp_path / "before.txt").read_text().split()]
    outcome = gradtool.check(str(tmp_path / "grads"))
    assert not outcome.failed
    assert [verdict.step for verdict in outcome.verdicts] == [3, 6]
    for step in (3, 6):
        for rank in (0, 1):
            path = tmp_path / "grads" / f"grads_step{step:06d}-rank{rank}.safetensors"
            found = gradtool.measure(str(path)).total.norm
            assert found == pytest.approx(before[step - 1], rel=1e-12)


def test_the_pieces_of_fsdp1_are_refused_and_training_goes_on(tmp_path: Path) -> None:
    told = by_two(tmp_path, "fsdp1")
    assert told.count("gradients not dumped: FSDP1 has split these gradients") == 2
    assert not (tmp_path / "grads").exists()
    assert [(tmp_path / f"steps{rank}.txt").read_text() for rank in (0, 1)] == ["6", "6"]
