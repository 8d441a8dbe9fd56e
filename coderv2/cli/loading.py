"""From `-m` to an engine, with a progress bar on standard error."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coderv2 import paths

if TYPE_CHECKING:
    from coderv2.engine.engine import Engine


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run."""

    engine: "Engine"
    folder: Path
    name: str
    """What to call it: the hub's name, the folder's or file's, or the bundled model's."""
    save_usage: Callable[[], None]
    """Writes down which experts were used, where that was asked for."""


def load(model: str | None, **settings: Any) -> Loaded:
    """Opens a folder, a GGUF file, a hub name or the bundled model; `settings` are `LLM`'s."""
    import torch

    from coderv2.engine import machine
    from coderv2.engine.llm import LLM
    from coderv2.model import hub

    machine.place(settings.get("device", "auto"))  # before anything is fetched
    torch.set_num_threads(paths.threads())
    folder = hub.resolve(model)
    llm = LLM(folder, seed=None, **settings)
    return Loaded(llm.engine, folder, name_of(model, folder), llm.save_usage)


def load_for_one(model: str | None, dtype: str, kv_cache_dtype: str, placed: dict[str, Any]) -> Loaded:
    """For one answer at a time: the cache holds one context. `placed` says where weights go (`options.placed`)."""
    return load(model, dtype=dtype, kv_cache_dtype=kv_cache_dtype, max_num_seqs=1, **placed)


def name_of(model: str | None, folder: Path) -> str:
    """What clients call it: the hub's name, the folder's, or the bundled model's."""
    from coderv2.model.loading import is_gguf

    if folder == paths.bundled_model():
        return f"coderv2-{paths.BUNDLED_NAME}"
    if is_gguf(folder):
        return folder.stem
    return folder.resolve().name if model is None or Path(model).expanduser().is_dir() else model
