"""Too little memory, too few threads, a worker that is killed: one line, 3, and no verdict."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ENVIRONMENT, GRADTOOL, TIMEOUT_S, error_lines
from dumps import WINDOW, measured, stored, write_safetensors
from forks import Forks
from hypothesis import given
from hypothesis import strategies as st
from nobody import NOT_ROOT, give

import gradtool
from gradtool.engine.memory import shortage
from gradtool.engine.schedule import in_order
from gradtool.engine.threads import Threads
from gradtool.errors import ResourceError

LIMITED = pytest.mark.skipif(
    sys.platform != "linux", reason="other kernels do not hold a process to its limits of memory"
)
MIB = 1 << 20
ON_TORCH = ("--device", "cpu")


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dump of several tasks, more than one thread has at a time."""
    rng = np.random.default_rng(0)
    arrays = {f"w{i}": ("F32", rng.standard_normal(2_000_000, np.float32)) for i in range(6)}
    return str(write_safetensors(tmp_path_factory.mktemp("dump") / "x.safetensors", arrays))


def limited(kind: int, nbytes: int, *args: str) -> subprocess.CompletedProcess[str]:
    """gradtool in so much memory; its interpreter, too, has to start in it."""
    return subprocess.run(
        [*GRADTOOL, *args],
        capture_output=True,
        check=False,
        env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "8"},
        text=True,
        timeout=TIMEOUT_S,
        preexec_fn=lambda: resource.setrlimit(kind, (nbytes, nbytes)),
    )


def figures(result: subprocess.CompletedProcess[str]) -> Any:
    (report,) = json.loads(result.stdout)["reports"]
    return {**report, "elapsed_s": None}


def bare(kind: str) -> int:
    """Bytes that an interpreter takes which runs nothing: no line of gradtool's is run in fewer."""
    command = [sys.executable, "-c", "print(open('/proc/self/status').read())"]
    status = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return 1024 * int(status.partition(f"{kind}:")[2].split()[0])


@LIMITED
@pytest.mark.parametrize(("kind", "known"), [("RLIMIT_AS", "VmPeak"), ("RLIMIT_DATA", "VmData")])
def test_in_whatever_memory_a_report_is_the_same_or_there_is_none(
    kind: str, known: str, dump: str
) -> None:
    args = ("inspect", dump, "-f", "json", "--threads", "12")
    whole = figures(limited(resource.RLIMIT_AS, resource.RLIM_INFINITY, *args))
    least = bare(known)
    ends = []
    for more in [8, 12, 16, 24, 48, 80, 112, *range(128, 240, 12), 280, 320, 400, 600]:
        result = limited(getattr(resource, kind), least + more * MIB, *args)
        ends.append(result.returncode)
        if result.returncode == 0:
            assert (figures(result), result.stderr) == (whole, "")
        else:
            assert (result.returncode, result.stdout) == (3, "")
            assert len(error_lines(result)) == len(result.stderr.splitlines()) == 1
    assert ends[0] == 3
    assert ends[-8:] == [0] * 8


@LIMITED
def test_a_dump_gets_no_verdict_for_want_of_memory(dump: str) -> None:
    least = bare("VmPeak")
    for name in ("text", "json"):
        result = limited(resource.RLIMIT_AS, least + 100 * MIB, "check", dump, "-f", name)
        assert (result.returncode, result.stdout) == (3, "")
        assert "memory" in error_lines(result)[0]


@LIMITED
@pytest.mark.parametrize("more", [200, 400, 600])
def test_torch_is_not_begun_where_it_would_end_the_process(more: int, dump: str) -> None:
    result = limited(resource.RLIMIT_AS, bare("VmPeak") + more * MIB, "check", dump, *ON_TORCH)
    assert (result.returncode, result.stdout) == (3, "")
    assert "memory" in error_lines(result)[0]
    assert len(result.stderr.splitlines()) == 1


