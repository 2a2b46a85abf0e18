"""The globals that may be called, and the handlers of their calls: pure functions over stand-ins.

An allow-list. Calling any other name makes an `Opaque`; nothing here imports or calls what comes
from the file. Signatures are those of torch/_utils.py, torch/_tensor.py, torch/jit/_pickle.py,
numpy/_core (numpy/core before 2.0) and jax/_src/array.py; an argument that is dropped has no
elements, or `Machine.made` holds them.
"""

from __future__ import annotations

from typing import Final

from gradtool.core.element_types import ElementType, numpy_type, storage_type, torch_type
from gradtool.formats.pickles.containers import CONTAINERS
from gradtool.formats.pickles.contents import set_state
from gradtool.formats.pickles.stand_ins import (
    ArrayRef,
    ArrayScalar,
    ArrayType,
    CoordinatesRef,
    Handler,
    MalformedPickleError,
    MetaRef,
    Name,
    Opaque,
    SparseRef,
    Storage,
    TensorRef,
    Unmeasured,
    UnsupportedPickleError,
    describe,
)

_SIGN_BITS: Final = frozenset({"conj", "neg"})
_WITH_ATTRIBUTES: Final = (TensorRef, CoordinatesRef, SparseRef, Unmeasured)


def _tensor(
    stored: object,
    offset: object,
    shape: object,
    strides: object,
    _requires_grad: object = None,
    hooks: object = None,
    metadata: object = None,
    *,
    dtype: str | None = None,
) -> TensorRef:
    if type(stored) is not Storage:
        raise MalformedPickleError(f"a tensor over {describe(stored)} instead of a storage")
    if type(shape) is not tuple or type(strides) is not tuple:
        raise MalformedPickleError("a tensor's shape or strides are no tuple")
    _refuse_hooks(hooks)
    negated, conjugated = _sign_bits(metadata)
    return TensorRef(stored, offset, shape, strides, dtype, negated, conjugated)


def _refuse_hooks(hooks: object) -> None:
    if hooks:
        raise UnsupportedPickleError("a tensor with hooks, which torch.save leaves out")


def _refuse_attributes(*parts: object) -> None:
    """Refuse to make a tensor of parts with attributes, which the tensor would lose."""
    for part in parts:
        if isinstance(part, _WITH_ATTRIBUTES) and part.state is not None:
            raise UnsupportedPickleError("a tensor out of one whose attributes it would lose")


def _sign_bits(metadata: object) -> tuple[bool, bool]:
    """Whether a tensor's metadata say that its elements are stored times -1, or conjugated."""
    if not metadata:
        return False, False
    if not isinstance(metadata, dict) or not metadata.keys() <= _SIGN_BITS:
        raise MalformedPickleError("a tensor's metadata are other than conj and neg")
    return "neg" in metadata, "conj" in metadata  # torch looks at no value


def _tensor_v3(*args: object) -> TensorRef:
    return _tensor(*args[:6], *args[7:], dtype=_name(args[6], "dtype"))


def _quantized_tensor(
    stored: object, offset: object, shape: object, strides: object, quantizer: object, *_: object
) -> Unmeasured:
    if type(quantizer) is not tuple:
        raise MalformedPickleError(f"a tensor quantized by {describe(quantizer)}")
    _refuse_attributes(*quantizer)
    return Unmeasured(_tensor(stored, offset, shape, strides), quantizer, "quantized")


def _meta_tensor(dtype: object, shape: object, strides: object, *_: object) -> MetaRef:
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        shown = f"{describe(shape)} and {describe(strides)}"
        raise MalformedPickleError(f"a meta tensor of a shape and strides that are {shown}")
    return MetaRef(_name(dtype, "dtype"))


