"""What torch.save wrote is catalogued as torch itself sees it, byte for byte."""

from __future__ import annotations

import io
import itertools
import math
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import ml_dtypes
import numpy as np
import pytest
import torch

import gradtool
from gradtool.core.checkpoint import Checkpoint
from gradtool.core.tensors import TensorSpec
from gradtool.errors import CorruptFileError, InputError, UnsupportedFormatError
from gradtool.formats.files.torch_zip import open_torch_zip, recognises
from gradtool.storage.archives.zip import Entry, read_directory
from gradtool.storage.reader import open_source

MEASURED = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.complex128: "C128",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}
SKIPPED = {
    torch.int8: ("I8", "integer"),
    torch.int16: ("I16", "integer"),
    torch.int32: ("I32", "integer"),
    torch.int64: ("I64", "integer"),
    torch.uint8: ("U8", "integer"),
    torch.uint16: ("U16", "integer"),
    torch.uint32: ("U32", "integer"),
    torch.uint64: ("U64", "integer"),
    torch.bool: ("BOOL", "bool"),
    torch.float8_e8m0fnu: ("F8_E8M0", "scale dtype"),
}


class Net(torch.nn.Module):
    """A module to be pickled whole: parameters, buffers, children, tied weights, a cycle."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.tied = torch.nn.Linear(3, 4, bias=False)
        self.tied.weight = self.inner[0].weight
        self.history = [torch.arange(3.0)]
        self.myself = SimpleNamespace(owner=self)


def save(tmp_path: Path, value: object, protocol: int = 2) -> Path:
    path = tmp_path / "grads.run.pt"
    torch.save(value, path, pickle_protocol=protocol)
    return path


def catalogue(path: Path) -> Checkpoint:
    with open_source(str(path)) as source:
        return open_torch_zip(source, read_directory(source))


def saved(tmp_path: Path, value: object, protocol: int = 2) -> Checkpoint:
    return catalogue(save(tmp_path, value, protocol))


def by_name(checkpoint: Checkpoint) -> dict[str, TensorSpec]:
    return {tensor.name: tensor for tensor in checkpoint.tensors}


def reasons(checkpoint: Checkpoint) -> dict[str, tuple[str, str]]:
    return {entry.name: (entry.dtype, entry.reason) for entry in checkpoint.skipped}


def aliases(path: Path) -> dict[str, str | None]:
    return {tensor.spec.name: tensor.alias_of for tensor in gradtool.measure(path).tensors}


def elements(tensor: TensorSpec) -> list[bytes]:
    """Each element's bytes in C order of the shape, by plain index arithmetic."""
    data = b""
    for extent in tensor.extents:
        with Path(extent.file.path).open("rb") as file:
            file.seek(extent.offset)
            data += file.read(extent.nbytes)
    size = tensor.dtype.itemsize
    strides = tensor.strides
    if strides is None:
        strides = tuple(math.prod(tensor.shape[axis + 1 :]) for axis, _ in enumerate(tensor.shape))
    indices = itertools.product(*map(range, tensor.shape))
    starts = (sum(i * s for i, s in zip(index, strides, strict=True)) * size for index in indices)
    return [data[start : start + size] for start in starts]


def torch_elements(tensor: torch.Tensor) -> list[bytes]:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    raw = plain.view(torch.uint8).numpy().tobytes()
    size = tensor.element_size()
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def assert_same(found: TensorSpec, tensor: torch.Tensor) -> None:
    assert found.shape == tuple(tensor.shape)
    assert elements(found) == torch_elements(tensor)


