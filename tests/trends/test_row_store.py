"""The row store: what comes out is what was measured, whatever happens to it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from environment import PLAIN
from hypothesis import given, settings
from hypothesis import strategies as st

import gradtool
from gradtool.core.stats import TensorStats
from gradtool.storage.rows import numbers
from gradtool.storage.rows.place import NoStoreError
from gradtool.storage.rows.seals import opened, sealed
from gradtool.storage.rows.store import RowStore
from trends.runs import LONG_AGO_NS, measured_files, plain, write_run, write_step

SAMPLES = Path(__file__).parents[2] / "sample_ckpts"
FIXTURES = Path(__file__).parents[1] / "fixtures" / "checkpoints"
VALUES = [1.0, -0.0, 3e200, 1e-300, math.nan, math.inf, -math.inf]


@pytest.fixture(autouse=True)
def _clock_that_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are settled once they are written: tests have no two seconds."""
    now = "gradtool.api.remembering.now_ns"
    monkeypatch.setattr(now, lambda: 4 * LONG_AGO_NS)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    steps = {
        n: {"w": rng.choice(VALUES, 7), "layers.0.v": rng.standard_normal(3), "zero": [0.0]}
        for n in range(1, 7)
    }
    return write_run(tmp_path / "run", steps)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "rows.sqlite"


OPTIONS: list[dict[str, object]] = [
    {},
    {"norm_type": math.inf},
    {"norm_type": 1.0, "exclude": "zero"},
    {"tensor": "*", "group_by": "1"},
    {"thresholds": {"GT203.max_norm": 1}},
    {"thresholds": {"GT103.max_consecutive": 3}, "last": 4},
    {"loss_scale": 3.0},
]


def test_rows_of_the_store_are_those_that_are_measured(run: Path, store: Path) -> None:
    """Asked for in any way, after any other."""
    measured = [plain(gradtool.trend(run, **options)) for options in OPTIONS]  # type: ignore[arg-type]
    for _ in range(2):
        for options, wanted in zip(OPTIONS, measured, strict=True):
            trend = gradtool.trend(run, cache=store, **options)  # type: ignore[arg-type]
            assert plain(trend) == wanted
            assert trend.notes == ()


@given(order=st.permutations(range(6)), taken=st.integers(1, 6))
@settings(max_examples=10)
def test_in_any_order_and_in_parts(
    order: list[int], taken: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ordered")
    run = write_run(folder / "run", {n: {"w": [float(n), math.nan][: 1 + n % 2]} for n in range(6)})
    files = [run / f"step_{n}.safetensors" for n in order]
    gradtool.trend(*files[:taken], cache=folder / "rows")
    assert plain(gradtool.trend(run, cache=folder / "rows")) == plain(gradtool.trend(run))


def test_what_was_measured_is_not_read_again(
    run: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradtool.trend(run, cache=store)
    opened = measured_files(monkeypatch)
    gradtool.trend(*run.iterdir(), cache=store)  # under the same names
    gradtool.trend(*run.iterdir(), cache=store, tensor="w", thresholds={"GT203.max_norm": 1})
    assert set(opened) <= {"step_1.safetensors"}  # its header tells whether it is one of ranks
    gradtool.trend(*run.iterdir(), cache=store, norm_type=1)
    assert len(set(opened)) == 6


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("ranks_dtensor_2", {"section": ""}),
        ("dcp_gradients", {}),
        ("hf_sharded", {"section": ""}),
        ("accelerate", {"section": "model"}),
    ],
)
def test_checkpoints_of_every_kind_come_back(
    path: str, where: dict[str, str], tmp_path: Path, store: Path
) -> None:
    for step in (1, 2):
        shutil.copytree(FIXTURES / path / "checkpoint", tmp_path / "run" / f"step_{step}")
    wanted = plain(gradtool.trend(tmp_path / "run", **where))  # type: ignore[arg-type]
    for _ in range(2):
        assert plain(gradtool.trend(tmp_path / "run", cache=store, **where)) == wanted  # type: ignore[arg-type]
    with RowStore(str(store)) as kept:
        assert kept.kept().dumps == 2


