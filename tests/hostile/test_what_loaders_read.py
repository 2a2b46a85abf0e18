"""Files that hold NaN for their own loader: `check` never calls one of them healthy.

The loaders are torch.load(weights_only=True) and numpy.load. Each file is one of a kind; what the
loader reads is asserted too, so that a case that a newer loader refuses is noticed.
"""

from __future__ import annotations

import io
import json
import pickletools
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pickle_parts import called, collected, integer, listed, mapped, name, number, tensor, text
from pickle_parts import storage as stored
from zip_parts import Member, archive

import gradtool
from gradtool.formats.files._second_format import _LENGTH_NBYTES, _OPERAND_NBYTES

NAN = float("nan")
GOOD = np.array([1, 2, 3, 4], "<f4").tobytes()
BAD = np.array([NAN, 1, 1, 1], "<f4").tobytes()
HOOKS = called("collections.OrderedDict")


def member(raw_name: bytes, data: bytes, **fields: object) -> Member:
    return Member(raw_name, data, **{"flags": 0x800, **fields})


def torch_file(root: bytes, *members: Member, order: bytes = b"little", good: bool = True) -> bytes:
    """A torch file of that object; storage "0" holds [1, 2, 3, 4]."""
    records = [member(b"a/data.pkl", b"\x80\x02" + root + b"."), member(b"a/byteorder", order)]
    if good:
        records.append(member(b"a/data/0", GOOD))
    return archive(*records, *members, member(b"a/version", b"3\n"))


def of(key: str, cls: str = "FloatStorage", numel: int = 4) -> bytes:
    return stored(integer(numel), cls, key)


def rebuilt(storage: bytes, hooks: bytes = HOOKS) -> bytes:
    """A tensor of four elements by `_rebuild_tensor_v2`."""
    sizes = (integer(0), collected(integer(4)), collected(integer(1)))
    return called("torch._utils._rebuild_tensor_v2", storage, *sizes, b"\x89", hooks)


CLEAN = rebuilt(of("0"))
OTHER = rebuilt(of("1"))
SECOND = member(b"a/data/1", BAD)
NUMBERS = called("torch.Tensor", listed(number(NAN), number(1.0)))
ARGUMENTS = (of("0"), integer(0), collected(integer(4)), collected(integer(1)), b"\x89", HOOKS)
UNTYPED = stored(integer(16), "UntypedStorage", "1", "torch.storage")


def saved(**values: bytes) -> bytes:
    return mapped(*((text(key), value) for key, value in values.items()))


def with_state(state: bytes) -> bytes:
    """A tensor with attributes, as torch.save writes one that has some."""
    function = name("torch._utils", "_rebuild_tensor_v2")
    made = (function, name("torch", "Tensor"), collected(*ARGUMENTS), state)
    return called("torch._tensor._rebuild_from_type_v2", *made)


def npy(*values: float) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, np.float32))
    return buffer.getvalue()


def deflated(raw_name: bytes, data: bytes) -> Member:
    encoder = zlib.compressobj(wbits=-15)
    sizes = (("crc", zlib.crc32(data)), ("size", len(data)))
    packed = encoder.compress(data) + encoder.flush()
    return Member(raw_name, packed, method=8, local=sizes, central=sizes)


