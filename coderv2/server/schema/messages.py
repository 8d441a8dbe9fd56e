"""Anthropic's messages."""

from typing import Annotated, Any, Literal

from pydantic import Field

from coderv2.server.schema.base import (
    MAX_TURNS,
    Count,
    Listed,
    Natural,
    Stop,
    Text,
    TopP,
    Turns,
    Wire,
    one_message,
)


class TextBlock(Wire):
    """A text."""

    type: Literal["text"]
    text: str


class ToolUseBlock(Wire):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any] = Field(default_factory=dict)


class ToolResultBlock(Wire):
    """What came of a call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Text = ""
    is_error: bool = False


class ThinkingBlock(Wire):
    """Another model's thoughts in the history; left out of the prompt."""

    type: Literal["thinking", "redacted_thinking"]


Block = Annotated[
    TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock,
    one_message(
        "a block of type text, tool_use, tool_result or thinking; images and documents are not read here"
    ),
]


class InputMessage(Wire):
    """One turn: a text, or blocks."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[
        str | Turns[Block],
        one_message(f"a text, or at most {MAX_TURNS} blocks of text, tool_use or tool_result"),
    ]


class AnthropicTool(Wire):
    """A tool that the caller runs; the hosted ones, which have another `type`, do not exist here."""

    type: Literal["custom"] = "custom"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    description: str = ""
    input_schema: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False


class AnthropicChoice(Wire):
    """Whether a tool must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool = False


class CountRequest(Wire):
    """POST /v1/messages/count_tokens: what makes the prompt."""

    model: str = ""
    messages: Annotated[Turns[InputMessage], Field(min_length=1)]
    system: Text = ""
    tools: Annotated[Listed[AnthropicTool], Field(max_length=256)] = Field(default_factory=list)
    tool_choice: AnthropicChoice = AnthropicChoice(type="auto")


class MessagesRequest(CountRequest):
    """POST /v1/messages."""

    max_tokens: Count
    stream: bool = False
    stop_sequences: Stop | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: TopP | None = None
    top_k: Natural = 0
