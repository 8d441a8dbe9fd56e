"""OpenAI's responses."""

from typing import Annotated, Any, Literal

from pydantic import Field

from coderv2.server.schema.base import (
    MAX_TURNS,
    Count,
    Listed,
    Temperature,
    Text,
    TopP,
    Turns,
    Wire,
    at_most,
    one_message,
)


class MessageItem(Wire):
    """A turn."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text


class CallItem(Wire):
    """A call that the assistant made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = "{}"


class ResultItem(Wire):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: Text


class ReasoningItem(Wire):
    """Another model's thoughts in the history; left out of the prompt."""

    type: Literal["reasoning"]


Item = Annotated[
    MessageItem | CallItem | ResultItem | ReasoningItem,
    one_message("an item of type message, function_call, function_call_output or reasoning"),
]


class ResponseTool(Wire):
    """A function. Tools of other types, which OpenAI hosts, are refused."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False


class NamedTool(Wire):
    """tool_choice: this one must be called."""

    type: Literal["function"]
    name: str


class TextFormat(Wire):
    """Free text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class TextSettings(Wire):
    """What kind of text the answer is."""

    format: TextFormat = TextFormat()


class ResponseRequest(Wire):
    """POST /v1/responses."""

    model: str = ""
    input: Annotated[str | Turns[Item], one_message(f"a text, or a list of at most {MAX_TURNS} items")] = (
        Field(default_factory=list)
    )
    instructions: str = ""
    previous_response_id: str | None = None
    store: bool = True
    stream: bool = False
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    text: TextSettings = TextSettings()
    tools: Annotated[Listed[ResponseTool], Field(max_length=128)] = Field(default_factory=list)
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedTool,
        one_message("none, auto, required, or {type: function, name: …}"),
    ] = "auto"
    parallel_tool_calls: bool = True
    truncation: Literal["disabled"] = "disabled"
    background: Literal[False] = False
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], at_most(16)
    ] = Field(default_factory=dict)
