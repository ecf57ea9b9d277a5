"""Three of the models nobody here wrote, nine in `make test-full`; `make models` runs all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MODELS = Path(__file__).with_name("models")

# Those whose parts are held for the whole batch by BatchNorm are not here: they need more, and slow CI down.
NINE = ["llama", "gemma2", "mamba", "bert", "deberta_v2", "t5", "swin", "convnext", "clip"]
THREE = ["llama", "mamba", "t5"]


@pytest.mark.parametrize(
    "names", [pytest.param(THREE, id="three"), pytest.param(NINE, id="nine", marks=pytest.mark.slow)]
)
def test_models_train_as_on_the_full_batch(names, tmp_path):
    """In a process of their own: transformers is read with float64 in the place of float32."""
    pytest.importorskip("transformers")
    found = tmp_path / "outcomes.json"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(MODELS), *names, "--json", str(found)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {outcome["name"]: outcome for outcome in json.loads(found.read_text())}
    assert {name: outcomes[name]["verdict"] for name in names} == dict.fromkeys(names, "equal")
    assert {name: outcomes[name]["activations"] < 0.25 for name in names} == dict.fromkeys(names, True)
    assert all(outcomes[name]["micro_batches"] == 8 for name in names)
