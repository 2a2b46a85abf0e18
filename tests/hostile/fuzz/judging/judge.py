"""gradtool beside the loaders of a file: what both accept must be the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from fuzz.judging.at_once import alone
from fuzz.judging.figures import Figures, agrees
from fuzz.judging.loaders import (
    Loaded,
    load_flax,
    load_gguf,
    load_numpy,
    load_safetensors,
    load_torch,
    load_torch_mapped,
)
from fuzz.judging.pickles import load_pickle
from fuzz.judging.values import Seen
from gradtool.core.measurement import Measurement, TensorMeasurement
from gradtool.core.tensors import Skipped, hides_magnitude
from gradtool.engine.reading.measure import measure
from gradtool.errors import GradtoolError
from gradtool.formats import open_checkpoint

LOADERS: Final[dict[str, Callable[[str], Loaded]]] = {
    "safetensors": load_safetensors,
    "numpy": load_numpy,
    "gguf": load_gguf,
    "flax": load_flax,
    "torch": load_torch,
    "torch mmap": load_torch_mapped,
    "pickle": load_pickle,
}
_FORMATS: Final = {
    "safetensors": ("safetensors",),
    "numpy": ("npy", "npz"),
    "gguf": ("gguf",),
    "flax": ("flax-msgpack",),
    "torch": ("torch", "torch-legacy"),
    "torch mmap": ("torch",),
    "pickle": ("pickle",),
}
"""Which of gradtool's formats each loader reads."""


Entry = TensorMeasurement | Skipped


class Verdict(NamedTuple):
    """How gradtool and one loader stand to each other over a file.

    `outcome` is "agree", "disagree", "stricter", "laxer", "both refuse", "not for it" (the
    loader reads another format, or sees nothing) or "crash". `why` are the problems, or the
    reason of whoever refuses.
    """

    loader: str
    outcome: str
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """What gradtool says of a file that it does not read."""

    reason: str


def measured(path: str) -> Measurement | Refusal:
    """The file as gradtool measures it, in this thread."""
    try:
        return measure(open_checkpoint(path), alone())
    except GradtoolError as error:
        problem = getattr(error, "problem", str(error))
        return Refusal(f"{type(error).__name__}: {problem}")


def judge(found: Measurement | Refusal, loader: str, loaded: Loaded) -> Verdict:
    """Whether what a loader sees is what gradtool says."""
    if isinstance(found, Refusal):
        return _refused(found, loader, loaded)
    is_for_it = found.format in _FORMATS[loader]
    if not is_for_it and not loaded.seen:
        return Verdict(loader, "not for it")
    if not is_for_it and not found.tensors:
        return Verdict(loader, "stricter", ("EmptyDumpError: nothing to measure",))
    problems = (*_problems(found, loaded, is_for_it=is_for_it),)
    if not problems and loaded.error is not None and is_for_it:
        return Verdict(loader, "laxer", (loaded.error,))
    return Verdict(loader, "disagree" if problems else "agree", problems)


def _refused(found: Refusal, loader: str, loaded: Loaded) -> Verdict:
    if loaded.error is not None:
        return Verdict(loader, "both refuse")  # if only in part
    return (
        Verdict(loader, "stricter", (found.reason,))
        if loaded.seen
        else Verdict(loader, "not for it")
    )


def _problems(found: Measurement, loaded: Loaded, *, is_for_it: bool) -> Iterator[str]:
    listed: dict[str, Entry] = {one.name: one for one in found.skipped}
    listed |= {tensor.name: tensor for tensor in found.tensors}
    unseen = dict(listed)
    for seen in loaded.seen:
        if not seen.is_odd and seen.name in unseen:
            for difference in _differences(unseen.pop(seen.name), seen):
                yield f"{difference}: {seen}"
        elif not seen.is_odd and seen.has_elements:
            yield f"not listed: {seen}"
    for seen in loaded.seen:
        covering = _covering(seen, listed) if seen.is_odd else set()
        if seen.is_odd and seen.may_be_gradient and not covering:
            yield f"not listed: {seen}"
        unseen = {name: entry for name, entry in unseen.items() if name not in covering}
    if loaded.error is None and is_for_it and not loaded.has_notes:
        for name, entry in unseen.items():
            if isinstance(entry, TensorMeasurement) or hides_magnitude(entry):
                yield f"listed, and not there: {name!r}"


def _covering(seen: Seen, listed: dict[str, Entry]) -> set[str]:
    """The names under which the elements of a tensor in an odd place are listed, in any shape."""
    shapeless = replace(seen, shape=None)
    return {name for name, entry in listed.items() if not [*_differences(entry, shapeless)]}


def _is_same_type(skipped_as: str, seen: str) -> bool:
    """Whether two names are of one type; texts and dates are the same in either byte order."""
    if seen == "index":
        return skipped_as[0] in "BIU"
    return skipped_as.lstrip("<>|=") == seen


def _differences(entry: Entry, seen: Seen) -> Iterator[str]:
    """What gradtool says otherwise of a tensor; nothing where it says that it cannot tell."""
    if isinstance(entry, Skipped):
        if not hides_magnitude(entry) and not _is_same_type(entry.dtype, seen.dtype):
            yield f"skipped as {entry.dtype} ({entry.reason})"
        return
    stats = entry.stats
    figures = Figures(stats.nan, stats.posinf, stats.neginf, entry.finite_norm)
    if entry.spec.dtype.name != seen.dtype:
        yield f"measured as {entry.spec.dtype.name}"
    elif seen.shape not in (None, entry.spec.shape):
        yield f"measured with shape {entry.spec.shape}"
    elif seen.figures is None:
        yield "measured, where there are no numbers"
    elif not agrees(figures, seen.figures, is_signed=not seen.is_negated):
        yield f"measured as {figures}"
