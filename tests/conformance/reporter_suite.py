"""What every reporter of every command must do.

A sample of what is reported is rendered, read back by the format's own parser, and compared with
the texts and numbers that it was made of. Nothing here is for one reporter: what formats and
commands promise is in `reports.formats` and `reports.commands`.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports.commands import COMMANDS, WORD, Command, retold, role, words_in
from reports.formats import FORMATS, Reading, ReportFormat
from reports.parsers import obeyed
from reports.samples import Figures
from reports.texts import EACH_EVERYWHERE, any_texts, texts_for
from rich.cells import cell_len

from gradtool.report.model import Style

ANSI = re.compile(r"\x1b\[[0-9;]*m")

WIDTHS = [80, 200]
LONG_NAMES = ["a" * 300, "model.layers.17." + "w" * 90, "中" * 150]
LETTERS = ["n", "\x1b", "\U000e0001", "`", "|", ":", "#[", "中"]
"""Of which names of thousands of letters are made."""

MANY = [f"name{at:03}" for at in range(45)]

_counts = st.integers(1, 10**6)
_sizes = {"power_sum": st.floats(0.0, 1e300), "max_abs": st.floats(0.0, 1e308)}
figures = st.tuples(
    st.builds(Figures, **_sizes),
    st.builds(Figures, nan=_counts, **_sizes),
    st.builds(Figures, posinf=_counts, neginf=_counts, **_sizes),
)


AS_SHELL = re.compile(f"(?<=gradtool inspect ){WORD.pattern}")
"""A word in a line that is for a shell."""


@dataclass(frozen=True)
class Case:
    """A reporter: of which command, in which format."""

    command: Command
    name: str

    @property
    def format(self) -> ReportFormat:
        return FORMATS[self.name]

    def render(self, made: Any, **style: Any) -> str:
        return self.command.render(self.name, made, Style(**{"verbose": True, **style}))

    def timeless(self, made: Any, **style: Any) -> str:
        """The report without what of it is the time."""
        return re.sub(self.format.clock, "", self.render(made, **style))

    def read(self, made: Any, **style: Any) -> Reading:
        return self.format.read(self.render(made, **style))

    @property
    def shown(self) -> list[str]:
        """The words of a sample that it shows."""
        left_out = self.command.left_out.get(self.name, set())
        words = words_in(self.command.sample())
        return [word for word in words if role(word) not in left_out]

    def promised(self, made: Any) -> dict[str, float]:
        """The numbers that it holds, by place."""
        places = self.command.figure_places.get(self.name, self.format.figure_places)
        return {
            place: number
            for place, number in self.command.figures(made).items()
            if number is not None and re.match(places, place)
        }

    def agrees(self, said: object, number: float) -> bool:
        """Whether the number is what is said, to the digits that the format has."""
        value = self.format.number(said)
        digits = self.command.digits.get(self.name, self.format.digits)
        if digits is None or not math.isfinite(number):
            return repr(value) == repr(float(number))
        return math.isclose(value, number, rel_tol=0.5001 * 10.0 ** (1 - digits), abs_tol=1e-323)


CASES = {
    f"{command}-{name}": Case(COMMANDS[command], name)
    for command in COMMANDS
    for name in COMMANDS[command].table
}


def expected(reading: Reading, texts: Mapping[str, str], form: ReportFormat) -> Reading:
    """What a report must say of other texts, by what it says of words."""

    def other(value: object) -> object:
        if not isinstance(value, str):
            return value
        if form.is_exact:
            return form.spelled(WORD.sub(lambda word: texts[word[0]], value))
        quoted = re.sub(f"'({WORD.pattern})'", lambda word: repr(texts[word[1]]), value)
        quoted = AS_SHELL.sub(lambda word: shlex.quote(texts[word[0]]), quoted)
        return form.spelled(WORD.sub(lambda word: texts[word[0]], quoted))

    return [(place, other(value)) for place, value in reading]


def settled(reading: Reading) -> Reading:
    """Texts as they are shown, but for what depends on the words beside them.

    That are blanks, and whether a colon or hash is escaped, which it is at the start of a line.
    """
    return [
        (place, " ".join(str(value).replace(r"\x3a", ":").replace(r"\x23", "#").split()))
        for place, value in reading
    ]


def assert_said(case: Case, texts: list[str]) -> None:
    """Other texts for words are read back in the words' places, and the rest is as it was."""
    sample = case.command.sample()
    told = texts_for(words_in(sample), texts)
    said = case.read(retold(sample, told), show_all=True)
    wanted = expected(case.read(sample, show_all=True), told, case.format)
    if not case.format.is_exact:
        said, wanted = settled(said), settled(wanted)
    assert said == wanted


def rendered_elsewhere() -> dict[str, str]:
    """Every sample's report, as another process has it."""
    script = (
        "import json, sys\n"
        "sys.path[:0] = sys.argv[1:]\n"
        "from reporter_suite import CASES\n"
        "made = {name: case.timeless(case.command.sample()) for name, case in CASES.items()}\n"
        "print(json.dumps(made))"
    )
    folder = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(folder.parent)],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
        text=True,
    )
    found: dict[str, str] = json.loads(run.stdout)
    return found


