"""safetensors files, taken apart into the JSON of their header and their data, and changed."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from fuzz.files.poison import spoiled


class Pairs(list[tuple[str, Any]]):
    """An object of JSON in order, in which keys may repeat."""


BITS: Final = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip


class Raw(str):
    """Text that stands in the header as it is, where a value belongs."""


@dataclass
class SafetensorsFile:
    """A file: `header` as an object in order, its data, and how it is spelled.

    `late` are changes to the header's text; `length` is what the first eight bytes say, if it
    is not the truth.
    """

    header: Pairs
    data: bytes
    rng: random.Random | None = None
    late: list[Callable[[bytes], bytes]] = field(default_factory=list)
    length: int | None = None
    align: int = 8
    """What the header's length is a multiple of."""

    @classmethod
    def parse(cls, content: bytes) -> SafetensorsFile:
        """The parts of a file that is sound."""
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end], object_pairs_hook=Pairs)
        return cls(header, content[end:], align=1 if end % 8 else 8)

    def build(self) -> bytes:
        """The file's bytes."""
        text = _spelled(self.header, self.rng).encode("utf-8", "surrogatepass")
        text += b" " * (-len(text) % self.align)
        for change in self.late:
            text = change(text)
        length = len(text) if self.length is None else self.length
        return length.to_bytes(8, "little") + text + self.data

    def tensors(self) -> list[tuple[int, dict[str, Any]]]:
        """The positions of well-formed entries in the header, with their fields."""
        found = []
        for at, (name, entry) in enumerate(self.header):
            if name != "__metadata__" and (fields := _fields(entry)):
                found.append((at, fields))
        return found

    def change(self, at: int, **fields: Any) -> None:
        """Set fields of the entry at a position."""
        name, entry = self.header[at]
        self.header[at] = (name, Pairs((key, fields.get(key, value)) for key, value in entry))


def _fields(entry: Any) -> dict[str, Any] | None:
    """The fields of an entry; None where it is none of a tensor."""
    if not isinstance(entry, Pairs):
        return None
    fields = dict(entry)
    numbers = fields.get("shape"), fields.get("data_offsets")
    are_sizes = all(
        isinstance(one, list) and all(type(size) is int for size in one) for one in numbers
    )
    return fields if are_sizes and len(numbers[1]) == 2 and fields.get("dtype") in BITS else None


def _spelled(value: Any, rng: random.Random | None) -> str:
    if isinstance(value, Raw):
        return str(value)
    space = rng.choice(("", "", " ", "\n", "\t ")) if rng else ""
    if isinstance(value, Pairs):
        pairs = (f"{_text(key, rng)}{space}:{_spelled(item, rng)}" for key, item in value)
        return f"{{{space}{','.join(pairs)}}}{space}"
    if isinstance(value, list):
        return f"[{space}{','.join(_spelled(item, rng) for item in value)}]"
    return _text(value, rng) if isinstance(value, str) else json.dumps(value)


def _text(value: str, rng: random.Random | None) -> str:
    if rng and value and rng.random() < 0.2:
        return '"' + "".join(f"\\u{ord(one) & 0xFFFF:04x}" for one in value) + '"'
    return json.dumps(value, ensure_ascii=bool(rng and rng.random() < 0.5))


Mutation = Callable[[SafetensorsFile, random.Random], None]


def respell(file: SafetensorsFile, rng: random.Random) -> None:
    """Other spaces and escapes."""
    file.rng = random.Random(rng.random())


def shuffle_header(file: SafetensorsFile, rng: random.Random) -> None:
    rng.shuffle(file.header)
    for at, (name, entry) in enumerate(file.header):
        if isinstance(entry, Pairs):
            file.header[at] = (name, Pairs(rng.sample(entry, len(entry))))


def spoil(file: SafetensorsFile, rng: random.Random) -> None:
    """A NaN or infinity in the data."""
    file.data = spoiled(rng, file.data)


