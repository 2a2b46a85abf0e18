"""Changes to what a torch file of before 1.6 has around its object: keys, counts, other pickles."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from fuzz.files.legacy_files import LegacyFile
from fuzz.files.pickles import Node, emit, listed, mapping, plain, sequence
from fuzz.files.poison import numbers, spoiled
from fuzz.mutations.fragments import fragment

Mutation = Callable[[LegacyFile, random.Random], None]


def shuffle_storages(file: LegacyFile, rng: random.Random) -> None:
    """Storages in another order, and their keys with them; two of one size, if there are."""
    members = file.archive.members
    sizes = [len(member.data) for member in members]
    alike = [at for at, size in enumerate(sizes) if sizes.count(size) > 1]
    if alike and rng.random() < 0.7:
        one = rng.choice(alike)
        other = rng.choice([at for at in alike if sizes[at] == sizes[one] and at != one])
        members[one], members[other] = members[other], members[one]
    else:
        rng.shuffle(members)


def change_count(file: LegacyFile, rng: random.Random) -> None:
    """Another number of elements, of which one makes the same number of bytes modulo 2^64."""
    if known := file.storages():
        member = rng.choice(known)
        key = member.name.rpartition(b"/")[2].decode("utf-8", "surrogatepass")
        count = len(member.data) // 4
        others = (count + (1 << 62), count - 1, count + 1, -count, 0, count - (1 << 62), -(1 << 63))
        file.counts[key] = rng.choice(others)


def lengthen_storage(file: LegacyFile, rng: random.Random) -> None:
    """More or less data than the object says."""
    if known := file.storages():
        member = rng.choice(known)
        member.data = rng.choice((member.data + bytes(4), member.data[4:], member.data * 2, b""))


def change_keys(file: LegacyFile, rng: random.Random) -> None:
    """Keys left out, repeated, of storages that nobody names, or in another thing than a list."""
    seed, change = rng.random(), rng.choice(_KEYS)

    def keys_of(keys: list[str]) -> Node:
        return change(keys, random.Random(seed))

    file.keys_of = keys_of


def _short_texts(keys: list[str], _: random.Random) -> Node:
    texts = (b"U" + bytes((len(raw),)) + raw for raw in map(str.encode, keys))
    return listed(*(Node("raw", text) for text in texts))


_KEYS: Final[tuple[Callable[[list[str], random.Random], Node], ...]] = (
    lambda keys, rng: plain(rng.sample(keys, max(len(keys) - 1, 0))),
    lambda keys, rng: plain(keys + rng.choices(keys or ["0"])),
    lambda keys, rng: plain([*keys, rng.choice(("9", "", "0 ", "00"))]),
    lambda keys, rng: plain(rng.sample(keys, len(keys))),
    lambda keys, _: sequence(*map(plain, keys)),
    lambda keys, _: mapping(*((plain(key), plain(None)) for key in keys)),
    lambda keys, _: plain("".join(keys)),
    lambda keys, _: plain([int(key) for key in keys if key.isdigit()]),
    _short_texts,
)


def repeat_data(file: LegacyFile, rng: random.Random) -> None:
    """Storages once more behind the last, with other numbers and with their keys or without."""
    more = rng.choice((1, 2))
    file.ends.append(lambda content: content + numbers(rng, 8 * more))
    if rng.random() < 0.5:
        change_keys(file, rng)


def change_preamble(file: LegacyFile, rng: random.Random) -> None:
    """Another magic number, version or machine."""
    at = rng.randrange(3)
    others = (1001, 1002, 1001.0, True, "1001", 0x1950A86A20F9469CFC6C, (1001,), {}, None)
    file.preamble[at] = rng.choice(
        (
            emit(plain(rng.choice(others))),
            emit(plain({"little_endian": False, "protocol_version": 1001})),
            b"\x80\x02N" + file.preamble[at][2:],
            file.preamble[at][2:],
            emit(fragment(file, rng)),
        )
    )


def add_views(file: LegacyFile, rng: random.Random) -> None:
    """The sixth part of a persistent id: a view of its storage under a key of its own."""
    known = file.persistent_ids()
    if known:
        parts = rng.choice(known).parts
        keys = "9", parts[2].value, None
        view = plain((rng.choice(keys), rng.choice((0, 1, -1)), rng.choice((1, 2, 4))))
        parts.append(rng.choice((view, view, plain(()), plain(False))))


def cut(file: LegacyFile, rng: random.Random) -> None:
    """The end of the file left out, or something behind it."""
    kind, at, more = rng.randrange(3), rng.random(), numbers(rng, 12)
    if kind == 0:
        file.ends.append(lambda content: content[: int(len(content) * at)])
    elif kind == 1:
        file.ends.append(lambda content: content + more)
    else:
        file.ends.append(lambda content: content + content)


def spoil_end(file: LegacyFile, rng: random.Random) -> None:
    """A NaN in the last bytes, of whatever they are."""
    file.ends.append(lambda content: content[:-24] + spoiled(rng, content[-24:]))


def name_class(file: LegacyFile, rng: random.Random) -> None:
    """A class by a persistent id, as modules had one before 1.6."""
    parts = plain("module"), Node("global", "collections.OrderedDict"), plain(None), plain(None)
    container = rng.choice(file.containers() or [file.root])
    if container.kind == "items":
        container.parts += [plain("class"), Node("persistent", parts=[sequence(*parts)])]


LEGACY_MUTATIONS: Final[dict[Mutation, int]] = {
    shuffle_storages: 6, change_count: 2, lengthen_storage: 1, change_keys: 3, repeat_data: 1,
    change_preamble: 1, add_views: 2, cut: 1, spoil_end: 4, name_class: 1,
}  # fmt: skip
