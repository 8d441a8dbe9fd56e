"""What taking over a suffix costs and brings: cursor moves in files of the standard library, for several seam widths.

In each file somebody writes for a while: half a line, the other half, down a line, twenty lines down, and so on.
Every prompt has 200 tokens before the cursor and up to 2,000 after it, and is answered with `fim_reuse="shifted"` from
the exact prompt of the step before, then exactly. `quality` counts equal first lines (greedy, up to 32 tokens) and the
divergence of the next token's distribution. How much of that is rounding, exact answers tell: alone and in
smaller chunks, and in deterministic mode, where chunks must not matter at all. `speed` takes the time to
the first token after edits of one line, each way in an engine of its own.
"""

import statistics
import sysconfig
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

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
CHUNK = 512
"""Tokens of a forward pass where it is not the whole prompt."""
WAYS = ("half a line typed", "the other half", "a line down", "twenty lines down")
ONE_LINE = (0, 1)
"""The ways that edit one line before the cursor."""
PREFIX, SUFFIX = 200, 2000
LINE: dict[str, Any] = {"temperature": 0, "max_tokens": 32, "stop": "\n"}


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
    """How answers of one kind compared with exact ones."""

    same_lines: list[bool] = field(default_factory=list)
    same_edited: list[bool] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)

    def note(self, answer: Answer, exact: Answer, step: int) -> None:
        """One more comparison."""
        divergence = torch.nn.functional.kl_div(
            answer.logprobs_W, exact.logprobs_W, reduction="sum", log_target=True
        )
        same = answer.token_ids == exact.token_ids
        self.same_lines.append(same)
        if step % len(WAYS) in ONE_LINE:
            self.same_edited.append(same)
        self.divergences.append(max(float(divergence), 0.0))
        self.cached.append(answer.cached)


class Bench:
    """A model, and answers from it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_folder(folder)
        self.model = Watched(open_model(folder, dtype=torch.float32))
        self._tokens: dict[str, list[int]] = {}

    def compare(self, prompts: list[list[int]], outcomes: Mapping[str, Outcome]) -> None:
        """Each prompt shifted from the exact one before it, exact beside those, and exact again in other ways."""
        engine = self._engine()
        self._begin(engine, prompts[0], "exact")
        self._finish(engine)
        for step, prompt in enumerate(prompts[1:]):
            answers = {}
            for seam in SEAMS:
                engine._suffixes._seam = seam
                answers[f"seam {seam}"] = self._begin(engine, prompt, "shifted")
            exact = self._begin(engine, prompt, "exact")
            self._finish(engine)
            answers["exact, in chunks"] = self._alone(prompt, max_batch_tokens=CHUNK)
            for name, answer in answers.items():
                outcomes[name].note(answer, exact, step)

    def compare_deterministic(self, prompts: list[list[int]], outcome: Outcome) -> None:
        """Each prompt whole and in chunks."""
        for step, prompt in enumerate(prompts[1:]):
            whole, chunked = (
                self._alone(prompt, max_batch_tokens=size, deterministic=True) for size in (4096, CHUNK)
            )
            outcome.note(chunked, whole, step)

    def first(self, before: list[int], after: list[int], reuse: str, seam: int) -> float:
        """Seconds to the first token after an edit, in an engine that has answered only the prompt before."""
        engine = self._engine(fim_seam=seam)
        self._begin(engine, before, "exact")
        self._finish(engine)
        return self._begin(engine, after, reuse).seconds

    def _alone(self, prompt: list[int], **settings: Any) -> Answer:
        engine = self._engine(**settings)
        answer = self._begin(engine, prompt, "exact")
        self._finish(engine)
        return answer

    def _engine(self, **settings: Any) -> Engine:
        chosen = {"max_model_len": 4096, "cache_tokens": 32768, "max_batch_tokens": 4096} | settings
        return Engine(self.model, self.tokenizer, EngineSettings(**chosen))

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


def main() -> None:
    """Time first, since quality takes long."""
    torch.set_num_threads(paths.threads())
    speed()
    quality()


def quality(files: int = FILES, steps: int = STEPS) -> None:
    """Equal lines and divergences; the deterministic pair in every sixth file."""
    bench = Bench(paths.bundled_model())
    outcomes = {name: Outcome() for name in ("exact, in chunks", *(f"seam {seam}" for seam in SEAMS))}
    named = {"deterministic, in chunks": Outcome(), **outcomes}
    for number, walk in enumerate(_walks(bench.tokenizer, files, steps)):
        bench.compare(walk, outcomes)
        if number % 6 == 0:
            bench.compare_deterministic(walk, named["deterministic, in chunks"])
        # After every file, so that a run that is cut short leaves what it has.
        record("fim_reuse", [_row(name, outcome) for name, outcome in named.items()], ["torch"])


def speed(files: int = TIMED_FILES, steps: int = STEPS) -> None:
    """Times to the first token after edits of one line, every way after each edit."""
    bench = Bench(paths.bundled_model())
    taken: dict[str, list[float]] = {"exact": [], **{f"seam {seam}": [] for seam in SEAMS}}
    for walk in _walks(bench.tokenizer, files, steps):
        for step, (before, after) in enumerate(pairwise(walk)):
            if step % len(WAYS) in ONE_LINE:
                taken["exact"].append(bench.first(before, after, "exact", SEAMS[0]))
                for seam in SEAMS:
                    taken[f"seam {seam}"].append(bench.first(before, after, "shifted", seam))
    rows = [
        {
            "infilling": name,
            "edits": len(seconds),
            "first token, ms": 1000 * statistics.median(seconds),
            "times sooner": statistics.median(
                exact / own for exact, own in zip(taken["exact"], seconds, strict=True)
            ),
        }
        for name, seconds in taken.items()
    ]
    record("fim_reuse_speed", rows, ["torch"])


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


def _row(name: str, outcome: Outcome) -> dict[str, object]:
    return {
        "infilling": name,
        "moves": len(outcome.divergences),
        "same first line, %": 100 * statistics.mean(outcome.same_lines),
        "after an edit of one line, %": 100 * statistics.mean(outcome.same_edited),
        "next-token KL, mean": statistics.mean(outcome.divergences),
        "KL, 99th percentile": sorted(outcome.divergences)[int(0.99 * len(outcome.divergences))],
        "largest KL": max(outcome.divergences),
        "prompt tokens not computed": statistics.median(outcome.cached),
    }


if __name__ == "__main__":
    main()
