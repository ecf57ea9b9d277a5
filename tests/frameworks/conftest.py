"""The tests of `examples/frameworks`: they need the extra ``frameworks``, and are left out where it is missing."""

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples" / "frameworks"
NEEDED = ("accelerate", "datasets", "lightning", "peft", "transformers", "trl")

collect_ignore_glob = [] if all(map(importlib.util.find_spec, NEEDED)) else ["test_*.py"]
sys.path.insert(0, str(EXAMPLES))


@pytest.fixture(autouse=True)
def settings_put_back() -> Iterator[None]:
    """Each test begins with nothing captured, and with what frameworks keep for the process as it was."""
    dtype = torch.get_default_dtype()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # among the frameworks
        yield
    torch.set_default_dtype(dtype)
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
