"""Recorded steps of ranks with their own sequences, one rank alone: what the others say decides; answers stay."""

import pytest
import torch

from coderv2.engine.engine import Engine
from coderv2.engine.even import NEVER, EvenGraphs
from coderv2.engine.steps import Draws
from tests.engine.fakes import PromptStream, Recording, answer, run
from tests.engine.test_graphs import DRAWN, GREEDY, _engine


def _beside(
    others: list[tuple[int, ...]], recorder: Recording
) -> tuple[Engine, EvenGraphs, list[tuple[int, ...]]]:
    """An engine, its steps, and what it said to ranks that always say the same."""
    engine = _engine(recorder)
    said: list[tuple[int, ...]] = []

    def heard(*mine: int) -> list[tuple[int, ...]]:
        said.append(mine)
        return [mine, *others]

    plain = engine._runner._graphs
    assert plain is not None
    even = EvenGraphs(plain._steps, heard, most=12, page_size=16, nobody=plain._nobody, grow=plain._grow)
    engine._runner._graphs = even
    return engine, even, said


@pytest.mark.parametrize(
    ("other", "form"),
    [((0, 0), (4, Draws.ANY)), ((8, 0), (8, Draws.ANY)), ((1, 2), (4, Draws.HEAVIEST)), ((NEVER, 0), None)],
)
@pytest.mark.parametrize("ahead", [True, False])
def test_a_step_is_as_large_as_any_rank_needs(
    other: tuple[int, int], form: tuple[int, int] | None, ahead: bool
) -> None:
    wanted = _engine(None)
    recorder = Recording()
    engine, even, said = _beside([(*other, 1, *(other if ahead else (NEVER, 0)))], recorder)
    asked = [GREEDY, DRAWN, GREEDY]
    for one in (wanted, engine):
        for number, params in enumerate(asked):
            one.submit([5 + number, 9, 11], params, request_id=str(number))
    found, plain = run(engine), run(wanted)
    for number in range(len(asked)):
        assert answer(found, str(number)) == answer(plain, str(number))
    engine.check()
    assert (4, Draws.ANY) in {word[:2] for word in said}
    assert said[0] == (NEVER, 0, False, NEVER, 0), "the prompts"
    assert set(even._steps._recorded) == ({form} if form else set())
    assert (recorder.repeated > 0) == (form is not None)
    behind = recorder.stream.behind  # type: ignore[attr-defined]
    assert (1 in behind) == (ahead and form is not None), "a step lay ahead while the host waited"


@pytest.mark.parametrize("serves", [1, 0])
def test_a_step_started_ahead_is_taken_by_all_ranks_or_by_none(serves: int) -> None:
    recorder = Recording(PromptStream())
    engine, _, _ = _beside([(1, 0, serves, 1, 0)], recorder)
    engine.submit([5, 9, 11], GREEDY, request_id="a")
    found = run(engine)
    wanted = _engine(None)
    wanted.submit([5, 9, 11], GREEDY, request_id="a")
    assert answer(found, "a") == answer(run(wanted), "a")
    engine.check()
    # All but the first were started ahead, and one is for the other rank alone; where it wants none, all start anew.
    steps = GREEDY.max_tokens - 1
    assert recorder.repeated == (steps + 1 if serves else 2 * steps)


def test_a_rank_without_sequences_repeats_the_step_of_the_others() -> None:
    recorder = Recording(PromptStream())
    engine, even, said = _beside([(2, 1, 1, NEVER, 0)], recorder)
    with torch.inference_mode():
        assert even.takes(())
        logits_BW, (tokens, finite) = even.run(())
    assert (len(logits_BW), tokens, finite) == (0, [], [])
    assert said == [(0, 0, False, 0, 0)]
    assert set(even._steps._recorded) == {(2, Draws.ANY)}
    engine.check()


def test_where_nobody_has_anything_nothing_is_repeated() -> None:
    _, even, _ = _beside([(0, 0, 0, 0, 0)], Recording(PromptStream()))
    assert not even.takes(())
