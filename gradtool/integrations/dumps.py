"""When a training loop dumps its gradients, and where to; no framework but torch is in it."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeAlias

from gradtool.errors import UsageError
from gradtool.storage.workspace import writing
from gradtool.torch import Recorder, dump_gradients, get_total_norm
from gradtool.torch._telling import LOG, Failures, positive
from gradtool.torch.dump import BETWEEN, named_gradients, place_in_world

OnError: TypeAlias = Literal["warn", "raise"]
"""What becomes of an error: a line in the log, and training goes on; or the error itself."""


class GradientDumps:
    """Dumps of a run's gradients: every so many steps, and where their norm is not finite.

        dumps = GradientDumps("grads", every=100)
        ...
        loss.backward()
        dumps.before_clipping(model, step=step)
        clip_grad_norm_(model.parameters(), 1.0)

    Of steps in a row whose norm is not finite the first is dumped: what follows a NaN in the
    weights says nothing new, and would fill the disk. A loss scale that is found by overflowing
    breaks such rows, so that their number is bounded too.

    A dump that fails does not end the training: it is told of in a line of the log, `gradtool`'s,
    and not again for the same reason until one succeeds.

    What it costs: a dump copies the gradients to the disk and waits for that. Steps without one
    cost nothing with `nonfinite=False`; else a norm, on a CPU 1.1 to 1.7 times what torch's
    `clip_grad_norm_` takes on one thread, and on a GPU one wait for the device. With DTensors every
    rank has to make the same calls.

    Args:
        directory: where the files go; made when there is a first one. An older file of the same
            step is replaced.
        every: dump the steps whose number it divides; None for none of them.
        nonfinite: dump also where the norm of all gradients is NaN or infinite.
        most_nonfinite: how many times that is done; then it is no longer looked for.
        on_error: "raise" has what goes wrong end the training.

    Raises:
        UsageError: a number that cannot be, or arguments by which nothing is ever dumped.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        every: int | None = None,
        nonfinite: bool = True,
        most_nonfinite: int = 10,
        on_error: OnError = "warn",
    ) -> None:
        self.directory = os.fsdecode(directory)
        self._every = None if every is None else positive("every", every)
        self._left = positive("most_nonfinite", most_nonfinite) if nonfinite else 0
        if self._every is None and not nonfinite:
            raise UsageError("`every` and `nonfinite` say that nothing is to be dumped")
        if on_error not in ("warn", "raise"):
            raise UsageError(f"`on_error` must be 'warn' or 'raise', not {on_error!r}")
        self._on_error = on_error
        self._options = {
            "every": every,
            "nonfinite": nonfinite,
            "most_nonfinite": most_nonfinite,
            "on_error": on_error,
        }
        self._looked_at: int | None = None
        self._is_broken = self._was_broken = False  # that step, and the one looked at before it
        self._failures = Failures("gradients not dumped")

    def __repr__(self) -> str:
        return self.shown_as(type(self).__name__)

    def shown_as(self, name: str) -> str:
        """What these dumps are made with, as a call of `name`."""
        options = [f"{option}={value!r}" for option, value in self._options.items()]
        return f"{name}({', '.join([repr(self.directory), *options])})"

    def looks_at(self, step: int) -> bool:
        """Whether there is anything to do in that step before it is known how its norm is."""
        return self._is_due(step) or self._looks_for_broken(step)

    def before_clipping(
        self, model: Any, *, step: int, loss_scale: float | None = None
    ) -> str | None:
        """Dump the gradients if this step's are to be; call it between backward and clipping.

        A further call in the same step looks again, and replaces what the first one wrote.

        Args:
            model: a module, or pairs of name and parameter.
            step: the number of the optimizer step that these gradients are for.
            loss_scale: what they are multiplied by, as for `dump_gradients`; leave it out once
                they are divided by it again.

        Returns:
            The path written, or None.
        """
        try:
            return self._dumped(model, operator.index(step), loss_scale)
        except Exception as error:
            if self._on_error == "raise":
                raise
            self._failures.tell(step, error)
            return None

    def _dumped(self, model: Any, step: int, loss_scale: float | None) -> str | None:
        if not self.looks_at(step):
            return None
        source = list(model) if isinstance(model, Iterator) else model  # it is read twice
        seen = self._is_broken and self._looked_at == step
        norm = self._broken_norm(source, step) if self._looks_for_broken(step) else None
        if norm is None and not self._is_due(step):
            return None
        path = self._write(source, step, loss_scale)
        self._failures.none()
        if norm is not None and not seen:
            scaled = "" if loss_scale is None else f" (multiplied by a loss scale of {loss_scale})"
            LOG.warning("step %d: gradients with norm %s%s: %s", step, norm, scaled, path)
            if not self._left:
                LOG.warning("step %d: no further norms that are not finite are dumped", step)
        return path

    def _is_due(self, step: int) -> bool:
        return self._every is not None and step % self._every == 0

    def _looks_for_broken(self, step: int) -> bool:
        return self._left > 0 or (self._is_broken and self._looked_at == step)

    def _broken_norm(self, source: Any, step: int) -> float | None:
        """The norm, if it is not finite and this is the first such step of a row."""
        if step != self._looked_at:
            self._looked_at, self._was_broken, self._is_broken = step, self._is_broken, False
        norm = _norm(source)
        if math.isfinite(norm):
            return None
        if not (self._is_broken or self._was_broken):
            # Counted before anything is written: whatever fails on one rank, all go on to look at
            # the same steps, as they have to where the norm is that of all ranks.
            self._left -= 1
        self._is_broken = True
        return None if self._was_broken else norm

    def _write(self, source: Any, step: int, loss_scale: float | None) -> str:
        _, world_size = place_in_world()
        rank = "-rank{rank}" if (world_size or 1) > 1 else ""
        with writing(self.directory):
            os.makedirs(self.directory, exist_ok=True)
        path = os.path.join(self.directory, f"grads_step{step:06d}{rank}.safetensors")
        return dump_gradients(source, path, step=step, loss_scale=loss_scale)


def dumps_of(
    directory: str | os.PathLike[str] | None, recorder: Recorder | None, **options: Any
) -> GradientDumps | None:
    """The dumps of a hook that may have a recorder instead; UsageError where it has neither."""
    if directory is not None:
        return GradientDumps(directory, **options)
    if recorder is None:
        raise UsageError("give `directory` for dumps, `recorder` for rows, or both")
    if options["every"] is not None:
        raise UsageError("`every` is of dumps, and needs `directory`; a recorder has its own")
    return None


def _norm(source: Iterable[Any]) -> float:
    """The norm of all gradients; NaN and infinity as they are, and where float32 has no room."""
    grads = [each.array for each in named_gradients(source) if each.array is not None]
    if not grads:
        raise UsageError("no parameter has a gradient", hint=BETWEEN)
    return float(get_total_norm(grads).item())
