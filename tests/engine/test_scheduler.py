from random import Random

from coderv2.engine.luck import Luck
from coderv2.engine.pages import Pages
from coderv2.engine.request import Choice, Request, SamplingParams
from coderv2.engine.scheduler import PATIENCE, Scheduler
from tests.tiny_tokenizer import tiny_tokenizer


def request(
    name: str,
    prompt: int,
    *,
    like: str | None = None,
    first: Request | None = None,
    prompt_logprobs: int | None = None,
) -> Request:
    """Prompts start the same where `like` is the same."""
    params = SamplingParams(temperature=0, ignore_eos=True, prompt_logprobs=prompt_logprobs)
    tokens = Random(like or name).choices(range(10, 300), k=prompt)
    return Request(name, 0, params, tokens, 100, tiny_tokenizer(), Luck(0), first=first)


def scheduler(pages: int = 100, *, budget: int = 16, running: int = 8) -> Scheduler:
    return Scheduler(
        Pages(pages, 4), max_batch_tokens=budget, max_running=running, copy_page=lambda source, target: None
    )


def step(line: Scheduler) -> dict[str, int]:
    """Plans, and does what the engine does with it; the chunks' sizes by name."""
    plan = line.plan()
    for chunk in plan:
        line.settle(chunk)
        if chunk.completes:
            chunk.request.accept(Choice(50))
    return {chunk.request.id: len(chunk.token_ids) for chunk in plan}


def test_an_idle_scheduler_plans_nothing() -> None:
    assert scheduler().plan() == []


def test_a_long_prompt_passes_in_pieces_of_the_budget() -> None:
    line = scheduler(budget=16)
    line.add([request("long", 40)])
    assert [step(line) for _ in range(4)] == [{"long": 16}, {"long": 16}, {"long": 8}, {"long": 1}]


def test_answers_advance_beside_the_pieces_of_a_long_prompt() -> None:
    line = scheduler(budget=16)
    line.add([request("short", 3)])
    step(line)
    line.add([request("long", 40)])
    assert step(line) == {"short": 1, "long": 15}
    assert step(line) == {"short": 1, "long": 15}


def test_prompts_share_a_step_in_the_order_of_arrival() -> None:
    line = scheduler(budget=16)
    line.add([request("a", 10), request("b", 10), request("c", 10)])
    assert step(line) == {"a": 10, "b": 6}
    assert step(line) == {"a": 1, "b": 4, "c": 10}


def test_no_more_than_max_running_run() -> None:
    line = scheduler(running=2)
    line.add([request(name, 2) for name in "abc"])
    assert step(line).keys() == {"a", "b"}
    line.remove(line.running[0])
    assert step(line).keys() == {"b", "c"}


def test_a_prompt_waits_until_pages_for_all_of_it_are_free() -> None:
    line = scheduler(pages=4)
    line.add([request("a", 10), request("b", 8)])
    assert step(line).keys() == {"a"}
    line.remove(line.running[0])
    assert step(line).keys() == {"b"}


def test_the_youngest_gives_way_when_pages_run_out_and_starts_over_later() -> None:
    line = scheduler(pages=4)
    old, young = request("old", 8), request("young", 7)
    line.add([old, young])
    step(line)
    assert step(line) == {"old": 1}
    assert list(line.waiting) == [young]
    assert (young.cached, young.pages, young.answer_count) == (0, [], 1)
    line.remove(old)
    # Its first page has not been taken yet and is found again.
    assert step(line) == {"young": 4}
    assert young.answer_count == 2


def test_a_preempted_sequence_keeps_its_place_before_later_ones() -> None:
    line = scheduler(pages=4)
    line.add([request("old", 8), request("young", 7), request("late", 1)])
    step(line)
    step(line)
    assert [r.id for r in line.waiting] == ["young", "late"]


def test_removing_a_waiting_request_leaves_the_others() -> None:
    line = scheduler(running=1)
    a, b, c = (request(name, 2) for name in "abc")
    line.add([a, b, c])
    step(line)
    line.remove(b)
    assert (line.running, list(line.waiting)) == ([a], [c])


def test_a_prompt_that_starts_like_an_earlier_one_computes_only_the_rest() -> None:
    line = scheduler(budget=16)
    line.add([request("a", 14)])
    step(line)
    line.add([request("b", 15, like="a")])
    assert step(line) == {"a": 1, "b": 3}
    assert (line.prompt_tokens, line.cached_tokens) == (29, 12)


