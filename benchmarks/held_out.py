"""Held-out text: what the bundled model was not trained on; and how two models differ on it."""

import hashlib
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from coderv2.data import read
from coderv2.text.tokenizer import Tokenizer
from recipes.bundled import HELD_OUT

PACKAGES = ("click", "starlette", "httpx", "h11", "jinja2")
TOKENS = 512
TEXTS = 16


def prompts(tokenizer: Tokenizer, count: int = TEXTS) -> list[list[int]]:
    """`count` pieces of `TOKENS` tokens, BOS first, of files that the recipe held out; the first few are a mixture."""
    pieces = sorted(_pieces(tokenizer), key=lambda piece: hashlib.sha256(repr(piece).encode()).digest())
    if len(pieces) < count:
        raise ValueError(
            f"{len(pieces)} pieces of {TOKENS} tokens are held out on this machine, {count} wanted"
        )
    return pieces[:count]


def _pieces(tokenizer: Tokenizer) -> Iterator[list[int]]:
    held_out = re.compile("|".join(HELD_OUT))
    for document in (*read.standard_library(), *read.packages(PACKAGES)):
        if held_out.search(document.id):
            ids = tokenizer.encode(document.text)
            for first in range(0, len(ids) - TOKENS + 2, TOKENS - 1):
                yield [tokenizer.bos_id, *ids[first : first + TOKENS - 1]]


def divergence(reference: list[Tensor], other: list[Tensor]) -> tuple[float, float]:
    """Mean KL of the next token in nats, and how often the likeliest token is the same."""
    p, q = torch.cat(reference).double(), torch.cat(other).double()
    return (p.exp() * (p - q)).sum(-1).mean().item(), (p.argmax(-1) == q.argmax(-1)).double().mean().item()
