"""Flax's msgpack files that lie, one case for each way."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from fuzz.files.flax_files import CHUNKED, Array, FlaxFile, Other, Pairs

import gradtool
from gradtool.formats import open_checkpoint


def of(*sizes: Any, type_: Any = "float32", data: bytes | None = None, code: int = 1) -> Array:
    count = sizes[0] if sizes and isinstance(sizes[0], int) else 1
    raw = struct.pack(f"<{count}f", *range(1, count + 1)) if data is None else data
    return Array([*sizes], type_, raw, code)


def built(*pairs: tuple[Any, Any]) -> bytes:
    """A file of an array, by which it is Flax's, and more."""
    return FlaxFile(Pairs([("first", of(2)), *pairs])).build()


def chunked(shape: Pairs, chunks: Any, *more: tuple[Any, Any], flag: Any = True) -> Pairs:
    return Pairs([(CHUNKED, flag), ("shape", shape), ("chunks", chunks), *more])


SOUND = built(("w", of(4)))
SHAPE = Pairs([("0", 2), ("1", 2)])
CHUNKS = Pairs([("0", of(3)), ("1", of(1))])
DEEP = b"\x82\xa1a" + FlaxFile(of(1)).build() + b"\xa1b" + b"\x81\xa1a" * 300 + b"\xc0"

