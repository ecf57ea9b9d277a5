"""The passes, graph to graph, one file each."""

from .batch_statistics import batch_statistics
from .canonical import canonical
from .deduplicate import deduplicate
from .form_loops import form_loops

PIPELINE = [canonical, batch_statistics, deduplicate]

__all__ = ["PIPELINE", "batch_statistics", "canonical", "deduplicate", "form_loops"]
