"""A file takes memory and time in proportion to its metadata, whatever it asks for.

Memory is at most 20 times the metadata and 50 MB more, time a second of CPU a megabyte.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import ENVIRONMENT
from pickle_parts import name
from zip_parts import Member, archive

import gradtool
from gradtool.engine.sharing import FREE_ELEMENTS, MOST_VIEWS

MB = 1_000_000
NBYTES = MB

MEASURE = """
import json, os, resource, sys
import gradtool
from gradtool.errors import GradtoolError

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

def cpu():
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime

gradtool.measure(sys.argv[1])
for path in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        before, begun = peak(), cpu()
        try:
            gradtool.measure(path, threads=1)
            error = None
        except GradtoolError as refused:
            error = str(refused)
        print(json.dumps([peak() - before, cpu() - begun, error]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def pickled(*opcodes: bytes, protocol: int = 4) -> bytes:
    """A torch file of a list: the first of `opcodes`, then the last as often as they fit."""
    *first, again = opcodes
    start = b"\x80" + bytes([protocol]) + b"](" + b"".join(first)
    pickle = start + again * ((NBYTES - len(start)) // len(again)) + b"e."
    return archive(Member(b"a/data.pkl", pickle), Member(b"a/version", b"3\n"))


def header(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def entries(of: Callable[[int], str]) -> str:
    """As many entries of a JSON object as fit."""
    count = NBYTES // len(of(1 << 20))
    return ",".join(of(i) for i in range(count))


BRACKETS = "[]," * (NBYTES // 3)
MAPPING = b"}q\1(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(60_000)) + b"u"
FILES = {
    "empty sets": pickled(b"\x8f"),
    "empty lists": pickled(b"]"),
    "empty dicts": pickled(b"}"),
    "tuples": pickled(b"N\x85"),
    "nested tuples": pickled(b"N", b"\x85"),
    "memo": pickled(b"N\x94"),
    "memo out of order": pickled(b"Nr\xff\xff\xff\xff", b"Nr\xfe\xff\xff\xff"),
    "bytes": pickled(b"C\0"),
    "texts": pickled(b"\x8c\x02\xc4\x80"),
    "a smiley in each text": pickled(b"\x8c\x0caaaaaaaa\xf0\x9f\x98\x80"),
    "globals": pickled(b"ca\nb\n"),
    "unknown calls": pickled(b"ca\nb\nq\0", b"h\0)R"),
    "ordered dicts": pickled(name("collections", "OrderedDict") + b"q\0", b"h\0)R"),
    "copies": pickled(name("collections", "OrderedDict") + b"q\0", MAPPING, b"h\0h\1\x85R"),
    "lists of a list": pickled(
        name("builtins", "list") + b"q\0", b"](N" + b"N" * 999 + b"eq\1", b"h\0h\1\x85R"
    ),
    "parameters of a tensor": pickled(
        name("torch.nn.parameter", "Parameter") + b"q\0", b"N", b"h\0N\x89\x86R"
    ),
    "None": pickled(b"N"),
    "brackets in a header": header('{"a":[' + BRACKETS + "[]]}"),
    "brackets in an entry": header('{"a":{"dtype":[' + BRACKETS + "[]]}}"),
    "brackets in a note": header('{"__metadata__":{"gradtool.shards":"[' + BRACKETS + '[]]"}}'),
    "braces in a note": header('{"__metadata__":{"gradtool.shards":"' + "{" * NBYTES + '"}}'),
    "strings in a header": header('{"__metadata__":{' + entries(lambda i: f'"{i:x}":""') + "}}"),
    "smileys in a header": header('{"__metadata__":{"a":"' + "\U0001f600" * (NBYTES // 4) + '"}}'),
    "tensors without elements": header(
        "{" + entries(lambda i: f'"{i:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}') + "}"
    ),
    "names of tensors": header("{" + entries(lambda i: f'"{i:x}":0') + "}"),
}
INDICES = {
    "brackets in an index": '{"metadata":[' + BRACKETS + '[]],"weight_map":{"a":"b.safetensors"}}',
    "tensors in an index": '{"weight_map":{' + entries(lambda i: f'"{i:x}":"b"') + "}}",
}


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, float, str | None]]:
    """Bytes of memory, seconds of CPU and the error of each file, in a process of its own."""
    folder = tmp_path_factory.mktemp("bombs")
    torch.save({"w": torch.ones(2)}, folder / "warm.pt")
    paths = []
    for position, content in enumerate(FILES.values()):
        paths.append(folder / f"{position}.pt")
        paths[-1].write_bytes(content)
    for position, text in enumerate(INDICES.values()):
        paths.append(folder / f"{position}.safetensors.index.json")
        paths[-1].write_text(text)
    command = [sys.executable, "-c", MEASURE, folder / "warm.pt", *paths]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    found = map(tuple, map(json.loads, run.stdout.splitlines()))
    return dict(zip((*FILES, *INDICES), found, strict=True))


@pytest.mark.parametrize("case", [*FILES, *INDICES])
def test_memory_and_time_are_bounded_by_the_metadata(
    case: str, costs: dict[str, tuple[int, float, str | None]]
) -> None:
    nbytes, seconds, error = costs[case]
    assert nbytes < 20 * NBYTES + 50 * MB
    assert seconds < NBYTES / MB
    if error is not None and "budget" in error:
        assert " MB of memory" in error


def test_a_pickle_that_is_refused_for_its_memory_says_the_budget(
    costs: dict[str, tuple[int, float, str | None]],
) -> None:
    error = costs["empty sets"][2] or ""
    assert "the pickle expands far beyond its size: 1.0 MB of it may take" in error


def test_real_pickles_stay_within_the_budget(tmp_path: Path) -> None:
    # Modules pickled whole take the most: a dozen empty dicts each.
    module = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(4_000)))
    torch.save(module, tmp_path / "module.pt", pickle_protocol=4)
    assert len(gradtool.measure(tmp_path / "module.pt").tensors) == 8_000


def test_views_that_name_elements_without_end_are_refused_with_the_budget(tmp_path: Path) -> None:
    base = torch.ones(1 << 20)
    path = tmp_path / "views.pt"
    torch.save({f"v{i}": base[i:] for i in range(3000)}, path)
    budget = f"{MOST_VIEWS * len(base) + FREE_ELEMENTS:,}"
    with pytest.raises(gradtool.UnsupportedFormatError, match=budget):
        gradtool.measure(path)
    assert gradtool.measure(path, include=["v1", "v2"]).total.stats.numel == len(base) - 1


def test_windows_that_overlap_count_what_they_name(tmp_path: Path) -> None:
    # Each is small by itself, and shares its storage with no other.
    windows = {f"v{i}": torch.ones(2047).unfold(0, 1024, 1) for i in range(80)}
    path = tmp_path / "windows.pt"
    torch.save(windows, path)
    assert sum(window.numel() for window in windows.values()) > FREE_ELEMENTS
    with pytest.raises(gradtool.UnsupportedFormatError, match="budget"):
        gradtool.measure(path)


def test_views_without_gradients_in_common_are_never_refused(tmp_path: Path) -> None:
    # As FSDP2 has them: all parts of one storage, next to each other.
    base = torch.ones(12_000)
    path = tmp_path / "views.pt"
    torch.save({f"v{i}": base[3 * i : 3 * i + 3] for i in range(4_000)}, path)
    assert gradtool.measure(path).total.stats.numel == 12_000
