"""Settings for every test. (This file also puts its folder on sys.path: `from steps import CATALOGUE`.)"""

import logging

import pytest
import torch

# pytest captures every logger that does not propagate. With a handler on this one, torch would render each
# graph of each test for a trace that nobody reads.
logging.getLogger("torch.__trace").propagate = True

# The tests' tensors are tiny: a second thread costs more than it brings, and xdist runs one worker a core.
torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Kernels compile faster once this is imported; it loads Inductor, and so waits for a test that compiles."""
    if item.get_closest_marker("inductor") is not None:
        import linking  # noqa: F401


@pytest.fixture
def fresh_dynamo() -> None:
    """Nothing captured by an earlier test is known to Dynamo."""
    torch._dynamo.reset()
