"""Pages of the cache on disk: what was evicted, or was there when the engine had nothing else to do.

A page is one file, named by its digest, under a folder named by everything that its numbers depend on (`fingerprint`),
so that no other model, page size or number format ever reads it. Each file starts with a checksum; a file that does not
match is deleted and counts as not there. The oldest files go when all of them together outgrow the limit, whoever of
several processes wrote them.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from coderv2 import __version__
from coderv2.engine.machine import processor
from coderv2.errors import InvalidValue
from coderv2.kernels import cpu
from coderv2.log import logger
from coderv2.model.cache import LatentCache
from coderv2.model.published import Named
from coderv2.model.transformer import Transformer

_CHECKSUM = 32
_PAGE = re.compile(r"[0-9a-f]{64}/([0-9a-f]{2})/\1[0-9a-f]{62}(\.\d+)?")
"""A page's path: model, start of its digest, digest; with a process's number where a crash left it half written."""
_FORMAT = "1"
_LOOKS = 16
"""Looks at the folder while as many bytes as it may hold are written: it is so much too large at most, each process."""


class DiskTier:
    """A `pages.Tier` over a folder. A disk that fails is reported in the log and left alone; requests go on."""

    def __init__(self, folder: Path, fingerprint: str, cache: LatentCache, max_bytes: int) -> None:
        """Raises InvalidValue when the folder cannot be made or read."""
        self._root = folder
        self._folder = folder / fingerprint
        self._cache = cache
        self._max_bytes = max_bytes
        self._sizes: dict[Path, int] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._look()
        except OSError as error:
            raise InvalidValue(f"cache_dir {folder}: {error.strerror}", param="cache_dir") from None
        self._trim()

    def load(self, digest: bytes, page: int) -> bool:
        """Fills the page; False when there is no sound file."""
        path = self._path(digest)
        if path not in self._sizes:
            return False
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            self._drop(path)  # another process may have needed the room
            return False
        if not self._fill(page, digest, content):
            logger.warning("%s is damaged and was deleted", path)
            self._drop(path)
            return False
        self._sizes[path] = self._sizes.pop(path)  # used last
        return True

    def save(self, digest: bytes, page: int) -> None:
        """Writes the page, unless it is there."""
        path = self._path(digest)
        if path in self._sizes:
            return
        payload = b"".join(_bytes(part) for part in self._parts(page))
        try:
            self._write(path, sha256(digest + payload).digest() + payload)
            self._note(path, _CHECKSUM + len(payload))
        except OSError as error:
            logger.warning("a page of the cache could not be saved: %s", error)
            return
        self._trim()

    def _look(self) -> None:
        """What is there, other processes' pages included."""
        self._sizes, self._written = _listed(self._root, self._sizes), 0
        self._total = sum(self._sizes.values())

    def _note(self, path: Path, size: int) -> None:
        """A page has been written; after some the folder is looked at again, since others may write into it too."""
        self._sizes[path] = size
        self._total += size
        self._written += size
        if self._written > self._max_bytes // _LOOKS:
            self._look()

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._folder / name[:2] / name

    def _parts(self, page: int) -> tuple[Tensor, Tensor]:
        return self._cache.latent_LPSC[:, page], self._cache.k_rope_LPSR[:, page]

    def _fill(self, page: int, digest: bytes, content: bytes) -> bool:
        checksum, payload = content[:_CHECKSUM], bytearray(content[_CHECKSUM:])
        parts = self._parts(page)
        if len(payload) != sum(part.numel() * part.element_size() for part in parts):
            return False
        if sha256(digest + payload).digest() != checksum:
            return False
        offset = 0
        for part in parts:
            part.copy_(
                torch.frombuffer(payload, dtype=part.dtype, count=part.numel(), offset=offset).view(
                    part.shape
                )
            )
            offset += part.numel() * part.element_size()
        return True

    def _write(self, path: Path, content: bytes) -> None:
        """Whole or not at all, also for other processes that look."""
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _trim(self) -> None:
        while self._total > self._max_bytes and self._sizes:
            self._drop(next(iter(self._sizes)))

    def _drop(self, path: Path) -> None:
        self._total -= self._sizes.pop(path)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s could not be deleted: %s", path, error)


def fingerprint(model: Named, cache: LatentCache, *, deterministic: bool) -> str:
    """Names everything that the numbers in a page depend on; reads every weight once.

    Where every bit counts, that is also who computed them: another processor, PyTorch or thread count rounds otherwise.
    """
    layout = (_FORMAT, model.config, cache.page_size, cache.latent_LPSC.dtype)
    computer = (__version__, torch.__version__, cpu.isa(), torch.get_num_threads(), processor())
    state = sha256(repr((layout, computer if deterministic else None)).encode())
    stored = model.stored() if isinstance(model, Transformer) else model.named_parameters()
    for name, parameter in stored:
        words = _words(parameter.detach())
        # The sum sees every change of a weight, the sample most exchanges of equal ones.
        sample = words[:: max(1, words.numel() // 4096)]
        state.update(repr((name, parameter.dtype, tuple(parameter.shape), int(words.sum()))).encode())
        state.update(_bytes(sample))
    return state.hexdigest()


def _words(weights: Tensor) -> Tensor:
    """The bits as whole numbers."""
    whole = weights.contiguous().view(torch.uint8).flatten()
    return whole.view(torch.int64) if whole.numel() % 8 == 0 else whole


def _bytes(values: Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).cpu().numpy().tobytes()


def _listed(folder: Path, known: Iterable[Path]) -> dict[Path, int]:
    """Every saved page below the folder with its size, the least recently used first; nothing else may be deleted.

    Those of `known` that were used in the same tick of the clock stay in their order.
    """
    places = {path: place for place, path in enumerate(known)}
    found = []
    for path in folder.glob("*/*/*"):
        if _PAGE.fullmatch("/".join(path.parts[-3:])):
            with suppress(FileNotFoundError):  # another process may have needed the room
                stat = path.stat()
                found.append((stat.st_mtime_ns, places.get(path, -1), path, stat.st_size))
    return {path: size for *_, path, size in sorted(found)}
