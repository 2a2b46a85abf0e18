"""TorchScript is measured as torch.jit.load sees it, and nothing of it is run or clipped."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run
from oracle import close, exact_norm
from safetensors.torch import save_file

import gradtool
from gradtool.core.measurement import Measurement
from gradtool.errors import CorruptFileError, UnsupportedFormatError

pytestmark = pytest.mark.filterwarnings("ignore")  # torch deprecates what this is about

LITERAL = [1.0, 2.0, 4.0, 8.0]


class Net(torch.nn.Module):
    """Parameters, buffers of both kinds, tied weights, and tensors in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.tied = torch.nn.Linear(3, 4, bias=False)
        self.tied.weight = self.inner[0].weight
        self.register_buffer("mask", torch.arange(4.0))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
        self.history = [torch.full((2,), 3.0), torch.full((1,), 5.0)]
        self.by_name = {"a": torch.full((3,), 7.0)}
        self.sizes = [1, 2, 3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.history[0].sum() + self.by_name["a"].sum() + self.sizes[0]
        return self.inner(x) * self.mask * scale + self.tied(x) + torch.tensor([1.0, 2.0, 4.0, 8.0])


def scripted(path: Path) -> Path:
    torch.jit.script(Net().eval()).save(path)
    return path


def norms(measurement: Measurement) -> dict[str, float]:
    return {tensor.spec.name: tensor.norm for tensor in measurement.tensors}


def exact(tensor: torch.Tensor) -> float:
    return exact_norm(tensor.detach().to(torch.float64).flatten().tolist(), 2)


def floating(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """What torch.jit.load made, under the names that torch gives it."""
    named = {
        **module.state_dict(),
        **dict(module.named_buffers()),
        **dict(module.named_parameters()),
    }
    for key, tensor in named.items():
        if tensor.is_floating_point():
            yield key, tensor


def test_a_scripted_module_is_called_and_measured_as_torch_does(tmp_path: Path) -> None:
    path = scripted(tmp_path / "net.pt")
    found = gradtool.measure(path)
    loaded = torch.jit.load(path)
    assert found.format == "torchscript"
    others = {"history.0": 18**0.5, "history.1": 5.0, "by_name.a": 147**0.5}
    named = dict(floating(loaded))
    assert {"inner.0.weight", "inner.1.running_var", "mask", "unsaved"} <= named.keys()
    assert norms(found).keys() == named.keys() | others.keys()
    for key, norm in norms(found).items():
        assert close(norm, others[key] if key in others else exact(named[key]))
    shapes = {tensor.spec.name: tensor.spec.shape for tensor in found.tensors}
    assert shapes["turned"] == (3, 2)
    assert {t.spec.name: t.alias_of for t in found.tensors if t.alias_of} == {
        "tied.weight": "inner.0.weight"
    }
    assert [item.name for item in found.skipped] == ["inner.1.num_batches_tracked"]
    assert found.notes == ()


def test_literals_of_a_trace_are_constants_in_a_section_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.trace(Net().eval(), torch.zeros(2, 3)).save(path)
    found = gradtool.measure(path)
    constants = [t for t in found.tensors if t.spec.section == "constants"]
    assert all(t.spec.name.removeprefix("constants.").isdigit() for t in constants)
    assert any(close(t.norm, exact(torch.tensor(LITERAL))) for t in constants)
    assert found.notes == (
        f"{len(constants)} constants of the program measured beside its parameters, as 'constants'",
    )
    named = dict(floating(torch.jit.load(path)))
    chosen = norms(gradtool.measure(path, exclude=["constants.*"]))
    assert chosen.keys() == named.keys()


def test_a_frozen_modules_weights_are_constants(tmp_path: Path) -> None:
    linear = torch.nn.Linear(3, 4).eval()
    path = tmp_path / "net.pt"
    torch.jit.freeze(torch.jit.script(linear)).save(path)
    assert not torch.jit.load(path).state_dict()
    total = gradtool.measure(path).total
    assert total is not None
    assert close(total.norm, exact(torch.cat([linear.weight.flatten(), linear.bias])))


def test_packed_weights_are_listed_as_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    module = torch.nn.Module()
    packed = torch.quantize_per_tensor(torch.ones(2, 2), 0.5, 0, torch.qint8)
    module.register_buffer("packed", packed)
    module.register_buffer("bias", torch.ones(4))
    torch.jit.script(module).save(path)
    found = gradtool.measure(path)
    assert [(item.name, item.reason) for item in found.skipped] == [("packed", "quantized")]
    assert norms(found) == {"bias": 2.0}
    assert found.total is not None
    assert found.total.lower_bound


def test_clip_says_in_one_line_that_it_does_not(tmp_path: Path) -> None:
    path = scripted(tmp_path / "net.pt")
    before = path.read_bytes()
    for arguments in (["-o", str(tmp_path / "out.pt")], ["--in-place"]):
        ended = run("clip", str(path), "--max-norm", "1", *arguments)
        assert ended.returncode == 2
        assert ended.stdout == ""
        said = f"{path}: cannot be clipped: TorchScript is a program, which gradtool only measures"
        assert ended.stderr == f"gradtool: error: {said}\n"
    assert path.read_bytes() == before
    assert run("inspect", str(path)).returncode == 0
    assert run("check", str(path)).returncode == 0


def test_a_program_among_files_is_named_where_nothing_is_clipped(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    scripted(tmp_path / "net.pt")
    assert {"a", "mask"} <= norms(gradtool.measure(tmp_path)).keys()
    with pytest.raises(gradtool.UsageError, match=r"cannot be clipped: net\.pt: TorchScript is a"):
        gradtool.clip(tmp_path, tmp_path.parent / "out", max_norm=1.0)


def test_what_is_no_finite_number_in_a_program_fails_a_check(tmp_path: Path) -> None:
    module = torch.nn.Module()
    module.register_buffer("w", torch.tensor([1.0, float("nan")]))
    torch.jit.script(module).save(tmp_path / "net.pt")
    assert run("check", str(tmp_path / "net.pt")).returncode == 1


Change = Callable[[str, bytes], list[tuple[str, bytes]]]


def rebuilt(path: Path, change: Change, *packed: str) -> Path:
    """The same archive with other records; those whose names end as `packed` says are deflated."""
    out = path.with_name("rebuilt.pt")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            for name, data in change(entry.filename, source.read(entry)):
                is_packed = name.endswith(packed) if packed else entry.compress_type
                method = zipfile.ZIP_DEFLATED if is_packed else zipfile.ZIP_STORED
                target.writestr(name, data, method)
    return out


def same(name: str, data: bytes) -> list[tuple[str, bytes]]:
    return [(name, data)]


def test_code_that_is_deflated_is_left_alone(tmp_path: Path) -> None:
    path = scripted(tmp_path / "net.pt")
    with zipfile.ZipFile(path) as archive:
        assert {e.compress_type for e in archive.infolist()} == {0, zipfile.ZIP_DEFLATED}
    assert norms(gradtool.measure(rebuilt(path, same))) == norms(gradtool.measure(path))
    spoiled = rebuilt(path, lambda n, d: [(n, b"?" if n.endswith(".py") else d)])
    assert norms(gradtool.measure(spoiled)) == norms(gradtool.measure(path))


BAD: dict[str, tuple[Change, str]] = {
    "without its module": (
        lambda n, d: [] if n.endswith("data.pkl") else [(n, d)],
        "the save was interrupted",
    ),
    "without a storage": (
        lambda n, d: [] if n.endswith("/data/0") else [(n, d)],
        "no record of its storage '0'",
    ),
    "with a short storage": (
        lambda n, d: [(n, d[:-1] if n.endswith("/data/0") else d)],
        "the archive holds",
    ),
    "of another order": (
        lambda n, d: [(n, b"big" if n.endswith("byteorder") else d)],
        "big-endian TorchScript",
    ),
    "of before 1.4": (
        lambda n, d: [(n, d), (n.replace("data.pkl", "model.json"), b"{}")][
            : 1 + ("data.pkl" in n)
        ],
        "a version that has a model.json",
    ),
    "with constants that are none": (
        lambda n, d: [(n, b"\x80\x02}." if n.endswith("constants.pkl") else d)],
        "the program's constants are no tuple",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_archive_that_torch_reads_otherwise_or_not_is_refused(case: str, tmp_path: Path) -> None:
    change, words = BAD[case]
    path = rebuilt(scripted(tmp_path / "net.pt"), change)
    with pytest.raises((CorruptFileError, UnsupportedFormatError)) as caught:
        gradtool.measure(path)
    assert words in str(caught.value)


def test_a_deflated_storage_is_refused(tmp_path: Path) -> None:
    path = rebuilt(scripted(tmp_path / "net.pt"), same, "/data/0", ".py", ".debug_pkl")
    with pytest.raises(CorruptFileError, match="compressed: torch"):
        gradtool.measure(path)


def test_a_constant_and_an_attribute_of_one_name_are_refused(tmp_path: Path) -> None:
    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.constants = torch.nn.ParameterList([torch.ones(2)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tensor([1.0, 2.0])

    path = tmp_path / "net.pt"
    traced = torch.jit.trace(Named(), torch.zeros(2))
    traced.save(path)
    with pytest.raises(UnsupportedFormatError, match=r"'constants\.0': two tensors come by this"):
        gradtool.measure(path)


def test_torch_tells_a_program_by_the_same_record(tmp_path: Path) -> None:
    path = scripted(tmp_path / "net.pt")
    with pytest.raises(RuntimeError, match="with TorchScript archives"):
        torch.load(path, weights_only=True)
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt")
    marked = rebuilt(
        tmp_path / "x.pt", lambda n, d: [(n, d), ("x/constants.pkl", b"")][: 1 + ("data.pkl" in n)]
    )
    with pytest.raises(RuntimeError, match="with TorchScript archives"):
        torch.load(marked, weights_only=True)
    with pytest.raises(CorruptFileError, match=r"constants\.pkl"):
        gradtool.measure(marked)
