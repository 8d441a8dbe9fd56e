"""Sampling fields of a request → `SamplingParams`; options that we cannot honour are refused by name."""

from coderv2.engine.request import SamplingParams
from coderv2.errors import InvalidValue, Unsupported
from coderv2.server.defaults import SamplingDefaults
from coderv2.server.schema import Sampling

# Real options of OpenAI's and vLLM's that change the answer, each with the values that ask for nothing.
_NOT_HONOURED: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "json_schema": (),
    "modalities": (["text"],),
    "prompt_embeds": (),
    "prompt_logprobs": (0, False),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "structured_outputs": ({},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}


def refuse_what_is_not_honoured(request: Sampling) -> None:
    """Raises Unsupported naming the first field that asks for what nobody here does."""
    for name, value in sorted((request.model_extra or {}).items()):
        if name in _NOT_HONOURED and value not in _NOT_HONOURED[name]:
            raise Unsupported(f"{name} is not supported by this server yet; leave it out", param=name)


def check_stream_options(request: Sampling) -> None:
    """Raises InvalidValue for stream options without a stream."""
    if request.stream_options is not None and not request.stream:
        raise InvalidValue("stream_options only goes with stream: true", param="stream_options")


def sampling_params(
    request: Sampling, defaults: SamplingDefaults, *, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """The engine's parameters; `logprobs` is the number of likeliest tokens to report."""
    return SamplingParams(
        n=request.n,
        temperature=defaults.temperature if request.temperature is None else request.temperature,
        top_p=defaults.top_p if request.top_p is None else request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        stop=request.stop,
        stop_token_ids=request.stop_token_ids,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=request.logit_bias,
        logprobs=logprobs,
    )
