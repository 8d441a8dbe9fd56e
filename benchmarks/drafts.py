"""Rewriting a file of 300 lines of which 95 % stay, with the file as draft, beside plain decoding.

The bundled model does all of its work in every pass, but is told which token to prefer: the edited file's next. So this
measures what drafts save when the answer is that file, and not whether the model would have written it.
"""

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import torch
from torch import Tensor

from benchmarks.record import interleaved, record
from benchmarks.standin import StandIn
from coderv2 import Engine, SamplingParams, paths
from coderv2.engine.settings import EngineSettings
from coderv2.model.batch import Batch
from coderv2.model.loading import open_model
from coderv2.model.transformer import Transformer
from coderv2.text.chat import Message, encode_chat
from coderv2.text.tokenizer import Tokenizer

ROUNDS = 3
LINES = 300
CHANGED = 15


class Reciting(StandIn):
    """A model whose likeliest answer is given, token by token."""

    def __init__(self, model: Transformer, prompt_count: int, answer: Sequence[int]) -> None:
        super().__init__(model)
        self._prompt_count = prompt_count
        self._answer_A = torch.tensor(answer)

    def __call__(self, batch: Batch, /) -> Tensor:
        logits_RW = super().__call__(batch)
        rows = batch.logits_rows if batch.logits_rows is not None else slice(None)
        places_R = (batch.positions_T[rows] + 1 - self._prompt_count).clamp(0, len(self._answer_A) - 1)
        logits_RW[torch.arange(len(logits_RW)), self._answer_A[places_R]] += 1e4
        return logits_RW


def main() -> None:
    """All three give the same tokens; the prompt is cached from the first round on."""
    torch.set_num_threads(paths.threads())
    folder = paths.bundled_model()
    tokenizer = Tokenizer.from_folder(folder)
    before = "".join(inspect.getsource(textwrap).splitlines(keepends=True)[:LINES])
    question = f"Rename the variable:\n{before}"
    prompt, answer = (
        encode_chat(tokenizer, [Message("user", question)]),
        tokenizer.encode(" " + edited(before)),
    )
    model = Reciting(open_model(folder, dtype=torch.float32), len(prompt), answer)
    engine = Engine(model, tokenizer, EngineSettings(max_running=1))
    fixed = SamplingParams(temperature=0, max_tokens=len(answer), ignore_eos=True)
    cases = {
        "plain": replace(fixed, draft_tokens=0),
        "prompt lookup": fixed,
        "file as draft": replace(fixed, prediction=" " + before),
    }
    steps: dict[str, int] = {}
    runs = {name: _rewrite(engine, prompt, answer, cases[name], name, steps) for name in cases}
    seconds = interleaved(runs, ROUNDS)
    rows = [
        {
            "decoding": name,
            "prompt, tokens": len(prompt),
            "answer, tokens": len(answer),
            "steps": steps[name],
            "tokens/s": len(answer) / seconds[name],
            "times plain": seconds["plain"] / seconds[name],
        }
        for name in cases
    ]
    record("drafts", rows, ["torch"])


def edited(text: str) -> str:
    """`text` with one word in every twentieth line changed, so that 95 % of the lines stay."""
    lines = text.splitlines(keepends=True)
    luck = Random(0)
    full = [i for i, line in enumerate(lines) if line.strip()]
    for place in luck.sample(full, CHANGED):
        words = lines[place].split(" ")
        last = max(i for i, word in enumerate(words) if word.strip())
        words[last] = f"changed_{place}" + ("\n" if words[last].endswith("\n") else "")
        lines[place] = " ".join(words)
    return "".join(lines)


def _rewrite(
    engine: Engine,
    prompt: Sequence[int],
    answer: Sequence[int],
    params: SamplingParams,
    name: str,
    steps: dict[str, int],
) -> Callable[[], object]:
    def run() -> object:
        engine.submit(prompt, params)
        told: list[int] = []
        steps[name] = 0
        while engine.has_work():
            steps[name] += 1
            for delta in engine.step():
                told += delta.token_ids
        assert told == list(answer), "the answer is not the edited file"
        return told

    return run


if __name__ == "__main__":
    main()
