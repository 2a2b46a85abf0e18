"""Which scale belongs to which fp8 tensor, and by which blocks: by names, shapes and a config.

What is not certain is not applied, and said. Sources: `weight_dequant` of DeepSeek-V3, and
`weight_block_size` in the `quantization_config` that Transformers and vLLM read from config.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import counted, dimensions, first_of
from gradtool.core.scale_names import scale_names
from gradtool.core.shapes.grids import Grid, grid_of, has_blocks
from gradtool.core.tensors import Scale, Skipped, TensorSpec
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.storage.json import parse_object
from gradtool.storage.listing import listing_around

_CONFIG: Final = "config.json"
_MOST_CONFIG_NBYTES: Final = 1 << 22
_LARGEST: Final = 1 << 31
_SCALE_DTYPES: Final = frozenset({"F64", "F32", "F16", "BF16", "F8_E8M0"})


def with_scales(part: Checkpoint, whole: Checkpoint) -> Checkpoint:
    """A part of a catalogue whose fp8 tensors are to be multiplied by scales of the whole.

    Notes say how many are, by which blocks, and which are not.

    Raises:
        UnsupportedFormatError: two scales fit one tensor.
        CorruptFileError: config.json tells of blocks, and not how large they are.
    """
    finder = _Finder(whole)
    tensors = tuple(
        replace(spec, scale=finder.scale_of(spec)) if spec.dtype.is_fp8 else spec
        for spec in part.tensors
    )
    return replace(
        part,
        tensors=tensors,
        notes=(*finder.applied(), *part.notes),
        essential_notes=(*part.essential_notes, *finder.not_applied()),
    )


class _Finder:
    """Finds scales in a catalogue, and remembers what it found, and what not."""

    def __init__(self, whole: Checkpoint) -> None:
        self._whole = whole
        self._grids: Counter[str] = Counter()
        self._alone: list[str] = []
        self._misfits: list[str] = []

    @cached_property
    def _by_name(self) -> Mapping[str, TensorSpec | Skipped]:
        listed: tuple[TensorSpec | Skipped, ...] = (*self._whole.tensors, *self._whole.skipped)
        return {item.name: item for item in listed}

    @cached_property
    def _block(self) -> tuple[int, int] | None:
        return _configured_block(self._whole)

    def scale_of(self, weight: TensorSpec) -> Scale | None:
        """What a tensor is to be multiplied by; None, which is noted, where that is not certain."""
        known = weight.name in self._whole.fp8
        names = [name for name in scale_names(weight.name) if known and name in self._by_name]
        found = {name: self._fitting(weight, self._by_name[name]) for name in names}
        scales = {name: scale for name, scale in found.items() if isinstance(scale, Scale)}
        if len(scales) > 1:
            problem = f"two scales fit it, {' and '.join(map(repr, scales))}"
            hint = "measure it as it is, without `apply_scales`"
            raise UnsupportedFormatError(self._whole.path, problem, tensor=weight.name, hint=hint)
        for scale in scales.values():
            self._grids[str(scale.grid)] += 1
            return scale
        if names:
            self._misfits.append(str(found[names[0]]))
        else:
            self._alone.append(weight.name)
        return None

    def _fitting(self, weight: TensorSpec, item: TensorSpec | Skipped) -> Scale | str:
        """A scale of that tensor, or why it is none."""
        stored = item.stored if isinstance(item, Skipped) else item
        name = f"{item.name!r:.80}"
        dtype = item.dtype if isinstance(item, Skipped) else item.dtype.name
        if dtype not in _SCALE_DTYPES:
            return f"{name} is {dtype}"
        if not _is_plain(weight):
            name = f"{weight.name!r:.80}"
        if stored is None or not _is_plain(weight) or not _is_plain(stored):
            return f"{name} is stored in parts, as a view or as a stream"
        grid = self._grid(weight.shape, stored.shape)
        if grid is None:
            sizes = f"{dimensions(stored.shape)} numbers for {dimensions(weight.shape)} elements"
            return f"{name} has {sizes}"
        return Scale(stored, grid)

    def _grid(self, shape: tuple[int, ...], scale: tuple[int, ...]) -> Grid | None:
        return grid_of(shape, scale, self._block if has_blocks(shape, scale) else None)

    def applied(self) -> Iterator[str]:
        """How many tensors are multiplied, a sentence."""
        if self._grids:
            count = self._grids.total()
            tensors = counted(count, "fp8 tensor is", "fp8 tensors are")
            whose = "its scale" if count == 1 else "their scales"
            yield f"{tensors} measured times {whose} ({first_of(list(self._grids))})"

    def not_applied(self) -> Iterator[str]:
        """How many are not, and why, a sentence for each reason."""
        alone, misfits = self._alone, self._misfits
        if alone:
            tensors = counted(len(alone), "fp8 tensor has", "fp8 tensors have")
            measured = "is measured as it is" if len(alone) == 1 else "are measured as they are"
            names = first_of([f"{name!r:.80}" for name in alone])
            yield f"{tensors} no scale and {measured}: {names}"
        if misfits:
            tensors = counted(len(misfits), "fp8 tensor is", "fp8 tensors are")
            what = "as it is, its scale" if len(misfits) == 1 else "as they are, their scales"
            yield f"{tensors} measured {what} not applied: {first_of(misfits)}"
        if not (self._grids or alone or misfits):
            yield "no scale is applied: there is no fp8 tensor"


def _is_plain(spec: TensorSpec) -> bool:
    """Whether its elements are one range of a file in C order, or will be once it is opened."""
    is_range = len(spec.extents) == 1 or spec.packed is not None or not spec.numel
    return is_range and spec.strides is None and spec.stream is None and not spec.chunks


def _configured_block(checkpoint: Checkpoint) -> tuple[int, int] | None:
    """Rows and columns of blocks, as the config.json beside a checkpoint's files has them."""
    if not checkpoint.files:
        return None
    listing, _ = listing_around(checkpoint.files[0].path)
    if not listing.is_file(_CONFIG):
        return None
    with listing.open(_CONFIG) as source:
        if source.file.size > _MOST_CONFIG_NBYTES:
            raise CorruptFileError(source.path, f"a config of {source.file.size} bytes is none")
        config = parse_object(source.read(0, source.file.size), source.path, "the config")
    match config.get("quantization_config"):
        case {"weight_block_size": found} if found is not None:
            return _checked_block(found, listing.at(_CONFIG))
        case _:
            return None


def _checked_block(found: object, path: str) -> tuple[int, int]:
    match found:
        case [int() as rows, int() as columns] if 0 < rows < _LARGEST and 0 < columns < _LARGEST:
            return rows, columns
    problem = f"weight_block_size {found!r:.80} is not the rows and columns of blocks"
    raise CorruptFileError(path, problem)
