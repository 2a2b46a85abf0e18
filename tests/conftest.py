"""What all tests share: Hypothesis profiles, places for files, and what is not inherited."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent / "conformance"))
sys.path.insert(0, str(Path(__file__).parent / "hostile"))
sys.path.insert(0, str(Path(__file__).parent / "layouts"))
sys.path.insert(0, str(Path(__file__).parent))

from backends import BACKENDS
from nobody import IS_ROOT

from gradtool.engine.backend import Backend

settings.register_profile(
    "gradtool",
    deadline=None,
    # Of each law that says no number itself; `.ci/run --full` asks for more.
    max_examples=int(os.environ.get("GRADTOOL_TEST_EXAMPLES", "40")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gradtool")


def pytest_sessionstart() -> None:
    """Have programs that tests start end by signals, though the tests themselves may not.

    Under `nohup`, behind `&` in a script and on some CI runners signals are ignored or blocked,
    and programs inherit that. One that has a handler here, which ignores it, has its default there.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python's own
        if number in blocked or signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the files of Hypothesis tests, which a function's own would not allow."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture
def anyones(tmp_path: Path) -> Iterator[Path]:
    """A folder that anyone may write to, on a way that whoever the tests step down to may go."""
    # Nobody else may enter `tmp_path`, nor perhaps what TMPDIR names.
    folder = Path(tempfile.mkdtemp(prefix="gradtool-test-", dir="/tmp")) if IS_ROOT else tmp_path
    folder.chmod(0o777)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=True)
    if folder != tmp_path:
        shutil.rmtree(folder)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each engine in turn."""
    engine: Backend = request.param
    return engine
