"""Processes that judge mutants, each with limits; one that dies is known by what it was about.

A loader may crash, hang or ask for any memory: the worker is forked anew, after the file.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import select
import signal
import struct
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from fuzz.judging.judge import LOADERS, Refusal, Verdict, judge, measured
from fuzz.mutations.mutants import chosen_seed, mutant

CPU_S: Final = 20
"""What one file may take, in seconds of the processor."""

MEMORY_NBYTES: Final = 2 << 30
"""What a worker may map beyond what it maps at its start."""

_MAPPED: Final = "/proc/self/statm"
_PHASES: Final = ("mutate", "gradtool", *LOADERS)
_PLACE: Final = struct.Struct("<qq")


@dataclass
class Judged:
    """What came of one mutant: `crashed` is the phase in which the process died, and how."""

    number: int
    verdicts: list[Verdict] = field(default_factory=list)
    accepted: bool = False
    crashed: tuple[str, str] | None = None


def write(path: str, content: bytes) -> None:
    """Write a mutant, as a file of its own: a mapping of the one before may still be there."""
    if os.path.exists(path):
        os.unlink(path)
    with open(path, "wb") as file:
        file.write(content)


class Worker:
    """A process that judges the numbers of a range, one after another, in a folder."""

    def __init__(self, numbers: range, folder: str) -> None:
        self.left = numbers
        self._folder = folder
        self._place = mmap.mmap(-1, _PLACE.size)
        self._buffer = b""
        self._start()

    def _start(self) -> None:
        self.pipe, says = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                os.close(self.pipe)
                self._work(says)
                code = 0
            finally:
                os._exit(code)
        os.close(says)

    def stop(self) -> None:
        """End the process, if it has not ended."""
        if self.pipe >= 0:
            os.close(self.pipe)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self.pipe = -1

    def read(self) -> Iterator[Judged]:
        """What the process has said since; a crash, once it has died in one."""
        data = os.read(self.pipe, 1 << 20)
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            yield _decoded(json.loads(line))
        if not data:
            os.close(self.pipe)
            self.pipe = -1
            crash = self._ended()
            if self.left:
                self._start()
            if crash is not None:
                yield crash

    def _ended(self) -> Judged | None:
        """How the process ended: with nothing left to do, or in the crash that is returned."""
        _, status = os.waitpid(self._pid, 0)
        number, phase = _PLACE.unpack(self._place[:])
        if status == 0:
            self.left = range(0)
            return None
        self.left = self.left[self.left.index(number) + 1 :]
        self._buffer = b""
        code = os.waitstatus_to_exitcode(status)
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return Judged(number, crashed=(_PHASES[phase], how))

    def _work(self, says: int) -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.path.exists(_MAPPED):
            resource.setrlimit(resource.RLIMIT_AS, (_mapped_nbytes() + MEMORY_NBYTES,) * 2)
        path = os.path.join(self._folder, "mutant")
        for number in self.left:
            self._enter(number, 0)
            used = resource.getrusage(resource.RUSAGE_SELF)
            limit = int(used.ru_utime + used.ru_stime) + CPU_S
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
            os.write(says, json.dumps(self._judged(number, path)).encode() + b"\n")

    def _judged(self, number: int, path: str) -> dict[str, Any]:
        try:
            write(path, mutant(chosen_seed(number), number).content)
            self._enter(number, 1)
            found = measured(path)
            verdicts = []
            for phase, (name, load) in enumerate(LOADERS.items(), start=2):
                self._enter(number, phase)
                verdicts.append(judge(found, name, load(path)))
        except Exception:  # noqa: BLE001 - said to whoever reads of it, as a failure
            _, phase = _PLACE.unpack(self._place[:])
            return {"number": number, "crashed": (_PHASES[phase], traceback.format_exc())}
        return {
            "number": number,
            "accepted": not isinstance(found, Refusal),
            "verdicts": [tuple(one) for one in verdicts if one.outcome != "not for it"],
        }

    def _enter(self, number: int, phase: int) -> None:
        self._place[:] = _PLACE.pack(number, phase)


def _mapped_nbytes() -> int:
    with open(_MAPPED) as file:
        return int(file.read().split()[0]) * mmap.PAGESIZE


def _decoded(said: dict[str, Any]) -> Judged:
    verdicts = [
        Verdict(loader, outcome, tuple(why)) for loader, outcome, why in said.get("verdicts", ())
    ]
    crashed = said.get("crashed")
    return Judged(said["number"], verdicts, said.get("accepted", False), crashed and tuple(crashed))


def judged(numbers: range, workers: int, folder: str) -> Iterator[Judged]:
    """What comes of the mutants of all numbers, each worker's in order."""
    running = []
    for worker in range(workers):
        own = os.path.join(folder, str(worker))
        os.mkdir(own)
        running.append(Worker(numbers[worker::workers], own))
    try:
        while any(worker.pipe >= 0 for worker in running):
            pipes = [worker.pipe for worker in running if worker.pipe >= 0]
            ready, _, _ = select.select(pipes, [], [])
            for worker in running:
                if worker.pipe in ready:
                    yield from worker.read()
    finally:
        for worker in running:
            worker.stop()
