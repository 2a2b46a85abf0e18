"""What the name of a file says of the tensors in it: gradients, weights, moments, or neither.

It is asked where the file's own keys say nothing. Words count as wholes, wherever they stand:
`grads_step_10.pt`, `step_10_grads.npz`, `my_grads.rank0.pt`. Of several the first in this order
counts: gradients, optimizer, averages, what is neither, weights. So `model_grads.pt` holds
gradients, and `model_loss.npy` losses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.sections import (
    EMA,
    GRADS,
    KINDS,
    MODEL,
    OPTIMIZER,
    OTHER,
    Sections,
    sections_of,
)

_ORDER: Final = (GRADS, OPTIMIZER, EMA, OTHER, MODEL)
_NOTHING: Final = ""
"""What phrases stand for that tell nothing, though a word in them would by itself."""

_PHRASES: Final[Mapping[tuple[str, ...], str]] = {
    tuple(phrase.split()): section
    for section, phrases in {
        GRADS: "grad|grads|gradient|gradients",
        MODEL: "model|models|state dict|module|network|params|parameters|weights",
        EMA: "ema",
        OPTIMIZER: "optim|optimizer|optimizers|opt state|opt states",
        OTHER: (
            "loss|losses|lr|lrs|learning rate|learning rates|lr scheduler|lr schedulers|scheduler"
            "|schedulers|scaler|grad scaler|rng|rng state|rng states|random states|sampler"
            "|dataloader|dataloader states|callbacks|grad norm|grad norms|gradient norm"
            "|gradient norms|grads norm|grads norms|gradients norms"
        ),
        _NOTHING: (
            "grad accumulation|gradient accumulation|grad accum|grad clip|grad clipping"
            "|gradient clipping|gradient clip|gradient checkpointing|no grad"
        ),
    }.items()
    for phrase in phrases.split("|")
}
_LONGEST: Final = max(map(len, _PHRASES))

_STEPS: Final = frozenset({"step", "steps", "global step", "epoch", "iteration"})
_ALONE: Final = _STEPS | {
    *("extra state", "loops", "train state", "trainer state", "training args"),
}
"""What is neither, where a name says nothing else; a step with a number is any dump's."""

_LAYERS: Final = frozenset({"layer", "layers", "block", "blocks", "module", "modules"})
"""After these a number is that of a part of the model, which has gradients as well as weights."""

_WORD: Final = re.compile(
    r"([A-Z]?[a-z]+|[A-Z]+)(?![a-z])([-_.=]{0,2}\d+(?:\.\d+|e-?\d+)?)?", re.ASCII
)
_COUNTED: Final = re.compile(r"[-_.]?[A-Za-z]*[-_.=]{0,2}[\d*]+", re.ASCII)

_OF_THE_HUB: Final = re.compile(
    r"""
    (model | diffusion_pytorch_model)(\.[a-z0-9]+)?(_\d+)?(-\d+-of-\d+)?\.safetensors
    | pytorch_model[-_.\w]*\.bin
    | adapter_model(-\d+-of-\d+)?\.(safetensors|bin|pt|pth)
    | consolidated([-.]\d+(-of-\d+)?)?\.(safetensors|pth)
    """,
    re.ASCII | re.VERBOSE,
)
"""Names that writers give to weights, and to shards of them.

Sources: `SAFE_WEIGHTS_NAME` and `WEIGHTS_NAME` of transformers, accelerate, diffusers and PEFT;
Llama's and Mistral's releases.
"""


class Told(NamedTuple):
    """The section that a file's name tells.

    Where it is not sure it counts only beside files of which something is: a lone parameter may be
    called `weights`, a layer `model`, and `model_layer_3.pt` may hold what a dump has of it.
    """

    section: str
    is_sure: bool


class _Word(NamedTuple):
    text: str
    number: str

    @property
    def is_value(self) -> bool:
        """Whether its number is a value rather than a count: `val_loss=2`, `lr0.1`, `lr1e-4`."""
        digits = self.number.lstrip("-_.=")
        return "=" in self.number or not digits.isdecimal()


