"""GGUF files that lie, each as llama.cpp's own tests have it, and some more.

The names are those of `handcrafted_file_type` in tests/test-gguf.cpp of llama.cpp, commit 03f94f1.
Of what it refuses two are read here as MLX writes and reads them: five dimensions, a long name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz.files.gguf_files import GgufFile, Info, Pair, text

import gradtool
from gradtool.core.sections import OTHER
from gradtool.formats import open_checkpoint

ALIGNMENT = b"general.alignment"


def sound() -> GgufFile:
    """Two keys and three tensors: of nine, four and two numbers."""
    file = GgufFile()
    file.add(b"my_key_0", 8, text(b"value"))
    file.add(b"my_key_1", 4, struct.pack("<I", 7))
    for number, dims in enumerate(([3, 3], [4], [2])):
        count = 9 if len(dims) > 1 else dims[0]
        data = struct.pack(f"<{count}f", *range(1, count + 1))
        file.infos.append(Info(b"my_tensor_%d" % number, dims, 0, data))
    return file


def changed(change: Callable[[GgufFile], object]) -> bytes:
    file = sound()
    change(file)
    return file.build()


def aligned(value: int, type_: int = 4, alignment: int | None = None) -> bytes:
    file = sound()
    file.add(ALIGNMENT, type_, struct.pack("<I", value))
    file.alignment = alignment
    return file.build()


def of_tensor(number: int = 1, **fields: object) -> bytes:
    file = sound()
    for name, value in fields.items():
        setattr(file.infos[number], name, value)
    return file.build()


def of_pair(**fields: object) -> bytes:
    file = sound()
    for name, value in fields.items():
        setattr(file.pairs[1], name, value)
    return file.build()


def of_file(**fields: object) -> bytes:
    file = sound()
    for name, value in fields.items():
        setattr(file, name, value)
    return file.build()


T = "'my_tensor_1'"
REFUSED = {
    "HEADER_BAD_MAGIC": (of_file(magic=b"FUGG"), "in no format"),
    "HEADER_BAD_VERSION_0": (of_file(version=0), "is GGUF of version 0, gradtool reads 2 and 3"),
    "HEADER_BAD_VERSION_1": (of_file(version=1), "version 1, .* convert it with a current"),
    "HEADER_BAD_VERSION_FUTURE": (of_file(version=4), "is GGUF of version 4"),
    "HEADER_BAD_N_TENSORS": (
        of_file(counts=(2**64 - 1, None)),
        "claims 18446744073709551615 tensors, more than .*at byte 8",
    ),
    "HEADER_BAD_N_KV": (
        of_file(counts=(None, 2**64 - 1)),
        "claims 18446744073709551615 keys, more than .*at byte 16",
    ),
    "KV_BAD_KEY_SIZE": (of_pair(key_nbytes=2**64 - 1), "a key of 18446744073709551615 bytes, GGUF"),
    "KV_EMPTY_KEY": (of_pair(key=b""), "a key that is empty .at byte"),
    "KV_BAD_TYPE": (of_pair(type=13), "'my_key_1': is of type 13, which GGUF does not have"),
    "KV_DUPLICATE_KEY": (of_pair(key=b"my_key_0"), "'my_key_0': a duplicate key .at byte"),
    "KV_BAD_ALIGN": (aligned(13), "'general.alignment': is 13, no power of two .at byte"),
    "KV_WRONG_TYPE_ALIGN": (aligned(32, type_=5), "'general.alignment': is of type 5, .* UINT32"),
    "TENSORS_BAD_N_DIMS": (of_tensor(ndim=5), f"{T}: .*at byte"),
    "more dimensions than anyone reads": (of_tensor(ndim=9), f"{T}: has 9 dimensions, no reader"),
    "TENSORS_BAD_SHAPE": (of_tensor(dims=[-1]), f"{T}: a size is negative, or all .*at byte"),
    "TENSORS_NE_TOO_BIG": (of_tensor(dims=[4 * (2**31 - 1)] * 2), f"{T}: .* beyond 2.63"),
    "TENSORS_NBYTES_TOO_BIG": (of_tensor(type=27, dims=[1533916891] * 2), f"{T}: .* truncated"),
    "TENSORS_BAD_TYPE": (of_tensor(type=42), f"{T}: is of type 42, which gradtool does not know"),
    "TENSORS_BAD_OFFSET": (
        of_tensor(offset=-1),
        f"{T}: its data begin at 1844.*, and should at 64",
    ),
    "TENSORS_DUPLICATE_NAME": (of_tensor(name=b"my_tensor_0"), "'my_tensor_0': two tensors"),
    "TENSORS_BAD_ALIGN": (aligned(13), "no power of two"),
    "TENSORS_INCONSISTENT_ALIGN": (of_file(alignment=1), f"{T}: its data begin at 36, .* at 64"),
    "DATA_NOT_ENOUGH_DATA": (
        of_file(infos=[*sound().infos[:2], Info(b"last", [2], 0, bytes(7))], tail=b""),
        "'last': ends 1 bytes after the file: truncated",
    ),
    "DATA_BAD_ALIGN": (aligned(13), "no power of two"),
    "DATA_INCONSISTENT_ALIGN": (of_file(alignment=1), "its data begin at 36"),
    "DATA_MEM_SIZE_OVERFLOW": (
        of_file(infos=[Info(b"a", [2**63 - 64], 24, bytes(32))]),
        "'a': ends .* bytes after the file: truncated",
    ),
    "an array of arrays": (of_pair(type=9, of=9, count=1), "'my_key_1': is an array of arrays"),
    "an array of more than is there": (
        of_pair(type=9, of=4, count=2**61, value=bytes(4)),
        "'my_key_1': claims 2305843009213693952 values, and",
    ),
    "a text longer than the file": (of_pair(type=8, value=struct.pack("<Q", 2**40)), "truncated"),
    "texts longer than the file": (
        of_pair(type=9, of=8, count=2, value=text(b"a") + struct.pack("<Q", 2**62)),
        "truncated",
    ),
    "rows that are no blocks": (
        of_tensor(type=8, dims=[4]),
        f"{T}: has rows of 4, which Q8_0 packs by 32",
    ),
    "a name that ends before its end": (of_tensor(name=b"w\0a"), "a name with a NUL in it"),
    "a name that is no text": (of_tensor(name=b"\xff"), "a tensor's name that is not UTF-8"),
    "a long name": (of_tensor(name_nbytes=2**40), "name of 1099511627776 bytes, GGUF allows"),
    "more than is described": (of_file(tail=bytes(300)), "276 bytes follow the last tensor"),
    "data that overlap": (of_tensor(offset=32), f"{T}: its data begin at 32, .* an overlap"),
    "an alignment beyond the file": (aligned(1 << 31, alignment=32), "truncated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_ggml_refuses_is_refused_by_name_and_byte(case: str, tmp_path: Path) -> None:
    content, words = REFUSED[case]
    path = tmp_path / "wrong.gguf"
    path.write_bytes(content)
    with pytest.raises(gradtool.InputError, match=words) as caught:
        open_checkpoint(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "at byte" in message or "in no format" in message


READ = {
    "HEADER_EMPTY": (GgufFile().build(), 0),
    "KV_SUCCESS": (of_file(infos=[]), 0),
    "TENSORS_ZERO_DIM": (
        of_file(infos=[Info(b"a", [3, 0], 0, b""), Info(b"b", [2], 0, bytes(8))]),
        2,
    ),
    "TENSORS_BAD_NAME_SIZE, which MLX reads": (of_tensor(name=b"x" * 80), 3),
    "TENSORS_BAD_N_DIMS, which MLX reads": (of_tensor(dims=[4, 1, 1, 1, 1]), 3),
    "TENSORS_SUCCESS": (sound().build(), 3),
    "TENSORS_CUSTOM_ALIGN": (aligned(1), 3),
    "DATA_CUSTOM_ALIGN": (aligned(256), 3),
    "without padding at its end, as of MLX": (of_file(tail=b""), 3),
    "version 2": (of_file(version=2), 3),
}


@pytest.mark.parametrize("case", READ)
def test_what_a_loader_of_gguf_takes_is_read(case: str, tmp_path: Path) -> None:
    content, tensors = READ[case]
    path = tmp_path / "sound.gguf"
    path.write_bytes(content)
    found = open_checkpoint(str(path))
    assert len(found.tensors) == tensors
    assert bool(found.notes) == ("which MLX" in case)


def test_metadata_say_what_tensors_are(tmp_path: Path) -> None:
    """As converters note it; a vocabulary is in models that are to be run."""
    path = tmp_path / "any.gguf"

    def kinds(*pairs: Pair) -> tuple[object, set[str]]:
        path.write_bytes(of_file(pairs=[*pairs]))
        found = open_checkpoint(str(path))
        return found.section_kinds, {spec.section for spec in found.tensors}

    def of_type(value: bytes) -> Pair:
        return Pair(b"general.type", 8, text(value))

    assert kinds() == ({}, {""})
    assert kinds(of_type(b"model")) == ({"": "weights"}, {""})
    assert kinds(of_type(b"imatrix")) == ({}, {OTHER})
    assert kinds(of_type(b"of our own")) == ({}, {""})
    vocabulary = Pair(b"tokenizer.ggml.tokens", 9, text(b"a") + text(b""), of=8, count=2)
    assert kinds(vocabulary) == ({"": "weights"}, {""})
