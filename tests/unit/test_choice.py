"""Which engine computes: what may be asked for, what is taken, and what is said where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import on_gpu
from command_line import error_lines, run
from dumps import write_safetensors

import gradtool
from gradtool.engine import choice
from gradtool.engine.choice import BackendChoice
from gradtool.engine.torch_backend.backend import NBYTES_PER_NUMBER, fitting_numbers
from gradtool.engine.torch_backend.encodings import ROW

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


@pytest.fixture
def dump(tmp_path: Path) -> str:
    array = np.array([3.0, 4.0], np.float32)
    return str(write_safetensors(tmp_path / "x.safetensors", {"w": ("F32", array)}))


@pytest.mark.parametrize(
    ("backend", "device", "memory", "words"),
    [
        ("cupy", None, None, "auto, numpy, torch, not 'cupy'"),
        (None, None, None, "auto, numpy, torch"),
        ("torch", "cdua", None, "not 'cdua'"),
        ("torch", "", None, "not ''"),
        ("torch", "cuda:", None, "not 'cuda:'"),
        ("torch", "cuda:-1", None, "not 'cuda:-1'"),
        ("torch", "cuda:00", None, "not 'cuda:00'"),
        ("torch", "cuda:99999", None, "not 'cuda:99999'"),
        ("auto", "mps", None, "no float64"),
        ("auto", "cuda:0,cuda:0", None, "different GPUs"),
        ("auto", "cpu,cuda", None, "the CPU alone"),
        ("numpy", "cuda", None, "for the torch backend"),
        ("numpy", None, "1GiB", "for the torch backend"),
        ("torch", None, "much", "not 'much'"),
        ("torch", None, "-1GiB", "not '-1GiB'"),
        ("torch", None, "1PB", "not '1PB'"),
        ("torch", None, 1000, "at least 64MiB"),
        ("torch", None, "nan", "not 'nan'"),
        ("torch", None, "9" * 400, "must be bytes"),
        pytest.param("torch", None, 10**5000, "at most an exbibyte", id="huge"),
        ("torch", None, "70000\u212a", "must be bytes"),
        ("torch", None, "67108864iB", "must be bytes"),
        ("torch", None, True, "not True"),
        ("torch", "c p u", None, "not 'c p u'"),
        ("torch", [], None, "different GPUs"),
        ("torch", ["cpu", "cuda"], None, "the CPU alone"),
        (["torch"], None, None, "not ['torch']"),
    ],
)
def test_what_does_not_exist_or_fit_together_is_a_usage_error(
    backend: Any, device: Any, memory: Any, words: str, dump: str
) -> None:
    with pytest.raises(gradtool.UsageError) as caught:
        gradtool.measure(dump, backend=backend, device=device, device_memory=memory)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("memory", "nbytes"),
    [
        (1 << 30, 1 << 30),
        ("1073741824", 1 << 30),
        ("4GiB", 4 << 30),
        ("4gib", 4 << 30),
        ("4 GB", 4 * 10**9),
        ("4G", 4 * 10**9),
        ("0.5TiB", 1 << 39),
        ("70000KiB", 70_000 << 10),
        ("64MiB", 64 << 20),
    ],
)
def test_sizes_are_as_people_write_them(memory: int | str, nbytes: int) -> None:
    assert BackendChoice.checked("torch", None, memory).memory == nbytes


def test_auto_stays_with_numpy_for_what_a_gpu_would_not_pay_for(dump: str) -> None:
    assert gradtool.measure(dump).backend == "numpy"
    assert BackendChoice.checked("auto", None, None).for_bytes(1 << 20, 2).name == "numpy"


AS_THOUGH_WITH_A_GPU = """
import sys
import gradtool
from gradtool.engine import choice
choice._GPU_FILES = ("/dev/null",)
choice.BREAK_EVEN_NBYTES = {nbytes}
gradtool.measure({dump!r})
print("torch" in sys.modules)
"""


@pytest.mark.parametrize(("nbytes", "is_loaded"), [(9, "False"), (8, "True")])
def test_torch_is_not_even_asked_about_what_a_gpu_would_not_pay_for(
    nbytes: int, is_loaded: str, dump: str
) -> None:
    code = AS_THOUGH_WITH_A_GPU.format(nbytes=nbytes, dump=dump)
    root = str(Path(gradtool.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == is_loaded


@pytest.mark.parametrize("device", ["cpu", " cpu ", torch.device("cpu"), ["cpu"], ("cpu",)])
def test_who_names_a_device_wants_it_used(device: Any, dump: str) -> None:
    assert gradtool.measure(dump, device=device).backend == "torch"


def test_several_devices_are_named_with_commas_or_in_a_list() -> None:
    names = ("cuda:0", "cuda:1")
    for device in ("cuda:0,cuda:1", "cuda:0, cuda:1", ["cuda:0", "cuda:1"], names):
        assert BackendChoice.checked("auto", device, None).devices == names


@no_gpu
def test_auto_never_takes_torch_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # As though the files of a driver were there, which outlive GPUs that are taken away.
    monkeypatch.setattr(choice, "_GPU_FILES", ("/dev/null",))
    assert BackendChoice.checked("auto", None, None).for_bytes(1 << 50, 2).name == "numpy"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_auto_takes_a_gpu_for_what_is_large() -> None:
    chosen = BackendChoice.checked("auto", None, None)
    assert chosen.for_bytes(choice.BREAK_EVEN_NBYTES, 2).name == "torch"
    assert chosen.for_bytes(choice.BREAK_EVEN_NBYTES - 1, 2).name == "numpy"


@no_gpu
@pytest.mark.parametrize("command", ["inspect", "check"])
@pytest.mark.parametrize("options", [["--backend", "torch"], ["--device", "cuda:1"]])
def test_a_gpu_that_is_not_there_exits_3_with_one_line(
    command: str, options: list[str], dump: str
) -> None:
    result = run(command, dump, dump, *options)
    assert (result.returncode, result.stdout) == (3, "")
    (line,) = error_lines(result)
    assert "torch" in line
    assert "--device cpu" in line


@no_gpu
def test_nothing_is_written_where_the_gpu_is_not_there(dump: str, tmp_path: Path) -> None:
    result = run("clip", dump, "--max-norm", "1", "-o", str(tmp_path / "out"), "--device", "cuda")
    assert (result.returncode, result.stdout) == (3, "")
    assert len(error_lines(result)) == 1
    assert list(tmp_path.iterdir()) == [Path(dump)]


@pytest.mark.parametrize(
    "options", [["--device", "tpu"], ["--backend", "jax"], ["--device-memory", "1"]]
)
def test_unknown_words_exit_2_with_one_line(options: list[str], dump: str) -> None:
    result = run("inspect", dump, *options)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(error_lines(result)) == 1


WITHOUT_TORCH = """
import sys
sys.path[:] = [p for p in sys.path if p != {site!r}]
sys.path.append({lent!r})
import gradtool
try:
    gradtool.measure({dump!r}, backend="torch", device="cpu")
