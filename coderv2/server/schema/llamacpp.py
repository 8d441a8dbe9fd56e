"""llama.cpp's server: /infill, /completion, and its way to show tokens."""

from typing import Annotated, Any

from pydantic import Field

from coderv2.server.schema.base import (
    MAX_INT,
    Listed,
    MinP,
    Natural,
    Penalty,
    Stop,
    Temperature,
    TokenId,
    TopP,
    Turns,
    Wire,
)
from coderv2.server.schema.base import Seed as AnySeed
from coderv2.server.schema.openai import ChatMessage

Milliseconds = Annotated[float, Field(ge=0, le=MAX_INT)]


class Predict(Wire):
    """What /infill and /completion share. n_predict of -1 is the room in the context, 0 only fills the cache."""

    model: str = ""
    n_predict: Annotated[int, Field(ge=-1, le=MAX_INT)] = -1
    stream: bool = False
    stop: Stop | None = None
    temperature: Temperature | None = None
    top_k: Natural = 0
    top_p: TopP | None = None
    min_p: MinP = 0.0
    seed: AnySeed | None = None
    """-1: another every time."""
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    n_probs: Annotated[int, Field(ge=0, le=20)] = 0
    n_cmpl: Annotated[int, Field(ge=1, le=8)] = 1
    n_indent: Natural = 0
    """Answers end before the first line that is indented less."""
    id_slot: Annotated[int, Field(ge=-1, le=MAX_INT)] = -1
    t_max_predict_ms: Milliseconds = 0.0
    """From the first token on; the answer ends at the first newline after it."""
    response_fields: Annotated[Listed[str], Field(max_length=64)] | None = None
    json_schema: dict[str, Any] | None = None


class CompleteRequest(Predict):
    """POST /completion."""

    prompt: str | Annotated[Listed[TokenId], Field(min_length=1)]


class ExtraFile(Wire):
    """A piece of another file."""

    filename: str = ""
    text: str


class InfillRequest(Predict):
    """POST /infill: the hole is after `prompt`, which follows `input_prefix`."""

    input_prefix: str = ""
    input_suffix: str = ""
    prompt: str = ""
    input_extra: Annotated[Listed[ExtraFile], Field(max_length=1024)] = Field(default_factory=list)


class TokenizeRequest(Wire):
    """POST /tokenize."""

    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(Wire):
    """POST /detokenize."""

    tokens: Listed[TokenId]


class TemplateRequest(Wire):
    """POST /apply-template."""

    messages: Annotated[Turns[ChatMessage], Field(min_length=1)]