def safetensors_and_legacy() -> bytes:
    """Safetensors whose header's length begins a pickle of torch's format from before 1.6."""
    buffer = io.BytesIO()
    torch.save({"w": torch.tensor([NAN])}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()[2:]  # without the protocol, which readers do not ask for
    data += bytes(-len(data) % 4)
    fields = {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": {"p": ""}, "w": fields}, separators=(",", ":"))
    # X takes what follows for a length, L / 256, and the texts U those after it, into the data.
    length = 0x58 + 256 * 25
    first = length // 256 - 3
    padding = bytearray(b"a" * (length - len(header)))
    at = first - header.index('""') - 1
    while length - (first + 2) > 0x7E:
        padding[at : at + 2] = b"U\x7d"
        at, first = at + 127, first + 127
    padding[at : at + 2] = b"U" + bytes([length - (first + 2)])
    header = header.replace('""', f'"{padding.decode()}"')
    return struct.pack("<Q", length) + header.encode() + data


def with_second_end_record() -> bytes:
    """An archive with another one in the comment of its end, that begins in the end record."""
    inner = archive(Member(b"w.npy", npy(NAN)))
    return archive(Member(b"w.npy", npy(1.0)), comment=inner)


META = called("_codecs.encode", text("meta"), text("ascii"))
"""A location in bytes, as which torch takes it too."""
SWAPPED_TWICE = bytes.fromhex("3f80c07f") * 4
"""Sound in big-endian order, and NaN in the other."""
QUANTIZED = called(
    "torch._utils._rebuild_qtensor",
    *(of("1", "QInt8Storage"), *ARGUMENTS[1:4]),
    collected(name("torch", "per_tensor_affine"), number(NAN), integer(0)),
    *(b"\x89", HOOKS),
)

HALF = OTHER.replace(collected(integer(4)), collected(integer(2)))
TAIL = member(b"a/data/1", np.array([1, 1, 1, NAN], "<f4").tobytes())
"""A storage of which a tensor shows the first half."""
PARAMETER = called("torch._utils._rebuild_parameter", CLEAN, b"\x89", HOOKS)
FOUR = collected(of("1"), integer(0), collected(integer(4)), collected(integer(1)))

TORCH: dict[str, bytes] = {
    "tensor of Python numbers": torch_file(saved(a=CLEAN, w=NUMBERS)),
    "tensor of Python numbers, made": torch_file(
        saved(a=CLEAN, w=called("torch.Tensor", listed(number(NAN)), by=b"\x81"))
    ),
    "tensor of Python numbers of another class": torch_file(
        saved(a=CLEAN, w=called("torch.FloatTensor", listed(number(NAN))))
    ),
    "tensor of a tensor": torch_file(saved(a=CLEAN, w=called("torch.Tensor", OTHER)), SECOND),
    "numbers in a parameter": torch_file(
        saved(a=CLEAN, w=called("torch.nn.parameter.Parameter", NUMBERS, b"\x89"))
    ),
    "data replaced": torch_file(saved(a=CLEAN, w=with_state(saved(data=NUMBERS)))),
    "data replaced by a tensor": torch_file(
        saved(a=CLEAN, w=with_state(saved(data=OTHER))), SECOND
    ),
    "data replaced, in slots": torch_file(
        saved(a=CLEAN, w=with_state(collected(b"N", saved(data=OTHER)))), SECOND
    ),
    "real part replaced": torch_file(saved(w=with_state(saved(real=OTHER))), SECOND),
    "built on a tensor": torch_file(saved(w=CLEAN + FOUR + b"b"), SECOND),
    "built on a parameter": torch_file(saved(w=PARAMETER + FOUR + b"b"), SECOND),
    "first mention of a storage is another type": torch_file(
        saved(a=rebuilt(of("0"), hooks=of("1", "HalfStorage", 8)), w=OTHER),
        member(b"a/data/1", np.array([0x7E00, 0x3C00] * 4, "<u2").tobytes()),
    ),
    "first mention of a storage is a key": torch_file(
        mapped((of("1", "HalfStorage", 8), integer(1)), (text("w"), OTHER)),
        member(b"a/data/1", np.array([0x7E00, 0x3C00] * 4, "<u2").tobytes()),
    ),
    "records alike by case": torch_file(
        saved(w=rebuilt(of("w.npy"))),
        member(b"a/data/W.npy", BAD),
        member(b"a/data/w.npy", GOOD),
        good=False,
    ),
    "records alike by raw name": torch_file(
        saved(w=rebuilt(of("é"))),
        member(b"a/data/\xc3\xa9", BAD, flags=0),
        member(b"a/data/\xc3\xa9", GOOD),
        good=False,
    ),
    "pickle in capitals beside an array": archive(
        member(b"a/DATA.PKL", b"\x80\x02" + saved(w=OTHER) + b"."),
        *(SECOND, member(b"a/version", b"3\n"), member(b"a/w.npy", npy(1.0))),
    ),
    "tensor as a key": torch_file(saved(a=CLEAN, k=mapped((OTHER, integer(1)))), SECOND),
    "tensor in a tuple as a key": torch_file(
        saved(a=CLEAN, k=mapped((collected(OTHER), integer(1)))), SECOND
    ),
    "tensor as a hook": torch_file(saved(w=rebuilt(of("0"), hooks=OTHER)), SECOND),
    "tensor as a parameter's hook": torch_file(
        saved(w=called("torch._utils._rebuild_parameter", CLEAN, b"\x89", OTHER)), SECOND
    ),
    "storage as a parameter's hook": torch_file(
        saved(w=called("torch._utils._rebuild_parameter", HALF, b"\x89", of("1"))), TAIL
    ),
    "storage as a key": torch_file(saved(w=HALF, k=mapped((of("1"), integer(1)))), TAIL),
    "storage in a tuple as a key": torch_file(
        saved(w=HALF, k=mapped((collected(of("1")), integer(1)))), TAIL
    ),
    "tensor as an attribute of a dict": torch_file(
        saved(w=CLEAN, d=called("collections.OrderedDict") + saved(x=OTHER) + b"b"), SECOND
    ),
    "dict that grows after it was copied": torch_file(
        saved(a=CLEAN, d=called("collections.OrderedDict", saved(x=OTHER))), SECOND
    ),
    "module of Python 2": torch_file(
        saved(a=CLEAN, d=called("UserDict.OrderedDict", listed(collected(text("x"), OTHER)))),
        SECOND,
    ),
    "tensor in a set": torch_file(saved(a=CLEAN, s=called("builtins.set", listed(OTHER))), SECOND),
    "tensor as an element that is counted": torch_file(
        saved(a=CLEAN, s=called("collections.Counter", collected(OTHER))), SECOND
    ),
    "tensor that is cast while it is loaded": torch_file(
        saved(
            w=called(
                "torch._utils._rebuild_device_tensor_from_cpu_tensor",
                *(OTHER, name("torch", "float16"), text("cpu"), b"\x89"),
            )
        ),
        member(b"a/data/1", np.array([1e30, 1, 1, 1], "<f4").tobytes()),
    ),
    "big-endian, of an untyped storage": torch_file(
        saved(
            w=called(
                "torch._utils._rebuild_tensor_v3",
                *(UNTYPED, *ARGUMENTS[1:], name("torch", "float32")),
            )
        ),
        member(b"a/data/1", bytes.fromhex("3f80c07f3f8000003f8000003f800000")),
        order=b"big",
    ),
    "safetensors by its length": safetensors_and_legacy(),
}
TWICE: dict[str, bytes] = {
    "two keys of one record": torch_file(
        saved(w=rebuilt(of("a")), v=rebuilt(of("A"))),
        *(member(b"a/data/a", SWAPPED_TWICE),),
        order=b"big",
    ),
    "one key on two devices": torch_file(
        saved(w=OTHER.replace(text("cpu"), META), v=OTHER),
        *(member(b"a/data/1", SWAPPED_TWICE),),
        order=b"big",
    ),
}
"""Records whose bytes torch swaps twice where it maps them."""
MEMORY = {
    "said to be a directory": torch_file(
        saved(w=CLEAN), member(b"a/data/0", GOOD, attributes=0x10), good=False
    ),
    "memory that nobody wrote": torch_file(saved(a=CLEAN, w=called("torch.Tensor", integer(3)))),
    "location without memory": torch_file(saved(w=CLEAN.replace(text("cpu"), text("meta")))),
    "location without memory, in bytes": torch_file(saved(w=CLEAN.replace(text("cpu"), META))),
    "moved to where there is no memory": torch_file(
        saved(
            w=called(
                "torch._utils._rebuild_device_tensor_from_cpu_tensor",
                *(CLEAN, name("torch", "float32"), text("meta"), b"\x89"),
            )
        )
    ),
    "quantized tensor as a key": torch_file(
        saved(a=CLEAN, k=mapped((QUANTIZED, integer(1)))), member(b"a/data/1", b"\1\2\3\4")
    ),
}
"""What loads as memory of which nobody can say what is in it; that it is accepted is the fault."""
NPZ: dict[str, bytes] = {
    "member without suffix": archive(Member(b"a.npy", npy(1.0)), Member(b"w", npy(NAN))),
    "deflated member without suffix": archive(Member(b"a.npy", npy(1.0)), deflated(b"w", npy(NAN))),
    "member of another suffix": archive(Member(b"a.npy", npy(1.0)), Member(b"w.NPY", npy(NAN))),
    "two members for one key": archive(Member(b"w.npy", npy(1.0)), Member(b"w", npy(NAN))),
    "suffix twice": archive(Member(b"w.npy.npy", npy(1.0)), Member(b"w.npy", npy(NAN))),
    "array in a directory": archive(Member(b"a.npy", npy(1.0)), Member(b"w/", npy(NAN))),
    "deflated array beside torch's pickle": archive(
        *(Member(b"a/data.pkl", b"\x80\x02" + saved(w=CLEAN) + b"."), Member(b"a/data/0", GOOD)),
        *(Member(b"a/version", b"3\n"), deflated(b"a/w", npy(NAN))),
    ),
    "torch's pickle beside arrays": archive(
        *(Member(b"a/data.pkl", b"\x80\x02" + saved(w=CLEAN) + b"."), Member(b"a/data/0", GOOD)),
        *(Member(b"a/version", b"3\n"), Member(b"a/w.npy", npy(NAN))),
    ),
    "storage that is an array": archive(
        Member(b"a/data.pkl", b"\x80\x02" + saved(w=rebuilt(of("0", numel=33))) + b"."),
        *(Member(b"a/data/0", npy(NAN)), Member(b"a/version", b"3\n")),
    ),
}


def seen(value: object) -> Iterator[torch.Tensor]:
    """Every tensor in what torch loads, wherever it is."""
    if isinstance(value, torch.Tensor):
        yield value
        yield from seen(getattr(value, "_backward_hooks", None))
        yield from seen(value.__dict__)
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from seen(key)
            yield from seen(entry)
        yield from seen(getattr(value, "__dict__", None))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from seen(item)
    elif isinstance(value, torch.storage.TypedStorage):
        yield torch.tensor(value.tolist())


def verdict(path: Path) -> int:
    return gradtool.check(path).exit_code


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("case", TORCH)
def test_what_torch_reads_as_nan_is_not_healthy(case: str, mmap: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(TORCH[case])
    assert verdict(path) in (1, 3)
    if mmap and TORCH[case][:2] != b"PK":
        return  # torch maps archives only
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = list(seen(torch.load(path, weights_only=True, mmap=mmap)))
    assert any(not one.isfinite().all() for one in loaded)


@pytest.mark.parametrize("case", TWICE)
def test_what_torch_swaps_twice_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(TWICE[case])
    loaded = torch.load(path, weights_only=True, mmap=True)
    assert loaded["v"].isnan().all()
    assert verdict(path) == 3


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_is_not_measured_beside_gradients_is_not_healthy(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    beside = torch.nested.nested_tensor([torch.tensor([NAN, NAN])])
    torch.save({"grads": {"a": torch.ones(2)}, "model": {"w": torch.ones(2)}, "x": beside}, path)
    assert verdict(path) == 1


@pytest.mark.parametrize("case", MEMORY)
def test_what_torch_reads_from_memory_that_nobody_wrote_is_refused(
    case: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(MEMORY[case])
    warnings.simplefilter("ignore")
    assert list(seen(torch.load(path, weights_only=True)))
    assert verdict(path) == 3


@pytest.mark.parametrize("case", NPZ)
def test_what_numpy_reads_as_nan_is_not_healthy(case: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(NPZ[case])
    assert verdict(path) in (1, 3)
    with np.load(path, allow_pickle=False) as arrays:
        loaded = [arrays[key] for key in arrays.files]
    assert any(isinstance(one, np.ndarray) and not np.isfinite(one).all() for one in loaded)


def test_a_header_that_is_a_pickle_too_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(safetensors_and_legacy())
    with pytest.raises(gradtool.CorruptFileError, match="two formats at once"):
        gradtool.measure(path)


def test_the_archive_that_python_finds_in_a_comment_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(with_second_end_record())
    assert verdict(path) == 3


def test_what_is_skipped_over_is_as_long_as_pickle_has_it() -> None:
    fixed = {code: pickletools.code2op[chr(code)].arg for code in _OPERAND_NBYTES}
    assert {code: arg.n if arg else 0 for code, arg in fixed.items()} == _OPERAND_NBYTES
    ends = (pickletools.TAKEN_FROM_ARGUMENT1, pickletools.TAKEN_FROM_ARGUMENT4)
    for code, nbytes in _LENGTH_NBYTES.items():
        arg = pickletools.code2op[chr(code)].arg
        assert arg is not None
        assert arg.n == ends[nbytes == 4] or (nbytes == 4 and arg.name == "unicodestring4")


def test_the_parts_of_these_files_are_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(torch_file(saved(w=CLEAN, t=tensor())))
    assert torch.equal(torch.load(path)["w"], torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert verdict(path) == 0
    npz = tmp_path / "x.npz"
    npz.write_bytes(archive(Member(b"w.npy", npy(1.0))))
    assert zlib.crc32(npy(1.0)) == zlib.crc32(npz.read_bytes()[35 : 35 + len(npy(1.0))])
    assert verdict(npz) == 0
