import pytest

from coderv2.engine.drafts import Drafter
from coderv2.engine.luck import Luck
from coderv2.engine.pages import Pages
from coderv2.engine.request import Request, SamplingParams
from coderv2.engine.scheduler import Chunk
from coderv2.engine.speculation import Costs, Drafting, worthwhile
from coderv2.errors import InvalidValue
from coderv2.model.config import ModelConfig
from tests.engine.fakes import fake_engine
from tests.published import FULL, LITE
from tests.tiny import tiny_config
from tests.tiny_tokenizer import tiny_tokenizer

COSTS = Costs(ModelConfig.from_dict(LITE))
PREDICTION = list(range(100, 200))


def test_one_token_reads_the_published_active_parameters() -> None:
    assert COSTS.read(1) == pytest.approx(2.451e9, rel=0.01)
    assert Costs(ModelConfig.from_dict(FULL)).read(1) == pytest.approx(20.85e9, rel=0.01)


@pytest.mark.parametrize(("tokens", "times"), [(2, 1.5), (4, 2.4), (8, 3.7), (16, 5.1), (32, 6.1)])
def test_tokens_that_are_checked_together_read_more_experts(tokens: int, times: float) -> None:
    assert COSTS.read(tokens) / COSTS.read(1) == pytest.approx(times, abs=0.06)


def test_unlikely_drafts_are_not_checked_and_nearly_certain_ones_are_all_checked() -> None:
    assert worthwhile([0.4, 0.5, 0.6], COSTS, 1, 1) == 0
    assert worthwhile([0.99] * 32, COSTS, 1, 1) == 32
    assert 0 < worthwhile([0.85] * 32, COSTS, 1, 1) < 32


def test_a_crowd_that_reads_nearly_every_expert_anyway_pays_for_its_drafts_in_arithmetic() -> None:
    # Each of 32 answers is worth a thirty-second of the step, and a token costs its multiplications alone.
    assert worthwhile([0.9] * 8, COSTS, 32, 32) > 0
    assert worthwhile([0.3] * 8, COSTS, 32, 32) == 0


def request(prompt: int = 6, limit: int = 50, **params: int | None) -> Request:
    made = Request("r", 0, SamplingParams(**params), list(range(prompt)), limit, tiny_tokenizer(), Luck(0))
    made.drafter = Drafter(made.tokens, PREDICTION)
    return made


def drafted(asked: Request, pages: Pages | None = None, *, budget: int = 64, draft_tokens: int = 32) -> int:
    """Tokens of the draft that the next step of an answer checks."""
    pages = pages or Pages(100, 4)
    if not asked.pages:
        pages.grow(asked.pages, len(asked.tokens))
    drafting = Drafting(tiny_config(), pages, max_batch_tokens=budget, draft_tokens=draft_tokens)
    chunk = Chunk(asked, len(asked.tokens) - 1, asked.tokens[-1:])
    return len(drafting.extend([chunk])[0].draft)


def test_a_draft_has_at_most_the_tokens_that_the_engine_or_the_request_allows() -> None:
    assert drafted(request(), draft_tokens=8) == 8
    assert drafted(request(draft_tokens=3)) == 3
    assert drafted(request(draft_tokens=0)) == 0


def test_a_draft_stays_within_the_budget_of_the_step() -> None:
    assert drafted(request(), budget=5) == 4


def test_a_draft_never_reaches_beyond_the_answers_limit() -> None:
    # One token more is chosen after the last drafted one.
    assert drafted(request(limit=6)) == 5
    assert drafted(request(limit=1)) == 0


def test_a_draft_takes_free_pages_and_none_of_another_sequence() -> None:
    pages = Pages(4, 4)
    other: list[int] = []
    assert pages.grow(other, 8)
    asked = request(prompt=6)
    assert drafted(asked, pages) == 2
    assert len(asked.pages) == len(other) == 2


def test_a_chunk_that_does_not_reach_the_end_gets_no_draft() -> None:
    asked = request(prompt=20)
    drafting = Drafting(tiny_config(), Pages(100, 4), max_batch_tokens=64, draft_tokens=32)
    chunk = Chunk(asked, 0, asked.tokens[:10])
    assert drafting.extend([chunk]) == [chunk]


def test_a_negative_number_of_draft_tokens_is_refused() -> None:
    with pytest.raises(InvalidValue, match="draft_tokens"):
        fake_engine(draft_tokens=-1)
    with pytest.raises(InvalidValue, match="draft_tokens"):
        SamplingParams(draft_tokens=-1)
