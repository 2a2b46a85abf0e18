"""A catalogue, p and an executor give a `Measurement`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import NamedTuple

from gradtool.core.measurement import Measurement, Summary, TensorMeasurement, summarize
from gradtool.core.stats import TensorStats, merge
from gradtool.core.strides import overlaps_itself, repetitions
from gradtool.core.tensors import Checkpoint, Seal, TensorSpec
from gradtool.engine.numpy_kernels import NAME as BACKEND
from gradtool.engine.ownership import SOLE, Claim, claims
from gradtool.engine.plan import Target, Task, plan
from gradtool.engine.views import layout_of_target
from gradtool.engine.work import Result, run

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes to do, from the thread that called `measure`."""

_FOLD = 1 << 10
"""Parts of one tensor kept before they are merged."""


def measure(
    checkpoint: Checkpoint,
    *,
    executor: Executor,
    window: int,
    norm_type: float = 2.0,
    loss_scale: float = 1.0,
    verify: bool = False,
    progress: Progress | None = None,
) -> Measurement:
    """Measure every tensor of `checkpoint`, in one pass over their bytes.

    Args:
        checkpoint: the catalogue, already narrowed to what is wanted.
        executor: runs the reads and sums; at most `window` tasks are submitted at a time.
        window: see above; a few for each worker keeps all of them busy.
        norm_type: p.
        loss_scale: every element is divided by it.
        verify: also check stored CRCs of tensor data.
        progress: observer.

    Raises InputError where a file changed, shrank or fails its checksum.
    """
    started = time.perf_counter()
    selection = _Selection.of(checkpoint.tensors)
    seals = _seals_of(checkpoint) if verify else []
    results = _run_all(
        selection.targets, seals, norm_type, executor=executor, window=window, progress=progress
    )
    found = [stats.divided(loss_scale) for stats in results]
    tensors = tuple(selection.assemble(found))
    return _measurement(checkpoint, tensors, norm_type, loss_scale, started)


class _Holders(NamedTuple):
    """Which targets hold a tensor's figures: all of it, and what it alone adds to sums."""

    named: int
    owned: int | None
    owned_in_section: int | None


@dataclass(frozen=True, slots=True)
class _Selection:
    """The tensors to measure, what is to be measured for them, and where each finds it."""

    specs: list[TensorSpec]
    targets: list[Target]
    holders: list[_Holders]

    @classmethod
    def of(cls, specs: Sequence[TensorSpec]) -> _Selection:
        """Tensors that share nothing are one target each; the few others are told apart."""
        everywhere = claims(specs)
        in_section = _claims_by_section(specs, everywhere)
        selection = cls([], [], [])
        shared: dict[Target, int] = {}
        for spec, claim, section_claim in zip(specs, everywhere, in_section, strict=True):
            alias_of = None if claim.alias_of is None else specs[claim.alias_of].name
            same = spec.alias_of == alias_of
            selection.specs.append(spec if same else replace(spec, alias_of=alias_of))
            if claim is SOLE and not _overlaps_itself(spec):
                at = len(selection.targets)
                selection.targets.append(Target(spec))
                selection.holders.append(_Holders(at, at, at))
            else:
                holders = _Holders(
                    selection._hold(Target(_anonymous(spec)), shared),
                    selection._hold_owned(spec, claim, specs, shared),
                    selection._hold_owned(spec, section_claim, specs, shared),
                )
                selection.holders.append(holders)
        return selection

    def _hold(self, target: Target, shared: dict[Target, int]) -> int:
        if target not in shared:
            shared[target] = len(self.targets)
            self.targets.append(target)
        return shared[target]

    def _hold_owned(
        self,
        spec: TensorSpec,
        claim: Claim,
        specs: Sequence[TensorSpec],
        shared: dict[Target, int],
    ) -> int | None:
        """Where to find what `spec` is the first to name; None for a whole alias."""
        if claim.alias_of is not None:
            return None
        base = spec.extents[0].offset if spec.extents else 0
        earlier = tuple(
            (specs[other].extents[0].offset - base, layout_of_target(Target(specs[other])))
            for other in claim.earlier
        )
        return self._hold(Target(_anonymous(spec), _overlaps_itself(spec), earlier), shared)

    def assemble(self, found: Sequence[TensorStats]) -> Iterator[TensorMeasurement]:
        """One measurement for each tensor, from the statistics of all targets."""
        for spec, holders in zip(self.specs, self.holders, strict=True):
            times = 1 if spec.strides is None else repetitions(spec.shape, spec.strides)
            stats = found[holders.named].repeated(times)
            norm = stats.norm
            owned, in_section = holders.owned, holders.owned_in_section
            native = spec.dtype.norm_dtype
            yield TensorMeasurement(
                spec=spec,
                stats=stats,
                owned=None if owned is None else found[owned],
                owned_in_section=None if in_section is None else found[in_section],
                norm=norm,
                native_norm=None if native is None else native.round(norm),
            )


