"""What taking over a suffix costs and brings: cursor moves in files of the standard library, for several seam widths.

In each file somebody writes for a while: half a line, the other half, down a line, twenty lines down, and so on.
Every prompt has 200 tokens before the cursor and up to 2,000 after it, and is answered with `fim_reuse="shifted"` from
the exact prompt of the step before, then exactly. Counted are equal first lines (greedy, up to 32 tokens) and the
divergence of the next token's distribution; a second exact answer, computed beside fewer neighbours, tells how much of
that is rounding. The time to the first token is taken of edits of one line, each way in an engine of its own.
"""

import statistics
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from benchmarks.record import record
from benchmarks.standin import StandIn
from coderv2 import paths
from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.request import SamplingParams
from coderv2.model.batch import Batch
from coderv2.model.loading import open_model
from coderv2.text.fim import encode_fim
from coderv2.text.tokenizer import Tokenizer

SEAMS = (16, 64, 256)
FILES, STEPS, TIMED_FILES = 42, 12, 3
WAYS = ("half a line typed", "the other half", "a line down", "twenty lines down")
ONE_LINE = (0, 1)
"""The ways that edit one line before the cursor."""
PREFIX, SUFFIX = 200, 2000
LINE = {"temperature": 0, "max_tokens": 32, "stop": "\n"}


class Watched(StandIn):
    """A model whose last logits can be looked at."""

    logits_W = torch.empty(0)

    def __call__(self, batch: Batch, /) -> Tensor:
        logits_RW = super().__call__(batch)
        self.logits_W = logits_RW[-1]
        return logits_RW


@dataclass(frozen=True)
class Answer:
    """A first line, what its first token was drawn from, and how long that took."""

    token_ids: list[int]
    logprobs_W: Tensor
    seconds: float
    cached: int


@dataclass
class Outcome:
    """What one seam width gave, or a second exact answer."""

    same_lines: list[bool] = field(default_factory=list)
    same_edited: list[bool] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)


class Bench:
    """A model and what was measured on it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_folder(folder)
        self.model = Watched(open_model(folder, dtype=torch.float32))
        self.outcomes = {seam: Outcome() for seam in SEAMS}
        self.again = Outcome()
        self.exact_seconds: list[float] = []
        self._tokens: dict[str, list[int]] = {}

    def compare(self, prompts: list[list[int]]) -> None:
        """Equal lines and divergences: each prompt from the exact one before it, in one engine."""
        engine = self._engine(SEAMS[0])
        self._begin(engine, prompts[0], "exact")
        self._finish(engine)
        for step, prompt in enumerate(prompts[1:]):
            begun = {}
            for seam in SEAMS:
                engine._suffixes._seam = seam
                begun[seam] = self._begin(engine, prompt, "shifted")
            exact = self._begin(engine, prompt, "exact")
            self._finish(engine)
            alone = self._engine(SEAMS[0])
            again = self._begin(alone, prompt, "exact")
            self._finish(alone)
            for seam, answer in begun.items():
                self._note(self.outcomes[seam], answer, exact, step)
            self._note(self.again, again, exact, step)

    def _note(self, outcome: Outcome, answer: Answer, exact: Answer, step: int) -> None:
        divergence = torch.nn.functional.kl_div(
            answer.logprobs_W, exact.logprobs_W, reduction="sum", log_target=True
        )
        same = answer.token_ids == exact.token_ids
        outcome.same_lines.append(same)
        if step % len(WAYS) in ONE_LINE:
            outcome.same_edited.append(same)
        outcome.divergences.append(max(float(divergence), 0.0))
        outcome.cached.append(answer.cached)

    def time(self, prompts: list[list[int]]) -> None:
        """First tokens, each way in an engine that has answered only the prompt before."""
        for step, (before, after) in enumerate(pairwise(prompts)):
            if step % len(WAYS) not in ONE_LINE:
                continue
            exact = self._first(before, after, "exact", SEAMS[0])
            self.exact_seconds.append(exact)
            for seam, outcome in self.outcomes.items():
                outcome.seconds.append(self._first(before, after, "shifted", seam))
                outcome.ratios.append(exact / outcome.seconds[-1])

    def _first(self, before: list[int], after: list[int], reuse: str, seam: int) -> float:
        engine = self._engine(seam)
        self._begin(engine, before, "exact")
        self._finish(engine)
        return self._begin(engine, after, reuse).seconds

    def _engine(self, seam: int) -> Engine:
        settings = EngineSettings(
            max_model_len=4096, cache_tokens=32768, fim_seam=seam, max_batch_tokens=4096
        )
        return Engine(self.model, self.tokenizer, settings)

    def _begin(self, engine: Engine, prompt: list[int], reuse: str) -> Answer:
        """Up to the first token; the newest request's logits are the last row."""
        begin = time.perf_counter()
        request_id = engine.submit(prompt, SamplingParams(**LINE, fim_reuse=reuse))
        while True:
            for delta in engine.step():
                self._tokens.setdefault(delta.request_id, []).extend(delta.token_ids)
                if delta.request_id == request_id:
                    seconds = time.perf_counter() - begin
                    logprobs_W = self.model.logits_W.log_softmax(-1)
                    return Answer(self._tokens[request_id], logprobs_W, seconds, delta.num_cached_tokens)

    def _finish(self, engine: Engine) -> None:
        """All lines to their ends."""
        while engine.has_work():
            for delta in engine.step():
                self._tokens[delta.request_id].extend(delta.token_ids)
        self._tokens.clear()


