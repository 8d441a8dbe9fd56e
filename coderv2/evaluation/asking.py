"""What a model can be asked, and what it replies: the words between tasks and generators."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from coderv2.text.chat import Message
from coderv2.text.tokenizer import Tokenizer

Style = Literal["chat", "base"]
"""Chat: a conversation, asked in words. Base: text that the model goes on with, or options that it weighs."""


@dataclass(frozen=True)
class Decoding:
    """How a reply is written. Greedy, as the paper measured, unless a benchmark's own protocol says otherwise."""

    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chat:
    """A conversation; the reply is the assistant's next message."""

    messages: tuple[Message, ...]
    decoding: Decoding = Decoding()

    @classmethod
    def of(cls, text: str, decoding: Decoding = Decoding()) -> "Chat":
        """One message of the user's."""
        return cls((Message("user", text),), decoding)

    @property
    def shown(self) -> Any:
        """What a record keeps of it."""
        return [{"role": message.role, "content": message.content} for message in self.messages]


@dataclass(frozen=True)
class Complete:
    """Text; the reply goes on with it."""

    text: str
    decoding: Decoding = Decoding()

    @property
    def shown(self) -> Any:
        """What a record keeps of it."""
        return self.text


@dataclass(frozen=True)
class Infill:
    """What stands before and after a hole; the reply belongs into it."""

    prefix: str
    suffix: str
    decoding: Decoding = Decoding()

    @property
    def shown(self) -> Any:
        """What a record keeps of it."""
        return {"prefix": self.prefix, "suffix": self.suffix}


@dataclass(frozen=True)
class Choose:
    """The options of which one goes on with the context; the reply's text is the likeliest.

    Each option starts with white space, the context does not end with any: so the tokens of both together are the
    context's and then the option's.
    """

    context: str
    options: tuple[str, ...]
    decoding: Decoding = Decoding(max_tokens=1)

    @property
    def shown(self) -> Any:
        """What a record keeps of it."""
        return {"context": self.context, "options": list(self.options)}


Ask: TypeAlias = Chat | Complete | Infill | Choose


@dataclass(frozen=True)
class Reply:
    """What came back."""

    text: str
    finish_reason: str = "stop"
    """stop, length (cut at max_tokens), or context: the prompt did not fit, and nothing was written."""
    tokens: int | None = None
    """Of the reply, where the generator counts them."""
    logprobs: tuple[float, ...] = ()
    """Of each option, to a `Choose`."""


@dataclass(frozen=True)
class Exchange:
    """An ask with its reply."""

    ask: Ask
    reply: Reply


@dataclass(frozen=True)
class Problem:
    """One item of a benchmark."""

    id: str
    row: Mapping[str, Any] = field(repr=False)
    """What the data file says, and what the task added."""
    group: str = ""
    """What sub-scores are given for: a subject, a level, a language."""


@dataclass(frozen=True)
class Place:
    """Which sample of which problem of which task is being made."""

    task: str
    problem: Problem
    index: int = 0
    seed: int = 0

    @property
    def sample_seed(self) -> int:
        """Differs between samples, and is the same in every run with this seed."""
        return zlib.crc32(f"{self.seed} {self.task} {self.problem.id} {self.index}".encode())


class Generator(Protocol):
    """Anything that replies: our engine, an endpoint, a file."""

    name: str
    """What the report calls it."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """For exact token counts; None where it is not known."""

    @property
    def context(self) -> int | None:
        """Tokens of prompt and reply together; None where it is not known."""

    async def identity(self) -> Mapping[str, str]:
        """Equal for replies of one model: its name, as `model`, and what tells it from its namesakes."""

    async def reply(self, ask: Ask, place: Place) -> Reply:
        """Raises Unsupported for a kind of ask that it cannot answer, ServiceError when it is out of order."""

    async def close(self) -> None:
        """Lets go of threads and connections."""
