"""torch's distributed checkpoints: what is read of them, and what it is called.

`tests/laws/test_shards.py` has any boxes, and clips them; `test_torch_dcp_lies.py` what is refused.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from distcp import Item, shard_file, write_distcp
from shards import loaded
from torch.distributed.checkpoint.filesystem import FileSystemReader, SerializationFormat
from torch.distributed.checkpoint.metadata import Metadata

import gradtool
from gradtool.core.shapes.boxes import Box
from gradtool.engine.reading.unpacking import unpacked
from gradtool.formats import Opening, open_checkpoint

FORMATS = pytest.mark.parametrize("form", list(SerializationFormat))
TYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)


def save(state: dict[str, Any], path: Path, **options: Any) -> Path:
    """What torch's own writer leaves of one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.save(state, storage_writer=dcp.FileSystemWriter(path, **options), no_dist=True)
    return path


def sections(path: Path) -> dict[str, str]:
    """The section of every tensor."""
    return {spec.name: spec.section for spec in open_checkpoint(str(path)).tensors}


@FORMATS
def test_tensors_of_every_type_are_read(form: SerializationFormat, tmp_path: Path) -> None:
    state = {str(dtype): torch.randn(5, 3).to(dtype) for dtype in TYPES}
    state |= {"scalar": torch.tensor(0.25), "empty": torch.zeros(0, 3), "ids": torch.arange(4)}
    save(state, tmp_path / "run", serialization_format=form)
    found = gradtool.measure(tmp_path / "run", verify=True)
    assert found.format == "torch_dcp"
    assert {tensor.name for tensor in found.tensors} == state.keys() - {"ids"}
    assert [(item.name, item.reason) for item in found.skipped] == [("ids", "integer")]
    for tensor in found.tensors:
        array = state[tensor.name]
        exact = array.to(torch.complex128 if array.is_complex() else torch.float64)
        assert tensor.spec.shape == array.shape
        assert tensor.norm == pytest.approx(exact.norm().item(), rel=1e-12)


def test_a_tensor_in_any_order_of_its_axes_is_located(tmp_path: Path) -> None:
    """The writer keeps the strides of a dense tensor."""
    whole = torch.zeros(3, 4, 5)
    whole[1, 3, 2] = torch.nan
    state = {"plain": whole, "turned": whole.permute(2, 0, 1), "part": whole[:, 1:]}
    save(state, tmp_path / "run")
    found = {tensor.name: tensor for tensor in gradtool.measure(tmp_path / "run").tensors}
    assert found["plain"].first_nonfinite == (1, 3, 2)
    assert found["turned"].first_nonfinite == (2, 1, 3)
    assert found["part"].first_nonfinite == (1, 2, 2)


def test_large_boxes_are_read_in_several_tasks_as_one_whole(tmp_path: Path) -> None:
    whole = torch.randn(3, 1 << 21, generator=torch.manual_seed(0))
    whole[2, -1] = torch.inf
    boxes = [Box((0, 0), (1, 1 << 21)), Box((1, 0), (2, 1 << 21))]
    write_distcp(tmp_path / "run", {"w": whole}, [[Item("w", box)] for box in boxes])
    (tensor,) = gradtool.measure(tmp_path / "run").tensors
    assert tensor.first_nonfinite == (2, (1 << 21) - 1)
    exact = whole.double()[torch.isfinite(whole)].norm().item()
    assert tensor.finite_norm == pytest.approx(exact, rel=1e-12)


@FORMATS
def test_what_is_no_tensor_is_counted_and_never_opened(
    form: SerializationFormat, tmp_path: Path
) -> None:
    state = {"w": torch.ones(4), "lr": 0.1, "name": "run"}
    save(state, tmp_path / "run", serialization_format=form)
    shard = tmp_path / "run" / "__0_0.distcp"
    index = FileSystemReader(tmp_path / "run").read_metadata().storage_data
    content = bytearray(shard.read_bytes())
    for key, info in index.items():
        if key.fqn != "w":
            content[info.offset : info.offset + info.length] = bytes(info.length)
    shard.write_bytes(content)
    found = gradtool.measure(tmp_path / "run")
    assert [tensor.norm for tensor in found.tensors] == [2.0]
    assert found.notes == ("2 items that are no tensor: not opened",)


