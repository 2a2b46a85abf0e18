"""Sections of a checkpoint: what is gradients, weights, an optimizer's moments, or neither.

A training checkpoint keeps them side by side; one norm over all of them means nothing, and moments
or weights are never called gradients. Sections have names that people use, the same whatever file
or layout they come from: `grads`, `model`, `ema`, `optimizer.exp_avg`, `other`.

Sources of the keys: `get_state_dict` of torch/distributed/checkpoint/state_dict.py, flattened or
not; torchtitan, whose model's names have no prefix beside `optimizer`; Lightning's
pytorch/trainer/connectors/checkpoint_connector.py; Megatron-LM, DeepSpeed and optax for moments.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, Protocol

from gradtool.core.names import unwrapped
from gradtool.core.tensors import SectionKind

GRADS: Final = "grads"
MODEL: Final = "model"
EMA: Final = "ema"
OPTIMIZER: Final = "optimizer"
OTHER: Final = "other"
"""What is neither gradient, weight nor moment: a loss, a step, a learning rate, a callback's state.

It is listed, and enters no total.
"""

SECTIONS: Final = (GRADS, MODEL, EMA, OPTIMIZER, OTHER)
"""All of them; what an optimizer keeps has sections of its own below that."""

OPTIMIZER_KEYS: Final = frozenset({"state", "param_groups"})
"""The keys of what `Optimizer.state_dict` of torch gives."""

KEYS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("grad", "grads", "gradients", "main_grad", "main_grads"), GRADS),
    **dict.fromkeys(("model", "model_state", "model_state_dict", "state_dict"), MODEL),
    **dict.fromkeys(("module", "network", "params", "weights", "frozen_param_fragments"), MODEL),
    **dict.fromkeys(("ema", "ema_model", "ema_state_dict", "model_ema"), EMA),
    **dict.fromkeys(("optim", "optim_state", "opt_state"), OPTIMIZER),
    **dict.fromkeys(("optimizer", "optimizer_state", "optimizer_state_dict"), OPTIMIZER),
    **dict.fromkeys(("optimizers", "optimizer_states"), OPTIMIZER),
}
"""The section that a key at the top of a checkpoint, or a word in a file's name, stands for."""

KINDS: Final[Mapping[str, SectionKind]] = {
    GRADS: "gradients",
    MODEL: "weights",
    EMA: "weights",
    OPTIMIZER: "optimizer",
}
"""What sections hold; those below `optimizer` hold its moments as well."""

OTHERS: Final = frozenset(
    {
        *("callbacks", "dataloader", "dataloader_states", "epoch", "extra_state", "global_step"),
        *("grad_scaler", "learning_rate", "loops", "loss", "lr", "lr_scheduler", "lr_schedulers"),
        *("random_states", "rng", "rng_state", "rng_states", "sampler", "scaler", "scheduler"),
        *("step", "train_state", "trainer_state", "training_args"),
    }
)
"""Keys of what is neither."""

_NO_MOMENTS: Final = frozenset(
    {
        *("betas", "count", "eps", "learning_rate", "lr", "step", "steps", "weight_decay"),
        *("initial_lr", "max_lr", "min_lr"),
    }
)
_MASTER: Final = "master"
_MOMENTS: Final[Mapping[str, str]] = {
    **{name: name for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg")},
    **{name: name for name in ("grad_avg", "acc_delta", "momentum_buffer", "momentum", "sum")},
    **{name: name for name in ("m", "v", "mu", "nu", "trace")},
    **dict.fromkeys(("fp32_flat_groups", "fp32_from_fp16_params", "fp32_param"), _MASTER),
    **dict.fromkeys(("master", "master_param", "master_params", "master_weights"), _MASTER),
    **dict.fromkeys(("fp32_groups", "single_partition_of_fp32_groups"), _MASTER),
}
"""What optimizers keep of a parameter, where the name alone tells."""
_SUFFIXES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("grad", "main_grad"), GRADS),
    **{
        name: f"{OPTIMIZER}.{_MOMENTS[name]}"
        for name in (
            *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "grad_avg"),
            *("acc_delta", "momentum_buffer", "master", "master_param", "master_weights"),
            "fp32_param",
        )
    },
}
"""The section that the last part of a tensor's name stands for, where no layer is so called."""


