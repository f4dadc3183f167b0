"""What all tests share."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported: kernels run on the CPU

import numpy as np  # noqa: F401 - loads the BLAS whose threads are set below
import pytest
import scipy.linalg  # noqa: F401 - and SciPy's own
from threadpoolctl import threadpool_limits


def pytest_configure(config):
    """One BLAS thread in each test process: tests run side by side, and small matrices wait for threads they share."""
    threadpool_limits(1, user_api="blas")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that start Ray run in one process, so that they share one cluster."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