@pytest.mark.parametrize("sample", ["tied.pt", "training.pt", "overflow_f16.safetensors"])
def test_tied_and_sorted_tensors_come_back(sample: str, tmp_path: Path, store: Path) -> None:
    suffix = Path(sample).suffix
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        shutil.copy(SAMPLES / sample, tmp_path / "run" / f"step_{step}{suffix}")
    wanted = plain(gradtool.trend(tmp_path / "run", group_by="1"))
    for _ in range(2):
        assert plain(gradtool.trend(tmp_path / "run", cache=store, group_by="1")) == wanted


def test_rows_of_two_models_by_turns_come_back(tmp_path: Path, store: Path) -> None:
    models = {"w": [3.0, 4.0], "v": [1.0]}, {"w": [3.0, 4.0, 5.0], "v": [0.0]}
    run = write_run(tmp_path / "run", {n: models[n % 3 == 1] for n in range(8)})
    measured = plain(gradtool.trend(run, tensor="w"))
    for _ in range(2):
        trend = gradtool.trend(run, cache=store, tensor="w")
        assert (plain(trend), trend.notes) == (measured, ())
    assert gradtool.trend(run).runs[0].steps[1].model != gradtool.trend(run).runs[0].steps[2].model


def test_a_catalogue_is_there_for_every_dump_whatever_was_dropped(store: Path) -> None:
    catalogue = b"the same for all"
    with RowStore(str(store)) as rows:
        for key in (b"1" * 32, b"2" * 32):
            rows.add_dump(key, catalogue, b"figures")
            rows.add_dump(key + b"b", catalogue, b"figures")
            rows.clear()
        rows.add_dump(b"3" * 32, catalogue, b"figures")
        rows.flush()
        found = rows.dump(b"3" * 32)
        assert found is not None
        assert rows.catalogue(found[0]) == catalogue


def test_a_file_that_changed_is_measured_again(run: Path, store: Path) -> None:
    gradtool.trend(run, cache=store)
    write_run(run, {3: {"w": [1.0] * 7, "layers.0.v": [1.0] * 3, "zero": [5.0]}})
    assert plain(gradtool.trend(run, cache=store)) == plain(gradtool.trend(run))


def test_a_file_that_comes_later_is_seen(tmp_path: Path, store: Path) -> None:
    run = tmp_path / "run"
    for step in (1, 2):
        write_step(run / f"step_{step}" / "a.safetensors", {"w": [3.0]})
    first = gradtool.trend(run, cache=store)
    write_step(run / "step_2" / "b.safetensors", {"v": [4.0]})
    again = gradtool.trend(run, cache=store)
    assert plain(again) == plain(gradtool.trend(run)) != plain(first)


@pytest.mark.parametrize("ahead_ns", [0, 1_900_000_000, -60_000_000_000, 2_100_000_000])
def test_what_changed_just_now_is_not_kept(
    run: Path, store: Path, monkeypatch: pytest.MonkeyPatch, ahead_ns: int
) -> None:
    """Nor where the clock runs backwards."""
    newest = max(path.stat().st_ctime_ns for path in run.iterdir())
    monkeypatch.setattr("gradtool.api.remembering.now_ns", lambda: newest + ahead_ns)
    trend = gradtool.trend(run, cache=store)
    assert trend.notes == ()
    with RowStore(str(store)) as kept:
        assert kept.kept().dumps == (6 if ahead_ns >= 2_000_000_000 else 0)


# What a store may hold.

stats = st.builds(
    TensorStats,
    st.just(2.0),
    st.just(10**6),
    *[st.floats(0, allow_nan=False)] * 2,
    st.floats(0, 1e308),
    st.floats(0, allow_nan=False),
    *[st.integers(0, 1000)] * 5,
    st.none(),
    st.lists(st.tuples(st.floats(0, 1e300), st.floats(-1e300, 1e300)), max_size=3).map(tuple),
)