def told_by(stem: str, *, is_bare: bool = False) -> Told | None:
    """What the stem of a file's name says; None where it says nothing.

    A bare tensor is called as its file: such a name says less, and nothing if it has a dot that
    belongs to no number, as those of parameters have.
    """
    if is_bare and "." in _COUNTED.sub("", stem):
        return None
    words = _words_in(stem)
    found = {section for section, _ in _sections_in(words)}
    section = next((section for section in _ORDER if section in found), None)
    if section is None:
        whole = " ".join(word.text for word in words)
        is_other = whole in _ALONE and not (whole in _STEPS and words[-1].number)
        return Told(OTHER, is_sure=False) if is_other else None
    is_of_layer = any(word.text in _LAYERS and word.number for word in words)
    return Told(section, is_sure=section != MODEL or not (is_bare or is_of_layer))


def ends_as_a_section(stem: str) -> bool:
    """Whether a name, but for a number at its end, ends as that of a whole section: `grads_1`.

    A number with zeros before it counts as well: files were to sort by it.
    """
    key = stem.rstrip("0123456789")
    number = stem[len(key) :]
    words = _words_in(key)
    ends = any(end == len(words) for _, end in _sections_in(words))
    return ends or (len(number) > 1 and number.startswith("0"))


def _words_in(stem: str) -> list[_Word]:
    return [_Word(text.lower(), number) for text, number in _WORD.findall(stem)]


def _sections_in(words: list[_Word]) -> Iterator[tuple[str, int]]:
    """The section of each phrase that stands for one, and which word follows it.

    The longest phrase counts where they overlap: a `grad_scaler` is no gradient.
    """
    at = 0
    while at < len(words):
        lengths = range(min(_LONGEST, len(words) - at), 0, -1)
        length = next((n for n in lengths if _phrase(words[at : at + n]) in _PHRASES), 1)
        section = _PHRASES.get(_phrase(words[at : at + length]), _NOTHING)
        at += length
        last = words[at - 1]
        if section and not (
            last.number and (last.text in _LAYERS or (section == OTHER and last.is_value))
        ):
            yield section, at


def _phrase(words: list[_Word]) -> tuple[str, ...]:
    """The words, if none but the last has a number."""
    return () if any(word.number for word in words[:-1]) else tuple(word.text for word in words)


def sections_told(section: str, names: Collection[str]) -> Sections:
    """The sections of tensors that lie in a file of that section, as if it were their key."""
    if section == OTHER:
        return Sections(dict.fromkeys(names, OTHER))
    found = sections_of({f"{section}.{name}": section for name in names})
    by_name = {name.removeprefix(f"{section}."): one for name, one in found.by_name.items()}
    return Sections(by_name, found.kinds)


def is_bare(checkpoint: Checkpoint, stem: str) -> bool:
    """Whether a file holds one tensor without a name, which is called as the file."""
    return checkpoint.names == (stem,)


def is_called_like_tensors(path: str) -> bool:
    """Whether a file's name says that gradients, weights or moments are in it."""
    told = told_by(os.path.splitext(os.path.basename(path))[0])
    return told is not None and told.section != OTHER


def with_kinds_of_name(checkpoint: Checkpoint) -> Checkpoint:
    """A file's catalogue with what its name says of it, where its own keys say nothing.

    Weights are weights in a file as in the directory around it, and need no section for that; nor
    do gradients, which is what a dump of unknown name is taken for.
    """
    if checkpoint.section_kinds or checkpoint.is_dump:
        return checkpoint
    name = os.path.basename(checkpoint.path)
    stem = os.path.splitext(name)[0]
    told = told_by(stem, is_bare=is_bare(checkpoint, stem))
    if _OF_THE_HUB.fullmatch(name):
        told = Told(MODEL, is_sure=True)
    if told is None or not told.is_sure or told.section == GRADS:
        return checkpoint
    sections = sections_told(told.section, checkpoint.names)
    if {*sections.by_name.values()} <= {told.section} and told.section in KINDS:
        return replace(checkpoint, section_kinds={"": KINDS[told.section]})
    return checkpoint.in_sections(lambda item: item.section or sections(item.name), sections.kinds)