def test_nothing_of_the_items_is_read_for_the_catalogue(tmp_path: Path) -> None:
    metadata = write_distcp(tmp_path / "run", {"w": torch.ones(6)}, [[Item("w", Box((0,), (6,)))]])
    (info,) = metadata.storage_data.values()
    (tmp_path / "run" / shard_file(0)).write_bytes(bytes(info.length))
    (spec,) = open_checkpoint(str(tmp_path / "run")).tensors
    assert (spec.name, spec.shape) == ("w", (6,))
    with pytest.raises(gradtool.CorruptFileError, match="'w': its item: no end-of-central"):
        gradtool.measure(tmp_path / "run")


def test_sections_have_the_names_that_people_use(tmp_path: Path) -> None:
    w = torch.ones(2)
    moments = {"exp_avg": w, "exp_avg_sq": w, "step": torch.tensor(1.0)}
    nested = {
        "model": {"a.w": w},
        "optimizer": {"state": {"a.w": moments}, "param_groups": [{"lr": torch.tensor(0.1)}]},
        "grads": {"a.w": w},
        "lr_scheduler": {"last": torch.tensor(0.1)},
    }
    expected = {
        "model.a.w": "model",
        "grads.a.w": "grads",
        "optimizer.state.a.w.exp_avg": "optimizer.exp_avg",
        "optimizer.state.a.w.exp_avg_sq": "optimizer.exp_avg_sq",
        "optimizer.state.a.w.step": "other",
        "optimizer.param_groups.0.lr": "other",
        "lr_scheduler.last": "other",
    }
    assert sections(save(nested, tmp_path / "nested")) == expected
    # As torchtitan has it: names of weights without a prefix, and of moments in one key.
    flat = {
        "layers.0.w": w,
        "optimizer": {f"state.layers.0.w.{name}": value for name, value in moments.items()},
    }
    found = open_checkpoint(str(save(flat, tmp_path / "flat")))
    assert {spec.name: spec.section for spec in found.tensors} == {
        "layers.0.w": "model",
        "optimizer.state.layers.0.w.exp_avg": "optimizer.exp_avg",
        "optimizer.state.layers.0.w.exp_avg_sq": "optimizer.exp_avg_sq",
        "optimizer.state.layers.0.w.step": "other",
    }
    assert found.section_kinds == {
        "model": "weights",
        "optimizer.exp_avg": "optimizer",
        "optimizer.exp_avg_sq": "optimizer",
    }


def test_a_dump_of_gradients_alone_has_no_sections(tmp_path: Path) -> None:
    state = {"model.layers.0.w": torch.ones(2), "head": torch.ones(2)}
    assert set(sections(save(state, tmp_path / "run")).values()) == {""}


def test_a_filter_leaves_names_in_the_catalogue(tmp_path: Path) -> None:
    save({"a": torch.ones(4), "b": torch.ones(9), "ids": torch.arange(2)}, tmp_path / "run")
    checkpoint = open_checkpoint(str(tmp_path / "run"), Opening(wanted=lambda name: name == "a"))
    assert [spec.name for spec in checkpoint.tensors] == ["a"]
    assert (checkpoint.left_out, checkpoint.skipped_left_out) == (("b",), ("ids",))
    assert [t.norm for t in gradtool.measure(tmp_path / "run", include="b").tensors] == [3.0]


def test_ranks_without_a_part_are_no_gap(tmp_path: Path) -> None:
    """Two ranks have an empty box at the end; `.metadata` knows where one of them lies."""
    whole = torch.tensor([3.0, 4.0])
    ends = [Box((0,), (1,)), Box((1,), (1,)), Box((2,), (0,)), Box((2,), (0,))]
    others = Item("v", Box((0,), (5,)))
    for in_blobs in (False, True):
        run = tmp_path / f"run-{in_blobs}"
        ranks = [[Item("w", box)] for box in ends]
        ranks[2].append(others)
        wholes = {"w": whole, "v": torch.zeros(5)}
        write_distcp(run, wholes, ranks, in_blobs=in_blobs)
        assert {t.name: t.norm for t in gradtool.measure(run).tensors} == {"w": 5.0, "v": 0.0}


