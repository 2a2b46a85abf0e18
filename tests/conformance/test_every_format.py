"""Every format of single files, held to one suite with the library that writes it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import gguf
import msgpack
import numpy as np
import pytest
import safetensors.numpy
import torch
from format_suite import OTHERS, Arrays, FormatSuite
from fuzz.judging.exchanged import flax_arrays

from gradtool.formats.files import FILES


class TestSafetensors(FormatSuite):
    format, suffix, keeps_order = "safetensors", ".safetensors", False

    def write(self, path: Path, arrays: Arrays) -> None:
        safetensors.numpy.save_file(arrays, path)

    def load(self, path: Path) -> Arrays:
        return safetensors.numpy.load_file(path)


class TestTorch(FormatSuite):
    format, suffix = "torch", ".pt"
    in_a_zip: ClassVar[bool] = True

    def write(self, path: Path, arrays: Arrays) -> None:
        self.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)

    def write_nested(self, path: Path, arrays: Arrays) -> None:
        tree: dict[str, dict[str, torch.Tensor]] = {}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            tree.setdefault(part, {})[rest] = torch.from_numpy(array)
        self.save(tree, path)

    def save(self, value: object, path: Path) -> None:
        torch.save(value, path, _use_new_zipfile_serialization=self.in_a_zip)

    def load(self, path: Path) -> Arrays:
        return {name: tensor.numpy() for name, tensor in torch.load(path).items()}


class TestTorchLegacy(TestTorch):
    format, in_a_zip = "torch-legacy", False


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
class TestTorchScript(FormatSuite):
    format, suffix, has_sections, is_clipped = "torchscript", ".pt", False, False

    def write(self, path: Path, arrays: Arrays) -> None:
        root = torch.nn.Module()
        for name, array in arrays.items():
            module = root
            *parents, last = name.split(".")
            for part in parents:
                if part not in dict(module.named_children()):
                    module.add_module(part, torch.nn.Module())
                module = module.get_submodule(part)
            module.register_buffer(last, torch.from_numpy(array))
        torch.jit.script(root).save(path)

    def written(self, tmp_path: Path, arrays: Arrays) -> tuple[Path, Arrays]:
        """In the order of the module, which has its own tensors before those of its children."""
        path, arrays = super().written(tmp_path, arrays)
        return path, {name: arrays[name] for name in self.load(path)}

    def load(self, path: Path) -> Arrays:
        return {name: tensor.numpy() for name, tensor in torch.jit.load(path).state_dict().items()}


class TestNpz(FormatSuite):
    format, suffix = "npz", ".npz"

    def write(self, path: Path, arrays: Arrays) -> None:
        np.savez(path, **arrays)

    def load(self, path: Path) -> Arrays:
        with np.load(path) as arrays:
            return dict(arrays)


class TestDeflatedNpz(TestNpz):
    def write(self, path: Path, arrays: Arrays) -> None:
        np.savez_compressed(path, **arrays)


class TestNpy(FormatSuite):
    format, suffix, holds_several = "npy", ".npy", False

    def write(self, path: Path, arrays: Arrays) -> None:
        (array,) = arrays.values()
        np.save(path, array)

    def load(self, path: Path) -> Arrays:
        return {"dump": np.load(path)}


class TestPickle(FormatSuite):
    format, suffix = "pickle", ".pkl"
    protocol: ClassVar[int] = pickle.DEFAULT_PROTOCOL

    def write(self, path: Path, arrays: Arrays) -> None:
        path.write_bytes(pickle.dumps(arrays, self.protocol))

    def write_nested(self, path: Path, arrays: Arrays) -> None:
        self.write(path, nested(arrays))

    def load(self, path: Path) -> Arrays:
        return pickle.loads(path.read_bytes())  # noqa: S301 - of our own


class TestOldestPickleThatIsClipped(TestPickle):
    protocol = 3


class TestNewestPickle(TestPickle):
    protocol = pickle.HIGHEST_PROTOCOL


class TestNpyOfOneObject(FormatSuite):
    format, suffix = "npy", ".npy"

    def write(self, path: Path, arrays: Arrays) -> None:
        np.save(path, arrays, allow_pickle=True)

    def write_nested(self, path: Path, arrays: Arrays) -> None:
        self.write(path, nested(arrays))

    def load(self, path: Path) -> Arrays:
        return np.load(path, allow_pickle=True).item()


def nested(arrays: Arrays) -> dict[str, Any]:
    tree: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        part, _, rest = name.partition(".")
        tree.setdefault(part, {})[rest] = array
    return {part: rest.get("", rest) for part, rest in tree.items()}


class TestGguf(FormatSuite):
    format, suffix = "gguf", ".gguf"
    others: ClassVar[Arrays] = {name: array.astype(np.int64) for name, array in OTHERS.items()}

    def write(self, path: Path, arrays: Arrays) -> None:
        writer = gguf.GGUFWriter(path, "net")
        for name, array in arrays.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def load(self, path: Path) -> Arrays:
        return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


class TestFlaxMsgpack(FormatSuite):
    """Flax's own extensions, packed by the library that it packs with."""

    format, suffix = "flax-msgpack", ".msgpack"

    def write(self, path: Path, arrays: Arrays) -> None:
        self.save(arrays, path)

    def write_nested(self, path: Path, arrays: Arrays) -> None:
        tree: dict[str, Arrays] = {}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            tree.setdefault(part, {})[rest] = array
        self.save(tree, path)

    def save(self, tree: object, path: Path) -> None:
        path.write_bytes(msgpack.packb(tree, default=as_extension, strict_types=True))

    def load(self, path: Path) -> Arrays:
        return dict(flax_arrays(str(path)))


def as_extension(array: np.ndarray) -> msgpack.ExtType:
    parts = array.shape, array.dtype.name, array.tobytes("C")
    return msgpack.ExtType(1, msgpack.packb(parts, use_bin_type=True))


def test_every_format_is_held_to_the_suite() -> None:
    suites = (
        TestSafetensors, TestTorch, TestTorchLegacy, TestTorchScript, TestNpz, TestNpy, TestPickle,
        TestGguf, TestFlaxMsgpack,
    )  # fmt: skip
    held = {suite.format for suite in suites}
    assert held == {row.name for row in FILES}
