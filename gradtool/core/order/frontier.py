"""Where gradients stopped being finite, in words, as far as the order of tensors tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from gradtool.core.figures import counted
from gradtool.core.measurement import TensorMeasurement
from gradtool.core.names import order_name, unwrapped
from gradtool.core.order.brackets import Bracket, brackets
from gradtool.core.order.layers import SplitName, layers_text, split_name
from gradtool.shortening import shortened

_MOST_STEMS: Final = 3
_LONGEST: Final = 120
"""Characters of a name: four of them make a line."""


def of_all(tensors: Iterable[TensorMeasurement]) -> str:
    """Where to look if none of the tensors is finite: infinities alone may be the loss's scale."""
    is_nan = any(tensor.stats.nan for tensor in tensors)
    return f"look at the loss or {'the inputs' if is_nan else 'its scale'}, not at a layer"


@dataclass(frozen=True)
class Frontier:
    """The edge between the finite and the non-finite tensors of a dump or of a section of it.

    In the model's order it lies between two tensors. Natural order of names tells which layer
    comes before which and nothing of tensors in one layer, so that there it lies between layers.
    Which of them broke first is said where it is known: backward goes from the last to the first,
    and what is not finite spreads with it.

    Attributes:
        tensors: as `core.names.ordered` has them.
        in_model_order: whether that is the model's order.
    """

    tensors: Sequence[TensorMeasurement]
    in_model_order: bool

    @property
    def is_one(self) -> bool:
        """Whether what is not finite is one run: of tensors, or of layers."""
        if self.in_model_order and len(self._runs) == 1:
            return True
        stems = list(self._stems)
        return len(stems) == 1 and stems[0].is_run

    @property
    def text(self) -> str:
        """From where to where, what is finite next to that, and what broke first.

        For the reader who knows the order.
        """
        if self.in_model_order and len(self._runs) == 1:
            return _told(self._runs[0])
        layers = "; ".join(self._told_by_layers())
        if not self.in_model_order:
            return layers
        last = self._runs[-1]
        after = "" if last.after is None else f", {_quoted(last.after.name)} after it is finite"
        return f"{layers}; the last is {_quoted(last.nonfinite[-1].name)}{after}"

    def near(self, tensor: TensorMeasurement) -> str:
        """The finite tensors, or layers, that are nearest to a non-finite one."""
        if self.in_model_order:
            run = self._run_of[tensor.name]
            names = [None if one is None else one.name for one in (run.before, run.after)]
            return f"nearest finite in {self._order}: {_before_and_after(names)}"
        layer = self._layer_of(tensor.name)
        counts = self._layers[layer]
        part = ""
        if counts.finite:
            number = counts.finite + counts.nonfinite
            verb = "is" if counts.nonfinite == 1 else "are"
            part = f"{counts.nonfinite:,} of {number:,} tensors of {layer!r} {verb} not finite; "
        before, after = self._finite_around[layer]
        return f"{part}nearest finite in {self._order}: {_before_and_after([before, after])}"

    @property
    def _order(self) -> str:
        return order_name(in_model_order=self.in_model_order)

    @cached_property
    def _runs(self) -> list[Bracket]:
        return list(brackets(self.tensors))

    @cached_property
    def _run_of(self) -> dict[str, Bracket]:
        return {tensor.name: run for run in self._runs for tensor in run.nonfinite}

    @cached_property
    def _layers(self) -> dict[str, _Counts]:
        """The layers, and tensors of none, by name, in the order of their first tensors."""
        layers: dict[str, _Counts] = {}
        for tensor in self.tensors:
            if tensor.alias_of is None:
                counts = layers.setdefault(self._layer_of(tensor.name), _Counts())
                counts.count(tensor)
        return layers

    @cached_property
    def _numbers(self) -> dict[str, set[int]]:
        """The numbers of layers by what stands before them."""
        numbers: dict[str, set[int]] = {}
        for tensor in self.tensors:
            split = split_name(tensor.name)
            if split.number is not None:
                numbers.setdefault(split.stem, set()).add(split.number)
        return numbers

    def _is_in_layer(self, split: SplitName) -> bool:
        """Whether the number is that of a layer: beside `layer1` and `layer2` `conv1` is a name."""
        if split.number is None:
            return False
        return len(self._numbers[split.stem]) > 1 or not self._has_stacks

    @cached_property
    def _has_stacks(self) -> bool:
        """Whether any layers differ in their numbers alone."""
        return any(len(numbers) > 1 for numbers in self._numbers.values())

    def _layer_of(self, name: str) -> str:
        """The layer that a tensor is in; its own name where it is in none."""
        split = split_name(name)
        return split.layer if self._is_in_layer(split) else unwrapped(name)

    @cached_property
    def _finite_around(self) -> dict[str, tuple[str | None, str | None]]:
        """For each layer, the nearest ones of its stack that are finite as a whole.

        Of tensors in no layer those count that are in none either.
        """
        before, after = (
            self._last_finite(list(self._layers)),
            self._last_finite(list(reversed(self._layers))),
        )
        return {layer: (before[layer], after[layer]) for layer in self._layers}

    def _last_finite(self, layers: Sequence[str]) -> dict[str, str | None]:
        last: dict[str | None, str] = {}
        found: dict[str, str | None] = {}
        for layer in layers:
            split = split_name(layer)
            stack = split.stem if self._is_in_layer(split) else None
            found[layer] = last.get(stack)
            if not self._layers[layer].nonfinite:
                last[stack] = layer
        return found

    @property
    def _stems(self) -> Iterator[_Stem]:
        """The stacks of layers in which some are not finite."""
        stems: dict[str, _Stem] = {}
        for layer, counts in self._layers.items():
            split = split_name(layer)
            if split.number is not None and self._is_in_layer(split):
                stem = stems.setdefault(split.stem, _Stem(split.stem))
                stem.layers[split.number] = counts
        return (stem for stem in stems.values() if stem.bad)

    def _told_by_layers(self) -> Iterator[str]:
        stems = list(self._stems)
        for stem in stems[:_MOST_STEMS]:
            yield stem.told(f"{stem.name}* " if stems[1:] else "")
        unnumbered = [
            layer
            for layer, counts in self._layers.items()
            if counts.nonfinite and not self._is_in_layer(split_name(layer))
        ]
        if unnumbered:
            tensors = counted(len(unnumbered), "tensor")
            yield f"{tensors} of no layer, {_quoted(unnumbered[0])} the first"


