"""Commands made of functions: the options that they share come out of the table.

A parameter annotated with a `Group` is one value to the function, and on the command line the
options of the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from typer.models import OptionInfo, ParameterInfo

from gradtool.cli.spelling import OPTIONS

Mark = TypeVar("Mark")


@dataclass(frozen=True, slots=True)
class Row:
    """An option: the name of its value, the type, and what Typer has to know, default included."""

    name: str
    kind: object
    option: ParameterInfo

    @property
    def parameter(self) -> Parameter:
        """The parameter that Typer reads."""
        return Parameter(
            self.name, Parameter.KEYWORD_ONLY, default=self.option, annotation=self.kind
        )


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Options that are one value to who asked for them: that which `collect` makes of theirs."""

    rows: tuple[Row, ...]
    collect: Callable[..., object]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """The function as a command: its parameters, and for each group in their place the rows."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Group] = {}
    parameters: list[Parameter] = []
    for name, own in signature(function).parameters.items():
        group = _marked(hints[name], Group)
        if group is None:
            parameters.append(own.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY))
        else:
            groups[name] = group
            parameters.extend(row.parameter for row in group.rows)

    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group.collect(**{row.name: given.pop(row.name) for row in group.rows})
        function(**given)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    OPTIONS.update(_spellings(parameters))
    return run


def _marked(hint: object, kind: type[Mark]) -> Mark | None:
    """The mark of a kind in `Annotated[..., mark]`."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, kind)), None)


def _spellings(parameters: Iterable[Parameter]) -> Iterator[tuple[str, str]]:
    """How each option among them is written, the long way."""
    for parameter in parameters:
        marked = _marked(parameter.annotation, OptionInfo)
        if marked is not None:  # whose first spelling stands where its default would otherwise
            yield parameter.name, str(marked.default)
        elif isinstance(parameter.default, OptionInfo):
            yield parameter.name, (parameter.default.param_decls or ("",))[0]
