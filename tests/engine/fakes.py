"""A model whose next token follows from all tokens before it, read back from its own store; a device to record on."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor, nn

from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.follower import Follower
from coderv2.engine.recording import Stream
from coderv2.engine.request import Delta, SamplingParams
from coderv2.model.batch import Batch
from coderv2.model.config import ModelConfig
from tests.tiny import tiny_config
from tests.tiny_tokenizer import tiny_tokenizer

VOCABULARY = 600


def likeliest(tokens: Sequence[int]) -> int:
    """The token that the fake model puts first after `tokens`; never a control token, seldom the same twice."""
    return 10 + crc32(repr(list(tokens)).encode()) % 300


def continuation(prompt: Sequence[int], count: int) -> list[int]:
    """What a greedy request must answer, whatever runs beside it."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(likeliest(tokens))
    return tokens[len(prompt) :]


class FakeModel:
    """Stores each token with its position in the cache's slot, as its latent, and fails when a context is not there.

    `logits` turns the tokens of a sequence into its row; by default `likeliest` gets 5 and everything else 0.
    """

    def __init__(self, logits: Callable[[list[int]], Tensor] | None = None, *, context: int = 128) -> None:
        self.config: ModelConfig = tiny_config("lite", num_hidden_layers=2, max_position_embeddings=context)
        self.dtype = self.cache_dtype = torch.float32
        self.device = torch.device("cpu")
        self.batches: list[list[int]] = []
        """Tokens of each sequence of each forward pass so far."""
        self.weight = nn.Parameter(torch.zeros(4), requires_grad=False)
        self._logits = logits or one_peak

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """One weight, which changes nothing but what the model is."""
        yield "norm", self.weight

    def __call__(self, batch: Batch, /) -> Tensor:
        assert batch.cache is not None
        assert batch.slots_T is not None
        self.batches.append(
            [end - start for start, end in zip(batch.starts[:-1], batch.starts[1:], strict=True)]
        )
        slots = batch.slots_T.tolist()
        assert len(set(slots)) == len(slots), "two tokens of one batch share a slot"
        stored = torch.stack((batch.token_ids_T, batch.positions_T + 1), -1).float()
        batch.cache.latent_LPSC[0].flatten(0, 1)[batch.slots_T, :2] = stored
        assert batch.logits_rows is not None
        rows = batch.logits_rows.tolist()
        wholes = [self._read_back(batch, b) for b in range(len(batch.contexts))]
        return torch.stack([self._logits(wholes[b][:end]) for b, end in _places(batch, rows)])

    def _read_back(self, batch: Batch, b: int) -> list[int]:
        assert batch.cache is not None
        length = batch.contexts[b] + batch.starts[b + 1] - batch.starts[b]
        slots = batch.cache.slots(batch.page_tables[b])[:length]
        assert len(slots) == length, "the page table is too short"
        tokens, positions = batch.cache.latent_LPSC[0].flatten(0, 1)[slots, :2].long().T.tolist()
        assert positions == list(range(1, length + 1)), "the context is not what it was"
        return list(tokens)


def _places(batch: Batch, rows: Sequence[int]) -> list[tuple[int, int]]:
    """For each row its sequence, and that sequence's tokens up to the row."""
    found = []
    for row in rows:
        b = bisect_right(batch.starts, row) - 1
        found.append((b, batch.contexts[b] + row + 1 - batch.starts[b]))
    return found


def one_peak(tokens: list[int]) -> Tensor:
    """5 for the likeliest token, 0 for all others."""
    logits_W = torch.zeros(VOCABULARY)
    logits_W[likeliest(tokens)] = 5.0
    return logits_W


def script(token_ids: Sequence[int], prompt_count: int) -> Callable[[list[int]], Tensor]:
    """Logits that make greedy answers to prompts of `prompt_count` tokens spell `token_ids`, then EOS."""
    eos = tiny_tokenizer().eos_id

    def logits(tokens: list[int]) -> Tensor:
        place = len(tokens) - prompt_count
        row_W = torch.zeros(VOCABULARY)
        row_W[token_ids[place] if 0 <= place < len(token_ids) else eos] = 5.0
        return row_W

    return logits


class LateStream:
    """A device as far behind the host as it may be: nothing is done before somebody waits for it."""

    def __init__(self) -> None:
        self._ahead: list[Callable[[], object]] = []
        self.given = self.done = self.waits = 0
        self.behind: list[int] = []
        """Steps that lay ahead of the device after each wait."""

    def enqueue(self, work: Callable[[], object]) -> None:
        self.given += 1
        self._ahead.append(work)

    def mark(self) -> Callable[[], None]:
        goal = self.given

        def wait() -> None:
            self.waits += 1
            while self.done < goal:
                self.done += 1
                self._ahead.pop(0)()
            self.behind.append(self.given - self.done)

        return wait


class PromptStream:
    """A device that does all at once, as ranks must that wait for each other."""

    def enqueue(self, work: Callable[[], object]) -> None:
        work()

    def mark(self) -> Callable[[], None]:
        return lambda: None


class Recording:
    """Runs a recorded step as it is: what a GPU's graph would do, without a GPU."""

    def __init__(self, stream: Stream | None = None) -> None:
        self.stream = stream or LateStream()
        self.recorded = 0
        self.repeated = 0

    def __call__(self, step: Callable[[], Any]) -> Callable[[], Any]:
        self.recorded += 1

        def repeat() -> Any:
            self.repeated += 1
            return step()

        return repeat


def prompt_recording(device: torch.device) -> Recording:
    """What every rank of a test records with."""
    return Recording(PromptStream())


class LeavingTogether(Follower):
    """Leaves when all do, as ranks of NCCL's must."""

    def leave(self) -> None:
        super().leave()
        dist.barrier()


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fake_engine(
    model: FakeModel | None = None, *, clock: Callable[[], float] | None = None, **settings: Any
) -> Engine:
    """An engine over the fake model with a small cache; `settings` are EngineSettings' fields."""
    chosen = {"cache_tokens": 512, "page_size": 4, "max_running": 8, "max_batch_tokens": 64} | settings
    return Engine(model or FakeModel(), tiny_tokenizer(), EngineSettings(**chosen), clock=clock or Clock())


def greedy(max_tokens: int | None = 8, **more: Any) -> SamplingParams:
    """Temperature 0."""
    return SamplingParams(temperature=0, max_tokens=max_tokens, **more)


def run(engine: Engine, steps: int = 2000) -> list[Delta]:
    """Steps until nothing is left to do."""
    deltas: list[Delta] = []
    for _ in range(steps):
        if not engine.has_work():
            return deltas
        deltas += engine.step()
    raise AssertionError(f"still busy after {steps} steps")


def answer(deltas: Sequence[Delta], request_id: str, index: int = 0) -> list[int]:
    """The tokens of one answer."""
    return [t for d in deltas if (d.request_id, d.index) == (request_id, index) for t in d.token_ids]


def text(deltas: Sequence[Delta], request_id: str, index: int = 0) -> str:
    """The text of one answer."""
    return "".join(d.text for d in deltas if (d.request_id, d.index) == (request_id, index))


class WarmRecording(Recording):
    """Runs a step once while recording it, as a GPU does: ranks that record at different times would wait for ever."""

    def __call__(self, step: Callable[[], Any]) -> Callable[[], Any]:
        step()
        return super().__call__(step)


def warm_recording(device: torch.device) -> WarmRecording:
    """What every rank of a test records with."""
    return WarmRecording(PromptStream())