def test_a_prompt_known_to_the_last_token_passes_only_that_one_through_for_its_logits() -> None:
    copies: list[tuple[int, int]] = []
    line = Scheduler(
        Pages(100, 4), max_batch_tokens=16, max_running=8, copy_page=lambda *pair: copies.append(pair)
    )
    a, b = request("a", 12), request("b", 12, like="a")
    line.add([a])
    step(line)
    line.add([b])
    assert step(line) == {"a": 1, "b": 1}
    assert copies == [(a.pages[2], b.pages[2])]
    assert b.num_cached == 11


def test_a_prompt_whose_logits_are_wanted_copies_no_page() -> None:
    line = scheduler()
    line.add([request("a", 4)])
    step(line)
    line.add([request("b", 4, like="a", prompt_logprobs=0)])
    assert step(line)["b"] == 4


def test_what_another_is_computing_is_awaited_and_later_ones_pass() -> None:
    line = scheduler(budget=10)
    line.add([request("a", 14), request("b", 14, like="a"), request("c", 3)])
    assert step(line) == {"a": 10}
    assert step(line) == {"a": 4, "c": 3}
    assert step(line) == {"a": 1, "b": 2, "c": 1}


def test_awaiting_ends_when_the_other_does() -> None:
    line = scheduler(budget=10)
    a, b = request("a", 14), request("b", 14, like="a")
    line.add([a, b])
    step(line)
    line.remove(a)
    assert step(line) == {"b": 6}


def test_answers_after_the_first_copy_its_last_page_and_compute_one_token() -> None:
    copies: list[tuple[int, int]] = []
    line = Scheduler(
        Pages(100, 4), max_batch_tokens=16, max_running=8, copy_page=lambda *pair: copies.append(pair)
    )
    first = request("first", 11)
    second = request("second", 11, like="first", first=first)
    line.add([first, second])
    assert step(line) == {"first": 11}
    assert step(line) == {"first": 1, "second": 1}
    assert copies == [(first.pages[2], second.pages[2])]
    assert first.pages[:2] == second.pages[:2]
    assert second.num_cached == 10


def test_a_preempted_sequence_finds_its_own_pages_again() -> None:
    line = scheduler(pages=8)
    old, young = request("old", 8), request("young", 7)
    line.add([old, young])
    step(line)
    line.preempt_all()
    assert (young.cached, young.pages) == (0, [])
    assert step(line) == {"old": 1, "young": 4}


def test_a_lower_priority_is_served_first() -> None:
    line = scheduler(running=1)
    line.add([request("batch", 4)], arrival=0.0, priority=2)
    line.add([request("chat", 4)], arrival=1.0, priority=1)
    line.add([request("keystroke", 4)], arrival=2.0)
    assert step(line).keys() == {"keystroke"}


def test_a_running_sequence_makes_place_for_one_of_lower_priority_number() -> None:
    line = scheduler(running=1)
    batch, keystroke = request("batch", 4), request("keystroke", 4)
    line.add([batch], priority=1)
    step(line)
    line.add([keystroke], arrival=1.0)
    assert step(line) == {"keystroke": 4}
    assert line.waiting == [batch]


def test_a_prompt_of_lower_priority_number_overtakes_one_half_read() -> None:
    line = scheduler(budget=8)
    line.add([request("long", 80)], priority=1)
    step(line)
    line.add([request("keystroke", 6)], arrival=1.0)
    assert step(line) == {"keystroke": 6, "long": 2}


def test_who_has_waited_long_enough_is_served_before_newcomers_of_any_priority() -> None:
    line = scheduler(running=1)
    line.add([request("patient", 4)], arrival=0.0, priority=3)
    line.add([request("newcomer", 4)], arrival=3 * PATIENCE + 1)
    assert step(line).keys() == {"patient"}


def test_an_endless_stream_of_urgent_ones_starves_nobody() -> None:
    line = scheduler(pages=8, running=2)
    patient = request("patient", 8)
    line.add([patient], arrival=0.0, priority=2)
    for second in range(int(4 * PATIENCE)):
        line.add([request(f"urgent {second}", 8)], arrival=float(second))
        step(line)
        if patient.answer_count > 2:
            return
        for done in [r for r in line.running if r.answer_count > 2]:
            line.remove(done)
    raise AssertionError("never served")
