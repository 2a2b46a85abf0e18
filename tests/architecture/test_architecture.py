"""The house as it was drawn: sizes, tables, exports, and what may not be loaded."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import FunctionType

import pytest

import gradtool
from gradtool import errors
from gradtool.core.judging import baseline
from gradtool.formats.files import FILES
from gradtool.formats.layouts import LAYOUTS
from gradtool.report import (
    CHECK_REPORTERS,
    CLIP_REPORTERS,
    DIFF_REPORTERS,
    FORMATS_REPORTERS,
    LISTING_REPORTERS,
    REPORTERS,
    TREND_REPORTERS,
    check_reporter,
    clip_reporter,
    diff_reporter,
    formats_reporter,
    listing_reporter,
    reporter,
    trend_reporter,
)
from gradtool.report.check import json as check_json
from gradtool.report.clip import json as clip_json
from gradtool.report.diff import json as diff_json
from gradtool.report.formats import json as formats_json
from gradtool.report.inspect import json
from gradtool.report.listing import json as listing_json
from gradtool.report.trend import json as trend_json

PACKAGE = Path(gradtool.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = Path(__file__).parents[1]


def test_modules_stay_under_300_lines() -> None:
    long = {str(m.relative_to(PACKAGE)): n for m in MODULES if (n := _lines(m)) > 300}
    assert long == {}


def test_functions_fit_a_screen() -> None:
    long = [
        f"{module.relative_to(PACKAGE)}:{node.name}"
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and _body_lines(node) > 50
    ]
    assert long == []


def test_no_module_is_called_by_what_it_is_not() -> None:
    vague = {"utils", "common", "helpers", "base", "manager"}
    assert [m for m in MODULES if m.stem in vague] == []


def test_the_table_of_files_lists_the_modules_of_single_files() -> None:
    modules = _modules_in("formats/files")
    names = {"torch" if m == "torch_zip" else m.replace("_", "-") for m in modules}
    assert names == {row.name for row in FILES}


def test_the_table_of_layouts_lists_the_modules_of_directories() -> None:
    opened = {row.open.__module__ for row in LAYOUTS if isinstance(row.open, FunctionType)}
    # An index names its shards itself, whichever layout they lie in.
    modules = [
        ".".join(m.relative_to(PACKAGE.parent).with_suffix("").parts)
        for m in (PACKAGE / "formats/layouts").rglob("*.py")
        if f"def open_{m.stem}(" in m.read_text()
    ]
    assert set(modules) == opened


def test_no_folder_holds_more_than_a_reader_can_keep_in_mind() -> None:
    modules = [*MODULES, *TESTS.rglob("*.py")]
    folders = Counter(module.parent for module in modules if module.stem != "__init__")
    assert {folder: n for folder, n in folders.items() if n > 14} == {}


def _modules_in(folder: str) -> set[str]:
    return {m.stem for m in (PACKAGE / folder).glob("*.py") if not m.stem.startswith("_")}


def test_the_tables_of_reporters_list_the_modules_that_render() -> None:
    rendering = {
        f"gradtool.report.{module.parent.name}.{module.stem}"
        for module in (PACKAGE / "report").rglob("*.py")
        for node in ast.parse(module.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "render"
    }
    of_dumps = (REPORTERS, CLIP_REPORTERS, CHECK_REPORTERS, DIFF_REPORTERS)
    tables = (*of_dumps, TREND_REPORTERS, LISTING_REPORTERS, FORMATS_REPORTERS)
    assert {module for table in tables for module in table.values()} == rendering
    assert all(callable(reporter(name)) for name in REPORTERS)
    assert all(callable(clip_reporter(name)) for name in CLIP_REPORTERS)
    assert all(callable(check_reporter(name)) for name in CHECK_REPORTERS)
    assert all(callable(diff_reporter(name)) for name in DIFF_REPORTERS)
    assert all(callable(trend_reporter(name)) for name in TREND_REPORTERS)
    assert all(callable(listing_reporter(name)) for name in LISTING_REPORTERS)
    assert all(callable(formats_reporter(name)) for name in FORMATS_REPORTERS)
    assert LISTING_REPORTERS.keys() >= REPORTERS.keys() | CLIP_REPORTERS.keys()


def test_every_json_report_has_a_schema() -> None:
    schemas = {schema.name for schema in (PACKAGE / "report" / "schemas").iterdir()}
    of_dumps = (json, clip_json, check_json, diff_json, trend_json)
    modules = (*of_dumps, listing_json, formats_json, baseline)
    declared = [module.SCHEMA.removeprefix("gradtool.") for module in modules]
    assert schemas == {f"{name.replace('/', '-')}.schema.json" for name in declared}


def test_every_public_name_resolves_and_is_listed() -> None:
    for name in gradtool.__all__:
        assert getattr(gradtool, name) is not None
    public = {e for e in errors.__all__ if e != "InputError"}
    assert public | {"InputError"} <= set(gradtool.__all__)
    with pytest.raises(AttributeError):
        _ = gradtool.nothing


def test_every_error_is_drawn_in_the_tree() -> None:
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__


def test_errors_survive_the_way_back_from_a_worker_process() -> None:
    import pickle  # noqa: PLC0415 - what concurrent.futures does with results

    error = gradtool.CorruptFileError("a.pt", "is cut", tensor="w", byte=7, hint="save it again")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (str(back), back.path, back.tensor, back.byte) == (str(error), "a.pt", "w", 7)


def test_every_module_says_what_it_is_for() -> None:
    assert [
        m for m in MODULES if not ast.get_docstring(ast.parse(m.read_text(encoding="utf-8")))
    ] == []


@pytest.mark.parametrize("statement", ["import gradtool.api.checking", "import gradtool.cli.app"])
def test_no_framework_is_imported(statement: str) -> None:
    assert _loaded(statement).isdisjoint({"torch", "mlx", "jax"})


def test_the_check_for_imports_can_fail() -> None:
    assert "torch" in _loaded("import torch, gradtool.api.checking")


def test_what_keeps_no_rows_needs_no_sqlite() -> None:
    assert "sqlite3" not in _loaded("import gradtool.api.trending, gradtool.api.checking")


def test_help_needs_no_array_library() -> None:
    assert "numpy" not in _loaded("import gradtool, gradtool.cli.app")


def test_modules_for_live_gradients_are_names_of_the_package_loaded_when_used() -> None:
    names = {"numpy", "torch", "integrations"}
    assert names <= {*dir(gradtool)}
    assert not names & {*gradtool.__all__}
    assert not {"torch", "numpy"} & _loaded("import gradtool; dir(gradtool)")
    assert "torch" not in _loaded("from gradtool import *")
    assert "torch" in _loaded("import gradtool; gradtool.torch.Recorder")
    assert "torch" not in _loaded("import gradtool; gradtool.numpy.clip_grad_norm")
    assert "torch" in _loaded("import gradtool; gradtool.integrations.GradientDumps")


WITHOUT_TORCH = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Missing())
import gradtool
gradtool.{}
"""


