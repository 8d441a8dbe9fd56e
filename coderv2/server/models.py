"""One public name, and the checkpoints behind it: one for conversations, and maybe another for raw text and holes."""

import time
from dataclasses import dataclass, field
from typing import Any

from coderv2.errors import ModelNotFound
from coderv2.server.backend import Backend

_ALIASES = ("default", "deepseek-coder", "deepseek-coder-v2")
"""Names that client programs come configured with."""
_FAMILIES = ("deepseek-coder:", "deepseek-coder-v2:")


@dataclass(frozen=True)
class Models:
    """What this server serves."""

    name: str
    chat: Backend
    text: Backend
    """Goes on with raw text and fills holes; often the same as `chat`."""
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, name: str, chat: Backend, text: Backend | None = None) -> "Models":
        """`chat` does both unless there is a `text`."""
        return cls(name, chat, text or chat)

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Each once."""
        return (self.chat,) if self.text is self.chat else (self.chat, self.text)

    def called(self, name: str, *, also: str | None = None) -> "Models":
        """Itself, if that is its name: see `check`."""
        self.check(name, also=also)
        return self

    def check(self, name: str, *, also: str | None = None) -> None:
        """Raises ModelNotFound unless `name` is ours in any letter case, an alias, empty, or begins with `also`."""
        wanted = name.lower().removesuffix(":latest")
        if wanted in ("", self.name.lower(), *_ALIASES) or wanted.startswith(_FAMILIES):
            return
        if also is not None and wanted.startswith(also):
            return
        raise ModelNotFound(f"there is no model {name[:100]!r} here; this server has {self.name!r}")

    def card(self) -> dict[str, Any]:
        """OpenAI's model object, with limits and abilities. Prices come with accounts: none here."""
        context = min(backend.engine.max_model_len for backend in self.backends)
        abilities = {
            "chat": True,
            "fim": self.text.no_infill is None,
            "tools": True,
            "json_schema": True,
        }
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "coderv2",
            "max_model_len": context,
            "context_length": context,
            "pricing": {"prompt": "0", "completion": "0"},
            "abilities": abilities,
        }
