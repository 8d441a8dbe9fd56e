"""Short hashes that tell apart what has the same name: texts, and checkpoints by a sample of their bytes."""

import hashlib
from pathlib import Path

_PIECES, _PIECE = 64, 4096  # of each file; training changes all of them, and reading them all takes minutes
_SUFFIXES = (".safetensors", ".packed", ".gguf", "config.json", "tokenizer.json")


def of_text(text: str) -> str:
    """The same for the same text."""
    return of_bytes(text.encode("utf-8", "surrogatepass"))


def of_bytes(content: bytes) -> str:
    """The same for the same bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def of_checkpoint(path: Path) -> str:
    """Of a folder's weights, configuration and tokenizer, or of one file: names, sizes and evenly spaced pieces."""
    sha = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.name.endswith(_SUFFIXES):
            _add(sha, file)
    return sha.hexdigest()[:16]


def _add(sha: "hashlib._Hash", file: Path) -> None:
    size = file.stat().st_size
    sha.update(f"{file.name} {size}\n".encode())
    with file.open("rb") as content:
        for piece in range(_PIECES):
            content.seek(max(0, size - _PIECE) * piece // (_PIECES - 1))
            sha.update(content.read(_PIECE))
