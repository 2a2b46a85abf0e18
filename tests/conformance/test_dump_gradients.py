"""`dump_gradients`: the reference reader finds the gradients in it, and gradtool all the rest."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from command_line import error_lines
from command_line import run as gradtool_command
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import gradtool
from gradtool.core.names import natural_key
from gradtool.core.order.brackets import brackets
from gradtool.errors import UsageError
from gradtool.torch import dump_gradients

DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
]
NAMES = [
    "ascii.weight",
    "größe.重み",
    "a'b\"c\\d",
    "new\nline\ttab\0nul\x1b[31m",
    "\x7f\u2028",
    " ",
    "a/b",
]


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Any bits but those of NaN, which comparisons would tell nothing of."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
    return (torch.view_as_complex(real) if dtype.is_complex else real[..., 0]).to(dtype)


def parameter(grad: Tensor | None, shape: tuple[int, ...] = (1,)) -> nn.Parameter:
    """A parameter of that gradient."""
    if grad is None:
        return nn.Parameter(torch.zeros(shape))
    made = nn.Parameter(torch.zeros(grad.shape, dtype=grad.dtype))
    made.grad = grad
    return made


def dump(path: Path, grads: dict[str, Tensor | None], **notes: Any) -> Path:
    pairs = [(name, parameter(grad)) for name, grad in grads.items()]
    assert dump_gradients(pairs, path, **notes) == str(path)
    return path


def bits(tensor: Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg()
    return (
        plain.clone(memory_format=torch.contiguous_format)
        .view(-1)
        .view(torch.uint8)
        .numpy()
        .tobytes()
    )


def assert_holds(path: Path, grads: dict[str, Tensor]) -> None:
    """Every way of the reference reader gives these tensors and no others, bit for bit."""
    loaded = load_file(path)
    assert loaded.keys() == grads.keys()
    with safe_open(path, "pt") as opened:
        for name, grad in grads.items():
            whole = opened.get_slice(name)[...] if grad.ndim else opened.get_tensor(name)
            for found in (loaded[name], opened.get_tensor(name), whole):
                assert (found.dtype, found.shape) == (grad.dtype, grad.shape)
                assert bits(found) == bits(grad)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump.safetensors"


def test_gradients_of_all_types_side_by_side_come_back_bit_for_bit(path: Path) -> None:
    # Odd sizes: whoever does not mind alignment puts the wide ones at odd places.
    grads: dict[str, Tensor] = {}
    for size in (1, 3, 5):
        for dtype in DTYPES:
            grads[f"{size}.{dtype}"] = noise(size, dtype=dtype, seed=size)
    assert_holds(dump(path, grads), grads)
    with safe_open(path, "pt") as opened:
        assert (
            opened.get_slice("5.torch.float64")[1:3].tolist()
            == grads["5.torch.float64"][1:3].tolist()
        )
    header_nbytes = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + header_nbytes])
    metadata = header.pop("__metadata__")
    assert json.loads(metadata.pop("gradtool.names")) == [*grads]
    assert metadata == {"format": "pt", "gradtool.dump": "1", "gradtool.order": "model"}
    for name, entry in header.items():
        assert (8 + header_nbytes + entry["data_offsets"][0]) % grads[name].itemsize == 0


def test_what_is_special_about_bits_stays(path: Path) -> None:
    grads = {
        "nan": torch.tensor([0x7FC00001, -1, 0x7F800000, -0x80000000], dtype=torch.int32).view(
            torch.float32
        ),
        "e4m3": torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn),
        "e5m2fnuz": torch.arange(256, dtype=torch.uint8).view(torch.float8_e5m2fnuz),
    }
    assert_holds(dump(path, grads), grads)


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back_as_they_were(name: str, path: Path) -> None:
    grads = {name: noise(3), "z": noise(2)}
    assert_holds(dump(path, grads), grads)
    assert {tensor.name for tensor in gradtool.measure(path).tensors} == {name, "z"}
    result = gradtool_command("inspect", str(path))
    assert (result.returncode, "\x1b" in result.stdout, "\0" in result.stdout) == (0, False, False)


def test_layouts_come_back_as_the_elements_that_they_name(path: Path) -> None:
    square = noise(6, 4)
    grads = {
        "transposed": square.T,
        "strided": noise(9, 6, seed=1)[::2, ::3],
        "one of a stride": noise(4, seed=2)[::2][:1],
        "expanded": noise(1, seed=3).expand(5, 3),
        "channels last": noise(2, 3, 4, 5, seed=4).to(memory_format=torch.channels_last),
        "conjugated": noise(3, 2, dtype=torch.complex64).conj(),
        "negated": noise(3, dtype=torch.complex64, seed=5).conj().imag,
        "negated one": noise(1, dtype=torch.complex64, seed=6).conj().imag,
        "none": torch.zeros(0, 3),
        "number": torch.tensor(2.5),
    }
    assert_holds(dump(path, grads), grads)


def test_a_tensor_and_its_conjugate_are_two(path: Path) -> None:
    grad = noise(3, dtype=torch.complex64)
    assert_holds(dump(path, {"a": grad, "b": grad.conj()}), {"a": grad, "b": grad.conj()})


def test_a_gradient_larger_than_a_piece_comes_back_whole(path: Path) -> None:
    grads = {"large": noise(9 << 18, dtype=torch.float64), "small": noise(3)}
    assert_holds(dump(path, grads), grads)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(requires_grad=False)
        self.unused = nn.Linear(4, 2)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, at: Tensor) -> Tensor:
        out: Tensor = self.head(self.frozen(self.embedding(at)))
        return out


@pytest.mark.parametrize("how", ["module", "pairs", "generator"])
def test_a_tied_gradient_is_stored_once_and_keeps_both_names(how: str, path: Path) -> None:
    model = Tied()
    model(torch.tensor([1, 2, 2])).square().sum().backward()
    pairs = list(model.named_parameters(remove_duplicate=False))
    given: Any = {"module": model, "pairs": pairs, "generator": iter(pairs)}[how]
    dump_gradients(given, path)
    grad = model.embedding.weight.grad
    assert grad is not None
    assert_holds(path, {"embedding.weight": grad})
    found = gradtool.measure(path)
    assert [(t.name, t.alias_of) for t in found.tensors] == [
        ("embedding.weight", None),
        ("head.weight", "embedding.weight"),
    ]
    assert found.total is not None
    assert (found.total.tensors, found.total.stats.numel) == (1, 28)
    # Frozen ones are not to have a gradient; unused ones were.
    skipped = [(item.name, item.dtype, item.reason) for item in found.skipped]
    assert skipped == [
        ("unused.weight", "F32", "no gradient"),
        ("unused.bias", "F32", "no gradient"),
    ]


def test_gradients_that_megatron_keeps_elsewhere_are_taken_from_there(path: Path) -> None:
    model = nn.Linear(3, 2).to(torch.bfloat16)
    model.weight.main_grad = noise(2, 3)  # type: ignore[assignment]
    model.weight.grad = torch.zeros(2, 3, dtype=torch.bfloat16)
    dump_gradients(model, path)
    assert_holds(path, {"weight": noise(2, 3)})


@pytest.mark.parametrize("coalesced", [True, False])
def test_a_sparse_gradient_is_its_values_at_its_indices(coalesced: bool, path: Path) -> None:
    at = torch.tensor([[4, 1, 4, 2]])
    sparse = torch.sparse_coo_tensor(at, noise(4, 3), (6, 3), check_invariants=True)
    given = sparse.coalesce() if coalesced else sparse
    dump(path, {"emb": given, "w": noise(2)})
    whole = sparse.coalesce()
    assert_holds(path, {"emb": whole.values(), "emb.indices": whole.indices(), "w": noise(2)})
    found = gradtool.measure(path)
    true = whole.to_dense().to(torch.float64).norm().item()
    assert found.tensors[0].norm == pytest.approx(true, rel=1e-12)
    assert found.notes == ("1 sparse tensor is measured by the stored values",)


def test_what_was_noted_is_read_back(path: Path) -> None:
    dump(path, {"w": noise(3)}, step=1200, loss_scale=65536.0)
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {
            "format": "pt",
            "gradtool.dump": "1",
            "gradtool.step": "1200",
            "gradtool.loss_scale": "65536.0",
            "gradtool.order": "model",
            "gradtool.names": '["w"]',
        }
    found = gradtool.measure(path)
    assert found.loss_scale == 65536.0
    assert found.tensors[0].norm == gradtool.measure({"w": noise(3)}).tensors[0].norm / 65536.0
    assert gradtool.measure(path, loss_scale=2.0).loss_scale == 2.0


MIXED: dict[str, Tensor | None] = {
    "z.10": noise(2, dtype=torch.float16),
    "z.9": noise(3),
    "unused": None,
    "a": noise(2, dtype=torch.float64),
    "emb": torch.sparse_coo_tensor(
        torch.tensor([[1, 0]]), noise(2, 3), (4, 3), check_invariants=True
    ),
    "b": noise(5),
}


def test_tensors_are_listed_as_the_model_has_them_however_the_file_is_sorted(path: Path) -> None:
    pairs = [(name, parameter(grad)) for name, grad in MIXED.items()]
    pairs.insert(4, ("tied", dict(pairs)["z.9"]))
    dump_gradients(pairs, path)
    with safe_open(path, "pt") as opened:
        assert json.loads(opened.metadata()["gradtool.names"]) == [
            "z.10", "z.9", "unused", "a", "tied", "emb", "emb.indices", "b",
        ]  # fmt: skip
    found = gradtool.measure(path)
    assert found.in_model_order
    assert [t.name for t in found.tensors] == ["z.10", "z.9", "a", "tied", "emb", "b"]
    assert [item.name for item in found.skipped] == ["unused", "emb.indices"]
    assert {t.name: t.alias_of for t in found.tensors if t.alias_of} == {"tied": "z.9"}
    assert [t["name"] for t in inspected(path, "--sort", "file")["tensors"]] == [
        t.name for t in found.tensors
    ]
    gradtool.clip(path, path.with_name("clipped"), max_norm=0.1)
    clipped = gradtool.measure(path.with_name("clipped"))
    assert [t.name for t in clipped.in_order] == [t.name for t in found.tensors]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_next_to_what_broke_is_told_of_a_dump_as_of_the_model(
    seed: int, path: Path
) -> None:
    random = Random(seed)
    layers = [*range(12)]
    random.shuffle(layers)
    bad, dtypes = {*random.sample(layers, 5)}, (torch.float16, torch.float32, torch.float64)
    model = [
        (f"{layer}.w", parameter(torch.full((2,), math.nan if layer in bad else 1.0, dtype=dtype)))
        for layer, dtype in zip(layers, dtypes * 4, strict=True)
    ]
    dump_gradients(model, path)

    def runs(measurement: gradtool.Measurement) -> list[list[str | None]]:
        return [
            [tensor and tensor.name for tensor in (run.before, *run.nonfinite, run.after)]
            for run in brackets(measurement.in_order)
        ]

    alive = gradtool.measure(model)
    assert runs(gradtool.measure(path)) == runs(alive)
    assert {name for run in runs(alive) for name in run[1:-1]} == {f"{layer}.w" for layer in bad}


@pytest.mark.parametrize("edit", ["one less", "one more", "another name"])
def test_an_order_of_other_tensors_is_none(edit: str, path: Path) -> None:
    """As in a file that was read, changed, and saved with the metadata that it had."""
    dump(path, {"h.10": noise(2), "h.9": noise(3, dtype=torch.float64)})
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    save_file(tensors, path, metadata)
    assert [t.name for t in gradtool.measure(path).in_order] == ["h.10", "h.9"]
    if edit != "one more":
        del tensors["h.9"]
    if edit != "one less":
        tensors["h.11"] = noise(2)
    save_file(tensors, path, metadata)
    found = gradtool.measure(path)
    assert not found.in_model_order
    assert [t.name for t in found.in_order] == sorted(tensors, key=natural_key)


def inspected(*args: str | Path) -> dict[str, Any]:
    result = gradtool_command("inspect", *map(str, args), "-f", "json")
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)["reports"][0]
    return report


def test_the_command_line_takes_the_loss_scale_from_the_file_unless_one_is_given(
    path: Path,
) -> None:
    dump(path, {"w": torch.tensor([30.0, 40.0])}, loss_scale=10.0)
    assert (inspected(path)["loss_scale"], inspected(path)["total"]["norm"]) == (10.0, 5.0)
    assert inspected(path, "--loss-scale", "2")["total"]["norm"] == 25.0
    assert inspected(path, "--loss-scale", "1")["total"]["norm"] == 50.0


def test_a_clipped_dump_keeps_its_notes_and_is_within_the_trainers_bound(path: Path) -> None:
    grads = {"w": torch.tensor([30.0, 40.0]), "b": noise(3, dtype=torch.float64) * 1e-3}
    pairs = [(name, parameter(grad)) for name, grad in grads.items()]
    dump_gradients(
        [*pairs, ("tied", pairs[0][1]), ("none", parameter(None))], path, step=3, loss_scale=10.0
    )
    out = path.with_name("out.safetensors")
    clipped = gradtool.clip(path, out, max_norm=1.0, eps=0.0)
    assert clipped.before.total is not None
    assert clipped.before.total.norm == pytest.approx(5.0)
    assert clipped.plan.clip_coef == pytest.approx(0.2)
    with safe_open(path, "pt") as old, safe_open(out, "pt") as new:
        assert old.metadata() == new.metadata()
        assert old.metadata().keys() >= {"gradtool.step", "gradtool.aliases", "gradtool.absent"}
    coef = clipped.plan.clip_coef or math.nan
    # What is written stays scaled.
    assert_holds(out, {n: (g.to(torch.float64) * coef).to(g.dtype) for n, g in grads.items()})
    after = gradtool.measure(out)
    assert after.total is not None
    assert after.total.norm == pytest.approx(1.0, rel=1e-6)
    assert [t.alias_of for t in after.tensors if t.name == "tied"] == ["w"]
    gradtool.clip(path, out, clip_value=3.5, force=True)
    assert load_file(out)["w"].tolist() == [30.0, 35.0]
    overruled = gradtool.clip(path, dry_run=True, max_norm=1.0, eps=0.0, loss_scale=1.0)
    assert overruled.plan.clip_coef == pytest.approx(0.02)


def test_dumps_of_different_loss_scales_are_one_set_only_if_told_the_scale(tmp_path: Path) -> None:
    for name, scale in (("a", 2.0), ("b", 4.0)):
        dump(tmp_path / f"{name}.safetensors", {name: noise(3)}, loss_scale=scale)
    for command in (["inspect"], ["clip", "--max-norm", "1", "--dry-run"]):
        result = gradtool_command(*command, str(tmp_path))
        (line,) = error_lines(result)
        assert (result.returncode, result.stdout) == (2, "")
        assert "different loss scales" in line
        assert "--loss-scale" in line
        assert gradtool_command(*command, str(tmp_path), "--loss-scale", "2").returncode == 0
    dump(tmp_path / "b.safetensors", {"b": noise(3)}, loss_scale=2.0)
    # What holds no gradient has no scale either.
    torch.save({"step": torch.tensor(3)}, tmp_path / "step.pt")
    assert inspected(tmp_path)["loss_scale"] == 2.0


def test_a_file_for_each_rank_is_not_asked_of_one_process_alone(tmp_path: Path) -> None:
    path = dump_gradients([("w", parameter(noise(2)))], str(tmp_path / "{rank}.safetensors"))
    assert path == str(tmp_path / "0.safetensors")
    with pytest.raises(UsageError, match="two tensors come by the name"):
        dump_gradients([("w", parameter(noise(2)))] * 2, tmp_path / "twice")
    assert os.listdir(tmp_path) == ["0.safetensors"]
