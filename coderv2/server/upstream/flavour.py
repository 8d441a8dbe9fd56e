"""What each kind of server calls the parameters that OpenAI's completions lack, and how a prompt reaches it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coderv2.engine.params import SamplingParams
from coderv2.errors import Unsupported
from coderv2.text.tokenizer import Tokenizer

# Our names, which vLLM and SGLang share, and what silence means here.
_EXTRAS = {
    "top_k": 0,
    "min_p": 0.0,
    "min_tokens": 0,
    "repetition_penalty": 1.0,
    "stop_token_ids": None,
    "skip_special_tokens": True,
}
_HERE_ONLY = {
    "token_healing": False,
    "fim_reuse": "exact",
    "logprobs": None,
    "prompt_logprobs": None,
    "draft_tokens": None,
}


@dataclass(frozen=True)
class Flavour:
    """One kind of server."""

    name: str
    takes_ids: bool
    """Whether a prompt may be token ids. As text it loses which marks were meant as text."""
    extras: Mapping[str, str]
    """Our names of parameters → theirs."""
    says_all: bool = False
    """Whether silence means something else there, so that all of them are always sent."""
    several: bool = True
    """Whether it makes more than one answer to a prompt."""
    structured: bool = False
    tells_ids: bool = False
    """Whether it can say the answer's token ids."""


_SHARED = {name: name for name in _EXTRAS}
_LLAMA = {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"}
_KINDS = {
    "vllm": Flavour("vllm", True, _SHARED, structured=True, tells_ids=True),
    "coderv2": Flavour("coderv2", True, _SHARED, structured=True),
    "sglang": Flavour("sglang", True, _SHARED, structured=True),
    "llamacpp": Flavour("llama.cpp", True, _LLAMA, says_all=True),
    "me": Flavour(
        "llama-cpp-python", False, _LLAMA | {"min_tokens": "min_tokens"}, says_all=True, several=False
    ),
}
_ANY = Flavour("openai", False, {})


def flavour(owned_by: str) -> Flavour:
    """By what a server's list of models calls their owner; any other is taken as plain OpenAI."""
    return _KINDS.get(owned_by, _ANY)


def body(
    flavour: Flavour, model: str, prompt: Sequence[int], params: SamplingParams, tokenizer: Tokenizer
) -> dict[str, Any]:
    """The request to `/v1/completions`. Raises Unsupported, by name, for what that kind of server does not do."""
    if params.answers > 1 and not flavour.several:
        raise Unsupported(
            f"n: the {flavour.name} server behind this one makes one answer to a prompt", param="n"
        )
    sent: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt) if flavour.takes_ids else _as_text(prompt, tokenizer),
        "n": params.n,
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "stop": list(params.stops) or None,
        "seed": params.seed,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "logit_bias": {str(k): v for k, v in params.logit_bias.items()} if params.logit_bias else None,
        "best_of": params.best_of,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_extras(flavour, params),
        **_structured(flavour, params),
    }
    if flavour.tells_ids:
        sent["return_token_ids"] = True
    return {name: value for name, value in sent.items() if value is not None}


def _extras(flavour: Flavour, params: SamplingParams) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    for name, silent in (_EXTRAS | _HERE_ONLY).items():
        value = getattr(params, name)
        asked = value != silent and (name, value) != ("top_k", -1)
        if asked and name not in flavour.extras:
            raise Unsupported(f"{name} is not known to the {flavour.name} server behind this one", param=name)
        if asked or (flavour.says_all and name in flavour.extras):
            extras[flavour.extras[name]] = value if asked else silent
    return extras


def _structured(flavour: Flavour, params: SamplingParams) -> dict[str, Any]:
    wanted = params.structured_outputs
    if wanted is None:
        return {}
    given = {
        name: getattr(wanted, name)
        for name in ("json", "regex", "choice", "grammar", "json_object")
        if getattr(wanted, name)
    }
    if flavour.name == "sglang":
        return _for_sglang(given)
    if not flavour.structured:
        message = f"structured output is not known to the {flavour.name} server behind this one"
        raise Unsupported(message, param="structured_outputs")
    return {"structured_outputs": given}


def _for_sglang(given: dict[str, Any]) -> dict[str, Any]:
    if "regex" in given:
        return {"regex": given["regex"]}
    if "json" in given or "json_object" in given:
        return {"json_schema": given.get("json", {"type": "object"})}
    (name,) = given
    raise Unsupported(
        f"{name}: SGLang has JSON Schemas and regular expressions only", param="structured_outputs"
    )


def _as_text(prompt: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text that the server will read as these tokens; it puts BOS in front by itself."""
    ids = list(prompt[1:] if prompt[:1] == [tokenizer.bos_id] else prompt)
    text = tokenizer.decode(ids, skip_special=False)
    if tokenizer.encode(text, control=True) != ids:
        raise Unsupported(
            "the server behind this one takes prompts as text only, and this one holds the text of a control token, "
            "or tokens that no text gives",
            param="prompt",
        )
    return text
