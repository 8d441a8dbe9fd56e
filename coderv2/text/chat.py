"""Messages to prompt: DeepSeek-Coder-V2's chat template (system text bare, `User: `, `Assistant: `).

A prompt ends with `Assistant:` and no space: the model writes that space itself, and with a second one
the 16B model answers in the wrong language or repeats itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from coderv2.errors import InvalidValue
from coderv2.text.tokenizer import BOS, EOS, Tokenizer

ROLES = ("system", "developer", "user", "assistant")
_GENERATION_PROMPT = "Assistant:"

CHAT_TEMPLATE = r"""
{%- if add_generation_prompt is not defined %}{% set add_generation_prompt = false %}{% endif -%}
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] == 'system' or message['role'] == 'developer' -%}
        {{- message['content'] + '\n\n' -}}
    {%- elif message['role'] == 'user' -%}
        {{- 'User: ' + message['content'] + '\n\n' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- 'Assistant: ' + message['content'] + eos_token -}}
    {%- else -%}
        {{- raise_exception('unknown role ' + message['role']) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'Assistant:' -}}
{%- endif -%}
""".strip()
"""The template in Jinja, for other programs; we never execute it. Unlike `render_chat` it trims nothing."""


@dataclass(frozen=True)
class Message:
    """One turn. `role` is one of ROLES; `developer` is another name for `system`."""

    role: str
    content: str


@dataclass(frozen=True)
class _Span:
    """A stretch of the prompt that is all the assistant's writing or none of it."""

    text: str
    written: bool = False
    ends: bool = False  # EOS follows


def render_chat(
    messages: Sequence[Message], *, add_generation_prompt: bool = True, continue_last: bool = False
) -> str:
    """The prompt as text, BOS included.

    `continue_last` leaves the last assistant message open, so that generation goes on with it; it needs
    add_generation_prompt=False. One leading space of an assistant's content is dropped: it is the space that
    the model wrote after `Assistant:`, and the template has its own. Raises InvalidValue for no messages, an
    unknown role, or nothing to continue.
    """
    spans = _spans(messages, add_generation_prompt, continue_last)
    return BOS + "".join(span.text + EOS * span.ends for span in spans)


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    continue_last: bool = False,
) -> list[int]:
    """Token ids of `render_chat`'s text, save that marker text inside contents stays plain characters."""
    return _encode(tokenizer, _spans(messages, add_generation_prompt, continue_last))[0]


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Token ids of a finished conversation, and for each whether the assistant wrote it (its EOS included).

    What is written starts right after `Assistant:`, with the space, as it does when the model generates.
    """
    return _encode(tokenizer, _spans(messages, add_generation_prompt=False, continue_last=False))


def _encode(tokenizer: Tokenizer, spans: Sequence[_Span]) -> tuple[list[int], list[bool]]:
    # Encoding span by span gives the ids of the whole text: every span ends with a newline, a colon before a
    # space, or a control token, and the pre-tokenizer cuts at each of these.
    ids, written = [tokenizer.bos_id], [False]
    for span in spans:
        new = tokenizer.encode(span.text) + [tokenizer.eos_id] * span.ends
        ids += new
        tokenizer.check(len(ids))
        written += [span.written] * len(new)
    return ids, written


def _spans(messages: Sequence[Message], add_generation_prompt: bool, continue_last: bool) -> list[_Span]:
    _check(messages, add_generation_prompt, continue_last)
    spans: list[_Span] = []
    for index, message in enumerate(messages):
        is_open = continue_last and index == len(messages) - 1
        spans += _message_spans(message, index, is_open)
    return [*spans, _Span(_GENERATION_PROMPT)] if add_generation_prompt else spans


def _message_spans(message: Message, index: int, is_open: bool) -> list[_Span]:
    match message.role:
        case "system" | "developer":
            return [_Span(f"{message.content}\n\n")]
        case "user":
            return [_Span(f"User: {message.content}\n\n")]
        case "assistant":
            content = message.content.removeprefix(" ")
            answer = _Span(f" {content}", written=True, ends=not is_open)
            # An answer that has not begun leaves its space to the model, as any prompt does.
            return (
                [_Span(_GENERATION_PROMPT), answer] if content or answer.ends else [_Span(_GENERATION_PROMPT)]
            )
    known = ", ".join(ROLES)
    raise InvalidValue(f"unknown role {message.role!r}: use one of {known}", param=f"messages[{index}].role")


def _check(messages: Sequence[Message], add_generation_prompt: bool, continue_last: bool) -> None:
    if not messages:
        raise InvalidValue("messages is empty: a chat needs at least one message", param="messages")
    if continue_last and add_generation_prompt:
        raise InvalidValue(
            "continue_last goes on with the last message, so add_generation_prompt must be False",
            param="continue_last",
        )
    if continue_last and messages[-1].role != "assistant":
        raise InvalidValue(
            f"continue_last needs a last message from the assistant, not from {messages[-1].role!r}",
            param="continue_last",
        )
