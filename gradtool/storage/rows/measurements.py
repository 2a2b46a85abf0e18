"""Measurements as bytes: what the steps of a run have in common, and the figures of each.

What comes back equals what was put in, but for where tensors are stored: of that nothing is kept.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from gradtool.core.measurement import Measurement, TensorMeasurement
from gradtool.core.stats import TensorStats
from gradtool.core.tensors import Skipped, TensorSpec
from gradtool.storage.rows import numbers
from gradtool.storage.rows.summaries import (
    dtype_of,
    items_of,
    next_of,
    summary_fields,
    summary_of,
)
from gradtool.storage.rows.texts import Fields, as_number, count_of, text_of, written

_LENGTH: Final = struct.Struct("<II")
_LEVEL: Final = 1
_SAME, _NONE, _OWN = range(3)
"""How statistics are said: to be the ones before, not to be there, or in a row of their own."""
_SAME_AND_SAME: Final = bytes((_SAME, _SAME))

_MOST_PER_TENSOR: Final = 4096
_FREE_NBYTES: Final = 1 << 20
"""Bytes of one measurement, unpacked: so many for each tensor of its catalogue, and these."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What the steps of a run have in common: the names, types and sizes of their tensors."""

    specs: tuple[TensorSpec, ...]
    numels: tuple[int, ...]
    aliases: tuple[str | None, ...]
    skipped: tuple[Skipped, ...]


def may_be_kept(measurement: Measurement) -> bool:
    """Whether nothing in a measurement is left out of its bytes."""
    return not measurement.disagreements and all(
        not one.rows and not one.digest and one.stats.numel == one.spec.numel
        for one in measurement.tensors
    )


def catalogue_bytes(measurement: Measurement) -> bytes:
    """What a step has in common with others, as bytes."""
    return written(catalogue_fields(measurement))


def catalogue_fields(measurement: Measurement) -> dict[str, object]:
    """What these bytes spell, equal for steps that have it in common."""
    tensors = [
        [spec.name, spec.dtype.name, list(spec.shape), spec.section, one.alias_of]
        for one in measurement.tensors
        for spec in (one.spec,)
    ]
    skipped = [[one.name, one.dtype, one.reason, one.section] for one in measurement.skipped]
    return {"tensors": tensors, "skipped": skipped}


def catalogue_of(data: bytes) -> Catalogue:
    """The catalogue that bytes spell; ValueError for anything else."""
    fields = Fields.read(data)
    tensors = fields.listed("tensors", _tensor)
    skipped = fields.listed("skipped", _skipped)
    specs, aliases = tuple(spec for spec, _ in tensors), tuple(alias for _, alias in tensors)
    return Catalogue(specs, tuple(spec.numel for spec in specs), aliases, skipped)


def figures_bytes(measurement: Measurement) -> bytes:
    """The figures of a step, as bytes; OverflowError for a count beyond 63 bits."""
    rows: list[TensorStats] = []
    links = bytearray()
    for one in measurement.tensors:
        stats = one.stats
        rows.append(stats)
        if one.unique is stats and one.unique_in_section is stats:
            links += _SAME_AND_SAME
        else:
            links.append(_link(one.unique, stats, rows))
            links.append(_link(one.unique_in_section, one.unique, rows))
    summaries = [*measurement.sections, *([measurement.total] if measurement.total else [])]
    rows += [summary.stats for summary in summaries]
    head = written(_head(measurement))
    whole = b"".join([_LENGTH.pack(len(head), len(links)), head, links, numbers.packed(rows)])
    return zlib.compress(whole, _LEVEL)


