"""transformers, with float64 wherever its code says float32.

Many models name float32 in their code (norms, softmax, logits), which leaves nothing to tell a wrong answer from
rounding at 1e-9. So their modules are read with one word replaced; lines keep their numbers.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
from types import ModuleType

WORDS = [(re.compile(r"\btorch\.float(32)?\b"), "torch.float64"), (re.compile(r"\.float\(\)"), ".double()")]
READ = ("transformers.models.", "transformers.loss.", "transformers.activations", "transformers.masking_utils")
READ += ("transformers.modeling_attn_mask_utils", "transformers.modeling_rope_utils", "transformers.integrations.")


class _Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data, path, **options):
        text = importlib.util.decode_source(data) if isinstance(data, bytes) else data
        for word, wide in WORDS:
            text = word.sub(wide, text)
        return super().source_to_code(text, path, **options)

    def get_code(self, fullname):
        """Never from the cache of bytecode, which belongs to the text as it is."""
        return self.source_to_code(self.get_data(self.path), self.path)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path=None, target: ModuleType | None = None):
        if not fullname.startswith(READ):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder())

import transformers  # noqa: E402  (only now: its models are read with the finder in place)

transformers.logging.set_verbosity_error()
