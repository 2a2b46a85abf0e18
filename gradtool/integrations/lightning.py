"""A callback for Lightning's Trainer."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

# Lightning has two names, each with classes of its own: the one in use is taken, else one there is.
if (
    TYPE_CHECKING
    or sys.modules.get("lightning.pytorch")
    or not sys.modules.get("pytorch_lightning")
):
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError as error:
        if error.name not in ("lightning", "lightning.pytorch"):
            raise
        try:
            from pytorch_lightning import Callback
        except ModuleNotFoundError:
            error.msg = "LightningDumpCallback needs lightning: pip install lightning"
            raise error from None
else:
    from pytorch_lightning import Callback

from gradtool.integrations.dumps import GradientDumps, OnError, dumps_of
from gradtool.torch import Recorder
from gradtool.torch._telling import LOG


class LightningDumpCallback(Callback):
    """Dumps gradients as they are before Lightning clips them.

        lightning.Trainer(..., callbacks=[LightningDumpCallback("grads", every=100)])

    It dumps the steps whose number `every` divides and, unless `nonfinite` is False, those whose
    norm is NaN or infinite: the first of a row, and `most_nonfinite` at most. Files, errors and
    costs are those of `GradientDumps`, which says more of the arguments. A step has the number of
    optimizer steps that `global_step` will show after it, as the checkpoint that is then saved.
    Gradients are those of all accumulated batches. With 16-mixed Lightning has divided them by
    the loss scale; where the optimizer does that itself, it is noted.

    With several optimizers each has a directory of its own, `grads/optimizer0` ..., its own
    parameters, and its own count of steps, which checkpoints keep. With manual optimization
    gradients are what `optimizer.step()` finds: clipped, if the module has clipped them before.

    A `gradtool.torch.Recorder` records the same gradients if it is given, with `directory` None
    instead of dumps; not with several optimizers, whose steps are counted apart, which the log
    says.

    It has been run with lightning 2.6 on a CPU, in one process and with DDP. With the strategy
    "fsdp", which is FSDP1, gradients are in pieces: nothing is dumped, and the log says so.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        every: int | None = None,
        nonfinite: bool = True,
        most_nonfinite: int = 10,
        on_error: OnError = "warn",
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__()
        self._recorder = recorder
        self._told = False
        self._directory = None if directory is None else os.fsdecode(directory)
        self._options: dict[str, Any] = {
            "every": every,
            "nonfinite": nonfinite,
            "most_nonfinite": most_nonfinite,
            "on_error": on_error,
        }
        dumps = dumps_of(directory, recorder, **self._options)
        self._dumps = {} if dumps is None else {"": dumps}
        self._steps: dict[str, int] = {}

    def __repr__(self) -> str:
        name = type(self).__name__
        return self._dumps[""].shown_as(name) if self._dumps else f"{name}({self._recorder!r})"

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Dump, if it is time to: this is after backward and unscaling, and before clipping."""
        folder, step, source = "", trainer.global_step + 1, pl_module
        if len(trainer.optimizers) > 1:
            folder = f"optimizer{[each is optimizer for each in trainer.optimizers].index(True)}"
            step = self._steps[folder] = self._steps.get(folder, 0) + 1
            source = _parameters_of(optimizer, pl_module)
        self._record(trainer, optimizer, step, is_only=not folder)
        if self._directory is None:
            return
        if folder not in self._dumps:
            path = os.path.join(self._directory, folder)
            self._dumps[folder] = GradientDumps(path, **self._options)
        dumps = self._dumps[folder]
        if dumps.looks_at(step):
            dumps.before_clipping(source, step=step, loss_scale=_scale(trainer, optimizer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 - its signature
        """Have all rows on disk."""
        if self._recorder is not None:
            self._recorder.close()

    def _record(self, trainer: Any, optimizer: Any, step: int, *, is_only: bool) -> None:
        if self._recorder is None:
            return
        if is_only:
            if self._recorder.looks_at(step):
                self._recorder.before_clipping(step=step, loss_scale=_scale(trainer, optimizer))
        elif not self._told:
            self._told = True
            LOG.warning(
                "step %d: not recorded: the steps of several optimizers have no one count", step
            )

    def state_dict(self) -> dict[str, Any]:
        """The steps of each of several optimizers, for the checkpoint."""
        return {"steps": dict(self._steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where the checkpoint was saved."""
        self._steps = dict(state_dict["steps"])


def _parameters_of(optimizer: Any, module: Any) -> list[tuple[str, Any]]:
    own = {id(each) for group in optimizer.param_groups for each in group["params"]}
    return [(name, each) for name, each in module.named_parameters() if id(each) in own]


def _scale(trainer: Any, optimizer: Any) -> float | None:
    """What the gradients are multiplied by: by nothing, if Lightning has unscaled them already.

    It leaves that to optimizers that do it in their step, and tells them by the same attribute.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return None
    return float(scaler.get_scale())