def test_files_that_no_item_is_in_are_said(tmp_path: Path) -> None:
    save({"w": torch.ones(4)}, tmp_path / "run")
    (tmp_path / "run" / "__0_7.distcp").write_bytes(b"of an earlier save")
    assert gradtool.measure(tmp_path / "run").notes == ("not read: __0_7.distcp",)


def test_items_that_are_alike_but_for_their_elements_are_each_read(tmp_path: Path) -> None:
    """Also where one of them has other bytes around the elements, or an older torch's."""
    wholes = {f"t.{i}": torch.full((4, 2), float(i)) for i in range(20)}
    boxes = [Item(name, Box((0, 0), (4, 2))) for name in wholes]
    write_distcp(tmp_path / "run", wholes, [boxes])
    found = gradtool.measure(tmp_path / "run")
    assert [t.norm for t in found.tensors] == pytest.approx([8**0.5 * i for i in range(20)])


def test_a_clipped_item_is_what_torch_would_have_written(tmp_path: Path) -> None:
    rng = torch.manual_seed(3)
    state = {f"t.{i}": torch.randn(3 + i % 2, 5, generator=rng) for i in range(6)}
    save({"grads": state, "model": state, "lr": 0.5}, tmp_path / "run")
    outcome = gradtool.clip(tmp_path / "run", tmp_path / "out", max_norm=0.5, section="grads")
    assert outcome.clip_coef is not None
    names = [f"{part}.{name}" for part in ("grads", "model") for name in state]
    after = loaded(
        tmp_path / "out",
        {name: tuple(state[name.partition(".")[2]].shape) for name in names},
        dcp.FileSystemReader(tmp_path / "out"),
    )
    for name, tensor in state.items():
        wanted = (tensor.double() * outcome.clip_coef).float()
        assert after[f"grads.{name}"].tobytes() == wanted.numpy().tobytes()
        assert after[f"model.{name}"].tobytes() == tensor.numpy().tobytes()
    before, content = ((tmp_path / where / "__0_0.distcp").read_bytes() for where in ("run", "out"))
    metadata = FileSystemReader(tmp_path / "out").read_metadata()
    for index, info in metadata.storage_data.items():
        item = content[info.offset : info.offset + info.length]
        assert zipfile.ZipFile(io.BytesIO(item)).testzip() is None
        stream = io.BytesIO()
        torch.save(torch.load(io.BytesIO(item)), stream)
        assert item == stream.getvalue()
        if not index.fqn.startswith("grads."):
            assert item == before[info.offset : info.offset + info.length]
    for name in (".metadata",):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_damaged_checksum_is_found_before_it_would_be_renewed(tmp_path: Path) -> None:
    metadata = write_distcp(
        tmp_path / "run", {"w": torch.ones(64)}, [[Item("w", Box((0,), (64,)))]]
    )
    assert isinstance(metadata, Metadata)
    shard = tmp_path / "run" / shard_file(0)
    content = shard.read_bytes()
    ones = np.ones(64, np.float32).tobytes()
    shard.write_bytes(content.replace(ones, b"\1" + ones[1:]))
    assert gradtool.measure(tmp_path / "run").tensors[0].stats.numel == 64
    for act in (
        lambda: gradtool.measure(tmp_path / "run", verify=True),
        lambda: gradtool.clip(tmp_path / "run", tmp_path / "out", max_norm=1.0),
    ):
        with pytest.raises(gradtool.CorruptFileError, match=r"'w at byte 0: .*CRC-32"):
            act()
    assert not (tmp_path / "out").exists()


def test_all_of_a_catalogue_can_be_opened_at_once(tmp_path: Path) -> None:
    whole = torch.randn(4, 4)
    boxes = [Item("w", Box((0, 0), (3, 4))), Item("w", Box((3, 0), (1, 4)))]
    write_distcp(
        tmp_path / "run", {"w": whole, "v": whole}, [boxes, [Item("v", Box((0, 0), (4, 4)))]]
    )
    found = unpacked(open_checkpoint(str(tmp_path / "run")))
    assert all(part.packed is None for part in found.stored)
    content = b""
    for part in found.tensors[0].parts:
        (extent,) = part.extents
        with extent.file.open() as source:
            content += source.read(extent.offset, extent.nbytes)
    assert content == whole.numpy().tobytes()
