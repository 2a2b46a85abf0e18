"""What was measured before is not measured again: a store of rows, asked before and told after."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from gradtool._version import __version__
from gradtool.core.judging.policy import Policy
from gradtool.core.measurement import Measurement
from gradtool.core.stats import ARITHMETIC
from gradtool.core.trends.steps import Step
from gradtool.errors import FileAccessError, UsageError
from gradtool.places import Incomplete, Place, label_of, place_of
from gradtool.request import MeasureRequest
from gradtool.storage.rows.identity import Identity, identity_of, now_ns
from gradtool.storage.rows.measurements import (
    Catalogue,
    catalogue_fields,
    catalogue_of,
    figures_bytes,
    may_be_kept,
    measurement_of,
)
from gradtool.storage.rows.place import NoStoreError, default_place, set_aside
from gradtool.storage.rows.steps import step_bytes, step_of
from gradtool.storage.rows.texts import written

if TYPE_CHECKING:  # it loads SQLite, which some builds of Python are without
    from gradtool.storage.rows.store import Kept, RowStore

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Memory:
    """An open store, and what its rows depend on besides the dumps; without one nothing is kept.

    Attributes:
        store: None where there is none.
        options: what was asked for of dumps, as a text.
        policy: a digest of what they are judged by; None where what is said of one dump depends on
            others.
        notes: why there is no store, or why there is none any more.
    """

    store: RowStore | None
    options: str
    policy: bytes | None
    notes: list[str] = field(default_factory=list)
    catalogues: dict[bytes, Catalogue] = field(default_factory=dict)
    spelled: list[Spelled] = field(default_factory=list)

    def recall(self, place: Place) -> Recalled | None:
        """What is remembered of the dump at a place, and a way to remember it."""
        if self.store is None or self.store.problem or isinstance(place, Incomplete):
            return None
        started_ns = now_ns()
        identity = identity_of([place] if isinstance(place, str) else place)
        if identity is None:
            return None
        path = label_of(place)
        return Recalled(self, self.store, place, path, identity, started_ns)

    def measured(self, source: object, measure: Callable[[], Measurement]) -> Measurement:
        """The measurement of a source: what is remembered of it, else what is made, and kept."""
        place = place_of(source)
        recalled = None if place is None else self.recall(place)
        return measure() if recalled is None else recalled.measured(source, measure)

    def catalogue_bytes(self, measurement: Measurement) -> bytes:
        """The catalogue of a measurement as bytes, the same object as long as it stays equal."""
        fields = catalogue_fields(measurement)
        if not self.spelled or self.spelled[0].fields != fields:
            self.spelled[:] = [Spelled(fields, written(fields))]
        return self.spelled[0].data

    def catalogue(self, digest: bytes, store: RowStore) -> Catalogue | None:
        """The catalogue of that digest, which the steps of a run share."""
        if digest not in self.catalogues:
            data = store.catalogue(digest)
            if data is None:
                return None
            self.catalogues.clear()
            self.catalogues[digest] = catalogue_of(data)
        return self.catalogues[digest]


class Spelled(NamedTuple):
    """A catalogue, and the bytes that spell it."""

    fields: dict[str, object]
    data: bytes


@dataclass
class Recalled:
    """One dump as the store knows it.

    `is_kept` says whether its measurement is in the store, be it from before or from now.
    """

    memory: Memory
    store: RowStore
    place: str | tuple[str, ...]
    path: str
    identity: Identity
    started_ns: int
    is_kept: bool = False

    @cached_property
    def key(self) -> bytes:
        """What its rows are kept under."""
        return self.identity.key(self.memory.options, self.path)

    def measured(self, _source: object, measure: Callable[[], Measurement]) -> Measurement:
        """Its measurement: the one from before, else what is made, and kept."""
        found = self._trusted(self._measurement)
        self.is_kept = found is not None
        if found is None:
            found = measure()
            self._keep(found)
        return found

    def _measurement(self) -> Measurement | None:
        found = self.store.dump(self.key)
        if found is None:
            return None
        catalogue = self.memory.catalogue(found[0], self.store)
        return None if catalogue is None else measurement_of(found[1], catalogue, self.path, 0.0)

    def step(self) -> Step | None:
        """What the policy said of it before."""
        policy = self.memory.policy
        data = None if policy is None else self.store.judged(self.key, policy)
        if data is None:
            return None
        return self._trusted(lambda: step_of(data, self.path, 0.0))

    def _keep(self, measurement: Measurement) -> None:
        """Keep what was just measured, if the files are those that were looked at, and settled."""
        if not may_be_kept(measurement) or not self._is_known(measurement.files):
            return
        with suppress(OverflowError):
            figures = figures_bytes(measurement)
            self.store.add_dump(self.key, self.memory.catalogue_bytes(measurement), figures)
            self.is_kept = True

    def keep_step(self, step: Step) -> None:
        """Keep what the policy said of a dump whose measurement is kept."""
        policy = self.memory.policy
        if policy is not None and self.is_kept:
            self.store.add_judged(self.key, policy, step_bytes(step))

    def _is_known(self, files: tuple[str, ...]) -> bool:
        paths = [self.place] if isinstance(self.place, str) else self.place
        return (
            self.identity.is_settled(self.started_ns)
            and self.identity.holds(files)
            and identity_of(paths) == self.identity
        )

    def _trusted(self, read: Callable[[], Found | None]) -> Found | None:
        """What is read of the store, which is not asked again where that is nothing we wrote."""
        try:
            return read()
        except ValueError as error:
            self.store.distrust(str(error))
            return None


@contextmanager
def remembering(
    cache: str | os.PathLike[str] | bool, request: MeasureRequest, policy: Policy | None = None
) -> Iterator[Memory]:
    """The memory of a call: in the file `cache`, of the user if it is True, none if it is False.

    What a `policy` says of dumps is remembered too, which must depend on nothing but the dump.
    A store that cannot be used is a note, and so is one that fails meanwhile.
    """
    options, said = _options(request), None if policy is None else _digest(policy)
    if cache is False:
        yield Memory(None, options, said)
        return
    try:
        store = _opened(cache)
    except NoStoreError as error:
        yield Memory(None, options, said, [f"no rows are kept: {error}"])
        return
    memory = Memory(store, options, said)
    try:
        yield memory
        store.flush()
    finally:
        problem = store.problem
        store.close()
        if problem:
            memory.notes.append(f"no rows are kept any more: {store.path}: {problem}")
            if store.is_damaged and cache is True:
                memory.notes[-1] += f"; it is set aside as {set_aside(store.path)}"


def _opened(cache: str | os.PathLike[str] | bool) -> RowStore:
    """The store in a file, or the user's: a damaged one of these makes room for a new one."""
    if cache is not True:
        return _store(os.fsdecode(os.fspath(cache)) if cache else "")
    path = default_place()
    try:
        return _store(path)
    except NoStoreError as error:
        if not error.is_damaged:
            raise
        aside = set_aside(path)
        raise NoStoreError(f"{error}: it is set aside as {aside}") from error


