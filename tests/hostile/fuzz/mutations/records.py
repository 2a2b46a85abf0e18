"""Changes to the records of a torch file's archive: storages, byte order, what nobody asked for."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Final

from fuzz.files.numpy_files import new_array
from fuzz.files.pickles import literal, plain
from fuzz.files.poison import numbers, spoiled
from fuzz.files.torch_files import TorchFile
from fuzz.files.zips import DEFLATED, STORED, UTF8, Member
from fuzz.mutations.tensors import Mutation


def spoil_record(file: TorchFile, rng: random.Random) -> None:
    """A NaN or infinity in a storage, or two."""
    if known := file.storages():
        member = rng.choice(known)
        member.data = spoiled(rng, member.data)


def rename_storage(file: TorchFile, rng: random.Random) -> None:
    """A storage under another key, in the pickle and in the archive; perhaps beside its like."""
    known = [literal(one.parts[2]) for one in file.persistent_ids()]
    if not known:
        return
    old, new = (
        rng.choice(known),
        rng.choice(("w.npy", "é", "W", "a/b", "x" * 40, "0.0", "data.pkl")),
    )
    member = file.record(f"data/{old}")
    if member is None:
        return
    for one in file.persistent_ids():
        if literal(one.parts[2]) == old:
            one.parts[2] = plain(new)
    member.name = file.folder + f"data/{new}".encode()
    if rng.random() < 0.7:
        twin = replace(member, data=spoiled(rng, member.data))
        if rng.random() < 0.5:
            like = rng.choice((new.swapcase(), new.capitalize(), new.upper()))
            twin.name = file.folder + f"data/{like}".encode()
        else:
            twin.flags ^= UTF8
        file.archive.members.insert(rng.randrange(len(file.archive.members) + 1), twin)
        file.archive.order = None


def change_byte_order(file: TorchFile, rng: random.Random) -> None:
    """Another byte order, with the storages as they are."""
    member = file.record("byteorder")
    orders = b"big", b"big", b"big", b"little", b"LITTLE", b"big\n", b""
    if member is not None:
        if rng.random() < 0.1:
            file.archive.members.remove(member)
            file.archive.order = None
        else:
            member.data = rng.choice(orders)


def drop_record(file: TorchFile, rng: random.Random) -> None:
    """As older writers leave files: without a format's version, an alignment, an id; or none."""
    if file.archive.members:
        file.archive.members.remove(rng.choice(file.archive.members))
        file.archive.order = None


def add_record(file: TorchFile, rng: random.Random) -> None:
    """A record that nobody asked for: a storage, an array, one alike by case."""
    name_of = rng.choice(
        ("data/999", "DATA/0", "data/0", "extra.npy", "data.PKL", "data/0.npy", "code/a.py",
         "constants.pkl", "x", "data/", "data/0/", ".data/version", "data\\0", "x/data.pkl")
    ).encode()  # fmt: skip
    like = rng.choice(file.archive.members or [Member(b"", bytes(8))])
    data = rng.choice((like.data, new_array(rng), numbers(rng, len(like.data) or 16)))
    method = rng.choice((STORED, STORED, DEFLATED))
    member = Member(file.folder + name_of, data, method, flags=rng.choice((0, UTF8)))
    file.archive.members.insert(rng.randrange(len(file.archive.members) + 1), member)
    file.archive.order = None


def array_in_record(file: TorchFile, rng: random.Random) -> None:
    """A record that begins as an array does to NumPy, whatever torch takes it for."""
    if known := file.storages():
        member, content = rng.choice(known), new_array(rng)
        member.data = content + member.data[len(content) :]


def compress_record(file: TorchFile, rng: random.Random) -> None:
    """A record deflated, which torch never writes."""
    if file.archive.members:
        rng.choice(file.archive.members).method = DEFLATED


def rename_folder(file: TorchFile, rng: random.Random) -> None:
    """The archive's directory by another name, for all records."""
    folder = rng.choice((b"a/", b"weights.v1/", b"a b/", "é/".encode(), b"archive/archive/", b"/"))
    for member in file.archive.members:
        member.name = folder + member.name.removeprefix(file.folder)
    file.folder = folder


RECORD_MUTATIONS: Final[dict[Mutation, int]] = {
    spoil_record: 5, rename_storage: 2, change_byte_order: 2, drop_record: 1, add_record: 2,
    array_in_record: 1, compress_record: 1, rename_folder: 1,
}  # fmt: skip
