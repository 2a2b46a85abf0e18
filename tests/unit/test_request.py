"""What is asked of every command: one request, the same words and defaults everywhere."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any, get_type_hints

import pytest

import gradtool
from gradtool.api.measuring import measure
from gradtool.request import MeasureOptions, MeasureRequest

FIELDS = {field.name: field.default for field in dataclasses.fields(MeasureRequest) if field.init}


def test_measure_takes_the_fields_of_a_request_with_their_defaults() -> None:
    parameters = inspect.signature(measure).parameters.values()
    keywords = {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
    assert list(keywords.items()) == list(FIELDS.items())


def test_whoever_takes_options_takes_the_same_with_the_same_types() -> None:
    requested = get_type_hints(MeasureRequest)
    for_all = FIELDS.keys() - {"digest", "rows"}
    assert get_type_hints(MeasureOptions) == {name: requested[name] for name in for_all}
    assert get_type_hints(measure) == {
        **get_type_hints(MeasureOptions),
        "digest": bool,
        "rows": requested["rows"],
        "source": get_type_hints(measure)["source"],
        "return": gradtool.Measurement,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"norm_type": math.nan},
        {"norm_type": "two"},
        {"include": 3},
        {"exclude": [3]},
        {"loss_scale": 0.0},
        {"loss_scale": math.inf},
        {"raw_dtype": "BF61"},
        {"raw_dtype": 16},
        {"threads": 0},
        {"threads": True},
        {"threads": 1.5},
        {"backend": "jax"},
        {"device": "tpu"},
        {"device_memory": "much"},
        {"backend": "numpy", "device": "cpu"},
    ],
)
def test_a_request_that_makes_no_sense_is_never_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(gradtool.UsageError):
        MeasureRequest(**wrong)


def test_a_request_holds_what_was_meant_and_not_how_it_was_said() -> None:
    said = MeasureRequest(norm_type="-0", include=iter(["a", "b"]), exclude="c", raw_dtype="bf16")  # type: ignore[arg-type]
    assert said == MeasureRequest(
        norm_type=0.0, include=("a", "b"), exclude=["c"], raw_dtype="BF16"
    )
    assert math.copysign(1.0, said.norm_type) == 1.0
    assert [name for name in "abcd" if said.names(name)] == ["a", "b"]


def test_a_request_cannot_be_changed_behind_its_checks() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MeasureRequest().threads = 0  # type: ignore[misc]
