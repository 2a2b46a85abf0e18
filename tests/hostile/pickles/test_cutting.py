"""Where a pickle ends is where other interpreters stop; what has no end says so soon."""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.pickles import cutting
from gradtool.formats.pickles.cutting import read_pickle
from gradtool.formats.pickles.unpickle import _OPERATIONS
from gradtool.storage.reader import open_source

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.text(), inner).map(OrderedDict)
    ),
)  # fmt: skip

OPERANDS = {0: b"", 1: b"\x05", 2: b"\1\2", 4: b"\0\1\0\0", 8: b"\3" + bytes(7)}


def cut(tmp_path: Path, content: bytes, offset: int = 0) -> bytes:
    path = tmp_path / "x"
    path.write_bytes(content)
    with open_source(str(path)) as source:
        return read_pickle(source, offset)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES, st.integers(2, 5), st.binary(), st.binary(max_size=9))
def test_a_pickle_ends_where_python_ends_it(
    tmp_path: Path, value: object, protocol: int, before: bytes, after: bytes
) -> None:
    pickled = pickle.dumps(value, protocol)
    assert cut(tmp_path, before + pickled + after, len(before)) == pickled


def operand_of(opcode: pickletools.OpcodeInfo) -> bytes:
    """Some operand, of the width that pickletools gives; one of five bytes where that is told."""
    if opcode.arg is None:
        return b""
    if opcode.arg.n >= 0:
        return OPERANDS[opcode.arg.n]
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        return b"a.\nb.\n"
    kinds = pickletools.TAKEN_FROM_ARGUMENT1, pickletools.TAKEN_FROM_ARGUMENT8U
    width = dict(zip(kinds, (1, 8), strict=True)).get(opcode.arg.n, 4)
    return (5).to_bytes(width, "little") + b"....."


@pytest.mark.parametrize("code", sorted(_OPERATIONS))
def test_every_opcode_of_the_interpreter_has_its_width(code: int, tmp_path: Path) -> None:
    opcode = pickletools.code2op[chr(code)]
    pickled = (
        bytes((code,)) if opcode.name == "STOP" else bytes((code,)) + operand_of(opcode) + b"."
    )
    assert cut(tmp_path, pickled + b"N.N.") == pickled


@pytest.mark.parametrize("code", sorted(set(range(256)) - _OPERATIONS.keys()))
def test_another_opcode_is_the_last_one(code: int, tmp_path: Path) -> None:
    assert cut(tmp_path, b"\x80\x02N" + bytes((code,)) + b"N.") == b"\x80\x02N" + bytes((code,))


def test_a_pickle_of_any_size_is_cut_to_the_byte(tmp_path: Path) -> None:
    for count in (0, 1, 1000, 65_522, 65_523, 65_524, 200_000):
        pickled = pickle.dumps(["x" * count, *range(count // 8)], 2)
        assert cut(tmp_path, pickled + b"." * 100_000) == pickled


def test_an_operand_beyond_the_file_is_named_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match=r"promises 4000000000 bytes: truncated"):
        cut(tmp_path, b"\x80\x02X" + struct.pack("<I", 4_000_000_000) + bytes(100))


@pytest.mark.parametrize("endless", [b"N", b"U\x01a", b"c" + b"a" * 200])
def test_a_pickle_without_an_end_is_read_up_to_a_limit(
    endless: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "MAX_PICKLE_NBYTES", 100_000)
    content = endless * (200_000 // len(endless))
    with pytest.raises(UnsupportedFormatError, match="more than 100000 bytes"):
        cut(tmp_path, content)
    assert cut(tmp_path, content[:90_000]) == content[:90_000]
