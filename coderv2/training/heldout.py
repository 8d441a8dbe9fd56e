"""What a small code model is worth, measured on documents that it never saw; greedy decoding throughout."""

import ast
import math
import random
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from coderv2.data.document import Document, choice_seed
from coderv2.data.encode import ROW_TOKENS, encode_plain, pieces
from coderv2.data.shards import as_example
from coderv2.engine.llm import LLM
from coderv2.engine.request import SamplingParams
from coderv2.model.transformer import Transformer
from coderv2.text.tokenizer import Tokenizer
from coderv2.training.losses import row_loss

PREFIX, SUFFIX = 1_500, 700
"""Characters before and after a hole that the model is shown."""


@dataclass(frozen=True)
class CodeLength:
    """What a text costs under a model; lengths of several texts add up."""

    bits: float = 0.0
    bytes: int = 0

    def __add__(self, other: "CodeLength") -> "CodeLength":
        return CodeLength(self.bits + other.bits, self.bytes + other.bytes)

    @property
    def bits_per_byte(self) -> float:
        return self.bits / self.bytes


@torch.no_grad()
def code_length(model: Transformer, tokenizer: Tokenizer, documents: Iterable[Document]) -> CodeLength:
    """Length of the documents' text, cut as in training; EOS is not counted, nor pieces over `ROW_TOKENS`."""
    total = CodeLength()
    for document in documents:
        for piece in pieces(document):
            ids = encode_plain(piece, tokenizer)[:-1]
            if len(ids) <= ROW_TOKENS:
                nats = row_loss(model, [as_example(ids)], alpha=0.0).nats
                total += CodeLength(nats / math.log(2), len(piece.encode()))
    return total


def exact_line_rate(llm: LLM, documents: Sequence[Document], count: int) -> float:
    """Share of `count` held-out lines that are filled in exactly: the first generated line equals the missing one.

    White space around the line does not count. Only lines with at least three letters are asked for.
    """
    holes = [_line_hole(document, number) for number, document in _dealt(documents, count)]
    params = SamplingParams(temperature=0.0, max_tokens=48)
    answers = llm.infill([hole[0] for hole in holes], [hole[2] for hole in holes], params, use_tqdm=False)
    right = [
        _first_line(answer.outputs[0].text) == line.strip()
        for answer, (_, line, _) in zip(answers, holes, strict=True)
    ]
    return sum(right) / len(right)


def parse_rate(llm: LLM, documents: Sequence[Document], count: int) -> float:
    """Share of `count` completions that parse, cut to their last whole statement.

    A prompt is a file up to and including the head of a function. A completion of 128 tokens counts when prompt and
    completion parse together after at most half of the completion's lines were cut from its end.
    """
    prompts = [_function_head(document, number) for number, document in _dealt(documents, count)]
    params = SamplingParams(temperature=0.0, max_tokens=128)
    answers = llm.generate(prompts, params, use_tqdm=False)
    good = [
        completes(prompt, answer.outputs[0].text) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return sum(good) / len(good)


def completes(prompt: str, completion: str) -> bool:
    """Whether prompt and completion parse after at most half of the completion's lines were cut."""
    lines = completion.rstrip().split("\n")
    kept = range(len(lines), (len(lines) - 1) // 2, -1)
    return completion.strip() != "" and any(_parses(prompt + "\n".join(lines[:count])) for count in kept)


def _dealt(documents: Sequence[Document], count: int) -> list[tuple[int, Document]]:
    """`count` numbered draws of documents that hold both a function and enough lines."""
    usable = [d for d in documents if len(_heads(d.text)) > 0 and d.text.count("\n") > 30]
    return [(number, usable[number % len(usable)]) for number in range(count)]


def _line_hole(document: Document, number: int) -> tuple[str, str, str]:
    """Text before, the line, text after."""
    lines = [match.span() for match in re.finditer(r"(?m)^.*[A-Za-z].*[A-Za-z].*[A-Za-z].*$", document.text)]
    start, end = random.Random(choice_seed("line", document.id, number)).choice(lines)
    text = document.text
    return text[max(0, start - PREFIX) : start], text[start:end], text[end : end + SUFFIX]


def _function_head(document: Document, number: int) -> str:
    ends = [end for end in _heads(document.text) if end <= PREFIX] or _heads(document.text)[:1]
    end = random.Random(choice_seed("head", document.id, number)).choice(ends)
    return document.text[:end]


def _heads(text: str) -> list[int]:
    """Ends of the one-line heads of functions, their newlines included."""
    return [match.end() for match in re.finditer(r"(?m)^ *(?:async )?def \w+\(.*\).*:\n", text)]


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return lines[0] if lines else ""


def _parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True
