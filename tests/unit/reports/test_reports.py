"""Laws of reports: what is in them, and what can never get out of them."""

import csv
import html
import io
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports.parsers import recovered, strict_json, validator
from reports.samples import Figures, measurement_of, report_of, tensor
from safetensors.numpy import save_file

import gradtool
from gradtool.cli.commands.inspect import Order
from gradtool.cli.options.table import Backend
from gradtool.core.measurement import Measurement, TensorMeasurement
from gradtool.core.order.brackets import brackets
from gradtool.core.tensors import Skipped
from gradtool.engine.choice import BACKENDS
from gradtool.report import REPORTERS, clip_reporter, reporter
from gradtool.report.escaping import recoverable, visible
from gradtool.report.inspect.arrangement import ORDERS, arrange, report_on
from gradtool.report.inspect.markdown import code
from gradtool.report.model import DEFAULT_ROWS, InspectReport, Style
from gradtool.shortening import LONGEST_LINE

SCHEMA = validator("inspect-1")
CLIP_SCHEMA = validator("clip-1")


def render(name: str, *reports: InspectReport, **style: Any) -> str:
    return reporter(name)(reports, Style(**style))


def ungrouped(report: InspectReport) -> InspectReport:
    return InspectReport(report.measurement, report.rows)


@pytest.fixture
def dump(tmp_path: Path) -> str:
    path = str(tmp_path / "dump.safetensors")
    tensors = {
        "layers.10.w": np.full((2, 3), 3.0, np.float16),
        "layers.9.w": np.array([1.0, np.inf, -np.inf, np.nan, 0.0], np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(2.0, np.float64),
        "step": np.array([7]),
    }
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 0.0, math.inf, -math.inf, -1.0])
def test_json_of_a_real_dump_obeys_the_schema(dump: str, norm_type: float) -> None:
    measurement = gradtool.measure(dump, norm_type=norm_type)
    max_norm = math.inf if norm_type > 0.0 else None
    report = report_on(measurement, group_by="layers.#", max_norm=max_norm, eps=0.0)
    result = strict_json(render("json", report))
    SCHEMA.validate(result)
    assert result["gradtool"] == gradtool.__version__
    (written,) = result["reports"]
    assert {entry["name"] for entry in written["tensors"]} | {"step"} == {
        "layers.10.w", "layers.9.w", "empty", "scalar", "step"
    }  # fmt: skip
    assert [entry["name"] for entry in written["skipped"]] == ["step"]


def test_the_schema_refuses_what_reports_never_hold(dump: str) -> None:
    measurement = gradtool.measure(dump)
    result = strict_json(render("json", report_on(measurement)))
    assert SCHEMA.is_valid(result)
    for key, wrong in (("norm_type", "NaN"), ("bytes", -1), ("total", {}), ("tensors", [{}])):
        report = {**result["reports"][0], key: wrong}
        assert not SCHEMA.is_valid({**result, "reports": [report]}), key
    assert SCHEMA.is_valid({**result, "added": 1}), "fields may be added"


def test_json_counts_what_is_below_normal_and_the_other_reports_do_not(tmp_path: Path) -> None:
    path = str(tmp_path / "dump.safetensors")
    save_file({"a.w": np.float16([2.0**-24, -1e-5, 0, 1]), "b.w": np.float32([1e-39, 1])}, path)
    report = report_on(gradtool.measure(path), group_by="1")
    result = strict_json(render("json", report))
    assert SCHEMA.is_valid(result)
    (written,) = result["reports"]
    assert [entry["subnormals"] for entry in written["tensors"]] == [2, 1]
    assert {entry["name"]: entry["subnormals"] for entry in written["groups"]} == {"a": 2, "b": 1}
    assert [entry["subnormals"] for entry in written["sections"]] == [3]
    assert written["total"]["subnormals"] == 3
    for part in (written["total"], written["tensors"][0]):
        del part["subnormals"]
        assert not SCHEMA.is_valid(result)
        part["subnormals"] = 1
    for name in set(REPORTERS) - {"json"}:
        assert "subnormal" not in render(name, report)


def test_json_without_one_total_has_null_there(dump: str) -> None:
    whole = gradtool.measure(dump)
    parts = Measurement(
        **{field: getattr(whole, field) for field in Measurement.__slots__} | {"total": None}
    )
    report = report_on(parts, max_norm=1.0)
    result = strict_json(render("json", report))
    SCHEMA.validate(result)
    assert result["reports"][0]["total"] is None
    assert result["reports"][0]["clip"]["clip_coef"] is None
    assert "choose one with --section" in render("table", report)