except gradtool.DeviceError as error:
    print(error)
print(gradtool.measure({dump!r}).backend)
"""


@pytest.mark.parametrize(
    ("torch_is", "problem"),
    [
        (None, "torch is not installed"),
        (
            "raise OSError('libcudart.so.13: cannot open')",
            "torch cannot be imported: libcudart.so.13",
        ),
        ("raise ImportError", "torch cannot be imported: ImportError"),
        ("Tensor = object", "torch cannot be imported: module 'torch' has no attribute"),
    ],
)
def test_without_torch_one_line_says_how_to_install_it(
    dump: str, tmp_path: Path, torch_is: str | None, problem: str
) -> None:
    # What gradtool needs is lent from where torch is installed too, and torch is not.
    site, lent = Path(np.__file__).parents[1], tmp_path / "site"
    lent.mkdir()
    for name in ("numpy", "numpy.libs", "ml_dtypes"):
        if (site / name).exists():
            (lent / name).symlink_to(site / name)
    if torch_is is not None:
        (lent / "torch.py").write_text(torch_is)
    code = WITHOUT_TORCH.format(site=str(site), lent=str(lent), dump=dump)
    root = Path(gradtool.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.append({str(root)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    said, backend = done.stdout.splitlines()
    assert backend == "numpy"
    assert "pip install" in said
    assert said.startswith(problem)


@pytest.mark.parametrize("memory", [64 << 20, 256 << 20, 1 << 40])
@pytest.mark.parametrize("threads", [1, 4, 9])
@pytest.mark.parametrize("devices", [1, 2])
def test_groups_of_all_threads_of_a_device_fit_into_its_memory(
    devices: int, threads: int, memory: int
) -> None:
    fitting = fitting_numbers(memory, threads, devices)
    sharing = -(-threads // devices)
    assert fitting % ROW == 0
    assert 0.9 * memory < sharing * fitting * NBYTES_PER_NUMBER <= memory


def test_less_memory_than_threads_need_is_a_usage_error(dump: str) -> None:
    options: dict[str, Any] = {"device": "cpu", "device_memory": "64MiB"}
    assert gradtool.measure(dump, **options, threads=4).backend == "torch"
    with pytest.raises(gradtool.UsageError, match=r"64 MiB .* too few for 100 threads"):
        gradtool.measure(dump, **options, threads=100)
    assert gradtool.measure(dump, device="cpu", threads=100).backend == "torch"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
def test_devices_are_found_and_reported(device: str, dump: str) -> None:
    found = gradtool.measure(dump, device=device, device_memory="128MiB")
    assert (found.backend, found.total and found.total.stats.norm) == ("torch", 5.0)
