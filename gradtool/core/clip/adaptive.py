"""Adaptive gradient clipping: which weights gradients belong to, and the factors of their units."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.clip.factors import SMALLEST_COEF
from gradtool.core.clip.plan import ClipRequest
from gradtool.core.clipping import Units, agc_coef
from gradtool.core.names import BareNames, nearest_names
from gradtool.core.sections import MODEL, within_section
from gradtool.core.tensors import TensorSpec
from gradtool.errors import NonFiniteError, NormRangeError, UnsupportedFormatError, UsageError


@dataclass(frozen=True, slots=True)
class Matched:
    """Gradients that have elements, and the weights of each, both by the name of the gradient."""

    gradients: Mapping[str, TensorSpec]
    weights: Mapping[str, TensorSpec]


def without_state(checkpoint: Checkpoint) -> Checkpoint:
    """The catalogue without weights and moments; UsageError where nothing else is in it."""
    kinds = checkpoint.section_kinds
    part = checkpoint.narrowed(lambda item: kinds.get(item.section) in ("gradients", None))
    if not part.tensors:
        raise UsageError(f"{checkpoint.path}: what is chosen holds no gradients for `agc` to clip")
    return part


def matched_weights(checkpoint: Checkpoint, to_clip: Checkpoint, bare: BareNames) -> Matched:
    """The weights in the whole catalogue that the gradients in `to_clip` are those of, by name.

    Names are matched without the files' own keys of their sections, and as `bare` has them.

    Raises:
        UsageError: there are no weights, none of that name or of that shape, or several.
        UnsupportedFormatError: a gradient whose units are in several pieces, or have copies.
    """
    by_name = _weights_by_name(checkpoint, bare)
    copies = {replica.name for replica in to_clip.replicas}
    found: dict[str, TensorSpec] = {}
    gradients = {spec.name: spec for spec in to_clip.tensors if spec.numel}
    for name, spec in gradients.items():
        if spec.chunks or name in copies:
            problem = "is held in pieces or copies, of which `agc` knows no units"
            hint = "put the ranks together first, or leave it out with `exclude`"
            raise UnsupportedFormatError(checkpoint.path, problem, tensor=name, hint=hint)
        weights = by_name.get(bare(within_section(name, spec.section)), by_name.get(bare(name), []))
        found[name] = _one(checkpoint.path, spec, weights, by_name)
    return Matched(gradients, found)


def _weights_by_name(checkpoint: Checkpoint, bare: BareNames) -> dict[str, list[TensorSpec]]:
    kinds = checkpoint.section_kinds
    weights = [spec for spec in checkpoint.tensors if kinds.get(spec.section) == "weights"]
    # Beside the model there may be averages of it, which no gradient belongs to.
    of_model = [spec for spec in weights if spec.section == MODEL] or weights
    if not of_model:
        hint = "save the model's state_dict() beside its gradients"
        raise UsageError(f"{checkpoint.path}: `agc` needs weights, and there are none", hint=hint)
    by_name: dict[str, list[TensorSpec]] = {}
    for spec in of_model:
        for key in dict.fromkeys((bare(within_section(spec.name, spec.section)), bare(spec.name))):
            by_name.setdefault(key, []).append(spec)
    return by_name


def _one(
    path: str,
    gradient: TensorSpec,
    weights: list[TensorSpec],
    by_name: Mapping[str, list[TensorSpec]],
) -> TensorSpec:
    """The only one of `weights`, of the shape of the gradient."""
    if not weights:
        names = (spec.name for specs in by_name.values() for spec in specs)
        raise UsageError(
            f"{path}: {gradient.name!r}: there are no weights of that name for `agc`",
            hint=nearest_names(gradient.name, dict.fromkeys(names)),
        )
    if len(weights) > 1:
        listed = " and ".join(repr(spec.name) for spec in weights[:2])
        raise UsageError(f"{path}: {gradient.name!r}: its weights may be {listed}")
    if weights[0].shape != gradient.shape:
        shapes = f"{[*gradient.shape]}, and its weights {weights[0].name!r} {[*weights[0].shape]}"
        raise UsageError(f"{path}: {gradient.name!r}: is of shape {shapes}")
    return weights[0]


def unit_factors(
    path: str,
    matched: Matched,
    norms: Mapping[str, array[float]],
    weight_norms: Mapping[str, array[float]],
    request: ClipRequest,
) -> dict[str, Units]:
    """The factors of the units of each gradient of which some are not 1, by its name.

    Raises:
        NonFiniteError: weights that are not finite, which bound nothing.
        NormRangeError: a norm, or a factor, that float64 cannot hold.
    """
    agc, found = request.agc or 0.0, {}
    for name, spec in matched.gradients.items():
        if not all(map(math.isfinite, weight_norms[name])):
            weights = matched.weights[name].name
            problem = f"{path}: not clipped: the weights {weights!r} of {name!r} are not finite"
            raise NonFiniteError(problem, (weights,), hint="leave it out with `exclude`")
        coefs = array("d")
        for norm, weight_norm in zip(norms[name], weight_norms[name], strict=True):
            coef = agc_coef(norm, weight_norm, agc, request.eps)
            bound = agc * max(weight_norm, request.eps)
            if math.isinf(norm) or (bound > 0.0 and coef < SMALLEST_COEF):
                unit = f"{path}: {name!r}, unit {len(coefs):,}"
                raise NormRangeError(f"{unit}: not clipped: no float64 has its norm or factor")
            coefs.append(coef)
        if any(coef != 1.0 for coef in coefs):
            found[name] = Units(coefs.tobytes(), spec.shape, spec.strides)
    return found
