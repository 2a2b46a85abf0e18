"""How results show themselves: in notebooks, through rich, and as plain values.

What a result looks like is the business of `report`, which they do not know: `gradtool` puts a
function here that loads it once something is to be shown.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Final, Protocol

from gradtool.shortening import shortened

LONGEST_TEXT: Final = 360
"""Characters of a `repr` beside the type's name: a result may hold a hundred thousand tensors."""


class Showing(Protocol):
    """What shows results: the module `gradtool.report.showing`."""

    def console(self, result: Displayed) -> object:
        """What rich prints."""

    def html(self, result: Displayed) -> str:
        """What a notebook shows."""

    def fields(self, result: Displayed) -> dict[str, Any]:
        """What `--format json` prints."""

    def rows(self, result: Displayed) -> list[dict[str, Any]]:
        """Flat rows with the same keys."""


def load_showing() -> Showing:
    """Load what shows results; `gradtool` puts the function that does so in this one's place."""
    raise NotImplementedError


def short_repr(value: object, text: str) -> str:
    """A `repr` of few characters that all can be printed, whatever texts from files are in it."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return f"<{type(value).__name__} {shortened(text, LONGEST_TEXT)}>"


class Displayed:
    """A result that can be looked at: `rich.print` and notebooks show the command line's table."""

    __slots__ = ()

    @property
    @abstractmethod
    def headline(self) -> str:
        """The result in a few words."""

    def __repr__(self) -> str:
        return short_repr(self, self.headline)

    def __rich__(self) -> object:
        return load_showing().console(self)

    def _repr_html_(self) -> str:
        return load_showing().html(self)

    def to_dict(self) -> dict[str, Any]:
        """What the command line prints with `--format json`: names, lists and numbers of JSON.

        Numbers that are not finite are the strings "NaN", "Infinity" and "-Infinity", as in strict
        JSON.
        """
        return load_showing().fields(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """Flat rows with the same keys, for `pandas.DataFrame` and `polars.DataFrame`.

        A row for each tensor of a measurement or of what was clipped, for each dump of a check, for
        each step of a trend, for each pair of a difference and each tensor without one; numbers are
        Python's, None stands for what there is not.
        """
        return load_showing().rows(self)
