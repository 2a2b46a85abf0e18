"""Changes to a pickle opcode by opcode: what no graph of values describes."""

from __future__ import annotations

import pickletools
import random
import struct
from collections.abc import Callable
from typing import Final

from fuzz.files.poison import number
from fuzz.files.torch_files import TorchFile

Spans = list[bytes]


def split(pickle: bytes) -> Spans:
    """The opcodes with their operands."""
    starts = [at for _, _, at in pickletools.genops(pickle)]
    ends = [*starts[1:], len(pickle)]
    return [pickle[start:end] for start, end in zip(starts, ends, strict=True)]


def _late(
    change: Callable[[Spans, random.Random], None],
) -> Callable[[TorchFile, random.Random], None]:
    """A change to the opcodes, made once the pickle is written; none where they cannot be told."""

    def mutate(file: TorchFile, rng: random.Random) -> None:
        seed = rng.random()

        def changed(pickle: bytes) -> bytes:
            try:
                spans = split(pickle)
            except (ValueError, UnicodeError):
                return pickle
            change(spans, random.Random(seed))
            return b"".join(spans)

        file.late.append(changed)

    mutate.__name__ = change.__name__.strip("_")
    return mutate


def _value(rng: random.Random) -> bytes:
    """The opcodes of some small value."""
    return rng.choice(
        (b"N", b"\x88", b"K\x07", b"]", b"}", b")", b"X\1\0\0\0x", b"]G" + struct.pack(
            ">d", number(rng)) + b"a", b"ctorch\nTensor\n(]G" + struct.pack(">d", number(rng))
         + b"atR", b"ctorch\nFloatStorage\n")
    )  # fmt: skip


def _leave_below(spans: Spans, rng: random.Random) -> None:
    """A value below the others, which is left at the end."""
    spans.insert(1, _value(rng))


def _append_after(spans: Spans, rng: random.Random) -> None:
    """Bytes, or a whole pickle, after the end."""
    spans.append(rng.choice((b"", b".", b"\0", b"\x80\x02N.", b"more")))


def _put_on_top(spans: Spans, rng: random.Random) -> None:
    """A value above the others, which is the one that counts where the rest is left."""
    spans.insert(len(spans) - 1, _value(rng))


def _change_protocol(spans: Spans, rng: random.Random) -> None:
    spans[0] = rng.choice((b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x80\x00", b"\x80\xff", b""))


def _repeat_protocol(spans: Spans, rng: random.Random) -> None:
    spans.insert(rng.randrange(len(spans)), rng.choice((b"\x80\x02", b"\x80\x04")))


def _drop(spans: Spans, rng: random.Random) -> None:
    del spans[rng.randrange(len(spans))]


def _repeat(spans: Spans, rng: random.Random) -> None:
    at = rng.randrange(len(spans))
    spans.insert(at, spans[at])


def _swap(spans: Spans, rng: random.Random) -> None:
    one, other = rng.randrange(len(spans)), rng.randrange(len(spans))
    spans[one], spans[other] = spans[other], spans[one]


def _copy_run(spans: Spans, rng: random.Random) -> None:
    at, count = rng.randrange(len(spans)), rng.randrange(1, 12)
    to = rng.randrange(1, len(spans))
    spans[to:to] = spans[at : at + count]


def _reuse_memo(spans: Spans, rng: random.Random) -> None:
    """Put a value where another is remembered, or get one again."""
    puts = [span for span in spans if span[:1] in (b"q", b"r")]
    if puts:
        span = rng.choice(puts)
        gets = (b"h" if span[:1] == b"q" else b"j") + span[1:]
        spans.insert(rng.randrange(1, len(spans)), rng.choice((span, span, gets)))


def _other_opcode(spans: Spans, rng: random.Random) -> None:
    """One of the opcodes that torch does not write and others read."""
    value = rng.choice(
        (b"0", b"2", b"1", b"I7\n", b"F1.5\n", b"Vx\n", b"l", b"d", b"\x8f", b"\x90", b"\x91",
         b"\x94", b"\x8c\x01x", b"C\x01x", b"\x93", b"\x92", b"o", b"\x95" + bytes(8), b"S'x'\n",
         b"p3\n", b"g0\n", b"L5L\n")
    )  # fmt: skip
    spans.insert(rng.randrange(1, len(spans)), value)


def _alter_operand(spans: Spans, rng: random.Random) -> None:
    """A byte of an operand."""
    wide = [at for at, span in enumerate(spans) if len(span) > 1]
    if wide:
        at = rng.choice(wide)
        span = bytearray(spans[at])
        span[rng.randrange(1, len(span))] = rng.randrange(256)
        spans[at] = bytes(span)


def _shorten_global(spans: Spans, rng: random.Random) -> None:
    """A global under the names of Python 2, or with other ends of line."""
    every = [at for at, span in enumerate(spans) if span[:1] == b"c"]
    if every:
        at = rng.choice(every)
        old, new = rng.choice(
            ((b"builtins", b"__builtin__"), (b"\n", b"\r\n"), (b"torch._tensor", b"torch.tensor"),
             (b"ctorch\n", b"ctorch.cuda\n"), (b"torch\nFloat", b"torch.storage\nFloat"),
             (b"collections", b"UserDict"))
        )  # fmt: skip
        spans[at] = spans[at].replace(old, new)


OPCODE_MUTATIONS: Final = {
    _late(change): weight
    for change, weight in {
        _leave_below: 2, _append_after: 1, _put_on_top: 1, _change_protocol: 1, _drop: 1,
        _repeat_protocol: 1, _repeat: 1, _swap: 1, _copy_run: 2, _reuse_memo: 2, _other_opcode: 1,
        _alter_operand: 1, _shorten_global: 2,
    }.items()
}  # fmt: skip
