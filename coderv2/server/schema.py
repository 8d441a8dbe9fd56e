"""What may come in over HTTP: types and ranges of OpenAI's requests. pydantic stays in this file.

`null` counts as absent; fields not named here are ignored, and named in a debug log. Answers are plain dicts, which the
dialects write.
"""

from typing import Annotated, Any, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from coderv2.log import logger

MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_ANSWERS = 128
"""Prompts, and prompts times n, of one request."""


class Wire(BaseModel):
    """Types are taken as sent: "5" is no number."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data

    @model_validator(mode="after")
    def _log_unknown(self) -> Self:
        if self.model_extra:
            names = ", ".join(sorted(self.model_extra))
            logger.debug("fields of %s not known here: %.200s", type(self).__name__, names)
        return self


def _one_message(text: str) -> WrapValidator:
    """A union reports the failure of every alternative; this says once what is wanted."""

    def check(value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("wrong_kind", "should be {wanted}", {"wanted": text}) from None

    return WrapValidator(check)


def _stop_list(stop: Any) -> Any:
    stops = [stop] if isinstance(stop, str) else stop
    if isinstance(stops, list) and len(stops) > MAX_STOPS:
        raise ValueError(f"has {len(stops)} strings, at most {MAX_STOPS} are taken")
    for text in stops if isinstance(stops, list) else ():
        if isinstance(text, str) and len(text.encode(errors="replace")) > MAX_STOP_BYTES:
            raise ValueError(f"has a string of more than {MAX_STOP_BYTES} bytes")
    return stop


def _joined_parts(content: Any) -> Any:
    """Text of a content given in parts."""
    if not isinstance(content, list):
        return content
    return "".join(_part_text(part, place) for place, part in enumerate(content))


def _part_text(part: Any, place: int) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise PydanticCustomError(
            "unsupported_parameter",
            "part {place} is of type {kind}, only text is understood",
            {"place": place, "kind": repr(kind)[:40]},
        )
    if not isinstance(part.get("text"), str):
        raise ValueError(f"part {place} has no text")
    return str(part["text"])


Count: TypeAlias = Annotated[int, Field(ge=1)]
Texts: TypeAlias = Annotated[list[str], Field(min_length=1, max_length=MAX_ANSWERS)]
TokenLists: TypeAlias = Annotated[list[list[int]], Field(min_length=1, max_length=MAX_ANSWERS)]
Prompt: TypeAlias = Annotated[
    str | Texts | Annotated[list[int], Field(min_length=1)] | TokenLists,
    _one_message(f"text, token ids, or a list of 1 to {MAX_ANSWERS} of these"),
]
Stop: TypeAlias = Annotated[
    str | list[str], _one_message("text or a list of texts"), BeforeValidator(_stop_list)
]


class StreamOptions(Wire):
    """How a stream is sent."""

    include_usage: bool = False


class Sampling(Wire):
    """What both routes take. A temperature or top_p of None is the model's own default."""

    model: str = ""
    n: Count = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    stop: Stop | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    logit_bias: (
        dict[Annotated[int, Field(strict=False, ge=0)], Annotated[float, Field(ge=-100, le=100)]] | None
    ) = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: Prompt
    suffix: str | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] = 1
    best_of: Count | None = None
    max_tokens: Count = 16
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class ChatMessage(Wire):
    """One turn. `prefix` on a last assistant message has the answer go on with it."""

    role: str
    content: Annotated[str, BeforeValidator(_joined_parts)]
    prefix: bool = False


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=8)] = 1
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
