"""What torch.save wrote before 1.6 is seen as torch.load sees it, or refused; and clipped."""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import close, exact_norm
from pickle_parts import (
    PROTO,
    called,
    collected,
    entry,
    integer,
    listed,
    mapped,
    name,
    tensor,
    text,
)

import gradtool
from gradtool.core.checkpoint import Checkpoint
from gradtool.core.tensors import TensorSpec
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats import open_checkpoint

MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


class Net(torch.nn.Module):
    """A module to be pickled whole, with its classes' sources beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.tied = torch.nn.Linear(3, 4, bias=False)
        self.tied.weight = self.inner[0].weight


def save(path: Path, value: object, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it finds no source of some classes
        torch.save(value, path, _use_new_zipfile_serialization=False, **options)
    return path


def views() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0)
    grid = base.reshape(4, 6)
    return {
        "all": grid,
        "transposed": grid.t(),
        "column": grid[:, 2],
        "shifted": base[3:9],
        "expanded": base[:1].expand(5),
    }


OBJECTS: dict[str, Any] = {
    **{str(dtype): {"w": torch.arange(6).to(dtype), "b": torch.ones(3)} for dtype in TYPES},
    "views": views(),
    "parameters": {"w": torch.nn.Parameter(torch.arange(3.0)), "n": [torch.ones(1), (torch.e, 2)]},
    "state dict": OrderedDict(Net().state_dict()),
    "empty": {"e": torch.zeros(0, 3), "w": torch.ones(2)},
    "lone": torch.arange(5.0),
    "negated": {"n": torch.ones(3, dtype=torch.complex64).conj().imag},
}


def flat(value: Any, start: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The floating tensors that torch loaded, by their names."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() or value.is_complex():
            yield start or "x", value.detach()
    elif isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from flat(item, f"{start}.{key}" if start else str(key))


def elements(spec: TensorSpec, like: torch.Tensor) -> torch.Tensor:
    """A tensor read from where the catalogue says that it is."""
    data = b""
    for extent in spec.extents:
        with Path(extent.file.path).open("rb") as file:
            file.seek(extent.offset)
            data += file.read(extent.nbytes)
    if not data:
        return torch.zeros(spec.shape, dtype=like.dtype)
    found = torch.frombuffer(bytearray(data), dtype=like.dtype)
    strides = spec.strides or torch.zeros(spec.shape, device="meta").stride()
    return found.as_strided(spec.shape, strides) * (-1 if spec.is_negated else 1)


def assert_seen_as_loaded(path: Path, loaded: Any) -> Checkpoint:
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.format == "torch-legacy"
    found = {spec.name: spec for spec in checkpoint.tensors}
    seen = dict(flat(loaded))
    assert found.keys() == seen.keys()
    for key, value in seen.items():
        assert found[key].shape == tuple(value.shape)
        assert torch.equal(elements(found[key], value), value)
    norms = {tensor.spec.name: tensor.norm for tensor in gradtool.measure(path).tensors}
    for key, value in seen.items():
        reals = torch.view_as_real(value) if value.is_complex() else value
        assert close(norms[key], exact_norm(reals.to(torch.float64).flatten().tolist(), 2))
    return checkpoint


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("weights_only", [True, False])
def test_every_tensor_is_seen_as_torch_loads_it(
    kind: str, weights_only: bool, tmp_path: Path
) -> None:
    path = save(tmp_path / "x.pt", OBJECTS[kind])
    assert_seen_as_loaded(path, torch.load(path, weights_only=weights_only))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_torch_save_is_read(protocol: int, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", OBJECTS["views"], pickle_protocol=protocol)
    assert_seen_as_loaded(path, torch.load(path, weights_only=False))


def test_a_module_that_was_saved_whole_is_called_as_its_state_dict(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", Net())
    assert b"class Net(torch.nn.Module)" in path.read_bytes()  # in a persistent id
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.load(path, weights_only=False)
    assert_seen_as_loaded(path, loaded.state_dict())


def test_an_object_of_many_storages_is_read_piece_by_piece(tmp_path: Path) -> None:
    many = {f"layer.{index}.weight": torch.full((2,), float(index)) for index in range(3000)}
    path = save(tmp_path / "x.pt", many)
    assert path.stat().st_size > 4 << 16  # more than is read at first
    assert_seen_as_loaded(path, torch.load(path, weights_only=True))


def test_arrays_of_numpy_in_the_pickle_are_measured(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"a": np.arange(4.0), "w": torch.ones(2)}, pickle_protocol=4)
    found = {tensor.spec.name: tensor.norm for tensor in gradtool.measure(path).tensors}
    assert found == {"a": pytest.approx(14**0.5), "w": pytest.approx(2**0.5)}


def test_a_type_that_torch_saves_and_cannot_load_again_is_measured(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"w": torch.tensor([3.0, 4.0]).to(torch.float8_e5m2)})
    with pytest.raises(AttributeError):
        torch.load(path)
    (tensor_found,) = gradtool.measure(path).tensors
    assert (tensor_found.norm, tensor_found.spec.dtype.name) == (5.0, "F8_E5M2")


def test_clipping_in_place_changes_the_elements_alone(tmp_path: Path) -> None:
    value = {**views(), "n": torch.arange(3), "half": torch.arange(4).half(), "note": "kept"}
    path = save(tmp_path / "x.pt", value)
    before = path.read_bytes()
    outcome = gradtool.clip(path, in_place=True, max_norm=1.0)
    after = path.read_bytes()
    coef = outcome.clip_coef
    assert coef is not None
    for weights_only in (True, False):
        loaded = torch.load(path, weights_only=weights_only)
        assert loaded["note"] == "kept"
        assert torch.equal(loaded["n"], value["n"])
        for key in (*views(), "half"):
            wanted = (value[key].to(torch.float64) * coef).to(value[key].dtype)
            assert torch.equal(loaded[key], wanted)
    checkpoint = open_checkpoint(str(path))
    where = {at for spec in checkpoint.tensors for extent in spec.extents
             for at in range(extent.offset, extent.end)}  # fmt: skip
    changed = {at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
    assert changed
    assert changed <= where


STORED = struct.pack("<q4f", 4, 1, 2, 3, 4)
KEYS = PROTO + listed(text("0")) + b"."


def storage(
    key: str = "0",
    *,
    class_name: str = "FloatStorage",
    location: str = "cpu",
    numel: bytes | None = None,
    view: bytes = b"N",
) -> bytes:
    parts = text("storage"), name("torch", class_name), text(key), text(location)
    return collected(*parts, numel or integer(4), view) + b"Q"


OBJECT = entry(text("w"), tensor(stored=storage()))


def legacy(
    pickled: bytes = OBJECT,
    keys: bytes = KEYS,
    stored: bytes = STORED,
    *,
    magic: bytes = MAGIC,
    version: bytes = PROTO + b"M\xe9\x03.",
    machine: bytes = PROTO + b"}.",
) -> bytes:
    return magic + version + machine + pickled + keys + stored


def as_tar() -> bytes:
    """A file whose machine has a text that holds the checksum of its first 512 bytes."""
    start = len(MAGIC + PROTO + b"M\xe9\x03." + PROTO + b"}" + text("") + text(""))
    content = bytearray(legacy(machine=PROTO + b"}" + text("") + text(" " * (512 - start)) + b"s."))
    total = sum(content[:148]) + sum(content[156:512]) + 8 * ord(" ")
    content[148:156] = b"%06o\0 " % total
    return bytes(content)


def test_the_file_made_by_hand_is_one_to_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(legacy())
    for weights_only in (True, False):
        assert_seen_as_loaded(path, torch.load(path, weights_only=weights_only))


def view(offset: int, numel: int) -> bytes:
    return collected(text("9"), integer(offset), integer(numel))


def bits(stored: bytes, shape: tuple[int, ...], **metadata: bytes) -> bytes:
    """A tensor whose metadata say such things of it."""
    strides = [1] * len(shape)
    args = stored, integer(0), collected(*map(integer, shape)), collected(*map(integer, strides))
    pairs = mapped(*((text(key), value) for key, value in metadata.items()))
    hooks = called("collections.OrderedDict")
    return called("torch._utils._rebuild_tensor_v2", *args, b"\x89", hooks, pairs)


def sparse(**metadata: bytes) -> bytes:
    """A vector of four values at places that are stored behind them."""
    indices = bits(storage("1", class_name="LongStorage"), (1, 4))
    values = bits(storage(), (4,), **metadata)
    size = called("torch.Size", collected(integer(4)))
    layout = called("torch.serialization._get_layout", text("torch.sparse_coo"))
    data = collected(indices, values, size, b"\x88")
    made = called("torch._utils._rebuild_sparse_tensor", layout, data)
    stored = STORED + struct.pack("<5q", 4, 0, 1, 2, 3)
    return legacy(entry(text("w"), made), PROTO + listed(text("0"), text("1")) + b".", stored)


LIES = {
    "magic": (legacy(magic=MAGIC[:-1] + b"\x85."), "does not begin with torch's magic number"),
    "version": (legacy(version=PROTO + b"M\xea\x03."), "its version is not 1001"),
    "no keys": (legacy(keys=PROTO + b"]."), "each of them once"),
    "a key left out": (
        legacy(entry(text("w"), tensor(stored=storage("1"))), KEYS),
        "each of them once",
    ),
    "a key twice": (
        legacy(keys=PROTO + listed(text("0"), text("0")) + b".", stored=STORED + STORED),
        "each of them once",
    ),
    "a key of nothing": (
        legacy(keys=PROTO + listed(text("0"), text("1")) + b".", stored=STORED + STORED),
        "each of them once",
    ),
    "keys of a dict": (legacy(keys=PROTO + mapped((text("0"), b"N")) + b"."), "no list of texts"),
    "numbers for keys": (legacy(keys=PROTO + listed(integer(0)) + b"."), "no list of texts"),
    "fewer elements": (legacy(stored=struct.pack("<q3f", 3, 1, 2, 3)), "the file says 3"),
    "a count that wraps": (
        legacy(stored=struct.pack("<q4f", (1 << 62) + 4, 1, 2, 3, 4)),
        f"the file says {(1 << 62) + 4}",
    ),
    "a count below 0": (
        legacy(
            entry(text("w"), tensor(stored=storage(numel=integer(-4)))),
            stored=struct.pack("<q4f", -4, 1, 2, 3, 4),
        ),
        "the file says -4",
    ),
    "cut in the data": (legacy(stored=STORED[:-1]), "ends 1 bytes after the file: truncated"),
    "cut in a count": (legacy(stored=STORED[:7]), "truncated"),
    "cut in the object": (legacy()[:100], "a name without an end"),
    "bytes behind": (legacy(stored=STORED + b"\0"), "1 bytes follow the last storage"),
    "another file behind": (legacy() + legacy(), "follow the last storage"),
    "a view of a storage": (
        legacy(entry(text("w"), tensor(stored=storage(view=view(1, 3)), shape=(3,)))),
        "is a view of a storage",
    ),
    "no data": (
        legacy(entry(text("w"), tensor(stored=storage(location="meta")))),
        "is loaded without its data",
    ),
    "an unknown storage": (
        legacy(entry(text("w"), tensor(stored=storage(class_name="OddStorage")))),
        "does not know the storage torch.OddStorage",
    ),
    "a view out of bounds": (
        legacy(entry(text("w"), tensor(stored=storage(), offset=integer(1)))),
        "reaches byte 20 of a storage of 16 bytes",
    ),
    "sparse, negated": (sparse(neg=b"\x88"), "stored negated or conjugated"),
    "sparse, conjugated": (sparse(conj=b"N"), "stored negated or conjugated"),
    "a tar archive": (as_tar(), "a tar archive by its first bytes"),
    "a tensor in a key": (
        legacy(entry(tensor(stored=storage()), b"N")),
        "where no name leads",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused(lie: str, tmp_path: Path) -> None:
    content, words = LIES[lie]
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises((CorruptFileError, UnsupportedFormatError)) as caught:
        gradtool.measure(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lie", ["a count that wraps", "bytes behind", "a key twice", "no keys"])
def test_some_lies_are_none_to_torch(lie: str) -> None:
    """Why they are looked for: nothing else would tell."""
    assert torch.load(io.BytesIO(LIES[lie][0]))["w"].shape == (4,)


def test_a_tar_archive_is_one_to_torch_whatever_its_first_name_is(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(as_tar())
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        assert tar.getmembers()
    with pytest.raises(RuntimeError, match=r"legacy \.tar format"):
        torch.load(path)


def test_sparse_values_that_torch_does_not_copy_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(sparse())
    loaded = torch.load(path)["w"].coalesce().values()
    (found,) = gradtool.measure(path).tensors
    assert close(found.norm, exact_norm(loaded.tolist(), 2))


@pytest.mark.parametrize("value", [b"\x88", b"\x89", b"N"])
def test_a_tensor_is_negated_whatever_its_metadata_say_about_neg(
    value: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    content = legacy(entry(text("w"), bits(storage(), (4,), neg=value)))
    path.write_bytes(content[:-4] + struct.pack("<f", float("inf")))
    assert torch.load(path)["w"].tolist() == [-1.0, -2.0, -3.0, float("-inf")]
    (found,) = gradtool.measure(path).tensors
    assert (found.stats.posinf, found.stats.neginf) == (0, 1)


@pytest.mark.parametrize("little", [True, False])
def test_what_the_machine_says_of_itself_is_not_believed(little: bool, tmp_path: Path) -> None:
    """torch swaps on writing, so that files are the same on every machine."""
    order = b"\x88" if little else b"\x89"
    path = tmp_path / "x.pt"
    path.write_bytes(legacy(machine=PROTO + mapped((text("little_endian"), order)) + b"."))
    assert_seen_as_loaded(path, torch.load(path, weights_only=True))