REFUSED = {
    "more behind it": (SOUND + b"\0", "1 bytes follow the document .at byte"),
    "a key twice": (built(("first", 1)), "key 'first' appears twice .at byte"),
    "a key as a number and as a text": (built((1, of(1)), ("1", 1)), "key '1' appears twice"),
    "a key of bytes": (built((b"w", of(1))), "a key that is neither a text nor an integer"),
    "a key of a list": (built(([1], of(1))), "a key that is neither a text nor an integer"),
    "a key that is no text": (built(("\ud800", of(1))), "a key that is not UTF-8"),
    "a long key": (built(("x" * 70_000, of(1))), "a key of 70000 bytes, more than 65535"),
    "nesting": (DEEP, "nests too deeply: more than 200 levels"),
    "a byte that is none": (SOUND[:-22] + b"\xc1" + SOUND[-21:], "at byte"),
    "a map of more than there is": (
        b"\x82\xa1a" + FlaxFile(of(1)).build() + b"\xa1b\xdf\xff\xff\xff\xff",
        "claims 4294967295 entries, and 0 bytes follow: truncated",
    ),
    "bytes beyond the end": (
        b"\x82\xa1a" + FlaxFile(of(1)).build() + b"\xa1b\xc6\xff\xff\xff\xff",
        "claims 4294967295 bytes, and 0 follow: truncated",
    ),
    "an array of too few bytes": (built(("w", of(3, data=bytes(8)))), "promises 12 bytes, 8 are"),
    "an array of too many": (
        built(("w", of(1, data=bytes(8)))),
        "'w': shape .1,. promises 4 bytes",
    ),
    "a negative size": (built(("w", of(-1, data=bytes(4)))), "'w': shape has what is no size"),
    "a size that is a float": (built(("w", of(1.0))), "'w': shape has what is no size"),
    "a size that is a bool": (built(("w", of(True, data=bytes(4)))), "shape has what is no size"),
    "sizes beyond 2^63": (built(("w", of(1 << 32, 1 << 31, data=b""))), "beyond 2.63"),
    "100 dimensions": (built(("w", of(*[1] * 100, data=bytes(4)))), "at most 64 sizes"),
    "a shape that is none": (built(("w", Array(2, "float32", bytes(8)))), "is no list of at most"),
    "a type that is none": (built(("w", of(2, type_=3))), "'w': type is no name"),
    "an unknown type": (built(("w", of(2, type_=">f4"))), "does not know the type '>f4'"),
    "data that are a number": (built(("w", of(2, data=7))), "'w': data are no bytes"),
    "a type without a list": (built(("w", Other(1, b"\xc0"))), "'w': is no list of shape, type"),
    "more in an array": (
        built(("w", Array([1], "float32", bytes(4), more=b"\0"))),
        "says 4 bytes of data, 5 are there",
    ),
    "an array that reaches into what follows": (
        built(("w", Other(1, b"\x93\x91\x02\xa7float32\xc4\x08"))),
        "says 8 bytes of data, 0 are there",
    ),
    "a scalar with a shape": (built(("w", of(1, code=3))), "'w': is a scalar, and has a shape"),
    "two names that meet": (
        built(("a.b", of(1)), ("a", Pairs([("b", of(2))]))),
        "'a.b': two tensors come by this name",
    ),
    "a chunk too few": (
        built(("w", chunked(SHAPE, Pairs(CHUNKS[:1])))),
        "no chunked array|chunks have",
    ),
    "more beside chunks": (
        built(("w", chunked(SHAPE, CHUNKS, ("more", of(1))))),
        "'w': is no chunked array as Flax writes it",
    ),
    "an array for a flag": (built(("w", chunked(SHAPE, CHUNKS, flag=of(1)))), "no chunked array"),
    "chunks in a list": (built(("w", chunked(SHAPE, [of(4)]))), "'w': is no chunked array"),
    "chunks of other types": (
        built(("w", chunked(SHAPE, Pairs([("0", of(3)), ("1", of(1, type_="int32"))])))),
        "'w': chunk 1 is not flat, or of another type than the first",
    ),
    "a chunk with a shape": (
        built(("w", chunked(SHAPE, Pairs([("0", of(2, 2, data=bytes(16)))])))),
        "'w': chunk 0 is not flat",
    ),
    "chunks that are none": (
        built(("w", chunked(SHAPE, Pairs([("0", 4)])))),
        "chunk 0 is no array",
    ),
    "chunks of too many elements": (
        built(("w", chunked(Pairs([("0", 3)]), CHUNKS))),
        "'w': its chunks have 4 elements, its shape 3",
    ),
    "sizes of chunks that are none": (
        built(("w", chunked(Pairs([("0", -4)]), CHUNKS))),
        "'w': its shape has what is no size",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_file_is_refused_by_name_or_byte(case: str, tmp_path: Path) -> None:
    content, words = REFUSED[case]
    path = tmp_path / "wrong.msgpack"
    path.write_bytes(content)
    with pytest.raises(gradtool.InputError, match=words) as caught:
        open_checkpoint(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "at byte" in message or "'" in message


def test_chunks_are_one_array_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "grads.msgpack"
    numbers = Pairs([("1", of(1, data=struct.pack("<f", 9.0))), ("0", of(3))])
    path.write_bytes(built(("w", chunked(SHAPE, numbers))))
    _, tensor = open_checkpoint(str(path)).tensors
    assert (tensor.name, tensor.shape, len(tensor.extents)) == ("w", (2, 2), 2)
    raw = b"".join(path.read_bytes()[one.offset : one.end] for one in tensor.extents)
    assert struct.unpack("<4f", raw) == (1.0, 2.0, 3.0, 9.0)


def test_below_a_list_flax_leaves_chunks_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "grads.msgpack"
    path.write_bytes(built(("l", [3, chunked(SHAPE, CHUNKS)])))
    names = [spec.name for spec in open_checkpoint(str(path)).tensors]
    assert names == ["first", "l.1.chunks.0", "l.1.chunks.1"]


def test_what_is_of_other_programs_is_said(tmp_path: Path) -> None:
    path = tmp_path / "grads.msgpack"
    path.write_bytes(built(("t", Other(-1, bytes(4))), ("o", Other(42, b"x"))))
    assert open_checkpoint(str(path)).notes == ("not read: MessagePack extensions of type -1, 42",)


def test_a_root_that_is_an_array_is_called_as_the_file(tmp_path: Path) -> None:
    path = tmp_path / "grad.msgpack"
    path.write_bytes(FlaxFile(of(3)).build())
    (tensor,) = open_checkpoint(str(path)).tensors
    assert (tensor.name, tensor.shape) == ("grad", (3,))


def test_types_without_a_measure_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "grads.msgpack"
    types = {"int4": 1, "float8_e3m4": 1, "float8_e8m0fnu": 1, "datetime64[ns]": 8, "bool": 1}
    arrays = [(name, of(2, type_=name, data=bytes(2 * n))) for name, n in types.items()]
    path.write_bytes(built(*arrays, ("s", of(code=3, data=bytes(4)))))
    found = {item.name: item.reason for item in open_checkpoint(str(path)).skipped}
    assert found == {
        "int4": "dtype without a measure",
        "float8_e3m4": "dtype without a measure",
        "float8_e8m0fnu": "scale dtype",
        "datetime64[ns]": "text or dates",
        "bool": "bool",
        "s": "NumPy scalar",
    }


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("grads_3.msgpack", {}), ("any.msgpack", {"model": "weights"})],
)
def test_params_are_gradients_where_the_files_name_says_so(
    name: str, kinds: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(FlaxFile(Pairs([("params", Pairs([("w", of(2))]))])).build())
    assert open_checkpoint(str(path)).section_kinds == kinds
