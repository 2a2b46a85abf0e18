"""NumPy arrays in plain pickles, as `pickle.dump` writes them, and in `.npy` files of objects.

Loading such a file runs what it says; here the inert interpreter reads it, which runs nothing.
Large arrays are not read for the catalogue: they are ranges of the file, as everywhere.
"""

from __future__ import annotations

import re
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.locations import Extent, Source
from gradtool.core.order.listed import may_be_the_model_s
from gradtool.errors import InputError, UnsupportedFormatError
from gradtool.formats.files._torch_specs import SpecBuilder
from gradtool.formats.pickles.cutting import Cut, cut_pickle
from gradtool.formats.pickles.hidden import refuse_hidden
from gradtool.formats.pickles.stand_ins import ArrayRef
from gradtool.formats.pickles.unpickle import unpickle
from gradtool.formats.pickles.walk import walk

_START: Final = re.compile(rb"\x80[\x02-\x05]")
_JOBLIB: Final = b"joblib.numpy_pickle"
_JOBLIB_SEARCHED: Final = 1 << 16


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is a pickle, as far as its first opcode tells."""
    return _START.match(head) is not None


def open_pickle(source: Source, offset: int = 0, file_format: str = "pickle") -> Checkpoint:
    """The catalogue of the arrays in the pickle that the file is from byte `offset` on.

    Names are as those in torch files; an array at the root is called what the file is.

    Raises:
        CorruptFileError: cut off, contradicting itself, or an array's bytes are not there.
        UnsupportedFormatError: joblib's, with torch's tensors in it, with more behind it, two
            arrays of one name, an array that no name leads to, or an object that is far larger
            than the pickle that describes it.
    """
    cut = _cut(source, offset)
    pickled = unpickle(cut.data, source.path, offset=offset, holes=cut.holes)
    root = _only_object(pickled.root)
    walked = walk(root, source.path, pickled.nbytes)
    extent = Extent(source.file, offset, cut.nbytes)
    builder = SpecBuilder(source.path, extent, lambda _: None, walked.sections, big_endian=False)
    for found in walked.leaves:
        builder.add(found)
    refuse_hidden(
        pickled.made, {*walked.reached, id(pickled.root)}, source.path, "the object", offset
    )
    rest = source.file.size - offset - cut.nbytes
    if rest:
        raise UnsupportedFormatError(
            source.path,
            f"{rest} bytes follow the pickle, which loaders do not read",
            byte=source.file.size - rest,
            hint="save one dict of arrays",
        )
    return Checkpoint(
        path=source.path,
        format=file_format,
        files=(source.file,),
        tensors=tuple(builder.tensors),
        skipped=tuple(builder.skipped),
        section_kinds=walked.sections.kinds,
        in_model_order=may_be_the_model_s(builder.tensors),
    ).with_scales_apart()


def _cut(source: Source, offset: int) -> Cut:
    """The pickle at `offset`; UnsupportedFormatError for what joblib puts between its opcodes."""
    joblib = UnsupportedFormatError(
        source.path,
        "is a file of joblib, which is no plain pickle",
        hint="load it with joblib, and save its arrays with numpy.savez",
    )
    try:
        cut = cut_pickle(source, offset)
    except InputError as error:
        head = source.read(offset, min(source.file.size - offset, _JOBLIB_SEARCHED))
        if _JOBLIB in head:
            raise joblib from error
        raise
    if _JOBLIB in cut.data:
        raise joblib
    return cut


def _only_object(root: object) -> object:
    """What a dict is, or a list, that `numpy.save` made an array of one object of."""
    match root:
        case ArrayRef(state=(_, (), _, _, [single])):
            return single
    return root
