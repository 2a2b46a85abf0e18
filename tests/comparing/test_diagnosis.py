"""Why two dumps differ: what was planted is told, and nothing that is not there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import gradtool
from comparing.planted import (
    FAULTS,
    HEAD,
    LAYOUTS,
    UP,
    Fault,
    Grads,
    Q,
    changed,
    flipped,
    gradients,
    one_gpu_and_ddp,
    reference,
    scaled,
)
from gradtool import Difference
from gradtool.core.judging.quotient import Known
from gradtool.engine.reading.pairs.second_look import SecondReading
from gradtool.rules.diagnosing import DIAGNOSES, diagnosed

GRADS = gradients()


def told(found: Difference) -> list[str]:
    return [one.name for one in found.diagnosis]


def assert_told(found: Difference, fault: Fault) -> None:
    """That fault is told, by its own rule, of its tensors, and no other."""
    assert told(found) == [fault.rule], found.diagnosis
    (one,) = found.diagnosis
    assert one.code in DIAGNOSES and DIAGNOSES[one.code].name == one.name
    assert [words for words in fault.words if words not in one.text] == [], one.text
    names = tuple(tensor.name for tensor in found.tensors)
    assert set(one.tensors) == set(names if fault.tensors is None else fault.tensors)
    assert not found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_told_in_every_layout(name: str, layout: str, tmp_path: Path) -> None:
    fault, (save_a, save_b) = FAULTS[name], LAYOUTS[layout]
    a = save_a(reference(name, GRADS), tmp_path / "a")
    b = save_b(fault.plant(GRADS), tmp_path / "b")
    assert_told(gradtool.diff(a, b), fault)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_told_of_the_same_gradients_in_two_layouts(layout: str, tmp_path: Path) -> None:
    save_a, save_b = LAYOUTS[layout]
    found = gradtool.diff(save_a(GRADS, tmp_path / "a"), save_b(GRADS, tmp_path / "b"))
    assert found.identical and found.diagnosis == ()


def noisy(size: float, only: str = "") -> Grads:
    """The gradients with noise of that share of each tensor's spread."""
    generator = torch.Generator().manual_seed(3)
    noise = {name: torch.randn(one.shape, generator=generator) for name, one in GRADS.items()}
    return {n: g + size * g.std() * noise[n] if only in n else g for n, g in GRADS.items()}


