"""Files that ask for far more memory and time than they take, and what each of them costs.

    python tests/hostile/amplifiers.py [--mb 8]

prints a table of it and exits with 1 where one costs more than it may: memory of 20 times the
metadata and 50 MB more, a second of CPU for each megabyte.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from forks import ENVIRONMENT
from pickle_parts import name
from zip_parts import Member, archive

MB = 1_000_000


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
        resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
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


class Cost(NamedTuple):
    """What measuring a file took, and the error it ended in."""

    nbytes: int
    seconds: float
    error: str | None


def most_memory(nbytes: int) -> int:
    """Bytes of memory that `nbytes` of metadata may take."""
    return 20 * nbytes + 50 * MB


def most_seconds(nbytes: int) -> float:
    """Seconds of CPU that `nbytes` of metadata may take."""
    return nbytes / MB


def pickled(nbytes: int, *opcodes: bytes) -> bytes:
    """A torch file of a list: the first of `opcodes`, then the last as often as they fit."""
    *first, again = opcodes
    start = b"\x80\4](" + b"".join(first)
    pickle = start + again * ((nbytes - len(start)) // len(again)) + b"e."
    return archive(Member(b"a/data.pkl", pickle), Member(b"a/version", b"3\n"))


def header(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def entries(nbytes: int, of: Callable[[int], str]) -> str:
    """As many entries of a JSON object as fit."""
    count = nbytes // len(of(1 << 24))
    return ",".join(of(i) for i in range(count))


MAPPING = b"}q\1(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(60_000)) + b"u"
PAIRS = b"]q\1(" + b"".join(b"M" + struct.pack("<H", i) + b"N\x86" for i in range(9_000)) + b"e"
PICKLES = {
    "empty sets": (b"\x8f",),
    "empty lists": (b"]",),
    "empty dicts": (b"}",),
    "tuples": (b"N\x85",),
    "nested tuples": (b"N", b"\x85"),
    "memo": (b"N\x94",),
    "memo out of order": (b"Nr\xff\xff\xff\xff", b"Nr\xfe\xff\xff\xff"),
    "bytes": (b"C\0",),
    "texts": (b"\x8c\x02\xc4\x80",),
    "a smiley in each text": (b"\x8c\x0caaaaaaaa\xf0\x9f\x98\x80",),
    "globals": (b"ca\nb\n",),
    "unknown calls": (b"ca\nb\nq\0", b"h\0)R"),
    "ordered dicts": (name("collections", "OrderedDict") + b"q\0", b"h\0)R"),
    "copies": (name("collections", "OrderedDict") + b"q\0", MAPPING, b"h\0h\1\x85R"),
    "dicts of pairs": (
        name("collections", "OrderedDict") + b"q\0", PAIRS, b"h\0h\1\x85R",
    ),
    "lists of a list": (
        name("builtins", "list") + b"q\0", b"](N" + b"N" * 999 + b"eq\1", b"h\0h\1\x85R",
    ),
    "parameters of a tensor": (
        name("torch.nn.parameter", "Parameter") + b"q\0", b"N", b"h\0N\x89\x86R",
    ),
    "None": (b"N",),
}  # fmt: skip


def headers(nbytes: int) -> Iterator[tuple[str, str]]:
    """Headers of safetensors files of about `nbytes` bytes, by name."""
    brackets = "[]," * (nbytes // 3)
    empty = '"dtype":"F32","shape":[0],"data_offsets":[0,0]'
    yield "brackets in a header", '{"a":[' + brackets + "[]]}"
    yield "brackets in an entry", '{"a":{"dtype":[' + brackets + "[]]}}"
    yield "brackets in a note", '{"__metadata__":{"gradtool.shards":"[' + brackets + '[]]"}}'
    yield "braces in a note", '{"__metadata__":{"gradtool.shards":"' + "{" * nbytes + '"}}'
    names = entries(nbytes, lambda i: f'\\"{i:x}\\"')
    notes = f'"gradtool.order":"model","gradtool.names":"[{names}]"'
    yield "names in a note", '{"__metadata__":{' + notes + "}}"
    texts = entries(nbytes, lambda i: f'"{i:x}":""')
    yield "strings in a header", '{"__metadata__":{' + texts + "}}"
    smileys = "\U0001f600" * (nbytes // 4)
    yield "smileys in a header", '{"__metadata__":{"a":"' + smileys + '"}}'
    tensors = entries(nbytes, lambda i: f'"{i:x}":{{{empty}}}')
    yield "tensors without elements", "{" + tensors + "}"
    yield "names of tensors", "{" + entries(nbytes, lambda i: f'"{i:x}":0') + "}"


def indices(nbytes: int) -> Iterator[tuple[str, str]]:
    """Indices of shards of about `nbytes` bytes, by name."""
    brackets = "[]," * (nbytes // 3)
    shards = entries(nbytes, lambda i: f'"{i:x}":"b"')
    index = '{"metadata":[' + brackets + '[]],"weight_map":{"a":"b.safetensors"}}'
    yield "brackets in an index", index
    yield "tensors in an index", '{"weight_map":{' + shards + "}}"


def documents(nbytes: int) -> Iterator[tuple[str, bytes]]:
    """Flax's msgpack files of about `nbytes` bytes, by name."""
    inner = b"\x93\x91\x00\xa7float32\xc4\x00"
    empty = b"\xc7" + bytes([len(inner), 1]) + inner

    def flax(*values: bytes, value: bytes = empty) -> bytes:
        """The values, each by a key of its own, behind an array."""
        count = max((nbytes - sum(map(len, values))) // (len(value) + 6), 1)
        pairs = [b"\xa1" + bytes([97 + at]) + one for at, one in enumerate((empty, *values))]
        pairs += [
            b"\xce" + at.to_bytes(4, "big") + value for at in range(1 << 16, count + (1 << 16))
        ]
        return b"\xdf" + len(pairs).to_bytes(4, "big") + b"".join(pairs)

    def items(one: bytes) -> bytes:
        count = nbytes // len(one)
        return b"\xdd" + count.to_bytes(4, "big") + one * count

    yield "arrays without elements", flax()
    yield "keys of a document", flax(value=b"\xc0")
    yield "maps of a document", flax(value=b"\x81\xa1a\xc0")
    yield "lists in a list", flax(items(b"\x91\xc4\x00"))
    yield "numbers in a list", flax(items(b"\x07"))
    yield "texts in a list", flax(items(b"\xa1a"))
    key = b"\xda\xff\xff" + b"x" * 65535
    deep = b"\x81" + key + flax()
    yield "a long key before many", b"\x82\xa1a" + empty + b"\xa1b" + deep


def ggufs(nbytes: int) -> Iterator[tuple[str, bytes]]:
    """GGUF files of about `nbytes` bytes, by name."""
    head = b"GGUF" + struct.pack("<I", 3)

    def text(at: int) -> bytes:
        return struct.pack("<Q", 4) + b"%04x" % (at % 65536)

    tensor = struct.pack("<Q", 6) + b"%06x" + struct.pack("<IQIQ", 1, 0, 0, 0)
    count = nbytes // (len(tensor) + 2)
    infos = b"".join(tensor.replace(b"%06x", b"%06x" % at) for at in range(count))
    yield "tensors of GGUF without elements", head + struct.pack("<QQ", count, 0) + infos
    pair = struct.pack("<Q", 6) + b"%06x" + struct.pack("<IB", 0, 1)
    count = nbytes // (len(pair) + 2)
    pairs = b"".join(pair.replace(b"%06x", b"%06x" % at) for at in range(count))
    yield "keys of GGUF", head + struct.pack("<QQ", 0, count) + pairs
    count = nbytes // 12
    words = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, count)
    words += b"".join(map(text, range(count)))
    yield "words of GGUF", head + struct.pack("<QQ", 0, 1) + words


