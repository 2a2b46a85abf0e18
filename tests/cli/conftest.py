"""What tests of several commands need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def huge(tmp_path: Path) -> str:
    """A sparse file that takes no space on the disk and many seconds to read."""
    path = tmp_path / "huge.safetensors"
    size = 100 * 10**9
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"w": entry}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    return str(path)