@dataclass(slots=True)
class _Counts:
    """How many tensors of a layer are finite, and how many are not."""

    finite: int = 0
    nonfinite: int = 0

    def count(self, tensor: TensorMeasurement) -> None:
        if tensor.stats.nonfinite:
            self.nonfinite += 1
        else:
            self.finite += 1


@dataclass(frozen=True, slots=True)
class _Stem:
    """Layers whose names differ in their numbers."""

    name: str
    layers: dict[int, _Counts] = field(default_factory=dict)

    @property
    def bad(self) -> list[int]:
        return sorted(number for number, counts in self.layers.items() if counts.nonfinite)

    @property
    def is_run(self) -> bool:
        """Whether no finite layer lies between bad ones."""
        bad = self.bad
        return not any(bad[0] < number < bad[-1] for number in self.layers.keys() - set(bad))

    def told(self, name: str) -> str:
        bad = self.bad
        partial = [number for number in bad if self.layers[number].finite]
        whole = [number for number in bad if not self.layers[number].finite]
        parts = [layers_text(whole)] if whole else []
        if partial:
            parts.append(f"{layers_text(partial)} in part")
        text = name + " and ".join(parts)
        before = [number for number in self.layers if number < bad[0]]
        after = [number for number in self.layers if number > bad[-1]]
        around = [layers_text([max(before)])] if before else []
        around += [layers_text([min(after)])] if after else []
        if around:
            text += f", {' and '.join(around)} {'are' if around[1:] else 'is'} finite"
        if after and not before and bad[1:] and self.is_run:
            text += f"; of these backward comes to {layers_text(bad[-1:])} first: it broke there"
        return text


def _told(run: Bracket) -> str:
    first, last = (_quoted(run.nonfinite[at].name) for at in (0, -1))
    span = f"from {first} to {last}" if len(run.nonfinite) > 1 else last
    around = [None if one is None else one.name for one in (run.before, run.after)]
    text = f"{span}, nearest finite: {_before_and_after(around)}"
    if run.before is None and run.after is not None and len(run.nonfinite) > 1:
        text += f"; of these backward comes to {last} first: it broke there"
    return text


def _before_and_after(names: Sequence[str | None]) -> str:
    named = [
        f"{_quoted(name)} {side}"
        for name, side in zip(names, ("before", "after"), strict=True)
        if name is not None
    ]
    return ", ".join(named) or "none"


def _quoted(name: str) -> str:
    return shortened(repr(name), _LONGEST)
