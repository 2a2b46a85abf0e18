"""A process that has loaded gradtool and forks children, each of them one `gradtool` command.

Starting an interpreter takes longer than a clip. Reads a request on each line of stdin and
answers on a line of stdout:

    {"runs": [{"args": [...], "cwd": "...", "env": {...}, "fsize": n, "nproc": n, "umask": n,
               "ids": [uid, gid, [groups]]}, ...],
     "signal": n, "delay": seconds}
    [{"status": wait status, "out": "...", "err": "...", "seconds": s, "alive": bool}, ...]

Children start together. `alive` is whether one still ran when the signal was sent.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

LIMIT_S = 60.0
"""After which a run hangs."""

CRASHED = 99


def serve(warm: str) -> None:
    """Load everything, then answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    for args in (["inspect", warm], ["clip", warm, "--max-norm", "1", "-o", f"{warm}.out"]):
        code = _gradtool(args)
        if code != 0:
            raise SystemExit(f"gradtool {args} exits {code}")
    for module in importlib.import_module("gradtool.cli.app").COMMANDS.values():
        importlib.import_module(module)  # which who runs a command may have no right to read
    for module in ("gradtool.api.checking", "gradtool.report.check.text"):
        importlib.import_module(module)
    assert "torch" not in sys.modules
    with answers:
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(_all(**json.loads(line))), file=answers, flush=True)


def _gradtool(args: list[str]) -> int:
    """What the installed command does, but for the interpreter's own end."""
    from gradtool.__main__ import main  # noqa: PLC0415 - after the streams are set

    sys.argv = ["gradtool", *args]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def _all(
    runs: list[dict[str, Any]], signal: int | None = None, delay: float = 0.0
) -> list[dict[str, Any]]:
    _wait_until_alone()
    ready, is_ready = os.pipe()
    wait, go = os.pipe()
    children = []
    for run in runs:
        done, not_done = os.pipe()
        # Pipes, on which a limit to the size of files does not tell.
        out, says_out = os.pipe()
        err, says_err = os.pipe()
        pid = os.fork()
        if pid == 0:
            for descriptor in (ready, go, done, out, err):
                os.close(descriptor)
            _child(run, says_out, says_err, is_ready, wait)
        for descriptor in (not_done, says_out, says_err):
            os.close(descriptor)
        children.append((pid, done, out, err))
    os.close(is_ready)
    os.close(wait)
    while os.read(ready, 100):
        pass
    os.close(ready)
    os.close(go)
    started = time.perf_counter()
    alive = [False] * len(children)
    if signal is not None:
        time.sleep(max(0.0, started + delay - time.perf_counter()))
        for i, (pid, done, _, _) in enumerate(children):
            alive[i] = not select.select([done], [], [], 0)[0]
            os.kill(pid, signal)  # it is not waited for yet: the number is still its own
    return [
        {"alive": was_alive, **_ended(*child, started)}
        for child, was_alive in zip(children, alive, strict=True)
    ]


def _ended(pid: int, done: int, out: int, err: int, started: float) -> dict[str, Any]:
    said = {out: b"", err: b""}
    open_ones = [done, out, err]
    hangs = False
    while open_ones and not hangs:
        left = max(0.0, started + LIMIT_S - time.perf_counter())
        found = select.select(open_ones, [], [], left)[0]
        hangs = not found
        for descriptor in found:
            data = os.read(descriptor, 1 << 16)
            if data:
                said[descriptor] += data
            else:
                open_ones.remove(descriptor)
    seconds = time.perf_counter() - started
    if hangs:
        os.kill(pid, 9)
    _, status = os.waitpid(pid, 0)
    for descriptor in (done, out, err):
        os.close(descriptor)
    texts = [said[one].decode("utf-8", "backslashreplace") for one in (out, err)]
    if hangs:
        texts[1] += "HANGS\n"
    return {"status": status, "out": texts[0], "err": texts[1], "seconds": seconds}


def _child(run: dict[str, Any], out: int, err: int, is_ready: int, wait: int) -> NoReturn:
    code = CRASHED
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.environ.update(run.get("env", {}))
        os.chdir(run.get("cwd", os.curdir))
        os.umask(run.get("umask", 0o022))
        if "fsize" in run:
            resource.setrlimit(resource.RLIMIT_FSIZE, (run["fsize"], run["fsize"]))
        if "ids" in run:
            uid, gid, groups = run["ids"]
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
        if "nproc" in run:
            resource.setrlimit(resource.RLIMIT_NPROC, (run["nproc"], run["nproc"]))
        os.close(is_ready)
        os.read(wait, 1)
        code = _gradtool(run["args"])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - nothing may return into the parent's code
        traceback.print_exc()
    finally:
        os._exit(code)


def _wait_until_alone() -> None:
    """Threads that have ended take a moment to be gone; there is no forking beside any."""
    assert threading.active_count() == 1
    tasks = f"/proc/{os.getpid()}/task"
    deadline = time.monotonic() + 10.0
    while os.path.isdir(tasks) and len(os.listdir(tasks)) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.001)


if __name__ == "__main__":
    serve(sys.argv[1])
