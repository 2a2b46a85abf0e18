"""What all tests share: Hypothesis profiles and files written by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

from backends import BACKENDS, InUse

settings.register_profile(
    "gradtool", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gradtool")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the files of Hypothesis tests, which a function's own would not allow."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module", params=BACKENDS)
def each_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each engine in turn, for tests that compute with `backends.InUse`."""
    before, InUse.backend = InUse.backend, request.param
    yield
    InUse.backend = before
