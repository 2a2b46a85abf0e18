"""The recorder: rows are those of dumps of the same gradients, whatever happens to the training."""

from __future__ import annotations

import logging
import math
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run as gradtool_command
from environment import PLAIN
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradtool
from gradtool.core.trends.trend import Trend
from gradtool.errors import FileAccessError, UsageError
from gradtool.storage.rows.measurements import catalogue_bytes, figures_bytes
from gradtool.storage.rows.record import RecordWriter
from gradtool.torch import Recorder, dump_gradients

Pairs = list[tuple[str, nn.Parameter]]

RANKS = Path(__file__).parent / "recorded_by_two.py"
VALUES = [1.0, -0.0, 3e200, 1e-300, 5e-324, math.nan, math.inf, -math.inf, 1 / 3]


def pairs(**elements: Any) -> Pairs:
    """Parameters with these gradients."""
    made = []
    for name, grad in elements.items():
        tensor = grad if isinstance(grad, torch.Tensor) else torch.tensor(grad, dtype=torch.float64)
        parameter = nn.Parameter(torch.zeros(tensor.shape, dtype=tensor.dtype))
        parameter.grad = tensor
        made.append((name, parameter))
    return made


def norms_in(store: Path, **options: Any) -> dict[int | None, float]:
    (run,) = gradtool.trend(store, **options).runs
    return {step.number: step.total.norm for step in run.steps if step.total is not None}


def of_no_path(trend: Trend) -> Any:
    """All that a trend says, but for where it was read, and how long that took."""
    fields = asdict(trend)
    del fields["elapsed_s"], fields["notes"], fields["policy"]
    for run in fields["runs"]:
        del run["name"]
        for conclusion in run["conclusions"]:
            del conclusion["path"]
        for step in run["steps"]:
            for name in ("elapsed_s", "path", "format"):
                del step["verdict"][name]
            notes = step["verdict"]["notes"]  # who says of a loss scale what it is
            step["verdict"]["notes"] = [note.partition(" says that ")[2] or note for note in notes]
    return repr(fields)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(VALUES) | st.floats(width=32), min_size=1, max_size=40),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_a_row_has_the_figures_of_the_gradients(
    tmp_path_factory: pytest.TempPathFactory, elements: list[float], dtype: torch.dtype
) -> None:
    folder = tmp_path_factory.mktemp("run")
    grad = torch.tensor(elements, dtype=torch.float64).to(dtype)
    with Recorder(pairs(w=grad), folder / "run.rows", dump_on="") as recorder:
        recorder.before_clipping(step=1)
    values = grad.double().tolist()
    finite = [value for value in values if math.isfinite(value)]
    (run,) = gradtool.trend(folder / "run.rows", tensor="w").runs
    stats = run.steps[0].tensors[0].stats
    largest = max(map(abs, finite), default=0.0)
    scaled = [value / largest for value in finite] if largest else []
    true_norm = largest * math.sqrt(math.fsum(value * value for value in scaled))
    assert math.isclose(stats.finite_norm, true_norm, rel_tol=1e-12, abs_tol=1e-320)
    assert stats.max_abs == largest
    assert stats.zeros == sum(value == 0.0 for value in values)
    assert stats.nan == sum(map(math.isnan, values))
    assert (stats.posinf, stats.neginf) == (values.count(math.inf), values.count(-math.inf))
    measured = gradtool.measure(pairs(w=grad)).tensors[0].stats
    assert repr(stats) == repr(measured)


def model() -> nn.Module:
    """With tied weights, a frozen parameter, one without a gradient, and a sparse gradient."""
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {
            "embed": nn.Embedding(6, 4),
            "rare": nn.Embedding(6, 4, sparse=True),
            "body": nn.Linear(4, 4),
            "head": nn.Linear(4, 6, bias=False),
            "unused": nn.Linear(2, 2),
        }
    )
    net["head"].weight = net["embed"].weight
    net["body"].bias.requires_grad_(requires_grad=False)
    return net


