"""Fields of OpenAI's requests → `SamplingParams`; options that cannot be honoured are refused by name."""

from collections.abc import Callable
from typing import Any, TypeAlias

from coderv2.engine.grammar import StructuredOutputsParams
from coderv2.engine.request import SamplingParams
from coderv2.errors import InvalidValue, Unsupported
from coderv2.server.defaults import SamplingDefaults
from coderv2.server.schema.openai import Sampling
from coderv2.server.structured import structured_outputs

Constrain: TypeAlias = Callable[[StructuredOutputsParams | None], StructuredOutputsParams | None]
# Real options of OpenAI's and vLLM's that change the answer, each with the values that ask for nothing.
_NOT_HONOURED: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "modalities": (["text"],),
    "prompt_embeds": (),
    "prompt_logprobs": (0, False),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}
# The engine's names, where they are the same.
_SAME = (
    "n",
    "top_k",
    "min_p",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "skip_special_tokens",
    "draft_tokens",
    "token_healing",
    "fim_reuse",
)


def refuse_what_is_not_honoured(request: Sampling) -> None:
    """Raises Unsupported naming the first field that asks for what nobody here does."""
    for name, value in sorted((request.model_extra or {}).items()):
        if name in _NOT_HONOURED and value not in _NOT_HONOURED[name]:
            raise Unsupported(f"{name} is not supported by this server; leave it out", param=name)


def check_stream_options(request: Sampling) -> None:
    """Raises InvalidValue for stream options without a stream."""
    if request.stream_options is not None and not request.stream:
        raise InvalidValue("stream_options only goes with stream: true", param="stream_options")


def sampling_params(
    request: Sampling,
    defaults: SamplingDefaults,
    *,
    constrain: Constrain = lambda wanted: wanted,
    **others: Any,
) -> SamplingParams:
    """The engine's parameters; `constrain` says what an answer that is to match this must match in the end, and
    `others` are those that the routes name differently."""
    refuse_what_is_not_honoured(request)
    check_stream_options(request)
    prediction = request.prediction
    given = {name: getattr(request, name) for name in _SAME}
    given["prediction"] = prediction.content if prediction and not isinstance(prediction, str) else prediction
    given["structured_outputs"] = constrain(structured_outputs(request))
    return defaults.params(temperature=request.temperature, top_p=request.top_p, **(given | others))


def room_for(max_tokens: int | None, prompt_tokens: int, max_model_len: int) -> int:
    """`max_tokens`, or what the context leaves where that is less: how fill-in-the-middle is asked for."""
    room = max(1, max_model_len - prompt_tokens)
    return room if max_tokens is None else min(max_tokens, room)
