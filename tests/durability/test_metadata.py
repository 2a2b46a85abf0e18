"""What a clip does not change: whose a file is, who may read it, and what its names are."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from forks import ENVIRONMENT, PYTHON, Forks
from halved import FILE, HALVE, OPTIONS, Halved, content, deflated_npz, workspaces
from nobody import IS_ROOT, NOBODY, NOT_ROOT, give

import gradtool

SOMEBODY, TEAM = 1234, 2345
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only the superuser gives files away")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def dump(small_file: Halved, tmp_path: Path) -> Path:
    return small_file.write(tmp_path / "a.safetensors")


@pytest.fixture(params=["in place", "forced"])
def replaced(request: pytest.FixtureRequest, dump: Path, tmp_path: Path) -> Iterator[Path]:
    """A file that a test prepares, and that is clipped, or overwritten by what is."""
    yield dump if request.param == "in place" else tmp_path / "out"


def replace(dump: Path, target: Path) -> gradtool.ClipOutcome:
    if target == dump:
        return gradtool.clip(dump, in_place=True, **OPTIONS)
    return gradtool.clip(dump, target, force=True, **OPTIONS)


def prepared(target: Path) -> Path:
    if not target.exists():
        target.write_bytes(b"old")
    return target


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o400, 0o666, 0o755, 0o2750, 0o4755])
def test_permissions_survive(mode: int, dump: Path, replaced: Path, small_file: Halved) -> None:
    prepared(replaced).chmod(mode)
    replace(dump, replaced)
    assert small_file.state(replaced) == "new"
    assert oct(mode_of(replaced)) == oct(mode)


def test_permissions_survive_in_a_repacked_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(deflated_npz(1000))
    path.chmod(0o640)
    gradtool.clip(path, in_place=True, **OPTIONS)
    assert mode_of(path) == 0o640


@needs_root
def test_owner_and_group_survive(dump: Path, replaced: Path) -> None:
    os.chown(prepared(replaced), SOMEBODY, TEAM)
    replaced.chmod(0o6750)
    replace(dump, replaced)
    status = replaced.stat()
    assert (status.st_uid, status.st_gid, mode_of(replaced)) == (SOMEBODY, TEAM, 0o6750)


@needs_root
def test_who_may_not_give_a_file_away_gets_no_rights_of_its_owner(
    anyones: Path, small_file: Halved, forks: Forks
) -> None:
    path = small_file.write(anyones / "a.safetensors")
    path.chmod(0o6755)
    run = forks.run("clip", path, "--in-place", *HALVE, ids=[SOMEBODY, SOMEBODY, []])
    assert (run.code, run.err) == (0, "")
    assert (path.stat().st_uid, mode_of(path)) == (SOMEBODY, 0o755)


@needs_root
def test_the_group_survives_where_the_owner_cannot(
    anyones: Path, small_file: Halved, forks: Forks
) -> None:
    path = small_file.write(anyones / "a.safetensors")
    os.chown(path, NOBODY, TEAM)
    path.chmod(0o660)
    run = forks.run("clip", path, "--in-place", *HALVE, ids=[SOMEBODY, SOMEBODY, [TEAM]])
    assert (run.code, run.err) == (0, "")
    # Else its owner, who is in that group, could not read it any more.
    assert (path.stat().st_uid, path.stat().st_gid) == (SOMEBODY, TEAM)


@needs_root
def test_an_owner_that_this_user_namespace_does_not_know_is_no_error(
    dump: Path, small_file: Halved
) -> None:
    os.chown(dump, SOMEBODY, TEAM)
    dump.chmod(0o644)
    unshare = ["unshare", "-Ur"]
    tried = subprocess.run([*unshare, "true"], check=False, capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"there is no new user namespace here: {tried.stderr.strip()}")
    command = [*unshare, *PYTHON, "-m", "gradtool", "clip", str(dump), "--in-place", *HALVE]
    run = subprocess.run(command, check=False, capture_output=True, env=ENVIRONMENT, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert small_file.state(dump) == "new"


def set_attribute(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise
        pytest.skip(f"this file system has no {name}: {error.strerror}")
    except AttributeError:
        pytest.skip("Python knows extended attributes on Linux only")


def test_extended_attributes_survive(dump: Path, replaced: Path) -> None:
    set_attribute(prepared(replaced), "user.origin", b"run 7\0\xff")
    set_attribute(replaced, "user.empty", b"")
    replaced.chmod(0o440)
    replace(dump, replaced)
    assert os.getxattr(replaced, "user.origin") == b"run 7\0\xff"
    assert sorted(os.listxattr(replaced)) == ["user.empty", "user.origin"]


def acl(mask: int = 6, owner: int = 6) -> bytes:
    """The owner's, user:1234:rw-, group::r--, the mask, other::---."""
    entries = [(1, owner, -1), (2, 6, SOMEBODY), (4, 4, -1), (16, mask, -1), (32, 0, -1)]
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, number & 0xFFFFFFFF) for tag, bits, number in entries
    )