class ReporterSuite:
    """The laws, for the fixture `case`; `elsewhere` is what another process rendered."""

    def test_a_hostile_text_stands_where_it_belongs_and_changes_nothing_else(
        self, case: Case
    ) -> None:
        for texts in EACH_EVERYWHERE:
            assert_said(case, texts)

    @given(texts=any_texts)
    def test_so_does_any_text(self, case: Case, texts: list[str]) -> None:
        assert_said(case, texts)

    def test_every_text_is_there_but_what_the_format_leaves_out(self, case: Case) -> None:
        said = words_in(case.read(case.command.sample(), show_all=True))
        assert said == case.shown

    @pytest.mark.parametrize("width", [None, 20, *WIDTHS])
    def test_nothing_acts_on_a_terminal_a_runner_or_a_line(
        self, case: Case, width: int | None
    ) -> None:
        sample = case.command.sample()
        for texts in EACH_EVERYWHERE:
            made = retold(sample, texts_for(words_in(sample), texts))
            text = case.render(made, show_all=True, width=width)
            text.encode()  # no half of a character is left
            lines = text.replace("\r\n", "\n").split("\n")
            assert all(line.isprintable() for line in lines)
            assert lines[-1] == "" != lines[-2]
            if not case.format.is_exact and not case.format.is_obeyed:
                assert obeyed(text) == []

    @given(drawn=figures)
    def test_numbers_are_those_that_were_measured(self, case: Case, drawn: Any) -> None:
        sample = case.command.sample(drawn)
        said = dict(case.read(sample, show_all=True))
        for place, number in case.promised(sample).items():
            # People see no column of nothing but zeros.
            value = said.get(place, 0) if case.format.is_for_people and not number else said[place]
            assert case.agrees(value, number), (place, value, number)

    def test_the_same_gives_the_same_bytes_in_any_process(
        self, case: Case, elsewhere: dict[str, str]
    ) -> None:
        (name,) = (name for name, one in CASES.items() if one == case)
        assert case.timeless(case.command.sample()) == elsewhere[name]

    def test_colour_is_there_only_when_asked_for(self, case: Case) -> None:
        sample = case.command.sample()
        plain, coloured = case.timeless(sample), case.timeless(sample, colour=True)
        assert "\x1b" not in plain
        assert ("\x1b" in coloured) == case.format.is_for_terminals
        assert ANSI.sub("", coloured) == plain

    @pytest.mark.parametrize("width", WIDTHS)
    def test_a_width_changes_where_lines_end_and_nothing_else(self, case: Case, width: int) -> None:
        sample = case.command.sample()
        fitted = case.timeless(sample, width=width)
        assert fitted.split() == case.timeless(sample).split()
        if case.format.is_for_terminals:
            assert max(map(cell_len, fitted.splitlines())) <= width

    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("name", LONG_NAMES, ids=["long", "layer", "wide"])
    def test_a_long_name_never_costs_a_number(self, case: Case, name: str, width: int) -> None:
        sample = case.command.sample()
        names = [word for word in words_in(sample) if role(word) == "tensor"]
        long = retold(sample, {word: f"{name}{at}" for at, word in enumerate(names)})
        said = dict(case.read(long, width=width, show_all=True))
        wanted = dict(case.read(sample, show_all=True))
        places = wanted.keys() & case.promised(sample)
        assert [said[place] for place in places] == [wanted[place] for place in places]
        if case.format.is_for_terminals and places:
            lines = case.render(long, width=width, show_all=True).splitlines()
            assert max(map(cell_len, lines)) <= width

    @pytest.mark.parametrize("letter", LETTERS)
    def test_what_people_read_stays_short_and_programs_get_all(
        self, case: Case, letter: str
    ) -> None:
        sample = case.command.sample()
        texts = {word: f"<{word}{letter * 5000}{word}>" for word in words_in(sample)}
        text = case.render(retold(sample, texts), show_all=True)
        said = [str(value) for _, value in case.format.read(text)]
        if case.format.longest_line is not None:
            assert max(map(len, text.splitlines())) <= case.format.longest_line
        for word in case.shown:
            whole = case.format.spelled(texts[word])
            is_whole = any(whole in value for value in said)
            ends = {end for end in (f"<{word}", f"{word}>") for value in said if end in value}
            is_cut = len(ends) > (role(word) not in case.command.beside_others)
            may_be_cut = role(word) in case.command.cut.get(case.name, ())
            if case.format.is_for_people or may_be_cut:
                assert is_cut > is_whole, word
            else:
                assert is_whole, word

    def test_what_is_not_listed_is_counted(self, case: Case) -> None:
        if "tensor" in case.command.left_out.get(case.name, ()):
            pytest.skip("it lists no tensors")
        for show_all in (False, True):
            reading = case.read(case.command.of_many(MANY), show_all=show_all)
            said = " ".join(str(value) for _, value in reading)
            missing = sum(name not in said for name in MANY)
            assert not missing or f"{missing} more" in said
            if show_all or not case.format.is_for_people:
                assert not missing or case.format.is_obeyed
