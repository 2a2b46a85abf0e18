"""Files and folders of several names, by links or hard links: which name each goes by."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gradtool.core.file_names import are_ranks, numbers_in, template
from gradtool.storage.listing import Listing


class ToldApart(NamedTuple):
    """Names, in the order in which they were given.

    Attributes:
        kept: one for each file or folder.
        further: others of the same ones, or of what is claimed.
    """

    kept: list[str]
    further: list[str]


def told_apart(listing: Listing, names: Iterable[str], claimed: Iterable[str] = ()) -> ToldApart:
    """One name for each file or folder that exists, where some have several.

    That with the fewest links on the way is the one, then that which has its place in a series.
    Names of several ranks are kept, and so are hard links in several folders whose names differ
    in numbers: each has all of it. What is claimed goes by that name and is not kept. Raises
    FileAccessError for what may not be looked at.
    """
    owners = {listing.identity(name): name for name in claimed}
    groups: dict[tuple[int, int], list[str]] = {}
    for name in names:
        groups.setdefault(listing.identity(name), []).append(name)
    if len(groups) == sum(map(len, groups.values())) and not owners:
        return ToldApart([name for (name,) in groups.values()], [])
    # How many files have names that differ in numbers only.
    series = Counter(one for group in groups.values() for one in set(map(_unnumbered, group)))
    names_of: dict[str, str] = {}
    for identity, group in groups.items():
        main = owners.get(identity) or _main(listing, group, series)
        names_of |= dict.fromkeys(group, main)
    kept, further = [], []
    taken = set(owners.values())
    for name, main in names_of.items():
        if (name == main and name not in taken) or _is_of_its_own(listing, main, name):
            kept.append(name)
        elif name != main:
            further.append(name)
    return ToldApart(kept, further)


def _main(listing: Listing, group: Sequence[str], series: Counter[str]) -> str:
    def key(name: str) -> tuple[int, bool, bool]:
        counts = any(number.role != "other" for number in numbers_in(name))
        return listing.links_to(name), series[_unnumbered(name)] == 1, not counts

    return group[0] if len(group) == 1 else min(group, key=key)


def _unnumbered(name: str) -> str:
    return template(name, lambda _: True)


def _is_of_its_own(listing: Listing, main: str, name: str) -> bool:
    if are_ranks(main, name):
        return True
    return (
        os.path.dirname(main) != os.path.dirname(name)
        and _unnumbered(main) == _unnumbered(name)
        and listing.links_to(main) == listing.links_to(name)
    )
