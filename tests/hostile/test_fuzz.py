"""The agreement fuzzer: a bounded run of it, and whether it can fail."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.files.seeds import seeds
from fuzz.mutations.mutants import KINDS, chosen_seed, mutant
from fuzz.smaller import verdicts_of
from fuzz.tally import kind_of

FOLDER = Path(__file__).parent / "fuzz"

FILES = 5300
"""Some 15 s of a processor."""

LEAST_AGREED = {
    "safetensors": 300, "numpy": 400, "torch": 500, "torch mmap": 500, "pickle": 80, "gguf": 80,
    "flax": 80,
}  # fmt: skip


pytestmark = pytest.mark.filterwarnings("ignore")  # loaders warn about much


def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / script), *args]
    return subprocess.run(command, capture_output=True, check=False, text=True, timeout=500)


def test_what_gradtool_and_a_loader_both_read_is_the_same(tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    ended = run("run.py", "--files", str(FILES), "--agree", str(FILES), "--json", str(counts))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(counts.read_text())
    assert found["files"] == FILES
    for loader, least in LEAST_AGREED.items():
        assert found["counts"][f"{loader}: agree"] >= least, ended.stdout


def test_faults_that_are_put_back_are_found() -> None:
    """All of them take minutes: `faults.py` without names."""
    names = (
        "tensor_of_numbers", "replaced_elements", "alike_by_raw_name", "member_without_suffix",
        "two_members_for_one_key", "torch_beside_arrays", "two_formats", "big_endian_arrays",
        "missing_tensor", "nan_is_zero", "drifting_sum", "sizes_as_listed", "little_endian_gguf",
        "chunks_by_themselves",
    )  # fmt: skip
    ended = run("faults.py", "--files", "3000", *names)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(ended.stdout.splitlines()) == len(names)


@pytest.mark.parametrize("kind", KINDS)
def test_what_real_writers_leave_is_agreed_upon_as_it_is_and_put_together_again(
    kind: str, tmp_path: Path
) -> None:
    parse, build = KINDS[kind].parse, KINDS[kind].build
    for seed in [one for one in seeds().values() if one.kind == kind]:
        again = build(parse(seed.content))
        assert build(parse(again)) == again, seed.name
        if kind in (
            "npz",
            "safetensors",
            "gguf",
            "flax",
        ):  # a pickle or literal may be spelled otherwise
            assert again == seed.content, seed.name
        verdicts = verdicts_of(str(tmp_path / "mutant"), seed.content)
        assert verdicts_of(str(tmp_path / "mutant"), again) == verdicts
        kinds = {kind_of(verdict) for verdict in verdicts} - {"not for it", "both refuse"}
        assert kinds in ({"agree"}, {"stricter: types that are not measured"}), seed.name


def test_a_mutant_follows_from_its_number() -> None:
    def digest() -> str:
        made = [mutant(chosen_seed(number), number).content for number in range(200)]
        made += [seed.content for seed in seeds().values()]
        return hashlib.sha256(b"".join(made)).hexdigest()

    script = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "from fuzz.files.seeds import seeds\n"
        "from fuzz.mutations.mutants import chosen_seed, mutant\n"
        "made = [mutant(chosen_seed(number), number).content for number in range(200)]\n"
        "made += [seed.content for seed in seeds().values()]\n"
        "print(hashlib.sha256(b''.join(made)).hexdigest())"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(FOLDER.parent)],
        capture_output=True, check=True, text=True, env={"PYTHONHASHSEED": "7"},
    ).stdout  # fmt: skip
    assert elsewhere.strip() == digest() == digest()


def test_a_change_that_is_left_out_leaves_the_others_as_they_were() -> None:
    for number in range(300):
        seed = chosen_seed(number)
        whole = mutant(seed, number)
        count = len(whole.changes)
        assert mutant(seed, number, range(count)) == whole
        for left_out in range(count):
            fewer = mutant(seed, number, set(range(count)) - {left_out})
            expected = [one for at, one in enumerate(whole.changes) if at != left_out]
            assert [*fewer.changes] == expected
