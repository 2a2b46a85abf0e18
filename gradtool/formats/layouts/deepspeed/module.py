"""The weights and buffers of a module, as the files of ZeRO's ranks hold them.

Of stages 1 and 2 one file has all of them. Of stage 3 each rank's has buffers, tensors without
elements in the place of weights, and pieces of what is not trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gradtool.core.sections import MODEL
from gradtool.core.tensors import Replica, TensorSpec
from gradtool.formats.layouts.deepspeed.flat import Group, Place, refuse_shared, tensors_of
from gradtool.formats.layouts.deepspeed.kept import Kept, kept_by_ranks
from gradtool.formats.layouts.deepspeed.states import ModelState

MODULE = "module."
_FROZEN = "frozen_param_fragments."


def module_of(path: str, models: Sequence[ModelState], *, is_stage_3: bool) -> Kept:
    """All that the files of a module hold, by the names that they have there.

    `path` is the checkpoint's. Raises CorruptFileError for what is not trained and not all there.
    """
    catalogues = [model.state.catalogue for model in models]
    used = [set(_placeholders(model)) if is_stage_3 else set[str]() for model in models]
    for model, names in zip(models, used, strict=True):
        names |= {f"{_FROZEN}{name}" for name in model.frozen}
    found = kept_by_ranks([f"rank {rank}" for rank in range(len(models))], catalogues, used)
    if is_stage_3:
        for model, names in zip(models, used, strict=True):
            refuse_shared(model.state, names)
        found.tensors += _frozen_in_pieces(path, models)
    else:
        _add_frozen(found, models[0])
    return found


def order_of(model: ModelState) -> dict[str, int]:
    """The positions of parameters in the module, by their names."""
    names = (spec.name for spec in model.state.catalogue.tensors)
    return {name.removeprefix(MODULE): n for n, name in enumerate(names)}


def _placeholders(model: ModelState) -> Iterator[str]:
    for spec in model.state.catalogue.tensors:
        if spec.name.startswith(MODULE) and not spec.numel:
            yield spec.name


def _frozen_in_pieces(path: str, models: Sequence[ModelState]) -> Iterator[TensorSpec]:
    """Each parameter that is not trained, of the pieces of all ranks."""
    specs = [{spec.name: spec for spec in model.state.catalogue.tensors} for model in models]
    for name, shape in models[0].frozen.items():
        numel = math.prod(shape)
        place = Place(f"{MODULE}{name}", shape, numel, 0)
        flats = [
            _flat(model, found.get(f"{_FROZEN}{name}"))
            for model, found in zip(models, specs, strict=True)
        ]
        if all(flat is None for flat in flats):
            models[0].state.broken("no rank has a piece of it", name)
        group = Group([place], -(-numel // len(models)))
        yield from (
            spec.in_section(MODEL) for spec in tensors_of(path, group, flats, is_stage_3=True)
        )


def _flat(model: ModelState, spec: TensorSpec | None) -> TensorSpec | None:
    if spec is not None and (len(spec.shape) != 1 or spec.strides or spec.stream):
        model.state.broken("is no flat piece", spec.name)
    return spec


def _add_frozen(found: Kept, model: ModelState) -> None:
    """Weights that are not trained, which a file may have twice: also in its module."""
    specs = {spec.name: spec for spec in model.state.catalogue.tensors}
    for name, shape in model.frozen.items():
        again = specs.get(f"{_FROZEN}{name}")
        if again is None:
            continue  # integers, say, which are skipped
        if again.shape != shape:
            model.state.broken(f"is of another shape than {list(shape)}", again.name)
        first = specs.get(f"{MODULE}{name}")
        copy = again.under(f"{MODULE}{name}", MODEL)
        if first is None:
            found.tensors.append(copy)
        elif (first.shape, first.dtype) != (copy.shape, copy.dtype):
            model.state.broken("is of another shape or type than in the module", again.name)
        elif first.elements != copy.elements:
            found.replicas.append(Replica(_FROZEN.rstrip("."), copy))
