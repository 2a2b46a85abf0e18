"""What `torch.jit.save` writes: an archive as of `torch.save`, with a program beside the tensors.

Two pickles: `data.pkl` is the module with its parameters and buffers, whose storages are the
records `data/`; `constants.pkl` is the tuple of constants that the code refers to, with storages in
`constants/`: tensors that were literals to a trace, and all weights of a frozen module. The code is
not read, and nothing of it is run. Source: `writeFiles` of
torch/csrc/jit/serialization/export_module.cpp, and import.cpp and unpickler.cpp beside it, of torch
2.13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.figures import counted
from gradtool.core.locations import Source
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.files import torch_zip
from gradtool.formats.files._torch_specs import SpecBuilder
from gradtool.storage.archives.zip import Entry

_CONSTANTS: Final = "constants"
_CODE: Final = "code/"
_FREE: Final = ("constants.pkl", "bytecode.pkl", "traced_inputs.pkl")
"""Records besides storages; inputs of a trace are examples."""
_FREE_FOLDERS: Final = (_CODE.encode(), b"extra/", b".data/")
_OLDER: Final = "model.json"


def recognises(entries: Sequence[Entry]) -> bool:
    """Whether torch.load takes an archive for TorchScript."""
    is_program = any(entry.raw_name.endswith(torch_zip.PROGRAM_MARK) for entry in entries)
    return is_program and torch_zip.recognises(entries)


def open_torchscript(source: Source, entries: Sequence[Entry]) -> Checkpoint:
    """The catalogue of a TorchScript file, given its archive's directory; it can only be measured.

    Attributes of the module are called as `state_dict` calls them. The program's constants are
    called `constants.0` and so on and are a section of their own.

    Raises as `open_torch_zip`, and UnsupportedFormatError for what is big-endian or of before 1.4.
    """
    archive = torch_zip.open_archive(source, entries, may_be_deflated=(_CODE.encode(),))
    if archive.find(_OLDER) is not None:  # which torch would read instead
        problem = f"is TorchScript of a version that has a {_OLDER}, which gradtool does not read"
        raise UnsupportedFormatError(source.path, problem)
    if torch_zip.is_big_endian(archive):
        problem = "is big-endian TorchScript, which torch reads as if it were not"
        raise UnsupportedFormatError(source.path, problem)
    module = torch_zip.read_tree(archive, "data.pkl")
    constants = torch_zip.read_tree(archive, "constants.pkl")
    if type(constants.unpickled.root) is not tuple:
        problem = "the program's constants are no tuple"
        raise CorruptFileError(source.path, problem, tensor=constants.record.name)
    held, walked = torch_zip.listed(module, "data", big_endian=False)
    used, _ = torch_zip.listed(constants, _CONSTANTS, big_endian=False)
    _place(used)
    _refuse_one_name(source.path, held, used)
    storages = (f"data/{key}" for key in module.unpickled.storages)
    of_constants = (f"{_CONSTANTS}/{key}" for key in constants.unpickled.storages)
    others = archive.others((*_FREE, *storages, *of_constants))
    free = {id(entry) for name, entry in archive.records.items() if name.startswith(_FREE_FOLDERS)}
    return Checkpoint(
        path=source.path,
        format="torchscript",
        files=(source.file,),
        tensors=(*held.tensors, *used.tensors),
        skipped=(*held.skipped, *used.skipped),
        checksums=torch_zip.checksums(archive, "data", _CONSTANTS),
        notes=(
            *held.notes(walked),
            *_note(used),
            *torch_zip.unnamed(entry for entry in others if id(entry) not in free),
        ),
        measure_only="TorchScript is a program, which gradtool only measures",
        in_model_order=True,
    )


def _place(used: SpecBuilder) -> None:
    """Give constants their names and their section."""
    tensors, skipped = used.tensors, used.skipped
    used.tensors = [
        replace(spec, name=f"{_CONSTANTS}.{spec.name}", section=_CONSTANTS) for spec in tensors
    ]
    used.skipped = [
        replace(item, name=f"{_CONSTANTS}.{item.name}", section=_CONSTANTS) for item in skipped
    ]


def _refuse_one_name(path: str, held: SpecBuilder, used: SpecBuilder) -> None:
    both = _names(held) & _names(used)
    if both:
        problem = "two tensors come by this name: a constant and an attribute"
        raise UnsupportedFormatError(path, problem, tensor=min(both))


def _names(builder: SpecBuilder) -> set[str]:
    return {spec.name for spec in builder.tensors} | {item.name for item in builder.skipped}


def _note(used: SpecBuilder) -> tuple[str, ...]:
    if not used.tensors:
        return ()
    constants = counted(len(used.tensors), "constant")
    return (f"{constants} of the program measured beside its parameters, as 'constants'",)
