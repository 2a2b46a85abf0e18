"""A pickle is data: nothing in it runs, and it costs no more than its size allows."""

from __future__ import annotations

import io
import struct
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pickle_parts import (
    PROTO,
    archive,
    called,
    collected,
    entry,
    integer,
    mapped,
    name,
    named,
    storage,
    tensor,
    text,
)

from gradtool.core.checkpoint import Checkpoint
from gradtool.errors import CorruptFileError, GradtoolError, InputError, UnsupportedFormatError
from gradtool.formats.files.torch_zip import open_torch_zip
from gradtool.formats.foreign.marks import foreign_format
from gradtool.formats.pickles.stand_ins import (
    ArrayRef,
    ArrayScalar,
    ArrayType,
    Attributed,
    Bytes,
    CoordinatesRef,
    Key,
    MetaRef,
    Name,
    Opaque,
    SparseRef,
    StandIn,
    Storage,
    TensorRef,
    TextBytes,
    Unmeasured,
    Unordered,
    describe,
)
from gradtool.formats.pickles.unpickle import unpickle
from gradtool.storage.archives.zip import read_directory
from gradtool.storage.reader import open_source

MIB = 1 << 20


def load(data: bytes) -> object:
    return unpickle(data, "file.pt", record="r/data.pkl", offset=100).root


