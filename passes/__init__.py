"""The passes, graph to graph, one file each."""

from .batch_statistics import batch_statistics
from .canonical import canonical
from .form_loops import form_loops

PIPELINE = [canonical, batch_statistics]

__all__ = ["PIPELINE", "batch_statistics", "canonical", "form_loops"]
