"""How fast a model runs here, beside the bounds that the machine sets, and beside a peer on the same file.

Prompts and steps are timed as forward passes of the model (`passes`), without scheduler and sampler; two lines more go
through the whole engine. With a peer both take turns, each gone from memory while the other runs.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch

from coderv2.engine import fit
from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.machine import forget_peak, free_bytes, peak_bytes
from coderv2.engine.passes import Passes
from coderv2.engine.peer import Peer
from coderv2.errors import BadCheckpoint
from coderv2.kernels import probe
from coderv2.kernels.memory import settled
from coderv2.model.cost import Cost, Work
from coderv2.model.loading import open_model, open_tokenizer
from coderv2.model.transformer import Transformer

BATCH_DEPTH = 256
ENGINE_PROMPT, ENGINE_ANSWER = 512, 32
# What a peer keeps besides the mapped file where it repacks weights, over the file.
_REPACKED = 1.6


@dataclass(frozen=True)
class Case:
    """One figure: a prompt of `tokens` tokens, or `tokens` steps of `sequences` sequences at `depth`."""

    kind: str
    tokens: int
    sequences: int = 1
    depth: int = 0

    @property
    def name(self) -> str:
        """As tables have it."""
        if self.kind == "prompt":
            return f"prompt of {self.tokens:,}"
        if self.sequences == 1:
            return f"answer after {self.depth:,}"
        return f"{self.sequences} answers after {self.depth:,}"

    @property
    def longest(self) -> int:
        """Tokens of one sequence at the end."""
        return self.depth + self.tokens

    def work(self, cost: Cost) -> Work:
        """Of one prompt, or one step."""
        return cost.prompt(self.tokens) if self.kind == "prompt" else cost.step(self.sequences, self.depth)

    def passes(self) -> int:
        """Forward passes in it."""
        return 1 if self.kind == "prompt" else self.tokens


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    prompts: tuple[int, ...] = (64, 512, 2048)
    depths: tuple[int, ...] = (0, 4096, 16384)
    batches: tuple[int, ...] = (1, 4, 8, 16)
    steps: int = 16
    rounds: int = 3

    def cases(self) -> list[Case]:
        """In order; a batch of one is an answer after 256 tokens."""
        return [
            *(Case("prompt", tokens) for tokens in self.prompts),
            *(Case("steps", self.steps, 1, depth) for depth in self.depths),
            *(Case("steps", self.steps, count, BATCH_DEPTH) for count in self.batches),
        ]


QUICK = Plan(prompts=(64, 512), depths=(0, 4096), batches=(8,), steps=8, rounds=1)


class Timed(Protocol):
    """Who runs the cases."""

    def prompt(self, tokens: int) -> float:
        """Seconds."""

    def steps(self, sequences: int, depth: int, count: int) -> float:
        """Seconds for all steps."""


@dataclass
class Side:
    """One program's figures: each case's seconds by round, seconds to load by turn."""

    seconds: dict[Case, list[float]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    peak: int = 0
    """Bytes resident at most, mapped files included."""

    def speed(self, case: Case) -> float | None:
        """Median tokens per second; None where it did not run."""
        taken = self.seconds.get(case)
        return case.sequences * case.tokens / statistics.median(taken) if taken else None


@dataclass
class Report:
    """Everything that was measured."""

    cases: list[Case]
    left_out: list[Case]
    """Longer than the model's own limit."""
    ours: Side = field(default_factory=Side)
    peer: Side | None = None
    peer_version: str | None = None
    peer_repacks: bool | None = None
    roofs: list[probe.Roof] = field(default_factory=list)
    """With one thread, and with all; none without the CPU kernels."""
    weight_bytes: int = 0
    formats: dict[str, int] = field(default_factory=dict)
    """Bytes of weights in each number format."""
    work: dict[Case, Work] = field(default_factory=dict)
    engine_missing: str | None = None
    """Why nothing went through the engine."""
    engine_first: list[float] = field(default_factory=list)
    """Seconds to the first token through the engine."""
    engine_rest: list[float] = field(default_factory=list)
    """Seconds of the tokens after it."""

    def bound(self, case: Case) -> tuple[float, str] | None:
        """Tokens per second at most, and what sets that: memory or arithmetic."""
        if not self.roofs or case not in self.work:
            return None
        roof = self.roofs[-1]
        seconds = self.work[case].seconds(roof.blocks, roof.operations)
        limit = max(seconds, key=lambda name: seconds[name])
        return case.sequences * case.tokens / (case.passes() * seconds[limit]), limit


