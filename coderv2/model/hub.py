"""A model's name → its folder: a local folder, the bundled model, or a download from the Hugging Face hub."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from coderv2 import paths
from coderv2.errors import ModelNotFound

# No Python, no pickles: only what our own readers open.
_WANTED = ("*.json", "*.safetensors", "*.packed")
_HUB_NAME = re.compile(r"\w[\w.\-]*/\w[\w.\-]*")


def resolve(name: str | Path | None = None, *, wanted: Sequence[str] = _WANTED) -> Path:
    """The folder for `name`: None or "bundled" is the model in this package; "owner/name" is fetched, resumably.

    `wanted` are the patterns of the files to fetch. A download goes to the hub's cache (HF_HOME) with a progress bar,
    and again only for files that changed.
    """
    if name is None or name == paths.BUNDLED_NAME:
        return paths.bundled_model()
    folder = Path(name).expanduser()
    if str(name) and _there(folder, Path.is_dir):
        return folder
    if _there(folder, Path.is_file):
        if folder.suffix == ".gguf":
            return folder
        raise ModelNotFound(f"{folder} is a file; a model is a folder with safetensors, or a .gguf file")
    if not _HUB_NAME.fullmatch(str(name)):
        raise _no_folder(str(name))
    return _download(str(name), wanted)


def _no_folder(name: str) -> ModelNotFound:
    kind = "file" if name.endswith(".gguf") else "folder"
    return ModelNotFound(
        f"{name!r}: no such {kind}; give a folder, a .gguf file, a hub name like owner/model, or nothing"
    )


def _there(path: Path, test: Callable[[Path], bool]) -> bool:
    try:
        return test(path)
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _download(name: str, wanted: Sequence[str]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    except HFValidationError:
        raise _no_folder(name) from None
    except RepositoryNotFoundError:
        raise ModelNotFound(
            f"{name}: neither a folder here nor a model on the hub (private ones need HF_TOKEN)"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelNotFound(
            f"{name}: not a folder here, and the hub could not be reached: {reason}"
        ) from None
