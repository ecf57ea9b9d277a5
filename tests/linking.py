"""Kernels that need not be linked with PyTorch's libraries, which takes g++ a third of a second each.

The libraries are in the process already, and what is tested does not depend on how a kernel finds them.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch._inductor import config
from torch._inductor.cpu_vec_isa import pick_vec_isa

LIBRARY = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
if LIBRARY.exists():
    pick_vec_isa()  # what the CPU has is tried by a linked kernel, or none would be vectorised
    ctypes.CDLL(str(LIBRARY), ctypes.RTLD_GLOBAL)  # open to all that is loaded later
    config.aot_inductor.link_libtorch = False