def _sparse_tensor(layout: object, data: object) -> CoordinatesRef | SparseRef:
    if not isinstance(layout, Opaque) or type(data) is not tuple or len(data) not in (3, 4):
        raise MalformedPickleError("a sparse tensor without layout or values")
    _refuse_attributes(*data)
    # Which torch copies; before 1.6 it has not read them yet then, and copies whatever was there.
    if any(isinstance(part, TensorRef) and (part.negated or part.conjugated) for part in data):
        raise UnsupportedPickleError("a sparse tensor of parts stored negated or conjugated")
    if layout.args != ("torch.sparse_coo",):
        compressed, plain = _indices(data[0]), _indices(data[1])
        return SparseRef(data[2], {"compressed_indices": compressed, "plain_indices": plain})
    indices, values = _indices(data[0]), data[1]
    if not isinstance(values, TensorRef):
        return SparseRef(values, {"indices": indices})
    if not isinstance(indices, TensorRef):
        raise UnsupportedPickleError(f"a sparse tensor whose indices are {describe(indices)}")
    # Whether it says that it is coalesced does not count: its indices tell.
    return CoordinatesRef(values, indices, data[2])


def _indices(data: object) -> object:
    element = _element_type(data)
    if element is None or element.reason != "integer":
        raise MalformedPickleError(f"a sparse tensor whose indices are {describe(data)}")
    return data


def _nested_tensor(buffer: object, *parts: object) -> Unmeasured:
    if not isinstance(buffer, TensorRef):
        raise MalformedPickleError(f"a nested tensor over {describe(buffer)}")
    _refuse_attributes(buffer, *parts)
    return Unmeasured(buffer, parts, "nested tensor: save its unbind()")


def _moved_tensor(data: object, dtype: object, device: object, *_: object) -> object:
    """A tensor of a device of another kind, which torch saved as a copy on the CPU or in NumPy."""
    if isinstance(device, Opaque) and device.name == "torch.device" and device.args:
        device = device.args[0]
    if type(device) is not str:
        raise MalformedPickleError(f"a tensor for {describe(device)} instead of a device")
    if device.startswith("meta"):
        raise UnsupportedPickleError("a tensor that is loaded without its data")
    wanted, stored = torch_type(_name(dtype, "dtype")), _element_type(data)
    if wanted is None or wanted != stored:
        saved = stored.name if stored else describe(data)
        raise UnsupportedPickleError(f"a tensor saved as {saved}, and loaded as another type")
    return data


def _element_type(data: object) -> ElementType | None:
    match data:
        case TensorRef(dtype=str(dtype)):
            return torch_type(dtype)
        case TensorRef(storage=storage):
            return storage_type(storage.class_name)
        case ArrayRef(state=(_, _, ArrayType(description=description), *_)):
            return numpy_type(description)
    return None


def _wrapper(subclass: object, *_: object) -> Opaque:
    return Opaque(_name(subclass, "class"))


def _from_type(function: object, _type: object, args: object, state: object) -> object:
    """A tensor of a subclass: the result of `function(*args)`, with attributes."""
    if type(function) is not Name or type(args) is not tuple:
        problem = f"rebuilds a tensor by {describe(function)} of {describe(args)}"
        raise MalformedPickleError(problem)
    handler = function.handler
    if handler is None:
        return _with_state(Opaque(function.name, args), state)
    if handler.function is _from_type:
        raise MalformedPickleError(f"calls {function.name} through itself")
    if handler.copies:
        raise MalformedPickleError(f"rebuilds a tensor by {function.name}")
    if not handler.fewest <= len(args) <= handler.most:
        raise MalformedPickleError(f"calls {function.name} with {len(args)} arguments")
    return _with_state(handler.function(*args), state)


def _parameter(
    data: object = None, _requires_grad: object = None, hooks: object = None, state: object = None
) -> object:
    _refuse_hooks(hooks)
    _refuse_attributes(data)
    return _with_state(data, state)


def _with_state(value: object, state: object) -> object:
    if state:
        set_state(value, state)
    return value


def _size(shape: object = ()) -> object:
    if type(shape) is not tuple:
        raise MalformedPickleError(f"a torch.Size of {describe(shape)}")
    return shape


