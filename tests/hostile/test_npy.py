"""Arrays whose headers lie, or hold what must not be loaded: refused by name, unread."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradtool
from gradtool.core.checkpoint import Checkpoint
from gradtool.core.dtypes import DTYPES
from gradtool.errors import (
    CorruptFileError,
    EmptyDumpError,
    GradtoolError,
    InputError,
    UnsupportedFormatError,
)
from gradtool.formats.files.npy import open_npy
from gradtool.formats.files.npz import open_npz
from gradtool.storage.archives.zip import read_directory
from gradtool.storage.reader import open_source


def catalogue(path: Path, raw_dtype: str | None = None) -> Checkpoint:
    dtype = DTYPES[raw_dtype] if raw_dtype else None
    with open_source(str(path)) as source:
        if path.suffix == ".npy":
            return open_npy(source, dtype)
        return open_npz(source, read_directory(source), dtype)


def npy(
    literal: str | bytes, data: bytes = bytes(8), version: bytes = b"\1\0", length: int = -1
) -> bytes:
    text = literal.encode("latin-1") if isinstance(literal, str) else literal
    layout = "<H" if version == b"\1\0" else "<I"
    length = len(text) if length < 0 else length
    return b"\x93NUMPY" + version + struct.pack(layout, length) + text + data


def header(descr: str = "'<f4'", fortran_order: str = "False", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran_order}, 'shape': {shape}, }}\n"


NOT_A_LITERAL = "not the literal of a dictionary"
CORRUPT = {
    "empty": (b"", "does not start as one"),
    "magic cut off": (b"\x93NUMP", "does not start as one"),
    "version cut off": (b"\x93NUMPY\1", "header is cut off"),
    "length cut off": (b"\x93NUMPY\1\0\x76", "header is cut off"),
    "literal cut off": (npy(header(), b"", length=200), "claims 200 bytes: truncated"),
    "literal of 64 KiB": (npy(header() + " " * 60_000), "beyond NumPy's limit"),
    "literal of 4 GiB": (npy(header(), version=b"\2\0", length=0xFFFFFFFF), "beyond NumPy's limit"),
    "data cut off": (npy(header(), bytes(7)), "promises 8 bytes, 7 are there: truncated"),
    "no data": (npy(header(), b""), "promises 8 bytes, 0 are there: truncated"),
    "data too long": (npy(header(), bytes(9)), "promises 8 bytes, 9 are there: trailing"),
    "no literal": (npy(""), NOT_A_LITERAL),
    "no text": (npy(b"\xff" * 100, version=b"\3\0"), NOT_A_LITERAL),
    "NUL": (npy(header() + "\0"), NOT_A_LITERAL),
    "a call": (npy("__import__('os').system('true')"), NOT_A_LITERAL),
    "an expression": (npy(header(shape="(1+1,)")), NOT_A_LITERAL),
    "an unpacking": (npy("{**{}}"), NOT_A_LITERAL),
    "an unhashable key": (npy("{[]: 1}"), NOT_A_LITERAL),
    "nested too deeply": (npy("(" * 9000), NOT_A_LITERAL),
    "nested brackets": (npy("[" * 90 + "]" * 90), "does not have the keys"),
    "minus signs": (npy("-" * 9000 + "1"), NOT_A_LITERAL),
    "an invalid escape": (npy(header(descr=r"'\d'")), NOT_A_LITERAL),
    "a number run into a word": (npy(header(shape="(2if 1else 3,)")), NOT_A_LITERAL),
    "a number with a dot run into a word": (npy(header(shape="(1.if 1 else 2,)")), NOT_A_LITERAL),
    "a complex number run into a word": (npy(header(shape="(1jif 1 else 2,)")), NOT_A_LITERAL),
    "a hidden number run into a word": (
        npy(header(descr="""'''a' '''1if 1 else''' '''""")),
        NOT_A_LITERAL,
    ),
    "a number too long for Python": (npy(header(shape=f"({'9' * 5000},)")), NOT_A_LITERAL),
    "two literals": (npy(header() + header()), NOT_A_LITERAL),
    "a list": (npy("['descr', 'fortran_order', 'shape']"), "does not have the keys"),
    "a set": (npy("{'descr', 'fortran_order', 'shape'}"), "does not have the keys"),
    "a key missing": (npy("{'descr': '<f4', 'shape': (2,)}"), "does not have the keys"),
    "a key too many": (npy(header()[:-2] + "'more': 1}"), "does not have the keys"),
    "a duplicate key": (npy(header()[:-2] + "'shape': (2,)}"), "ambiguous header: a duplicate key"),
    "order as number": (npy(header(fortran_order="0")), "fortran_order"),
    "shape as list": (npy(header(shape="[2]")), "not a tuple of integers"),
    "shape as number": (npy(header(shape="2")), "not a tuple of integers"),
    "a bool in the shape": (npy(header(shape="(True, 2)")), "not a tuple of integers"),
    "a float in the shape": (npy(header(shape="(2.0,)")), "not a tuple of integers"),
    "a negative size": (npy(header(shape="(-2,)")), "impossible"),
    "two negative sizes": (npy(header(shape="(-1, -2)")), "impossible"),
    "a size of 2**63": (npy(header(shape=f"(0, {1 << 63})")), "impossible"),
    "a size of 4000 digits": (npy(header(shape=f"({'9' * 4000},)")), "impossible"),
    "65 dimensions": (npy(header(shape="(" + "1, " * 64 + "2)")), "impossible"),
    "a product beyond 64 bits": (
        npy(header(shape=f"({1 << 31}, {1 << 31}, 8)")),
        f"promises {1 << 67} bytes, 8 are there",
    ),
    "a product that wraps to the truth": (
        npy(header(shape=f"({(1 << 62) + 1}, 2)"), bytes(8)),
        f"promises {(1 << 65) + 8} bytes, 8 are there",
    ),
}
OBJECTS = "holds Python objects (a pickle): never loaded"
UNSUPPORTED = {
    "objects of 8 bytes": (npy(header("'O8'")), OBJECTS),
    "objects in a field": (npy(header("[('a', '<f4'), ('b', [('c', '|O')])]")), OBJECTS),
    "fields": (npy(header("[('a', '<f4')]")), "NumPy type [('a', '<f4')] is none"),
    "a field that starts with a number": (npy(header("[('4th', '<f4')]")), "'4th'"),
    "many fields": (npy(header(str([("a", "<f4")] * 99))), "..."),
    "long double": (npy(header("'<f16'")), "'<f16'"),
    "complex long double": (npy(header("'<c32'")), "'<c32'"),
    "complex of half precision": (npy(header("'<W4'")), "'<W4'"),
    "void": (npy(header("'|V12'")), "'|V12'"),
    "no byte order": (npy(header("'f4'")), "'f4'"),
    "no byte order for 4 bytes": (npy(header("'|f4'")), "'|f4'"),
    "not a type": (npy(header("17")), "17"),
    "16 nameless bits": (npy(header("'<V2'")), "if the array was bfloat16, say `raw_dtype='BF16'`"),
    "8 nameless bits": (npy(header("'|V1'")), "'|V1' is how 8-bit floats are saved: they cannot"),
    "8 bits of a float": (
        npy(header("'<f1'")),
        "'<f1' is how 8-bit floats are saved: they cannot",
    ),
    "version 4": (npy(header(), version=b"\4\0"), "npy version 4.0"),
}


def refusal(path: Path, raw_dtype: str | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        catalogue(path, raw_dtype)
    assert str(path) in str(caught.value)
    assert caught.value.byte is not None
    return caught.value


@pytest.mark.parametrize("name", CORRUPT)
def test_damaged_headers_are_refused_with_the_reason(tmp_path, name):
    content, reason = CORRUPT[name]
    (tmp_path / "a.npy").write_bytes(content)
    error = refusal(tmp_path / "a.npy")
    assert type(error) is CorruptFileError
    assert reason in str(error)


@pytest.mark.parametrize("name", [name for name in CORRUPT if "escape" in name or "word" in name])
def test_no_header_makes_python_warn(tmp_path, name):
    (tmp_path / "a.npy").write_bytes(CORRUPT[name][0])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        refusal(tmp_path / "a.npy")
    assert seen == []


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_no_number_is_refused_by_its_type(tmp_path, name):
    content, reason = UNSUPPORTED[name]
    (tmp_path / "a.npy").write_bytes(content)
    error = refusal(tmp_path / "a.npy")
    assert type(error) is UnsupportedFormatError
    assert reason in str(error)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", [*CORRUPT, *UNSUPPORTED])
def test_in_an_archive_the_error_names_file_and_member(tmp_path, name, compression):
    content, reason = (CORRUPT | UNSUPPORTED)[name]
    with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
        archive.writestr("sound.npy", npy(header()))
        archive.writestr("grads.w.npy", content)
    error = refusal(tmp_path / "a.npz")
    assert error.tensor == "grads.w.npy"
    assert reason in str(error)


def test_objects_that_hold_no_array_are_an_empty_dump(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
    with pytest.raises(EmptyDumpError, match="no tensor at all"):
        gradtool.measure(tmp_path / "objects.npy")


def test_objects_without_a_pickle_are_refused(tmp_path):
    (tmp_path / "objects.npy").write_bytes(npy(header("'|O'")))
    assert "does not begin with a pickle protocol" in str(refusal(tmp_path / "objects.npy"))


@pytest.mark.parametrize("raw_dtype", [None, "F32", "F8_E4M3", "F4"])
def test_nameless_elements_are_not_guessed(tmp_path, raw_dtype):
    np.save(tmp_path / "a.npy", np.zeros(2, ml_dtypes.bfloat16))
    error = refusal(tmp_path / "a.npy", raw_dtype)
    assert type(error) is UnsupportedFormatError
    assert "`raw_dtype='BF16'`" in str(error)


@pytest.mark.parametrize("raw_dtype", [None, "BF16", "F4", "F6_E2M3"])
@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "int4"])
def test_fp8_types_are_not_guessed(tmp_path, name, raw_dtype):
    np.save(tmp_path / "a.npy", np.zeros(2, getattr(ml_dtypes, name)))
    error = refusal(tmp_path / "a.npy", raw_dtype)
    assert "cannot be told apart" in str(error)


def test_dates_in_steps_of_several_units_are_listed(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(2, "<M8[25s]"))
    (found,) = catalogue(tmp_path / "a.npy").skipped
    assert (found.name, found.reason) == ("a", "text or dates")


def test_single_bytes_are_the_same_in_either_order(tmp_path):
    for descr in ("'<V1'", "'>V1'"):
        (tmp_path / "a.npy").write_bytes(npy(header(descr), b"\x38\x40"))
        total = gradtool.measure(tmp_path / "a.npy", raw_dtype="F8_E4M3").total
        assert total.stats.norm == pytest.approx(5**0.5)


@pytest.fixture(scope="module")
def seeds() -> list[bytes]:
    """Small arrays as NumPy writes them, and as nobody should."""
    return [
        *(content for content, _ in (CORRUPT | UNSUPPORTED).values() if len(content) < 1000),
        npy(header(), version=b"\2\0"),
        npy(header("'>f8'", "True", "(2, 3)"), bytes(48), version=b"\3\0"),
        npy(header("'|b1'", shape="()"), bytes(1)),
    ]


edits = st.lists(
    st.tuples(
        st.integers(0, 300),
        st.integers(0, 4),
        st.binary(max_size=4) | st.sampled_from([b"(", b")", b"'", b"9" * 30, b"-", b"[", b"\\"]),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=600, deadline=None)
@given(data=st.data(), edits=edits)
def test_any_damage_gives_a_catalogue_or_an_error_of_ours_in_little_memory(
    seeds, tmp_path_factory, data, edits
):
    content = data.draw(st.sampled_from(seeds))
    for at, removed, new in edits:
        content = content[:at] + new + content[at + removed :]
    path = tmp_path_factory.getbasetemp() / "fuzzed.npy"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        found = catalogue(path, data.draw(st.sampled_from([None, "BF16", "F8_E5M2"])))
        for tensor in found.tensors:
            assert tensor.numel * tensor.dtype.itemsize == tensor.nbytes < len(content)
    except GradtoolError as error:
        assert isinstance(error, InputError)
        assert str(path) in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2 << 20
