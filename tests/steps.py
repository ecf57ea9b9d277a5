"""The catalogue: every training step that this project promises to split without changing its result.

A row is a builder decorated with `@row(cost)`: `catalogue/row.py` says what it makes, the modules imported
here hold the rows, by theme, and `test_catalogue.py` runs whatever is entered.
"""

from catalogue import (  # noqa: F401  (importing a theme enters its rows)
    chosen,
    contrastive,
    convolutions,
    lookups,
    losses,
    metrics,
    normalisation,
    parts,
    selected,
    sequences,
    shapes,
    structures,
    updates,
)
from catalogue.row import ROWS, Case, Cost, Row

CATALOGUE: dict[str, Row] = ROWS

__all__ = ["CATALOGUE", "Case", "Cost", "Row"]
