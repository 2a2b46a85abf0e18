"""What all tests share: Hypothesis profiles and files written by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

from backends import BACKENDS, InUse

from gradtool.engine.numpy_backend import NUMPY

settings.register_profile(
    "gradtool", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gradtool")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the files of Hypothesis tests, which a function's own would not allow."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module", params=BACKENDS)
def each_backend() -> None:
    """Each engine in turn, for tests that compute with `backends.InUse`."""


def pytest_runtest_setup(item: pytest.Function) -> None:
    """Set the engine of each test: a fixture of a module lasts beyond the tests that ask for it."""
    asked = item.callspec.params if hasattr(item, "callspec") else {}
    InUse.backend = asked.get("each_backend", NUMPY)
