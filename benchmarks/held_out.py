"""Held-out text: files of the standard library, not among the training data; and how two models differ on it."""

import sysconfig
from pathlib import Path

import torch
from torch import Tensor

from coderv2.text.tokenizer import Tokenizer

TEXTS = (
    "bisect.py",
    "heapq.py",
    "textwrap.py",
    "queue.py",
    "shlex.py",
    "fnmatch.py",
    "csv.py",
    "colorsys.py",
    "argparse.py",
    "ast.py",
    "base64.py",
    "calendar.py",
    "codecs.py",
    "configparser.py",
    "copy.py",
    "dataclasses.py",
)
TOKENS = 512


def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    """The first tokens of each file."""
    library = Path(sysconfig.get_paths()["stdlib"])
    return [tokenizer.encode((library / name).read_text("utf-8"), bos=True)[:TOKENS] for name in TEXTS]


def divergence(reference: list[Tensor], other: list[Tensor]) -> tuple[float, float]:
    """Mean KL of the next token in nats, and how often the likeliest token is the same."""
    p, q = torch.cat(reference).double(), torch.cat(other).double()
    return (p.exp() * (p - q)).sum(-1).mean().item(), (p.argmax(-1) == q.argmax(-1)).double().mean().item()
