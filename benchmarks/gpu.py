"""Every figure of the GPU path on one card: decode and prefill of a model of Lite's true shape, and each kernel.

Weights are random and made on the device; nothing is downloaded. In three parts, each of which is meant to take less
than ten minutes, so that a card that is lent for so long at a time will do:

    python -m benchmarks.gpu bf16 peer      # our bfloat16, and transformers beside it in the same run
    python -m benchmarks.gpu fp8 int4
    python -m benchmarks.gpu kernels
    python -m benchmarks.gpu tiny           # all of it on tiny shapes and the CPU: shows that the script works, no more

As `python -m benchmarks gpu` all parts run one after another; without a GPU it says so and measures nothing.
"""

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.record import record
from coderv2 import Engine, SamplingParams, paths
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


@dataclass(frozen=True)
class Goal:
    """One figure of the issue: tokens per second to reach, and the bound of bytes or arithmetic on an H200."""

    batch: int
    context: int
    least: float
    bound: float


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
    "int4": ("int4", torch.bfloat16, BF16[:3]),
}
PARTS = (*FORMATS, "peer", "kernels")


@dataclass(frozen=True)
class Run:
    """Where, and how large."""

    device: torch.device
    shape: dict[str, Any]
    prompt: int
    goals: Callable[[Sequence[Goal]], Sequence[Goal]]
    steps: int
    keep: bool
    """Whether the figures mean anything."""

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

    def peak(self) -> float:
        """Gigabytes that were taken on the device since this was last asked."""
        if self.device.type != "cuda":
            return 0.0
        taken = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return taken


REAL = Run(torch.device("cuda"), LITE, 4096, lambda goals: goals, 32, True)
SMALL = Run(torch.device("cpu"), TINY, 48, lambda _: (Goal(1, 20, 0, 1), Goal(3, 24, 0, 1)), 4, False)


def main(parts: Sequence[str] = PARTS) -> None:
    """The parts named; `tiny` alone is all of them in small."""
    if list(parts) == ["tiny"]:
        os.environ["TRITON_INTERPRET"] = "1"
        _measure(SMALL, PARTS)
    elif not torch.cuda.is_available():
        print("gpu: no GPU here, so nothing is measured")
    else:
        _measure(REAL, parts)


@torch.inference_mode()
def _measure(run: Run, parts: Sequence[str]) -> None:
    prefill: list[dict[str, Any]] = []
    for name in [part for part in parts if part in FORMATS]:
        kind, cache, goals = FORMATS[name]
        model = _model(run, kind)
        lines = _decoded(run, name, model, cache, run.goals(goals))
        record(f"gpu_decode_{name}", lines, ["torch"], keep=run.keep)
        prefill.append(_prefill(run, name, model))
        del model
        _free()
    if "peer" in parts:
        prefill.append(_peer(run))
    if prefill:
        record(f"gpu_prefill_{'_'.join(parts)}", prefill, ["torch", "transformers"], keep=run.keep)
    if "kernels" in parts:
        from benchmarks import gpu_kernels

        place = gpu_kernels.LITE if run is REAL else gpu_kernels.TINY
        record("gpu_kernels", list(gpu_kernels.rows(place)), ["torch", "triton"], keep=run.keep)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _model(run: Run, kind: Kind | None) -> Transformer:
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


def _decoded(
    run: Run, name: str, model: Transformer, cache: torch.dtype, goals: Sequence[Goal]
) -> list[dict[str, Any]]:
    """A line for each goal; the first is what longer contexts are compared with."""
    lines = [_decode(run, name, model, cache, goal) for goal in goals]
    for line in lines:
        line["of batch 1, short"] = line["tokens/s"] / lines[0]["tokens/s"]
    return lines


def _decode(run: Run, name: str, model: Transformer, cache: torch.dtype, goal: Goal) -> dict[str, Any]:
    """Through the engine, graphs and choice included: `batch` answers side by side after prompts of `context`."""
    warm, new = 8, 8 + run.steps + 8
    run.peak()
    engine = Engine(
        model,
        Tokenizer.from_folder(paths.bundled_model()),
        EngineSettings(
            max_running=goal.batch, cache_tokens=goal.batch * (goal.context + new + 32), cache_dtype=cache,
            max_batch_tokens=max(8192, goal.batch), max_model_len=goal.context + new, prefix_caching=False,
        ),
    )  # fmt: skip
    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, draft_tokens=0)
    words = model.config.vocab_size - 10
    for b in range(goal.batch):
        engine.submit([(7 * i + 13 * b) % words + 10 for i in range(goal.context)], params)
    while engine.stats().waiting or not all(r.cached >= goal.context for r in engine._scheduler.running):
        engine.step()
    for _ in range(warm):  # graphs are recorded, kernels compiled
        engine.step()
    run.wait()
    begin = time.perf_counter()
    for _ in range(run.steps):
        engine.step()
    speed = goal.batch * run.steps / (time.perf_counter() - begin)
    del engine
    _free()
    return {
        "format": name, "batch": goal.batch, "context": goal.context, "tokens/s": speed, "goal": goal.least,
        "bound": goal.bound, "share of bound": speed / goal.bound, "peak, GB": run.peak(),
    }  # fmt: skip


def _prefill(run: Run, name: str, model: Transformer) -> dict[str, Any]:
    run.peak()
    pages = -(-run.prompt // 16)
    cache = LatentCache(model.config, pages, 16, torch.bfloat16, run.device)
    batch = Batch.cached(cache, [list(range(10, 10 + run.prompt))], [0], [list(range(pages))])
    speed = run.prompt / run.timed(lambda: model(batch))
    return _line(name, run, speed, 70_000, None)


def _peer(run: Run) -> dict[str, Any]:
    """`transformers` on random weights of the same shape: its prompt, and its decode after 512 tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM

    run.peak()
    shape = {key: value for key, value in run.shape.items() if key not in ("model_type", "torch_dtype")}
    config = AutoConfig.for_model("deepseek_v2", **shape)
    with run.device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()  # type: ignore[no-untyped-call]
    ids = torch.arange(10, 10 + run.prompt, device=run.device)[None]
    speed = run.prompt / run.timed(lambda: model(ids, logits_to_keep=1))
    few = ids[:, : run.prompt // 8]

    def generated(count: int) -> float:
        return run.timed(
            lambda: model.generate(few, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        )

    return _line("transformers", run, speed, 0, run.steps / (generated(1 + run.steps) - generated(1)))


def _line(who: str, run: Run, speed: float, goal: float, decode: float | None) -> dict[str, Any]:
    return {
        "who": who, "prompt": run.prompt, "tokens/s": speed, "goal": goal, "bound": 155_000,
        "decode after an eighth, tokens/s": decode or "see gpu_decode", "peak, GB": run.peak(),
    }  # fmt: skip


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := set(wanted) - {*PARTS, "tiny"}:
        sys.exit(f"no part called {min(unknown)}; there are {', '.join(PARTS)}, or tiny alone")
    main(wanted)
