"""The passes, graph to graph, one file each, and the order in which they run."""

from .arange_lookups import arange_lookups
from .arange_slices import arange_slices
from .batch_lookups import batch_lookups
from .batch_statistics import batch_statistics
from .canonical import canonical
from .deduplicate import deduplicate
from .form_loops import form_loops
from .sizes_in_half import sizes_in_half
from .users_names import users_names

NORMALISATION = [canonical, deduplicate]  # applied to the captured graph, before anything is decided about it
GRAPH_PASSES = [
    users_names,
    sizes_in_half,
    arange_slices,
    arange_lookups,
    batch_lookups,
    batch_statistics,
    deduplicate,
]
PROGRAM_PASSES = [form_loops]