SPAN = re.compile(r"`([^`]*)`|<code>(.*?)</code>")


@given(st.text())
def test_markdown_code_shows_exactly_its_text_in_one_cell(text: str) -> None:
    name = visible(text)
    spelt = code(name)
    shown = SPAN.fullmatch(spelt)
    assert shown is not None
    assert (html.unescape(shown[2]) if shown[1] is None else shown[1]) == name
    assert "|" not in spelt
    if shown[1] is None:
        assert not set(shown[2]) & set("<>`*_:@.[]\\")


@pytest.mark.parametrize("name", ["https://example.com", "www.a.org", "GH-12", ":warning:", "@me"])
def test_github_makes_no_links_of_names(name: str) -> None:
    skipped = (Skipped(name, "I64", "integer"),)
    report = report_of(tensor(name, nan=1), tensor("b", alias_of=name), skipped=skipped)
    outside = SPAN.sub("", render("markdown", report))
    assert name not in outside


def test_one_is_not_counted_in_the_plural() -> None:
    report = ungrouped(report_of(*(tensor(f"t{at}") for at in range(DEFAULT_ROWS + 1))))
    assert "1 more tensor is not listed." in render("markdown", report)


def test_what_clipping_would_do_to_nonfinite_gradients_is_said_of_torch() -> None:
    text = render("table", report_of(tensor("a", nan=1)))
    assert "clip_coef NaN: clipping by it would make every element NaN in torch" in text


def test_csv_has_one_header_and_spells_shapes_and_indices() -> None:
    report = report_of(tensor("a"), tensor("b", nan=3))
    text = render("csv", report, report)
    assert text.count("\r\n") == 7
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["name"] for row in rows] == ["a", "b", "(total)"] * 2
    assert [row["shape"] for row in rows] == ["2x5", "2x5", ""] * 2
    assert [row["first_nonfinite"] for row in rows] == ["", "[1, 2]", ""] * 2


def test_csv_tells_the_step_and_the_total(dump: str) -> None:
    measurement = replace(gradtool.measure(dump), step=12)
    text = render("csv", report_on(measurement))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {row["step"] for row in rows} == {"12"}
    (total,) = (row for row in rows if not row["dtype"])
    assert total["name"] == "(total)"
    assert int(total["numel"]) == sum(int(row["numel"]) for row in rows if row["dtype"])
    assert float(total["finite_norm"]) == pytest.approx(math.sqrt(6 * 9 + 1 + 4), rel=1e-15)
    assert [total[key] for key in ("nan", "posinf", "neginf", "zeros")] == ["1", "1", "1", "1"]


FORMULAS = [
    "=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "\n=1", " =1", "  @A1", "-", "=", "a,=1", "\u200b=1",
    "\uff1d1", "\uff0d1", "\uff0b1", "\uff20A1", "\u22121", "\ufe631", "\u207c1", "layers.0.w",
    "'=1", "'", "''w", "\\x3d", "'\\x3d", "a;=1", "a; +1", 'a;"=1"', "a;b", ";",
]  # fmt: skip
PARTS = [*"=+-@\uff1d\uff0d;'\"\\ ,\t", "1", "x3b", "w"]
formulas = st.sampled_from(FORMULAS) | st.lists(st.sampled_from(PARTS), min_size=1).map("".join)


@given(formulas)
def test_no_text_in_csv_is_computed_by_a_spreadsheet_nor_lost(text: str) -> None:
    report = report_of(tensor(text, alias_of=text))
    measurement = replace(report.measurement, path=text)
    written = render("csv", InspectReport(measurement, report.rows))
    row, _ = csv.DictReader(io.StringIO(written, newline=""))
    assert [recovered(row[column]) for column in ("path", "name", "alias_of")] == [text] * 3
    # A spreadsheet that expects other separators sees other cells.
    for separator in (",", ";"):
        for row in csv.reader(io.StringIO(written, newline=""), delimiter=separator):
            for cell in row:
                start = unicodedata.normalize("NFKC", cell.lstrip(" "))[:1]
                assert start not in ("=", "+", "-", "@", "\u2212")
                assert separator == ";" or cell.isprintable()


