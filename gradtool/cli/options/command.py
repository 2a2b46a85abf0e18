"""Making commands of functions.

A parameter annotated with a `Group` stands for all options of the group on the command line; the
function is given one value for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from typer.models import OptionInfo, ParameterInfo

from gradtool.cli.spelling import OPTIONS

Metadata = TypeVar("Metadata")


@dataclass(frozen=True, slots=True)
class Row:
    """One option of the command line.

    Attributes:
        name: of the keyword argument that holds its value.
        kind: type of the value.
        option: what Typer has to know, default included.
        panel: the part of --help that it is in.
    """

    name: str
    kind: object
    option: ParameterInfo
    panel: str | None = None

    @property
    def parameter(self) -> Parameter:
        """The option as a parameter of a function that Typer can read."""
        option = copy(self.option)
        option.rich_help_panel = self.panel
        return Parameter(self.name, Parameter.KEYWORD_ONLY, default=option, annotation=self.kind)


def in_panel(panel: str, *rows: Row) -> tuple[Row, ...]:
    """The options, in one part of --help."""
    return tuple(replace(row, panel=panel) for row in rows)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Options that a command is given as one value, which `collect` makes of their values."""

    rows: tuple[Row, ...]
    collect: Callable[..., object]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A function for Typer that calls `function`, with all options of its groups as parameters.

    Adds the options to `spelling.OPTIONS`.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Group] = {}
    parameters: list[Parameter] = []
    for name, parameter in signature(function).parameters.items():
        group = _metadata(hints[name], Group)
        if group is None:
            kept = parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)
            parameters.append(kept)
        else:
            groups[name] = group
            parameters.extend(row.parameter for row in group.rows)

    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group.collect(**{row.name: values.pop(row.name) for row in group.rows})
        function(**values)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    OPTIONS.update(_spellings(parameters))
    return run


def _metadata(hint: object, kind: type[Metadata]) -> Metadata | None:
    """The first metadata of type `kind` in `Annotated[..., metadata]`, if any."""
    items = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((item for item in items if isinstance(item, kind)), None)


def _spellings(parameters: Iterable[Parameter]) -> Iterator[tuple[str, str]]:
    """The name of each parameter that is an option, and the option's long spelling."""
    for parameter in parameters:
        annotated = _metadata(parameter.annotation, OptionInfo)
        if annotated is not None:  # in `Annotated` Typer takes the first spelling for a default
            yield parameter.name, str(annotated.default)
        elif isinstance(parameter.default, OptionInfo):
            yield parameter.name, (parameter.default.param_decls or ("",))[0]