def _anonymous(spec: TensorSpec) -> TensorSpec:
    """The elements of `spec` without its names, so that aliases are measured once."""
    return replace(spec, name="", section="", alias_of=None)


def _overlaps_itself(spec: TensorSpec) -> bool:
    return spec.strides is not None and overlaps_itself(spec.shape, spec.strides)


def _claims_by_section(specs: Sequence[TensorSpec], everywhere: list[Claim]) -> list[Claim]:
    """Claims among the tensors of one section only, for the sections' own totals."""
    if all(claim is SOLE for claim in everywhere):
        return everywhere
    found = list(everywhere)
    for section in {spec.section for spec in specs}:
        members = [index for index, spec in enumerate(specs) if spec.section == section]
        within = claims([specs[index] for index in members])
        for index, claim in zip(members, within, strict=True):
            found[index] = Claim(
                alias_of=None if claim.alias_of is None else members[claim.alias_of],
                earlier=tuple(members[other] for other in claim.earlier),
            )
    return found


def _seals_of(checkpoint: Checkpoint) -> list[Seal]:
    """The seals over bytes of the chosen tensors."""
    chosen = {
        (extent.file, extent.offset) for spec in checkpoint.tensors for extent in spec.extents
    }
    return [
        seal
        for seal in checkpoint.seals
        if any(
            file == seal.covers.file and seal.covers.offset <= offset < seal.covers.end
            for file, offset in chosen
        )
    ]


def _run_all(
    targets: Sequence[Target],
    seals: Iterable[Seal],
    norm_type: float,
    *,
    executor: Executor,
    window: int,
    progress: Progress | None,
) -> list[TensorStats]:
    """The statistics of each target, merged in the order of the plan."""
    seals = list(seals)
    todo = sum(t.spec.nbytes for t in targets) + sum(seal.covers.nbytes for seal in seals)
    done = 0
    parts: list[list[TensorStats]] = [[] for _ in targets]
    for task, result in _in_order(plan(targets, seals), norm_type, executor, window):
        for target, stats in result:
            parts[target].append(stats)
            if len(parts[target]) > _FOLD:
                parts[target] = [merge(parts[target], norm_type)]
        done += task.nbytes
        if progress is not None:
            progress(done, todo)
    return [merge(part, norm_type) for part in parts]


def _in_order(
    tasks: Iterable[Task], norm_type: float, executor: Executor, window: int
) -> Iterator[tuple[Task, Result]]:
    """Results in the order of the tasks, with at most `window` of them under way."""
    under_way: deque[tuple[Task, Future[Result]]] = deque()
    try:
        for task in tasks:
            under_way.append((task, executor.submit(run, task, norm_type)))
            if len(under_way) >= window:
                first, future = under_way.popleft()
                yield first, future.result()
        while under_way:
            first, future = under_way.popleft()
            yield first, future.result()
    finally:
        for _, future in under_way:
            future.cancel()


def _measurement(
    checkpoint: Checkpoint,
    tensors: tuple[TensorMeasurement, ...],
    norm_type: float,
    loss_scale: float,
    started: float,
) -> Measurement:
    sections, total = _summaries(checkpoint, tensors, norm_type)
    return Measurement(
        path=checkpoint.path,
        format=checkpoint.format,
        files=len(checkpoint.files),
        nbytes=checkpoint.nbytes,
        norm_type=norm_type,
        backend=BACKEND,
        loss_scale=loss_scale,
        tensors=tensors,
        sections=sections,
        total=total,
        skipped=checkpoint.skipped,
        notes=checkpoint.notes + tuple(_sharing_notes(tensors)),
        elapsed_s=time.perf_counter() - started,
    )


def _summaries(
    checkpoint: Checkpoint, tensors: tuple[TensorMeasurement, ...], norm_type: float
) -> tuple[tuple[Summary, ...], Summary | None]:
    """The figures of each section, and of all together where they are of one kind."""
    kinds = checkpoint.section_kinds
    names = list(dict.fromkeys(tensor.spec.section for tensor in tensors))
    sections = tuple(
        summarize(
            name,
            kinds.get(name),
            [tensor for tensor in tensors if tensor.spec.section == name],
            [item for item in checkpoint.skipped if item.section == name],
            norm_type,
        )
        for name in names
    )
    if len({kinds[name] for name in names if name in kinds}) > 1:
        return sections, None
    if len(sections) == 1 and not checkpoint.skipped:
        return sections, replace(sections[0], name="", kind=None)
    return sections, summarize(
        "", None, tensors, checkpoint.skipped, norm_type, lambda tensor: tensor.owned
    )


def _sharing_notes(tensors: Iterable[TensorMeasurement]) -> Iterator[str]:
    for tensor in tensors:
        if tensor.owned is not None and tensor.owned.numel != tensor.stats.numel:
            yield (
                f"{tensor.name!r} names {tensor.stats.numel} elements, of which "
                f"{tensor.owned.numel} are stored for it alone; totals count those"
            )
