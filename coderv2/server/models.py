"""The served model by its names, and what `/v1/models` says about it."""

import time
from dataclasses import dataclass, field
from typing import Any

from coderv2.errors import ModelNotFound

_ALIASES = ("default", "deepseek-coder", "deepseek-coder-v2")
"""Names that client programs come configured with."""


@dataclass(frozen=True)
class ServedModel:
    """The one model behind this server."""

    name: str
    max_model_len: int
    fim: bool
    """Whether it can fill in a middle."""
    created: int = field(default_factory=lambda: int(time.time()))

    def check(self, name: str) -> None:
        """Raises ModelNotFound unless `name` is ours in any letter case, a known alias, or empty."""
        wanted = name.lower()
        if wanted in ("", self.name.lower(), *_ALIASES) or wanted.startswith("deepseek-coder-v2:"):
            return
        raise ModelNotFound(f"there is no model {name[:100]!r} here; this server has {self.name!r}")

    def card(self) -> dict[str, Any]:
        """OpenAI's model object, with limits and abilities."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "coderv2",
            "max_model_len": self.max_model_len,
            "context_length": self.max_model_len,
            "abilities": {"chat": True, "fim": self.fim, "tools": False, "json_schema": False},
        }