HEALTHY: dict[str, Callable[[], Grads]] = {
    "another seed": lambda: gradients(seed=1),
    "another batch": lambda: gradients(batch=1),
    **{f"noise of {size:g}": lambda size=size: noisy(size) for size in (0.5, 1e-2, 1e-3, 1e-4)},
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_has_no_single_reason_is_given_none(name: str, layout: str, tmp_path: Path) -> None:
    save_a, save_b = LAYOUTS[layout]
    a = save_a(GRADS, tmp_path / "a")
    found = gradtool.diff(a, save_b(HEALTHY[name](), tmp_path / "b"))
    assert not found and found.diagnosis == ()


def tf32(one: Tensor) -> Tensor:
    return ((one.clone().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def with_value(value: float) -> Callable[[Tensor], Tensor]:
    def put(one: Tensor) -> Tensor:
        one[3, 4] = value
        return one

    return put


def flipped_twice(one: Tensor) -> Tensor:
    words = one.view(torch.int32)
    words[5, 6] ^= 1 << 30
    words[9, 1] ^= 1 << 31
    return one


def from_layer_3_on(grads: Grads) -> Grads:
    noise = noisy(0.1)
    late = ("layers.3.", "ln_f.", HEAD)
    return {name: noise[name] if name.startswith(late) else one for name, one in grads.items()}


def up_to_layer_1(grads: Grads) -> Grads:
    noise = noisy(0.1)
    early = ("wte.", "wpe.", "layers.0.", "layers.1.")
    return {name: noise[name] if name.startswith(early) else one for name, one in grads.items()}


BUT_FOR_KEYS = tuple(name for name in GRADS if "k_proj.bias" not in name)
"""Gradients of a key's bias are 0 but for rounding: softmax does not change by what is added."""

FURTHER = {
    "a third": Fault(scaled(1 / 3), "factor", ("factor 0.33333 (1/3", "in all 69 tensors")),
    "clipped": Fault(scaled(0.7231), "factor", ("factor 0.7231 in all 69 tensors",)),
    "a loss scale": Fault(scaled(65536.0), "factor", ("factor 65536 (65536, a loss scale",)),
    "sign and size": Fault(scaled(-0.5), "factor", ("factor -0.5, the sign flipped (1/2",)),
    "half, in bfloat16": Fault(
        lambda grads: {n: (g / 3).bfloat16() for n, g in grads.items()}, "factor", ("factor 0.333",)
    ),
    "every sign": Fault(scaled(-1.0), "sign", ("the sign is flipped in all 69 tensors",)),
    "each its own factor": Fault(
        lambda grads: {n: g * (2 + i) for i, (n, g) in enumerate(grads.items())},
        "factor",
        ("a factor of its own, from 2 to 70, in all 69 tensors",),
    ),
    "summed in another order": Fault(
        lambda _: gradients(parts=4),
        "rounding",
        ("rounding noise of F32",),
        tuple(n for n, g in gradients(parts=4).items() if not torch.equal(g, GRADS[n])),
    ),
    "computed in bfloat16": Fault(
        lambda _: gradients(dtype=torch.bfloat16),
        "rounding",
        ("rounding noise of BF16, rel L2", "in all 65 tensors (4 more are next to 0)"),
        BUT_FOR_KEYS,
    ),
    "computed in bfloat16, saved as float32": Fault(
        lambda _: {name: one.float() for name, one in gradients(dtype=torch.bfloat16).items()},
        "rounding",
        ("rounding noise of BF16, which all numbers of B fit into", "in all 65 tensors"),
        BUT_FOR_KEYS,
    ),
    "float16": Fault(
        lambda grads: {n: g.half() for n, g in grads.items()}, "rounding", ("only rounding to F16",)
    ),
    "float64": Fault(
        lambda grads: {n: g.double() for n, g in grads.items()}, "rounding", ("the same numbers",)
    ),
    "bfloat16 in float32": Fault(
        lambda grads: {n: g.bfloat16().float() for n, g in grads.items()},
        "rounding",
        ("only rounding to BF16, which all numbers of B fit into", "in all 69"),
    ),
    "tf32": Fault(
        lambda grads: {n: tf32(g) for n, g in grads.items()},
        "rounding",
        ("only rounding to TF32", "in all 69"),
    ),
    "columns of another order": Fault(
        changed(UP, lambda g: g[:, torch.randperm(32, generator=torch.Generator().manual_seed(1))]),
        "moved-columns",
        ("permuted columns", UP),
        (UP,),
    ),
    "rows shifted back": Fault(
        changed(UP, lambda g: g.roll(-3, dims=0)),
        "moved-rows",
        ("rows shifted by 3 back, cyclically",),
        (UP,),
    ),
    "columns shifted out": Fault(
        changed(UP, lambda g: torch.cat([torch.zeros(128, 1), g[:, :-1]], 1)),
        "moved-columns",
        ("columns shifted by 1 on, the last ones are gone",),
        (UP,),
    ),
    "read in another order": Fault(
        changed(UP, lambda g: g.T.reshape(128, 32)), "moved-elements", ("the same elements",), (UP,)
    ),
    "sorted rows": Fault(
        changed(UP, lambda g: g.sort(dim=1).values),
        "moved-elements",
        ("each row has the same elements in other columns",),
        (UP,),
    ),
    "turned, and other noise": Fault(
        changed(Q, lambda g: g.T * (1 + 1e-6 * torch.randn(32, 32))),
        "transposed",
        ("B is transposed", "but for a rest of"),
        (Q,),
    ),
    "turned, and not square": Fault(
        changed(UP, lambda g: g.T.contiguous()), "transposed", ("B is transposed", UP), (UP,)
    ),
    "NaN": Fault(
        changed(UP, with_value(math.nan)), "nonfinite-side", ("1 NaN in B alone", "[3, 4]"), (UP,)
    ),
    "Inf": Fault(
        changed(UP, with_value(-math.inf)), "nonfinite-side", ("1 Inf in B alone", "[3, 4]"), (UP,)
    ),
    "dead": Fault(
        changed(UP, torch.zeros_like),
        "dead-side",
        ("all elements are 0 in B, and not in A", UP, "the other 68 tensors agree"),
        (UP,),
    ),
    "two bits": Fault(
        changed(UP, flipped_twice),
        "flipped-bits",
        ("2 of 57,536 elements differ in one bit each", "bit 30 (of the exponent)"),
        (UP,),
    ),
    "late layers": Fault(
        from_layer_3_on,
        "only-here",
        ("all from 'layers.3.ln_1.weight' on", "the other 50 tensors agree"),
        tuple(n for n in GRADS if n.startswith(("layers.3.", "ln_f.", HEAD))),
    ),
    "early layers": Fault(
        up_to_layer_1,
        "only-here",
        ("all up to 'layers.1.down_proj.bias'",),
        tuple(n for n in GRADS if n.startswith(("wte.", "wpe.", "layers.0.", "layers.1."))),
    ),
    "one kind": Fault(
        lambda _: noisy(0.1, "k_proj.weight"),
        "only-here",
        ("only layers.*.attn.k_proj.weight (4 of 4 layers) differ",),
        tuple(n for n in GRADS if "k_proj.weight" in n),
    ),
}


@pytest.mark.parametrize("name", FURTHER)
def test_further_faults_are_told(name: str) -> None:
    fault = FURTHER[name]
    assert_told(gradtool.diff(GRADS, fault.plant(GRADS)), fault)


def test_every_rule_is_planted() -> None:
    planted = {fault.rule for fault in (*FAULTS.values(), *FURTHER.values())}
    assert planted == {rule.name for rule in DIAGNOSES.values()}


def test_what_is_left_beside_a_factor_is_told_as_well() -> None:
    one, ddp = one_gpu_and_ddp()
    found = gradtool.diff(one, ddp)
    assert told(found) == ["factor", "only-here"]
    factor, here = found.diagnosis
    assert "factor 0.5 (1/2" in factor.text and "12 of 16 tensors" in factor.text
    assert set(factor.tensors) == {name for name in one if ".3." not in name}
    assert set(here.tensors) == {name for name in one if ".3." in name}
    assert "layer.3" in here.text and "in more than that" in here.text


def test_elements_in_the_wrong_columns() -> None:
    of_mlx = np.array([[0, 0, 1, 1, 0], [0, 0, 1, 1, 0]], np.float32)
    of_torch = np.array([[0, 0, 1, 0, 1], [1, 0, 0, 0, 1]], np.float32)
    found = gradtool.diff({"x": of_torch}, {"x": of_mlx})
    assert told(found) == ["moved-elements"]
    assert "each row has the same elements in other columns" in found.diagnosis[0].text


def test_a_sign_and_a_turned_matrix_that_norms_pass(tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = [f"model.layers.{n}.self_attn.{m}_proj.weight" for n in range(3) for m in "qkv"]
    right = {name: torch.randn(8, 8) * 1e-2 for name in names}
    v, q = "model.layers.1.self_attn.v_proj.weight", "model.layers.2.self_attn.q_proj.weight"
    paths = {}
    for name, grads in {
        "right": right,
        "sign": {**right, v: -right[v]},
        "turned": {**right, q: right[q].T.contiguous()},
    }.items():
        paths[name] = str(tmp_path / f"{name}.safetensors")
        save_file(grads, paths[name])
    sign, turned = (gradtool.diff(paths["right"], paths[name]) for name in ("sign", "turned"))
    assert_told(sign, Fault(scaled(1), "sign", ("sign is flipped",), (v,)))
    assert_told(turned, Fault(scaled(1), "transposed", ("transposed",), (q,)))


def test_a_compiled_model_of_other_batches_has_other_gradients_and_no_more() -> None:
    steps = []
    for seed in (1, 4):
        generator = torch.Generator().manual_seed(seed)
        steps.append(
            {
                f"attn_blocks.{n}.attn.heads.{h}.key.weight": torch.randn(
                    16, 16, generator=generator
                )
                for n in range(3)
                for h in range(2)
            }
        )
    compiled = {f"module._orig_mod.{name}": one for name, one in steps[1].items()}
    found = gradtool.diff(steps[0], compiled)
    assert found.diagnosis == () and len(found.tensors) == 6
    assert gradtool.diff(steps[1], compiled).identical


def test_zeros_that_agree_prove_nothing() -> None:
    cut = ("wte.", "wpe.", "layers.0.", "layers.1.", "layers.2.")
    dead, other = (
        {name: torch.zeros_like(g) if name.startswith(cut) else g for name, g in grads.items()}
        for grads in (GRADS, gradients(batch=1))
    )
    assert gradtool.diff(dead, other).diagnosis == ()


def test_a_distance_beside_one_large_element_is_no_rounding() -> None:
    a = torch.full((4096,), 1e-3)
    a[0] = 1.0
    noise = 1e-6 * torch.randn(4096, generator=torch.Generator().manual_seed(1))
    found = gradtool.diff({"w": a}, {"w": a + noise})
    assert 3e-5 < (found.tensors[0].rel_l2 or 0.0) < 1e-4
    assert found.diagnosis == ()


def test_tensors_that_are_close_by_chance_are_not_told_of_where_most_are_not() -> None:
    near, far = noisy(1e-7), noisy(0.1)
    b = {name: near[name] if "layers.1" in name else far[name] for name in GRADS}
    assert gradtool.diff(GRADS, b).diagnosis == ()


@pytest.mark.parametrize("order", ["C", "F"])
def test_matrices_of_several_blocks_are_read_whole(order: Any) -> None:
    rng = np.random.default_rng(0)
    a = np.array(rng.standard_normal((700, 900)).astype(np.float32), order="C")
    b = np.array(np.roll(a, -2, axis=1), order=order)
    found = gradtool.diff({"w": a}, {"w": b})
    assert told(found) == ["moved-columns"]
    assert "columns shifted by 2 back, cyclically" in found.diagnosis[0].text
    b[699, 5] += 1.0
    assert gradtool.diff({"w": a}, {"w": b}).diagnosis == ()


def test_last_bits_of_several_elements_are_rounding() -> None:
    b = GRADS[UP].clone()
    b.view(torch.int32)[[1, 5], [2, 6]] ^= 1
    found = gradtool.diff(GRADS, {**GRADS, UP: b})
    assert told(found) == ["rounding"]
    one = GRADS[UP].clone()
    one.view(torch.int32)[1, 2] ^= 1
    found = gradtool.diff(GRADS, {**GRADS, UP: one})
    assert told(found) == ["flipped-bits"] and "bit 0 (of the mantissa)" in found.diagnosis[0].text


def test_bits_are_not_told_where_a_tolerance_hides_others() -> None:
    b = {**gradients(parts=4), UP: flipped(30)(GRADS[UP].clone())}
    found = gradtool.diff(GRADS, b, max_rel_l2=1e-3, atol=1e-6)
    assert [one.name for one in found.tensors if not one.same] == [UP]
    assert "flipped-bits" not in told(found)


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(2, 9), st.integers(2, 9), st.sampled_from(["F", "C"]))
def test_a_permutation_is_found_and_told_as_it_is(
    seed: int, rows: int, columns: int, order: Any
) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((rows, columns)).astype(np.float32)
    chosen = rng.permutation(rows)
    b = np.array(a[chosen], order=order)
    found = gradtool.diff({"w": a}, {"w": b})
    if (chosen == np.arange(rows)).all():
        assert found.identical
        return
    assert told(found) == ["moved-rows"]
    text = found.diagnosis[0].text
    count = int((chosen != np.arange(rows)).sum())
    first = int(np.flatnonzero(chosen != np.arange(rows))[0])
    at = int(np.flatnonzero(chosen == first)[0])
    permuted = f"{count} of {rows} are in other places, row {first} of A is row {at} of B"
    assert permuted in text or "rows shifted by" in text


@given(seeds, st.integers(1, 12), st.integers(1, 12), st.floats(1e-3, 10.0))
def test_unrelated_noise_is_never_explained(
    seed: int, rows: int, columns: int, size: float
) -> None:
    rng = np.random.default_rng(seed)
    a = {f"layers.{n}.w": rng.standard_normal((rows, columns)) for n in range(3)}
    b = {name: one + size * rng.standard_normal(one.shape) for name, one in a.items()}
    assert gradtool.diff(a, b).diagnosis == ()


def test_what_was_not_read_again_is_said() -> None:
    turned = {n: g.T.contiguous() if g.dim() == 2 else g for n, g in GRADS.items()}
    square = {n for n, g in GRADS.items() if g.dim() == 2 and g.shape[0] == g.shape[1]}
    found = gradtool.diff(GRADS, turned)
    first = next(t for t in found.tensors if t.name in square)
    pairs = [t for t in found.tensors if t.name in square]
    look = SecondReading(most_nbytes=first.a.nbytes * 2)
    (one,) = diagnosed(pairs, look, Known(), in_model_order=True)
    assert one.tensors == (first.name,)
    assert f"{len(pairs) - 1} were not read again" in one.text


def test_differences_within_the_tolerance_are_no_difference_to_explain() -> None:
    found = gradtool.diff(GRADS, gradients(parts=4), max_rel_l2=1e-3, atol=1e-6)
    assert found and not found.identical and found.diagnosis == ()


def test_each_rule_is_explained_and_each_sentence_names_options(tmp_path: Path) -> None:
    result = run("explain", *DIAGNOSES)
    assert (result.returncode, result.stderr) == (0, "")
    assert all(f"{rule.code} {rule.name}" in result.stdout for rule in DIAGNOSES.values())
    assert "--transpose compares" in result.stdout
    assert run("explain", "Transposed").stdout.startswith("GT508 transposed")
    paths = [str(tmp_path / f"{side}.safetensors") for side in "ab"]
    save_file({"w": GRADS[Q]}, paths[0])
    save_file({"w": GRADS[Q].T.contiguous()}, paths[1])
    result = run("diff", *paths)
    assert result.returncode == 1
    assert "GT508 transposed: B is transposed, which --transpose compares, in 'w'" in result.stdout
    assert run("diff", *paths, "--transpose", "w").returncode == 0


def test_axes_that_are_swapped_and_not_of_the_same_numbers_are_a_question() -> None:
    rng = np.random.default_rng(0)
    a, b = {"w": rng.random((4, 8))}, {"w": rng.random((8, 4))}
    found = gradtool.diff(a, b)
    assert found.tensors[0].problem == "shapes differ"
    assert told(found) == ["transposed"]
    asked = "sizes are swapped, 4x8 in A, 8x4 in B: transposed?"
    assert asked in found.diagnosis[0].text
    unread = diagnosed(found.tensors, SecondReading(0), Known(), in_model_order=True)
    assert [asked in one.text for one in unread] == [True]
    assert gradtool.diff(a, {"w": rng.random((7, 4))}).diagnosis == ()


def test_two_numbers_prove_a_factor_where_nothing_is_left() -> None:
    a = np.array([0.3, -1.7, 0.0])
    (found,) = gradtool.diff({"w": a}, {"w": 3.0 * a}).diagnosis
    assert found.code == "GT507"
    assert found.text.startswith("factor 3 ")
    b = np.array([0.91, -5.05, 0.0])  # nearly 3 times, as two numbers may be by chance
    assert "GT507" not in {one.code for one in gradtool.diff({"w": a}, {"w": b}).diagnosis}
