"""Ollama's generate, chat and show."""

from typing import Annotated, Any, Literal

from pydantic import Field

from coderv2.server.schema.base import (
    MAX_INT,
    Listed,
    MinP,
    Natural,
    Penalty,
    Seed,
    Stop,
    Temperature,
    Text,
    TopP,
    Turns,
    Wire,
    one_message,
)
from coderv2.server.schema.openai import FunctionTool

Format = Annotated[Literal["json", ""] | dict[str, Any], one_message('"json" or a JSON Schema')]


class Options(Wire):
    """What Ollama calls the model's parameters. Those of loading (num_ctx, num_gpu …) were settled at the start."""

    num_predict: Annotated[int, Field(ge=-2, le=MAX_INT)] = -1
    """-1 and -2: the room in the context."""
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Natural = 0
    min_p: MinP = 0.0
    seed: Seed | None = None
    stop: Stop | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0


class OllamaRequest(Wire):
    """What both routes take; they stream unless told not to."""

    model: str = ""
    stream: bool = True
    format: Format = ""
    options: Options = Field(default_factory=Options)


class GenerateRequest(OllamaRequest):
    """POST /api/generate. Without `raw` and `suffix` the prompt is a user's message; an empty one asks for nothing."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    raw: bool = False
    images: Annotated[Listed[str], Field(max_length=0)] = Field(default_factory=list)


class CalledFunction(Wire):
    """Ollama's arguments are an object, not text."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolCall(Wire):
    """A call that the assistant made."""

    function: CalledFunction


class OllamaMessage(Wire):
    """One turn."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Text = ""
    tool_calls: Annotated[Listed[ToolCall], Field(max_length=128)] = Field(default_factory=list)
    images: Annotated[Listed[str], Field(max_length=0)] = Field(default_factory=list)


class OllamaChatRequest(OllamaRequest):
    """POST /api/chat."""

    messages: Turns[OllamaMessage] = Field(default_factory=list)
    tools: Annotated[Listed[FunctionTool], Field(max_length=128)] = Field(default_factory=list)


class ShowRequest(Wire):
    """POST /api/show."""

    model: str = ""
    name: str = ""
