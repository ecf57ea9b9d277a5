"""The code in the documentation runs."""

import re
from pathlib import Path

import pytest
import torch

from accumcompile.diagnostics.errors import MESSAGES

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(path):
    """Each python block of a page, and the line it begins at."""
    text = path.read_text(encoding="utf-8")
    return [(text[: m.start()].count("\n") + 1, m[1]) for m in BLOCK.finditer(text)]


@pytest.fixture(autouse=True)
def settings_put_back():
    dtype, state = torch.get_default_dtype(), torch.get_rng_state()
    yield
    torch.set_default_dtype(dtype)
    torch.set_rng_state(state)


@pytest.mark.parametrize("page", ["how_it_works.md"])
def test_the_blocks_of_a_page_run_in_order(page):
    scope = {"__name__": page}
    for line, code in blocks(DOCS / page):
        padded = "\n" * line + code  # so that a traceback shows the page's own line
        exec(compile(padded, str(DOCS / page), "exec"), scope)


def test_the_core_is_about_150_lines():
    text = (DOCS / "how_it_works.md").read_text(encoding="utf-8")
    core = text[text.index("## Rules are data") : text.index("The same gradients")]
    lines = [line.strip() for match in BLOCK.finditer(core) for line in match[1].splitlines()]
    assert len([line for line in lines if line and not line.startswith(("#", '"""', "assert"))]) <= 160


def test_every_code_is_documented():
    codes = set(re.findall(r"AC\d{3}", (DOCS / "errors.md").read_text(encoding="utf-8")))
    assert codes == set(MESSAGES)


LISTING = re.compile(r"^<!-- (?:\d+_)?(\w+)\.txt(?:: (\w+))? -->\n```\n(.*?)^```", re.DOTALL | re.MULTILINE)


def same_symbols(text):
    return re.sub(r"\bs\d+\b", "s0", text)


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="the listings are those of torch 2.13")
def test_the_listings_of_the_architecture_are_the_real_dump(tmp_path, fresh_dynamo):
    """Every line of a listing but the dots stands in the dump, in that order."""
    page = DOCS / "architecture.md"
    ((line, code),) = blocks(page)
    exec(compile("\n" * line + code, str(page), "exec"), {"__name__": "architecture", "folder": str(tmp_path)})
    listings = LISTING.findall(page.read_text(encoding="utf-8"))
    assert len(listings) == 4
    for name, part, listing in listings:
        (file,) = (tmp_path / "graph_1_fused").glob(f"*_{name}.txt")
        text = file.read_text(encoding="utf-8").split(f"\n{part}:\n")[-1] if part else file.read_text(encoding="utf-8")
        dumped = iter(same_symbols(text).splitlines())
        for wanted in same_symbols(listing).splitlines():
            assert wanted.strip() == "..." or wanted in dumped, f"{file.name}: {wanted}"
