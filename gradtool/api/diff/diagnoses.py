"""Why two dumps differ: the rules of diagnosis, what they know, and what reads tensors again."""

from __future__ import annotations

from collections.abc import Sequence

from gradtool.core.checkpoint import Checkpoint
from gradtool.core.comparing.conclusion import Conclusion
from gradtool.core.comparing.difference import TensorDifference
from gradtool.core.judging.quotient import Known
from gradtool.engine.memory import reporting_shortage
from gradtool.engine.reading.pairs.second_look import SecondReading
from gradtool.request import MeasureRequest
from gradtool.rules.diagnosing import diagnosed


def why(
    tensors: Sequence[TensorDifference],
    sides: tuple[Checkpoint, Checkpoint],
    request: MeasureRequest,
) -> tuple[Conclusion, ...]:
    """What the figures of all pairs, in the order of the first dump, say together."""
    with reporting_shortage():
        return diagnosed(
            tensors,
            SecondReading(),
            _known(sides, request),
            in_model_order=sides[0].in_model_order,
        )


def _known(sides: tuple[Checkpoint, Checkpoint], request: MeasureRequest) -> Known:
    """What is known of two dumps, as far as a factor between them may come from it."""
    sizes = {size for one in sides for _, size in one.ranks}
    scales = {request.loss_scale_of(one) for one in sides} - {1.0}
    return Known(
        ranks=max(sizes, default=None),
        loss_scale=scales.pop() if len(scales) == 1 else None,
    )
