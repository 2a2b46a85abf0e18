"""The safetensors file in which a file of a torch distributed checkpoint may hold its tensors.

It lies at the file's end, with every tensor under its name and the first index of its box.
Source: `SerializationFormat.SAFETENSORS` in torch/distributed/checkpoint/filesystem.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradtool.core.dtypes import DType
from gradtool.core.locations import Extent, Location, Source
from gradtool.core.shapes.boxes import Box
from gradtool.core.tensors import Placed, TensorSpec
from gradtool.errors import CorruptFileError
from gradtool.formats.files._dcp_sharding import SHARDING_INFO, read_boxes
from gradtool.formats.files._safetensors_header import TensorType, read_header
from gradtool.storage.archives.within import OpenRange, Range


@dataclass(frozen=True, slots=True)
class Blob:
    """Its tensors by name: their types, the file's bytes at which they begin, and their boxes."""

    file: Location
    types: dict[str, TensorType]
    begins: dict[str, int]
    placed: dict[str, Placed]

    def spec(self, name: str, section: str, dtype: DType, box: Box) -> TensorSpec:
        """The tensor in which a box of `name` is stored.

        Raises CorruptFileError where it is not there, or is of another type, shape or place.
        """
        found, place = self.types.get(name), self.placed.get(name)
        if found is None or place is None:
            problem = "its box is not among the tensors of the file"
            raise CorruptFileError(self.file.path, problem, tensor=name)
        for what, one, other in (
            ("type", found.dtype.name, dtype.name),
            ("shape", list(found.shape), list(box.sizes)),
            ("place in the whole tensor", list(place.held[0].box.offsets), list(box.offsets)),
        ):
            if one != other:
                problem = f"the {what} of its box is {one}, .metadata says {other}"
                raise CorruptFileError(self.file.path, problem, tensor=name, byte=self.begins[name])
        extent = Extent(self.file, self.begins[name], found.nbytes)
        extents = (extent,) if found.nbytes else ()
        return TensorSpec(name, dtype, box.sizes, extents, section=section)


def read_blob(source: Source, offset: int) -> Blob:
    """The safetensors file from byte `offset` of a file on; CorruptFileError if it is none."""
    path = source.path
    try:
        header = read_header(
            OpenRange(Range(source.file, offset, source.file.size - offset), source)
        )
    except CorruptFileError as error:
        byte = offset + (error.byte or 0)
        raise CorruptFileError(path, error.problem, tensor=error.tensor, byte=byte) from error
    text = header.noted.get(SHARDING_INFO, "{}")
    placed = read_boxes(text, path, {name: type_.shape for name, type_ in header.types.items()})
    begins, begin = {}, offset + header.data_start
    for name, type_ in header.types.items():
        begins[name] = begin
        begin += type_.nbytes
    return Blob(source.file, header.types, begins, placed)
