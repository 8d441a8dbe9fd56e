"""A model of Lite's true shape on one GPU: answers through the engine, prompts, and `transformers` beside it."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache as once
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.journal import Journal
from coderv2 import Engine, SamplingParams, paths
from coderv2.engine.request import Delta
from coderv2.engine.runner import Model
from coderv2.engine.settings import EngineSettings
from coderv2.kernels.scaled import Kind
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.config import ModelConfig
from coderv2.model.scale import place_scaled
from coderv2.model.transformer import Transformer
from coderv2.text.tokenizer import Tokenizer

LITE: dict[str, Any] = {
    "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048, "num_hidden_layers": 27,
    "num_attention_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 10944, "moe_intermediate_size": 1408,
    "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
    "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": False,
    "rms_norm_eps": 1e-6, "max_position_embeddings": 163840, "rope_theta": 10000, "bos_token_id": 0,
    "eos_token_id": 1, "torch_dtype": "bfloat16",
    "rope_scaling": {
        "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
        "mscale": 0.707, "mscale_all_dim": 0.707,
    },
}  # fmt: skip
TINY = LITE | {
    "vocab_size": 4096, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "kv_lora_rank": 32,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "intermediate_size": 128,
    "moe_intermediate_size": 64, "n_routed_experts": 8,
}  # fmt: skip
WARM = 8
"""Steps before those that are timed: graphs are recorded, kernels compiled."""
WINDOWS = 3
"""Of so many steps each is timed; the median counts."""


@dataclass(frozen=True)
class Goal:
    """One figure of the issue: tokens per second to reach, and the bound of bytes or arithmetic on an H200."""

    batch: int
    context: int
    least: float
    bound: float

    @property
    def what(self) -> dict[str, Any]:
        """Which one it is."""
        return {"what": "decode", "batch": self.batch, "context": self.context}


BF16 = (
    Goal(1, 512, 400, 877), Goal(1, 32768, 0, 726), Goal(64, 2048, 4300, 8600), Goal(256, 2048, 11500, 23000),
    Goal(512, 2048, 17500, 35000),
)  # fmt: skip
FP8 = (
    Goal(1, 512, 700, 1754), Goal(1, 32768, 0, 1239), Goal(64, 2048, 6880, 17200), Goal(256, 2048, 18400, 46000),
    Goal(512, 2048, 28000, 70000),
)  # fmt: skip
FORMATS: dict[str, tuple[Kind | None, torch.dtype, Sequence[Goal]]] = {
    "bf16": (None, torch.bfloat16, BF16),
    "fp8": ("fp8", torch.float8_e4m3fn, FP8),
    "int4": ("int4", torch.bfloat16, (Goal(1, 512, 0, 3302), Goal(1, 32768, 0, 1852))),
}
PREFILL = {"least": 70_000, "bound": 155_000}


@dataclass(frozen=True)
class Run:
    """Where, and how large."""

    device: torch.device
    shape: dict[str, Any]
    prompt: int
    goals: Callable[[Sequence[Goal]], Sequence[Goal]]
    steps: int
    most: int
    """Tokens in a pass."""

    def timed(self, run: Callable[[], object]) -> float:
        """Seconds of one run after one that compiles; the best of three."""
        run()
        times = []
        for _ in range(3):
            self.wait()
            begin = time.perf_counter()
            run()
            self.wait()
            times.append(time.perf_counter() - begin)
        return min(times)

    def wait(self) -> None:
        """Until the device has done all."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def alone(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Its figures and its peak of memory in gigabytes, after what others left there is gone."""
        if self.device.type != "cuda":
            return work()
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return work() | {"peak, GB": torch.cuda.max_memory_allocated() / 1e9}


REAL = Run(torch.device("cuda"), LITE, 4096, lambda goals: goals, 32, 8192)
SMALL = Run(torch.device("cpu"), TINY, 48, lambda _: (Goal(1, 20, 0, 1), Goal(3, 24, 0, 1)), 2, 16)


def measure(run: Run, name: str, journal: Journal) -> None:
    """Our prompts and answers in one format."""
    kind, cache, goals = FORMATS[name]
    model = once(lambda: make(run, kind))

    def attempt(what: dict[str, Any], work: Callable[..., dict[str, Any]], *rest: Any) -> None:
        journal.attempt({"part": name} | what, lambda: run.alone(partial(work, run, model(), *rest)))

    attempt({"what": "prefill"}, prefill)
    for goal in run.goals(goals):
        attempt(goal.what, decode, cache, goal)


def make(run: Run, kind: Kind | None) -> Transformer:
    """Random weights on the device, one parameter at a time."""
    with torch.device("meta"):
        model = Transformer(ModelConfig.from_dict(run.shape))
    generator = torch.Generator(run.device).manual_seed(0)
    for _, module in list(model.named_modules()):
        for name, meta in list(module.named_parameters(recurse=False)):
            full = torch.empty(meta.shape, dtype=torch.bfloat16, device=run.device)
            full = full.fill_(1) if full.dim() == 1 else full.normal_(0, 0.02, generator=generator)
            if kind is None:
                module.register_parameter(name, nn.Parameter(full, requires_grad=False))
            else:
                place_scaled(module, name, full, kind)
    return model.eval()


