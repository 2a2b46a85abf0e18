"""gradtool reads a torch file as the installed torch does: what it allows, and in which order.

The lists are torch's own, so that what a newer torch allows is noticed.
"""

from __future__ import annotations

import itertools
import types
from operator import itemgetter
from pathlib import Path

import pytest
import torch
from oracle import close, exact_norm
from pickle_parts import PROTO, called, collected, integer, name, named, storage, text
from torch._utils import IMPORT_MAPPING, NAME_MAPPING
from torch._weights_only_unpickler import _get_allowed_globals
from zip_parts import Member, archive

import gradtool
from gradtool.core.element_types import storage_type, torch_type
from gradtool.errors import UnsupportedFormatError
from gradtool.formats.pickles.calls import global_of
from gradtool.formats.pickles.contents import TENSOR_PROPERTIES
from gradtool.formats.pickles.globals import HANDLERS
from gradtool.formats.pickles.unpickle import unpickle

ALLOWED = dict(sorted(_get_allowed_globals().items(), key=itemgetter(0)))

WITHOUT_ELEMENTS = {
    "torch.device": "where a tensor is",
    "torch.serialization._get_layout": "how a sparse tensor is stored, which its values tell",
    "builtins.complex": "a number, as those that pickles write by themselves",
}
"""What calling makes nothing with elements, so that what stands for it is as good; and why."""


def parts(global_name: str) -> tuple[str, str]:
    module, _, qualname = global_name.rpartition(".")
    return module, qualname


def is_refused(pickle: bytes) -> bool:
    try:
        unpickle(pickle, "x.pt")
    except UnsupportedFormatError:
        return True
    return False


VALUES = [key for key, value in ALLOWED.items() if isinstance(value, torch.dtype | torch.qscheme)]
STORAGES = [key for key in ALLOWED if key.endswith("Storage")]
CALLED = [key for key in ALLOWED if key not in VALUES and key not in STORAGES]


@pytest.mark.parametrize("key", CALLED)
def test_what_torch_lets_a_file_call_is_interpreted_or_refused(key: str) -> None:
    handler = global_of(*parts(key)).handler
    assert handler is not None or key in WITHOUT_ELEMENTS
    if key not in HANDLERS and key not in WITHOUT_ELEMENTS:
        assert is_refused(named(called(key)))
        assert is_refused(named(called(key, by=b"\x81")))


@pytest.mark.parametrize("key", STORAGES)
def test_what_torch_lets_a_file_store_is_known_and_never_called(key: str) -> None:
    known = storage_type(key)
    if known is None:  # a class without a type, which torch refuses in a persistent id
        assert ALLOWED[key] is torch.storage.TypedStorage
    elif ALLOWED[key] is not torch.storage.UntypedStorage:
        assert known.itemsize == torch._utils._element_size(ALLOWED[key].dtype)
    assert is_refused(named(called(key)))
    assert is_refused(named(called(key, by=b"\x81")))


@pytest.mark.parametrize("key", VALUES)
def test_a_type_that_torch_lets_a_file_name_is_known_or_refused(key: str, tmp_path: Path) -> None:
    assert not callable(ALLOWED[key])
    known = torch_type(key)
    if known is not None:
        assert known.itemsize == ALLOWED[key].itemsize
        return
    path = torch_file(tmp_path, rebuilt("_rebuild_tensor_v3", key, "torch.storage.UntypedStorage"))
    with pytest.raises(UnsupportedFormatError):
        gradtool.measure(path)


def test_what_python_2_called_otherwise_is_the_same_to_gradtool() -> None:
    qualnames = {parts(key) for key in ALLOWED}
    for old, new in IMPORT_MAPPING.items():
        for module, qualname in qualnames:
            if module == new:
                assert global_of(old, qualname).name == f"{module}.{qualname}"
    assert not {".".join(new) for new in NAME_MAPPING.values()} & set(ALLOWED)


def test_every_property_of_a_tensor_is_one_that_no_file_may_set() -> None:
    kinds = (property, types.GetSetDescriptorType, types.MemberDescriptorType)
    own = {key for key in dir(torch.Tensor) if isinstance(getattr(torch.Tensor, key, None), kinds)}
    assert {key for key in own if not key.startswith("__")} <= TENSOR_PROPERTIES


DTYPES = {
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
    "complex32": None,
    "float8_e4m3fn": None,
    "float8_e5m2": None,
    "float8_e4m3fnuz": None,
    "float8_e5m2fnuz": None,
    "int64": "LongStorage",
    "uint16": None,
}
"""Elements, and the class of a storage that has them; None where only bytes are stored."""
COUNT = 8
CONTENT = bytes.fromhex("013c4002 03413f04 05064230 0708092f") * 8


def rebuilt(function: str, dtype: str, storage_class: str) -> bytes:
    """A tensor of COUNT elements, over a storage of that class, by a function of torch._utils."""
    module, class_name = parts(storage_class)
    itemsize = torch_itemsize(dtype)
    numel = COUNT if class_name != "UntypedStorage" else COUNT * itemsize
    args = [storage(integer(numel), class_name, module=module), integer(0)]
    args += [collected(integer(COUNT)), collected(integer(1))]
    if function != "_rebuild_tensor":
        args += [b"\x89", called("collections.OrderedDict")]
    if function == "_rebuild_tensor_v3":
        args.append(name(*parts(dtype)))
    return called(f"torch._utils.{function}", *args)


def torch_itemsize(dtype: str) -> int:
    value = ALLOWED[dtype]
    return value.itemsize if isinstance(value, torch.dtype) else 1


def torch_file(tmp_path: Path, root: bytes, order: bytes = b"little", nbytes: int = 16) -> Path:
    path = tmp_path / "x.pt"
    records = ((b"data.pkl", PROTO + b"}" + text("w") + root + b"s."), (b"byteorder", order))
    members = [Member(b"a/" + raw_name, data) for raw_name, data in records]
    members += [Member(b"a/data/0", CONTENT[:nbytes]), Member(b"a/version", b"3\n")]
    path.write_bytes(archive(*members))
    return path


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize("order", [b"little", b"big"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_are_swapped_as_torch_swaps_them(dtype: str, order: bytes, tmp_path: Path) -> None:
    key, typed = f"torch.{dtype}", DTYPES[dtype]
    classes = ["torch.storage.UntypedStorage", *([f"torch.{typed}"] if typed else [])]
    functions = ["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"]
    for storage_class, function in itertools.product(classes, functions):
        root = rebuilt(function, key, storage_class)
        nbytes = COUNT * torch_itemsize(key)
        path = torch_file(tmp_path, root, order, nbytes)
        loaded = torch.load(path, weights_only=True)["w"]
        if loaded.dtype.is_floating_point or loaded.dtype.is_complex:
            (measured,) = gradtool.measure(path).tensors
            assert measured.spec.dtype.itemsize == loaded.dtype.itemsize
            assert close(measured.norm, exact(loaded))
        else:
            with pytest.raises(gradtool.EmptyDumpError):
                gradtool.measure(path)


def exact(values: torch.Tensor) -> float:
    reals = torch.view_as_real(values) if values.is_complex() else values
    return exact_norm(reals.to(torch.float64).flatten().tolist(), 2)