@dataclass(frozen=True, slots=True)
class Sections:
    """The section of each tensor by name, and the kinds of those that are recognised."""

    by_name: Mapping[str, str] = field(default_factory=dict)
    kinds: dict[str, SectionKind] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        """The section of a tensor; "" for one that is in none."""
        return self.by_name.get(name, "")

    def with_others(self, names: Iterable[str]) -> Sections:
        """The same, but for names that are `other`."""
        return Sections({**self.by_name, **dict.fromkeys(names, OTHER)}, self.kinds)


def sections_of(tops: Mapping[str, str | None], keys: Iterable[str] = ()) -> Sections:
    """The sections of a checkpoint's tensors, by the keys at its top.

    `tops` has, for each tensor's name, the key that it lies under, with which the name begins;
    None where the name is a key by itself. `keys` are others at the top. A lone parameter may well
    be called `weights`: a name by itself counts as such a key only beside one of another kind.
    Where nothing is recognised there are no sections.
    """
    heads = {name if top is None else top for name, top in tops.items()}
    several = len({KEYS[key] for key in (*heads, *keys) if key in KEYS}) > 1

    def known(name: str, top: str | None) -> str | None:
        return KEYS.get(name if top is None else top) if top is not None or several else None

    recognised = {section for name, top in tops.items() if (section := known(name, top))}
    if not recognised:
        return with_suffixes(Sections(), tops)
    by_name: dict[str, str] = {}
    kinds: dict[str, SectionKind] = {}
    for name, top in tops.items():
        section = known(name, top)
        if section is None:
            section = MODEL if _is_weight(name, top, recognised) else OTHER
        kind = KINDS.get(section)
        if section == OPTIMIZER:
            section = _within_optimizer(name.removeprefix(f"{top}."))
            kind = KINDS.get(section, kind)
        by_name[name] = section
        if kind is not None and section != OTHER:
            kinds[section] = kind
    return with_suffixes(Sections(by_name, kinds), tops)


def _is_weight(name: str, top: str | None, recognised: AbstractSet[str]) -> bool:
    """Whether what lies under no known key is a weight: beside an optimizer's moments it may be."""
    head = name.partition(".")[0] if top is None else top
    if OPTIMIZER not in recognised or head in OTHERS:
        return False
    return recognised.isdisjoint((MODEL, EMA)) or (top is None and "." in name)


def _within_optimizer(name: str) -> str:
    """The section of what an optimizer keeps: named by what it is of each parameter."""
    words = [word for word in name.split(".") if not word.isdecimal()]
    if "param_groups" in words:
        # An optimizer that was saved whole has the parameters themselves there.
        return MODEL if words[-1] == "params" else OTHER
    keys = words[1:] if words[:1] == ["state"] else words
    if not keys or keys[-1] in _NO_MOMENTS:
        return OTHER
    moment = _MOMENTS.get(keys[-1]) or _MOMENTS.get(keys[0])
    if moment is None and words[:1] == ["state"]:
        moment = keys[-1]  # as any optimizer of torch calls it
    return f"{OPTIMIZER}.{moment}" if moment else OPTIMIZER