@given(rows=st.lists(stats, max_size=5))
def test_any_statistics_come_back(rows: list[TensorStats]) -> None:
    assert numbers.unpacked(numbers.packed(rows), 2.0) == rows


@given(rows=st.lists(stats, max_size=3), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_bytes_that_were_changed_are_statistics_or_refused(
    rows: list[TensorStats], at: int, byte: int
) -> None:
    data = bytearray(numbers.packed(rows))
    data[at % len(data)] = byte
    try:
        found = numbers.unpacked(bytes(data), 2.0)
    except ValueError:
        return
    for one in found:
        assert one.nonfinite + one.zeros <= one.numel
        assert one.norm >= 0.0 or math.isnan(one.norm)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_statistics_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        assert len(numbers.unpacked(data, 2.0)) <= len(data) // 8


def _filled(path: Path) -> set[str]:
    """The tables of a store in which something is."""
    connection = sqlite3.connect(path)
    tables = ("dumps", "judged", "catalogues")
    counts = [connection.execute(f"SELECT count(*) FROM {name}").fetchone() for name in tables]  # noqa: S608
    connection.close()
    return {name for name, (count,) in zip(tables, counts, strict=True) if count}


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"x" * 3000])
@pytest.mark.parametrize("table", ["dumps", "judged", "catalogues"])
def test_content_that_nobody_sealed_is_not_believed(
    run: Path, store: Path, table: str, content: bytes
) -> None:
    wanted = [plain(gradtool.trend(run, cache=store, **asked)) for asked in ({}, {"tensor": "*"})]  # type: ignore[arg-type]
    assert _filled(store) == {"dumps", "judged", "catalogues"}
    connection = sqlite3.connect(store)
    connection.execute(f"UPDATE {table} SET content = ?", (content,))  # noqa: S608
    connection.commit()
    connection.close()
    found = [gradtool.trend(run, cache=store), gradtool.trend(run, cache=store, tensor="*")]
    assert list(map(plain, found)) == wanted
    assert any("no rows are kept any more" in note for one in found for note in one.notes)


def _sealed_anew(path: Path, table: str, change: Callable[[bytes], bytes]) -> None:
    """Change the content of all rows of a table, as somebody does who knows how they are sealed."""
    connection = sqlite3.connect(path)
    for row, content in connection.execute(f"SELECT rowid, content FROM {table}").fetchall():  # noqa: S608
        changed = sealed(change(opened(content)))
        connection.execute(f"UPDATE {table} SET content = ? WHERE rowid = ?", (changed, row))  # noqa: S608
    connection.commit()
    connection.close()


def _lying(**said: object) -> Callable[[bytes], bytes]:
    """What puts other members into the JSON that a row begins with."""

    def change(row: bytes) -> bytes:
        end = 4 + struct.unpack_from("<I", row)[0]
        head = json.dumps({**json.loads(row[4:end]), **said}).encode()
        return struct.pack("<I", len(head)) + head + row[end:]

    return change


@pytest.mark.parametrize("said", [{"norm_type": 10**400}, {"norm_type": "NaN"}, {"step": -1}])
def test_rows_that_lie_under_a_seal_are_not_believed(
    run: Path, store: Path, said: dict[str, object]
) -> None:
    wanted = plain(gradtool.trend(run, cache=store))
    _sealed_anew(store, "judged", _lying(**said))
    trend = gradtool.trend(run, cache=store)
    assert plain(trend) == wanted
    assert trend.notes[0].startswith("no rows are kept any more")