def main(files: int = FILES, steps: int = STEPS, timed_files: int = TIMED_FILES) -> None:
    """All files for quality, some for time."""
    torch.set_num_threads(paths.threads())
    bench = Bench(paths.bundled_model())
    walks = list(_walks(bench.tokenizer, files, steps))
    for walk in walks:
        bench.compare(walk)
    for walk in walks[:timed_files]:
        bench.time(walk)
    named = {"exact again": bench.again, **bench.outcomes}
    record("fim_reuse", [_row(seam, outcome, bench) for seam, outcome in named.items()], ["torch"])


def _walks(tokenizer: Tokenizer, files: int, steps: int) -> Iterator[list[list[int]]]:
    """Prompts of one writer each, in files of the standard library that are long enough."""
    random = Random(7)
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in random.sample(sorted(p for p in root.rglob("*.py") if _is_code(p)), files):
        lines = path.read_text("utf-8", "replace").splitlines(keepends=True)
        yield [_prompt(tokenizer, *cut) for cut in _cuts(lines, random, steps)]


def _is_code(path: Path) -> bool:
    """Long enough, written by hand, and no table of characters."""
    if "test" in str(path) or path.stat().st_size < 30_000:
        return False
    return max(map(len, path.read_text("utf-8", "replace").splitlines())) < 200


def _cuts(lines: list[str], random: Random, steps: int) -> Iterator[tuple[str, str]]:
    """Text before and after the cursor; the line that is being written is not there before it is written."""
    place = random.randrange(20, len(lines) // 3)
    yield "".join(lines[:place]), "".join(lines[place:])
    for step in range(steps):
        place += (1, 0, 1, 20)[step % len(WAYS)]
        above, line, below = "".join(lines[:place]), lines[place], "".join(lines[place + 1 :])
        half = len(line) - len(line.lstrip()) + len(line.strip()) // 2
        ways = (
            (above + line[:half], "\n" + below),  # half a line typed
            (above + line, below),  # and the other half
            (above, line + below),  # a line down
            (above, line + below),  # twenty lines down: nothing before the cursor is as it was
        )
        yield ways[step % len(WAYS)]


def _prompt(tokenizer: Tokenizer, prefix: str, suffix: str) -> list[int]:
    """Cut where an editor would cut: at a line, so that the tokens of the kept part stay the same."""
    ids = encode_fim(tokenizer, _last_lines(tokenizer, prefix), "")
    suffix_ids = tokenizer.encode(suffix[:20_000])[:SUFFIX]
    return [*ids[:-1], *suffix_ids, ids[-1]]


def _last_lines(tokenizer: Tokenizer, prefix: str) -> str:
    lines = prefix.splitlines(keepends=True)
    kept, count = 0, 0
    for line in reversed(lines):
        count += len(tokenizer.encode(line))
        if kept and count > PREFIX:
            break
        kept += 1
    return "".join(lines[-kept:]) if kept else ""


def _row(seam: int | str, outcome: Outcome, bench: Bench) -> dict[str, object]:
    seconds = outcome.seconds or bench.exact_seconds
    return {
        "seam": seam,
        "moves": len(outcome.divergences),
        "same first line, %": 100 * statistics.mean(outcome.same_lines),
        "after an edit of one line, %": 100 * statistics.mean(outcome.same_edited),
        "next-token KL, mean": statistics.mean(outcome.divergences),
        "KL, 99th percentile": sorted(outcome.divergences)[int(0.99 * len(outcome.divergences))],
        "largest KL": max(outcome.divergences),
        "prompt tokens not computed": statistics.median(outcome.cached),
        "first token, ms": 1000 * statistics.median(seconds),
        "times sooner": statistics.median(outcome.ratios or [1.0]),
    }


if __name__ == "__main__":
    main()