def with_suffixes(sections: Sections, names: Collection[str]) -> Sections:
    """The sections, in which `w.grad` and `w.exp_avg` are not what `w` beside them is.

    Such names are sections of their own where the section that they lie in has other names too;
    what is in no section beside them is a weight, as `w` is, or `other`, as a loss and `w.step`
    are. Where all names end alike there is nothing to tell apart.
    """
    told: dict[str, str] = {}
    owners: set[str] = set()
    for name in names:
        owner, _, last = name.rpartition(".")
        if owner and last in _SUFFIXES:
            told[name] = _SUFFIXES[last]
            owners.add(owner)
    if not told:
        return sections
    mixed = _mixed(sections, names, told)
    if not mixed:
        return sections
    by_name = {name: sections(name) for name in names}
    for name, section in by_name.items():
        if section not in mixed:
            continue
        if name in told:
            by_name[name] = told[name]
        elif section == "":
            by_name[name] = _beside_suffixes(name, owners)
    found = {section: _kind_of(section) for section in by_name.values()}
    kinds = {section: kind for section, kind in found.items() if kind is not None}
    return Sections(by_name, {**kinds, **sections.kinds})


def _mixed(sections: Sections, names: Iterable[str], told: Mapping[str, str]) -> set[str]:
    """The sections in which suffixes tell of more than one thing, or of some names only."""
    things: dict[str, set[str]] = {}
    for name in names:
        section = sections(name)
        if section != OTHER and section.partition(".")[0] != OPTIMIZER:
            things.setdefault(section, set()).add(told.get(name, section))
    return {
        section
        for section, found in things.items()
        if len(found) > 1 or (section and section not in found)
    }


def _beside_suffixes(name: str, owners: AbstractSet[str]) -> str:
    owner, _, last = name.rpartition(".")
    if name in owners:
        return MODEL
    if (not owner and last in OTHERS) or (owner in owners and last in _NO_MOMENTS):
        return OTHER
    return ""


def _kind_of(section: str) -> SectionKind | None:
    return KINDS.get(section.partition(".")[0])


def sections_of_flat_names(names: Collection[str]) -> Sections:
    """The sections of a format that knows no nesting, by the first dotted component of names.

    `model.layers.0.weight` alone is how many gradients are called, so such components count only
    where two that have no norm together stand side by side, or gradients beside what is neither.
    """
    heads = {name: name.partition(".")[0] for name in names}
    found = {KEYS[head] for head in heads.values() if head in KEYS}
    beside_others = GRADS in found and not OTHERS.isdisjoint(heads.values())
    if have_one_norm(found, KINDS) and not beside_others:
        return with_suffixes(Sections(), names)
    return sections_of(
        {name: head if head in KEYS and head != name else None for name, head in heads.items()}
    )


def have_one_norm(sections: Iterable[str], kinds: Mapping[str, SectionKind]) -> bool:
    """Whether a norm of sections together, which are of these `kinds`, means something.

    One of different kinds does not, nor of a model and its average: that is the model once more.
    """
    return len({EMA if name == EMA else kinds.get(name) for name in sections}) <= 1


def within_section(name: str, section: str) -> str:
    """The name of a tensor without the file's own key of its section, where it lies under one."""
    key, dot, rest = name.partition(".")
    return rest if dot and KEYS.get(key) == section else name


class InSection(Protocol):
    """Whatever has a name and lies in a section."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def section(self) -> str:
        """Its section; "" for none."""


def section_filter(chosen: str, known: Iterable[str]) -> Callable[[InSection], bool]:
    """Whether something lies in the section that is asked for, of those that are `known`.

    It is asked for by its name, by that of a parent (`optimizer` is all `optimizer.*`), or else by
    the file's own key, such as `state_dict`, under which what is `other` stays out; the key may
    stand behind what wraps modules.
    """
    if chosen == "" or any(_is_within(name, chosen) for name in known):
        return lambda item: _is_within(item.section, chosen)
    return lambda item: (
        item.section not in ("", OTHER)
        and (_is_within(item.name, chosen) or _is_within(unwrapped(item.name), chosen))
    )


def _is_within(name: str, parent: str) -> bool:
    """Whether a dotted name is `parent` or below it."""
    return name == parent or (parent != "" and name.startswith(f"{parent}."))
