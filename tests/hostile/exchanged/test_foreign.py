"""What gradtool does not read is named, by what it holds, with what to do about it.

Built from the formats' own descriptions where their writers are too large to be installed here;
the sources are beside what recognises each, in gradtool/formats/foreign.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
import safetensors.numpy
import torch

import gradtool
from gradtool.formats.files import LeftAloneError, open_file


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    rest = b""
    while value > 0x7F:
        rest += bytes([value & 0x7F | 0x80])
        value >>= 7
    return rest + bytes([value])


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("w.pt")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    return buffer.getvalue()


ONNX = field(1, 10) + field(2, b"pytorch") + field(7, b"\x0a\x00") + field(8, b"\x10\x12")
COREML = field(1, 5) + field(2, field(1, b"x")) + field(500, field(1, b"layer"))
SAVED_MODEL = field(1, 1) + field(2, field(1, b"\x0a\x00"))
TENSORS = safetensors.numpy.save({"w": np.ones(2, np.float32)})
PADDLE = bytes(16) + struct.pack("<i", 4) + b"\x08\x05\x10\x02" + bytes(8)
JOBLIB = b"\x80\x04\x95\xa0\0\0\0\0\0\0\0\x8c\x13joblib.numpy_pickle\x94\x8c\x11NumpyArrayWrapper"

NAMED = {
    "ONNX": (ONNX, "is an ONNX model, .* save the weights"),
    "Core ML": (COREML, "is a Core ML model, .* save the weights"),
    "SavedModel": (SAVED_MODEL, "is a TensorFlow SavedModel: save its variables"),
    "TFLite": (b"\x1c\0\0\0TFL3" + bytes(40), "is a TensorFlow Lite model"),
    "TensorFlow's index": (b"abc" + bytes(40) + bytes.fromhex("57fb808b247547db"), "is the index"),
    "TensorFlow's state": (b'model_checkpoint_path: "model-7"\n', "TensorFlow's list of check"),
    "OpenVINO": (b'<?xml version="1.0"?>\n<net name="a" version="11">\n<layers>', "OpenVINO model"),
    "other XML": (b'<?xml version="1.0"?><a/>', "is XML"),
    "S3's answer": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "answer in XML, an error"),
    "PaddlePaddle": (PADDLE, "parameter of PaddlePaddle's .* numpy.savez"),
    **{
        f"GGML, {mark.decode()}": (mark + bytes(60), "before GGUF: convert it by llama.cpp")
        for mark in (b"lmgg", b"fmgg", b"tjgg", b"algg")
    },
    "tar": (tarred(), "is a tar archive: unpack it"),
    "gzip": (gzip.compress(TENSORS), "is compressed with gzip: unpack it first"),
    "an error in JSON": (b'{"error": "Repository not found"}', "answer in JSON.*Repository not f"),
    "other JSON": (b' [1, {"a": "b"}]', "is JSON, no checkpoint"),
    "much JSON": (b'{"a": [' + b"1," * 60_000 + b"1]}", "is text that begins as JSON does"),
    "zeros": (bytes(5000), "is 5000 zero bytes"),
    "many zeros": (bytes(3_000_000), "is 3000000 zero bytes"),
    "safetensors in a zip": (
        zipped(a__model_dot_safetensors=TENSORS),
        "is a zip archive that holds 'a/model.safetensors': unpack it",
    ),
    "a zip of others": (zipped(a=b"1", b=b"2"), "is a zip archive of 2 entries"),
    "torch.export of before 2.8": (
        zipped(serialized_exported_program_dot_json=b"{}", version=b"1"),
        "is a program of torch.export: save its weights",
    ),
    "joblib": (JOBLIB, "is a file of joblib, .* numpy.savez"),
    "joblib, compressed": (b"\x78\x9c" + bytes(40), "is compressed with zlib, as joblib does"),
    "other MessagePack": (msgpack.packb({"a": [1, 2.5], "b": b"data"}), "is MessagePack without"),
    "MessagePack of another's arrays": (
        msgpack.packb({"a": msgpack.ExtType(1, b"abc"), "b": msgpack.ExtType(5, b"")}),
        "is MessagePack without an array as Flax writes",
    ),
    "MessagePack that is cut off": (
        msgpack.packb({"params": {"kernel": "x" * 300}})[:100],
        "begins as MessagePack does, and ends before",
    ),
}


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
def test_what_is_not_read_is_named_by_what_it_holds(case: str, suffix: str, tmp_path: Path) -> None:
    content, words = NAMED[case]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(gradtool.UnsupportedFormatError, match=words) as caught:
        gradtool.measure(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        ONNX[:-1],
        ONNX + b"\x07",
        b"\x08\x01\x12",
        b"{not JSON",
        bytes(600) + b"x",
        bytes(1_000_000) + b"x" + bytes(100),
        b"\x82\xa1a\xc1",
        b"\x81\x01\xd9\x40ab",
        b"\x93\x01\x02",
    ],
)
def test_what_only_resembles_something_is_of_no_format(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(gradtool.UnknownFormatError):
        gradtool.measure(path)


def test_a_file_that_need_not_be_known_is_not_looked_through(tmp_path: Path) -> None:
    """Directories hold JSON, tables and the like beside checkpoints: none is worth a word."""
    for number, (content, _) in enumerate(NAMED.values()):
        path = tmp_path / str(number)
        path.write_bytes(content)
        try:
            assert open_file(str(path), raw_dtype=None, must_be_known=False) is None
        except LeftAloneError:
            assert content[:1] not in b"{["


@pytest.mark.parametrize(
    ("name", "beside", "words"),
    [
        ("ck-1.data-00000-of-00001", ("ck-1.index", NAMED["TensorFlow's index"][0]), "TensorFlow"),
        ("model.bin", ("model.xml", NAMED["OpenVINO"][0]), "OpenVINO"),
    ],
)
def test_data_without_a_form_are_named_by_what_lies_beside_them(
    name: str, beside: tuple[str, bytes], words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x07" * 64)
    with pytest.raises(gradtool.UnknownFormatError):
        gradtool.measure(path)
    (tmp_path / beside[0]).write_bytes(beside[1])
    with pytest.raises(gradtool.UnsupportedFormatError, match=words):
        gradtool.measure(path)


def test_a_program_of_torch_export_is_named(tmp_path: Path) -> None:
    path = tmp_path / "program.pt2"
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(1, 3),))
    torch.export.save(program, path)
    with pytest.raises(gradtool.UnsupportedFormatError, match=r"torch\.export: save its"):
        gradtool.measure(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_without_parameters_is_named(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    torch.jit.trace(torch.nn.ReLU(), torch.ones(2)).save(path)
    with pytest.raises(gradtool.EmptyDumpError, match="TorchScript program without parameters"):
        gradtool.measure(path)