def amplifiers(nbytes: int) -> Iterator[tuple[str, str, bytes]]:
    """Each file's name for people, suffix and content of about `nbytes` bytes."""
    for what, opcodes in PICKLES.items():
        yield what, ".pt", pickled(nbytes, *opcodes)
    for what, text in headers(nbytes):
        yield what, ".safetensors", header(text)
    for what, text in indices(nbytes):
        yield what, ".safetensors.index.json", text.encode()
    for what, content in documents(nbytes):
        yield what, ".msgpack", content
    for what, content in ggufs(nbytes):
        yield what, ".gguf", content


NAMES = [what for what, _, _ in amplifiers(100)]


def costs(folder: Path, nbytes: int) -> dict[str, Cost]:
    """What each file costs in a process of its own, on one thread; by name."""
    torch.save({"w": torch.ones(2)}, folder / "warm.pt")
    paths = []
    for position, (_, suffix, content) in enumerate(amplifiers(nbytes)):
        paths.append(folder / f"{position}{suffix}")
        paths[-1].write_bytes(content)
    command = [sys.executable, "-c", MEASURE, folder / "warm.pt", *paths]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    taken = [Cost(*json.loads(line)) for line in run.stdout.splitlines()]
    return dict(zip(NAMES, taken, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mb", type=float, default=8, help="megabytes of each file (8)")
    nbytes = int(parser.parse_args().mb * MB)
    with tempfile.TemporaryDirectory() as folder:
        taken = costs(Path(folder), nbytes)
    print(f"{nbytes / MB:.1f} MB each: {most_memory(nbytes) / MB:.0f} MB and "
          f"{most_seconds(nbytes):.1f} CPU s at most")  # fmt: skip
    for what, cost in taken.items():
        print(f"{what:26}{cost.nbytes / MB:6.0f} MB {cost.seconds:6.2f} s  {cost.error or 'read'}")
    return max(
        cost.nbytes > most_memory(nbytes) or cost.seconds > most_seconds(nbytes)
        for cost in taken.values()
    )


if __name__ == "__main__":
    sys.exit(main())
