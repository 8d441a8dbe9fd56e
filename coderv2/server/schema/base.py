"""What requests of all families are made of: strict types, ranges, texts in parts, stop lists."""

from collections.abc import Sized
from typing import Annotated, Any, Self, TypeAlias, TypeVar

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
MAX_TURNS = 4096
"""Messages of a conversation, items of an input, blocks of a message."""
_TEXTS = ("text", "input_text", "output_text")
"""What families call a part that is text."""


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


T = TypeVar("T")
Listed: TypeAlias = Annotated[list[T], Field(fail_fast=True)]
"""A list that is read up to its first wrong element: only one is told of, and each would take 10 µs and 1 KB."""
Turns: TypeAlias = Annotated[Listed[T], Field(max_length=MAX_TURNS)]


def at_most(count: int) -> BeforeValidator:
    """For objects, whose wrong values would all be noted: their size is looked at first."""

    def check(value: Any) -> Any:
        if isinstance(value, Sized) and len(value) > count:
            raise ValueError(f"has {len(value)} entries, at most {count} are taken")
        return value

    return BeforeValidator(check)


def one_message(text: str) -> WrapValidator:
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


def joined_parts(content: Any) -> Any:
    """Text of a content given in parts."""
    if not isinstance(content, list):
        return content
    return "".join(_part_text(part, place) for place, part in enumerate(content))


def _part_text(part: Any, place: int) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXTS:
        raise PydanticCustomError(
            "unsupported_parameter",
            "part {place} is of type {kind}, only text is understood",
            {"place": place, "kind": repr(kind)[:40]},
        )
    if not isinstance(part.get("text"), str):
        raise ValueError(f"part {place} has no text")
    return str(part["text"])


MAX_INT = 2**31 - 1
Count: TypeAlias = Annotated[int, Field(ge=1, le=MAX_INT)]
Natural: TypeAlias = Annotated[int, Field(ge=0, le=MAX_INT)]
TokenId: TypeAlias = Natural
Seed: TypeAlias = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Temperature: TypeAlias = Annotated[float, Field(ge=0, le=2)]
TopP: TypeAlias = Annotated[float, Field(gt=0, le=1)]
TopK: TypeAlias = Annotated[int, Field(ge=-1, le=MAX_INT)]
MinP: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2)]
Text: TypeAlias = Annotated[str, BeforeValidator(joined_parts)]
"""A text, or a list of parts of type text."""
Texts: TypeAlias = Annotated[Listed[str], Field(min_length=1, max_length=MAX_ANSWERS)]
TokenLists: TypeAlias = Annotated[Listed[Listed[TokenId]], Field(min_length=1, max_length=MAX_ANSWERS)]
Prompt: TypeAlias = Annotated[
    str | Texts | Annotated[Listed[TokenId], Field(min_length=1)] | TokenLists,
    one_message(f"text, token ids, or a list of 1 to {MAX_ANSWERS} of these"),
]
Stop: TypeAlias = Annotated[
    str | Listed[str], one_message("text or a list of texts"), BeforeValidator(_stop_list)
]