RUN_AND_COUNT = """
import os, runpy, sys, time
try: runpy.run_module("gradtool", run_name="__main__")
except SystemExit as end: assert not end.code, end.code
deadline = time.monotonic() + 10  # threads that have ended take a moment to be gone
while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline: time.sleep(0.01)
team = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 1
print(len(os.listdir("/proc/self/task")), team)
"""


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="threads are counted in Linux's /proc"
)
@pytest.mark.parametrize("options", [(), ON_TORCH])
def test_no_library_starts_threads_beside_gradtools(options: tuple[str, ...], dump: str) -> None:
    """Where they cannot, OpenBLAS interrupts the process and libgomp ends it, with exit code 1."""
    more = {"OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}
    result = subprocess.run(
        [sys.executable, "-c", RUN_AND_COUNT, "inspect", dump, *options],
        capture_output=True,
        check=True,
        env={**ENVIRONMENT, **more},
        text=True,
    )
    assert result.stdout.splitlines()[-1] == "1 1", "its own have ended"


@pytest.fixture(scope="module")
def endless_header(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file whose header alone is more than there is memory for."""
    path = tmp_path_factory.mktemp("header") / "x.safetensors"
    nbytes = 90 * MIB
    with path.open("wb") as file:
        file.write(nbytes.to_bytes(8, "little") + b"{")
        file.truncate(8 + nbytes)
    return str(path)


@LIMITED
@pytest.mark.parametrize(
    "call", ["measure(dump)", "check(dump)", "clip(dump, **dry)", "clip(header, **dry)"]
)
def test_python_raises_an_error_of_its_own(call: str, dump: str, endless_header: str) -> None:
    code = (
        "import resource, sys, gradtool\n"
        "_, dump, header = sys.argv; dry = {'max_norm': 1, 'dry_run': True}\n"
        "gradtool.measure, gradtool.check, gradtool.clip\n"
        "with open('/proc/self/status') as status: known = status.read()\n"
        "nbytes = 1024 * int(known.partition('VmSize:')[2].split()[0])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))\n"
        f"try: gradtool.{call}\n"
        "except gradtool.ResourceError as error: print('told', error.exit_code, error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, dump, endless_header],
        capture_output=True,
        check=True,
        env=ENVIRONMENT,
        text=True,
    )
    path = endless_header if "header" in call else dump
    assert result.stdout.startswith(f"told 3 {path}: too little memory")


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("nproc", [1, 2, 3, 5])
def test_whatever_number_of_threads_can_be_started_reports_are_the_same(
    nproc: int, threads: int, forks: Forks, anyones: Path
) -> None:
    """Fewer than the limit says, where others run as nobody too."""
    rng = np.random.default_rng(0)
    arrays = {f"w{i}": ("F32", rng.standard_normal(500_000, np.float32)) for i in range(12)}
    path = write_safetensors(anyones / "x.safetensors", arrays)
    args = ("check", path, "--threads", str(threads))
    give(anyones)
    run = forks.run(*args, nproc=nproc, **NOT_ROOT)
    assert (run.code, run.out, run.err) == (0, forks.run(*args).out, "")


@pytest.mark.parametrize("nproc", [1, 2, 3])
def test_gradients_are_clipped_with_whatever_threads_there_are(
    nproc: int, forks: Forks, anyones: Path
) -> None:
    arrays = {f"w{i}": ("F32", np.full(500_000, 3.0, np.float32)) for i in range(4)}
    path = write_safetensors(anyones / "x.safetensors", arrays)
    give(anyones)
    out = anyones / "out"
    run = forks.run("clip", path, "--max-norm", "1", "-o", out, nproc=nproc, **NOT_ROOT)
    assert (run.code, run.err) == (0, "")
    assert gradtool.measure(out).total.norm == pytest.approx(1.0, rel=1e-6)


# --- Threads


def results_of(threads: Threads, tasks: int, work: Callable[[int], int]) -> list[int]:
    with threads:
        return [found for _, found in in_order(range(tasks), work, threads, WINDOW)]


@given(st.integers(0, 5), st.integers(0, 30))
def test_threads_do_every_task_once_and_in_whatever_number(most: int, tasks: int) -> None:
    done: list[int] = []

    def work(task: int) -> int:
        done.append(task)
        return -task

    assert results_of(Threads(most), tasks, work) == [-task for task in range(tasks)]
    assert sorted(done) == list(range(tasks))


class Kept:
    """Memory that a thread keeps once it has some, of which there is enough for so many."""

    def __init__(self, enough_for: int) -> None:
        self.left = enough_for
        self.lock = threading.Lock()
        self.tried: set[threading.Thread] = set()
        self.own = threading.local()

    def take(self) -> None:
        self.tried.add(threading.current_thread())
        if hasattr(self.own, "share"):
            return
        with self.lock:
            if not self.left:
                raise MemoryError
            self.left -= 1
        self.own.share = Share(self)


class Share:
    def __init__(self, of: Kept) -> None:
        self.of = of

    def __del__(self) -> None:
        time.sleep(0.02)  # for others to come upon what is not given back yet
        with self.of.lock:
            self.of.left += 1


@given(st.integers(1, 4), st.integers(1, 6))
def test_fewer_threads_are_tried_before_memory_is_said_to_run_out(enough: int, most: int) -> None:
    memory = Kept(enough)
    together = threading.Barrier(min(enough, most))

    def work(task: int) -> int:
        memory.take()
        if task < together.parties:  # so that as many are at work as there is memory for
            together.wait(TIMEOUT_S)
        return task

    assert results_of(Threads(most), 20, work) == list(range(20))
    assert together.parties <= len(memory.tried) <= most, (
        "none is started in place of one that ended"
    )


def test_the_last_thread_has_the_memory_that_the_others_kept() -> None:
    memory = Kept(2)
    both = threading.Barrier(2)

    def work(task: int) -> int:
        memory.take()
        if task < 2:
            both.wait(TIMEOUT_S)
            return task
        if memory.left == 0:  # while another thread keeps some
            raise MemoryError
        return task

    assert results_of(Threads(2), 6, work) == list(range(6))


@pytest.mark.parametrize("most", [0, 1, 3])
def test_what_is_too_large_for_a_single_thread_is_said_to_be(most: int) -> None:
    def work(task: int) -> int:
        if task == 3:
            raise MemoryError
        return task

    with Threads(most) as threads:
        found = in_order(range(9), work, threads, WINDOW)
        assert [next(found)[1] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(MemoryError):
            next(found)
        assert threads.submit(work, 5).result() == 5


class NoLocks(threading.Condition):
    """What threads wait on, where there is no memory to wait."""

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002
        """As Python's, which takes a new lock each time."""
        raise RuntimeError("can't allocate lock")


@pytest.mark.parametrize("most", [1, 3])
def test_a_thread_that_cannot_wait_is_done_without(most: int) -> None:
    threads = Threads(most)
    threads._changed = NoLocks(threads._lock)
    with threads:
        for task in range(20):
            assert threads.submit(str, task).result(TIMEOUT_S) == str(task)
    assert threads._threads == []


@pytest.mark.parametrize("most", [0, 2])
def test_errors_of_tasks_are_theirs(most: int) -> None:
    with Threads(most) as threads:
        with pytest.raises(KeyError, match="x"):
            threads.submit({}.__getitem__, "x").result()
        assert list(threads.map(str, range(5))) == list("01234")
    with pytest.raises(RuntimeError, match="shutdown"):
        threads.submit(str, 1)


def test_tasks_that_wait_can_be_cancelled() -> None:
    started, go_on = threading.Event(), threading.Event()

    def work() -> bool:
        started.set()
        return go_on.wait(TIMEOUT_S)

    with Threads(1) as threads:
        first, second = threads.submit(work), threads.submit(work)
        assert started.wait(TIMEOUT_S)
        threads.shutdown(wait=False, cancel_futures=True)
        assert second.cancelled()
        go_on.set()
        assert first.result() is True


# --- processes


def killed(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


def test_a_worker_process_that_is_killed_is_one_clear_error() -> None:
    with processes() as executor, pytest.raises(ResourceError, match="a process") as caught:
        list(in_order(range(9), killed, executor, WINDOW))
    assert caught.value.exit_code == 3
    assert len(str(caught.value).splitlines()) == 1


def test_so_is_one_that_is_killed_while_it_measures(tmp_path: Path) -> None:
    specs = stored(tmp_path, "F32", [np.ones(8_000_000, np.float32)] * 4)

    def kill(_: int, __: int) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with processes() as executor, pytest.raises(ResourceError, match="a process"):
        measured(specs, 2.0, executor, progress=kill)


# --- what is taken for a shortage


def corrupt(why: BaseException) -> gradtool.CorruptFileError:
    error = gradtool.CorruptFileError("a.npz", "its deflate stream is damaged")
    error.__cause__ = why
    return error


ZLIB_WITHOUT_MEMORY = """
import resource, zlib
data, decoder, held = zlib.compress(b'x' * 10**6), zlib.decompressobj(), []
resource.setrlimit(resource.RLIMIT_AS, (1 << 25, 1 << 25))
for size in (1 << 18, 1 << 10):
    try:
        while True: held.append(bytearray(size))
    except MemoryError: pass
try: decoder.decompress(data, 100)
except zlib.error as error: held.clear(); print(error)
"""


@LIMITED
def test_a_file_is_not_called_damaged_where_zlib_had_too_little_memory() -> None:
    command = [sys.executable, "-c", ZLIB_WITHOUT_MEMORY]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    assert isinstance(shortage(corrupt(zlib.error(said))), ResourceError)
    assert isinstance(shortage(corrupt(OSError(errno.ENOMEM, "no memory"))), ResourceError)
    try:
        zlib.decompress(b"no stream")
    except zlib.error as error:
        assert shortage(corrupt(error)) is None
    assert shortage(corrupt(MemoryError())) is None, "of Python's parser, for what is nested deeply"


def test_what_was_raised_for_want_of_memory_is_found_behind_what_it_led_to() -> None:
    error = ValueError("a library's own")
    error.__cause__ = KeyError()
    error.__cause__.__context__ = MemoryError()
    no_thread = RuntimeError("can't start new thread")
    for one in (error, OSError(errno.ENOMEM, "Cannot allocate memory"), no_thread):
        assert isinstance(shortage(one), ResourceError)
    for other in (
        ValueError(),
        OSError(errno.ENOENT, "No such file or directory"),
        ZeroDivisionError(),
    ):
        assert shortage(other) is None
