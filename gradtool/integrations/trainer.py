"""A callback for the Trainer of Hugging Face's transformers."""

from __future__ import annotations

import os
from typing import Any

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    if error.name == "transformers":
        error.msg = "TrainerDumpCallback needs transformers: pip install 'transformers[torch]'"
    raise

from accelerate.state import GradientState

from gradtool.integrations.dumps import OnError, dumps_of
from gradtool.torch import Recorder
from gradtool.torch._backward import BackwardWatch
from gradtool.torch._telling import LOG


class TrainerDumpCallback(TrainerCallback):
    """Dumps gradients as they are before the Trainer clips them.

        Trainer(..., callbacks=[TrainerDumpCallback("grads", every=100)])

    It dumps the steps whose number `every` divides and, unless `nonfinite` is False, those whose
    norm is NaN or infinite: the first of a row, and `most_nonfinite` at most. Files, errors and
    costs are those of `GradientDumps`, which says more of the arguments. A step has the number
    under which the Trainer logs it and saves `checkpoint-N`. With gradient accumulation, its
    gradients are those of all its batches. With fp16 they are still multiplied by the loss scale,
    which is noted, and by which `gradtool` divides. A `gradtool.torch.Recorder` records the same
    gradients if it is given, with `directory` None instead of dumps:

        Trainer(model, ..., callbacks=[TrainerDumpCallback(recorder=Recorder(model, "run.rows"))])

    It has been run with transformers 5.24 on a CPU, in one process and with DDP. FSDP1 and
    DeepSpeed keep gradients elsewhere than in the parameters: nothing is dumped, and the log says
    so.
    """

    # No event of the Trainer lies between backward and clipping: on_substep_end comes only after
    # batches whose gradients are to be added to, and on_pre_optimizer_step after clipping. What
    # clips is different for FSDP, for several meshes and for subclasses, without `max_grad_norm`
    # in some versions nothing, and a callback has no way to any of it. The end of the backward
    # pass has none of these differences, and its gradients have not been unscaled.
    # Where one step runs several backward passes, each looks again and the last one stays.

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
        self._recorder = recorder
        self._dumps = dumps_of(
            directory,
            recorder,
            every=every,
            nonfinite=nonfinite,
            most_nonfinite=most_nonfinite,
            on_error=on_error,
        )
        self._watch: BackwardWatch | None = None
        self._live: tuple[Any, Any] = (None, None)
        self._step = 0
        self._seen = self._told = False

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({self._recorder!r})" if self._dumps is None else self._dumps.shown_as(name)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **live: Any
    ) -> None:
        """Have the end of each backward pass be told."""
        self.on_train_end(args, state, control)  # of a training that an error has ended
        self._live = model, live.get("optimizer")
        self._watch = BackwardWatch(model.parameters(), self._after_backward)

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **live: Any) -> None:
        """Remember which step this is, and what it is made with."""
        self._step, self._seen = state.global_step + 1, False
        self._live = live.get("model"), live.get("optimizer")

    def on_pre_optimizer_step(self, _args: Any, _state: Any, _control: Any, **_live: Any) -> None:
        """Say once if there was nothing to see before."""
        if self._seen or self._told or not self._looks():
            return
        self._told = True
        LOG.warning(
            "step %d: gradients not %s: no parameter got one that could be seen before "
            "clipping, as with FSDP1 and DeepSpeed",
            self._step,
            "recorded" if self._dumps is None else "dumped",
        )

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_live: Any) -> None:
        """Leave the model as it was, and all rows on disk."""
        if self._recorder is not None:
            self._recorder.close()
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def _after_backward(self) -> None:
        if not GradientState().sync_gradients:
            return
        self._seen = True
        if not self._looks():
            return
        model, optimizer = self._live
        scale = _scale(optimizer)
        if self._recorder is not None:
            self._recorder.before_clipping(step=self._step, loss_scale=scale)
        if self._dumps is not None:
            self._dumps.before_clipping(model, step=self._step, loss_scale=scale)

    def _looks(self) -> bool:
        """Whether there may be anything to do in this step."""
        users = (self._dumps, self._recorder)
        return any(one is not None and one.looks_at(self._step) for one in users)


def _scale(optimizer: Any) -> float | None:
    scaler = getattr(optimizer, "scaler", None)
    return scaler.get_scale() if scaler is not None and scaler.is_enabled() else None