Progress = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """One run; a peer is named by its Python."""

    path: Path
    plan: Plan
    threads: int
    progress: Progress
    peer_python: str | None = None
    cache_dtype: torch.dtype | None = None
    """Of ours; None: the model's."""

    def run(self, longest: int) -> Report:
        """Measures everything; `longest` is the model's limit of tokens."""
        cases = self.plan.cases()
        report = Report([c for c in cases if c.longest <= longest], [c for c in cases if c.longest > longest])
        if self.peer_python is None:
            self._our_turn(report, self.plan.rounds)
            return report
        report.peer = Side()
        with TemporaryDirectory(prefix="coderv2-bench-") as states:
            for _ in range(self.plan.rounds):
                self._our_turn(report, 1)
                self._peer_turn(report, report.peer, self.peer_python, states)
        return report

    def _our_turn(self, report: Report, rounds: int) -> None:
        gc.collect()  # an earlier turn's model
        forget_peak()
        self.progress("loading")
        begin = time.perf_counter()
        model = open_model(self.path)
        report.ours.loads.append(time.perf_counter() - begin)
        settled()  # what still moves would take turns with what is measured
        tokens = max(case.sequences * (case.longest + 16) for case in report.cases)
        passes = Passes(model, tokens, self.cache_dtype)
        passes.prompt(32)
        for _ in range(rounds):
            self._round(report.cases, passes, report.ours, "")
        del passes
        self._through_the_engine(report, model)
        report.ours.peak = max(report.ours.peak, peak_bytes())
        if not report.work:
            self._describe(report, model)

    def _round(self, cases: list[Case], timed: Timed, side: Side, who: str) -> None:
        for case in cases:
            if case.kind == "prompt":
                seconds = timed.prompt(case.tokens)
            else:
                seconds = timed.steps(case.sequences, case.depth, case.tokens)
            side.seconds.setdefault(case, []).append(seconds)
            self.progress(f"{who}{case.name}: {case.sequences * case.tokens / seconds:,.1f} tokens/s")

    def _through_the_engine(self, report: Report, model: Transformer) -> None:
        prompt = min(ENGINE_PROMPT, model.config.max_position_embeddings // 2)
        settings = EngineSettings(
            cache_tokens=2048, cache_dtype=self.cache_dtype, prefix_caching=False, draft_tokens=0
        )
        try:
            engine = Engine(model, open_tokenizer(self.path), settings)
        except BadCheckpoint as error:  # a file made for timing has weights, and no vocabulary that works
            report.engine_missing = str(error)
            return
        tokens = [i % 200 + 10 for i in range(prompt)]
        first, rest = fit.answer_times(engine, tokens, ENGINE_ANSWER + 1)
        report.engine_first.append(first)
        report.engine_rest.append(rest)
        self.progress(f"through the engine: {ENGINE_ANSWER / rest:,.1f} tokens/s of an answer")

    def _describe(self, report: Report, model: Transformer) -> None:
        cost = Cost(model, self.cache_dtype)
        report.work = {case: case.work(cost) for case in report.cases}
        report.formats = _formats(model)
        report.weight_bytes = sum(report.formats.values())
        if not probe.available():
            return
        self.progress("measuring memory and arithmetic")
        size = min(1 << 30, free_bytes(torch.device("cpu")) // 4)
        block = min(cost.expert_bytes or 5 << 20, size // 16)
        report.roofs = [
            probe.measure(count, block_bytes=block, size=size) for count in sorted({1, self.threads})
        ]

    def _peer_turn(self, report: Report, side: Side, python: str, states: str) -> None:
        gc.collect()
        repack = free_bytes(torch.device("cpu")) > _REPACKED * self.path.stat().st_size
        self.progress("llama.cpp: loading")
        with Peer(python) as peer:
            loaded = peer.ask(
                "load",
                gguf=str(self.path),
                threads=self.threads,
                tokens=max(case.sequences * case.longest for case in report.cases) + 256,
                sequences=max(case.sequences for case in report.cases),
                repack=repack,
                states=states,
            )
            side.loads.append(loaded["value"])
            report.peer_version, report.peer_repacks = loaded["version"], repack
            timed = _Asked(peer)
            timed.prompt(32)
            self._round(report.cases, timed, side, "llama.cpp: ")
            side.peak = max(side.peak, peer.ask("peak")["value"])


class _Asked:
    """A peer as one who runs cases."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def prompt(self, tokens: int) -> float:
        return float(self._peer.ask("prompt", tokens=tokens)["value"])

    def steps(self, sequences: int, depth: int, count: int) -> float:
        return float(self._peer.ask("steps", sequences=sequences, depth=depth, count=count)["value"])


def _formats(model: Transformer) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, size in _sizes(model):
        sizes[name] = sizes.get(name, 0) + size
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _sizes(model: Transformer) -> Iterator[tuple[str, int]]:
    yield from ((weight.format.name, weight.data.nbytes) for weight in model.weights())
    yield from ((str(p.dtype).removeprefix("torch."), p.nbytes) for p in model.parameters())