def refusal_of(data: bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        load(data)
    return caught.value


def catalogue(path: Path) -> Checkpoint:
    with open_source(str(path)) as source:
        return open_torch_zip(source, read_directory(source))


def opened(tmp_path: Path, pickle: bytes, record: bytes = bytes(16)) -> Checkpoint:
    return catalogue(archive(tmp_path / "f.pt", pickle, {"0": record}))


def refusal(tmp_path: Path, pickle: bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        opened(tmp_path, pickle)
    return caught.value


@contextmanager
def bounded(seconds: float, nbytes: int) -> Iterator[None]:
    tracemalloc.start()
    begin = time.process_time()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < seconds
    assert peak < nbytes


def test_the_handmade_tensor_is_a_sound_one(tmp_path: Path) -> None:
    (found,) = opened(tmp_path, named(tensor())).tensors
    assert (found.name, found.shape, found.nbytes) == ("w", (4,), 16)


@pytest.mark.parametrize("construct", [b"R", b"\x81"])
def test_a_call_of_os_system_reads_as_inert_data(tmp_path: Path, construct: bytes) -> None:
    trace = tmp_path / "trace"
    command = name("os", "system") + text(f"touch {trace}") + b"\x85" + construct
    value = load(named(command))
    assert isinstance(value, dict)
    made = value["w"]
    assert isinstance(made, Opaque)
    assert (made.name, made.args) == ("os.system", (f"touch {trace}",))
    assert not trace.exists()


def test_nothing_that_a_pickle_names_is_imported(tmp_path: Path) -> None:
    module = tmp_path / "gradtool_hostile_module.py"
    module.write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(tmp_path))
    try:
        load(named(name(module.stem, "Thing") + b")R}b"))
        load(PROTO[:1] + b"\x04" + text(module.stem) + text("Thing") + b"\x93.")
    finally:
        sys.path.remove(str(tmp_path))
    assert module.stem not in sys.modules


def test_a_tensor_inside_an_unknown_object_is_found_by_its_attributes(tmp_path: Path) -> None:
    made = name("run", "State") + collected(tensor()) + b"R"
    attributes = b"}" + text("grad") + tensor() + b"sb"
    found = opened(tmp_path, named(made + attributes)).tensors
    assert [spec.name for spec in found] == ["w.grad", "w.args.0"]


FOREIGN = {
    "INST": b"(ios\nsystem\n",
    "OBJ": b"(" + name("os", "system") + b"o",
    "PERSID": b"P0\n",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "INT": b"I1\n",
    "STRING": b"S'a'\n",
    "POP": b"N0",
    "DUP": b"N2",
    "NEXT_BUFFER": b"\x97",
}


@pytest.mark.parametrize("opcode", FOREIGN)
def test_an_opcode_that_no_checkpoint_needs_is_refused_where_it_stands(opcode: str) -> None:
    error = refusal_of(PROTO + FOREIGN[opcode] + b".")
    assert isinstance(error, UnsupportedFormatError)
    assert f"opcode {opcode}: not allowed" in str(error)
    at = {"INST": 3, "OBJ": 3 + len(name("os", "system")), "POP": 3, "DUP": 3}.get(opcode, 2)
    assert error.byte == 100 + at


@pytest.mark.parametrize(("version", "kind"), [(0, "0"), (1, "1"), (6, "6"), (9, "9")])
def test_an_unknown_protocol_is_refused(version: int, kind: str) -> None:
    error = refusal_of(bytes([0x80, version]) + b"N.")
    assert isinstance(error, UnsupportedFormatError)
    assert f"protocol {kind}" in str(error)


MALFORMED = {
    "nothing at all": (b"", "does not begin with a pickle protocol"),
    "text": (b"hello", "does not begin with a pickle protocol"),
    "no STOP": (PROTO + b"N", "STOP: missing: the pickle is truncated"),
    "bytes after STOP": (PROTO + b"N.N", "1 bytes follow"),
    "two values": (PROTO + b"NN.", "other than one value"),
    "no value": (PROTO + b".", "other than one value"),
    "open mark": (PROTO + b"N(N.", "other than one value"),
    "second PROTO": (PROTO + PROTO + b"N.", "second protocol"),
    "byte that is no opcode": (PROTO + b"\xff.", "0xff: no such opcode"),
    "TUPLE without MARK": (PROTO + b"Nt.", "TUPLE: finds no MARK"),
    "reaching below a mark": (PROTO + b"N(\x85.", "TUPLE1: takes a value"),
    "memo entry never made": (PROTO + b"h\x07.", "BINGET: refers to a memo entry"),
    "BINPUT of nothing": (PROTO + b"q\x07.", "BINPUT: takes a value"),
    "text cut off": (PROTO + b"X\x10\0\0\0abc.", "BINUNICODE: promises 16 bytes, 4 are left"),
    "length cut off": (PROTO + b"X\x10\0", "BINUNICODE: is cut off"),
    "text that is not UTF-8": (PROTO + b"X\x01\0\0\0\xff.", "not UTF-8"),
    "frame beyond the end": (PROTO + b"\x95" + b"\x7f" + bytes(7) + b"N.", "FRAME: promises"),
    "name without an end": (PROTO + b"cos\nsystem", "GLOBAL: a name without an end"),
    "name that is no text": (PROTO + b"NN\x93.", "STACK_GLOBAL: a global whose name"),
    "APPEND to a dict": (PROTO + b"}Na.", "APPEND: appends to a dict"),
    "APPENDS to a tuple": (PROTO + b")(Ne.", "APPENDS: appends to a tuple"),
    "APPEND to a set": (PROTO + b"\x8fNa.", "APPEND: appends to a set"),
    "ADDITEMS to a list": (PROTO + b"](N\x90.", "ADDITEMS: adds items to a list"),
    "SETITEM of a list": (PROTO + b"]NNs.", "SETITEM: sets items of a list"),
    "SETITEMS of None": (PROTO + b"N(NNu.", "SETITEMS: sets items of None"),
    "key without a value": (PROTO + b"}(Nu.", "SETITEMS: a key without a value"),
    "key twice": (PROTO + b"}(K\x01NK\x01Nu.", "dictionary key 1 appears twice"),
    "call of a number": (PROTO + b"K\x01)R.", "REDUCE: calls an integer"),
    "call of a tensor": (named(tensor() + b")R"), "REDUCE: calls a tensor"),
    "list as a key": (entry(b"]", b"N"), "SETITEM: a list as a dictionary key"),
    "dict as a key": (entry(b"}", b"N"), "SETITEM: a dict as a dictionary key"),
    "OrderedDict as a key": (
        entry(name("collections", "OrderedDict") + b")R", b"N"),
        "SETITEM: a dict as a dictionary key",
    ),
    "keywords of a list": (
        PROTO + name("builtins", "list") + b"]\x85}" + text("a") + b"Ns\x92.",
        "NEWOBJ_EX: makes a list with keyword arguments",
    ),
    "bytes in an encoding that is none": (
        PROTO + name("_codecs", "encode") + text("a") + b"N\x86R.",
        "bytes as text in None",
    ),
    "call without a tuple": (PROTO + name("a", "b") + b"]R.", "REDUCE: calls a.b with a list"),
    "wrong arguments": (
        PROTO + name("torch._utils", "_rebuild_tensor_v2") + b")R.",
        "calls torch._utils._rebuild_tensor_v2 with 0 arguments",
    ),
    "BUILD of a list": (PROTO + b"]}b.", "BUILD: sets attributes of a list"),
    "BUILD of a global": (PROTO + name("os", "environ") + b"}b.", "sets attributes of os.environ"),
    "BUILD twice": (PROTO + name("a", "b") + b")R}b}b.", "sets the attributes of a.b twice"),
    "keywords that are no dict": (PROTO + name("a", "b") + b")N\x92.", "keyword arguments"),
    "persistent id of None": (PROTO + b"NQ.", "BINPERSID: a persistent id that names no storage"),
    "persistent id of a module": (
        PROTO + collected(text("module"), b"N", b"N", b"N", b"N") + b"Q.",
        "names no storage",
    ),
    "tensor over a number": (named(tensor(stored=b"K\x01")), "a tensor over an integer"),
    "type rebuilt through itself": (
        PROTO
        + name("torch._tensor", "_rebuild_from_type_v2")
        + collected(name("torch._tensor", "_rebuild_from_type_v2"), b"N", b")", b"N")
        + b"R.",
        "through itself",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_pickle_is_corrupt_and_says_where(case: str) -> None:
    data, words = MALFORMED[case]
    error = refusal_of(data)
    assert isinstance(error, CorruptFileError)
    assert words in str(error)
    assert error.byte is not None
    assert 100 <= error.byte <= 100 + len(data)


def test_every_truncation_of_a_real_pickle_is_corrupt() -> None:
    data = real_pickle(2)
    for end in range(len(data)):
        assert isinstance(refusal_of(data[:end]), CorruptFileError)


CLAIMS = {
    "view beyond its storage": (tensor(shape=(5,)), "reaches byte 20 of a storage of 16 bytes"),
    "offset beyond its storage": (tensor(offset=integer(1)), "reaches byte 20 of a storage of 16"),
    "stride beyond its storage": (tensor(shape=(2,), strides=(4,)), "reaches byte 20"),
    "negative size": (tensor(shape=(-4,)), "negative"),
    "negative stride": (tensor(strides=(-1,)), "negative"),
    "negative offset": (tensor(offset=integer(-1)), "negative"),
    "offset that wraps 64 bits": (tensor(offset=integer((1 << 64) - 3)), "beyond 2^63"),
    "shape whose product wraps 64 bits": (
        tensor(shape=(1 << 62, 16), strides=(16, 1)),
        "of a storage of 16 bytes",
    ),
    "text for an offset": (tensor(offset=text("0")), "no integer"),
    "boolean for an offset": (tensor(offset=b"\x89"), "no integer"),
    "more strides than sizes": (tensor(strides=(1, 1)), "1 sizes and 2 strides"),
    "65 dimensions": (tensor(shape=(1,) * 65, strides=(1,) * 65), "65 sizes"),
    "negative storage": (tensor(stored=storage(integer(-4))), "negative"),
    "storage of 2^62": (tensor(stored=storage(integer(1 << 62))), "the archive holds 16"),
    "storage without a record": (tensor(stored=storage(integer(4), key="7")), "no record"),
    "storage above the root": (tensor(stored=storage(integer(4), key="../x")), "no record"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_a_tensor_that_claims_what_is_not_there_is_corrupt(tmp_path: Path, case: str) -> None:
    value, words = CLAIMS[case]
    error = refusal(tmp_path, named(value))
    assert isinstance(error, CorruptFileError)
    assert words in str(error)
    assert error.tensor == "w"


UNSUPPORTED = {
    "unknown storage class": (tensor(stored=storage(integer(4), "QuadStorage")), "QuadStorage"),
    "storage of another module": (
        tensor(stored=storage(integer(4), module="os")),
        "os.FloatStorage",
    ),
    "expanded to 10^12": (
        tensor(shape=(10**6, 10**6), strides=(0, 0)),
        "repeats 4 bytes of its storage to make 1000000000000 elements",
    ),
    "windows of 4 to 10^12": (
        tensor(shape=(2, 10**6, 10**6), strides=(1, 0, 0)),
        "repeats 8 bytes of its storage",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_a_tensor_of_another_kind_is_refused_by_name(tmp_path: Path, case: str) -> None:
    value, words = UNSUPPORTED[case]
    error = refusal(tmp_path, named(value))
    assert isinstance(error, UnsupportedFormatError)
    assert words in str(error)
    assert error.tensor == "w"


def test_an_unknown_dtype_is_refused_by_name(tmp_path: Path) -> None:
    stored = storage(integer(16), "UntypedStorage", module="torch.storage")
    arguments = collected(
        stored, b"K\0", b"K\x04\x85", b"K\x01\x85", b"\x89", b"N", name("torch", "float7")
    )
    error = refusal(tmp_path, named(name("torch._utils", "_rebuild_tensor_v3") + arguments + b"R"))
    assert "torch.float7" in str(error)
    assert error.tensor == "w"


def test_self_overlapping_windows_are_bounded(tmp_path: Path) -> None:
    shape, strides = (1024, 1025), (1, 1)
    numel = 2048
    value = tensor(stored=storage(integer(numel)), shape=shape, strides=strides)
    with pytest.raises(UnsupportedFormatError, match="repeats 8192 bytes of its storage"):
        opened(tmp_path, named(value), bytes(4 * numel))


@pytest.mark.parametrize("numel", [text("4"), b"\x88", b"N", b"G" + bytes(8), collected(b"N")])
def test_a_storage_of_what_is_no_number_is_corrupt(tmp_path: Path, numel: bytes) -> None:
    pickle = named(tensor(stored=storage(numel)))
    assert "BINPERSID: a storage of" in str(refusal(tmp_path, pickle))


def test_one_storage_of_two_types_is_ambiguous(tmp_path: Path) -> None:
    other = tensor(stored=storage(integer(4), "IntStorage"))
    pickle = PROTO + b"}(" + text("a") + tensor() + text("b") + other + b"u."
    problem = str(refusal(tmp_path, pickle))
    assert "storage '0' is a torch.IntStorage of 4 elements here" in problem
    assert "was a torch.FloatStorage of 4 before" in problem


def array_of(shape: tuple[int, ...], data: bytes) -> bytes:
    dtype = name("numpy", "dtype") + text("f8") + b"\x89\x88\x87R"
    state = collected(b"K\x01", collected(*map(integer, shape)), dtype, b"\x89", data)
    reconstruct = name("numpy._core.multiarray", "_reconstruct")
    return reconstruct + name("numpy", "ndarray") + b"K\0\x85C\x01b\x87R" + state + b"b"


def test_an_array_must_hold_the_bytes_that_its_shape_promises(tmp_path: Path) -> None:
    assert opened(tmp_path, named(array_of((2,), b"C\x10" + bytes(16)))).tensors[0].shape == (2,)
    error = refusal(tmp_path, named(array_of((2, 1 << 40), b"C\x10" + bytes(16))))
    assert "promises 17592186044416 bytes and holds 16" in str(error)


# What it is, and the part of a name that it gives.
KEYS = {
    "huge integer": (integer(1 << 60), "key#0"),
    "huge negative integer": (integer(-(1 << 60)), "key#0"),
    "large integer": (integer((1 << 60) - 1), str((1 << 60) - 1)),
    "frozenset": (b"(K\x01\x91", "key#0"),
    "bytes": (b"C\x01a", "key#0"),
    "tensor": (tensor(stored=storage(integer(4), "IntStorage", key="1")), "key#0"),
    "dtype": (name("torch", "float32"), "torch.float32#0"),
    "member of an enum": (name("my", "Color") + b"K\x01\x85R", "my.Color#0"),
    "tuple of an enum": (name("my", "Color") + b"K\x01\x85RK\x01\x86", "key#0"),
    "tuple of a dtype": (name("torch", "float32") + text("cpu") + b"\x86", "key#0"),
    "tuple": (text("a") + integer(-7) + b"N\x87", "('a', -7, None)"),
    "tuple of a surrogate": (b"X\x03\0\0\0\xed\xa0\x80\x85", r"('\ud800',)"),
    "nested tuple": (b")\x85", "key#0"),
    "long tuple": (b"(" + b"N" * 17 + b"t", "key#0"),
    "tuple of long text": (text("a" * 128) + text("b" * 129) + b"\x86", "key#0"),
    "tuple of a huge integer": (integer(1 << 1000) + b"\x85", "key#0"),
    "name with a surrogate": (text("a") + b"X\x03\0\0\0\xed\xa0\x80\x93", r"a.\ud800#0"),
}


@pytest.mark.parametrize("case", KEYS)
def test_an_odd_key_costs_no_tensor_and_has_a_neutral_name(tmp_path: Path, case: str) -> None:
    key, words = KEYS[case]
    (found,) = opened(tmp_path, entry(key, tensor())).tensors
    assert found.name == words


def test_equal_odd_keys_are_two_keys() -> None:
    value = load(PROTO + b"}(" + integer(1 << 70) + b"N" + integer(1 << 70) + b"Nu.")
    assert isinstance(value, dict)
    assert len(value) == 2


def test_long_keys_that_are_used_again_and_again_cost_nothing() -> None:
    key = collected(*[text(chr(0x1F600) * 40)] * 16) + b"q\0"
    data = PROTO + b"](" + key + b"}" + b"h\0Ns" + b"}h\0Ns" * 2200 + b"e."
    with bounded(1, 2 * MIB):
        load(data)


def test_huge_integers_of_one_hash_cost_what_others_cost() -> None:
    data = (
        PROTO + b"}(" + b"".join(integer(i * ((1 << 61) - 1)) + b"N" for i in range(20_000)) + b"u."
    )
    with bounded(2, 16 * MIB):
        load(data)


TENSOR = TensorRef(Storage("torch.FloatStorage", "0", 1), 0, (), ())
STAND_INS: list[object] = [
    Key(1),
    Bytes(0, 0),
    TextBytes("", "ascii"),
    Unordered(),
    Attributed(),
    Storage("", "", 0),
    TensorRef(Storage("", "", 0), 0, (), ()),
    CoordinatesRef(TENSOR, TENSOR, ()),
    SparseRef(None, {}),
    Unmeasured(TENSOR, (), ""),
    MetaRef("torch.float32"),
    ArrayType("f8"),
    ArrayRef(),
    ArrayScalar(ArrayType("f8")),
]


def test_what_is_said_of_a_stand_in_is_not_its_class() -> None:
    assert {type(value) for value in STAND_INS} >= set(StandIn.__subclasses__()) - {Name, Opaque}
    for value in (*STAND_INS, None, True, 1, 1.0, "", (), [], {}):
        assert type(value).__name__ not in describe(value).split() or type(value) in PLAIN


PLAIN = {tuple, list, dict}


def test_an_encoding_that_doubles_at_each_level_is_refused_at_once() -> None:
    levels = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    data = PROTO + name("_codecs", "encode") + text("a") + b")" + levels + b"\x86R."
    with bounded(1, MIB):
        assert "bytes as text in a tuple" in str(refusal_of(data))


def test_a_list_s_subclass_is_looked_into(tmp_path: Path) -> None:
    value = name("my", "List") + b")\x81" + tensor() + b"a"
    assert [found.name for found in opened(tmp_path, named(value)).tensors] == ["w.0"]


def test_a_dict_s_subclass_is_looked_into(tmp_path: Path) -> None:
    value = name("my", "Dict") + b")\x81" + text("k") + tensor() + b"s"
    assert [found.name for found in opened(tmp_path, named(value)).tensors] == ["w.k"]


@pytest.mark.parametrize(
    "state", [b"N}" + text("k") + tensor() + b"s\x86", b"}" + text("k") + tensor() + b"sN\x86"]
)
def test_attributes_in_slots_are_found(tmp_path: Path, state: bytes) -> None:
    value = name("my", "Slots") + b")\x81" + state + b"b"
    assert [found.name for found in opened(tmp_path, named(value)).tensors] == ["w.k"]


def test_what_calling_an_unknown_object_gives_is_looked_into(tmp_path: Path) -> None:
    made = name("functools", "partial") + tensor() + b"\x85R" + tensor() + b"\x85R"
    state = b"}" + text("k") + tensor() + b"sb"
    found = opened(tmp_path, named(made + state)).tensors
    assert [spec.name for spec in found] == ["w.k", "w.args.0.args.0", "w.args.1.0"]


def test_arguments_shared_by_many_calls_are_not_copied() -> None:
    args = b"(" + b"N" * 10_000 + b"tq\0"
    with bounded(2, 16 * MIB):
        load(PROTO + args + name("a", "b") + b")R" + b"h\0R" * 3000 + b"\x86.")


def test_a_view_of_a_storage_is_refused_and_none_is_none(tmp_path: Path) -> None:
    parts = (text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(4))
    whole = tensor(stored=collected(*parts, b"N") + b"Q")
    assert [found.name for found in opened(tmp_path, named(whole)).tensors] == ["w"]
    view = tensor(stored=collected(*parts, collected(text("1"), integer(0), integer(2))) + b"Q")
    assert "storage '0' is a view of a storage" in str(refusal(tmp_path, named(view)))


def test_empty_containers_cost_a_walk_nothing(tmp_path: Path) -> None:
    empties = b"](" + b"}])\x8f" * 50_000 + b"e"
    pickle = PROTO + b"}" + text("k" * 500_000) + empties + b"s."
    with bounded(2, 64 * MIB):
        assert opened(tmp_path, pickle).tensors == ()


def test_an_attribute_of_an_empty_mapping_is_found(tmp_path: Path) -> None:
    value = name("collections", "OrderedDict") + b")R}" + text("k") + tensor() + b"sb"
    assert [found.name for found in opened(tmp_path, named(value)).tensors] == ["w.k"]


def test_a_root_that_holds_itself_is_named_once(tmp_path: Path) -> None:
    pickle = PROTO + b"}q\0(" + text("w") + tensor() + text("me") + b"h\0u."
    assert [found.name for found in opened(tmp_path, pickle).tensors] == ["w"]


FOREIGN_HEADS = [
    (bytes.fromhex("80028a0a4cfc9c66f9204aa870"), None),
    (b"tjgg\3", "GGML"),
    (b"TJGG\3", None),
    (b"<!doctype html>", "web page"),
    (b"<HTML>", "web page"),
    (bytes(257) + b"ustar", "tar"),
    (bytes(257) + b"USTAR", None),
]


@pytest.mark.parametrize(("head", "words"), FOREIGN_HEADS)
def test_only_the_marks_of_web_pages_come_in_any_case(head: bytes, words: str | None) -> None:
    found = foreign_format(head)
    assert found is None if words is None else words in str(found)


def test_a_high_memo_index_costs_nothing() -> None:
    with bounded(1, MIB):
        assert load(PROTO + b"Nr" + struct.pack("<I", (1 << 32) - 1) + b".") is None


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x96", b"\x8d"])
def test_a_length_is_checked_before_anything_is_allocated(opcode: bytes) -> None:
    with bounded(1, MIB):
        assert "promises" in str(refusal_of(PROTO + opcode + struct.pack("<Q", 1 << 62) + b"."))


def test_an_integer_of_more_than_1_kib_is_refused() -> None:
    data = PROTO + b"\x8b" + struct.pack("<I", 1025) + bytes(1025) + b"."
    assert "an integer of 1025 bytes" in str(refusal_of(data))


def test_marks_nest_a_thousand_deep_at_most() -> None:
    assert "nests too deeply" in str(refusal_of(PROTO + b"(" * 1001))
    assert load(PROTO + b"(" * 1000 + b"t" * 1000 + b".") is not None


def test_a_tuple_that_doubles_at_each_level_is_no_key(tmp_path: Path) -> None:
    levels = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    pickle = entry(b"N" + levels, tensor())
    with bounded(1, MIB):
        assert "a dictionary key with more than" in str(refusal(tmp_path, pickle))


def test_attributes_that_a_parameter_loses_are_refused() -> None:
    state = b"}" + text("x") + integer(1) + b"s"
    lost = called("torch._utils._rebuild_parameter_with_state", tensor(), b"\x89", b"N", state)
    again = called("torch.nn.parameter.Parameter", lost, b"\x89")
    assert isinstance(load(named(lost)), dict)
    assert "attributes it would lose" in str(refusal_of(named(again)))


@pytest.mark.parametrize("state", [b"](" + text("x") + b"N\x86e", b"}}\x86", integer(1)])
def test_the_attributes_of_a_dict_are_a_dict(state: bytes) -> None:
    built = called("collections.OrderedDict") + state + b"b"
    assert "for the attributes of a dict" in str(refusal_of(named(built)))


def with_state(state: bytes, rebuild: str = "_rebuild_from_type_v2") -> bytes:
    """A tensor with attributes, as torch.save writes one that has some."""
    function, args = tensor()[: -len(b"R")].split(b"\n(", 1)
    made = (function + b"\n", name("torch", "Tensor"), b"(" + args, state)
    return called(f"torch._tensor.{rebuild}", *made)


@pytest.mark.parametrize("rebuild", ["_rebuild_from_type", "_rebuild_from_type_v2"])
def test_attributes_of_a_tensor_are_named_after_it(rebuild: str, tmp_path: Path) -> None:
    made = with_state(mapped((text("main_grad"), tensor())), rebuild)
    assert [spec.name for spec in opened(tmp_path, named(made)).tensors] == ["w", "w.main_grad"]


@pytest.mark.parametrize("attribute", ["data", "grad", "real", "__class__", "__dict__"])
def test_what_a_tensor_has_by_itself_is_not_replaced(attribute: str) -> None:
    made = with_state(mapped((text(attribute), tensor())))
    assert f"replaces the {attribute} of a tensor" in str(refusal_of(named(made)))


def test_indices_of_sparse_tensors_are_integers() -> None:
    layout = called("torch.serialization._get_layout", text("torch.sparse_coo"))
    parts = collected(tensor(), tensor(), collected(integer(4)), b"\x88")
    made = called("torch._utils._rebuild_sparse_tensor", layout, parts)
    assert "a sparse tensor whose indices are a tensor" in str(refusal_of(named(made)))


@pytest.mark.parametrize("strides", [integer(1), collected(integer(1), integer(2))])
def test_a_meta_tensor_has_a_stride_for_each_axis(strides: bytes) -> None:
    def meta(*strides: bytes) -> bytes:
        shape = collected(integer(4))
        parts = name("torch", "float32"), shape, *strides, b"\x89"
        return called("torch._utils._rebuild_meta_tensor_no_storage", *parts)

    assert load(named(meta(collected(integer(1)))))
    assert "a meta tensor of a shape and strides" in str(refusal_of(named(meta(strides))))


def test_what_a_tensor_is_besides_conjugate_or_negative_is_not_known() -> None:
    signs = mapped((text("neg"), b"\x88"), (text("shifted"), b"\x88"))
    made = tensor().replace(b"NtR", b"N" + signs + b"tR")
    assert made != tensor()
    assert "metadata are other than conj and neg" in str(refusal_of(named(made)))


@pytest.mark.parametrize("number", [0, 3, 8])
def test_a_tensor_is_rebuilt_of_as_many_arguments_as_it_takes(number: int) -> None:
    made = name("torch._utils", "_rebuild_tensor_v2"), b"N", collected(*[b"N"] * number), b"N"
    message = str(refusal_of(named(called("torch._tensor._rebuild_from_type_v2", *made))))
    assert f"calls torch._utils._rebuild_tensor_v2 with {number} arguments" in message


def test_one_global_twice_is_one_key_twice(tmp_path: Path) -> None:
    key = name("torch", "float16")
    pickle = PROTO + b"}(" + key + tensor() + key + tensor() + b"u."
    assert "dictionary key torch.float16 appears twice" in str(refusal(tmp_path, pickle))


def test_an_object_that_is_a_key_twice_is_one_key(tmp_path: Path) -> None:
    # For torch the second value is the only one.
    pickle = PROTO + b"}(" + collected(tensor()) + b"q\0" + tensor() + b"h\0" + tensor() + b"u."
    assert "dictionary key a tuple appears twice" in str(refusal(tmp_path, pickle))


BOMBS = {
    "a list replayed 300 times": (
        PROTO + b"](](" + b"K\x01" * 300_000 + b"eq\x01" + b"h\x01" * 300 + b"e."
    ),
    "a list that doubles at each level": (
        PROTO + b"]" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"."
    ),
    "a tensor replayed": (
        PROTO
        + b"](]("
        + tensor()
        + b"q\x02"
        + b"h\x02" * 2000
        + b"eq\x01"
        + b"h\x01" * 2000
        + b"e."
    ),
    "attributes that many objects share": (
        PROTO
        + b"}("
        + b"".join(integer(i) + b"N" for i in range(20_000))
        + b"uq\0\x85]("
        + (name("a", "B") + b")Rh\0b") * 20_000
        + b"e\x86."
    ),
    "names that are a copy of a long key": (
        PROTO + b"}" + text("k" * 500_000) + b"](" + b")\x85" * 100 + b"es."
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_an_object_far_larger_than_its_pickle_is_refused(tmp_path: Path, case: str) -> None:
    path = archive(tmp_path / "f.pt", BOMBS[case], {"0": bytes(16)})
    with bounded(5, 64 * MIB), pytest.raises(UnsupportedFormatError) as caught:
        catalogue(path)
    assert "expands far beyond its size" in str(caught.value)


def test_a_deep_list_is_refused_and_a_cycle_is_not(tmp_path: Path) -> None:
    deep = PROTO + b"]" * 50_000 + b"a" * 49_999 + b"."
    assert "nests too deeply" in str(refusal(tmp_path, deep))
    cycle = PROTO + b"]q\0(h\0" + tensor() + b"e."
    assert [found.name for found in opened(tmp_path, cycle).tensors] == ["1"]


def test_an_overlong_name_cannot_be_joined_again_and_again() -> None:
    data = PROTO + text("m" * 2000) + text("n") + b"\x93."
    assert "overlong name" in str(refusal_of(data))


def test_cost_is_linear_in_the_number_of_opcodes() -> None:
    def seconds(count: int) -> float:
        data = PROTO + b"](" + b"K\x01\x85q\x01h\x01\x86" * count + b"e."
        begin = time.process_time()
        load(data)
        return time.process_time() - begin

    small = min(seconds(20_000) for _ in range(3))
    assert min(seconds(200_000) for _ in range(3)) < 40 * small


def real_pickle(protocol: int) -> bytes:
    weight = torch.nn.Parameter(torch.ones(4))
    value = {
        "model": {"w": weight, "t": torch.ones(4).view(2, 2).T, "i": torch.ones(2).long()},
        "np": np.ones(3),
        "sparse": torch.eye(2).to_sparse(),
        "epoch": (1, 2.5, "x", b"y", {3}),
    }
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol)
    return zipfile.ZipFile(buffer).read("archive/data.pkl")


REAL = {protocol: real_pickle(protocol) for protocol in (2, 4, 5)}
RECORDS = {str(key): bytes(n) for key, n in enumerate((16, 16, 16, 32, 8))}
EDITS = st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=4)), max_size=6)


@given(protocol=st.sampled_from(sorted(REAL)), edits=EDITS)
@settings(max_examples=400, deadline=None)
def test_a_mutated_pickle_gives_an_error_of_ours_or_a_catalogue(
    tmp_path_factory: pytest.TempPathFactory, protocol: int, edits: list[tuple[int, bytes]]
) -> None:
    data = bytearray(REAL[protocol])
    for at, replacement in edits:
        start = at % len(data)
        data[start : start + len(replacement)] = replacement
    path = archive(tmp_path_factory.getbasetemp() / "fuzz.pt", bytes(data), RECORDS)
    size = path.stat().st_size
    try:
        checkpoint = catalogue(path)
    except GradtoolError:
        return
    for found in checkpoint.tensors:
        assert all(0 <= extent.offset <= extent.end <= size for extent in found.extents)
