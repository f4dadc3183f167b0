"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported: kernels run on the CPU

import numpy as np  # noqa: F401 - loads the BLAS whose threads are set below
import pytest
import scipy.linalg  # noqa: F401 - and SciPy's own
from threadpoolctl import threadpool_limits


def pytest_configure(config):
    """One BLAS thread in each test process, since small matrices wait for threads they share; no wait for the disk.

    The tests of power loss decide themselves what has reached the disk.
    """
    threadpool_limits(1, user_api="blas")
    os.fsync = lambda descriptor: None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What shares a cluster, a page or a module's fixtures and caches runs in one process; the rest anywhere."""
    for item in items:
        if "local_ray" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif item.path.name != "test_blocks.py" and not item.get_closest_marker("ray"):  # one with a Ray of its own
            shared = item.path.parent if item.path.parent.name == "report" else item.path
            item.add_marker(pytest.mark.xdist_group(str(shared)))


@pytest.fixture(scope="session", autouse=True)
def coarse_figures() -> Iterator[None]:
    """Figures of few dots, their fonts as outlines: three quarters of the time to write one go into print quality."""
    from flatdist.figures import style

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "RESOLUTION", 75)
        patch.setitem(style._SETTINGS, "pdf.fonttype", 3)
        yield


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray on two CPUs, private to this test run, for all tests of the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray leaves a token in the home folder
        # The runners of launch_fakes are found by name there.
        patch.setenv("PYTHONPATH", str(Path(__file__).with_name("helpers")), prepend=os.pathsep)
        from flatdist.launch.ray.cluster import ClusterSession
        from flatdist.planning import Settings

        with ClusterSession(Settings(slots=2)):
            yield
