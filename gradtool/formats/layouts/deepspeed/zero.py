"""ZeRO's checkpoints: flat partitions of each rank, put together to the parameters in them.

What counts for where a parameter lies is `param_shapes`, by which DeepSpeed's `zero_to_fp32.py`
reads; `param_slice_mappings`, by which its `ds_to_universal.py` does, are held against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import counted, first_of, listed_apart
from gradtool.core.tensors import TensorSpec
from gradtool.errors import CorruptFileError, FoundCheckpoint, SeveralCheckpointsError
from gradtool.formats.layouts._chunked import skipped_once
from gradtool.formats.layouts._joined import filtered, joined
from gradtool.formats.layouts.asked import Asked
from gradtool.formats.layouts.deepspeed import latest
from gradtool.formats.layouts.deepspeed.flat import Group, group_of, refuse_shared, tensors_of
from gradtool.formats.layouts.deepspeed.kept import kept_by_ranks
from gradtool.formats.layouts.deepspeed.mappings import note_on_mappings
from gradtool.formats.layouts.deepspeed.module import module_of, order_of
from gradtool.formats.layouts.deepspeed.named import kinds_of, optimizer_name, section_of_kind
from gradtool.formats.layouts.deepspeed.names import ZeroFiles, is_model, is_zero, zero_files
from gradtool.formats.layouts.deepspeed.states import (
    ModelState,
    OptimState,
    read_model,
    read_optim,
    read_state,
)
from gradtool.formats.layouts.directory import open_directory
from gradtool.storage.listing import Listing

FORMAT: Final = "deepspeed"
MARKERS: Final = (
    "zero_pp_rank_#_mp_rank_##_optim_states.pt",
    "bf16_zero_pp_rank_#_mp_rank_##_optim_states.pt",
    "mp_rank_##_model_states.pt",
    "global_step#",
)


def recognises(listing: Listing) -> bool:
    """Whether a directory has files of ZeRO's, or is one of a run of DeepSpeed."""
    return any(map(is_model, listing.names)) or is_zero(listing.names) or latest.is_run(listing)


def open_zero(listing: Listing, asked: Asked) -> Checkpoint:
    """The catalogue of a checkpoint, each parameter under its name and with its whole shape.

    Of a run it is the only checkpoint there; of what was saved without ZeRO, the files.

    Raises:
        MissingShardError: the file of a rank is missing.
        CorruptFileError: `latest` names no folder; files contradict each other or themselves.
        UnsupportedFormatError: tensor or pipeline parallelism, or experts.
        SeveralCheckpointsError: several steps, or the ranks where each is asked for.
    """
    if not is_zero(listing.names) and not any(map(is_model, listing.names)):
        return _of_run(listing, asked)
    files = zero_files(listing)
    if not files.optim and files.model is not None:
        alone = read_model(read_state(listing, files.model))
        if alone.shapes is None:
            return open_directory(listing, asked)
        files.require(alone.world or 1)
    if asked.ranks == "each":
        raise _ranks_apart(listing, files)
    states, models = _opened(listing, files)
    return filtered(_whole(listing, files, states, models).with_scales_apart(), asked.wanted)


def _of_run(listing: Listing, asked: Asked) -> Checkpoint:
    folder = latest.folder_of_latest(listing)
    if folder is None or not latest.is_only_one(listing, folder):
        return open_directory(listing, asked)
    found = asked.open_folder(listing.folder(folder), asked.below())
    others = [name for name in listing.names if name not in (folder, latest.LATEST)]
    unread = (f"not read: {first_of(others)}",) if others else ()
    return replace(found, path=listing.path, notes=(*found.notes, *unread))


def _ranks_apart(listing: Listing, files: ZeroFiles) -> SeveralCheckpointsError:
    found = [
        FoundCheckpoint(
            listing.at(file.name), None, "torch", 1, listing.size(file.name), rank=f"rank {rank}"
        )
        for rank, file in sorted(files.optim.items())
    ]
    return SeveralCheckpointsError(listing.path, "ranks", found)


