"""Prompts and messages in every form that `LLM` takes them in: texts, token ids, vLLM's and Transformers' objects."""

import operator
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, TypeAlias

from coderv2.errors import InvalidValue, Unsupported
from coderv2.text.chat import Message
from coderv2.text.tokenizer import Tokenizer

Prompt: TypeAlias = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, vLLM's `{"prompt": text}` and `{"prompt_token_ids": ids}`, or a Transformers tokenizer's output."""


def read(prompt: Any, tokenizer: Tokenizer) -> tuple[str | None, list[int]]:
    """Text, where there is one, and token ids of a prompt in any of its forms."""
    if isinstance(prompt, Mapping):
        prompt = _from_mapping(prompt)
    if isinstance(prompt, str):
        return prompt, tokenizer.encode(prompt, bos=True, control=True)
    try:
        return None, [operator.index(token_id) for token_id in prompt]
    except TypeError:
        raise InvalidValue(f"a prompt is text or token ids, not {prompt!r:.80}", param="prompts") from None


def _from_mapping(prompt: Mapping[str, Any]) -> Any:
    if "input_ids" in prompt:  # of a Transformers tokenizer; its attention mask says nothing about one prompt
        return prompt["input_ids"]
    if len(prompt) != 1 or not prompt.keys() <= {"prompt", "prompt_token_ids"}:
        message = f"a prompt has one key, prompt or prompt_token_ids, not {sorted(prompt)}"
        raise Unsupported(message, param="prompts")
    return next(iter(prompt.values()))


def as_list(prompts: Any) -> list[Any]:
    """One prompt alone as a list; a flat list of token ids is one prompt."""
    if isinstance(prompts, str | Mapping) or (len(prompts) and isinstance(prompts[0], Integral)):
        return [prompts]
    return list(prompts)


def message_of(message: Mapping[str, Any]) -> Message:
    """OpenAI's object with `role` and `content`, the content a text or parts of type text."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part_text(part) for part in content)
    if not isinstance(message.get("role"), str) or not isinstance(content, str):
        raise InvalidValue(
            f"a message has a role and a content of text, not {dict(message)!r:.80}", param="messages"
        )
    return Message(message["role"], content)


def _part_text(part: Any) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text":
        raise Unsupported(
            f"a message's content is text, or parts of type text, not {part!r:.80}", param="messages"
        )
    return str(part["text"])
