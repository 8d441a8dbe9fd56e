"""How a model's makers want it sampled: temperature and top_p of the folder's `generation_config.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coderv2.engine.request import SamplingParams
from coderv2.errors import BadCheckpoint

FILE = "generation_config.json"


@dataclass(frozen=True)
class SamplingDefaults:
    """What holds where a request says nothing. Without a file: what DeepSeek's README samples with, since OpenAI's 1.0
    makes code models ramble."""

    temperature: float = 0.3
    top_p: float = 0.95

    def params(
        self, *, temperature: float | None = None, top_p: float | None = None, **others: Any
    ) -> SamplingParams:
        """The engine's parameters, with these defaults where a request is silent."""
        return SamplingParams(
            temperature=self.temperature if temperature is None else temperature,
            top_p=self.top_p if top_p is None else top_p,
            **others,
        )

    @classmethod
    def from_folder(cls, folder: Path) -> "SamplingDefaults":
        """Raises BadCheckpoint for a file that is no JSON object, or numbers out of range."""
        path = folder / FILE
        if not path.exists():
            return cls()
        config = _read(path)
        temperature = config.get("temperature", cls.temperature)
        top_p = config.get("top_p", cls.top_p)
        if not (_is_number(temperature) and 0 <= temperature <= 2 and _is_number(top_p) and 0 < top_p <= 1):
            raise BadCheckpoint(
                f"{path}: temperature {temperature!r} (0 to 2) or top_p {top_p!r} (above 0, to 1) is no good"
            )
        return cls(float(temperature), float(top_p))


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise BadCheckpoint(f"{path}: holds no JSON object")
    return {name: value for name, value in config.items() if value is not None}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
