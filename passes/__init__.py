"""The passes, graph to graph, one file each."""

from .arange_lookups import arange_lookups
from .batch_lookups import batch_lookups
from .batch_statistics import batch_statistics
from .canonical import canonical
from .deduplicate import deduplicate
from .form_loops import form_loops
from .sizes_in_half import sizes_in_half

PIPELINE = [canonical, sizes_in_half, arange_lookups, batch_lookups, batch_statistics, deduplicate]

__all__ = [
    "PIPELINE",
    "arange_lookups",
    "batch_lookups",
    "batch_statistics",
    "canonical",
    "deduplicate",
    "form_loops",
    "sizes_in_half",
]