def backward(net: Any, step: int) -> None:
    net.zero_grad()
    tokens = (torch.arange(8) * step) % 6
    # Each once: of several the dump has the sum in float32, and the row the sum itself.
    states = net["embed"](tokens) + net["rare"](tokens.unique()).sum(0)
    loss = net["head"](net["body"](states).tanh()).square().mean()
    (loss * (math.nan if step == 4 else 2.0**step)).backward()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"last": 3},
        {"tensor": "*", "group_by": "1"},
        {"include": "head*"},
        {"exclude": ["rare*", "unused*"], "max_norm": 1.0},
        {"thresholds": {"GT203.max_norm": 1}},
    ],
)
def test_the_trend_of_the_rows_is_that_of_the_dumps(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    net = model()
    with Recorder(net, tmp_path / "run.rows", dump_on="") as recorder:
        for step in range(1, 7):
            backward(net, step)
            scale = 1024.0 if step == 5 else None
            recorder.before_clipping(step=step, loss_scale=scale)
            (tmp_path / "run").mkdir(exist_ok=True)
            path = tmp_path / "run" / f"step_{step}.safetensors"
            dump_gradients(net, path, step=step, loss_scale=scale)
    rows = gradtool.trend(tmp_path / "run.rows", **options)
    assert of_no_path(rows) == of_no_path(gradtool.trend(tmp_path / "run", **options))


def test_every_so_many_steps_are_recorded(tmp_path: Path) -> None:
    with Recorder(pairs(w=[3.0, 4.0]), tmp_path / "a" / "run.rows", every=3) as recorder:
        for step in range(1, 10):
            recorder.before_clipping(step=step)
    assert norms_in(tmp_path / "a" / "run.rows") == {3: 5.0, 6: 5.0, 9: 5.0}


def test_the_command_reads_a_store_as_a_run(tmp_path: Path) -> None:
    grads = pairs(w=[3.0, 4.0])
    store = tmp_path / "run.rows"
    with Recorder(grads, store) as recorder:
        recorder.before_clipping(step=1)
        grads[0][1].grad = torch.tensor([3.0, math.nan]).double()
        recorder.before_clipping(step=2)
    found = gradtool_command("trend", str(store), "-f", "csv")
    assert found.returncode == 1
    assert [line.split(",")[0] for line in found.stdout.splitlines()[1:]] == ["1", "2"]
    refused = gradtool_command("inspect", str(store))
    assert refused.returncode == 3
    assert "gradtool trend" in refused.stderr


def test_of_broken_steps_in_a_row_the_first_is_dumped_and_the_last_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grads = pairs(w=[3.0, 4.0])
    broken = {2, 3, 5, 7, 8, 10}
    with Recorder(grads, tmp_path / "run.rows", most_dumps=2) as recorder:
        for step in range(1, 12):
            grads[0][1].grad = torch.tensor([3.0, math.inf if step in broken else 4.0]).double()
            path = recorder.before_clipping(step=step)
            assert (path is not None) == (step in {2, 5, 7, 10})
    kept = sorted((tmp_path / "run-dumps").iterdir())
    assert [path.name for path in kept] == [f"grads_step{n:06d}.safetensors" for n in (7, 10)]
    measured = gradtool.measure(kept[0])
    assert (measured.step, measured["w"].stats.posinf) == (7, 1)
    assert len(norms_in(tmp_path / "run.rows")) == 11
    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"step {step}" for step in (2, 5, 7, 10)
    ]


def test_a_batch_that_is_scaled_is_a_spike_and_dumped_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    seen: dict[int, dict[str, torch.Tensor]] = {}
    with Recorder(net, tmp_path / "run.rows", dump_on="nonfinite|spike", most_dumps=2) as recorder:
        for step in range(1, 121):
            inputs = torch.randn(32, 8)
            targets = inputs.sum(dim=1, keepdim=True)
            if step in {40, 70, 71, 100}:  # the second of two in a row is not dumped
                targets = 10.0 * targets
            optimizer.zero_grad()
            (net(inputs) - targets).square().mean().backward()
            path = recorder.before_clipping(step=step)
            if path is not None:
                grads = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
                seen[step] = grads
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    assert [*seen] == [40, 70, 100]
    kept = sorted((tmp_path / "run-dumps").iterdir())
    assert [path.name for path in kept] == [f"grads_step{n:06d}.safetensors" for n in (70, 100)]
    for path, step in zip(kept, (70, 100), strict=True):
        assert gradtool.diff(path, [*seen[step].items()]).identical
    first = caplog.records[0].message
    assert first.startswith("step 40: gradients with norm ") and " times the median " in first
    found = gradtool.trend(tmp_path / "run.rows")
    told = {one.step for run in found.runs for one in run.conclusions if one.code == "spike"}
    assert told == {40, 70, 100}


