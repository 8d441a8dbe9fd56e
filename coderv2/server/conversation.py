"""What every chat of every dialect becomes: messages, functions, and what must be called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coderv2.engine.grammar import StructuredOutputsParams
from coderv2.errors import InvalidValue
from coderv2.text.chat import Message, encode_chat
from coderv2.text.tokenizer import Tokenizer
from coderv2.text.tools import (
    Tool,
    calls_or_json,
    introduce,
    required_calls,
    strict_calls,
    written_call,
    written_result,
)


@dataclass(frozen=True)
class Conversation:
    """Messages are in the roles of `text.chat`; calls and results stand in them as `text.tools` writes them."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    choice: str = "auto"
    """auto, none, required, or with `only` named."""
    only: str = ""
    several: bool = True
    """Whether one answer may call more than once."""
    goes_on: bool = False
    """The answer goes on with the last message."""

    @property
    def callable(self) -> Sequence[Tool]:
        """The functions that may be called. Raises InvalidValue for a choice that no function meets."""
        if self.choice == "none":
            return ()
        if self.choice != "auto" and not self.tools:
            raise InvalidValue("tool_choice asks for a call, but there are no tools", param="tool_choice")
        if self.choice != "named":
            return self.tools
        chosen = [tool for tool in self.tools if tool.name == self.only]
        if not chosen:
            raise InvalidValue(f"tool_choice names {self.only!r}, which is not in tools", param="tool_choice")
        return chosen

    def prompt(self, tokenizer: Tokenizer) -> list[int]:
        """Token ids; nothing in the messages becomes a control token."""
        messages = list(self.messages)
        if self.choice != "none" and self.tools:
            messages.insert(0, Message("system", introduce(self.tools)))
        return encode_chat(
            tokenizer, messages, add_generation_prompt=not self.goes_on, continue_last=self.goes_on
        )

    def constraint(self, wanted: StructuredOutputsParams | None = None) -> StructuredOutputsParams | None:
        """What the whole answer must match: calls, what is `wanted` of an answer without any, or either of them.

        Raises InvalidValue for what does not go together.
        """
        tools = self.callable
        if not tools:
            return wanted
        if self.choice == "auto" and wanted is None and not any(tool.strict for tool in tools):
            return None
        return StructuredOutputsParams(grammar=self._grammar(tools, wanted))

    def _grammar(self, tools: Sequence[Tool], wanted: StructuredOutputsParams | None) -> str:
        if wanted is None:
            write = strict_calls if self.choice == "auto" else required_calls
            return write(tools, several=self.several)
        if self.choice != "auto":
            raise InvalidValue("an answer cannot both call tools and match a format; send one", param="tools")
        return calls_or_json(tools, _schema(wanted), several=self.several)


def _schema(wanted: StructuredOutputsParams) -> Mapping[str, Any]:
    schema = {"type": "object"} if wanted.json_object else wanted.json
    if not isinstance(schema, Mapping):
        message = "beside tools an answer can match JSON only, with a schema that is an object; leave one out"
        raise InvalidValue(message, param="tools")
    return schema


def assistant(content: str, calls: Sequence[tuple[str, str]]) -> Message:
    """An assistant's turn with its calls, each a name and JSON text."""
    parts = [content] if content else []
    return Message("assistant", "\n".join(parts + [written_call(*call) for call in calls]))


def result(content: str) -> Message:
    """What came of a call, as the model is told."""
    return Message("user", written_result(content))
