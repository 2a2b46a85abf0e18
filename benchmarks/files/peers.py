"""What others would run: short scripts, each a whole process that prints its norm last.

Arguments are the dump and p, and for `TORCH` a device if it is not the CPU; those that clip take
the dump and the bound, or where to write.
"""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Sequence

TORCH = """
import sys, torch
from safetensors.torch import load_file
grads = load_file(sys.argv[1], *sys.argv[3:])
print(torch.nn.utils.get_total_norm(list(grads.values()), float(sys.argv[2])).item())
"""

TORCH_ZIP = """
import sys, torch
grads = torch.load(sys.argv[1])
print(torch.nn.utils.get_total_norm(list(grads.values()), float(sys.argv[2])).item())
"""

MLX = """
import sys
import mlx.core as mx
from mlx.optimizers import clip_grad_norm
_, norm = clip_grad_norm(mx.load(sys.argv[1]), 1.0)  # lazy: nothing is clipped
print(norm.item())
"""

TORCH_CLIP = """
import sys, torch
from safetensors.torch import load_file
grads = load_file(sys.argv[1])
holders = []
for grad in grads.values():
    holders.append(torch.empty_like(grad))
    holders[-1].grad = grad
torch.nn.utils.clip_grad_norm_(holders, float(sys.argv[2]))
print(max(grad.abs().max().item() for grad in grads.values()))
"""

TORCH_CLIP_FILE = """
import sys, torch
from safetensors.torch import load_file, save_file
grads = load_file(sys.argv[1])
holders = []
for grad in grads.values():
    holders.append(torch.empty_like(grad))
    holders[-1].grad = grad
norm = torch.nn.utils.clip_grad_norm_(holders, 1.0)
save_file(grads, sys.argv[2])
print(norm.item())
"""

START = "import numpy, typer, rich.table"
START_TORCH = "import torch"
START_DEVICE = "import sys, torch; torch.zeros(1, device=sys.argv[1]).item()"

GRADTOOL_DEVICE_MEMORY = """
import torch
from gradtool.__main__ import main
try:
    main()
finally:
    print(torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
"""


def script(source: str, *arguments: object) -> list[str]:
    """The command that runs one of the scripts."""
    return [sys.executable, "-c", source, *map(str, arguments)]


def gradtool(*arguments: object) -> list[str]:
    """A gradtool command."""
    return [sys.executable, "-m", "gradtool", *map(str, arguments)]


def inspect(path: object, p: object = 2, *options: object) -> list[str]:
    """The gradtool command that the peers are held against."""
    return gradtool(*inspect_arguments(path, p, *options))


def inspect_arguments(path: object, p: object = 2, *options: object) -> list[object]:
    """What that command is given."""
    return ["inspect", path, "-f", "json", "-p", p, "--quiet", "--no-progress", *options]


def clip(path: object, out: object) -> list[str]:
    """The gradtool command that writes clipped gradients."""
    return gradtool("clip", path, "-o", out, "--max-norm", 1, "-f", "json", "--no-progress")


def then_sync(command: Sequence[str], out: object) -> list[str]:
    """The command, and then `sync` of the file that it has written."""
    return ["sh", "-c", f"{shlex.join(command)} && exec sync {shlex.quote(str(out))}"]


def has_mlx() -> bool:
    """Whether MLX is installed and starts on this machine."""
    if importlib.util.find_spec("mlx") is None:
        return False
    trial = [sys.executable, "-c", "import mlx.core"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0
