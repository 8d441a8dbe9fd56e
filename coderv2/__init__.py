"""DeepSeek-Coder-V2 as one Python package.

    from coderv2 import LLM, SamplingParams

The public names are imported when first used, so that `coderv2 --help` does not wait for torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coderv2.engine.engine import Engine as Engine
    from coderv2.engine.grammar import StructuredOutputsParams as StructuredOutputsParams
    from coderv2.engine.llm import LLM as LLM
    from coderv2.engine.request import SamplingParams as SamplingParams
    from coderv2.model.config import ModelConfig as ModelConfig
    from coderv2.model.weights import load as load

__version__ = "0.1.0"

# PyTorch's threads would go on spinning after each of its operations, on the cores that our kernels' threads then need:
# a prompt of 512 tokens takes half as long again. Read when torch is first imported; whoever has set it keeps theirs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "Engine": "coderv2.engine.engine",
    "LLM": "coderv2.engine.llm",
    "ModelConfig": "coderv2.model.config",
    "SamplingParams": "coderv2.engine.request",
    "StructuredOutputsParams": "coderv2.engine.grammar",
    "load": "coderv2.model.weights",
}

__all__ = ["LLM", "Engine", "ModelConfig", "SamplingParams", "StructuredOutputsParams", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'coderv2' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
