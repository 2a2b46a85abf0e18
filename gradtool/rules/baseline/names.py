"""Making a baseline of healthy dumps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gradtool.core.figures import dimensions
from gradtool.core.judging.baseline import Baseline, BaselineTensor, NormRange, rounded
from gradtool.core.measurement import TensorMeasurement
from gradtool.core.names import BareNames, natural_key
from gradtool.errors import UsageError
from gradtool.rules.evidence import Evidence


def baseline_of(path: str, evidence: Sequence[Evidence]) -> Baseline:
    """The baseline of some healthy dumps of one model, to be written to `path`.

    Raises UsageError for dumps whose tensors differ in name, dtype or shape.
    """
    by_name: dict[str, list[TensorMeasurement]] = {}
    for dump in evidence:
        for tensor in dump.named_gradients:
            earlier = by_name.setdefault(tensor.name, [])
            if earlier and _type_and_shape(earlier[0]) != _type_and_shape(tensor):
                new, old = _type_and_shape(tensor), _type_and_shape(earlier[0])
                problem = f"{tensor.name!r} is {new}, in another dump {old}"
                raise UsageError(f"{dump.measurement.path}: {problem}: no model is both")
            earlier.append(tensor)
    _refuse_gaps(by_name, evidence)
    return Baseline(
        path=path,
        norm_type=evidence[0].measurement.norm_type,
        dumps=tuple(dump.measurement.path for dump in evidence),
        total=NormRange.of(dump.summary.norm for dump in evidence),
        tensors={
            name: BaselineTensor(
                dtype=tensors[0].spec.dtype.name,
                shape=tensors[0].spec.shape,
                norm=NormRange.of(tensor.norm for tensor in tensors),
                zeros=rounded(max(map(_zero_share, tensors))),
            )
            for name, tensors in sorted(
                by_name.items(), key=lambda item: (natural_key(item[0]), item[0])
            )
        },
    )


def _zero_share(tensor: TensorMeasurement) -> float:
    return tensor.stats.zeros / (tensor.stats.numel or 1)


def _refuse_gaps(by_name: Mapping[str, Sequence[object]], evidence: Sequence[Evidence]) -> None:
    """UsageError where a dump lacks a tensor: it would not agree with its own baseline."""
    for name, tensors in by_name.items():
        if len(tensors) == len(evidence):
            continue
        for dump in evidence:
            if not any(tensor.name == name for tensor in dump.named_gradients):
                path = dump.measurement.path
                raise UsageError(
                    f"{path}: lacks {name!r}, which another dump has",
                    hint="save a baseline of dumps with the same tensors, or `exclude` it",
                )


def _type_and_shape(tensor: TensorMeasurement) -> str:
    return f"{tensor.spec.dtype.name} {dimensions(tensor.spec.shape)}"


def aligned(baseline: Baseline, names: Sequence[str], bare: BareNames) -> tuple[Baseline, str]:
    """The baseline with the names that a dump has for its tensors, and what is to be said of it.

    Names are the dump's where they agree once wrappers and prefixes are off on both sides, provided
    that the names of either side remain distinct and that more agree so than agree as they are. The
    others stay what they are: tensors that are gone, and such as are new.
    """
    here = {bare(name): name for name in names}
    known = {bare(name): name for name in baseline.tensors}
    if len(here) < len(set(names)) or len(known) < len(baseline.tensors):
        return baseline, ""
    pairs = {known[one]: name for one, name in here.items() if one in known}
    if len(pairs) <= sum(name in baseline.tensors for name in names):
        return baseline, ""
    renamed = {pairs.get(name, name): tensor for name, tensor in baseline.tensors.items()}
    agreeing = (
        f"all {len(here):,}" if len(pairs) == len(here) else f"{len(pairs):,} of {len(here):,}"
    )
    note = f"{agreeing} names agree after {_taken_off(pairs, bare)} taken off"
    return replace(baseline, tensors=renamed), note


def _taken_off(pairs: Mapping[str, str], bare: BareNames) -> str:
    """What is taken off names, as all have it or else piece by piece, and the verb."""
    both = [name for pair in pairs.items() if pair[0] != pair[1] for name in pair]
    pieces = [tuple(bare.taken_off(name)) for name in both]
    different = {one for one in pieces if one}
    if len(different) == 1:
        return f"{''.join(different.pop())} is"
    single = list(dict.fromkeys(piece for one in pieces for piece in one))
    return f"{single[0]} is" if len(single) == 1 else f"{', '.join(single)} are"