def test_a_level_that_stays_is_dumped_where_it_begins(tmp_path: Path) -> None:
    grads = pairs(w=[1.0])
    norms = [1.0, 1.1] * 10 + [4.0, 4.4] * 4 + [2.0, *[4.0, 4.4] * 4, 13.0]
    dumped = []
    with Recorder(grads, tmp_path / "run.rows", dump_on="spike", most_dumps=9) as recorder:
        for step, norm in enumerate(norms, 1):
            grads[0][1].grad = torch.tensor([norm]).double()
            if recorder.before_clipping(step=step) is not None:
                dumped.append((step, norm))
    assert dumped == [(21, 4.0), (38, 13.0)]
    told = gradtool.trend(tmp_path / "run.rows").conclusions
    assert [one.step for one in told if one.code in ("raised-level", "spike")][:1] == [21]


def test_a_step_that_is_recorded_again_is_one_of_those_before_the_next(tmp_path: Path) -> None:
    grads = pairs(w=[1.0])
    dumped = []
    with Recorder(grads, tmp_path / "run.rows", dump_on="spike", most_dumps=9) as recorder:
        for step, norms in enumerate([[9.0, 1.0], [9.0, 1.0], [9.0, 1.0], [9.0, 1.0], [3.0]], 1):
            for norm in norms:
                grads[0][1].grad = torch.tensor([norm]).double()
                path = recorder.before_clipping(step=step)
                dumped += [] if path is None else [(step, norm)]
    assert dumped == [(5, 3.0)]


def test_a_norm_that_the_gradients_dtype_cannot_hold_is_dumped(tmp_path: Path) -> None:
    grads = pairs(w=torch.tensor([6e4, 6e4], dtype=torch.float16))
    with Recorder(grads, tmp_path / "run.rows") as recorder:
        assert recorder.before_clipping(step=1) is not None


def test_a_step_that_is_recorded_again_counts_the_last_time_and_is_noted(tmp_path: Path) -> None:
    store = tmp_path / "run.rows"
    for start, factor in ((1, 1.0), (4, 2.0)):
        grads = pairs(w=[3.0 * factor, 4.0 * factor])
        with Recorder(grads, store) as recorder:
            for step in range(start, 7 if start == 1 else 6):
                recorder.before_clipping(step=step)
                recorder.before_clipping(step=step)  # of which nothing is noted
    assert norms_in(store) == {1: 5.0, 2: 5.0, 3: 5.0, 4: 10.0, 5: 10.0, 6: 5.0}
    again, stale = gradtool.trend(store).notes
    assert again.endswith("steps 4, 5 were recorded more than once, and the last time counts")
    assert "step 6 is of an earlier start of the run" in stale


def test_rows_are_there_when_a_process_has_ended_without_a_word(tmp_path: Path) -> None:
    store = tmp_path / "run.rows"
    script = f"""
import sys, torch
from gradtool.torch import Recorder
w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, 4.0])
recorder = Recorder([("w", w)], {str(store)!r})
for step in range(1, 50):
    recorder.before_clipping(step=step)
raise SystemExit("the training failed")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], env=PLAIN, capture_output=True, check=False, timeout=120
    )
    assert ended.returncode == 1
    assert norms_in(store) == dict.fromkeys(range(1, 50), 5.0)


@pytest.mark.parametrize("after", range(6))
def test_whenever_a_training_is_killed_all_that_was_committed_is_there(
    tmp_path: Path, after: int
) -> None:
    store = tmp_path / "run.rows"
    script = f"""
import torch
from gradtool.torch import Recorder
w = torch.nn.Parameter(torch.zeros(2000)); w.grad = torch.ones(2000)
recorder = Recorder([(f"w{{n}}", w) for n in range(300)][:1], {str(store)!r})
step = 0
while True:
    step += 1
    w.grad.fill_(step)
    recorder.before_clipping(step=step)
    recorder.close()
    print(step, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], env=PLAIN, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(1 + 7 * after):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        committed = 1 + 7 * after + len(process.stdout.readlines())
    found = norms_in(store)
    assert [*found] == [*range(1, len(found) + 1)]
    assert committed - 1 <= len(found) <= committed + 1  # the last line may be half a number
    root = math.sqrt(2000)
    assert all(math.isclose(norm, step * root, rel_tol=1e-12) for step, norm in found.items())
    with Recorder(pairs(w=[1.0]), store) as recorder:  # and training goes on
        recorder.before_clipping(step=10_000)
    assert norms_in(store, last=1) == {10_000: 1.0}


