"""The same work by ours and by native transformers, on the bundled model: greedy, float32, of fixed length."""

from collections.abc import Callable
from typing import Any

import torch

from coderv2 import LLM, Engine, SamplingParams, paths


def prompts(count: int, length: int) -> list[list[int]]:
    """Token ids that no two prompts share."""
    return [[(7 * i + 13 * j) % 3000 + 10 for j in range(length)] for i in range(count)]


def transformers_model() -> Any:
    """The bundled model as transformers loads it."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(paths.bundled_model(), dtype=torch.float32)
    return model.eval()


def ours(llm: LLM, ids: list[list[int]], new: int) -> Callable[[], object]:
    """Answers all prompts with `new` tokens each."""
    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    return lambda: llm.generate(prompt_token_ids=ids, sampling_params=params, use_tqdm=False)


def theirs(model: Any, ids: list[list[int]], new: int) -> Callable[[], object]:
    """The same."""
    batch = torch.tensor(ids)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}

    def run() -> object:
        with torch.inference_mode():
            return model.generate(batch, attention_mask=torch.ones_like(batch), **options)

    return run


def drained(engine: Engine, ids: list[list[int]], new: int) -> Callable[[], object]:
    """The same by an engine of one's own."""
    return ours(LLM.from_engine(engine), ids, new)
