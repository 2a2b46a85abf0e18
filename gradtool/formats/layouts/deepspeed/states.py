"""What the files of a ZeRO checkpoint say: flat partitions, and which parameters lie in them.

Pickles, read by the inert interpreter: every number in them is a claim. Source: `state_dict` of
deepspeed/runtime/zero/stage_1_and_2.py, of stage3.py and of bf16_optimizer.py, and
`_common_checkpoint_state` of deepspeed/runtime/engine.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.json_text import is_unicode
from gradtool.core.tensors import TensorSpec
from gradtool.errors import CorruptFileError, UnsupportedFormatError
from gradtool.formats.files import torch_zip
from gradtool.formats.pickles.stand_ins import Opaque
from gradtool.storage.archives.zip import read_directory
from gradtool.storage.listing import Listing

_LIMIT: Final = 1 << 62
_MAX_DIMENSIONS: Final = 64

_STATE: Final = "optimizer_state_dict"
_MASTERS: Final = "single_partition_of_fp32_groups"
_MASTERS_3: Final = "fp32_flat_groups"
_BASE: Final = "base_optimizer_state"

MASTER: Final = "master"
"""What a partition of the weights themselves is called; others are called as in the optimizer."""

Shapes = dict[str, tuple[int, ...]]
Flats = dict[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class State:
    """A file: its catalogue, and the dict that is pickled in it."""

    catalogue: Checkpoint
    root: Mapping[Any, Any]

    @property
    def path(self) -> str:
        """The file's path."""
        return self.catalogue.path

    def broken(self, problem: str, tensor: str | None = None) -> NoReturn:
        """Raise CorruptFileError."""
        raise CorruptFileError(self.path, problem, tensor=tensor)