@pytest.mark.parametrize("name", ["layers.0.w", "w=1", "a-b", "a;b", "x'y", "", "中", "model.w@0"])
def test_names_of_no_formula_are_as_they_are_in_csv(name: str) -> None:
    row, _ = csv.DictReader(io.StringIO(render("csv", report_of(tensor(name))), newline=""))
    assert row["name"] == name


COMMANDS = st.lists(
    st.sampled_from([":", "::", "#", "##[", "[", " ", "\t", "error", "\n", "]", "\\"])
).map("".join)


@given(st.text(alphabet=st.characters()) | COMMANDS)
def test_visible_text_is_printable_and_stays_as_it_is(text: str) -> None:
    """But for what a runner would obey: two colons at the start, and `##[`."""
    shown = visible(text)
    assert shown.isprintable()
    assert visible(shown) == shown
    assert not shown.lstrip().startswith("::")
    assert "##[" not in shown
    if text.isprintable():
        harmless = "##[" not in text and not text.lstrip(" ").startswith("::")
        assert (shown == text) == harmless
        assert shown.replace(r"\x3a", ":").replace(r"\x23", "#") == text


@given(COMMANDS)
def test_recoverable_text_can_be_read_back(text: str) -> None:
    back = recoverable(text).encode("latin-1", "backslashreplace").decode("unicode_escape")
    assert back == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::error::x", r"\x3a:error::x"),
        ("  ::error::x", r"  \x3a:error::x"),
        ("\t::error::x", r"\x09::error::x"),
        (":::", r"\x3a::"),
        (":a::b", ":a::b"),
        ("a::b", "a::b"),
        ("##[error]", r"\x23#[error]"),
        ("a###[x##[y", r"a#\x23#[x\x23#[y"),
        ("#[a", "#[a"),
        ("## [a", "## [a"),
    ],
)
def test_commands_to_a_runner_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert visible(text) == shown


@st.composite
def files_of_tensors(draw: st.DrawFn) -> list[TensorMeasurement]:
    kinds = draw(st.lists(st.sampled_from(["finite", "nonfinite", "alias"]), max_size=12))
    return [
        tensor(str(at), nan=int(kind == "nonfinite"), alias_of="0" if kind == "alias" else None)
        for at, kind in enumerate(kinds)
    ]


@given(files_of_tensors())
def test_brackets_are_the_nearest_finite_tensors_of_each_nonfinite_one(
    tensors: list[TensorMeasurement],
) -> None:
    def nearest(candidates: Iterator[TensorMeasurement]) -> TensorMeasurement | None:
        return next((t for t in candidates if not t.stats.nonfinite and not t.alias_of), None)

    found = {
        faulty.name: (bracket.before, bracket.after)
        for bracket in brackets(tensors)
        for faulty in bracket.nonfinite
    }
    assert found == {
        faulty.name: (nearest(reversed(tensors[:at])), nearest(iter(tensors[at:])))
        for at, faulty in enumerate(tensors)
        if faulty.stats.nonfinite
    }


def test_the_table_brackets_the_faulty_layer() -> None:
    report = report_of(tensor("h.0"), tensor("h.1", nan=4), tensor("h.2", nan=1), tensor("h.3"))
    lines = [" ".join(line.split()) for line in render("table", report).splitlines()]
    at = lines.index("non-finite: 2 of 4 tensors, in natural order of names")
    assert lines[at + 1 :] == [
        "h.0 finite",
        "h.1 4 NaN, first at [1, 2]",
        "h.2 1 NaN, first at [1, 2]",
        "h.3 finite",
        "layers 1 and 2, layer 0 and layer 3 are finite",
    ]


def test_a_file_that_is_sorted_by_name_makes_no_border_between_layers() -> None:
    names = sorted(f"h.{layer}" for layer in range(12))
    report = report_of(*(tensor(name, nan=name in ("h.1", "h.2", "h.3")) for name in names))
    of_model = replace(report, measurement=replace(report.measurement, in_model_order=True))
    by_name, as_listed = ["h.0", "h.1", "h.2", "h.3", "h.4"], ["h.0", "h.1", "h.10"]
    for one, order, first_run in (
        (report, "natural order of names", by_name),
        (of_model, "the model's order", as_listed),
    ):
        heading = f"3 of 12 tensors, in {order}"
        _, _, table = render("table", one).partition(heading)
        shown = table.splitlines()[1 : 1 + len(first_run)]
        assert [line.split()[0] for line in shown] == first_run
        _, _, rows = render("markdown", one).partition(heading)
        around = f"| `{first_run[0]}` | `{first_run[-1]}` |"
        assert rows.count(around) == len(first_run) - 2


