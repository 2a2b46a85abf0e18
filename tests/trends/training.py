"""A training with a recorder, step by step as its standard input says: `python training.py STORE`.

A line is the number of a step, a command after it: `nan` breaks its gradients, `large` multiplies
them by 100. Once the row is committed the norm is printed, as `math.fsum` has it.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import nn

from gradtool.torch import Recorder


def main() -> None:
    """Train as long as there are lines."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with Recorder(net, sys.argv[1], dump_on="") as recorder:
        for line in sys.stdin:
            number, _, command = line.strip().partition(" ")
            inputs = torch.randn(16, 4, dtype=torch.float64)
            loss = (net(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            (loss * {"": 1.0, "large": 100.0, "nan": math.nan}[command]).backward()
            recorder.before_clipping(step=int(number))
            recorder.close()
            grads = [p.grad for p in net.parameters() if p.grad is not None]
            values = [value for grad in grads for value in grad.flatten().tolist()]
            norm = math.sqrt(math.fsum(value * value for value in values))
            sys.stdout.write(f"{norm}\n")
            sys.stdout.flush()
            if command != "nan":
                optimizer.step()


if __name__ == "__main__":
    main()