def _store(path: str) -> RowStore:
    try:
        from gradtool.storage.rows.store import RowStore  # noqa: PLC0415 - as above
    except ImportError as error:
        raise NoStoreError("this Python is without SQLite") from error
    return RowStore(path)


def _options(request: MeasureRequest) -> str:
    """All that a measurement depends on besides the files, as a text."""
    return repr(
        (
            *(__version__, ARITHMETIC, request.norm_type, request.include, request.exclude),
            *(request.section, request.loss_scale, request.raw_dtype, request.verify),
            *(request.ranks, request.replicated, request.strip_prefix, request.join),
            *(request.apply_scales, request.backend, request.device),
        )
    )


def _digest(policy: Policy) -> bytes:
    """A digest of the rules in force."""
    rules = [
        (code, active.severity, sorted(active.thresholds.items()))
        for code, active in sorted(policy.rules.items())
    ]
    return hashlib.sha256(repr((__version__, policy.fail_on, rules)).encode()).digest()


def kept_in(cache: str | bool) -> tuple[str, Kept | None]:
    """The path of a store, the user's where none is given, and what it holds; None for no store.

    Raises FileAccessError for one that cannot be used.
    """
    path = _path(cache)
    if not os.path.lexists(path):
        return path, None
    with _ours(path) as store:
        kept = store.kept()
        _require_sound(store)
    return path, kept


def clear_rows(cache: str | bool) -> tuple[str, Kept | None]:
    """Drop what such a store holds; what that was. Raises as `kept_in`."""
    path = _path(cache)
    if not os.path.lexists(path):
        return path, None
    with _ours(path) as store:
        kept = store.kept()
        store.clear()
        _require_sound(store)
    return path, kept


def _path(cache: str | bool) -> str:
    try:
        return cache if isinstance(cache, str) else default_place()
    except NoStoreError as error:
        raise UsageError(str(error), hint="give `cache`") from error


def _ours(path: str) -> RowStore:
    try:
        return _store(path)
    except NoStoreError as error:
        raise FileAccessError(path, str(error).removeprefix(path).lstrip(": ")) from error


def _require_sound(store: RowStore) -> None:
    if store.problem:
        raise FileAccessError(store.path, store.problem)