def measurement_of(data: bytes, catalogue: Catalogue, path: str, elapsed_s: float) -> Measurement:
    """The measurement that bytes and their catalogue spell; ValueError for anything else."""
    tensors = len(catalogue.specs)
    head, links, figures = _split(data, _FREE_NBYTES + _MOST_PER_TENSOR * tensors)
    norm_type, loss_scale = head.number("norm_type"), head.number("loss_scale")
    rows = iter(numbers.unpacked(figures, norm_type))
    if not 0.0 < loss_scale < math.inf:
        raise ValueError("a loss scale that is none")
    if len(links) != 2 * tensors:
        raise ValueError("not as many tensors as in the catalogue")
    measured = tuple(
        _measured(*of_tensor, rows)
        for of_tensor in zip(
            *(catalogue.specs, catalogue.numels, catalogue.aliases, links[::2], links[1::2]),
            strict=True,
        )
    )
    sections = head.listed("sections", lambda fields: summary_of(fields, rows))
    total = head.optional("total", lambda fields: summary_of(fields, rows))
    if next(rows, None) is not None:
        raise ValueError("more figures than tensors")
    return Measurement(
        path=path,
        format=head.text("format"),
        files=head.texts("files"),
        nbytes=head.count("nbytes"),
        norm_type=norm_type,
        backend=head.text("backend"),
        loss_scale=loss_scale,
        tensors=measured,
        sections=sections,
        total=total,
        skipped=catalogue.skipped,
        notes=head.texts("notes"),
        elapsed_s=elapsed_s,
        step=head.optional("step", count_of),
        ranks=frozenset(head.listed("ranks", _rank)),
        in_model_order=head.flag("in_model_order"),
        essential_notes=head.texts("essential_notes"),
        replicas=head.count("replicas"),
    )


def _link(stats: TensorStats | None, before: TensorStats | None, rows: list[TensorStats]) -> int:
    if stats is None:
        return _NONE
    if stats is before or stats == before:
        return _SAME
    rows.append(stats)
    return _OWN


def _head(measurement: Measurement) -> dict[str, object]:
    total = measurement.total
    return {
        "format": measurement.format,
        "files": measurement.files,
        "nbytes": measurement.nbytes,
        "norm_type": as_number(measurement.norm_type),
        "backend": measurement.backend,
        "loss_scale": as_number(measurement.loss_scale),
        "notes": measurement.notes,
        "essential_notes": measurement.essential_notes,
        "step": measurement.step,
        "ranks": sorted(measurement.ranks),
        "in_model_order": measurement.in_model_order,
        "replicas": measurement.replicas,
        "sections": list(map(summary_fields, measurement.sections)),
        "total": None if total is None else summary_fields(total),
    }


def _split(data: bytes, most: int) -> tuple[Fields, bytes, bytes]:
    """The head, the links and the figures of a step, of at most so many bytes."""
    unpacking = zlib.decompressobj()
    try:
        whole = unpacking.decompress(data, most)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpacking.eof or unpacking.unused_data or len(whole) < _LENGTH.size:
        raise ValueError("cut short, or larger than its catalogue")
    head, links = _LENGTH.unpack_from(whole)
    if _LENGTH.size + head + links > len(whole):
        raise ValueError("cut short")
    end = _LENGTH.size + head
    return Fields.read(whole[_LENGTH.size : end]), whole[end : end + links], whole[end + links :]


def _measured(
    spec: TensorSpec,
    numel: int,
    alias_of: str | None,
    unique: int,
    in_section: int,
    rows: Iterator[TensorStats],
) -> TensorMeasurement:
    stats = next_of(rows)
    if stats.numel != numel:
        raise ValueError(f"{spec.name!r:.80}: not as many elements as its shape has")
    own = stats if unique == _SAME else _linked(unique, stats, rows)
    own_in_section = own if in_section == _SAME else _linked(in_section, own, rows)
    norm, native = stats.norm, spec.dtype.norm_dtype
    native_norm = None if native is None else native.round(norm)
    # By position, as names take longer, and a run has millions of them.
    return TensorMeasurement(spec, alias_of, stats, own, own_in_section, norm, native_norm)


def _linked(
    link: int, before: TensorStats | None, rows: Iterator[TensorStats]
) -> TensorStats | None:
    if link == _OWN:
        return next_of(rows)
    if link not in (_SAME, _NONE):
        raise ValueError("a link to nothing")
    return before if link == _SAME else None


def _tensor(item: Any) -> tuple[TensorSpec, str | None]:
    name, dtype, shape, section, alias_of = items_of(item, 5)
    if not isinstance(shape, list):
        raise ValueError("a shape that is no list")
    spec = TensorSpec(
        text_of(name), dtype_of(dtype), tuple(map(count_of, shape)), section=text_of(section)
    )
    return spec, None if alias_of is None else text_of(alias_of)


def _skipped(item: Any) -> Skipped:
    name, dtype, reason, section = map(text_of, items_of(item, 4))
    return Skipped(name, dtype, reason, section)


def _rank(item: Any) -> tuple[int, int]:
    rank, number = map(count_of, items_of(item, 2))
    return rank, number
