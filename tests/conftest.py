"""Settings for every test. (This file also puts its folder on sys.path: `from steps import CATALOGUE`.)"""

import torch

# The tests' tensors are tiny: a second thread costs more than it brings, and xdist runs one worker a core.
torch.set_num_threads(1)