def _opened(listing: Listing, files: ZeroFiles) -> tuple[list[OptimState], list[ModelState]]:
    """All files in the order of ranks, which have to be of one checkpoint."""
    if not files.optim:
        first = read_model(read_state(listing, next(iter(files.models.values()))))
        files.require(first.world or len(files.models))
    states = [read_optim(read_state(listing, file.name)) for _, file in sorted(files.optim.items())]
    world = states[0].world
    files.require(world)
    names = [name for _, name in sorted(files.models.items())]
    models = [read_model(read_state(listing, name)) for name in (files.model, *names) if name]
    facts = [(one.is_stage_3, one.world, len(one.groups)) for one in states]
    _refuse_differences(listing, [one.state.path for one in states], facts)
    paths = [one.state.path for one in models]
    common = [(one.step, one.world, one.shapes, one.frozen) for one in models]
    _refuse_differences(listing, paths, common)
    first_model = models[0]
    if first_model.shapes is None or len(first_model.shapes) != len(states[0].groups):
        count = counted(len(states[0].groups), "group")
        first_model.state.broken(f"param_shapes are not of {count}, as the optimizer is")
    if states[0].is_stage_3 != (files.model is None) or first_model.world not in (None, world):
        problem = f"{first_model.state.path!r:.200} is of another stage or number of ranks"
        raise CorruptFileError(listing.path, f"files are not of one checkpoint: {problem}")
    return states, models


def _refuse_differences(listing: Listing, paths: Sequence[str], facts: Sequence[object]) -> None:
    for path, fact in zip(paths, facts, strict=True):
        if fact != facts[0]:
            problem = f"{paths[0]!r:.200} and {path!r:.200} differ in what ranks have in common"
            raise CorruptFileError(listing.path, f"files are not of one checkpoint: {problem}")


def _whole(
    listing: Listing, files: ZeroFiles, states: Sequence[OptimState], models: Sequence[ModelState]
) -> Checkpoint:
    labels = [f"rank {rank}" for rank in range(len(states))]
    shapes = models[0].shapes or []
    groups = [group_of(states[0], number, found) for number, found in enumerate(shapes)]
    for state in states:
        refuse_shared(state.state, state.flat_names)
    module = module_of(listing.path, models, is_stage_3=states[0].is_stage_3)
    catalogues = [state.state.catalogue for state in states]
    kept = kept_by_ranks(labels, catalogues, [state.flat_names for state in states])
    of_models = [model.state.catalogue for model in models]
    members = [*of_models, *catalogues]
    whole = joined(listing.path, FORMAT, members, notes=_notes(files, models[0], states))
    optimizer = tuple(_in_order(_optimizer(listing, states, groups), models[0]))
    essential = () if states[0].is_stage_3 else tuple(note_on_mappings(states, groups))
    tensors = (*module.tensors, *optimizer, *kept.tensors)
    return replace(
        whole,
        tensors=tensors,
        replicas=(*module.replicas, *kept.replicas),
        skipped=skipped_once(listing.path, [*labels[: len(models)], *labels], members),
        section_kinds=kinds_of(spec.section for spec in tensors),
        step=models[0].step,
        loss_scale=1.0,
        in_model_order=of_models[0].in_model_order,
        is_dump=False,
        placed={},
        part_notes=(),
        essential_notes=(*whole.essential_notes, *essential),
        notes=(*whole.notes, *listed_apart([*module.apart, *kept.apart])),
    )


def _optimizer(
    listing: Listing, states: Sequence[OptimState], groups: Sequence[Group]
) -> Iterator[tuple[str, str, TensorSpec]]:
    """What the optimizer keeps of each parameter: what it is, the parameter's name, the tensor."""
    for number, group in enumerate(groups):
        kinds = dict.fromkeys(what for state in states for what in state.groups[number])
        for what in kinds:
            flats = [state.groups[number].get(what) for state in states]
            stage_3 = states[0].is_stage_3
            for spec in tensors_of(listing.path, group, flats, is_stage_3=stage_3):
                yield what, spec.name, spec


def _in_order(
    found: Iterable[tuple[str, str, TensorSpec]], model: ModelState
) -> Iterator[TensorSpec]:
    """The tensors of each kind after another, in the order of the module; named as torch does."""
    order = order_of(model)
    listed = list(found)
    kinds = list(dict.fromkeys(what for what, *_ in listed))
    listed.sort(key=lambda one: (kinds.index(one[0]), order.get(one[1], len(order))))
    sections = {what: section_of_kind(what) for what in kinds}
    for what, parameter, spec in listed:
        yield spec.under(optimizer_name(parameter, what), sections[what])


def _notes(files: ZeroFiles, model: ModelState, states: Sequence[OptimState]) -> Iterator[str]:
    stage = "stage 3" if states[0].is_stage_3 else "stage 1 or 2"
    yield f"ZeRO {stage}, {counted(len(states), 'rank')}"
    if model.tied:
        pairs = [f"{one} is {other}" for one, other in model.tied.items()]
        yield f"the optimizer keeps tied weights once: {first_of(pairs)}"
    if files.others:
        yield f"not read: {first_of(files.others)}"