ACL, DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"


def test_an_access_control_list_survives(dump: Path, replaced: Path) -> None:
    set_attribute(prepared(replaced), ACL, acl())
    mode = mode_of(replaced)
    replace(dump, replaced)
    assert os.getxattr(replaced, ACL) == acl()
    assert mode_of(replaced) == mode == 0o660


def test_a_directorys_default_list_opens_no_file_that_was_closed_to_others(
    dump: Path, replaced: Path
) -> None:
    prepared(replaced).chmod(0o640)
    set_attribute(replaced.parent, DEFAULT_ACL, acl(owner=7))
    replace(dump, replaced)
    assert mode_of(replaced) == 0o640
    assert ACL not in os.listxattr(replaced)


def test_a_new_file_gets_its_directorys_default_list(dump: Path, tmp_path: Path) -> None:
    set_attribute(tmp_path, DEFAULT_ACL, acl(owner=7))
    (tmp_path / "plain").touch()
    gradtool.clip(dump, tmp_path / "out", **OPTIONS)
    assert os.getxattr(tmp_path / "out", ACL) == os.getxattr(tmp_path / "plain", ACL)
    assert mode_of(tmp_path / "out") == mode_of(tmp_path / "plain")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o000, 0o027])
@pytest.mark.parametrize("deflated", [False, True])
def test_a_new_file_gets_the_mode_of_any_new_file(
    umask: int, deflated: bool, small_file: Halved, forks: Forks, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    if deflated:
        source.write_bytes(deflated_npz(1000))
    else:
        small_file.write(source)
    source.chmod(0o400)
    run = forks.run("clip", source, "-o", tmp_path / "out", *HALVE, umask=umask)
    assert (run.code, run.err) == (0, "")
    assert oct(mode_of(tmp_path / "out")) == oct(0o666 & ~umask)


@needs_root
def test_a_new_file_gets_the_group_of_a_setgid_directory(dump: Path, tmp_path: Path) -> None:
    os.chown(tmp_path, -1, TEAM)
    tmp_path.chmod(0o2755)
    gradtool.clip(dump, tmp_path / "out", **OPTIONS)
    assert (tmp_path / "out").stat().st_gid == TEAM


def test_clipped_in_place_a_symbolic_link_stays_and_what_it_names_is_replaced(
    dump: Path, small_file: Halved, tmp_path: Path
) -> None:
    (tmp_path / "links").mkdir()
    near, far = tmp_path / "links" / "near", tmp_path / "links" / "far"
    near.symlink_to("../a.safetensors")
    far.symlink_to("near")
    outcome = gradtool.clip(far, in_place=True, **OPTIONS)
    assert outcome.output == str(far)
    assert (os.readlink(near), os.readlink(far)) == ("../a.safetensors", "near")
    assert not dump.is_symlink()
    assert small_file.state(dump) == "new"
    assert sorted(os.listdir(tmp_path / "links")) == ["far", "near"]
    assert workspaces(tmp_path) == []


def test_an_output_that_is_a_symbolic_link_stays_one(
    dump: Path, small_file: Halved, tmp_path: Path
) -> None:
    link, old = tmp_path / "link", tmp_path / "old"
    old.write_bytes(b"old")
    link.symlink_to("old")
    with pytest.raises(gradtool.UsageError, match="exists; `force=True` overwrites it"):
        gradtool.clip(dump, link, **OPTIONS)
    assert old.read_bytes() == b"old"
    gradtool.clip(dump, link, force=True, **OPTIONS)
    assert os.readlink(link) == "old"
    assert not old.is_symlink()
    assert small_file.state(old) == "new"


def test_an_output_that_is_a_dangling_link_has_what_it_names_made(
    dump: Path, small_file: Halved, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to("later")
    gradtool.clip(dump, link, **OPTIONS)
    assert os.readlink(link) == "later"
    assert small_file.state(tmp_path / "later") == "new"
    link.unlink()
    link.symlink_to("nowhere/later")
    with pytest.raises(gradtool.FileAccessError, match="no such directory"):
        gradtool.clip(dump, link, **OPTIONS)
    assert os.readlink(link) == "nowhere/later"


def test_a_link_that_names_itself_is_refused(dump: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    before = content(dump)
    with pytest.raises(gradtool.GradtoolError, match="link"):
        gradtool.clip(dump, tmp_path / "link", **OPTIONS)
    assert os.readlink(tmp_path / "link") == "link"
    assert content(dump) == before


def test_hard_links_are_broken_and_the_notes_say_so(
    dump: Path, replaced: Path, small_file: Halved, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    os.link(prepared(replaced), second)
    old = second.read_bytes()
    outcome = replace(dump, replaced)
    assert any("hard link" in note for note in outcome.notes)
    assert small_file.state(replaced) == "new"
    assert second.read_bytes() == old
    assert (replaced.stat().st_nlink, second.stat().st_nlink) == (1, 1)
    assert not any("hard link" in note for note in replace(dump, replaced).notes)


def test_a_hard_link_that_a_dry_run_would_break_is_noted_too(dump: Path, tmp_path: Path) -> None:
    os.link(dump, tmp_path / "second")
    outcome = gradtool.clip(dump, in_place=True, dry_run=True, **OPTIONS)
    assert any("hard link" in note for note in outcome.notes)


SHARD = "grads-00001-of-00002.safetensors"


@pytest.fixture
def folder(small_directory: Halved, tmp_path: Path) -> Path:
    return small_directory.write(tmp_path / "run")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_in_directories_permissions_owners_and_attributes_survive(folder: Path, out: Path) -> None:
    modes = {
        ".": 0o750,
        SHARD: 0o640,
        "config.json": 0o444,
        "logs": 0o2700,
        "logs/events.log": 0o4600,
    }
    for i, name in enumerate(modes):
        if IS_ROOT:
            os.chown(folder / name, SOMEBODY + i, TEAM + i)
        set_attribute(folder / name, "user.number", b"%d" % i)
    for name, mode in reversed(modes.items()):
        (folder / name).chmod(mode)
    gradtool.clip(folder, out, **OPTIONS)
    for i, (name, mode) in enumerate(modes.items()):
        assert (name, oct(mode_of(out / name))) == (name, oct(mode))
        assert os.getxattr(out / name, "user.number") == b"%d" % i
        if IS_ROOT:
            status = (out / name).stat()
            assert (status.st_uid, status.st_gid) == (SOMEBODY + i, TEAM + i)


def test_in_directories_times_of_unrelated_files_survive(folder: Path, out: Path) -> None:
    for i, name in enumerate(["config.json", "logs/events.log"]):
        os.utime(folder / name, ns=(10**18 + i, 10**18 + 123_456_789 + i))
    gradtool.clip(folder, out, **OPTIONS)
    for i, name in enumerate(["config.json", "logs/events.log"]):
        assert (name, (out / name).stat().st_mtime_ns) == (name, 10**18 + 123_456_789 + i)


def test_in_directories_empty_directories_survive(folder: Path, out: Path) -> None:
    (folder / "empty" / "deeper").mkdir(parents=True)
    (folder / "empty").chmod(0o700)
    gradtool.clip(folder, out, **OPTIONS)
    assert (out / "empty" / "deeper").is_dir()
    assert mode_of(out / "empty") == 0o700


@pytest.mark.parametrize("inside", ["", "logs/"], ids=["beside it", "in a directory"])
@pytest.mark.parametrize("kind", ["hard link", "relative link", "absolute link"])
def test_other_names_of_a_rewritten_shard_are_names_of_the_new_one(
    kind: str, inside: str, folder: Path, out: Path, small_directory: Halved
) -> None:
    name = f"{inside}best"
    if kind == "hard link":
        os.link(folder / SHARD, folder / name)
    else:
        up = "../" if inside else ""
        (folder / name).symlink_to(folder / SHARD if kind == "absolute link" else f"{up}{SHARD}")
    gradtool.clip(folder, out, **OPTIONS)
    assert (out / name).read_bytes() == small_directory.new[SHARD]
    assert (out / name).samefile(out / SHARD)


def test_shards_that_are_links_become_files(
    folder: Path, out: Path, small_directory: Halved, tmp_path: Path
) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (folder / SHARD).rename(blobs / "abc")
    (folder / SHARD).symlink_to("../blobs/abc")
    gradtool.clip(folder, out, **OPTIONS)
    assert not (out / SHARD).is_symlink()
    assert small_directory.state(out) == "new"
    assert content(blobs) == {"abc": small_directory.old[SHARD]}


@pytest.mark.parametrize("closed", [".", "logs"])
def test_a_directory_that_nobody_may_write_to_is_clipped_to_one_like_it(
    closed: str, anyones: Path, small_directory: Halved, forks: Forks
) -> None:
    folder, out = small_directory.write(anyones / "run"), anyones / "out"
    give(folder)
    (folder / closed).chmod(0o555)
    run = forks.run("clip", folder, "-o", out, *HALVE, **NOT_ROOT)
    left = workspaces(anyones)
    assert (run.code, run.err, left) == (0, "", [])
    assert small_directory.state(out) == "new"
    assert mode_of(out / closed) == 0o555


def test_a_failure_after_a_read_only_directory_was_copied_leaves_nothing(
    anyones: Path, small_directory: Halved, forks: Forks
) -> None:
    folder, out = small_directory.write(anyones / "run"), anyones / "out"
    give(folder)
    (folder / "logs").chmod(0o555)
    # Copied after "logs", and not to be copied.
    os.mkfifo(folder / "z")
    run = forks.run("clip", folder, "-o", out, *HALVE, **NOT_ROOT)
    assert run.code == 3
    assert "no regular file" in run.error
    assert sorted(os.listdir(anyones)) == ["run"]


def test_a_file_of_another_that_cannot_be_copied_along_is_named(
    anyones: Path, small_directory: Halved, forks: Forks
) -> None:
    folder, out = small_directory.write(anyones / "run"), anyones / "out"
    give(folder)
    (folder / "logs" / "events.log").chmod(0)
    run = forks.run("clip", folder, "-o", out, *HALVE, **NOT_ROOT)
    assert run.code == 3
    assert str(folder / "logs" / "events.log") in run.error
    assert sorted(os.listdir(anyones)) == ["run"]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_directory_that_one_may_not_write_to_exits_3_and_is_named(
    in_place: bool, anyones: Path, small_file: Halved, forks: Forks
) -> None:
    closed = anyones / "closed"
    closed.mkdir()
    source = small_file.write(closed / "a.safetensors")
    closed.chmod(0o555)
    where = ["--in-place"] if in_place else ["-o", closed / "out"]
    run = forks.run("clip", source, *where, *HALVE, **NOT_ROOT)
    assert (run.code, run.out) == (3, "")
    assert str(closed) in run.error
    assert "read-only" in run.error
    assert content(closed) == {source.name: small_file.old[FILE]}


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="only Linux opens one to work in")
@pytest.mark.parametrize("what", ["a file", "in place", "a directory", "a report"])
def test_a_directory_that_may_be_written_and_not_read_takes_all(
    what: str, anyones: Path, small_file: Halved, small_directory: Halved, forks: Forks
) -> None:
    box = anyones / "box"
    box.mkdir()
    source, out = small_file.write(anyones / "a.safetensors"), box / "out"
    if what == "a directory":
        source = small_directory.write(anyones / "run")
    elif what == "in place":
        source = source.rename(out)
    give(anyones)
    box.chmod(0o300)
    args = ["clip", source, *(["--in-place"] if what == "in place" else ["-o", out]), *HALVE]
    run = forks.run(*(["inspect", source, "-o", out] if what == "a report" else args), **NOT_ROOT)
    assert (run.code, run.err) == (0, "")
    assert "could not be synced" not in run.out
    box.chmod(0o700)
    assert os.listdir(box) == ["out"]
    dump = small_directory if what == "a directory" else small_file
    assert what == "a report" or dump.state(out) == "new"


def test_a_replaced_file_that_its_owner_may_not_read_is_replaced_all_the_same(
    anyones: Path, small_file: Halved, forks: Forks
) -> None:
    source, out = small_file.write(anyones / "a.safetensors"), anyones / "out"
    out.write_bytes(b"old")
    give(source)
    give(out)
    out.chmod(0o200)
    run = forks.run("clip", source, "-o", out, "--force", *HALVE, **NOT_ROOT)
    assert (run.code, run.err) == (0, "")
    assert mode_of(out) == 0o200
    out.chmod(0o600)
    assert small_file.state(out) == "new"


def test_so_is_one_with_an_access_control_list_which_stays(
    anyones: Path, small_file: Halved, forks: Forks
) -> None:
    source, out = small_file.write(anyones / "a.safetensors"), anyones / "out"
    out.write_bytes(b"old")
    set_attribute(out, ACL, acl(owner=2))
    give(anyones)
    run = forks.run("clip", source, "-o", out, "--force", *HALVE, **NOT_ROOT)
    assert (run.code, run.err) == (0, "")
    # Else the mask, which the mode of such a file shows, would become the group's rights.
    assert os.getxattr(out, ACL) == acl(owner=2)
