"""Why gradtool may refuse what a loader reads, or read what a loader refuses.

Whatever one of them refuses for a reason that is not here is a failure of the run. A pattern is
sought in the name of the loader, a colon, and the words of whoever refuses.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fuzz.judging.judge import Verdict


class Reason(NamedTuple):
    """A class of refusals: by whose words it is known, and why it is right."""

    name: str
    pattern: str
    why: str


STRICTER: Final = (
    Reason(
        "archive with two readings",
        r"^(numpy|torch.*): CorruptFileError: (ambiguous archive|overlaps what follows|no entry |"
        r"said to be a dir|"
        r"an empty or absolute name|lies on another disk|one part of a multi-disk|stored, and take|"
        r"no valid zip64|the zip64 end|the central directory is|no end-of-central|its extra fields|"
        r"promises \d+ entries|needs \d+ bytes, the file ends)",
        "Readers of zip believe different records of those; what one reads another does not.",
    ),
    Reason(
        "archive's member not as its writers leave it",
        r"compressed by method|compressed: torch.save never|flag 0x|deflate stream|CRC",
        "NumPy and torch store and deflate, and do not encrypt; loaders check CRCs here and there.",
    ),
    Reason(
        "no format, or two at once",
        r"two formats at once|EmptyDumpError|two root directories|is in no format|"
        r"is a zip archive (of|that holds)|is a program of torch|is MessagePack without|"
        r"begins as MessagePack|is compressed with|is JSON",
        "Which tensors a trainer gets depends on the loader; without any .npy it is no npz.",
    ),
    Reason(
        "tensors that no file of torch.save has",
        r"REDUCE: a tensor|NEWOBJ: a tensor|BUILD: (sets|replaces)|REDUCE: (sets|replaces)|"
        r"where no name leads|is loaded without its data|in a big-endian storage of|"
        r"BINPERSID: |two tensors disagree|TorchScript|the archive holds|"
        r"is negative, beyond|sizes and|reaches byte",
        "Tensors out of numbers in the pickle, in hooks or keys, replaced after they were made, "
        "over a storage of two types or of another size: what torch makes of it is not followed.",
    ),
    Reason(
        "pickle not as torch.save writes it",
        r"pickle opcode (STOP|PROTO|SETITEMS?|APPENDS?|REDUCE|BUILD|NEWOBJ|"
        r"\w+: (not allowed|does not begin))",
        "Values left over, keys that repeat, calls of other things: more than one reading.",
    ),
    Reason(
        "torch file of before 1.6 not as torch.save writes it",
        r"bytes follow the last storage|, the file says|the storage keys are|its version is not|"
        r"is a bare pickle",
        "torch ignores what follows, leaves storages out, reads them twice, and counts modulo "
        "2^64; numbers before the object's may be spelled in many ways.",
    ),
    Reason(
        "sparse tensors whose parts do not fit",
        r"torch.*: \w+: (entry \d+ of a sparse tensor has index|"
        r"a sparse tensor (whose|of (\d+ indices|shape)|without))",
        "torch looks at them only if it is told to: what it adds up lies outside of the tensor.",
    ),
    Reason(
        "pickles of arrays not as pickle.dump writes them",
        r"pickle: \w+: (\d+ bytes follow the pickle|shares bytes with|a NumPy array|NumPy type|"
        r"shape: a number)",
        "Loaders do not read what follows; arrays of one range of bytes in two types, "
        "and types with a state of a file's own, have no one answer.",
    ),
    Reason(
        "names that meet",
        r"two tensors come by this name",
        "A report could not tell them apart.",
    ),
    Reason(
        "types that are not measured",
        r"gradtool does not know the (type|storage)|is none that gradtool measures|"
        r"does not say wh|how 8-bit floats are saved|holds Python objects",
        "A type is never guessed: the file is refused by the tensor's name.",
    ),
    Reason(
        "header not as NumPy writes it",
        r"numpy: \w+: (its header|ambiguous header|its shape|its fortran_order|npy version|"
        r"claims a|is no NumPy array|shape .* promises)",
        "NumPy evaluates a header and mends Python 2's, and ignores what follows the data; members "
        "that are no arrays it gives as bytes.",
    ),
    Reason(
        "header not as safetensors specifies it",
        r"safetensors: \w+: (its header|its data_off|is noted to be|unknown dtype|"
        r"__metadata__|gradtool\.\w+ in __metadata__)",
        "The reference reader takes duplicate keys, unknown fields, spaces before the header.",
    ),
    Reason(
        "GGUF not as ggml reads it",
        r"gguf: \w+: (\d+ bytes follow|its data begin|has \d+ dim|a key that|a name with|"
        r"is an array of arrays|a size is negative|is of type|is GGUF of version|claims \d+|"
        r"is \d+, no power|ends \d+ bytes|.* of \d+ bytes, GGUF allows|needs \d+ bytes)",
        "gguf-py takes data anywhere, NULs in names, nested arrays and dimensions without end, and "
        "gives what is cut off as empty.",
    ),
    Reason(
        "msgpack not as Flax writes it",
        r"flax: \w+: (a key that|key .* appears twice|(its )?shape |its chunks|chunk \d|"
        r"is no chunked|is a scalar, and|type is no|data are no)",
        "Of keys that repeat one counts, a size may be a float, -1 or a bool, and what lies beside "
        "chunks is dropped.",
    ),
)
"""What gradtool says of files that a loader reads."""

LAXER: Final = (
    Reason(
        "devices that are not here",
        r"torch.*: .*(CUDA|device not recognized|data location of|Invalid device|"
        r"accelerator device|device type at start|device module is not registered)",
        "A file for another machine; its numbers are the same there.",
    ),
    Reason(
        "arguments that torch looks at",
        r"torch.*: (TypeError|AttributeError|ValueError|IndexError|KeyError|AssertionError|"
        r"UnicodeDecodeError|NotImplementedError|OverflowError): |requires?[_ ]grad",
        "What does not change the elements of a tensor is not looked at.",
    ),
    Reason(
        "parts that do not fit",
        r"torch.*: (Runtime|UnreadableTensor)Error: .*(INTERNAL ASSERT|scalar type Long|nnz|"
        r"sparse|setStorage|nested|[Qq]uantize|scale|zero_points|resize storage|storage offset|"
        r"Storage size|wrong byte size|size length|record size|dtype|cannot be converted|"
        r"isIntegral|alloc_cpu)",
        "Of sparse, quantized and nested tensors the parts are listed, whatever torch makes of "
        "them together.",
    ),
    Reason(
        "globals and opcodes that torch does not allow",
        r"torch.*: UnpicklingError: ",
        "Objects of any library are stand-ins here; nothing is run.",
    ),
    Reason(
        "pickles that Python's unpickler ends at",
        r"^pickle: (UnpicklingError|ValueError|TypeError|AttributeError|IndexError|KeyError|"
        r"EOFError|UnicodeDecodeError|RecursionError|LookupError|MemoryError|OverflowError)",
        "Objects of any library are stand-ins here; what does not change the elements of an array "
        "is not looked at.",
    ),
    Reason(
        "records that gradtool does not ask for",
        r"torch.*: RuntimeError: .*(hasRecord|the version|with version|failed locating|miniz)",
        "No version, one from the future, no record for a storage without elements.",
    ),
    Reason(
        "types that safetensors does not give to torch",
        r"safetensors: .*(Dtype not understood|requires that the last dim)",
        "F6, and F4 of odd length: listed as not measured.",
    ),
    Reason(
        "JSON that one parser takes",
        r"safetensors: .*invalid JSON in header: (invalid type: floating|unexpected end of hex)",
        "A size spelled -0, and lone surrogates in texts.",
    ),
    Reason(
        "members that are not measured",
        r"numpy: (BadZipFile: Bad CRC|error: Error -3)",
        "Of integers and texts only the header is read.",
    ),
    Reason(
        "types that gguf-py gives as bytes",
        r"gguf: IndexError: tuple index",
        "It asks for the last dimension, which a scalar of BF16 does not have.",
    ),
    Reason(
        "values of MessagePack that are no arrays",
        r"flax: (TypeError: complex|ValueError: (code must|invalid timestamp|Unpack failed)|"
        r"ExtraData|UnicodeDecodeError|KeyError: '\d+'|IndexError|"
        r"TypeError: .*(unpack|must be real))",
        "Texts, numbers and other programs' extensions are gone over; a position may be an "
        "integer where Flax has a text.",
    ),
)
"""What loaders say of files that gradtool reads."""


def classified(verdict: Verdict) -> Reason | None:
    """The reason on the list for a refusal; None where there is none."""
    listed = STRICTER if verdict.outcome == "stricter" else LAXER
    (words,) = verdict.why
    said = f"{verdict.loader}: {words}"
    return next((one for one in listed if re.search(one.pattern, said)), None)
