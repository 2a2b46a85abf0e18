"""Globs that users quote: what the standard library's find, but for links to directories."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest

import gradtool
from gradtool.storage import listing
from gradtool.storage.listing import expanded

PATTERNS = [
    "**", "**/", "**/*", "**/*.pt", "*/**", "a/**", "a/**/", "a/**/*.pt", "**/b/**", "**/**/*.pt",
    "*/**/b/*.pt", "**/b", "**/b/", "a**", "**a", "a/**b/*", "**/.h/*", ".h/**", "**/c.pt", "./**",
    "a//**//*.pt", "**/[ab]/*", "**/nothing", "nothing/**", "[[]x]/**", "**/?.pt", "*", "*/*.pt",
]  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("c.pt", "a/c.pt", "a/b/c.pt", "a/b/d/b/e.pt", "b/f.pt", ".h/c.pt", "a/.h/c.pt"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "tree" / "[x]" / "b").mkdir(parents=True)
    (tmp_path / "tree" / "[x]" / "b" / "g.pt").touch()
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_they_find_what_those_of_the_standard_library_find(pattern: str, tree: Path) -> None:
    for place in (pattern, f"{tree}/{pattern}"):
        known = glob.glob(place, recursive=True)
        there = {one for one in known if os.path.lexists(one)}  # of `nothing/**` it finds `nothing`
        found = expanded(place)
        assert set(map(slashed, found)) == set(map(slashed, there or {place}))
        assert len(set(found)) == len(found)


def slashed(path: str) -> str:
    return path.replace("//", "/")


def test_two_stars_follow_no_link_to_a_directory(tree: Path) -> None:
    before = expanded("**/*.pt")
    for name in ("self", "self2", "a/b/up"):
        (tree / name).symlink_to("." if name.startswith("self") else "..")
    (tree / "link.pt").symlink_to("c.pt")
    assert set(expanded("**/*.pt")) == {*before, "link.pt"}
    assert set(expanded("**/")) == {f"{os.path.dirname(one)}/" for one in before} - {"/"} | {
        "[x]/", "a/b/d/",
    }  # fmt: skip
    assert {"self", "a/b/up"} < set(expanded("**"))
    # What is written out is followed, as ever.
    assert expanded("self/**/f.pt") == ["self/b/f.pt"]
    assert set(expanded("self*/c.pt")) == {"self/c.pt", "self2/c.pt"}


@pytest.mark.usefixtures("tree")
def test_two_stars_that_pass_too_many_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_NAMES", 5)
    with pytest.raises(gradtool.UsageError, match="more than 5 names"):
        expanded("**/*.pt")
    assert expanded("a/*.pt") == ["a/c.pt"]
