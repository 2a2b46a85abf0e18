"""Faults that gradtool had, or might have, put back into it: does the fuzzer find them?

    python tests/hostile/fuzz/faults.py --files 20000 [NAME...]

Prints after how many mutants each is found. Exit status 1 where one is not.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import workers
from fuzz.files.seeds import seeds
from fuzz.judging.judge import Refusal
from fuzz.judging.loaders import silence
from fuzz.tally import FAILURES, kind_of, say
from fuzz.workers import judged
from gradtool.core.measurement import Measurement
from gradtool.formats.files import (
    _torch_specs,
    gguf,
    npy,
    npz,
    safetensors,
    torch_legacy,
    torch_zip,
)
from gradtool.formats.gguf import header
from gradtool.formats.msgpack import walk
from gradtool.formats.pickles import calls, contents, machine
from gradtool.storage.archives import zip as archives
from gradtool.storage.archives import zip_central

_NEVER: Final = re.compile("(?!)")


def _nothing(*_: Any, **__: Any) -> None:
    """Check nothing."""


def _put(owner: Any, name: str, value: Any) -> None:
    """Put something in the place of what is there; where nothing is, the fault is none."""
    assert hasattr(owner, name), f"{owner.__name__} has no {name}"
    setattr(owner, name, value)


def tensor_of_numbers() -> None:
    """Calls of tensor classes over Python numbers are objects that nobody knows."""
    _put(calls, "_MAKES_ELEMENTS", _NEVER)


def replaced_elements() -> None:
    """What BUILD and attributes do to a tensor is not looked at."""
    _put(contents, "_TENSORS", ())


def later_mention() -> None:
    """Each mention of a storage is a storage of its own."""

    def mention(self: Any, named: Any) -> Any:
        self._storages.setdefault(named.key, named)
        self.made.append(named)
        return named

    _put(machine.Machine, "first_mention", mention)


def alike_by_case() -> None:
    """Of records alike by case the last one is read."""
    known = torch_zip.open_archive

    def open_archive(source: Any, entries: Any, **options: Any) -> Any:
        unique = {entry.raw_name.lower(): entry for entry in entries}
        return known(source, tuple(unique.values()), **options)

    _put(torch_zip, "open_archive", open_archive)


def alike_by_raw_name() -> None:
    """Two records may have one name."""
    _put(archives, "_refuse_duplicates", _nothing)
    alike_by_case()


def hidden_tensors() -> None:
    """Tensors that no name leads to are passed over."""
    _put(torch_zip, "refuse_hidden", _nothing)


def swapped_untyped() -> None:
    """The byte order is that of all storages."""
    _put(_torch_specs.SpecBuilder, "_is_swapped", lambda self, *_: self.big_endian)


def said_to_be_a_directory() -> None:
    """Attributes are not looked at."""
    parse = zip_central._parse_record

    def parse_record(source: Any, start: int, directory: bytes, at: int) -> Any:
        cleared = directory[: at + 38] + bytes(4) + directory[at + 42 :]
        return parse(source, start, cleared, at)

    _put(zip_central, "_parse_record", parse_record)


def member_without_suffix() -> None:
    """Only members called .npy are arrays."""
    _put(npz, "_is_array", lambda _, entry: entry.name.endswith(".npy"))


def two_members_for_one_key() -> None:
    """Keys that meet are not looked for."""
    _put(npz, "_refuse_shared_keys", _nothing)


def torch_beside_arrays() -> None:
    """Arrays in a torch file are records as any."""
    _put(torch_zip, "npy", type("nothing", (), {"MAGIC": None}))


def two_formats() -> None:
    """A safetensors file is one, whatever its first bytes are to torch."""
    _put(safetensors, "refuse_second_format", _nothing)


def big_endian_arrays() -> None:
    """Arrays are little-endian."""
    known = npy._element_type
    _put(npy, "_element_type", lambda *args: (known(*args)[0], False))


def _measuring(change: Callable[[Measurement], Measurement]) -> Callable[[], None]:
    """A fault of what is said of the tensors."""

    def fault() -> None:
        known = workers.measured

        def measured(path: str) -> Any:
            found = known(path)
            return found if isinstance(found, Refusal) else change(found)

        _put(workers, "measured", measured)

    fault.__name__ = change.__name__.strip("_")
    fault.__doc__ = change.__doc__
    return fault


def _changed_stats(found: Measurement, **changes: Callable[[Any], Any]) -> Measurement:
    def changed(tensor: Any) -> Any:
        stats = tensor.stats
        return replace(
            tensor,
            stats=replace(stats, **{key: of(getattr(stats, key)) for key, of in changes.items()}),
        )

    return replace(found, tensors=tuple(map(changed, found.tensors)))


def _missing_tensor(found: Measurement) -> Measurement:
    """The last of several tensors is left out."""
    return replace(found, tensors=found.tensors[:-1] if len(found.tensors) > 1 else found.tensors)


def _nan_is_zero(found: Measurement) -> Measurement:
    """NaN are not counted."""
    return _changed_stats(found, nan=lambda _: 0)


def _drifting_sum(found: Measurement) -> Measurement:
    """Sums are wrong in the eleventh digit."""

    def drifted(tensor: Any) -> Any:
        return replace(tensor, norm=tensor.norm * (1 + 1e-11))

    return replace(found, tensors=tuple(map(drifted, found.tensors)))


def storages_as_named() -> None:
    """Storages of torch before 1.6 lie in the object's order, whatever their keys say."""
    known = torch_legacy._storages

    def storages(source: Any, keys: Any, named: Any, at: int) -> Any:
        return known(source, [*named] if len(keys) == len(named) else keys, named, at)

    _put(torch_legacy, "_storages", storages)


