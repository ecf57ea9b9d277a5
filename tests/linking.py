"""Kernels that need not be linked with PyTorch's libraries, which takes g++ a third of a second each.

The libraries are in the process already, and what is tested does not depend on how a kernel finds them.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch._inductor import config

LIBRARY = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
if LIBRARY.exists():
    ctypes.CDLL(str(LIBRARY), ctypes.RTLD_GLOBAL)  # open to all that is loaded later
    config.aot_inductor.link_libtorch = False