def _array_type(description: object, _align: object = None, copy: object = None) -> ArrayType:
    # Types that NumPy does not know itself are named by their class: ml_dtypes.bfloat16.
    if isinstance(description, Name):
        return ArrayType(description.name, copied=copy is True)
    if type(description) is not str:
        raise MalformedPickleError(f"a NumPy type made of {describe(description)}")
    return ArrayType(description, copied=copy is True)


def _new_array(*_: object) -> ArrayRef:
    return ArrayRef()


def _array_of_buffer(data: object, dtype: object, shape: object, order: object) -> ArrayRef:
    return ArrayRef((1, shape, dtype, order == "F", data))


def _jax_array(function: object, _args: object, state: object, _aval: object) -> ArrayRef:
    """An array of JAX, which is pickled as one of NumPy's."""
    handler = function.handler if type(function) is Name else None
    if handler is None or handler.function is not _new_array:
        raise MalformedPickleError(f"an array of JAX made by {describe(function)}")
    return ArrayRef(state)


def _array_scalar(dtype: object, _data: object = None) -> ArrayScalar:
    if not isinstance(dtype, ArrayType):
        raise MalformedPickleError(f"a NumPy number of type {describe(dtype)}")
    return ArrayScalar(dtype)


def _as_it_is(value: object, _type: object = None) -> object:
    return value


def _name(value: object, what: str) -> str:
    if type(value) is not Name:
        raise MalformedPickleError(f"{describe(value)} where a {what} belongs")
    return value.name


_TORCH: Final = {
    "torch._utils._rebuild_tensor": Handler(_tensor, 4, 4),
    "torch._utils._rebuild_tensor_v2": Handler(_tensor, 6, 7),
    "torch._utils._rebuild_tensor_v3": Handler(_tensor_v3, 7, 8),
    "torch._utils._rebuild_qtensor": Handler(_quantized_tensor, 7, 7),
    "torch._utils._rebuild_meta_tensor_no_storage": Handler(_meta_tensor, 4, 4),
    "torch._utils._rebuild_sparse_tensor": Handler(_sparse_tensor, 2, 2),
    "torch._utils._rebuild_nested_tensor": Handler(_nested_tensor, 4, 4),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": Handler(_moved_tensor, 4, 4),
    "torch._utils._rebuild_device_tensor_from_numpy": Handler(_moved_tensor, 4, 4),
    "torch._utils._rebuild_wrapper_subclass": Handler(_wrapper, 8, 8),
    "torch._utils._rebuild_parameter": Handler(_parameter, 3, 3),
    "torch._utils._rebuild_parameter_with_state": Handler(_parameter, 4, 4),
    "torch._tensor._rebuild_from_type": Handler(_from_type, 4, 4),
    "torch._tensor._rebuild_from_type_v2": Handler(_from_type, 4, 4),
    "torch.nn.parameter.Parameter": Handler(_parameter, 0, 2, is_class=True),
    "torch.nn.parameter.Buffer": Handler(_parameter, 0, 2, is_class=True),
    "torch.Size": Handler(_size, 0, 1, is_class=True),
}
_TORCHSCRIPT: Final = {
    "torch.jit._pickle.restore_type_tag": Handler(_as_it_is, 2, 2),
    **{
        f"torch.jit._pickle.build_{kind}list": Handler(_as_it_is, 1, 1)
        for kind in ("tensor", "int", "double", "bool")
    },
}
_NUMPY: Final = {
    "numpy.dtype": Handler(_array_type, 1, 3),
    "numpy.ndarray": Handler(_new_array, 0, 3, is_class=True),
    **{
        f"numpy.{core}.{name}": handler
        for core in ("core", "_core")
        for name, handler in (
            ("multiarray._reconstruct", Handler(_new_array, 3, 3)),
            ("multiarray.scalar", Handler(_array_scalar, 1, 2)),
            ("numeric._frombuffer", Handler(_array_of_buffer, 4, 4)),
        )
    },
}
_JAX: Final = {"jax._src.array._reconstruct_array": Handler(_jax_array, 4, 4)}
HANDLERS: Final[dict[str, Handler]] = {**_TORCH, **_TORCHSCRIPT, **_NUMPY, **_JAX, **CONTAINERS}
