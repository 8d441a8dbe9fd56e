from random import Random

from coderv2.engine.pages import Pages
from coderv2.engine.request import Choice, Request, SamplingParams
from coderv2.engine.scheduler import Chunk, Scheduler
from tests.tiny_tokenizer import tiny_tokenizer


def request(name: str, prompt: int) -> Request:
    params = SamplingParams(temperature=0, ignore_eos=True)
    return Request(name, 0, params, list(range(10, 10 + prompt)), 100, tiny_tokenizer(), Random(0))


def scheduler(pages: int = 100, *, budget: int = 16, running: int = 8) -> Scheduler:
    return Scheduler(Pages(pages, 4), max_batch_tokens=budget, max_running=running)


def step(plan: list[Chunk]) -> dict[str, int]:
    """Does what the engine does with a plan; the chunks' sizes by name."""
    for chunk in plan:
        chunk.request.cached = chunk.end
        if chunk.completes:
            chunk.request.accept(Choice(50))
    return {chunk.request.id: len(chunk.token_ids) for chunk in plan}


def test_an_idle_scheduler_plans_nothing() -> None:
    assert scheduler().plan() == []


def test_a_long_prompt_passes_in_pieces_of_the_budget() -> None:
    line = scheduler(budget=16)
    line.add([request("long", 40)])
    assert [step(line.plan()) for _ in range(4)] == [{"long": 16}, {"long": 16}, {"long": 8}, {"long": 1}]


def test_answers_advance_beside_the_pieces_of_a_long_prompt() -> None:
    line = scheduler(budget=16)
    line.add([request("short", 3)])
    step(line.plan())
    line.add([request("long", 40)])
    assert step(line.plan()) == {"short": 1, "long": 15}
    assert step(line.plan()) == {"short": 1, "long": 15}


def test_prompts_share_a_step_in_the_order_of_arrival() -> None:
    line = scheduler(budget=16)
    line.add([request("a", 10), request("b", 10), request("c", 10)])
    assert step(line.plan()) == {"a": 10, "b": 6}
    assert step(line.plan()) == {"a": 1, "b": 4, "c": 10}


def test_no_more_than_max_running_run() -> None:
    line = scheduler(running=2)
    line.add([request(name, 2) for name in "abc"])
    assert step(line.plan()).keys() == {"a", "b"}
    line.remove(line.running[0])
    assert step(line.plan()).keys() == {"b", "c"}


def test_a_prompt_waits_until_pages_for_all_of_it_are_free() -> None:
    line = scheduler(pages=4)
    line.add([request("a", 10), request("b", 8)])
    assert step(line.plan()).keys() == {"a"}
    line.remove(line.running[0])
    assert step(line.plan()).keys() == {"b"}


def test_the_youngest_gives_way_when_pages_run_out_and_starts_over_later() -> None:
    line = scheduler(pages=4)
    old, young = request("old", 8), request("young", 7)
    line.add([old, young])
    step(line.plan())
    assert step(line.plan()) == {"old": 1}
    assert list(line.waiting) == [young]
    assert (young.cached, young.pages, young.answer_count) == (0, [], 1)
    line.remove(old)
    assert step(line.plan()) == {"young": 8}
    assert young.answer_count == 2


def test_a_preempted_sequence_keeps_its_place_before_later_ones() -> None:
    line = scheduler(pages=4)
    line.add([request("old", 8), request("young", 7), request("late", 1)])
    step(line.plan())
    step(line.plan())
    assert [r.id for r in line.waiting] == ["young", "late"]


def test_removing_a_waiting_request_leaves_the_others() -> None:
    line = scheduler(running=1)
    a, b, c = (request(name, 2) for name in "abc")
    line.add([a, b, c])
    step(line.plan())
    line.remove(b)
    assert (line.running, list(line.waiting)) == ([a], [c])