def sizes_as_listed() -> None:
    """The sizes of a GGUF tensor are in the order of its file."""
    known = header._Reader._tensor

    def tensor(self: Any, names: Any) -> Any:
        name, type_, shape, *rest = known(self, names)
        return name, type_, shape[::-1], *rest

    _put(header._Reader, "_tensor", tensor)


def little_endian_gguf() -> None:
    """GGUF's elements are little-endian."""
    known = gguf.read_header
    _put(gguf, "read_header", lambda source: replace(known(source), big_endian=False))


def chunks_by_themselves() -> None:
    """Chunks are arrays of their own."""
    _put(walk, "CHUNKED", None)


FAULTS: Final = (
    tensor_of_numbers, replaced_elements, later_mention, alike_by_case, alike_by_raw_name,
    hidden_tensors, swapped_untyped, said_to_be_a_directory, member_without_suffix,
    two_members_for_one_key, torch_beside_arrays, two_formats, big_endian_arrays, storages_as_named,
    sizes_as_listed, little_endian_gguf, chunks_by_themselves,
    *map(_measuring, (_missing_tensor, _nan_is_zero, _drifting_sum)),
)  # fmt: skip


def files_until(fault: Callable[[], None], most: int, folder: str) -> int | None:
    """How many mutants were judged until the fault was found; None where it was not.

    What fails without the fault as well does not count.
    """
    numbers = range(most)
    while (found := _first_failure(numbers, folder, fault)) is not None:
        if _first_failure(range(found, found + 1), folder) is None:
            return found + 1
        numbers = range(found + 1, most)
    return None


def _first_failure(numbers: range, folder: str, fault: Callable[[], None] = _nothing) -> int | None:
    """The number of the first mutant that fails with a fault, which a process of its own has."""
    reads, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fault()
            with tempfile.TemporaryDirectory(dir=folder) as own:
                for one in judged(numbers, 1, own):
                    if one.crashed or any(kind_of(verdict) in FAILURES for verdict in one.verdicts):
                        os.write(says, str(one.number).encode())
                        break
            code = 0
        finally:
            os._exit(code)
    os.close(says)
    with os.fdopen(reads) as file:
        said = file.read()
    assert os.waitpid(pid, 0)[1] == 0, fault.__name__
    return int(said) if said else None


def main() -> int:
    """Exit status 1 where a fault was not found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="of faults; all if there are none")
    parser.add_argument("--files", type=int, default=20_000, help="mutants to judge at most")
    options = parser.parse_args()
    silence()
    seeds()
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for fault in FAULTS:
            if options.names and fault.__name__ not in options.names:
                continue
            count = files_until(fault, options.files, folder)
            missed += count is None
            say(
                f"{fault.__name__:24} {'not found' if count is None else count:>9}  {fault.__doc__}"
            )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