@dataclass(frozen=True, slots=True)
class OptimState:
    """What a rank has of an optimizer.

    Attributes:
        state: the file.
        is_stage_3: whether each parameter is cut into a piece for each rank.
        world: how many ranks there are.
        groups: of each group of parameters, its flat partitions by what they are.
        paddings: of each group, how many elements lie between each parameter and the next.
        mappings: of each group, (first, number) of the elements that the file says to be of a
            parameter.
    """

    state: State
    is_stage_3: bool
    world: int
    groups: list[Flats]
    paddings: list[list[int]] | None
    mappings: list[dict[str, tuple[int, int]]] | None

    @property
    def flat_names(self) -> set[str]:
        """The names that the file's catalogue gives to its flat partitions."""
        return {spec.name for group in self.groups for spec in group.values()}


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the file of a module says.

    Attributes:
        state: the file.
        shapes: of each group, the shapes of its parameters in the order in which they lie there;
            None of a checkpoint without ZeRO.
        frozen: the shapes of what the optimizer does not have.
        tied: names of weights that are others, with the names of these.
        step: of the training.
        world: how many ranks there are; None where it does not say that.
    """

    state: State
    shapes: list[Shapes] | None
    frozen: Shapes
    tied: dict[str, str]
    step: int | None
    world: int | None


def read_state(listing: Listing, name: str) -> State:
    """What a file of torch's holds, with the numbers and texts beside its tensors.

    Raises UnsupportedFormatError for another format, and as `torch_zip.open_torch_zip`.
    """
    with listing.open(name) as source:
        is_archive = source.file.size > 4 and source.read(0, 4) in (b"PK\3\4", b"PK\5\6")
        entries = read_directory(source) if is_archive else ()
        if not torch_zip.recognises(entries):
            problem = "is no zip archive of torch's, as DeepSpeed writes them"
            raise UnsupportedFormatError(source.path, problem)
        tree = torch_zip.open_tree(source, entries)
        catalogue = torch_zip.catalogue_of(tree)
        source.check_unchanged()
    root = tree.unpickled.root
    if not isinstance(root, dict):
        raise CorruptFileError(listing.at(name), "holds no dict, as DeepSpeed's files do")
    return State(catalogue, root)


def read_optim(state: State) -> OptimState:
    """What the file of a rank's optimizer says.

    Raises CorruptFileError for numbers that are none, UnsupportedFormatError for what is cut in
    other ways.
    """
    found = state.root.get(_STATE)
    if not isinstance(found, dict):
        state.broken(f"has no {_STATE}")
    is_stage_3 = _MASTERS_3 in found
    key = _MASTERS_3 if is_stage_3 else _MASTERS
    masters = found.get(key)
    if not isinstance(masters, list):
        problem = f"holds neither {_MASTERS} nor {_MASTERS_3}: of another optimizer, or too old"
        raise UnsupportedFormatError(state.path, problem)
    kept = [{MASTER: f"{_STATE}.{key}.{number}"} for number in range(len(masters))]
    for number, moments in enumerate(_moments(state, found, is_stage_3, len(masters))):
        kept[number] |= moments
    specs = {spec.name: spec for spec in state.catalogue.tensors}
    groups = [
        {what: specs[name] for what, name in group.items() if name in specs} for group in kept
    ]
    for group, names in zip(groups, kept, strict=True):
        if MASTER not in group:
            state.broken("is no partition of floating-point weights", names[MASTER])
        _keep_flat(state, group)
    return OptimState(
        state,
        is_stage_3,
        _world(state, found),
        groups,
        _paddings(state, found.get("param_alignment_paddings"), len(groups)),
        _mappings(state, found.get("param_slice_mappings"), len(groups)),
    )


def _moments(
    state: State, found: Mapping[Any, Any], is_stage_3: bool, groups: int
) -> Iterator[dict[str, str]]:
    """Of each group, the names that the catalogue gives to what the optimizer keeps of it."""
    key = _STATE if is_stage_3 else _BASE
    base = found.get(key)
    start = f"{_STATE}.{key}"
    if isinstance(base, dict):
        base, start = base.get("state"), f"{start}.state"
    if not isinstance(base, dict | list):
        state.broken(f"{key} is none of an optimizer")
    of_groups = dict(enumerate(base)) if isinstance(base, list) else base
    for number in range(groups):
        of_group = of_groups.get(number, {})
        if not isinstance(of_group, dict):
            state.broken(f"what {key} keeps of group {number} is no dict")
        yield {what: f"{start}.{number}.{what}" for what in of_group if isinstance(what, str)}


def _keep_flat(state: State, group: Flats) -> None:
    """Leave in a group what is flat as its weights are.

    What has as many dimensions and other sizes, as the scales of blocks, is none of it, unless
    it is called as what all optimizers have.
    """
    for what, spec in list(group.items()):
        is_flat = len(spec.shape) == 1 and spec.strides is None and not spec.is_negated
        if what == MASTER and not is_flat:
            state.broken("is no flat partition", spec.name)
        if not is_flat or spec.stream is not None:
            del group[what]


def _world(state: State, found: Mapping[Any, Any]) -> int:
    counts = found.get("partition_count")
    numbers: list[object] = counts if isinstance(counts, list) and counts else [counts]
    world = _number(numbers[0])
    if not world:
        state.broken("partition_count is no number of ranks")
    of_groups = found.get("ds_zero_partition_groups")
    if isinstance(of_groups, list):
        numbers = [
            *numbers,
            *(group.get("partition_count") for group in of_groups if isinstance(group, dict)),
        ]
    if len(set(numbers)) > 1:
        problem = "its groups are cut into different numbers of partitions, as those of experts are"
        raise UnsupportedFormatError(state.path, problem)
    return world


def _paddings(state: State, found: object, groups: int) -> list[list[int]] | None:
    if found is None:
        return None
    if (
        not isinstance(found, list)
        or len(found) != groups
        or not all(isinstance(group, list) and _are_sizes(group) for group in found)
    ):
        state.broken("param_alignment_paddings are no numbers for each group")
    return found


def _mappings(state: State, found: object, groups: int) -> list[dict[str, tuple[int, int]]] | None:
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != groups:
        state.broken("param_slice_mappings are not one for each group")
    return [dict(_slices(state, group)) for group in found]


def _slices(state: State, group: object) -> Iterator[tuple[str, tuple[int, int]]]:
    if not isinstance(group, dict):
        state.broken("param_slice_mappings has a group that is no dict")
    for name, address in group.items():
        attributes = address.state if isinstance(address, Opaque) else None
        numbers: Sequence[object] = ()
        if isinstance(attributes, dict):
            numbers = (attributes.get("start"), attributes.get("numel"))
        if not isinstance(name, str) or len(numbers) != 2 or not _are_sizes(numbers):
            state.broken("a place in param_slice_mappings is none")
        first, numel = numbers
        yield name, (int(first), int(numel))  # type: ignore[call-overload]


def read_model(state: State) -> ModelState:
    """What the file of a module says; raises CorruptFileError for what is no shape."""
    shapes = state.root.get("param_shapes")
    if shapes is not None and not isinstance(shapes, list):
        state.broken("param_shapes is no list")
    groups = None if shapes is None else [_shapes(state, group) for group in shapes]
    seen: set[str] = set()
    for group in groups or ():
        for name in group:
            if name in seen:
                state.broken("is in two groups of param_shapes", name)
            seen.add(name)
    frozen = state.root.get("frozen_param_shapes")
    shared = state.root.get("shared_params")
    pairs = shared.items() if isinstance(shared, dict) else ()
    return ModelState(
        state,
        groups,
        {} if frozen is None else _shapes(state, frozen),
        {one: other for one, other in pairs if isinstance(one, str) and isinstance(other, str)},
        _number(state.root.get("global_steps")),
        _number(state.root.get("dp_world_size")),
    )


def _shapes(state: State, found: object) -> Shapes:
    if not isinstance(found, dict):
        state.broken("shapes of parameters are no dict")
    for name, shape in found.items():
        if not isinstance(name, str) or not is_unicode(name):
            state.broken("a parameter's name is no text")
        if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS or not _are_sizes(shape):
            state.broken("its shape is none", name)
    return dict(found)


def _are_sizes(found: Sequence[object]) -> bool:
    return all(type(number) is int and 0 <= number < _LIMIT for number in found)


def _number(found: object) -> int | None:
    return found if type(found) is int and 0 <= found < _LIMIT else None
