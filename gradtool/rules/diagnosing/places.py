"""GT508 to GT510, GT512: elements in other places, and differences in few places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.comparing.second_look import Moved
from gradtool.core.figures import dimensions
from gradtool.rules.diagnosing.evidence import Compared, Diagnosis, Evidence, Told, is_dead
from gradtool.rules.diagnosing.words import scope, the_rest, together, which

_CLOSE: Final = 0.01
"""A relative distance that is small beside one of another matrix, and large beside rounding."""

_TURNED: Final = 0.9
"""The cosine of a matrix with its transpose, from which on neither is looked at as the other."""

_ALIKE_NORMS: Final = 0.01
_NEAR_NORMS: Final = 0.25

_LEAST_EDGE: Final = 0.1
"""Tensors that agree for each one that does not, where those are one end of the model."""


def _transposed(evidence: Evidence) -> Iterator[Told]:
    found, guessed, most = [], [], 0.0
    for pair in evidence.open:
        if not _may_be_transposed(pair):
            continue
        distance = evidence.look.transposed(pair)
        relative = None if distance is None else distance.rel_l2
        if relative is not None and relative <= _CLOSE:
            found.append(pair)
            most = max(most, relative)
        elif pair.distance is None:
            guessed.append(pair)
    if found:
        rest = f" (but for a rest of {most:.1g}, relatively)" if most else ""
        yield Told(
            f"B is transposed, which `transpose` compares, {scope(found, evidence)}{rest}", found
        )
    if guessed:
        one = guessed[0]
        shapes = f"{dimensions(one.a.shape)} in A, {dimensions(one.b.shape)} in B"
        yield Told(
            f"sizes are swapped, {shapes}: transposed? `transpose` compares them, "
            f"{scope(guessed, evidence)}",
            guessed,
        )


def _may_be_transposed(pair: TensorDifference) -> bool:
    one, other = pair.a.shape, pair.b.shape
    if len(one) < 2 or len(one) != len(other) or pair.a.dtype.kind != pair.b.dtype.kind:
        return False
    if other != (*one[:-2], one[-1], one[-2]) or min(one[-2:]) < 2:
        return False
    if pair.distance is None:
        return True
    cosine, ratio = pair.cosine, pair.norm_ratio
    alike = ratio is not None and abs(ratio - 1.0) <= _ALIKE_NORMS
    return alike and cosine is not None and cosine < _TURNED


def _moved(evidence: Evidence, axis: str) -> Iterator[Told]:
    found: dict[object, list[tuple[Moved, TensorDifference]]] = {}
    for tensor in filter(_may_be_moved, evidence.compared):
        if axis == "elements" and tensor.name in evidence.look.unread:
            continue  # it may be transposed
        moved = evidence.look.moved(tensor.pair)
        if moved is not None and moved.what == axis:
            alike = (moved.shift, moved.is_cut, moved.within)
            found.setdefault(alike, []).append((moved, tensor.pair))
    for members in found.values():
        (moved, first), pairs = members[0], [pair for _, pair in members]
        is_of_vectors = all(len(pair.a.shape) == 1 for pair in pairs)
        lines = "elements" if is_of_vectors else moved.what
        text = _elements(moved) if axis == "elements" else _lines(moved, lines)
        if moved.first is not None and moved.shift is None and len(pairs) > 1:
            text += f" in {first.name!r:.80}, and alike"
        yield Told(f"{text} {scope(pairs, evidence)}", pairs)


def _may_be_moved(tensor: Compared) -> bool:
    found, pair = tensor.distance, tensor.pair
    ratio = found.norm_ratio
    near = ratio is not None and abs(ratio - 1.0) <= _NEAR_NORMS
    return near and pair.a.dtype == pair.b.dtype and found.a.max_abs == found.b.max_abs


def _lines(moved: Moved, lines: str) -> str:
    """How rows or columns moved, or the elements of vectors."""
    line = lines.removesuffix("s")
    if moved.shift is not None:
        size, to = abs(moved.shift), "on" if moved.shift > 0 else "back"
        lost = "last" if moved.shift > 0 else "first"
        end = f"the {lost} ones are gone" if moved.is_cut else "cyclically"
        return f"{lines} shifted by {size} {to}, {end},"
    first, at = moved.first or (0, 0)
    return (
        f"permuted {lines}: {moved.count:,} of {moved.total:,} are in other places, "
        f"{line} {first} of A is {line} {at} of B,"
    )


def _elements(moved: Moved) -> str:
    if moved.within is None:
        return "the same elements in other places"
    line = moved.within.removesuffix("s")
    other = "columns" if moved.within == "rows" else "rows"
    return f"each {line} has the same elements in other {other}"


def _rows(evidence: Evidence) -> Iterator[Told]:
    yield from _moved(evidence, "rows")


def _columns(evidence: Evidence) -> Iterator[Told]:
    yield from _moved(evidence, "columns")


def _others(evidence: Evidence) -> Iterator[Told]:
    yield from _moved(evidence, "elements")


def _only_here(evidence: Evidence) -> Iterator[Told]:
    """Where what no other rule explains is, if that is few tensors or layers of one kind."""
    explained = len(evidence.differing) > len(evidence.open)
    left = [pair for pair in evidence.open if not (explained and id(pair) in evidence.negligible)]
    # Two zeros agree, whatever runs they are of.
    rest = sum(pair.same and not is_dead(pair) for pair in evidence.pairs)
    rest += len(evidence.differing) - len(left)
    if not left or not rest or any(pair.name in evidence.look.unread for pair in left):
        return
    edge, text = _edge(left, evidence), together(left, evidence)
    if rest < (_LEAST_EDGE if edge else 1.0) * len(left) or (text is None and not edge):
        return
    text = text or which(left, evidence)
    verb = "differs" if len(left) == 1 else "differ"
    more, end = (" in more than that", "") if explained else ("", f"; {the_rest(rest)}")
    yield Told(f"only {text} {verb}{more}{edge}{end}", left)


def _edge(left: Sequence[TensorDifference], evidence: Evidence) -> str:
    """Where tensors that are all at one end of the model begin or end, if it is known; or ""."""
    if not evidence.in_model_order or len(left) < 2:
        return ""
    ids = [id(pair) for pair in left]
    every = [id(pair) for pair in evidence.pairs]
    if ids == every[: len(ids)]:
        return f", all up to {left[-1].name!r:.80}"
    return f", all from {left[0].name!r:.80} on" if ids == every[-len(ids) :] else ""


_SAME_BITS = "Bits are compared, not numbers: any other arrangement of equal numbers is told so."

RULES: Sequence[Diagnosis] = (
    Diagnosis(
        code="GT508",
        name="transposed",
        find=_transposed,
        summary="Matrices are those of the other dump transposed.",
        explanation=(
            "The last two axes are the other way round. Frameworks store a linear layer's weight "
            "as outputs x inputs (torch, MLX) or as inputs x outputs (JAX, TensorFlow, GPT-2's "
            "Conv1D); a square matrix that is transposed by mistake has the same norm."
        ),
        rationale=(
            f"Square matrices are read again where norms are within {_ALIKE_NORMS:g} and the "
            f"cosine is below {_TURNED:g}: at most {_CLOSE:g} may be left, relatively. Where sizes "
            "are swapped and more is left, it is a question."
        ),
        remedy="`transpose` compares such tensors the other way round.",
    ),
    Diagnosis(
        code="GT509",
        name="moved-rows",
        find=_rows,
        summary="Rows of a matrix are in other places.",
        explanation="Tokens, heads or experts are numbered otherwise, or a gather is off by some.",
        rationale=(
            f"Whole rows are found again, bit by bit, or the elements of a vector. {_SAME_BITS}"
        ),
        remedy="Look at the index that says which row is which: a vocabulary, an order of heads.",
    ),
    Diagnosis(
        code="GT510",
        name="moved-columns",
        find=_columns,
        summary="Columns of a matrix are in other places.",
        explanation=(
            "Inputs are numbered otherwise, or shards are joined in another order or off by some."
        ),
        rationale=f"Whole columns are found again, bit by bit. {_SAME_BITS}",
        remedy="Look at how shards or heads are joined, and at offsets.",
    ),
    Diagnosis(
        code="GT512",
        name="moved-elements",
        find=_others,
        summary="The same elements are in other places.",
        explanation=(
            "A tensor has the very elements of the other dump's, in another order: norms, maxima "
            "and histograms agree, and the gradient is wrong all the same."
        ),
        rationale=_SAME_BITS,
        remedy="Look at the backward function of what sorts, gathers or scatters: topk, a reshape.",
    ),
    Diagnosis(
        code="GT513",
        name="only-here",
        find=_only_here,
        summary="Only some tensors differ, and they belong together.",
        explanation=(
            "What differs is one tensor, one kind of tensors, or some layers, and everything else "
            "agrees: the fault is there. Backward goes from a model's end to its beginning: what "
            "agrees after it was computed before."
        ),
        rationale=(
            "At most half of all tensors differ, and one or two patterns of names fit them; or all "
            "are at one end of the model, as A lists it. Zeros on both sides do not count."
        ),
        remedy="Look at these modules, and at what is special about them.",
    ),
)