@pytest.mark.parametrize("at", [-100, -97, -60])
def test_one_byte_of_a_figure_is_not_believed(run: Path, store: Path, at: int) -> None:
    wanted = plain(gradtool.trend(run, cache=store))
    connection = sqlite3.connect(store)
    rows = connection.execute("SELECT rowid, content FROM judged").fetchall()
    for row, content in rows:
        changed = bytearray(content)
        changed[at] ^= 1
        connection.execute("UPDATE judged SET content = ? WHERE rowid = ?", (changed, row))
    connection.commit()
    connection.close()
    trend = gradtool.trend(run, cache=store)
    assert plain(trend) == wanted
    assert "damaged" in trend.notes[0]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_a_damaged_file_never_changes_a_figure(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    run = write_run(folder / "run", {n: {"w": [float(n), 2.0]} for n in (1, 2, 3)})
    store = folder / "rows"
    gradtool.trend(run, cache=store)
    rng = np.random.default_rng(seed)
    data = bytearray(store.read_bytes())
    for _ in range(int(rng.integers(1, 30))):
        at = int(rng.integers(0, len(data)))
        data[at : at + 8] = rng.bytes(len(data[at : at + 8]))
    store.write_bytes(data[: len(data) - int(rng.choice([0, 0, 1, 5000]))])
    trend = gradtool.trend(run, cache=store)
    assert plain(trend) == plain(gradtool.trend(run))


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TRIGGER t AFTER INSERT ON dumps BEGIN DELETE FROM judged; END",
        "CREATE VIEW v AS SELECT * FROM dumps",
        "CREATE TABLE more (x)",
        "CREATE INDEX i ON dumps (hex(key))",
        "PRAGMA user_version = 2",
        "PRAGMA application_id = 1",
        "PRAGMA journal_mode = WAL",
    ],
)
def test_a_store_of_another_form_is_none(run: Path, store: Path, sql: str) -> None:
    gradtool.trend(run, cache=store)
    connection = sqlite3.connect(store)
    connection.execute(sql)
    connection.commit()
    connection.close()
    before = store.read_bytes()
    trend = gradtool.trend(run, cache=store)
    assert plain(trend) == plain(gradtool.trend(run))
    (note,) = trend.notes
    assert note.startswith("no rows are kept: ")
    assert store.read_bytes() == before


def test_a_journal_that_names_another_file_removes_nothing(tmp_path: Path, store: Path) -> None:
    RowStore(str(store)).close()
    precious = tmp_path / "precious"
    precious.write_text("mine")
    name = os.fsencode(precious)
    journal = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 504
    journal += (1).to_bytes(4, "big") + name + len(name).to_bytes(4, "big")
    journal += (sum(name) % 2**32).to_bytes(4, "big") + b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
    Path(f"{store}-journal").write_bytes(journal)
    with pytest.raises(NoStoreError, match="journal"):
        RowStore(str(store))
    assert precious.read_text() == "mine"


# What may happen to a store.


