"""Pages of HTML: whole by themselves, of bounded size, and no name in them is markup."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import numpy as np
from reports.parsers import Page

import gradtool
from gradtool.report import diff_reporter
from gradtool.report.model import Style
from gradtool.report.page import MOST_ROWS

EVIL = "</td></table><script src='http://x'>alert(1)</script><img onerror=a>&amp;\x1b"


def page_of(a: dict[str, Any], b: dict[str, Any], **style: Any) -> tuple[str, Page]:
    text = diff_reporter("html")(gradtool.diff(a, b), Style(**style))
    return text, Page(text)


def layers(count: int, factor: float, name: str = "layers") -> dict[str, Any]:
    return {f"{name}.{n}.w": np.full(3, 1.0 + factor * 10.0**-n) for n in range(count)}


def test_a_page_loads_nothing_but_the_style_that_is_in_it() -> None:
    text, page = page_of(layers(6, 0.0), layers(6, 1.0))
    assert page.asked_for == []
    (policy,), (style,) = page.policies, page.styles
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    directives = dict(one.strip().split(" ", 1) for one in policy.split(";"))
    assert directives.pop("default-src") == "'none'"
    assert directives == {
        "style-src": f"'sha256-{digest}'", "base-uri": "'none'", "form-action": "'none'"
    }  # fmt: skip
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert not re.search(r"https?:", text)


def test_no_name_is_markup() -> None:
    for style in ({}, {"show_all": True}):
        text, page = page_of(layers(6, 0.0, EVIL), layers(6, 1.0, EVIL), **style)
        assert page.asked_for == []
        assert "<script" not in text and "\x1b" not in text
        shown = " ".join(block.shown for block in page.blocks)
        assert shown.count("<script src='http://x'>alert(1)</script>") >= 12


def test_bars_are_as_long_as_distances_are_apart_in_decades() -> None:
    text, page = page_of(layers(9, 0.0), layers(9, 1.0))
    assert any(block.shown.startswith("Which layers differ") for block in page.blocks)
    widths = [int(found) for found in re.findall(r'<rect width="(\d+)"', text)]
    assert widths == [120, 105, 90, 75, 60, 45, 30, 15, 0]


def test_three_tensors_need_no_picture() -> None:
    text, _ = page_of(layers(3, 0.0), layers(3, 1.0))
    assert "<rect" not in text


def test_a_page_stays_small_however_much_there_is() -> None:
    empty, _ = page_of(layers(1, 0.0), layers(1, 0.0))
    assert len(empty) < 200_000
    count = MOST_ROWS + 7
    text, page = page_of(
        layers(count, 0.0), {f"layers.{n}.w": np.full(3, 2.0) for n in range(count)}
    )
    rows = [block for block in page.blocks if block.tags == ("th",) and block.row >= 0]
    assert len(rows) == 2 * MOST_ROWS
    assert "7 more tensors are not listed here" in text
    assert "7 more layers are not listed here" in text


def test_tables_are_told_to_readers_of_screens() -> None:
    text, _ = page_of(layers(6, 0.0), layers(6, 1.0))
    regions = re.findall(r'role="region" tabindex="0" aria-label="([^"]+)"', text)
    assert len(regions) == text.count("<table>") == 2
    assert text.count('<th scope="row"') == 12
    assert text.count("<svg ") == text.count('aria-hidden="true"') == 6
