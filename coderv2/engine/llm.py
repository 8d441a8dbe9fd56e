"""Offline use with vLLM's names: `LLM(model=…).generate(…)`, `.chat(…)`, and `.infill(prefix, suffix)`.

A name of vLLM's constructor is honoured, or accepted where its value describes what happens here anyway, or refused by
name; nothing is accepted and ignored.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from tqdm import tqdm

from coderv2.engine import machine, number_formats, offload
from coderv2.engine.data_parallel import DataParallelEngine, EngineRanks
from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.outputs import CompletionOutput, RequestOutput, add
from coderv2.engine.prompts import Prompt, as_list, message_of, read
from coderv2.engine.ranks import Ranks
from coderv2.engine.request import SamplingParams
from coderv2.engine.settings import check_ranks, longest_context
from coderv2.engine.vllm_names import check_names
from coderv2.errors import ContextTooLong, InvalidValue
from coderv2.kernels.scaled import Kind
from coderv2.model import hub
from coderv2.model.loading import open_config, open_tokenizer
from coderv2.model.parallel import Split
from coderv2.text.chat import encode_chat
from coderv2.text.fim import encode_fim
from coderv2.text.tokenizer import Tokenizer


class LLM:
    """A model with its tokenizer and engine, for one caller at a time."""

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        tokenizer: str | Path | None = None,
        dtype: str | torch.dtype = "auto",
        device: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        block_size: int | None = None,
        kv_cache_dtype: str = "auto",
        cache_tokens: int | None = None,
        cache_dir: str | Path | None = None,
        draft_tokens: int = EngineSettings.draft_tokens,
        enable_prefix_caching: bool | None = None,
        seed: int | None = 0,
        deterministic: bool = False,
        tensor_parallel_size: int = 1,
        enable_expert_parallel: bool = False,
        data_parallel_attention: bool = False,
        trust_remote_code: bool = False,
        enforce_eager: bool = False,
        gpu_memory: int | str | None = None,
        experts: offload.Experts = "auto",
        expert_usage: str | Path | None = None,
        move_experts: bool = False,
        **others: Any,
    ) -> None:
        """Loads `model`: a folder, a hub name, or None for the bundled one; `tokenizer` may come from another.

        `dtype` "auto" is float32 for a small model on a CPU, else the checkpoint's own. `seed` fixes what requests
        without a seed draw; `deterministic` makes an answer bitwise independent of what else runs (see
        `EngineSettings`); sizes that are None take the engine's defaults. `trust_remote_code` may be True: no code of a
        checkpoint is run either way. `enforce_eager` leaves out CUDA graphs. `tensor_parallel_size` cuts every weight
        over so many GPUs or processes; with `enable_expert_parallel` each has some experts whole, with
        `data_parallel_attention` all heads, and sequences and a cache of its own (`engine.data_parallel`).

        Where a GPU lacks memory, routed experts lie in RAM and the CPU computes them (`engine.offload`): `gpu_memory`
        ("24G", or bytes) is what may be taken of the GPU, all that is free by default; `experts` "gpu" or "ram" has
        all of them there. `expert_usage` is a file of counts that says which are used most, and choices are counted
        from then on; by default the model's folder is asked for `expert_usage.json`, and nothing is counted. With
        `move_experts` those that are used most while it runs come to the GPU, for which all of them lie in RAM.

        Raises Unsupported for names of vLLM's that cannot be honoured, TypeError for names that vLLM does not have.
        """
        check_names(others)
        scaled: Kind | None = others.get("quantization")
        split = _split(tensor_parallel_size, enable_expert_parallel, data_parallel_attention)
        weights_dtype = number_formats.dtype(dtype, "dtype")
        place = machine.place(device)
        settings = EngineSettings(
            max_model_len=max_model_len,
            max_batch_tokens=_given(max_num_batched_tokens, EngineSettings.max_batch_tokens),
            max_running=_given(max_num_seqs, EngineSettings.max_running),
            cache_tokens=cache_tokens,
            page_size=_given(block_size, EngineSettings.page_size),
            cache_dtype=number_formats.cache_dtype(kv_cache_dtype, place),
            cache_dir=None if cache_dir is None else Path(cache_dir),
            draft_tokens=draft_tokens,
            prefix_caching=enable_prefix_caching is not False,
            seed=seed,
            deterministic=deterministic,
            graphs=not enforce_eager,
        )
        if place == "cuda":
            number_formats.check_card(torch.cuda.get_device_capability(place), scaled, settings.cache_dtype)
        folder = hub.resolve(model)
        vocabulary = open_tokenizer(folder if tokenizer is None else hub.resolve(tokenizer))
        counts = None if expert_usage is None else Path(expert_usage)
        wish = offload.Wish(folder, weights_dtype, scaled, experts, counts, move_experts)
        plan = offload.for_device(wish, settings, place, gpu_memory, several=split.size > 1)
        if split.size == 1:
            loaded = offload.open_planned(wish, plan, place)
            settings = settings if plan is None else offload.limited(settings, plan)
            engine = Engine(loaded, vocabulary, settings, between=offload.mover(wish, loaded))
            self._use(engine, offload.UsageSaver(wish, loaded))
        else:
            check_ranks(settings)
            longest_context(open_config(folder), settings, settings.cache_tokens or sys.maxsize)
            kind = EngineRanks if data_parallel_attention else Ranks
            ranks = kind(folder, split, dtype=weights_dtype, device=place, scaled=scaled)
            self._use(_engine_over(ranks, vocabulary, settings))

    @classmethod
    def from_engine(cls, engine: Engine) -> "LLM":
        """Over an engine that nobody else steps."""
        llm = cls.__new__(cls)
        llm._use(engine)
        return llm

    def _use(self, engine: Engine, counted: Callable[[], None] = lambda: None) -> None:
        self.engine = engine
        self.save_usage = counted
        """Adds the choices of experts so far to `expert_usage`, where that was given."""
        self._made = 0

    def close(self) -> None:
        """Ends other ranks, where there are any; nothing can be asked after that. Again: nothing happens."""
        if self.engine.ranks is not None:
            self.engine.ranks.stop()

    def __enter__(self) -> Self:
        """`with LLM(…) as llm:` closes it at the end."""
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer that prompts are encoded with."""
        return self.engine.tokenizer

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        prompt_token_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answers each prompt, in the order given; one `SamplingParams` for all, or one for each.

        Texts get one BOS in front, and control tokens written in them count as such; token ids are taken as they are.
        Everything is checked before anything runs. Raises InvalidValue or ContextTooLong, which name the prompt, and
        ServiceError when the model fails.
        """
        if (prompts is None) == (prompt_token_ids is None):
            raise InvalidValue("give either prompts or prompt_token_ids", param="prompts")
        given = prompts if prompt_token_ids is None else prompt_token_ids
        texts_and_ids = [read(prompt, self.engine.tokenizer) for prompt in as_list(given)]
        return self._answer(texts_and_ids, sampling_params, use_tqdm)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answers one conversation or several; messages are OpenAI's objects with `role` and `content`.

        `continue_final_message` (with `add_generation_prompt=False`) goes on with a last message of the assistant's.
        """
        conversations: Any = [messages] if len(messages) and isinstance(messages[0], Mapping) else messages
        prompts = [
            encode_chat(
                self.engine.tokenizer,
                [message_of(message) for message in conversation],
                add_generation_prompt=add_generation_prompt,
                continue_last=continue_final_message,
            )
            for conversation in conversations
        ]
        return self._answer([(None, ids) for ids in prompts], sampling_params, use_tqdm)

    def infill(
        self,
        prefix: str | Sequence[str],
        suffix: str | Sequence[str],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """What belongs between each prefix and its suffix. Raises Unsupported when the model cannot infill."""
        prefixes, suffixes = ([text] if isinstance(text, str) else list(text) for text in (prefix, suffix))
        if len(prefixes) != len(suffixes):
            raise InvalidValue(f"{len(prefixes)} prefixes, but {len(suffixes)} suffixes", param="suffix")
        prompts = [encode_fim(self.engine.tokenizer, p, s) for p, s in zip(prefixes, suffixes, strict=True)]
        return self._answer([(None, ids) for ids in prompts], sampling_params, use_tqdm)

    def _answer(
        self,
        prompts: Sequence[tuple[str | None, list[int]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        params = _one_each(sampling_params, len(prompts))
        for number, (_, ids) in enumerate(prompts):
            self._validate(number, ids, params[number])
        outputs = [
            RequestOutput(
                str(self._made + number), text, ids, [CompletionOutput(i) for i in range(params[number].n)]
            )
            for number, (text, ids) in enumerate(prompts)
        ]
        self._made += len(prompts)
        try:
            self._run(list(zip(outputs, params, strict=True)), use_tqdm)
        finally:
            for output in outputs:
                self.engine.abort(output.request_id)
        return outputs

    def _validate(self, number: int, ids: Sequence[int], params: SamplingParams) -> None:
        try:
            self.engine.validate(ids, params)
        except ContextTooLong as error:
            raise ContextTooLong(f"prompt {number}: {error}") from None
        except InvalidValue as error:
            raise InvalidValue(f"prompt {number}: {error}", param=error.param) from None

    def _run(self, jobs: Iterable[tuple[RequestOutput, SamplingParams]], use_tqdm: bool) -> None:
        """Feeds the engine's queue as it empties, and fills in the outputs."""
        queue = deque(jobs)
        by_id = {output.request_id: output for output, _ in queue}
        with tqdm(total=len(queue), desc="prompts", disable=not use_tqdm, dynamic_ncols=True) as bar:
            while queue or self.engine.has_work():
                while queue and not self.engine.full(queue[0][1].answers):
                    output, params = queue.popleft()
                    self.engine.submit(output.prompt_token_ids, params, request_id=output.request_id)
                for delta in self.engine.step():
                    # A call that failed before may have left its last deltas.
                    if (mine := by_id.get(delta.request_id)) is not None:
                        add(mine, delta, self.engine.tokenizer)
                        bar.update(mine.finished and delta.finish_reason is not None)
        while self.engine.save_page():
            pass


def _split(size: int, dealt: bool, tokens: bool) -> Split:
    if size < 1:
        raise InvalidValue(
            f"tensor_parallel_size must be at least 1, not {size}", param="tensor_parallel_size"
        )
    if tokens and size == 1:
        raise InvalidValue(
            "data_parallel_attention gives each of several ranks sequences of its own: set tensor_parallel_size",
            param="data_parallel_attention",
        )
    return Split(size=size, experts="dealt" if dealt else "cut", attention="tokens" if tokens else "heads")


def _engine_over(ranks: Ranks, vocabulary: Tokenizer, settings: EngineSettings) -> Engine:
    try:
        if isinstance(ranks, EngineRanks):
            return DataParallelEngine(ranks, vocabulary, settings)
        return Engine(ranks.model, vocabulary, settings, ranks=ranks)
    except BaseException:
        ranks.stop()
        raise


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _one_each(given: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if given is None or isinstance(given, SamplingParams):
        return [given or SamplingParams()] * count
    if len(given) != count:
        message = f"{len(given)} sampling_params for {count} prompts: give one, or one for each"
        raise InvalidValue(message, param="sampling_params")
    return list(given)