def test_a_full_disk_is_told_once_and_rows_wait(tmp_path: Path) -> None:
    store = tmp_path / "run.rows"
    script = f"""
import logging, resource, time, torch
import gradtool.storage.rows.record as record
from gradtool.torch import Recorder
logging.basicConfig(format="%(message)s")
w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, 4.0])
recorder = Recorder([("w", w)], {str(store)!r})
record._COMMIT_S = 0.0
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for step in range(1, 200):
    if step == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    if step == 150: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    recorder.before_clipping(step=step)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=PLAIN,
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"step 3: not recorded: {store}: ")
    assert norms_in(store) == dict.fromkeys(range(1, 200), 5.0)


def test_who_reads_does_not_stop_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradtool.storage.rows.record._COMMIT_S", 0.0)
    store = tmp_path / "run.rows"
    recorder = Recorder(pairs(w=[3.0, 4.0]), store)
    recorder.before_clipping(step=1)
    reader = sqlite3.connect(store, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM steps").fetchone()
    recorder.before_clipping(step=2)
    recorder.before_clipping(step=3)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    reader.close()
    recorder.before_clipping(step=4)
    assert [*norms_in(store)] == [1, 2, 3, 4]


def test_a_store_that_vanishes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradtool.storage.rows.record._COMMIT_S", 0.0)
    store = tmp_path / "run.rows"
    recorder = Recorder(pairs(w=[3.0, 4.0]), store)
    recorder.before_clipping(step=1)
    store.unlink()
    recorder.before_clipping(step=2)
    assert norms_in(store) == {2: 5.0}


def test_a_process_that_forks_leaves_the_rows_that_wait_to_its_parent(tmp_path: Path) -> None:
    store = tmp_path / "run.rows"
    script = f"""
import os, torch
from gradtool.torch import Recorder
w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, 4.0])
recorder = Recorder([("w", w)], {str(store)!r}, threads=1)
recorder.before_clipping(step=1)
recorder.before_clipping(step=2)
child = os.fork()
if child:
    os.waitpid(child, 0)
    raise SystemExit(0)
recorder.before_clipping(step=3)
recorder.close()
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], env=PLAIN, check=True, timeout=120)
    assert norms_in(store) == {1: 5.0, 2: 5.0, 3: 5.0}
    assert all("more than once" not in note for note in gradtool.trend(store).notes)


def test_several_stores_are_several_runs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with Recorder(pairs(w=[3.0, 4.0]), tmp_path / f"run-{name}.rows") as recorder:
            recorder.before_clipping(step=1)
    (tmp_path / "dumps").mkdir()
    dump_gradients(pairs(w=[1.0]), tmp_path / "dumps" / "step1.safetensors", step=1)
    found = gradtool.trend(str(tmp_path / "*.rows"), str(tmp_path / "dumps" / "step1.safetensors"))
    assert [len(run.steps) for run in found.runs] == [1, 1, 1]


def test_gradients_that_cannot_be_measured_end_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    w = nn.Parameter(torch.zeros(2))
    recorder = Recorder([("w", w)], tmp_path / "run.rows")
    for step in range(1, 4):
        assert recorder.before_clipping(step=step) is None
    (record,) = caplog.records
    assert record.message.startswith("step 1: not recorded: ")
    assert "no parameter has a gradient" in record.message
    found = gradtool_command("trend", str(tmp_path / "run.rows"))
    assert found.returncode == 3
    assert "no step was recorded yet" in found.stdout


@pytest.mark.parametrize("step", [-1, 1 << 63])
def test_a_number_that_no_row_can_have_loses_no_other_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: int
) -> None:
    with Recorder(pairs(w=[3.0, 4.0]), tmp_path / "run.rows") as recorder:
        recorder.before_clipping(step=1)
        recorder.before_clipping(step=step)
        recorder.before_clipping(step=2)
    (record,) = caplog.records
    assert record.message.startswith(f"step {step}: not recorded: `step` must be from 0 to ")
    assert norms_in(tmp_path / "run.rows") == {1: 5.0, 2: 5.0}


def test_something_else_at_the_path_is_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.rows"
    text.write_text("of somebody else" * 20)
    cache = tmp_path / "cache.rows"
    dump_gradients(pairs(w=[1.0]), tmp_path / "step1.safetensors", step=1)
    gradtool.trend(tmp_path / "step1.safetensors", cache=cache)
    for path in (text, cache):
        before = path.read_bytes()
        with pytest.raises(FileAccessError):
            Recorder(pairs(w=[1.0]), path)
        assert path.read_bytes() == before


def test_a_recorded_run_is_no_cache(tmp_path: Path) -> None:
    store = tmp_path / "run.rows"
    with Recorder(pairs(w=[3.0, 4.0]), store) as recorder:
        recorder.before_clipping(step=1)
    dump_gradients(pairs(w=[1.0]), tmp_path / "step1.safetensors", step=1)
    (note,) = gradtool.trend(tmp_path / "step1.safetensors", cache=store).notes
    assert note.startswith("no rows are kept: ")
    assert gradtool_command("cache", "clear", "--cache", str(store)).returncode == 3
    assert norms_in(store) == {1: 5.0}