def decode(run: Run, model: Model, cache: torch.dtype, goal: Goal) -> dict[str, Any]:
    """Through the engine, graphs and choice included: `batch` answers side by side after prompts of `context`.

    Who has its prompt in the cache answers while others still read theirs, so answers are long enough that nobody ends
    before the last step that is timed.
    """
    passes = -(-goal.batch * goal.context // max(run.most - goal.batch, 1))
    new = passes + 2 * WARM + WINDOWS * run.steps
    engine = Engine(
        model,
        Tokenizer.from_folder(paths.bundled_model()),
        EngineSettings(
            max_running=goal.batch, cache_tokens=goal.batch * (goal.context + new + 32), cache_dtype=cache,
            max_batch_tokens=run.most, max_model_len=goal.context + new, prefix_caching=False,
        ),
    )  # fmt: skip
    begin = time.perf_counter()
    _submit(engine, model.config.vocab_size - 10, goal, new)
    while engine.stats().waiting or not all(r.cached >= goal.context for r in engine._scheduler.running):
        _step(engine)
    prompts = time.perf_counter() - begin
    for _ in range(WARM):
        _step(engine)
    _check_all_run(engine, goal)
    # The next step is under way whenever one returns, so that between two returns lies just one.
    seconds, made = zip(*(_window(engine, run.steps) for _ in range(WINDOWS)), strict=True)
    _check_all_run(engine, goal)
    speed = median(count / time for count, time in zip(made, seconds, strict=True))
    return {
        "tokens/s": speed, "least": goal.least, "bound": goal.bound, "share of bound": speed / goal.bound,
        "ms a step": 1000 * goal.batch / speed, "tokens": sum(made), "prompts, s": prompts,
    }  # fmt: skip


def _submit(engine: Engine, words: int, goal: Goal, new: int) -> None:
    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, draft_tokens=0)
    for b in range(goal.batch):
        engine.submit([(7 * i + 13 * b) % words + 10 for i in range(goal.context)], params)


def _step(engine: Engine) -> list[Delta]:
    deltas = engine.step()
    if failed := next((delta for delta in deltas if delta.error), None):
        raise RuntimeError(failed.error)
    return deltas


def _window(engine: Engine, steps: int) -> tuple[float, int]:
    """Seconds, and tokens that came."""
    begin, made = time.perf_counter(), 0
    for _ in range(steps):
        made += sum(len(delta.token_ids) for delta in _step(engine))
    return time.perf_counter() - begin, made


def _check_all_run(engine: Engine, goal: Goal) -> None:
    running = engine.stats().running
    if running != goal.batch:
        raise RuntimeError(f"{running} sequences answer, not {goal.batch}")


def prefill(run: Run, model: Transformer) -> dict[str, Any]:
    """One prompt in one pass."""
    pages = -(-run.prompt // 16)
    cache = LatentCache(model.config, pages, 16, torch.bfloat16, run.device)
    batch = Batch.cached(cache, [list(range(10, 10 + run.prompt))], [0], [list(range(pages))])
    speed = run.prompt / run.timed(lambda: model(batch))
    return {"prompt": run.prompt, "tokens/s": speed, **PREFILL, "share of bound": speed / PREFILL["bound"]}


def peer(run: Run, journal: Journal) -> None:
    """`transformers` on random weights of the same shape: its prompt, and its answer after an eighth of that."""
    model = once(lambda: _peer_model(run))
    for what, work in (("prefill", _peer_prompt), ("decode", _peer_answer)):
        line = {"part": "transformers", "what": what}
        journal.attempt(line, lambda work=work: run.alone(partial(work, run, model())))  # type: ignore[misc]


def _peer_prompt(run: Run, model: Any) -> dict[str, Any]:
    ids = torch.arange(10, 10 + run.prompt, device=run.device)[None]
    return {"prompt": run.prompt, "tokens/s": run.prompt / run.timed(lambda: model(ids, logits_to_keep=1))}


def _peer_answer(run: Run, model: Any) -> dict[str, Any]:
    ids = torch.arange(10, 10 + run.prompt // 8, device=run.device)[None]

    def generated(count: int) -> float:
        return run.timed(
            lambda: model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        )

    speed = run.steps / (generated(1 + run.steps) - generated(1))
    return {"batch": 1, "context": ids.shape[1], "tokens/s": speed}


def _peer_model(run: Run) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {key: value for key, value in run.shape.items() if key not in ("model_type", "torch_dtype")}
    config = AutoConfig.for_model("deepseek_v2", **shape)
    with run.device:
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()  # type: ignore[no-untyped-call]
