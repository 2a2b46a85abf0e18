"""Directories of torch's distributed checkpoints that lie: one clear line each, and exit code 3."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from distcp import Item, shard_file, write_distcp, write_metadata
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)

import gradtool
from gradtool.core.shapes.boxes import Box

WHOLE = torch.arange(24, dtype=torch.float32).reshape(6, 4)
BOXES = [Box((0, 0), (3, 4)), Box((3, 0), (3, 4))]
RANKS = [[Item("w", box)] for box in BOXES]
FIRST = MetadataIndex("w", torch.Size([0, 0]))


def line_of(error: gradtool.InputError) -> str:
    line = str(error)
    assert error.exit_code == 3
    assert len(line) <= 500
    assert "\n" not in line
    return line


def refusal(directory: Path) -> str:
    """The line that says why a directory is not measured."""
    with pytest.raises(gradtool.InputError) as caught:
        gradtool.measure(directory)
    return line_of(caught.value)


def lying(directory: Path, lie: Callable[[Metadata], object], **options: Any) -> str:
    """The line about a directory whose `.metadata` was changed."""
    metadata = write_distcp(directory, {"w": WHOLE}, RANKS, **options)
    lie(metadata)
    write_metadata(directory, metadata)
    return refusal(directory)


def place(metadata: Metadata, **changed: Any) -> None:
    """Change where the first box is said to be."""
    info = metadata.storage_data[FIRST]
    metadata.storage_data[FIRST] = _StorageInfo(
        **{name: changed.get(name, getattr(info, name)) for name in info.__dict__}
    )


def chunk(metadata: Metadata, offsets: tuple[Any, ...], sizes: tuple[Any, ...]) -> None:
    """Change which box the first one is said to be."""
    changed = ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([0, 0]))
    changed.__dict__.update(offsets=offsets, sizes=sizes)
    metadata.state_dict_metadata["w"].chunks[0] = changed
    info = metadata.storage_data.pop(FIRST)
    index = MetadataIndex("w")
    object.__setattr__(index, "offset", offsets)
    metadata.storage_data[index] = info


def entry(metadata: Metadata, **changed: Any) -> None:
    """Change what is said of the tensor."""
    metadata.state_dict_metadata["w"].__dict__.update(changed)


HUGE = (1 << 62, 1 << 62)
LIES: dict[str, tuple[Callable[[Metadata], object], str]] = {
    "overlap": (lambda m: chunk(m, (1, 0), (3, 4)), "'w': its boxes [1:4, 0:4] and [3:6, 0:4]"),
    "hole": (lambda m: chunk(m, (0, 0), (2, 4)), "'w': its boxes hold 20 of its 24 elements"),
    "outside": (lambda m: chunk(m, (0, 2), (3, 4)), "'w': its box [0:3, 2:6] lies outside"),
    "dimensions": (lambda m: chunk(m, (0,), (12,)), "'w': its"),
    "larger": (lambda m: entry(m, size=torch.Size([7, 4])), "'w': its boxes hold 24 of its 28"),
    "huge box": (lambda m: chunk(m, (0, 0), HUGE), "'w': its box"),
    "huge offset": (lambda m: chunk(m, HUGE, (3, 4)), "'w': its box"),
    "huge shape": (lambda m: entry(m, size=HUGE), "'w': its boxes hold 24 of its"),
    "beyond": (lambda m: entry(m, size=(1 << 63, 4)), "'w': its size or chunks are none"),
    "negative": (lambda m: chunk(m, (-3, 0), (3, 4)), "no offset"),
    "float": (lambda m: chunk(m, (0.0, 0), (3, 4)), "no offset"),
    "no sizes": (lambda m: chunk(m, (0, 0), None), "'w': a chunk of it has no offsets"),  # type: ignore[arg-type]
    "65 dimensions": (lambda m: entry(m, size=(1,) * 65), "'w': its size or chunks are none"),
    "no chunks": (lambda m: entry(m, chunks=[]), "storage_data has an item of it"),
    "chunks are none": (lambda m: entry(m, chunks=7), "'w': its size or chunks are none"),
    "no type": (lambda m: entry(m, properties=None), "'w': its properties name no type"),
    "type": (
        lambda m: entry(m, properties=TensorProperties(torch.float16)),
        "'w': its item holds F32 of shape [3, 4], .metadata says F16 of shape [3, 4]",
    ),
    "shape": (
        lambda m: (entry(m, size=torch.Size([6, 2])), chunk(m, (0, 0), (3, 2)), _narrow(m)),
        "'w': its item holds F32 of shape [3, 4], .metadata says F32 of shape [3, 2]",
    ),
    "no item": (lambda m: m.storage_data.pop(FIRST), "'w': storage_data has no item for its chunk"),
    "an item more": (
        lambda m: m.storage_data.update({MetadataIndex("v"): m.storage_data[FIRST]}),
        "'v': storage_data has an item of it",
    ),
    "elsewhere": (lambda m: place(m, relative_path="../x.distcp"), "no plain file name"),
    "absolute": (lambda m: place(m, relative_path="/etc/passwd"), "no plain file name"),
    "nothing": (lambda m: place(m, relative_path=""), "no plain file name"),
    "NUL": (lambda m: place(m, relative_path="a\0b"), "no plain file name"),
    "surrogate": (lambda m: place(m, relative_path="a\ud800"), "is missing"),
    "missing": (lambda m: place(m, relative_path="__9_0.distcp"), "'__9_0.distcp' is missing"),
    "itself": (lambda m: place(m, relative_path=".metadata"), "the .metadata of another save"),
    "number as path": (lambda m: place(m, relative_path=7), "its place in storage_data is none"),
    "offset": (
        lambda m: place(m, offset=1, length=1576),
        "begins at byte 1, those before it end at 0",
    ),
    "negative offset": (lambda m: place(m, offset=-1), "its place in storage_data is none"),
    "huge offset in file": (lambda m: place(m, offset=1 << 62), "ends before its item does"),
    "huge length": (lambda m: place(m, length=(1 << 63) - 1), "ends before its item does"),
    "short length": (lambda m: place(m, length=1000), "after the last item belong to none"),
    "beyond every length": (lambda m: place(m, length=1 << 63), "its place in storage_data"),
    "compressed": (lambda m: place(m, transform_descriptors=["zstd"]), "compressed or encrypted"),
    "two in one place": (
        lambda m: m.storage_data.update(
            {MetadataIndex("w", torch.Size([3, 0])): m.storage_data[FIRST]}
        ),
        "those before it end at",
    ),
    "bytes": (
        lambda m: m.state_dict_metadata.update(w=BytesStorageMetadata()),
        "'w': storage_data has no item",
    ),
    "neither": (lambda m: m.state_dict_metadata.update(w=7), "'w': is stored as neither"),
    "name": (lambda m: m.state_dict_metadata.update({7: 7}), "a tensor's name is no text"),
    "surrogate in a name": (
        lambda m: m.state_dict_metadata.update({"\ud800": BytesStorageMetadata()}),
        "a tensor's name is no text",
    ),
    "no storage": (lambda m: setattr(m, "storage_data", None), "has no storage_data"),
    "storage is a list": (lambda m: setattr(m, "storage_data", []), "has no storage_data"),
    "key": (lambda m: m.storage_data.update({"w": 7}), "no map of indices to places"),
    "no tensors": (lambda m: setattr(m, "state_dict_metadata", 7), "has no state_dict_metadata"),
}


def _narrow(metadata: Metadata) -> None:
    second = metadata.state_dict_metadata["w"].chunks[1]
    second.sizes = torch.Size([3, 2])


@pytest.mark.parametrize("lie", LIES)
def test_metadata_that_contradict_themselves_or_the_files_are_refused(
    lie: str, tmp_path: Path
) -> None:
    change, problem = LIES[lie]
    assert problem in lying(tmp_path / "run", change)


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    write_distcp(tmp_path / "run", {"w": WHOLE}, RANKS)
    for other in ({"w": 7}, 7, Metadata, BytesStorageMetadata()):
        write_metadata(tmp_path / "run", other)
        assert "holds no Metadata of a torch distributed checkpoint" in refusal(tmp_path / "run")
    (tmp_path / "run" / ".metadata").write_bytes(pickle.dumps(os.system, protocol=4))
    assert "holds no Metadata" in refusal(tmp_path / "run")


def test_metadata_cut_anywhere_are_refused(tmp_path: Path) -> None:
    write_distcp(tmp_path / "run", {"w": WHOLE}, RANKS)
    path = tmp_path / "run" / ".metadata"
    content = path.read_bytes()
    for nbytes in range(len(content)):
        path.write_bytes(content[:nbytes])
        refusal(tmp_path / "run")


def test_a_save_that_was_not_finished_is_named(tmp_path: Path) -> None:
    write_distcp(tmp_path / "run", {"w": WHOLE}, RANKS)
    (tmp_path / "run" / ".metadata").rename(tmp_path / "run" / ".metadata.tmp")
    assert "no .metadata: the save was not finished" in refusal(tmp_path / "run")


@pytest.mark.parametrize("in_blobs", [False, True])
def test_files_that_are_missing_or_cut_anywhere_are_named(in_blobs: bool, tmp_path: Path) -> None:
    write_distcp(tmp_path / "run", {"w": WHOLE}, RANKS, in_blobs=in_blobs)
    path = tmp_path / "run" / shard_file(1)
    content = path.read_bytes()
    for nbytes in range(0, len(content), 1 if in_blobs else 7):
        path.write_bytes(content[:nbytes])
        assert shard_file(1) in refusal(tmp_path / "run")
    path.write_bytes(content + b"\0")
    assert shard_file(1) in refusal(tmp_path / "run")
    path.unlink()
    assert f"{shard_file(1)!r} is missing" in refusal(tmp_path / "run")


def test_the_metadata_of_another_save_are_told_by_the_sizes_of_files(tmp_path: Path) -> None:
    write_distcp(tmp_path / "run", {"w": WHOLE}, RANKS)
    write_distcp(
        tmp_path / "other",
        {"w": WHOLE.repeat(1, 9)[:, :30]},
        [[Item("w", Box((0, 0), (2, 30)))], [Item("w", Box((2, 0), (4, 30)))]],
    )
    (tmp_path / "other" / ".metadata").rename(tmp_path / "run" / ".metadata")
    assert "the .metadata of another save" in refusal(tmp_path / "run")


def saved(value: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


ITEMS: dict[str, tuple[bytes, str]] = {
    "dict": (saved({"w": WHOLE}), "no torch file of one tensor"),
    "dict with the name of the file": (saved({"__0_0": WHOLE}), "no torch file of one tensor"),
    "list": (saved([WHOLE]), "no torch file of one tensor"),
    "text": (saved("w"), "no torch file of one tensor"),
    "view": (saved(torch.cat([WHOLE, WHOLE])[6:]), "a view"),
    "expanded": (saved(WHOLE[:1].expand(6, 4)), "a view"),
    "gaps": (saved(torch.cat([WHOLE, WHOLE], 1)[:, :4]), "a view"),
    "negated": (saved(torch._neg_view(WHOLE)), "a view"),
    "other shape": (saved(WHOLE.reshape(4, 6)), "its item holds F32 of shape [4, 6]"),
    "other type": (saved(WHOLE.to(torch.float16)), "its item holds F16 of shape [6, 4]"),
    "integers": (saved(WHOLE.to(torch.int32)), "its item holds I32 of shape [6, 4]"),
    "old format": (saved(WHOLE, _use_new_zipfile_serialization=False), "no end-of-central"),
    "safetensors": (safetensors.torch.save({"w": WHOLE}), "no end-of-central"),
    "zeros": (bytes(2000), "no end-of-central"),
}


@pytest.mark.parametrize("item", ITEMS)
def test_items_that_hold_something_else_are_refused_by_name(item: str, tmp_path: Path) -> None:
    content, problem = ITEMS[item]
    metadata = write_distcp(tmp_path / "run", {"w": WHOLE}, [[Item("w", Box((0, 0), (6, 4)))]])
    (tmp_path / "run" / shard_file(0)).write_bytes(content)
    place(metadata, length=len(content))
    write_metadata(tmp_path / "run", metadata)
    line = refusal(tmp_path / "run")
    assert f"{shard_file(0)}: 'w': " in line
    assert problem in line


def test_an_item_whose_every_byte_but_the_elements_may_be_wrong_is_refused_or_the_same(
    tmp_path: Path,
) -> None:
    """Beside an item that is alike, and was read before it."""
    wholes = {"a": torch.ones(5), "b": torch.ones(5)}
    items = [Item(name, Box((0,), (5,))) for name in wholes]
    metadata = write_distcp(tmp_path / "run", wholes, [items])
    path = tmp_path / "run" / shard_file(0)
    content = path.read_bytes()
    second = metadata.storage_data[MetadataIndex("b", torch.Size([0]))]
    elements = content.index(torch.ones(5).numpy().tobytes(), second.offset)
    for position in range(second.offset, second.offset + second.length):
        if not elements <= position < elements + 20:
            changed = bytearray(content)
            changed[position] ^= 0x55
            path.write_bytes(changed)
            alone = tmp_path / "alone.pt"
            alone.write_bytes(changed[second.offset : second.offset + second.length])
            try:
                (expected,) = gradtool.measure(alone).tensors
            except gradtool.InputError:
                assert "'b': " in refusal(tmp_path / "run")
                continue
            found = gradtool.measure(tmp_path / "run").tensors[1]
            assert found.stats == expected.stats


def test_blobs_that_hold_something_else_are_refused_by_name(tmp_path: Path) -> None:
    box = [[Item("w", Box((0, 0), (6, 4)))]]
    metadata = write_distcp(tmp_path / "run", {"w": WHOLE}, box, in_blobs=True)
    assert isinstance(metadata, Metadata)
    path = tmp_path / "run" / shard_file(0)

    def about(held: dict[str, torch.Tensor], noted: str | None) -> str:
        metadata = None if noted is None else {"DCP_SHARDING_INFO": noted}
        path.write_bytes(safetensors.torch.save(held, metadata=metadata))
        line = refusal(tmp_path / "run")
        assert shard_file(0) in line
        return line

    at_zero = '{"w": {"saved_offsets": [0, 0]}}'
    assert "'w': DCP_SHARDING_INFO has no offsets" in about({"w": WHOLE}, None)
    assert "'w': the place in the whole" in about({"w": WHOLE}, '{"w": {"saved_offsets": [1, 0]}}')
    assert "'w': the type of its box is F16" in about({"w": WHOLE.half()}, at_zero)
    assert "'w': the shape of its box is [4, 6]" in about({"w": WHOLE.reshape(4, 6)}, at_zero)
    assert "'w': its box is not among" in about({}, "{}")
    both = '{"w": {"saved_offsets": [0, 0]}, "v": {"saved_offsets": [0, 0]}}'
    assert "'v': .metadata does not name" in about({"w": WHOLE, "v": WHOLE.clone()}, both)


def test_a_rank_with_two_boxes_of_one_tensor_in_a_blob_is_refused(tmp_path: Path) -> None:
    """The writer keeps the last of them only."""
    items = [[Item("w", box) for box in BOXES]]
    write_distcp(tmp_path / "run", {"w": WHOLE}, items, in_blobs=True)
    assert "'w': the place in the whole tensor of its box is [3, 0]" in refusal(tmp_path / "run")


def test_a_link_out_of_the_directory_is_a_shard_like_any(tmp_path: Path) -> None:
    """As in caches of downloads: names must be plain, files may be links."""
    write_distcp(tmp_path / "run", {"w": WHOLE}, RANKS)
    (tmp_path / "run" / shard_file(1)).rename(tmp_path / "blob")
    (tmp_path / "run" / shard_file(1)).symlink_to(tmp_path / "blob")
    assert gradtool.measure(tmp_path / "run").tensors[0].stats.numel == 24
