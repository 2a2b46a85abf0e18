"""Gradients of FSDP1 are dumped where they are whole, and refused where they are pieces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from environment import PLAIN

import gradtool

sys.path.insert(0, str(Path(__file__).parent))
from two_ranks import STEP, expected_norm


def test_pieces_are_refused_and_whole_gradients_are_dumped(tmp_path: Path) -> None:
    script = Path(__file__).parent / "fsdp1_by_two.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    run = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(script), str(tmp_path)],
        env={**PLAIN, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback},
        check=False,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    for rank in range(2):
        lines = (tmp_path / f"told{rank}.txt").read_text().splitlines()
        assert len(lines) == 2
        for line in lines:
            assert "FSDP1" in line
            assert "summon_full_params" in line
    assert not (tmp_path / "pieces").exists()
    assert not (tmp_path / "flat").exists()
    for folder in ("whole", "copies"):
        outcome = gradtool.check(str(tmp_path / folder))
        assert outcome.exit_code == 0
        found = gradtool.measure(str(tmp_path / folder))
        assert found.step == STEP
        assert found.total.norm == pytest.approx(expected_norm(), rel=1e-12)
