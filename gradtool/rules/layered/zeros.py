"""GT205 and GT207 to GT209: gradients that are exactly 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from gradtool.core.figures import counted, share
from gradtool.core.judging.limits import Limits, limit
from gradtool.core.judging.rule import Parameter
from gradtool.core.measurement import TensorMeasurement
from gradtool.core.order.layers import layers_text, split_name
from gradtool.core.tensors import ABSENT
from gradtool.rules.evidence import DumpRule, Evidence, Problem
from gradtool.rules.siblings import is_all_zero

_ZERO_AT_FIRST: Final = (
    ("lora_A", "lora_B"),
    ("lora_a", "lora_b"),
    ("lora_down", "lora_up"),
    ("lora_embedding_B", "lora_embedding_A"),
    ("linear_in", "linear_out"),
    ("vera_lambda_d", "vera_lambda_b"),
)
"""Parts of names of two factors of which training starts with the second at 0.

The gradient of the first is a product with the second, and so exactly 0 in the first step.
"""

_FIRST_STEP: Final = 1
"""Whoever counts steps from 0 has two that are called no later."""

_LEAST_LAYERS: Final = 3


def _zeros(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    for tensor, thresholds in limits.each(one for one in evidence.gradients if one.stats.zeros):
        stats, max_share = tensor.stats, limit(thresholds, "max_share")
        zeros = stats.zeros / stats.numel
        if max_share is not None and zeros > max_share and not _rests(evidence, tensor):
            part = f"{share(stats.zeros, stats.numel)} of {counted(stats.numel, 'element')} are 0"
            words = "is all 0" if is_all_zero(tensor) else part
            yield Problem(words, tensor.name, value=zeros, limit=max_share)


def _dead(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    for tensor, _ in limits.each(filter(is_all_zero, evidence.gradients)):
        kind, blocks = evidence.kinds[tensor.name], evidence.blocks.get(tensor.name)
        if blocks is not None and 2 * blocks.alive > len(blocks.members) - 1:
            others = counted(len(blocks.members) - 1, "other block")
            yield Problem(f"is all 0, and in {blocks.alive:,} of {others} it is not", tensor.name)
            continue
        siblings = len(kind.members) - 1
        # Some of several experts, or of the heads of several tasks, are unused in any one step.
        if 2 * kind.alive > siblings and not evidence.peers[tensor.name].alive:
            yield Problem(
                f"is all 0, and {kind.alive:,} of {counted(siblings, 'tensor')} of its kind in "
                "other layers are not",
                tensor.name,
            )


def _cut_off(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    cuts = _cuts(evidence)
    if not cuts:
        return
    members = _members(evidence)
    outside = tuple(
        name for name, gets in members.items() if not gets and split_name(name).number is None
    )
    for name in members:
        split = split_name(name)
        alive = cuts.get((split.stem, split.number))
        if alive is not None and limits(name) is not None:
            verb = "get" if len(alive) > 1 else "gets"
            is_zero = name in evidence.by_name
            words = "is all 0" if is_zero else "has no gradient"
            message = f"{words}: only {layers_text(alive)} {verb} gradients"
            yield Problem(message, name, also=outside, alike="0" if is_zero else "missing")


def _members(evidence: Evidence) -> dict[str, bool]:
    """The parameters by name, and whether they get a gradient: one that is there, and not all 0."""
    members = {tensor.name: not is_all_zero(tensor) for tensor in evidence.gradients}
    return members | dict.fromkeys(_absent(evidence), False)


def _absent(evidence: Evidence) -> list[str]:
    """The parameters of which the dump notes that they have no gradient."""
    return [item.name for item in evidence.skipped if item.reason == ABSENT]


def _cuts(evidence: Evidence) -> dict[tuple[str, int | None], list[int]]:
    """The layers without gradients because only those behind them get any, and these.

    Layers are told by their stem and number. Those without are all before the others, and at
    least half: of fewer GT207 or GT010 speaks.
    """
    if not any(map(is_all_zero, evidence.gradients)) and not _absent(evidence):
        return {}
    stacks: dict[str, dict[int, bool]] = {}
    for name, gets in _members(evidence).items():
        split = split_name(name)
        if split.number is not None:
            layers = stacks.setdefault(split.stem, {})
            layers[split.number] = layers.get(split.number, False) or gets
    cuts: dict[tuple[str, int | None], list[int]] = {}
    for stem, layers in stacks.items():
        alive = sorted(number for number, gets in layers.items() if gets)
        dead = sorted(layers.keys() - set(alive))
        if not dead or not alive or len(layers) < _LEAST_LAYERS:
            continue
        if dead[-1] < alive[0] and 2 * len(alive) <= len(layers) - 1:
            cuts.update({(stem, number): alive for number in dead})
    return cuts


def _only_the_last(evidence: Evidence, problems: Sequence[Problem]) -> str:
    cuts = _cuts(evidence)
    splits = [split_name(one.tensor) for one in problems if one.tensor is not None]
    alive = {number for one in splits for number in cuts[one.stem, one.number]}
    outside = problems[0].also
    text = f"; only {layers_text(alive)} {'get' if len(alive) > 1 else 'gets'} gradients"
    if outside:
        more = f" and {len(outside) - 1:,} more tensors of no layer are" if outside[1:] else " is"
        text += f"; {outside[0]!r}{more} without, too"
    return text


def _dead_kind(evidence: Evidence, limits: Limits) -> Iterator[Problem]:
    zero = list(filter(is_all_zero, evidence.gradients))
    if not zero or len(zero) == len(evidence.gradients):
        return
    cuts = _cuts(evidence)
    for tensor, _ in limits.each(zero):
        if evidence.peers[tensor.name].alive:
            continue
        kind, split = evidence.kinds[tensor.name], split_name(tensor.name)
        siblings = len(kind.members) - 1
        if not siblings or 2 * kind.alive > siblings or (split.stem, split.number) in cuts:
            continue
        if _rests(evidence, tensor):
            continue
        yield Problem(
            f"is all 0, and so {_is(siblings - kind.alive)} of {counted(siblings, 'tensor')} of "
            "its kind in other layers",
            tensor.name,
        )


def _is(count: int) -> str:
    return f"{'is' if count == 1 else 'are'} {count:,}"


def _rests(evidence: Evidence, tensor: TensorMeasurement) -> bool:
    """Whether the tensor is 0, as all of its kind are, for a factor that training starts at 0."""
    kind = evidence.kinds[tensor.name]
    if kind.alive or not kind.members[1:] or not is_all_zero(tensor):
        return False
    if evidence.step is not None and evidence.step <= _FIRST_STEP:
        return True
    for part, starts_at_zero in _ZERO_AT_FIRST:
        if part in tensor.name:
            factor = evidence.by_name.get(tensor.name.replace(part, starts_at_zero))
            return factor is not None and not is_all_zero(factor)
    return False


def _nothing_more(_evidence: Evidence, _problems: Sequence[Problem]) -> str:
    return ""


RULES = (
    DumpRule(
        code="GT205",
        name="zeros",
        severity="warning",
        per_tensor=True,
        find=_zeros,
        alike="all or nearly all 0",
        yields_to=frozenset({"GT203", "GT207", "GT208", "GT209"}),
        summary="Nearly all elements of a tensor are exactly 0.",
        explanation=(
            "The tensor is hardly trained: activations are dead, its output is not used, or "
            "small gradients underflowed to 0."
        ),
        rationale=(
            "max_share is 0.999: a batch of a thousand tokens leaves 99.3 % of the rows of an "
            "embedding of 150,000 at 0, which is as it should be. Where GT203, GT207, GT208 or "
            "GT209 say more of a tensor, this rule does not repeat it, and it leaves out what "
            "GT209 knows to be 0 in a healthy first step."
        ),
        remedy="Look at what reads its output, and for underflow at GT206.",
        parameters=(Parameter("max_share", 0.999, "largest share of zeros", high=1.0),),
    ),
    DumpRule(
        code="GT207",
        name="dead-layer",
        per_tensor=True,
        find=_dead,
        alike="0",
        ending=_nothing_more,
        yields_to=frozenset({"GT208"}),
        summary="A tensor is all 0, and those of the same kind in other layers are not.",
        explanation=(
            "The layer gets no gradient: its output is detached or multiplied by 0, or all its "
            "units are dead. Tensors are of one kind if they have one shape, one name but for the "
            "first number in it (`layers.3.up.weight` and `layers.4.up.weight`), and layers with "
            "the same tensors. More than half of the others have to be alive, and an expert of "
            "several in its layer counts as dead only if all of them are. Of "
            "blocks that run one after another in a stage (`layer3.1.conv2.weight`, "
            "`layers.0.blocks.1.mlp.fc1.weight`) those of the same stage are the others, of any "
            "shape. For a kind that is 0 in most layers there are GT208 and GT209."
        ),
        rationale="None: exactly 0 in every element does not happen by chance.",
        remedy="Look in that layer for a detach(), a mask, a gate or a ReLU that closes.",
    ),
    DumpRule(
        code="GT208",
        name="cut-off",
        per_tensor=True,
        find=_cut_off,
        alike="0 or missing",
        ending=_only_the_last,
        summary="Only the last layers get gradients; those of all before them are 0 or missing.",
        explanation=(
            "Backward comes from the loss through the last layers and ends there: what they read "
            "is detached, computed under no_grad(), or multiplied by 0. At least half of three or "
            "more layers have to be 0 in all their tensors, or to have none, and all the others "
            "behind them; of fewer layers GT207 and GT010 say so."
        ),
        rationale=(
            "None: in healthy runs of two small transformers, a LoRA of one and a convolutional "
            "net no layer was all 0. Layers that are frozen on purpose are not in a dump, or not "
            "noted as parameters without a gradient."
        ),
        remedy=(
            "Look between the first layer that gets gradients and the last that does not for a "
            "detach(), a no_grad(), or gradient checkpointing whose inputs need no gradients."
        ),
    ),
    DumpRule(
        code="GT209",
        name="dead-kind",
        per_tensor=True,
        find=_dead_kind,
        alike="0",
        ending=_nothing_more,
        summary="A tensor is all 0, and so are most of the same kind in other layers.",
        explanation=(
            "A part of every layer gets no gradient: its output is not used, is detached or is "
            "multiplied by 0. Kinds are those of GT207, and others of the dump are not 0. "
            "A kind that is 0 in all layers may be a product with weights that start at 0. So "
            "it is no finding in steps 0 and 1, nor where names say so: the A of LoRA, whose B "
            "is not 0 (lora_A and lora_B, lora_down and lora_up, and others like them)."
        ),
        rationale=(
            "Half of the kind: of fewer dead tensors GT207 says that they are. In healthy runs of "
            "two small transformers, a LoRA of one and a convolutional net no tensor was all 0 "
            "but the A of LoRA in its first step."
        ),
        remedy=(
            "Look at what multiplies or reads that part in each layer; of a model whose weights "
            "start at 0, dump a later step, or note the step."
        ),
    ),
)