def filled(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(1, 25).reshape(2, 3, 4).to(torch.float32).to(dtype)


@pytest.mark.parametrize("dtype", MEASURED, ids=str)
def test_every_floating_type_is_found_with_its_bytes(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = filled(dtype)
    (found,) = saved(tmp_path, {"w": tensor}).tensors
    assert found.dtype.name == MEASURED[dtype]
    assert found.strides is None
    assert_same(found, tensor)


def test_half_complex_is_found_with_its_bytes(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls complex32 experimental
        tensor = torch.zeros(3, dtype=torch.complex32)
    (found,) = saved(tmp_path, {"w": tensor}).tensors
    assert (found.dtype.name, found.shape, found.nbytes) == ("C32", (3,), 12)


@pytest.mark.parametrize("dtype", SKIPPED, ids=str)
def test_a_type_that_is_no_gradient_is_listed_as_skipped(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    tensor = torch.ones(4, dtype=torch.uint8).to(dtype)
    checkpoint = saved(tmp_path, {"w": tensor})
    assert checkpoint.tensors == ()
    assert reasons(checkpoint) == {"w": SKIPPED[dtype]}


def test_packed_fp4_is_skipped_as_sub_byte(tmp_path: Path) -> None:
    tensor = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert reasons(saved(tmp_path, {"w": tensor})) == {"w": ("F4", "sub-byte dtype")}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nested_keys_make_dotted_names_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    tensors = [torch.full((2,), float(i)) for i in range(6)]
    value = {
        "a": {"b": [tensors[0], (tensors[1], None)], 7: tensors[2]},
        "ordered": OrderedDict(x=tensors[3]),
        "default": defaultdict(list, y=tensors[4]),
        "plain": {1, 2},
        "frozen": frozenset((3, 4)),
        "count": Counter("abba"),
        "big": 1 << 200,
        "real": 0.5,
        "raw": b"bytes",
        "pair": {("a", 1): tensors[5]},
        "é": None,
    }
    found = by_name(saved(tmp_path, value, protocol))
    names = ["a.b.0", "a.b.1.0", "a.7", "ordered.x", "default.y", "pair.('a', 1)"]
    assert list(found) == names
    for name, tensor in zip(names, tensors, strict=True):
        assert_same(found[name], tensor)


def test_a_bare_tensor_is_called_what_its_file_is(tmp_path: Path) -> None:
    (found,) = saved(tmp_path, torch.ones(3)).tensors
    assert found.name == "grads.run"


def test_a_root_list_is_numbered(tmp_path: Path) -> None:
    assert list(by_name(saved(tmp_path, [torch.ones(1), torch.ones(2)]))) == ["0", "1"]


def test_a_file_object_gives_the_root_directory_archive(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3)}, buffer)
    path = tmp_path / "any.pt"
    path.write_bytes(buffer.getvalue())
    assert zipfile.ZipFile(path).namelist()[0] == "archive/data.pkl"
    assert_same(by_name(catalogue(path))["w"], torch.ones(3))


def test_parameters_and_their_attributes_are_found(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(2, 3))
    weight.main_grad = torch.randn(2, 3)  # type: ignore[attr-defined] # as Megatron keeps it
    value = {"w": weight, "b": torch.nn.Parameter(torch.randn(3)), "buffer": torch.nn.Buffer()}
    found = by_name(saved(tmp_path, value))
    assert list(found) == ["w", "w.main_grad", "b", "buffer"]
    assert_same(found["w"], weight)
    assert_same(found["w.main_grad"], weight.main_grad)  # type: ignore[arg-type]


VIEWS = {
    "transposed": (lambda x: x.permute(2, 0, 1), False),
    "gapped": (lambda x: x[:, :, ::2], False),
    "column": (lambda x: x[1, :, 2], False),
    "rows": (lambda x: x[1:], True),
    "expanded": (lambda x: x[:, :1].expand(2, 5, 4), False),
    "windows": (lambda x: x.reshape(-1).unfold(0, 4, 1), False),
    "scalar": (lambda x: x[1, 2, 3], True),
    "gapped and transposed": (lambda x: x[:, 1:, 1::2].transpose(0, 2), False),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_names_the_elements_that_torch_names(tmp_path: Path, name: str) -> None:
    make, in_order = VIEWS[name]
    view = make(filled(torch.float32))
    (found,) = saved(tmp_path, {"w": view}).tensors
    assert_same(found, view)
    assert (found.strides is None) == in_order


@pytest.mark.parametrize("name", VIEWS)
def test_extents_run_from_the_first_element_touched_to_the_last(tmp_path: Path, name: str) -> None:
    view = VIEWS[name][0](filled(torch.float32))
    (found,) = saved(tmp_path, {"w": view}).tensors
    touched = {
        sum(i * s for i, s in zip(index, view.stride(), strict=True))
        for index in itertools.product(*map(range, view.shape))
    }
    assert found.nbytes == 4 * (max(touched) + 1)


def test_an_empty_tensor_has_no_extents(tmp_path: Path) -> None:
    (found,) = saved(tmp_path, {"w": torch.empty(0, 3)}).tensors
    assert (found.shape, found.extents) == ((0, 3), ())


def test_tied_tensors_are_aliases_of_the_first(tmp_path: Path) -> None:
    weight, gapped = torch.randn(3, 4), torch.randn(4, 4)[:, ::2]
    value = {
        "a": weight,
        "b": weight,
        "transposed": weight.T,
        "flat": weight.reshape(-1),
        "part": weight[1:],
        "gapped": gapped,
        "again": gapped.view(4, 2),
        "wide": torch.ones(1).expand(3),
        "e1": torch.empty(0),
    }
    assert aliases(save(tmp_path, value)) == {
        "a": None,
        "b": "a",
        "transposed": "a",
        "flat": "a",
        "part": None,
        "gapped": None,
        "again": "gapped",
        "wide": None,
        "e1": None,
    }


def test_views_of_one_range_that_name_other_elements_are_no_aliases(tmp_path: Path) -> None:
    flat = torch.randn(9)
    value = {
        "all": flat,
        "second": flat[::2],
        "fourth": flat[::4],
        "one": flat[:1],
        "often": flat[:1].expand(5),
    }
    found = aliases(save(tmp_path, value))
    assert found.pop("often") == "one"
    assert set(found.values()) == {None}


def test_slices_of_one_storage_keep_their_own_bytes(tmp_path: Path) -> None:
    flat = torch.randn(50)
    parts = {"a": flat[:18].view(3, 6), "b": flat[18:48].view(5, 6), "c": flat[48:]}
    checkpoint = saved(tmp_path, parts)
    for name, found in by_name(checkpoint).items():
        assert_same(found, parts[name])
    starts = [tensor.extents[0].offset for tensor in checkpoint.tensors]
    assert [start - starts[0] for start in starts] == [0, 72, 192]


def test_a_real_training_checkpoint_has_its_sections(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    checkpoint = saved(
        tmp_path,
        {
            "epoch": 3,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "grads": grads,
            "ema": {},
            "rng": torch.get_rng_state(),
        },
    )
    found = by_name(checkpoint)
    assert checkpoint.section_kinds == {
        "model": "weights",
        "optimizer.exp_avg": "optimizer",
        "optimizer.exp_avg_sq": "optimizer",
        "grads": "gradients",
    }
    assert_same(found["model.1.running_var"], model.state_dict()["1.running_var"])
    assert_same(found["optimizer.state.0.exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    for name, grad in grads.items():
        assert grad is not None
        assert found[f"grads.{name}"].section == "grads"
        assert_same(found[f"grads.{name}"], grad)
    assert reasons(checkpoint) == {
        "model.1.num_batches_tracked": ("I64", "integer"),
        "rng": ("U8", "integer"),
    }
    assert {entry.name: entry.section for entry in checkpoint.skipped}["rng"] == "other"


def test_an_optimizer_s_own_state_dict_is_no_gradient(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    checkpoint = saved(tmp_path, optimizer.state_dict())
    assert {tensor.name: tensor.section for tensor in checkpoint.tensors} == {
        "state.0.step": "other",
        "state.0.exp_avg": "optimizer.exp_avg",
        "state.0.exp_avg_sq": "optimizer.exp_avg_sq",
    }
    assert set(checkpoint.section_kinds.values()) == {"optimizer"}


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickled_optimizer_is_no_gradient(tmp_path: Path, protocol: int) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    checkpoint = saved(tmp_path, optimizer, protocol)
    assert checkpoint.section_kinds == {
        "optimizer.exp_avg": "optimizer",
        "optimizer.exp_avg_sq": "optimizer",
        "model": "weights",
    }
    found = by_name(checkpoint)
    assert found["param_groups.0.params.0"].section == "model"
    assert_same(found["state.key#0.exp_avg"], optimizer.state[weight]["exp_avg"])
    assert_same(found["param_groups.0.params.0"], weight)


class WithKeywords(torch.nn.Module):
    """A class that is made again with keywords."""

    def __new__(cls, **_: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *, factor: torch.Tensor) -> None:
        super().__init__()
        self.factor = factor

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, torch.Tensor]]:
        return (), {"factor": torch.full((2,), 3.0)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_object_made_with_keywords_is_looked_into(tmp_path: Path, protocol: int) -> None:
    module = WithKeywords(factor=torch.ones(2))
    module.weight = torch.nn.Parameter(torch.ones(3))
    found = by_name(saved(tmp_path, {"net": module}, protocol))
    assert_same(found["net.weight"], module.weight)
    assert [
        name for name in found if elements(found[name]) == torch_elements(torch.full((2,), 3.0))
    ]


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickled_module_of_many_small_layers_is_read(tmp_path: Path, protocol: int) -> None:
    module: torch.nn.Module = torch.nn.ModuleList(
        torch.nn.Conv2d(1, 1, 1, bias=False) for _ in range(3000)
    )
    for level in range(6):
        module = torch.nn.ModuleDict({f"a_rather_long_name_of_level_{level}": module})
    checkpoint = saved(tmp_path, module, protocol)
    assert [tensor.name for tensor in checkpoint.tensors] == list(module.state_dict())


MARKS = {
    "finished": (["x/data.pkl", "x/version"], True),
    "in capitals": (["x/DATA.PKL", "x/VERSION"], True),
    "pickle alone": (["x/data.pkl"], True),
    "unfinished": (["x/version", "x/.data/serialization_id"], True),
    "unfinished with data": (["x/data/0", "x/version"], True),
    "unfinished with byte order": (["x/byteorder", "x/version"], True),
    "version alone": (["x/version"], False),
    "records without version": (["x/byteorder", "x/data/0"], False),
    "another root": (["x/version", "y/data/0"], False),
    "without root": (["data.pkl", "version", "byteorder"], False),
    "deeper": (["x/y/data.pkl"], False),
    "nothing": ([], False),
}


@pytest.mark.parametrize("case", MARKS)
def test_torch_s_archives_are_told_by_their_records(case: str) -> None:
    names, answer = MARKS[case]
    entries = tuple(Entry(name, name.encode(), b"", 0, 0, 0, 0, 0, 0, ()) for name in names)
    assert recognises(entries) is answer


def test_a_top_level_tensor_is_no_section(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, {"weights": torch.ones(2), "bias": torch.ones(2)})
    assert checkpoint.section_kinds == {}
    assert [tensor.section for tensor in checkpoint.tensors] == ["", ""]


def test_a_pickled_module_s_tensors_have_the_names_of_its_state_dict(tmp_path: Path) -> None:
    net = Net()
    checkpoint = saved(tmp_path, net)
    found = by_name(checkpoint)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            assert_same(found[name], tensor)
    assert aliases(Path(checkpoint.path))["tied.weight"] == "inner.0.weight"
    assert_same(found["history.0"], net.history[0])
    assert reasons(checkpoint) == {"inner.1.num_batches_tracked": ("I64", "integer")}


ARRAYS = {
    "f8": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "f2": np.arange(3, dtype="<f2"),
    "big": np.arange(3, dtype=">f4"),
    "c16": np.arange(3, dtype="<c16"),
    "bf16": np.arange(3).astype(ml_dtypes.bfloat16),
    "long": np.arange(400.0),
    "gapped": np.arange(6.0)[::2],
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_numpy_arrays_are_found_inside_the_pickle(tmp_path: Path, protocol: int) -> None:
    found = by_name(saved(tmp_path, ARRAYS, protocol))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].shape == array.shape
        assert b"".join(elements(found[name])) == array.tobytes()
    assert found["fortran"].strides == (1, 2)
    assert [name for name, tensor in found.items() if tensor.big_endian] == ["big"]
    assert found["bf16"].dtype.name == "BF16"


def test_numpy_arrays_that_protocol_2_wrote_as_text_are_decoded(tmp_path: Path) -> None:
    value = {
        **ARRAYS,
        "empty": np.zeros(0),
        "bad": np.array([[1.0, 2.0], [np.nan, 3.0]], order="F"),
    }
    torch.save(value, tmp_path / "2.pt", pickle_protocol=2)
    torch.save(value, tmp_path / "5.pt", pickle_protocol=5)
    as_text, as_bytes = (gradtool.measure(tmp_path / name) for name in ("2.pt", "5.pt"))
    assert [t.name for t in as_text.tensors] == list(value)
    assert as_text.tensors[0].spec.stream is not None
    for one, other in zip(as_text.tensors, as_bytes.tensors, strict=True):
        assert (one.stats, one.first_nonfinite) == (other.stats, other.first_nonfinite)
    assert as_text.tensors[-1].first_nonfinite == (1, 0)


@pytest.mark.parametrize("protocol", [2, 5])
def test_numpy_values_that_are_no_gradients_are_listed(tmp_path: Path, protocol: int) -> None:
    value = {
        "number": np.float32(3),
        "text": np.array(["a"]),
        "flags": np.array([True]),
        "objects": np.array([None, torch.ones(2)], dtype=object),
    }
    checkpoint = saved(tmp_path, value, protocol)
    assert list(by_name(checkpoint)) == ["objects.1"]
    assert reasons(checkpoint) == {
        "number": ("F32", "NumPy scalar"),
        "text": ("U1", "text or dates"),
        "flags": ("BOOL", "bool"),
    }


def test_a_sparse_gradient_is_measured_by_its_coalesced_values(tmp_path: Path) -> None:
    table = torch.nn.Embedding(10, 4, sparse=True)
    table(torch.tensor([1, 5, 5])).sum().backward()
    grad = table.weight.grad
    assert grad is not None
    checkpoint = saved(tmp_path, {"g": grad, "c": grad.coalesce()})
    assert_same(by_name(checkpoint)["c"], grad.coalesce().values())
    assert reasons(checkpoint) == {
        "g.indices": ("I64", "integer"),
        "c.indices": ("I64", "integer"),
    }
    assert checkpoint.notes == (
        "1 sparse tensor is measured by the stored values",
        "1 sparse tensor is not coalesced, and measured by the sums of the values",
    )
    total = gradtool.measure(checkpoint.path).total
    assert total is not None
    assert not total.lower_bound
    assert math.isclose(total.norm, math.sqrt(20 + 20), rel_tol=1e-15)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_a_compressed_sparse_tensor_is_measured_by_its_values(tmp_path: Path) -> None:
    tensor = torch.tensor([[0.0, 2.0], [3.0, 0.0]]).to_sparse_csr()
    checkpoint = saved(tmp_path, {"g": tensor})
    assert_same(by_name(checkpoint)["g"], tensor.values())
    assert sorted(reasons(checkpoint)) == ["g.compressed_indices", "g.plain_indices"]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_tensors_without_a_norm_are_listed_under_foreign_types(tmp_path: Path) -> None:
    value = {
        "q": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        "m": torch.ones(2, device="meta"),
    }
    assert reasons(saved(tmp_path, value)) == {
        "q": ("torch.qint8", "quantized"),
        "m": ("torch.float32", "meta tensor, no data"),
    }


def test_conjugate_and_negative_views_keep_their_stored_bytes(tmp_path: Path) -> None:
    z = torch.tensor([1 + 2j, 3 - 4j])
    checkpoint = saved(tmp_path, {"conj": z.conj(), "neg": z.clone().conj().imag})
    found = by_name(checkpoint)
    assert elements(found["conj"]) == torch_elements(z)
    assert elements(found["neg"]) == torch_elements(z.imag)
    assert [found[name].is_negated for name in ("conj", "neg")] == [False, True]


def test_a_bare_storage_is_a_flat_tensor(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates typed storages
        checkpoint = saved(tmp_path, {"s": torch.arange(3.0).storage()})
    assert_same(by_name(checkpoint)["s"], torch.arange(3.0))


DTENSOR = """
import sys, torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
value = distribute_tensor(torch.arange(8.0).view(4, 2), init_device_mesh("cpu", (1,)), [Shard(0)])
torch.save({"w": value}, sys.argv[1])
"""


def test_a_dtensor_is_measured_by_its_local_part(tmp_path: Path) -> None:
    path = tmp_path / "shard.pt"
    subprocess.run([sys.executable, "-c", DTENSOR, str(path)], check=True, capture_output=True)
    checkpoint = catalogue(path)
    (found,) = checkpoint.tensors
    assert found.name == "w"
    assert_same(found, torch.arange(8.0).view(4, 2))
    assert checkpoint.skipped == ()
    assert checkpoint.part_notes == ("1 DTensor is measured by the part that this file holds",)


def test_every_stored_checksum_is_listed_and_holds(tmp_path: Path) -> None:
    path = save(tmp_path, {"a": torch.randn(5), "b": torch.randn(7), "e": torch.empty(0)})
    raw = path.read_bytes()
    checksums = {checksum.record: checksum for checksum in catalogue(path).checksums}
    root = "grads.run"
    covered = ("data.pkl", "data/0", "data/1", ".data/serialization_id")
    assert set(checksums) == {f"{root}/{name}" for name in covered}
    archive = zipfile.ZipFile(path)
    for record, checksum in checksums.items():
        assert raw[checksum.covers.offset : checksum.covers.end] == archive.read(record)
        assert checksum.crc32 == archive.getinfo(record).CRC
        for place in checksum.places:
            assert raw[place : place + 4] == checksum.crc32.to_bytes(4, "little")


def rebuilt(path: Path, change: Any, method: int = zipfile.ZIP_STORED) -> Path:
    """The archive written again by Python, each (name, bytes) pair as `change` returns it."""
    target = path.with_name("rebuilt.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            for entry in change(name, old.read(name)):
                new.writestr(*entry)
    return target


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        catalogue(path)
    return caught.value


def test_an_archive_rebuilt_without_alignment_reads_the_same(tmp_path: Path) -> None:
    tensor = torch.randn(3, 5)
    path = rebuilt(save(tmp_path, {"w": tensor}), lambda name, data: [(name, data)])
    assert_same(by_name(catalogue(path))["w"], tensor)


@pytest.mark.parametrize(("order", "is_big"), [(b"big", True), (b"little", False)])
def test_the_byte_order_record_is_honoured(tmp_path: Path, order: bytes, is_big: bool) -> None:
    path = with_byte_order(save(tmp_path, {"w": torch.ones(2)}), order)
    assert by_name(catalogue(path))["w"].big_endian == is_big


def test_an_unknown_byte_order_is_refused(tmp_path: Path) -> None:
    path = with_byte_order(save(tmp_path, {"w": torch.ones(2)}), b"middle")
    assert "byte order b'middle'" in str(refusal(path))


def with_byte_order(path: Path, order: bytes) -> Path:
    return rebuilt(path, lambda name, data: [(name, order if "byteorder" in name else data)])


ARRAY = b"\x93NUMPY\1\0"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n, d: [] if n.endswith("data.pkl") else [(n, d)], "the save was interrupted"),
        (lambda n, d: [(n, d), (n.upper(), d)], "two root directories"),
        (lambda n, d: [(n, d), (n.replace("data.pkl", "DATA.PKL"), d)], "duplicate of entry"),
        (lambda n, d: [(n, ARRAY if n.endswith("/version") else d)], "two formats at once"),
        (lambda n, d: [(n, d), ("other/x", d)], "two root directories"),
        (lambda n, d: [(n, d), (n.split("/")[0] + "/constants.pkl", d)], "TorchScript"),
        (lambda n, d: [] if n.endswith("data/0") else [(n, d)], "no record of its storage '0'"),
        (lambda n, d: [(n, d[:-1] if n.endswith("data/0") else d)], "the archive holds 7"),
        (lambda n, d: [(n, d + b"\0" if n.endswith("data/0") else d)], "the archive holds 9"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_archive_that_contradicts_its_pickle_is_refused(
    tmp_path: Path, change: Any, words: str
) -> None:
    seen: set[str] = set()

    def once(name: str, data: bytes) -> list[tuple[str, bytes]]:
        entries = [entry for entry in change(name, data) if entry[0] not in seen]
        seen.update(name for name, _ in entries)
        return entries

    assert words in str(refusal(rebuilt(save(tmp_path, {"w": torch.ones(2)}), once)))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, {"w": torch.zeros(200)})
    packed = rebuilt(path, lambda name, data: [(name, data)], zipfile.ZIP_DEFLATED)
    assert "compressed: torch.save never does this" in str(refusal(packed))


def test_a_flipped_byte_of_the_pickle_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, {"weight": torch.ones(2)})
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"weight", b"wEight", 1))
    error = refusal(path)
    assert isinstance(error, CorruptFileError)
    assert "CRC mismatch" in str(error)


def test_a_pickle_without_a_checksum_is_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path, {"w": torch.ones(2)})
    finally:
        torch.serialization.set_crc32_options(before)
    checkpoint = catalogue(path)
    assert_same(by_name(checkpoint)["w"], torch.ones(2))
    assert {checksum.crc32 for checksum in checkpoint.checksums} == {0}


def test_two_keys_that_give_one_name_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}})
    error = refusal(path)
    assert isinstance(error, UnsupportedFormatError)
    assert error.tensor == "a.b"


def test_an_unfinished_save_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    shared = torch.ones(4)
    with pytest.raises(RuntimeError):
        torch.save([shared, shared.view(torch.int32)], path)
    assert "the save was interrupted" in str(refusal(path))
    with open_source(str(path)) as source:
        assert recognises(read_directory(source))


def test_a_catalogue_holds_at_any_path(tmp_path: Path) -> None:
    path = save(tmp_path, {"w": torch.ones(2)})
    moved = tmp_path / "moved.bin"
    shutil.move(path, moved)
    checkpoint = catalogue(moved)
    assert (checkpoint.path, checkpoint.format) == (str(moved), "torch")
    assert [file.path for file in checkpoint.files] == [str(moved)]
