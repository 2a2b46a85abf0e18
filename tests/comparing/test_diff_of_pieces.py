"""A tensor in pieces that ranks wrote is the one that a single file holds, stored as it may be."""

from __future__ import annotations

import os
import sys
from contextlib import chdir
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from writers.processes import run_ranks

import gradtool
from gradtool.core.comparing.difference import Difference
from gradtool.engine.backend import PAIR_NBYTES

WORLD = 4
PLACEMENTS = {
    "rows": ((4,), [Shard(0)]),
    "columns": ((4,), [Shard(1)]),
    "boxes": ((2, 2), [Shard(0), Shard(1)]),
    "copies": ((4,), [Replicate()]),
    "rows_twice": ((2, 2), [Replicate(), Shard(0)]),
}


def wholes() -> dict[str, torch.Tensor]:
    """Matrices of more elements than a block has, and of sizes that no number of ranks divides."""
    rng = torch.Generator().manual_seed(7)
    found: dict[str, torch.Tensor] = {}
    for name in PLACEMENTS:
        found[f"{name}.f"] = torch.randn(1021, 1031, generator=rng)
        found[f"{name}.h"] = torch.randn(33, 17, generator=rng).to(torch.bfloat16)
        found[f"{name}.i"] = torch.randint(-(1 << 62), 1 << 62, (37, 19), generator=rng)
        found[f"{name}.b"] = torch.randn(21, 13, generator=rng) > 0.0
    assert 8 * found["rows.f"].numel() > PAIR_NBYTES
    return found


