"""An operator that returns its operand, which compiled code computes once and stores.

A fusing compiler may compute a value anew in each kernel that reads it, and each may round it differently.
"""

from __future__ import annotations

import torch

NAME = "accumcompile::stored_1"  # another number for another lowering: Inductor's disk cache sees the name only
torch.library.define(NAME, "(Tensor x) -> Tensor")
torch.library.impl(NAME, "CompositeExplicitAutograd", torch.clone)
torch.library.register_fake(NAME, torch.clone)
stored = getattr(torch.ops.accumcompile, NAME.split("::")[1]).default