@pytest.mark.parametrize("name", ["torch.Recorder", "integrations.GradientDumps"])
def test_where_torch_is_missing_the_error_says_what_installs_it(name: str) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH.format(name)]
    run = subprocess.run(command, capture_output=True, check=False, text=True)
    said = (
        "ModuleNotFoundError: gradtool.torch needs torch, which gradtool's extra `torch` installs"
    )
    assert run.stderr.splitlines()[-1] == said


RUN = """
import runpy, sys
sys.argv[0] = "gradtool"
try: runpy.run_module("gradtool", run_name="__main__")
except SystemExit as end: assert not end.code, end.code
print(*sys.modules)
"""
OF_OTHER_COMMANDS = (
    *(f"gradtool.cli.commands.{name}" for name in ("clip", "check", "diff", "baseline", "rules")),
    *("gradtool.rules", "gradtool.core.judging", "gradtool.report.check", "gradtool.report.clip"),
    *("gradtool.cli.commands.formats", "gradtool.formats.known", "gradtool.report.formats"),
    *("gradtool.core.comparing", "gradtool.report.diff", "gradtool.engine.writing"),
    *("gradtool.cli.commands.trend", "gradtool.core.trends", "gradtool.report.trend"),
)


@pytest.mark.parametrize("report", ["json", "table"])
def test_a_command_loads_nothing_of_another_and_nothing_slow(report: str) -> None:
    sample = PACKAGE.parent / "sample_ckpts" / "healthy.safetensors"
    command = [sys.executable, "-c", RUN, "inspect", str(sample), "-f", report]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    loaded = run.stdout.splitlines()[-1].split()
    assert "gradtool.report.inspect" in loaded
    assert not [name for name in loaded if name.startswith(("pydantic", *OF_OTHER_COMMANDS))]
    assert any(name == "rich" for name in loaded) == (report == "table")


def test_nothing_in_the_package_imports_what_runs_files() -> None:
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            imported = {n.split(".")[0] for n in names}
            assert not imported & {"pickle", "marshal", "shelve"}
            is_torchs = module.parent.stem in ("torch", "torch_backend")
            assert "torch" not in imported or is_torchs


def test_every_module_can_be_imported_first() -> None:
    of_frameworks = set(_modules_in("integrations")) - {"dumps"}  # run where these are installed
    for module in MODULES:
        if module.stem == "__main__" or module.stem in of_frameworks:
            continue
        name = ".".join(module.relative_to(PACKAGE.parent).with_suffix("").parts)
        importlib.import_module(name.removesuffix(".__init__"))


def _loaded(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return {name.split(".")[0] for name in run.stdout.split()}


def _lines(module: Path) -> int:
    return len(module.read_text(encoding="utf-8").splitlines())


def _body_lines(function: ast.FunctionDef) -> int:
    """Lines of the statements; a docstring and a list of parameters may be as long as they need."""
    first, *others = function.body
    if others and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        first = others[0]
    return (function.end_lineno or 0) - first.lineno + 1
