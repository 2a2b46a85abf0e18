"""Every reporter of every command, held to one suite."""

from __future__ import annotations

import pytest
from reporter_suite import CASES, Case, ReporterSuite, rendered_elsewhere
from reports.commands import COMMANDS
from reports.formats import FORMATS

from gradtool import report


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, str]:
    return rendered_elsewhere()


class TestEveryReporter(ReporterSuite):
    pass


def test_every_table_of_reporters_is_that_of_a_command() -> None:
    tables = [value for name, value in vars(report).items() if name.endswith("REPORTERS")]
    assert tables == [command.table for command in COMMANDS.values()]


def test_every_format_has_a_parser_and_is_one_of_a_command() -> None:
    names = {name for command in COMMANDS.values() for name in command.table}
    assert names == FORMATS.keys()


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_promised_by_all_formats_but_those_of_sentences(name: str) -> None:
    case = CASES[name]
    places = case.command.figure_places.get(case.name, case.format.figure_places)
    assert bool(case.promised(case.command.sample())) == (places != "(?!)")
