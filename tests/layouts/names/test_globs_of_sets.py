"""Directories, globs and the paths that a shell makes of globs: one verdict on what is missing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import gradtool

A = np.float32([3.0, 4.0])


def dump(path: Path, name: str = "a") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: A}, path)
    return path


def codes(*sources: object, **options: object) -> tuple[int, list[list[str]]]:
    """The exit code, and the codes of what is found in each dump."""
    outcome = gradtool.check(*sources, **options)  # type: ignore[arg-type]
    return outcome.exit_code, [[one.code for one in v.findings] for v in outcome.verdicts]


SHARD = "model-0000{}-of-0000{}.safetensors"


@pytest.mark.parametrize(
    ("names", "pattern", "lost"),
    [
        ([SHARD.format(1, 4)], "*.safetensors", SHARD.format(2, 4)),
        (["grads_rank1.safetensors"], "*.safetensors", "grads_rank0"),
        ([f"step_{s}/grads_rank1.safetensors" for s in (10, 20)], "*/*.safetensors", "grads_rank0"),
        ([f"step_{s}/{SHARD.format(1, 2)}" for s in (10, 20)], "*/*", SHARD.format(2, 2)),
        (["rank1/grads.safetensors"], "*/grads.safetensors", "rank0"),
        (["rank1/a.safetensors", "rank1/b.safetensors"], "*/*", "rank0/a"),
        (["rank1/grads.safetensors"], "*", "rank0"),
        (["rank1/grads.safetensors"], "**/*.safetensors", "rank0"),
        ([SHARD.format(1, 2), SHARD.format(2, 2), "model-1-of-2.safetensors"], "*", "model-2-of-2"),
        (["x-1-OF-2.safetensors", "x-1-OF-2.SAFETENSORS"], "*", "x-2-OF-2"),
    ],
)
def test_what_is_missing_of_a_directory_is_missing_of_a_glob(
    names: list[str], pattern: str, lost: str, tmp_path: Path
) -> None:
    for at, name in enumerate(names):
        dump(tmp_path / "run7" / name, f"a{at}" if "step" not in name else "a")
    run, given_ = tmp_path / "run7", f"{tmp_path}/run7/{pattern}"
    assert codes(run)[0] == 3
    code, found = codes(given_)
    assert code == 3
    messages = [f.message for v in gradtool.check(given_).verdicts for f in v.findings]
    assert messages
    assert all("GT003" in one for one in found if one)
    assert lost in messages[0]
    with pytest.raises(gradtool.GradtoolError):
        gradtool.measure(given_)
    named = sorted(run.glob(pattern.replace("**", "*")))
    if len(named) > 1 and named[0].parent != named[-1].parent:
        assert codes(*named) == (code, found)
    # One path that is one file is that file.
    alone = dump(tmp_path / "alone" / Path(names[0]).name)
    assert codes(alone) == (0, [[]])
    assert codes([alone]) == (0, [[]])


def test_each_of_what_is_there_is_read_by_itself_if_asked_to(tmp_path: Path) -> None:
    for step in (10, 20):
        dump(tmp_path / f"step_{step}" / "grads_rank1.safetensors")
    assert codes(f"{tmp_path}/*/*", ranks="each") == (0, [[], []])


def test_the_last_shard_may_be_read_alone_and_that_is_said(tmp_path: Path) -> None:
    path = dump(tmp_path / SHARD.format(1, 2))
    assert "what the others hold is missing" in gradtool.measure(path).essential_notes[0]
    with pytest.raises(gradtool.MissingShardError, match="alone"):
        gradtool.measure(f"{tmp_path}/*")


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["step_30/rank1"], "step_30"),
        (["step_30/rank1"], "step_30/*"),
        (["step_30/rank1"], "."),
        (["sub/step_30/rank1"], "sub/*"),
        ([SHARD.format(1, 2)], "."),
        ([SHARD.format(1, 2)], "*"),
        (["a/step_1/rank0", "a/step_1/rank1", "a/step_2/rank0"], "a"),
        (["a/step_1/rank0", "a/step_1/rank1", "a/step_2/rank0"], "."),
        (["rank1/grads"], "*/grads.safetensors"),
    ],
)
@pytest.mark.parametrize("is_relative", [False, True])
def test_the_one_to_read_alone_is_named_as_it_can_be(
    names: list[str],
    source: str,
    is_relative: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in names:
        dump(tmp_path / f"{name.removesuffix('.safetensors')}.safetensors")
    monkeypatch.chdir(tmp_path)
    outcome = gradtool.check(source if is_relative else f"{tmp_path}/{source}")
    (message,) = [f.message for v in outcome.verdicts for f in v.findings]
    match = re.search("name (.*) alone to read", message)
    assert match
    assert gradtool.measure(match[1]).total.tensors == 1  # type: ignore[union-attr]
    assert "s 0 are here" not in message
    assert "s 1 of 2 are here" not in message


@given(
    st.sampled_from(["rank{}", "gpu_{:02}", "x-rank={}"]),
    st.sets(st.integers(0, 3), min_size=1),
    st.sampled_from(["{}.safetensors", "{}/g.safetensors", "step_5/{}.safetensors"]),
    st.sampled_from(["run", "rank3", "ckpt-00001-of-00004"]),
)
def test_any_ranks_get_the_verdict_of_their_directory_from_a_glob(
    scratch: Path, rank: str, ranks: set[int], place: str, parent: str
) -> None:
    folder = scratch / f"ranks{len(list(scratch.iterdir()))}" / parent
    paths = [dump(folder / place.format(rank.format(number))) for number in sorted(ranks)]
    is_whole = ranks == set(range(len(ranks)))
    top = folder / "step_5" if place.startswith("step") else folder
    expected = (0, [[]]) if is_whole else (3, [["GT003"]])
    assert codes(top) == expected
    pattern = place.format("*").replace("step_5/", "")
    assert codes(f"{top}/{pattern}") == expected
    assert codes(f"{top}/*") == expected
    if len(paths) > 1:
        assert codes(*paths) == expected