def test_a_store_that_is_locked_is_a_note(
    run: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RowStore(str(store)).close()
    monkeypatch.setattr("gradtool.storage.rows.connection.PATIENCE_S", 0.05)
    holder = sqlite3.connect(store, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    trend = gradtool.trend(run, cache=store)
    holder.execute("ROLLBACK")
    holder.close()
    assert plain(trend) == plain(gradtool.trend(run))
    assert "locked" in trend.notes[0]
    assert gradtool.trend(run, cache=store).notes == ()


def test_a_store_that_is_full_drops_what_came_first(tmp_path: Path) -> None:
    with RowStore(str(tmp_path / "rows"), most_bytes=200_000) as store:
        for number in range(100):
            store.add_dump(b"%032d" % number, b"the same for all", os.urandom(10_000))
            store.flush()
        kept = [n for n in range(100) if store.dump(b"%032d" % n) is not None]
        assert kept == list(range(kept[0], 100)) and 5 < len(kept) < 20
        assert store.kept().nbytes < 300_000
        assert store.problem == ""


def test_a_disk_that_is_full_is_a_note(run: Path, store: Path) -> None:
    RowStore(str(store)).close()
    script = (
        "import resource, signal, sys, gradtool, gradtool.api.remembering as r\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        f"r.now_ns = lambda: {4 * LONG_AGO_NS}\n"
        "trend = gradtool.trend(sys.argv[1], cache=sys.argv[2])\n"
        "print(len(trend.steps), *trend.notes)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(run), str(store)],
        capture_output=True,
        text=True,
        check=True,
        env=PLAIN,
    )
    assert ended.stdout.startswith("6 no rows are kept")


def test_a_store_that_may_not_be_written_is_none(run: Path, tmp_path: Path) -> None:
    trend = gradtool.trend(run, cache=tmp_path / "nowhere" / "rows")
    assert plain(trend) == plain(gradtool.trend(run))
    assert trend.notes[0].startswith("no rows are kept: ")
    os.symlink(tmp_path / "elsewhere", tmp_path / "link")
    assert gradtool.trend(run, cache=tmp_path / "link").notes
    assert not (tmp_path / "elsewhere").exists()


WRITER = """
import os, sys, time
from gradtool.storage.rows.store import RowStore
first, count, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with RowStore(path) as store:
    print("open", flush=True)
    for number in range(first, first + count):
        store.add_dump(b"%032d" % number, b"catalogue", b"%d" % number * 500)
        store.add_judged(b"%032d" % number, b"policy", b"%d" % number)
        store.flush()
        if store.problem:
            sys.exit(store.problem)
        time.sleep(0.01)  # who writes all the time leaves others no moment to read
"""


def _writer(first: int, count: int, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(first), str(count), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=PLAIN,
    )


def test_two_processes_share_a_store(store: Path) -> None:
    writers = [_writer(first, 40, store) for first in (0, 20)]
    assert [writer.wait() for writer in writers] == [0, 0]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()
    with RowStore(str(store)) as kept:
        for number in range(60):
            found = kept.dump(b"%032d" % number)
            assert found is not None and found[1] == b"%d" % number * 500
            assert kept.judged(b"%032d" % number, b"policy") == b"%d" % number


@pytest.mark.parametrize("seed", range(4))
def test_whenever_a_writer_is_killed_what_is_there_is_whole(store: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with _writer(0, 100_000, store) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with RowStore(str(store)) as kept:
            wanted = b"%032d" % rng.integers(1, 60)
            while kept.dump(wanted) is None:
                assert (writer.poll(), kept.problem) == (None, "")
        writer.send_signal(signal.SIGKILL)
    with RowStore(str(store)) as kept:
        dumps = kept.kept().dumps
        for number in range(dumps):
            found = kept.dump(b"%032d" % number)
            assert found is not None and found[1] == b"%d" % number * 500
        assert kept.dump(b"%032d" % dumps) is None
        assert kept.problem == ""
        kept.add_dump(b"%032d" % dumps, b"catalogue", b"more")
        kept.flush()
        assert kept.problem == ""


# Where the user's store lies.


def test_the_users_store_is_private(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert gradtool.trend(run, cache=True).notes == ()
    folder = tmp_path / "caches" / "gradtool"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "rows.sqlite").stat().st_mode & 0o777 == 0o600
    folder.chmod(0o755)
    assert "0700" in gradtool.trend(run, cache=True).notes[0]
    folder.rename(tmp_path / "moved")
    (tmp_path / "moved").chmod(0o700)
    folder.symlink_to(tmp_path / "moved")
    assert "link" in gradtool.trend(run, cache=True).notes[0]


def test_a_damaged_store_of_the_users_makes_room(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gradtool.trend(run, cache=True)
    path = tmp_path / "gradtool" / "rows.sqlite"
    path.write_bytes(b"nonsense" * 1000)
    assert "set aside" in gradtool.trend(run, cache=True).notes[0]
    assert gradtool.trend(run, cache=True).notes == ()
    assert (tmp_path / "gradtool" / "rows.sqlite.damaged").read_bytes() == b"nonsense" * 1000


def test_check_uses_a_store_only_if_one_is_given(
    run: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = gradtool.check(run).to_rows()
    gradtool.trend(run, cache=store)
    opened = measured_files(monkeypatch)
    assert repr(gradtool.check(*run.iterdir(), cache=store).to_rows()) == repr(wanted)
    assert set(opened) <= {"step_1.safetensors"}
    gradtool.check(*run.iterdir())
    assert len(set(opened)) == 6


@pytest.mark.parametrize("options", [{}, {"norm_type": 1.0}, {"include": "a"}])
def test_a_baseline_is_the_same_of_rows_that_were_kept_and_reads_nothing_again(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    steps = {n: {"a": [3.0, float(n)], "b": [[0.0, 2.0, n]]} for n in range(1, 5)}
    run = write_run(tmp_path / "run", steps)
    out = tmp_path / "grads.baseline.json"
    dumps = sorted(run.iterdir())
    gradtool.save_baseline(dumps, out, **options)
    wanted = out.read_bytes()
    gradtool.trend(run, cache=store, **options)
    opened = measured_files(monkeypatch)
    gradtool.save_baseline(dumps, out, force=True, cache=store, **options)
    old, new = gradtool.update_baseline(dumps, out, cache=store, **options)
    assert out.read_bytes() == wanted and old == new
    assert set(opened) <= {"step_1.safetensors"}  # of which names are looked at
    gradtool.save_baseline(dumps, out, force=True, **options)
    assert len(set(opened)) == 4


def test_a_baseline_keeps_rows_for_others_and_refuses_what_rows_say_is_not_well(
    run: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "grads.baseline.json"
    healthy = write_run(tmp_path / "healthy", {1: {"w": [1.0]}, 2: {"w": [2.0]}})
    gradtool.save_baseline(healthy, out, cache=store)
    gradtool.trend(run, cache=store)
    opened = measured_files(monkeypatch)
    gradtool.trend(*healthy.iterdir(), cache=store)
    assert set(opened) <= {"step_1.safetensors"}
    with pytest.raises(gradtool.NonFiniteError):
        gradtool.save_baseline(run / "step_2.safetensors", tmp_path / "none", cache=store)
    assert set(opened) <= {"step_1.safetensors"} and not (tmp_path / "none").exists()


def test_a_store_that_cannot_be_used_is_a_warning_for_baselines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    step = write_step(tmp_path / "step_1.safetensors", {"w": [1.0]})
    gradtool.save_baseline(step, tmp_path / "out", cache=tmp_path / "nowhere" / "rows")
    (record,) = caplog.records
    assert "no rows are kept" in record.getMessage() and (tmp_path / "out").exists()


@pytest.mark.parametrize("most", [0, 2])
def test_ranks_that_are_a_question_are_judged_by_themselves(
    tmp_path: Path, store: Path, most: int
) -> None:
    for rank in (0, 1):
        write_step(tmp_path / "run" / f"step1_rank{rank}.safetensors", {"w": [1.0 + rank]})
    plainly = gradtool.check(tmp_path / "run", thresholds={"GT103.max_consecutive": most})
    assert len(plainly.verdicts) == 2
    for _ in range(2):
        kept = gradtool.check(
            tmp_path / "run", cache=store, thresholds={"GT103.max_consecutive": most}
        )
        assert kept.to_rows() == plainly.to_rows()
    with pytest.raises(gradtool.RanksQuestionError):
        gradtool.trend(tmp_path / "run", cache=store)


def test_another_policy_says_something_else_of_the_same_rows(tmp_path: Path, store: Path) -> None:
    run = write_run(tmp_path / "run", {1: {"w": [3.0, 4.0]}, 2: {"w": [3.0, 4.0]}})
    policies: list[dict[str, object]] = [
        {},
        {"thresholds": {"GT203.max_norm": 1}},
        {"thresholds": {"GT203.max_norm": 1, "GT203.severity": "warning"}},
        {"ignore": "GT203"},
    ]
    for _ in range(2):
        codes = [gradtool.trend(run, cache=store, **one).exit_code for one in policies]  # type: ignore[arg-type]
        assert codes == [0, 1, 0, 0]
