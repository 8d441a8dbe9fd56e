"""OpenAI's chat and completions, with vLLM's and DeepSeek's additions."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from coderv2.server.schema.base import (
    MAX_ANSWERS,
    Count,
    Listed,
    MinP,
    Natural,
    Penalty,
    Prompt,
    Seed,
    Stop,
    Temperature,
    Text,
    TokenId,
    TopK,
    TopP,
    Turns,
    Wire,
    at_most,
    one_message,
)

MAX_BIASES = 4096


class StreamOptions(Wire):
    """How a stream is sent."""

    include_usage: bool = False


class JsonSchema(Wire):
    """A named JSON Schema."""

    name: str = "answer"
    json_schema: Annotated[dict[str, Any] | bool, Field(alias="schema")] = True
    strict: bool = True


class ResponseFormat(Wire):
    """Free text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Wire):
    """vLLM's: what the whole answer must match; exactly one of these."""

    json_schema: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Listed[str] | None = None
    grammar: str | None = None
    json_object: bool = False


class Prediction(Wire):
    """What the answer will probably be, for example the file that is being edited."""

    type: Literal["content"] = "content"
    content: Text


class Sampling(Wire):
    """What both routes take. A temperature or top_p of None is the model's own default."""

    model: str = ""
    n: Count = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK = 0
    min_p: MinP = 0.0
    stop: Stop | None = None
    stop_token_ids: Listed[TokenId] | None = None
    min_tokens: Natural = 0
    seed: Seed | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    logit_bias: (
        Annotated[
            dict[Annotated[int, Field(strict=False, ge=0)], Annotated[float, Field(ge=-100, le=100)]],
            at_most(MAX_BIASES),
        ]
        | None
    ) = None
    skip_special_tokens: bool = True
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Listed[str] | None = None
    guided_grammar: str | None = None
    prediction: Annotated[Prediction | str, one_message("text, or {type: content, content: text}")] | None = (
        None
    )
    draft_tokens: Natural | None = None
    token_healing: bool = False
    fim_reuse: Literal["exact", "shifted"] = "exact"
    priority: Annotated[int, Field(ge=-100, le=100)] = 0

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(Sampling):
    """POST /v1/completions. Without max_tokens: 16, under /beta as many as fit up to 4096."""

    prompt: Prompt
    suffix: str | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] = 1
    best_of: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    max_tokens: Count | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class Function(Wire):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False


class FunctionTool(Wire):
    """A tool of type function; others do not exist here."""

    type: Literal["function"] = "function"
    function: Function


class CalledFunction(Wire):
    """Name, and arguments as JSON text."""

    name: str
    arguments: str = "{}"


class ToolCall(Wire):
    """A call that the assistant made."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class NamedFunction(Wire):
    """A function by its name."""

    name: str


class NamedChoice(Wire):
    """tool_choice: this one must be called."""

    type: Literal["function"] = "function"
    function: NamedFunction


class ChatMessage(Wire):
    """One turn. `prefix` on a last assistant message has the answer go on with it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text = ""
    prefix: bool = False
    tool_calls: Annotated[Listed[ToolCall], Field(max_length=128)] = Field(default_factory=list)
    tool_call_id: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if "content" not in self.model_fields_set and not self.tool_calls:
            raise ValueError("a message needs content")
        return self


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: Annotated[Turns[ChatMessage], Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=8)] = 1
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[Listed[FunctionTool], Field(max_length=128)] = Field(default_factory=list)
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedChoice,
        one_message("none, auto, required, or {type: function, function: {name: …}}"),
    ] = "auto"
    parallel_tool_calls: bool = True