def test_a_long_name_keeps_the_number_of_its_layer() -> None:
    report = ungrouped(report_of(tensor("model.layers.17." + "w" * 90)))
    for width in (64, 80, 120):
        assert "17." in render("table", report, width=width)


@pytest.mark.parametrize("name", ["table", "markdown"])
def test_a_shape_of_many_sizes_is_cut_where_people_read_it(name: str) -> None:
    one = tensor("w")
    wide = replace(one, spec=replace(one.spec, shape=(0, *[10**15] * 60)))
    lines = render(name, report_of(wide), show_all=True).splitlines()
    assert max(map(len, lines)) < 1.1 * LONGEST_LINE
    assert any("0x1000" in line for line in lines)


def test_without_a_width_names_are_whole() -> None:
    assert "n" * 500 in render("table", ungrouped(report_of(tensor("n" * 500))))


def test_quiet_shows_no_rows() -> None:
    report = ungrouped(report_of(tensor("layer")))
    assert "layer" in render("table", report)
    assert "layer" not in render("table", report, quiet=True)


@pytest.mark.parametrize("name", REPORTERS)
def test_what_top_leaves_out_is_listed_by_no_format(name: str) -> None:
    tensors = [tensor(f"name{at}", Figures(power_sum=float(at))) for at in range(9)]
    text = render(name, report_on(measurement_of(*tensors), order="norm", top=2))
    assert [f"name{at}" in text for at in range(9)] == [False] * 7 + [True] * 2
    assert (name in ("json", "csv")) or "7 more" in text


def test_overflow_in_the_native_dtype_is_said_in_words(tmp_path: Path) -> None:
    path = str(tmp_path / "overflow.safetensors")
    save_file({"w": np.full(2, 6e4, np.float16)}, path)
    measurement = gradtool.measure(path)
    text = render("table", report_on(measurement))
    assert "native norm: Infinity in F16, true norm 84852.8" in text
    assert "an infinite norm and zeroed every gradient" in text


def test_weights_and_moments_are_never_called_gradients(tmp_path: Path) -> None:
    path = str(tmp_path / "training.safetensors")
    names = ("model.w", "optimizer.exp_avg")
    save_file({name: np.full(2, 6e4, np.float16) for name in names}, path)
    measurement = gradtool.measure(path)
    for name in ("table", "markdown"):
        text = render(name, report_on(measurement))
        assert "1 weight and 1 optimizer state in F16" in text
        assert "gradient" not in text
        assert "|g|" not in text


@given(files_of_tensors(), st.sampled_from(sorted(ORDERS)))
def test_every_order_lists_the_same_tensors(tensors: list[TensorMeasurement], order: str) -> None:
    arranged = arrange(tensors, order)
    assert sorted(t.name for t in arranged) == sorted(t.name for t in tensors)
    assert arrange(tensors, order, top=2) == arranged[:2]
    if order in ("norm", "nonfinite"):
        faulty = [bool(t.stats.nonfinite) for t in arranged]
        assert faulty == sorted(faulty, reverse=True)


def test_the_command_line_knows_every_order_and_backend() -> None:
    assert get_args(Order) == tuple(ORDERS)
    assert get_args(Backend) == BACKENDS


def clipped(path: str, **options: Any) -> gradtool.ClipOutcome:
    """Clip to the file beside it that ends in .out, unless it is a dry run."""
    out = None if options.get("dry_run") else f"{path}.out"
    return gradtool.clip(path, out, force=True, **options)


def clip_json(outcome: gradtool.ClipOutcome) -> Any:
    result = strict_json(clip_reporter("json")(outcome, Style()))
    CLIP_SCHEMA.validate(result)
    assert set(result) == set(CLIP_SCHEMA.schema["properties"]), "a field that the schema lacks"
    return result


def clip_table(outcome: gradtool.ClipOutcome, **style: Any) -> str:
    return clip_reporter("table")(outcome, Style(**style))


@pytest.fixture
def finite(tmp_path: Path) -> str:
    """Two tensors of norms 5 and 12, together 13."""
    path = str(tmp_path / "finite.safetensors")
    save_file({"a": np.float32([3, 4]), "b": np.float32([0, -12])}, path)
    return path