@pytest.mark.parametrize(
    "lie",
    [{"loss_scale": math.inf}, {"loss_scale": 0.0}, {"norm_type": math.nan}, {"step": 10**30}],
)
def test_rows_that_nobody_recorded_are_refused(tmp_path: Path, lie: dict[str, Any]) -> None:
    dump_gradients(pairs(w=[3.0, 4.0]), tmp_path / "step1.safetensors", step=1)
    found = replace(gradtool.measure(tmp_path / "step1.safetensors"), **lie)
    writer = RecordWriter(str(tmp_path / "run.rows"))
    writer.add(1, catalogue_bytes(found), figures_bytes(found), at_once=True)
    (step,) = gradtool.trend(tmp_path / "run.rows").steps
    assert [one.code for one in step.verdict.findings] == ["GT001"]
    assert "its rows cannot be read" in step.verdict.findings[0].message


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE steps SET content = zeroblob(200) WHERE step = 2",
        "UPDATE steps SET content = 'text' WHERE step = 2",
        "UPDATE steps SET session = 'x' WHERE step = 2",
        "UPDATE steps SET content = (SELECT content FROM steps WHERE step = 1) WHERE step = 2",
        "DELETE FROM catalogues",
        "CREATE VIEW more AS SELECT 1",
    ],
)
def test_a_damaged_store_is_no_healthy_run(tmp_path: Path, damage: str) -> None:
    store = tmp_path / "run.rows"
    with Recorder(pairs(w=[3.0, 4.0]), store) as recorder:
        for step in (1, 2, 3):
            recorder.before_clipping(step=step)
    connection = sqlite3.connect(store)
    connection.execute(damage)
    connection.commit()
    connection.close()
    found = gradtool_command("trend", str(store))
    assert found.returncode == 3
    assert "its rows cannot be read" in found.stdout + found.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"every": 0}, "every"),
        ({"most_dumps": 0}, "most_dumps"),
        ({"dump_on": "nonfinite|always"}, "'spike', not 'always'"),
        ({"dump_on": None}, "a text, not None"),
        ({"model": 5}, "not int"),
        ({"model": [torch.zeros(2)]}, "not list of Tensor"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Recorder(**{"model": pairs(w=[1.0]), "path": tmp_path / "run.rows", **options})
    assert not [*tmp_path.iterdir()]


def test_a_store_has_the_name_of_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rows"):
        Recorder(pairs(w=[1.0]), tmp_path / "run.sqlite")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "options", [{"norm_type": 1.0}, {"loss_scale": 2.0}, {"section": "grads"}, {"include": "x*"}]
)
def test_what_rows_cannot_tell_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    store = tmp_path / "run.rows"
    with Recorder(pairs(w=[3.0, 4.0]), store) as recorder:
        recorder.before_clipping(step=1)
    with pytest.raises(UsageError):
        gradtool.trend(store, **options)


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_two_ranks_record_one_run_of_whole_gradients(tmp_path: Path, wrapper: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(RANKS), wrapper, str(tmp_path)]
    interface = "lo0" if sys.platform == "darwin" else "lo"
    environment = {**PLAIN, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=180
    )
    assert ended.returncode == 0, ended.stderr
    (alone,) = gradtool.trend(tmp_path / "alone.rows", tensor="*").runs
    (shared,) = gradtool.trend(tmp_path / "run.rows", tensor="*").runs
    assert [step.number for step in shared.steps] == [1, 2]
    for one, other in zip(shared.steps, alone.steps, strict=True):
        for part, whole in zip(one.tensors, other.tensors, strict=True):
            assert part.name == whole.name
            assert part.stats.numel == whole.stats.numel
            assert part.stats.nan == whole.stats.nan
            assert math.isclose(part.stats.finite_norm, whole.stats.finite_norm, rel_tol=1e-12)
            assert math.isclose(part.stats.max_abs, whole.stats.max_abs, rel_tol=1e-12)
    dumped = sorted(os.listdir(tmp_path / "run-dumps"))
    suffixes = [""] if wrapper == "ddp" else ["-rank0", "-rank1"]
    assert dumped == [f"grads_step000002{suffix}.safetensors" for suffix in suffixes]
    assert gradtool.measure(tmp_path / "run-dumps").total.stats.nan == 66