def retype(file: SafetensorsFile, rng: random.Random) -> None:
    """Another type for the same bytes."""
    if known := file.tensors():
        at, fields = rng.choice(known)
        begin, end = fields["data_offsets"]
        dtype = rng.choice([*BITS])
        file.change(at, dtype=dtype, shape=[8 * (end - begin) // BITS[dtype]])


def reshape(file: SafetensorsFile, rng: random.Random) -> None:
    """Another shape of as many elements."""
    if known := file.tensors():
        at, fields = rng.choice(known)
        count = math.prod(fields["shape"])
        shapes: list[Any] = [[count], [1, count], [count, 1, 1], fields["shape"][::-1]]
        file.change(
            at, shape=rng.choice([*shapes, [*fields["shape"], 1], [] if count == 1 else [count]])
        )


def add_tensor(file: SafetensorsFile, rng: random.Random) -> None:
    """One more tensor, perhaps empty, behind the others' bytes or before them in the header."""
    dtype = rng.choice([*BITS])
    count = rng.choice((0, 0, 4, 8))
    data = spoiled(rng, bytes(count * BITS[dtype] // 8))
    begin = len(file.data) if count or rng.random() < 0.7 else 0
    file.data += data
    shapes = ([count], [2, count // 2], [count, 1]) if count else ([0], [3, 0], [0, 1 << 40])
    entry = Pairs(
        {
            "dtype": dtype,
            "shape": rng.choice(shapes),
            "data_offsets": [begin, begin + len(data)],
        }.items()
    )
    names = ("new", "w", "W", "", "a.b", "\ud800", "é", "__metadata__x", "optimizer.w", "\0", "new")
    file.header.insert(rng.randrange(len(file.header) + 1), (rng.choice(names), entry))


def rename(file: SafetensorsFile, rng: random.Random) -> None:
    """A key by another, which may be taken."""
    if file.header:
        at = rng.randrange(len(file.header))
        names = (
            file.header[rng.randrange(len(file.header))][0],
            "__metadata__",
            "x\\u0000",
            "layer.0.w",
        )
        file.header[at] = (rng.choice(names), file.header[at][1])


def repeat_key(file: SafetensorsFile, rng: random.Random) -> None:
    """An entry twice, or a field twice in an entry."""
    if not file.header:
        return
    at = rng.randrange(len(file.header))
    name, entry = file.header[at]
    if rng.random() < 0.5 or not isinstance(entry, Pairs) or not entry:
        file.header.insert(rng.randrange(len(file.header) + 1), (name, entry))
    else:
        file.header[at] = (name, Pairs([*entry, rng.choice(entry)]))


_METADATA: Final[tuple[Any, ...]] = (
    Pairs(), Pairs([("format", "pt")]), Pairs([("a", "\ud800")]), Pairs([("\udfff", "a")]), None,
    [], 3, "text", Pairs([("a", 1)]), Pairs([("a", None)]), Pairs([("a", [])]), Pairs([("", "")]),
    [1], Pairs([("a", "b"), ("a", "c")]), Pairs([("a", "x" * 300)]), True,
    *(
        Pairs([(f"gradtool.{note}", text)])
        for note, text in (
            ("step", "3"), ("aliases", '{"tied": "w"}'), ("loss_scale", "2"), ("order", "model"),
        )
    ),
)  # fmt: skip


def change_metadata(file: SafetensorsFile, rng: random.Random) -> None:
    """Metadata of every kind, gradtool's own notes among them."""
    kept = Pairs(pair for pair in file.header if pair[0] != "__metadata__")
    kept.insert(rng.choice((0, len(kept))), ("__metadata__", rng.choice(_METADATA)))
    file.header = kept


def respell_number(file: SafetensorsFile, rng: random.Random) -> None:
    """A size or offset as JSON may spell it, or may not."""
    if known := file.tensors():
        at, fields = rng.choice(known)
        key = rng.choice(("shape", "data_offsets"))
        values = [*fields[key]]
        if values:
            chosen = rng.randrange(len(values))
            old = values[chosen]
            spellings = (
                f"{old}.0", f"{old}e0", f"-{old}", f"0{old}", f"+{old}", f'"{old}"', "true", "null",
                f"{old}E+0", f"[{old}]", str(old + (1 << 64)), "NaN", f"{old}.5",
            )  # fmt: skip
            values[chosen] = Raw(rng.choice(spellings))
            file.change(at, **{key: values})


def change_offsets(file: SafetensorsFile, rng: random.Random) -> None:
    """Bytes that overlap another tensor's, leave a hole, or are given to another."""
    known = file.tensors()
    if len(known) > 1 and rng.random() < 0.5:
        (at, one), (to, other) = rng.sample(known, 2)
        file.change(at, data_offsets=other["data_offsets"])
        file.change(to, data_offsets=one["data_offsets"])
    elif known:
        at, fields = rng.choice(known)
        shift = rng.choice((-4, 4, 8))
        file.change(at, data_offsets=[value + shift for value in fields["data_offsets"]])


def change_fields(file: SafetensorsFile, rng: random.Random) -> None:
    """An entry with a field more or less, or that is none."""
    if known := file.tensors():
        at, _ = rng.choice(known)
        name, entry = file.header[at]
        lower = Pairs((key, "f32" if key == "dtype" else value) for key, value in entry)
        others: list[Any] = [
            Pairs([*entry, ("extra", 1)]), Pairs([*entry, ("extra", Pairs([("deep", [])]))]),
            Pairs(entry[:-1]), lower, None, [], Pairs(), 1, "F32", [entry],
        ]  # fmt: skip
        file.header[at] = (name, rng.choice(others))


def change_text(file: SafetensorsFile, rng: random.Random) -> None:
    """The header's text: spaces before it, zeros behind, comments, a mark of its encoding."""
    old, new = rng.choice(
        ((b"{", b" {"), (b"{", b"\xef\xbb\xbf{"), (b"}", b"},"), (b"}", b"}\0"), (b":", b":/**/"),
         (b'"', b"'"), (b"}", b"}}"), (b"}", b"} x"), (b"e", b"\xff"), (b"[", b"[,"), (b"", b""),
         (b"]", b",]"), (b"{", b'{"a":{"b":[[]]},'), (b"e", b"\x01"))
    )  # fmt: skip
    at_end = rng.random() < 0.5

    def changed(text: bytes) -> bytes:
        text = text.rstrip(b" ")
        at = text.rfind(old) if at_end else text.find(old)
        text = text if at < 0 else text[:at] + new + text[at + len(old) :]
        return text + b" " * (-len(text) % 8)

    file.late.append(changed)


def change_ends(file: SafetensorsFile, rng: random.Random) -> None:
    """Bytes too few or too many, padding, a length that lies."""
    kind = rng.randrange(5)
    if kind == 0:
        file.data += bytes(rng.choice((1, 8)))
    elif kind == 1:
        file.data = file.data[:-1]
    elif kind == 2:
        file.late.append(lambda text: text + b" " * rng.choice((1, 7, 64)))
    elif kind == 3:
        file.length = rng.choice((0, 1 << 62, 0x4034B50, 100_000_001))
    else:
        # A length that spells the signature of an archive.
        file.late.append(lambda text: text.ljust(max(len(text), 1027)))


SAFETENSORS_MUTATIONS: Final[dict[Mutation, int]] = {
    respell: 3, shuffle_header: 2, spoil: 5, retype: 4, reshape: 3, add_tensor: 4, rename: 1,
    repeat_key: 1, change_metadata: 3, respell_number: 1, change_offsets: 1, change_fields: 1,
    change_text: 1, change_ends: 1,
}  # fmt: skip