MODES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"max_norm": 6.5, "eps": 0.0},
        {"max_norm": 6.5, "clip_value": None, "clip_coef": 0.5, "norm_after": 6.5, "written": True},
    ),
    ({"max_norm": 6.5}, {"clip_coef": 6.5 / (13.0 + 1e-6), "eps": 1e-6, "tensors_changed": 2}),
    (
        {"max_norm": 1.0, "dry_run": True},
        {"output": None, "written": False, "norm_before": 13.0, "norm_after": None},
    ),
    (
        {"max_norm": 6.0, "eps": 0.0, "per_tensor": True},
        {"per_tensor": True, "clip_coef": None, "norm_after": math.hypot(5.0, 6.0)},
    ),
    (
        {"clip_value": 3.0},
        {"max_norm": None, "clip_value": 3.0, "clip_coef": None, "norm_after": math.sqrt(27.0)},
    ),
    ({"clip_value": math.inf}, {"clip_value": "Infinity", "tensors_changed": 0}),
    ({"clip_value": 3.0, "norm_type": -math.inf}, {"norm_type": "-Infinity", "norm_after": 0.0}),
    (
        {"max_norm": math.inf},
        {"max_norm": "Infinity", "clip_coef": 1.0, "tensors_changed": 0, "norm_after": 13.0},
    ),
    ({"max_norm": 0.0}, {"clip_coef": 0.0, "norm_after": 0.0}),
    ({"max_norm": 1, "norm_type": 1}, {"norm_type": 1.0, "max_norm": 1.0, "norm_before": 19.0}),
    ({"max_norm": 6.0, "norm_type": math.inf}, {"norm_type": "Infinity", "norm_before": 12.0}),
    (
        {"max_norm": 2.0, "eps": 0.0, "total_norm": 8.0},
        {"total_norm": 8.0, "clip_coef": 0.25, "norm_after": 3.25},
    ),
    (
        {"max_norm": 3.25, "eps": 0.0, "loss_scale": 2.0},
        {"loss_scale": 2.0, "norm_before": 6.5, "clip_coef": 0.5, "norm_after": 3.25},
    ),
]


@pytest.mark.parametrize(("options", "expected"), MODES)
def test_clip_json_of_every_mode_obeys_the_schema(
    options: dict[str, Any], expected: dict[str, Any], finite: str
) -> None:
    result = clip_json(clipped(finite, **options))
    for key, value in expected.items():
        exact = not isinstance(value, float)
        assert result[key] == (value if exact else pytest.approx(value, rel=1e-12)), key
    assert (result["path"], result["format"], result["tensors"]) == (finite, "safetensors", 2)


@pytest.mark.parametrize(("nonfinite", "replaced"), [("zero", 3), ("keep", 0)])
def test_clip_json_says_nonfinite_norms_in_strings(
    nonfinite: str, replaced: int, dump: str
) -> None:
    result = clip_json(clipped(dump, nonfinite=nonfinite, max_norm=0.5, eps=0.0))
    assert result["norm_before"] == "NaN"
    assert (result["norm_after"] == "NaN") == (nonfinite == "keep")
    assert result["finite_norm_after"] == pytest.approx(0.5, rel=1e-3)
    assert (result["nonfinite"], result["nonfinite_replaced"]) == (nonfinite, replaced)


def test_clip_json_of_what_is_clipped_in_place(finite: str) -> None:
    result = clip_json(gradtool.clip(finite, in_place=True, max_norm=20.0))
    assert (result["output"], result["written"], result["norm_after"]) == (finite, False, None)
    result = clip_json(gradtool.clip(finite, in_place=True, max_norm=6.5, eps=0.0))
    assert (result["output"], result["written"], result["norm_after"]) == (finite, True, 6.5)


def test_the_schema_of_clip_refuses_what_reports_never_hold(finite: str) -> None:
    result = clip_json(clipped(finite, max_norm=1.0))
    for key, wrong in (
        ("clip_coef", 1.5), ("clip_coef", "NaN"), ("max_norm", None), ("max_norm", "NaN"),
        ("clip_value", 1.0), ("norm_after", None), ("output", None), ("written", False),
        ("nonfinite", "drop"), ("tensors", -1), ("norm_before", -1.0), ("eps", "Infinity"),
        ("path", 1), ("notes", None), ("ranks", None), ("norm_before", None), ("loss_scale", None),
    ):  # fmt: skip
        assert not CLIP_SCHEMA.is_valid({**result, key: wrong}), (key, wrong)
    for key in result:
        assert not CLIP_SCHEMA.is_valid({k: v for k, v in result.items() if k != key}), key
    assert CLIP_SCHEMA.is_valid({**result, "added": 1}), "fields may be added"


