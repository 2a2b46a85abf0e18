"""One case for each way in which a safetensors file can be wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradtool
from gradtool.errors import GradtoolError, InputError
from gradtool.formats import Opening, open_checkpoint


def write(path: Path, header: str | bytes | dict[str, Any], data: bytes = b"") -> Path:
    # Spelled as writers do, which is read in another way than all else.
    text = json.dumps(header, separators=(",", ":")) if isinstance(header, dict) else header
    encoded = text.encode() if isinstance(text, str) else text
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


def entry(begin: int, end: int, dtype: Any = "F32", shape: Any = None) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


EIGHT = bytes(8)
WRONG = {
    "hole": ({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12), "'b'", "follow a hole", True),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 8)}, EIGHT, "'b'", "overlap", True),
    "late start": ({"a": entry(4, 8)}, EIGHT, "'a'", "follow a hole", True),
    "tail": ({"a": entry(0, 4)}, EIGHT, "'a'", "4 bytes after the last tensor", True),
    "short": ({"a": entry(0, 16)}, EIGHT, "'a'", "truncated", True),
    "tail of nothing": ({}, EIGHT, "", "8 bytes after the last tensor", True),
    "shape and bytes disagree": (
        {"a": entry(0, 8, shape=[3])},
        EIGHT,
        "'a'",
        "span 8 bytes, F32 of its shape takes 96 bits",
        False,
    ),
    "shape and bytes of the second of a type disagree": (
        {"a": entry(0, 4), "b": entry(4, 12, shape=[1])},
        bytes(12),
        "'b'",
        "span 8 bytes, F32 of its shape takes 32 bits",
        False,
    ),
    "offsets reversed": ({"a": entry(8, 0, shape=[])}, EIGHT, "'a'", "data_offsets span -8", False),
    "product beyond 2^64": (
        {"a": entry(0, 8, shape=[2**62, 4, 2])},
        EIGHT,
        "'a'",
        "data_offsets span 8",
        False,
    ),
    "negative size": ({"a": entry(0, 8, shape=[-2, -1])}, EIGHT, "'a'", "shape", False),
    "size is a bool": ({"a": entry(0, 4, shape=[True])}, bytes(4), "'a'", "shape", False),
    "size is a text": ({"a": entry(0, 4, shape=["1"])}, bytes(4), "'a'", "shape", False),
    "shape is no list": ({"a": entry(0, 4, shape=1)}, bytes(4), "'a'", "shape", False),
    "1000 dimensions": ({"a": entry(0, 4, shape=[1] * 1000)}, bytes(4), "'a'", "shape", False),
    "odd bits": ({"a": entry(0, 1, dtype="F4", shape=[1])}, b"0", "'a'", "takes 4 bits", False),
    "unknown dtype": (
        {"a": entry(0, 4, dtype="F31")},
        bytes(4),
        "'a'",
        "unknown dtype 'F31'",
        False,
    ),
    "dtype is a list": ({"a": entry(0, 4, dtype=[])}, bytes(4), "'a'", "unknown dtype []", False),
    "field missing": ({"a": {"dtype": "F32", "shape": []}}, EIGHT, "'a'", "data_offsets", False),
    "field too many": ({"a": {**entry(0, 8), "x": 1}}, EIGHT, "'a'", "nothing else", False),
    "entry is a list": ({"a": []}, EIGHT, "'a'", "header entry", False),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "", "map of strings", False),
    "duplicate tensor": (
        json.dumps({"a": entry(0, 4), "b": entry(4, 8)}).replace('"b"', '"\\u0061"'),
        EIGHT,
        "",
        "duplicate key 'a'",
        False,
    ),
    "duplicate field": ('{"a":{"shape":[],"shape":[]}}', b"", "", "duplicate key 'shape'", False),
    "size is a float": ({"a": entry(0, 4, shape=[1.0])}, bytes(4), "'a'", "shape", False),
    "size of 400 digits": ({"a": entry(0, 4, shape=[10**400])}, bytes(4), "'a'", "shape", False),
    "offset of 4000 digits": (
        {"a": entry(10**4000, 10**4000, shape=[0])},
        b"",
        "'a'",
        "data_offsets",
        False,
    ),
    "NaN": ('{"a":{"dtype":NaN}}', b"", "", "NaN is no JSON", False),
    "note twice": (
        '{"__metadata__":{"gradtool.step":"1","gradtool.step":"1"}}',
        b"",
        "",
        "duplicate key",
        False,
    ),
    "surrogate in metadata": (
        '{"__metadata__":{"a":"\\udfff"}}',
        b"",
        "",
        "no valid Unicode",
        False,
    ),
    "surrogate as a key of metadata": (
        '{"__metadata__":{"\\ud800":""}}',
        b"",
        "",
        "no valid Unicode",
        False,
    ),
    "control character in metadata": (
        '{"__metadata__":{"a":"\x01"}}',
        b"",
        "",
        "not valid JSON",
        False,
    ),
    "padding of NUL": ("{}\0\0", b"", "", "not valid JSON", False),
    "not UTF-8": (b'{"\xff":1}', b"", "", "not UTF-8", False),
    "lone surrogate": ('{"\\ud800":1}', b"", "", "no valid Unicode", False),
    "a text": ("{", b"", "", "not valid JSON", False),
    "deep nesting": ('{"a":' + "[" * 200_000, b"", "", "", False),
    "digits without end": (
        '{"a":{"shape":[' + "9" * 10_000 + "]}}",
        b"",
        "'a'",
        "header entry",
        False,
    ),
}


HEADERS = {
    "entry is a number": ('{"a":1}', "header entry"),
    "objects in an entry": ('{"a":{"dtype":{}}}', "not valid JSON"),
    "metadata after a comma": ('{"__metadata__":{"a":"b",}}', "not valid JSON"),
    "comma at the end": ('{"__metadata__":{},}', "not valid JSON"),
    "metadata twice": ('{"__metadata__":null,"__metadata__":{}}', "duplicate key"),
    "metadata is a list": ('{"__metadata__":[]}', "not valid JSON"),
}
WRONG |= {case: (header, b"", "", reason, False) for case, (header, reason) in HEADERS.items()}

FOREIGN_DIGITS = {"Arabic": "\u0661\u0666", "full-width": "\uff11\uff16", "mixed": "1\u0666"}
"""Of 16, as `int` reads them and JSON does not."""

for digits, number in FOREIGN_DIGITS.items():
    for place in ("[8,{}]", "[{},16]"):
        second = '"b":{"dtype":"F32","shape":[2],"data_offsets":' + place.format(number) + "}"
        first = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        # Of a type and shape that are known to be sound by then.
        text = first + second + "}"
        WRONG[f"{digits} digits in {place}"] = (text, bytes(16), "", "not valid JSON", False)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_by_name(case: str, tmp_path: Path) -> None:
    header, data, tensor, reason, has_byte = WRONG[case]
    path = write(tmp_path / "wrong.safetensors", header, data)
    with pytest.raises(InputError) as caught:
        open_checkpoint(str(path))
    message = str(caught.value)
    # What nobody asked for is checked like all else.
    with pytest.raises(InputError) as again:
        open_checkpoint(str(path), Opening(wanted=lambda _: False))
    assert str(again.value) == message
    assert message.startswith(str(path))
    assert tensor in message
    assert reason in message
    assert ("at byte" in message) == has_byte or not has_byte
    assert "\n" not in message


def test_a_header_longer_than_the_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 99_999_999) + b'{"a":')
    with pytest.raises(gradtool.CorruptFileError, match="claims 99999999 bytes, the file has 13"):
        gradtool.measure(path)


def test_a_header_beyond_the_references_limit_is_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + b'{"a":')
    with pytest.raises(gradtool.UnknownFormatError):
        gradtool.measure(path)


VALID = {
    "a": entry(0, 8),
    "b": {"dtype": "I64", "shape": [1], "data_offsets": [8, 16]},
    "c": entry(16, 16, shape=[0, 5]),
}


@given(data=st.data())
def test_any_mutation_is_read_or_refused(data: st.DataObject, scratch: Path) -> None:
    path = write(
        scratch / "mutated.safetensors", VALID, np.array([1, 2, 3, 4], np.float32).tobytes()
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        gradtool.measure(path)
    except GradtoolError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("letter", ["X", "U", "w"])
def test_a_header_that_happens_to_begin_like_a_pickle_is_read(letter: str, tmp_path: Path) -> None:
    """Of every 32 sound files one begins with X, which would say how long a text follows it."""
    length = 0x58 + 8 * 0x100  # and the text would end within the name
    header = json.dumps({letter * 80: entry(0, 8), "v": entry(8, 16)}).ljust(length)
    path = write(tmp_path / "x.safetensors", header, bytes(16))
    assert path.read_bytes()[0] == ord("X")
    assert path.read_bytes()[5 + 8] == ord(letter)
    assert len(gradtool.measure(path).tensors) == 2
