"""Who replies: our engine in this process, or answers that are there already. `endpoint` is the third."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

from coderv2.engine.engine import Engine
from coderv2.engine.params import SamplingParams
from coderv2.engine.request import Delta
from coderv2.engine.worker import Worker
from coderv2.errors import BadData
from coderv2.evaluation import fingerprint
from coderv2.evaluation.asking import (
    Ask,
    Chat,
    Choose,
    Complete,
    Decoding,
    Infill,
    Place,
    Problem,
    Reply,
    Style,
)
from coderv2.evaluation.data import parse_rows
from coderv2.text.chat import Message, encode_chat, render_chat
from coderv2.text.fim import encode_fim
from coderv2.text.tokenizer import Tokenizer

_TALK = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "u"))


class EngineGenerator:
    """Our engine, in a thread of this process; nobody else may use it meanwhile."""

    def __init__(self, engine: Engine, name: str, checkpoint: Path | None = None) -> None:
        """`checkpoint` is the folder or file that the engine's weights are from."""
        self.name = name
        self._checkpoint = checkpoint
        self.tokenizer: Tokenizer = engine.tokenizer
        self._worker = Worker(engine)
        self._worker.start()
        self.context: int = self._worker.max_model_len

    async def close(self) -> None:
        """Ends the thread."""
        self._worker.stop()

    async def identity(self) -> dict[str, str]:
        """Name, checkpoint and chat template."""
        found = {"model": self.name, "template": fingerprint.of_text(render_chat(_TALK))}
        if self._checkpoint is not None:
            found["checkpoint"] = fingerprint.of_checkpoint(self._checkpoint)
        return found

    async def reply(self, ask: Ask, place: Place) -> Reply:
        """Raises ContextTooLong when not even one token of a reply fits."""
        match ask:
            case Chat():
                return await self._write(encode_chat(self.tokenizer, ask.messages), ask.decoding, place)
            case Complete():
                return await self._write(self.tokenizer.encode(ask.text, bos=True), ask.decoding, place)
            case Infill():
                return await self._write(
                    encode_fim(self.tokenizer, ask.prefix, ask.suffix), ask.decoding, place
                )
            case Choose():
                return await self._weigh(ask)

    async def _write(self, ids: Sequence[int], decoding: Decoding, place: Place) -> Reply:
        params = SamplingParams(
            max_tokens=max(1, min(decoding.max_tokens, self.context - len(ids))),
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            stop=decoding.stop,
            seed=place.sample_seed,
        )
        deltas = await self._deltas(ids, params)
        text = "".join(delta.text for delta in deltas)
        return Reply(text, deltas[-1].finish_reason or "stop", sum(len(delta.token_ids) for delta in deltas))

    async def _weigh(self, ask: Choose) -> Reply:
        context = self.tokenizer.encode(ask.context, bos=True)
        weights = [await self._weight(context, self.tokenizer.encode(option)) for option in ask.options]
        best = max(range(len(weights)), key=weights.__getitem__)
        return Reply(ask.options[best], logprobs=tuple(weights))

    async def _weight(self, context: Sequence[int], option: Sequence[int]) -> float:
        """The log-probability of the option's tokens after the context, as `Engine.score` gives it."""
        params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=0)
        deltas = await self._deltas([*context, *option], params)
        places = next(delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None)
        return sum(place.logprob for place in places[-len(option) :])

    async def _deltas(self, ids: Sequence[int], params: SamplingParams) -> list[Delta]:
        async with aclosing(self._worker.stream(ids, params)) as stream:
            return [delta async for delta in stream]


class _Answering(Protocol):
    """The part of a task that the canonical answers come from."""

    def canonical(self, problem: Problem, style: Style) -> str: ...


class Answers:
    """Replies that are there before they are asked for; an option is named by its text, white space aside."""

    tokenizer: Tokenizer | None = None
    context: int | None = None

    def __init__(self, name: str, answer: Callable[[Place], str], digest: str = "") -> None:
        """`digest` is that of the file that they are from."""
        self.name = name
        self._answer = answer
        self._digest = digest

    async def identity(self) -> dict[str, str]:
        """Name and content of the file; the name alone of what is made."""
        return {"model": self.name} | ({"answers": self._digest} if self._digest else {})

    async def reply(self, ask: Ask, place: Place) -> Reply:
        """The stored text, whatever was asked."""
        return Reply(self._answer(place))

    async def close(self) -> None:
        """Nothing to do."""


def canonical(tasks: Mapping[str, _Answering], style: Callable[[str], Style]) -> Answers:
    """Replies that must get the full score."""
    return Answers("canonical answers", lambda at: tasks[at.task].canonical(at.problem, style(at.task)))


def empty() -> Answers:
    """Replies of no text at all."""
    return Answers("empty answers", lambda at: "")


def from_file(path: Path) -> Answers:
    """JSON lines with `task_id` (a problem's id) and `reply`, and `task` where two tasks share ids.

    The n-th line of an id is its n-th sample. A problem that is not in the file gets an error when it is asked for.
    """
    content = path.read_bytes()
    replies: dict[tuple[str, str], list[str]] = {}
    for number, row in enumerate(parse_rows(content, str(path)), 1):
        reply, name = _field(row, ("reply", "completion", "solution")), row.get("task_id", row.get("problem"))
        if not isinstance(reply, str) or name is None:
            raise BadData(f"{path}:{number}: a line needs a task_id and a reply, both text")
        replies.setdefault((str(row.get("task", "")), str(name)), []).append(reply)
    return Answers(path.name, lambda at: _look_up(path, replies, at), fingerprint.of_bytes(content))


def _field(row: Mapping[str, object], names: Sequence[str]) -> object:
    return next((row[name] for name in names if name in row), None)


def _look_up(path: Path, replies: Mapping[tuple[str, str], list[str]], at: Place) -> str:
    found = replies.get((at.task, at.problem.id)) or replies.get(("", at.problem.id))
    if not found:
        raise BadData(
            f"{path} has no reply to {at.problem.id} of {at.task}: add one, an empty one to leave it out"
        )
    if at.index >= len(found):
        raise BadData(
            f"{path} has {len(found)} replies to {at.problem.id}, too few for sample {at.index + 1}"
        )
    return found[at.index]