def test_the_table_of_a_clip_says_what_was_done(finite: str) -> None:
    text = clip_table(clipped(finite, max_norm=6.5, eps=0.0))
    assert re.search(r"^clip +max_norm 6\.5, eps 0$", text, re.MULTILINE)
    assert re.search(r"^clip_coef +0\.5$", text, re.MULTILINE)
    assert re.search(r"^L2 norm +13 before, 6\.5 after$", text, re.MULTILINE)
    assert re.search(r"^changed +2 of 2 tensors$", text, re.MULTILINE)
    assert re.search(rf"^written +{re.escape(finite)}\.out$", text, re.MULTILINE)
    assert "after" not in clip_table(clipped(finite, max_norm=6.5, dry_run=True))
    assert "a dry run" in clip_table(clipped(finite, max_norm=6.5, dry_run=True))
    assert "nothing changes" in clip_table(clipped(finite, max_norm=13.1))


def test_tensors_clipped_on_their_own_have_a_row_each_the_largest_first(finite: str) -> None:
    outcome = clipped(finite, max_norm=1.0, per_tensor=True)
    rows = [line.split() for line in clip_table(outcome).splitlines() if line[:2] in ("a ", "b ")]
    assert [row[:3] for row in rows] == [["b", "2", "12.000"], ["a", "2", "5.0000"]]
    assert "norm before" in clip_table(outcome)
    assert "norm before" not in clip_table(outcome, quiet=True)
    assert "L2 norm" in clip_table(outcome, quiet=True)


def test_groups_have_a_row_each_and_the_rest_one(finite: str) -> None:
    rows = clip_table(clipped(finite, groups={"a": 2.5}, eps=0.0)).splitlines()
    shown = [line.split() for line in rows if line[:1] in ("a", "(")]
    assert shown == [
        ["a", "1", "2.5", "0.50000", "5.0000", "2.5000"],
        ["(the", "rest)", "1", "as", "it", "is", "1.0000", "12.000", "12.000"],
    ]
    assert "after" not in clip_table(clipped(finite, groups={"*": 1.0}, dry_run=True))


def test_the_json_of_groups_and_of_units_fits_the_schema(finite: str) -> None:
    for options in ({"groups": {"a": 1.0}}, {"groups": {"a": 1.0, "*": math.inf}, "max_norm": 2.0}):
        result = clip_json(clipped(finite, **options))
        CLIP_SCHEMA.validate(result)
        assert not CLIP_SCHEMA.is_valid({**result, "clip_coef": 0.5})
        assert not CLIP_SCHEMA.is_valid({**result, "groups": []})
        assert not CLIP_SCHEMA.is_valid({**result, "agc": 0.1})


def test_groups_of_ranks_are_those_of_each_rank_in_table_and_json(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for rank, values in enumerate(([3.0, 4.0], [6.0, 8.0])):
        arrays = {"a": np.array(values), "b": np.array([12.0])}
        save_file(arrays, run / f"rank{rank}.safetensors")
    outcome = clipped(str(run), groups={"a": 2.5}, eps=0.0, ranks="each")
    rows = [line.split() for line in clip_table(outcome).splitlines() if line[3:4] in "01"]
    rest = ["(the", "rest)", "1", "as", "it", "is", "1.0000", "12.000", "12.000"]
    assert [row for row in rows if row] == [
        ["0", "a", "1", "2.5", "0.50000", "5.0000", "2.5000"],
        ["0", *rest],
        ["1", "a", "1", "2.5", "0.25000", "10.000", "2.5000"],
        ["1", *rest],
    ]
    result = clip_json(outcome)
    CLIP_SCHEMA.validate(result)
    whole = result["ranks"][0]
    assert not CLIP_SCHEMA.is_valid({**result, "groups": whole["groups"], "rest": whole["rest"]})
    for key, wrong in (("groups", []), ("rest", None), ("clip_coef", 0.5)):
        ranks = [whole, {**result["ranks"][1], key: wrong}]
        assert not CLIP_SCHEMA.is_valid({**result, "ranks": ranks}), key
    assert not CLIP_SCHEMA.is_valid({**result, "ranks": []})
    plain = clip_json(clipped(str(run), max_norm=1.0, ranks="each", dry_run=True))
    CLIP_SCHEMA.validate(plain)
    assert not CLIP_SCHEMA.is_valid({**plain, "ranks": result["ranks"]})
