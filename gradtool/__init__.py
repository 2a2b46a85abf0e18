"""gradtool tells the truth about gradients saved to disk.

    >>> import gradtool
    >>> measurement = gradtool.measure("run/grads.safetensors")
    >>> measurement.total.norm

Names are resolved on first use, so that `gradtool --help` loads no array library. So are
`gradtool.numpy`, `gradtool.torch` and `gradtool.integrations`, of which the last two need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from gradtool import display
from gradtool._version import __version__

if TYPE_CHECKING:
    from gradtool import integrations as integrations
    from gradtool import numpy as numpy
    from gradtool import torch as torch
    from gradtool.api.baselines import save_baseline as save_baseline
    from gradtool.api.baselines import update_baseline as update_baseline
    from gradtool.api.checking import check as check
    from gradtool.api.clip.clipping import clip as clip
    from gradtool.api.diff.comparing import diff as diff
    from gradtool.api.measuring import measure as measure
    from gradtool.api.trending import trend as trend
    from gradtool.core.clip.outcome import ClipOutcome as ClipOutcome
    from gradtool.core.clip.plan import ClipPlan as ClipPlan
    from gradtool.core.clip.plan import ClipRequest as ClipRequest
    from gradtool.core.clipping import Transform as Transform
    from gradtool.core.comparing.difference import Difference as Difference
    from gradtool.core.comparing.difference import TensorDifference as TensorDifference
    from gradtool.core.judging.baseline import Baseline as Baseline
    from gradtool.core.judging.policy import Policy as Policy
    from gradtool.core.judging.verdict import CheckOutcome as CheckOutcome
    from gradtool.core.judging.verdict import Finding as Finding
    from gradtool.core.judging.verdict import Verdict as Verdict
    from gradtool.core.measurement import Measurement as Measurement
    from gradtool.core.measurement import Summary as Summary
    from gradtool.core.measurement import TensorMeasurement as TensorMeasurement
    from gradtool.core.stats import TensorStats as TensorStats
    from gradtool.core.trends.trend import Trend as Trend
    from gradtool.display import Showing
    from gradtool.errors import CorruptFileError as CorruptFileError
    from gradtool.errors import DeviceError as DeviceError
    from gradtool.errors import EmptyDumpError as EmptyDumpError
    from gradtool.errors import FileAccessError as FileAccessError
    from gradtool.errors import FileChangedError as FileChangedError
    from gradtool.errors import FoundCheckpoint as FoundCheckpoint
    from gradtool.errors import GradtoolError as GradtoolError
    from gradtool.errors import InputError as InputError
    from gradtool.errors import MissingShardError as MissingShardError
    from gradtool.errors import NonFiniteError as NonFiniteError
    from gradtool.errors import NormRangeError as NormRangeError
    from gradtool.errors import RanksDifferError as RanksDifferError
    from gradtool.errors import RanksQuestionError as RanksQuestionError
    from gradtool.errors import RefusedError as RefusedError
    from gradtool.errors import ResourceError as ResourceError
    from gradtool.errors import SameTensorsError as SameTensorsError
    from gradtool.errors import SeveralCheckpointsError as SeveralCheckpointsError
    from gradtool.errors import TargetBusyError as TargetBusyError
    from gradtool.errors import UnknownFormatError as UnknownFormatError
    from gradtool.errors import UnsupportedFormatError as UnsupportedFormatError
    from gradtool.errors import UsageError as UsageError
    from gradtool.testing import assert_healthy as assert_healthy
    from gradtool.testing import assert_same as assert_same

_HOMES = {
    "gradtool.api.baselines": ("save_baseline", "update_baseline"),
    "gradtool.api.checking": ("check",),
    "gradtool.api.clip.clipping": ("clip",),
    "gradtool.api.diff.comparing": ("diff",),
    "gradtool.api.measuring": ("measure",),
    "gradtool.api.trending": ("trend",),
    "gradtool.core.judging.baseline": ("Baseline",),
    "gradtool.core.clip.plan": ("ClipPlan", "ClipRequest"),
    "gradtool.core.clipping": ("Transform",),
    "gradtool.core.comparing.difference": ("Difference", "TensorDifference"),
    "gradtool.core.measurement": ("Measurement", "Summary", "TensorMeasurement"),
    "gradtool.core.clip.outcome": ("ClipOutcome",),
    "gradtool.core.judging.policy": ("Policy",),
    "gradtool.core.stats": ("TensorStats",),
    "gradtool.core.trends.trend": ("Trend",),
    "gradtool.core.judging.verdict": ("CheckOutcome", "Finding", "Verdict"),
    "gradtool.errors": (
        "CorruptFileError",
        "DeviceError",
        "EmptyDumpError",
        "FileAccessError",
        "FileChangedError",
        "FoundCheckpoint",
        "GradtoolError",
        "InputError",
        "MissingShardError",
        "NonFiniteError",
        "NormRangeError",
        "RanksDifferError",
        "RanksQuestionError",
        "RefusedError",
        "ResourceError",
        "SameTensorsError",
        "SeveralCheckpointsError",
        "TargetBusyError",
        "UnknownFormatError",
        "UnsupportedFormatError",
        "UsageError",
    ),
    "gradtool.testing": ("assert_healthy", "assert_same"),
}

_MODULES = {"integrations": "torch", "numpy": "numpy", "torch": "torch"}
"""For live gradients, and what each needs; not in `__all__`, as a star would import torch."""

__all__ = [  # noqa: PLE0604 - drawn from the one table of names
    *(name for names in _HOMES.values() for name in names),
    "__version__",
]


def _load_showing() -> Showing:
    return cast("Showing", import_module("gradtool.report.showing"))


display.load_showing = _load_showing


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    from importlib.util import find_spec  # noqa: PLC0415 - loads what only this needs

    there = (name for name, library in _MODULES.items() if find_spec(library) is not None)
    return sorted([*__all__, *there])
