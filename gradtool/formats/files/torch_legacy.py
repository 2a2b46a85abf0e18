"""What `torch.save` wrote before 1.6, and writes still if it is told not to write a zip archive.

Layout: five pickles, of a magic number, the version, facts about the machine, the object, and the
keys of its storages; then, for each key in that order, the number of elements in eight bytes and
the elements. All numbers are little-endian, whatever the machine: nobody reads what it says of
itself. There are no checksums. Source: `_legacy_load` and `_legacy_save` of torch/serialization.py,
and `THPStorage_readFileRaw` of torch/csrc/serialization.cpp, of torch 2.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.element_types import storage_type
from gradtool.core.locations import Extent, Source
from gradtool.core.order.listed import may_be_the_model_s
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.files._torch_specs import SpecBuilder
from gradtool.formats.pickles.cutting import read_pickle
from gradtool.formats.pickles.distributed import placed_parts
from gradtool.formats.pickles.hidden import refuse_hidden
from gradtool.formats.pickles.stand_ins import Storage
from gradtool.formats.pickles.unpickle import Unpickled, unpickle
from gradtool.formats.pickles.walk import walk

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_VERSION: Final = 1001
_START: Final = re.compile(
    rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0a" + re.escape(_MAGIC.to_bytes(10, "little")), re.DOTALL
)
"""The magic number as picklers write it, in protocols 2 to 5."""
_COUNT_NBYTES: Final = 8
_TAR_HEADER_NBYTES: Final = 512


def recognises(head: bytes) -> bool:
    """Whether a file that starts with `head` is one, as far as its first pickle tells."""
    return _START.match(head) is not None


def open_torch_legacy(source: Source) -> Checkpoint:
    """The catalogue of a torch file that is no archive; names are as in those that are.

    Raises:
        CorruptFileError: cut off, contradicting itself, or with more behind it.
        UnsupportedFormatError: an unknown type, two tensors of one name, a tensor that no name
            leads to, or an object that is far larger than the pickle that describes it.
    """
    _refuse_tar(source)
    at = _after_preamble(source)
    object_at = at
    pickled, at = _unpickled(source, at, "the object")
    keys, at = _unpickled(source, at, "the storage keys")
    storages = _storages(source, keys.root, pickled.storages, at)
    extent = Extent(source.file, object_at, pickled.nbytes)
    walked = walk(pickled.root, source.path, pickled.nbytes)
    builder = SpecBuilder(source.path, extent, storages.get, walked.sections, big_endian=False)
    for found in walked.leaves:
        builder.add(found)
    refuse_hidden(pickled.made, walked.reached, source.path, "the object", object_at)
    return Checkpoint(
        path=source.path,
        format="torch-legacy",
        files=(source.file,),
        tensors=tuple(builder.tensors),
        skipped=tuple(builder.skipped),
        section_kinds=walked.sections.kinds,
        placed=placed_parts(walked.distributed),
        part_notes=walked.part_notes(),
        notes=builder.notes(walked),
        in_model_order=may_be_the_model_s(builder.tensors),
    ).with_scales_apart()


def _refuse_tar(source: Source) -> None:
    """Refuse a file whose first bytes are a name in a tar archive too: torch looks for that first.

    So did files begin before 0.1.10; torch asks tarfile, and so must who wants to know its answer.
    """
    import tarfile  # noqa: PLC0415 - only these files need it

    head = source.read(0, min(source.file.size, _TAR_HEADER_NBYTES))
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return
    raise CorruptFileError(source.path, "a tar archive by its first bytes: two formats at once")


def _after_preamble(source: Source) -> int:
    """Where the object's pickle begins, after three others; CorruptFileError for other values."""
    magic, at = _unpickled(source, 0, "the magic number")
    if type(magic.root) is not int or magic.root != _MAGIC:
        raise CorruptFileError(source.path, "does not begin with torch's magic number")
    version_at = at
    version, at = _unpickled(source, at, "the version")
    if type(version.root) is not int or version.root != _VERSION:
        problem = f"its version is not {_VERSION}, the only one that torch reads"
        raise CorruptFileError(source.path, problem, byte=version_at)
    return _unpickled(source, at, "the machine")[1]


def _unpickled(source: Source, at: int, what: str) -> tuple[Unpickled, int]:
    """The pickle that begins at byte `at`, and where the next one does."""
    data = read_pickle(source, at)
    return unpickle(data, source.path, record=what, offset=at), at + len(data)


def _storages(
    source: Source, keys: object, named: Mapping[str, Storage], at: int
) -> dict[str, Extent]:
    """The bytes of each storage, of which the first one's count is at byte `at`.

    Storages that the object names and the keys leave out are refused: torch makes them of memory
    that nobody wrote. So is what follows the last one: torch ignores it, others may not.
    """
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise CorruptFileError(source.path, "the storage keys are no list of texts", byte=at)
    if len(set(keys)) != len(keys) or set(keys) != named.keys():
        problem = "the storage keys are not those of the object, each of them once"
        raise CorruptFileError(source.path, problem, byte=at)
    found: dict[str, Extent] = {}
    for key in keys:
        found[key] = _storage(source, named[key], at)
        at = found[key].end
    if at != source.file.size:
        problem = f"{source.file.size - at} bytes follow the last storage"
        raise CorruptFileError(source.path, problem, byte=at)
    return found


def _storage(source: Source, storage: Storage, at: int) -> Extent:
    """The bytes of a storage behind its count, which is at byte `at`."""
    element = storage_type(storage.class_name)
    if element is None:
        problem = f"gradtool does not know the storage {storage.class_name:.80}"
        raise UnsupportedFormatError(source.path, problem, byte=at)
    count = int.from_bytes(source.read(at, _COUNT_NBYTES), "little", signed=True)
    if count < 0 or count != storage.numel:
        problem = (
            f"the pickle says {storage.numel} elements of storage {storage.key!r:.80}, the file "
            f"says {count}"
        )
        raise CorruptFileError(source.path, problem, byte=at)
    extent = Extent(source.file, at + _COUNT_NBYTES, count * element.itemsize)
    if extent.end > source.file.size:
        problem = f"storage {storage.key!r:.80} ends {extent.end - source.file.size} bytes after"
        raise CorruptFileError(source.path, f"{problem} the file: truncated", byte=extent.offset)
    return extent
