"""DeepSpeed's universal checkpoints: a folder for each parameter, a file for what is kept of it.

`zero/<parameter>/fp32.pt`, `exp_avg.pt` and others each hold one tensor, whole, though of stage 3
without its shape. Beside `zero` lie the files of the module as the ranks had written them.

Source: deepspeed/checkpoint/ds_to_universal.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import counted, first_of, listed_apart
from gradtool.core.sections import OTHER
from gradtool.core.tensors import Skipped, TensorSpec
from gradtool.errors import CorruptFileError, MissingShardError
from gradtool.formats.layouts._joined import filtered, joined
from gradtool.formats.layouts.asked import Asked
from gradtool.formats.layouts.deepspeed.module import module_of, order_of
from gradtool.formats.layouts.deepspeed.named import kinds_of, optimizer_name, section_of_kind
from gradtool.formats.layouts.deepspeed.names import is_model, zero_files
from gradtool.formats.layouts.deepspeed.states import (
    MASTER,
    ModelState,
    Shapes,
    read_model,
    read_state,
)
from gradtool.formats.layouts.deepspeed.zero import open_zero
from gradtool.storage.listing import Listing

FORMAT: Final = "ds_universal"

_ZERO: Final = "zero"
MARKERS: Final = (_ZERO,)
_COMMON: Final = "optimizer_state.pt"
_SUFFIX: Final = ".pt"
_WEIGHTS: Final = "fp32"


@dataclass(slots=True)
class _Parameters:
    """What lies in `zero`.

    Attributes:
        members: the catalogues of all files.
        kept: tensors by parameter and by what they are of it.
        common: tensors of what is no parameter's, under names of their own.
        skipped: what is no tensor of floating-point numbers.
        unread: other entries.
    """

    members: list[Checkpoint] = field(default_factory=list)
    kept: dict[str, dict[str, TensorSpec]] = field(default_factory=dict)
    common: list[TensorSpec] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def recognises(listing: Listing) -> bool:
    """Whether a directory has an entry `zero`, which other programs may have too."""
    return _ZERO in listing.names


def open_universal(listing: Listing, asked: Asked) -> Checkpoint:
    """The catalogue of a checkpoint, each parameter under its name and with its whole shape.

    Without the files of a module beside a folder `zero` it is another checkpoint. Raises:
        MissingShardError: a parameter has no file, or not one for all that others have.
        CorruptFileError: a file holds more than a tensor, or contradicts others.
        UnsupportedFormatError: a module cut by tensor or pipeline parallelism.
    """
    if not any(map(is_model, listing.names)) or not listing.is_directory(_ZERO):
        return open_zero(listing, asked)
    files = zero_files(listing)
    names = [files.model] if files.model else [name for _, name in sorted(files.models.items())]
    models = [read_model(read_state(listing, name)) for name in names]
    first, is_stage_3 = models[0], files.model is None
    if first.shapes is None:
        first.state.broken("has no param_shapes: it is none of ZeRO's")
    shapes = {name: shape for group in first.shapes for name, shape in group.items()}
    found = _parameters(listing.folder(_ZERO), asked)
    _refuse_missing(listing.folder(_ZERO), found, shapes)
    module = module_of(listing.path, models, is_stage_3=is_stage_3)
    members = [*(model.state.catalogue for model in models), *found.members]
    others = [f"{_ZERO}/{name}" for name in found.unread]
    others += [name for name in files.others if name != _ZERO]
    notes = [*_notes(found, shapes, others), *listed_apart(module.apart)]
    tensors = (*module.tensors, *_in_order(found, first, shapes), *found.common)
    whole = replace(
        joined(listing.path, FORMAT, members, notes=notes),
        tensors=tensors,
        replicas=tuple(module.replicas),
        skipped=(*_of_modules(models), *found.skipped),
        section_kinds=kinds_of(spec.section for spec in tensors),
        step=first.step,
        loss_scale=1.0,
        in_model_order=first.state.catalogue.in_model_order,
        is_dump=False,
        placed={},
        part_notes=(),
    )
    return filtered(whole.with_scales_apart(), asked.wanted)


def _of_modules(models: Sequence[ModelState]) -> Iterator[Skipped]:
    """What modules hold besides, once."""
    yield from {
        item.name: item for model in reversed(models) for item in model.state.catalogue.skipped
    }.values()


def _parameters(zero: Listing, asked: Asked) -> _Parameters:
    """Every file of every parameter, opened."""
    found = _Parameters()
    for name in zero.names:
        if name.startswith("."):
            continue
        if name == _COMMON:
            found.common += (
                spec.under(f"{_ZERO}.{name.removesuffix(_SUFFIX)}.{spec.name}", OTHER)
                for spec in _opened(zero, name, asked, found).tensors
            )
        elif zero.is_directory(name) and not zero.is_link(name):
            found.kept[name] = dict(_of_parameter(zero, name, asked, found))
        else:
            found.unread.append(name)
    return found


def _of_parameter(
    zero: Listing, name: str, asked: Asked, found: _Parameters
) -> Iterator[tuple[str, TensorSpec]]:
    """What is kept of a parameter, by what it is."""
    folder = zero.folder(name)
    for file in folder.names:
        if not file.endswith(_SUFFIX) or folder.is_directory(file):
            found.unread.append(f"{name}/{file}")
            continue
        what = file.removesuffix(_SUFFIX)
        catalogue = _opened(folder, file, asked, found)
        if len(catalogue.tensors) > 1:
            problem = f"holds {len(catalogue.tensors)} tensors, and should one"
            raise CorruptFileError(folder.at(file), problem)
        for spec in catalogue.tensors:
            yield MASTER if what == _WEIGHTS else what, spec


def _opened(folder: Listing, file: str, asked: Asked, found: _Parameters) -> Checkpoint:
    catalogue = asked.open_file(folder.at(file))
    if catalogue is None:
        raise CorruptFileError(folder.at(file), "is no file of torch's")
    found.members.append(catalogue)
    start = "" if file == _COMMON else f"{folder.path.rpartition('/')[2]}."
    found.skipped += (
        replace(
            item, name=f"{_ZERO}.{start}{file.removesuffix(_SUFFIX)}.{item.name}", section=OTHER
        )
        for item in catalogue.skipped
    )
    return catalogue


def _refuse_missing(zero: Listing, found: _Parameters, shapes: Shapes) -> None:
    """MissingShardError for a parameter without weights, or without something that others have.

    One that never had a gradient has nothing but weights.
    """
    usual = {what for name in shapes for what in found.kept.get(name, ())} - {MASTER}
    for name, shape in shapes.items():
        there = found.kept.get(name, {}).keys()
        missing = {MASTER} - there if 0 not in shape else set()
        if there - {MASTER}:
            missing |= usual - there
        for what in sorted(missing):
            file = f"{name}/{_WEIGHTS if what == MASTER else what}{_SUFFIX}"
            raise MissingShardError(zero.path, f"{file!r} is missing, or holds no tensor")


def _in_order(
    found: _Parameters, model: ModelState, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[TensorSpec]:
    """The tensors of each kind after another, in the order of the module."""
    order = order_of(model)
    kinds = dict.fromkeys([MASTER, *(what for name in shapes for what in found.kept.get(name, ()))])
    names = sorted(found.kept, key=lambda name: order.get(name, len(order)))
    for what in kinds:
        for name in names:
            spec = found.kept[name].get(what)
            if spec is None:
                continue
            section = section_of_kind(what) if name in shapes else OTHER
            yield _shaped(spec, shapes.get(name)).under(optimizer_name(name, what), section)


def _shaped(spec: TensorSpec, shape: tuple[int, ...] | None) -> TensorSpec:
    """A tensor with its own shape, where it is stored as a row of elements."""
    is_row = len(spec.shape) == 1 and spec.strides is None
    if shape is None or not is_row or math.prod(shape) != spec.numel:
        return spec
    return replace(spec, shape=shape)


def _notes(found: _Parameters, shapes: Collection[str], others: list[str]) -> Iterator[str]:
    not_trained = [name for name in found.kept if name not in shapes]
    if not_trained:
        count = counted(len(not_trained), "tensor")
        yield f"{count} that the optimizer does not have, listed as other: {first_of(not_trained)}"
    if others:
        yield f"not read: {first_of(others)}"
