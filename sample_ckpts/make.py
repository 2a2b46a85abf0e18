"""Train a small model, dump its gradients in many formats, and write down the true answers.

    python sample_ckpts/make.py

needs torch, numpy and safetensors, takes twenty seconds and overwrites the files beside it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from charmodel import Grads, Run, exploded, healthy, nonfinite
from oracle import DTYPE_NAMES, Clip, Entry, Json, clip_facts, set_facts, tensor_facts
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
SHARDS = 3
KINDS = {
    "grads": "gradients",
    "model": "weights",
    "optimizer.exp_avg": "optimizer",
    "optimizer.exp_avg_sq": "optimizer",
}
PLAIN = (Clip(),)

_NONFINITE = [["GT101", "layers.1.up.weight"], ["GT102", "layers.1.up.gain"]]
SICK = {
    "nonfinite.safetensors": _NONFINITE,
    "nonfinite.pt": _NONFINITE,
    "overflow_f16.safetensors": [["GT201", "embed.weight"], ["GT203", "embed.weight"]],
    "exploded.safetensors": [["GT203", "layers.2.qkv.weight"]],
    "empty.safetensors": [["GT002", None]],
    "empty.pt": [["GT002", None]],
    "truncated.safetensors": [["GT001", "position.weight"]],
    "truncated.pt": [["GT001", None]],
}
"""The errors, code and tensor, that `gradtool check` has to find; in all other files none."""


class Dumps:
    """Writes dumps and remembers what is true about each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.known: dict[str, Json] = {}

    def path(self, name: str) -> str:
        """Where the file `name` belongs, as text."""
        return str(self.directory / name)

    def record(
        self,
        name: str,
        layout: str,
        entries: list[Entry],
        files: list[str],
        clips: Sequence[Clip] = PLAIN,
    ) -> None:
        """Note the truth about one dump whose tensors belong to no section."""
        self.known[name] = {
            "format": layout,
            "exit_code": 0,
            "files": files,
            "total": set_facts(entries),
            "sections": [],
            "tensors": [tensor_facts(entry) for entry in entries],
            "skipped": [],
            "clip": [clip_facts(entries, clip) for clip in clips],
            "check": verdict(name, 1),
        }

    def refused(self, name: str, layout: str) -> None:
        """Note a file that has to be refused."""
        clip = {"options": Clip().options, "exit_code": 3}
        self.known[name] = {
            "format": layout,
            "exit_code": 3,
            "files": [name],
            "clip": [clip],
            "check": verdict(name, 3),
        }

    def safetensors(self, name: str, grads: Grads, clips: Sequence[Clip] = PLAIN) -> None:
        """One safetensors file."""
        save_file(grads, self.path(name))
        reload_equals(load_file(self.path(name)), grads)
        self.record(name, "safetensors", plain(grads), [name], clips)

    def torch(self, name: str, grads: Grads, clips: Sequence[Clip] = PLAIN) -> None:
        """One torch zip of a dict of tensors."""
        torch.save(grads, self.path(name))
        reload_equals(torch.load(self.path(name), weights_only=True), grads)
        self.record(name, "torch", plain(grads), [name], clips)

    def npz(self, name: str, grads: Grads, *, compressed: bool = False) -> None:
        """One npz, its first matrix in Fortran order."""
        arrays = {key: grad.numpy() for key, grad in grads.items()}
        matrix = next(key for key, array in arrays.items() if array.ndim == 2)
        arrays[matrix] = np.asfortranarray(arrays[matrix])
        (np.savez_compressed if compressed else np.savez)(self.path(name), **arrays)
        with np.load(self.path(name)) as back:
            reload_equals({key: torch.from_numpy(back[key]) for key in back}, grads)
        self.record(name, "npz", plain(grads), [name])

    def npy(self, name: str, grad: Tensor) -> None:
        """One npy, which stores no name."""
        np.save(self.path(name), grad.numpy())
        reload_equals({name: torch.from_numpy(np.load(self.path(name)))}, {name: grad})
        self.record(name, "npy", [Entry(None, grad)], [name])

    def sharded(
        self, folder: str, stem: str, suffix: str, save: Callable[[Grads, str], None], grads: Grads
    ) -> None:
        """A directory of shards and their index, as Hugging Face lays them out."""
        (self.directory / folder).mkdir()
        weight_map: dict[str, str] = {}
        for number, names in enumerate(shards(grads), start=1):
            shard = f"{stem}-{number:05d}-of-{SHARDS:05d}.{suffix}"
            save({name: grads[name] for name in names}, self.path(f"{folder}/{shard}"))
            weight_map |= dict.fromkeys(names, shard)
        index = f"{folder}/{stem}.{suffix}.index.json"
        size = sum(grad.nbytes for grad in grads.values())
        content = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (self.directory / index).write_text(json.dumps(content, indent=2) + "\n")
        files = [index, *(f"{folder}/{shard}" for shard in sorted(set(weight_map.values())))]
        self.record(folder, "sharded", plain(grads), files)
        self.known[index] = self.known[folder]

    def truncated(self, name: str, source: str, layout: str) -> None:
        """The first three fifths of another file."""
        whole = (self.directory / source).read_bytes()
        (self.directory / name).write_bytes(whole[: len(whole) * 3 // 5])
        self.refused(name, layout)

    def training(self, name: str, run: Run) -> None:
        """A full training checkpoint: weights, optimizer state, gradients, counters."""
        state = {
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "grads": run.grads(),
            "step": run.step,
            "learning_rate": run.optimizer.param_groups[0]["lr"],
            "rng_state": torch.get_rng_state(),
        }
        torch.save(state, self.path(name))
        found = list(walk(state))
        reload_equals(
            {entry.name: entry.tensor for entry in walk(torch.load(self.path(name)))},
            {entry.name: entry.tensor for entry in found},
        )
        entries = [entry for entry in found if entry.tensor.is_floating_point()]
        sections = [
            {"name": section, "kind": kind}
            | set_facts(entry for entry in entries if entry.section == section)
            for section, kind in KINDS.items()
        ]
        of_grads = [entry for entry in entries if entry.section == "grads"]
        self.record(name, "torch", entries, [name], clips=())
        self.known[name] |= {
            "total": None,
            "sections": sections,
            "skipped": [
                {"name": entry.name, "dtype": DTYPE_NAMES[entry.tensor.dtype]}
                for entry in found
                if not entry.tensor.is_floating_point()
            ],
            "clip": [
                {"options": Clip().options, "exit_code": 2},  # clip what?
                clip_facts(of_grads, Clip(section="grads")),
            ],
        }


def verdict(name: str, exit_code: int) -> Json:
    """What `gradtool check` says about a file: `exit_code` if it is sick."""
    errors = SICK.get(name, [])
    return {"exit_code": exit_code if errors else 0, "errors": errors}


def plain(grads: Grads) -> list[Entry]:
    """The tensors of a flat dump, those under a second name marked as aliases."""
    first: dict[int, str] = {}
    return [
        Entry(name, grad, alias_of=alias if alias != name else None)
        for name, grad in grads.items()
        for alias in [first.setdefault(grad.data_ptr(), name)]
    ]


def walk(checkpoint: object) -> Iterator[Entry]:
    """Every tensor of a nested checkpoint, shared weights marked as aliases."""
    first: dict[int, str] = {}

    def descend(value: object, path: tuple[str, ...]) -> Iterator[Entry]:
        if isinstance(value, Tensor):
            name = ".".join(path)
            alias = first.setdefault(value.data_ptr(), name)
            of_optimizer = f"optimizer.{path[-1]}" if path[0] == "optimizer" else path[0]
            section = of_optimizer if of_optimizer in KINDS else "other"
            yield Entry(name, value, section, alias if alias != name else None)
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from descend(item, (*path, str(key)))
        elif isinstance(value, list):
            for number, item in enumerate(value):
                yield from descend(item, (*path, str(number)))

    return descend(checkpoint, ())


def shards(grads: Grads) -> list[list[str]]:
    """Names in order, cut into `SHARDS` runs of about equal size."""
    total = sum(grad.nbytes for grad in grads.values())
    cut: list[list[str]] = [[] for _ in range(SHARDS)]
    done = 0
    for name, grad in grads.items():
        cut[done * SHARDS // total].append(name)
        done += grad.nbytes
    return cut


def reload_equals(loaded: Grads, saved: Grads) -> None:
    """Check that the format's own library gives back the same bits."""
    if loaded.keys() != saved.keys():
        raise SystemExit(f"names differ: {loaded.keys() ^ saved.keys()}")
    for name, grad in saved.items():
        if not torch.equal(bits(loaded[name]), bits(grad)):
            raise SystemExit(f"{name}: the file does not give back what was saved")


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, in which NaN equals itself."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def as_type(grads: Grads, dtype: torch.dtype, scale: float = 1.0) -> Grads:
    """Gradients times a loss scale, in another type."""
    return {name: (grad * scale).to(dtype) for name, grad in grads.items()}


def largest_loss_scale(grads: Grads) -> float:
    """The largest power of two that leaves every element finite in float16."""
    largest = max(grad.abs().max().item() for grad in grads.values())
    return 2.0 ** math.floor(math.log2(65504.0 / largest))


def double(run: Run) -> Grads:
    """The gradients of one batch from a backward pass in float64."""
    run.optimizer.zero_grad()  # or `double` would convert the gradients of before in place
    run.model.double()
    run.backward()
    return run.grads()


def spread(value: object, depth: int = 0) -> str:
    """Strict JSON with a line for each tensor, section and other fact."""
    if depth == 4 or not isinstance(value, dict | list) or not value:
        return json.dumps(value, allow_nan=False)
    margin = "\n" + " " * depth
    if isinstance(value, list):
        inner = [spread(item, 4) for item in value]
        return f"[{margin} {f',{margin} '.join(inner)}{margin}]"
    inner = [
        f"{json.dumps(key)}: {spread(item, 4 if key == 'files' else depth + 1)}"
        for key, item in value.items()
    ]
    return f"{{{margin} {f',{margin} '.join(inner)}{margin}}}"


def make(dumps: Dumps) -> None:
    """Train, dump, note."""
    run = healthy()
    grads = run.grads()
    dumps.safetensors("healthy.safetensors", grads)
    dumps.safetensors("healthy_bf16.safetensors", as_type(grads, torch.bfloat16))
    dumps.torch("healthy.pt", grads)
    dumps.torch("healthy_bf16.pt", as_type(grads, torch.bfloat16))
    dumps.npz("healthy.npz", grads)
    dumps.npz("healthy_compressed.npz", grads, compressed=True)
    dumps.npy("healthy.npy", grads["layers.1.up.weight"])
    dumps.sharded("sharded", "grads", "safetensors", save_file, grads)
    dumps.sharded("sharded_bin", "grads", "bin", torch.save, grads)
    dumps.torch("tied.pt", run.grads(every_name=True))
    dumps.training("training.pt", run)
    scale = largest_loss_scale(grads)
    print(f"overflow_f16: loss scale {scale:g}")
    overflowing = as_type(grads, torch.float16, scale)
    dumps.safetensors("overflow_f16.safetensors", overflowing, [Clip(), Clip(loss_scale=scale)])
    dumps.torch("healthy_f64.pt", double(run))
    dumps.safetensors("exploded.safetensors", exploded().grads())
    broken = nonfinite().grads()
    clips = [Clip(nonfinite=choice) for choice in ("error", "zero", "keep")]
    dumps.safetensors("nonfinite.safetensors", broken, clips)
    dumps.torch("nonfinite.pt", broken, clips)
    save_file({}, dumps.path("empty.safetensors"))
    dumps.refused("empty.safetensors", "safetensors")
    torch.save({}, dumps.path("empty.pt"))
    dumps.refused("empty.pt", "torch")
    dumps.truncated("truncated.safetensors", "healthy.safetensors", "safetensors")
    dumps.truncated("truncated.pt", "healthy.pt", "torch")


def main() -> None:
    """Make every file anew."""
    torch.set_num_threads(1)
    for folder in ("sharded", "sharded_bin"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
    dumps = Dumps(HERE)
    make(dumps)
    (HERE / "expected.json").write_text(spread({"checkpoints": dumps.known}) + "\n")
    size = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file())
    print(f"{len(dumps.known)} checkpoints, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