def _save(_rank: int, _world: int) -> None:
    state = {}
    for name, whole in wholes().items():
        sizes, placements = PLACEMENTS[name.partition(".")[0]]
        state[name] = distribute_tensor(whole, init_device_mesh("cpu", sizes), placements)
    dcp.save(state, checkpoint_id="checkpoint")
    dist.barrier()


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four ranks write of all matrices."""
    folder = tmp_path_factory.mktemp("ranks")
    with chdir(folder):
        run_ranks(_save, WORLD)
    return folder / "checkpoint"


def other(found: Difference, name: str) -> tuple[int | None, tuple[int, ...] | None]:
    (one,) = [one for one in found.others if one.name == name]
    return one.differing, one.first_differing


def test_pieces_of_ranks_are_one_file(pieces: Path, tmp_path: Path) -> None:
    file = tmp_path / "whole.safetensors"
    save_file(wholes(), file)
    for found in (gradtool.diff(pieces, file), gradtool.diff(file, pieces)):
        assert found.identical
        assert len(found.tensors) == len(found.others) == 2 * len(PLACEMENTS)


@pytest.mark.parametrize("name", PLACEMENTS)
def test_what_differs_is_found_in_the_piece_where_it_is(
    name: str, pieces: Path, tmp_path: Path
) -> None:
    changed = wholes()
    places = [(1000, 5), (700, 1030), (1020, 1030)]
    for place in places:
        changed[f"{name}.f"][place] += 1.0
    changed[f"{name}.i"][36, 18] ^= 1
    changed[f"{name}.b"][3, 12] ^= True
    file = tmp_path / "whole.safetensors"
    save_file(changed, file)
    found = gradtool.diff(file, pieces)
    (apart,) = [tensor for tensor in found.tensors if not tensor.identical]
    assert apart.name == f"{name}.f"
    assert apart.differing == 3
    assert apart.first_differing == (700, 1030)
    assert other(found, f"{name}.i") == (1, (36, 18))
    assert other(found, f"{name}.b") == (1, (3, 12))
    assert sum(not one.identical for one in found.others) == 2


@pytest.mark.parametrize("name", PLACEMENTS)
def test_rows_of_pieces_are_those_of_the_whole(name: str, pieces: Path, tmp_path: Path) -> None:
    """Rows that begin and end within what ranks hold, of floats and of bfloat16."""
    rows = {".f": slice(100, 900), ".h": slice(7, 20)}
    cut = {f"{name}{end}.cut": wholes()[f"{name}{end}"][some].clone() for end, some in rows.items()}
    changed = cut[f"{name}.f.cut"]
    changed[600, 1030] += 1.0
    changed[700, 3] += 1.0
    file = tmp_path / "cut.safetensors"
    save_file(cut, file)
    onto = [f"{name}.f.cut={name}.f[100:900]", f"{name}.h.cut={name}.h[7:20]"]
    found = gradtool.diff(file, pieces, name_map=onto)
    assert [(one.name, one.b.name, one.differing) for one in found.tensors] == [
        (f"{name}.f.cut", f"{name}.f[100:900]", 2),
        (f"{name}.h.cut", f"{name}.h[7:20]", 0),
    ]
    assert found.tensors[0].first_differing == (600, 1030)
    assert {f"{name}.f[0:100]", f"{name}.f[900:1021]", f"{name}.h[20:33]"} <= {*found.only_in_b}
    off = [f"{name}.f[100:900]={name}.f.cut", f"{name}.h[7:20]={name}.h.cut"]
    back = gradtool.diff(pieces, file, name_map=off)
    assert [one.differing for one in back.tensors] == [2, 0]


def test_fortran_order_deflated_against_views_of_torch(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    array = rng.standard_normal((300, 40, 70)).astype(np.float32)
    np.savez_compressed(tmp_path / "a.npz", w=np.asfortranarray(array), v=array.T)
    turned = torch.from_numpy(array.transpose(2, 0, 1).copy()).permute(1, 2, 0)
    torch.save({"w": turned, "v": turned.permute(2, 1, 0)}, tmp_path / "b.pt")
    found = gradtool.diff(tmp_path / "a.npz", tmp_path / "b.pt")
    assert found.identical
    assert found.notes == (
        "2 tensors are inflated into a temporary file of at most 3.4 MB: their orders differ",
    )
    array[299, 0, 69] = 3.0
    torch.save({"w": torch.from_numpy(array), "v": turned.permute(2, 1, 0)}, tmp_path / "b.pt")
    found = gradtool.diff(tmp_path / "a.npz", tmp_path / "b.pt")
    assert found.first_difference == "w"
    assert found.tensors[0].first_differing == (299, 0, 69)


@pytest.mark.parametrize("is_first", [True, False])
def test_integers_on_one_side_and_floats_on_the_other(is_first: bool, tmp_path: Path) -> None:
    """They do not pair: what is a gradient in one dump is no tensor to compare in the other."""
    floats = {"w": torch.ones(3), "v": torch.ones(2)}
    paths = [tmp_path / "f.safetensors", tmp_path / "i.safetensors"]
    save_file(floats, paths[0])
    save_file(floats | {"w": torch.ones(3, dtype=torch.int32)}, paths[1])
    found = gradtool.diff(*(paths if is_first else paths[::-1]))
    assert not found
    assert (found.only_in_a, found.only_in_b) == ((("w",), ()) if is_first else ((), ("w",)))
    assert [tensor.name for tensor in found.tensors] == ["v"]
    sides = "F32 in A, I32 in B" if is_first else "F32 in B, I32 in A"
    assert found.notes == (f"not compared, as one of both is no gradient: 'w' ({sides})",)


@pytest.fixture
def unlike_orders(tmp_path: Path) -> tuple[Path, Path]:
    """One array, deflated in Fortran order and in C order."""
    array = np.random.default_rng(9).standard_normal((500, 700))
    paths = tmp_path / "f.npz", tmp_path / "c.npz"
    np.savez_compressed(paths[0], w=np.asfortranarray(array))
    np.savez_compressed(paths[1], w=array)
    return paths


WATCHED = """
import sys, resource, gradtool
if sys.argv[4:]: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
made = []
sys.addaudithook(lambda event, found: made.append(found[0]) if event == "open" else None)
print(gradtool.diff(*sys.argv[1:3]).identical)
print(any(str(one).startswith(sys.argv[3]) for one in made))
"""


def compared(orders: tuple[Path, Path], folder: Path, *more: str, mount: str = "") -> list[str]:
    """What a process prints whose TMPDIR is `folder`, or the last line of its error."""
    command = [sys.executable, "-c", WATCHED, *map(str, (*orders, folder)), *more]
    if mount:
        unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
        command = [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.split() or done.stderr.splitlines()[-1:]


def test_streams_of_unlike_orders_go_through_a_file_in_tmpdir(
    unlike_orders: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    assert compared(unlike_orders, folder) == ["True", "True"]
    assert not list(folder.iterdir())
    (full,) = compared(unlike_orders, folder, "with files of 1 MiB at most")
    assert f"ResourceError: a temporary file in {folder} cannot be written" in full
    assert not list(folder.iterdir())


def test_a_stream_for_which_there_is_no_room_is_refused(
    unlike_orders: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs '{folder}'"
    try:
        (line,) = compared(unlike_orders, folder, mount=mount)
    except FileNotFoundError:
        pytest.skip("there is no unshare here, to mount a small disk with")
    if "ResourceError" not in line:
        pytest.skip(f"no small disk can be mounted here: {line}")
    needed = "a temporary file of 2,800,000 bytes is needed, 1,048,576 are free"
    assert f"{needed} in {folder}" in line
