"""Suffixes that are taken over from an earlier prompt."""

from array import array
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.request import SamplingParams
from coderv2.engine.shifted import NEEDLE, common_run
from coderv2.errors import InvalidValue
from coderv2.model.transformer import Transformer
from tests.engine.fakes import answer, run
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer

PREFIX, SUFFIX = list(range(20, 90)), [(7 * i) % 400 + 20 for i in range(200)]


def infill(prefix: list[int], suffix: list[int]) -> list[int]:
    tokenizer = tiny_tokenizer()
    assert tokenizer.fim is not None
    return [tokenizer.bos_id, tokenizer.fim.begin, *prefix, tokenizer.fim.hole, *suffix, tokenizer.fim.end]


def engine(model: Transformer | None = None, **settings: Any) -> Engine:
    chosen = {"cache_tokens": 2048, "page_size": 8, "max_model_len": 512, "fim_seam": 16} | settings
    return Engine(model or tiny_model(tiny_config()), tiny_tokenizer(), EngineSettings(**chosen))


def params(reuse: str = "shifted", **more: Any) -> SamplingParams:
    return SamplingParams(temperature=0, ignore_eos=True, fim_reuse=reuse, **{"max_tokens": 4} | more)


def ask(served: Engine, prompt: list[int], chosen: SamplingParams, **more: Any) -> tuple[list[int], int]:
    """The answer, and the prompt's tokens that were not computed."""
    request_id = served.submit(prompt, chosen, **more)
    deltas = run(served)
    served.check()
    return answer(deltas, request_id), deltas[-1].num_cached_tokens


@pytest.mark.parametrize(
    "edited", [[*PREFIX, 95], PREFIX[:-3], [*PREFIX[:30], 99, *PREFIX[30:]], [*PREFIX[:-1], 99]]
)
def test_after_an_edit_of_the_prefix_most_of_the_suffix_is_taken_over(edited: list[int]) -> None:
    served = engine()
    ask(served, infill(PREFIX, SUFFIX), params("exact"))
    _, cached = ask(served, infill(edited, SUFFIX), params())
    same = next((i for i, (a, b) in enumerate(zip(edited, PREFIX, strict=False)) if a != b), len(edited))
    assert cached >= same // 8 * 8 - 8 + len(SUFFIX) - 16 - 8
    assert cached < len(infill(edited, SUFFIX)) - 16


def test_an_exact_request_takes_nothing_over_and_finds_nothing_that_stands_on_it() -> None:
    model = tiny_model(tiny_config())
    served, prompt = engine(model), infill([*PREFIX, 95], SUFFIX)
    ask(served, infill(PREFIX, SUFFIX), params("exact"))
    ask(served, prompt, params())
    seam_end = 2 + len(PREFIX) + 2 + 16
    given, cached = ask(served, prompt, params("exact"))
    assert cached == seam_end // 8 * 8
    assert given == ask(engine(model), prompt, params("exact"))[0]


def test_where_the_prefix_does_not_matter_the_answer_is_the_exact_one() -> None:
    """With one layer a latent depends on its own token only, so moving it is exact."""
    model = tiny_model(tiny_config("lite", num_hidden_layers=1))
    served = engine(model)
    ask(served, infill(PREFIX, SUFFIX), params("exact"))
    for edited in ([*PREFIX, 95, 96], PREFIX[:-9], [99, *PREFIX]):
        chosen = params(logprobs=3, max_tokens=1)
        request_id = served.submit(infill(edited, SUFFIX), chosen)
        moved = next(d for d in run(served) if d.request_id == request_id)
        assert moved.num_cached_tokens > 150
        alone = engine(model)
        alone.submit(infill(edited, SUFFIX), chosen)
        (exact,) = run(alone)
        assert moved.logprobs is not None
        assert exact.logprobs is not None
        assert moved.logprobs[0].token_id == exact.logprobs[0].token_id
        assert moved.logprobs[0].logprob == pytest.approx(exact.logprobs[0].logprob, abs=1e-4)


def test_a_seam_as_wide_as_the_suffix_changes_nothing() -> None:
    model = tiny_model(tiny_config())
    served, prompt = engine(model, fim_seam=400), infill([*PREFIX, 95], SUFFIX)
    ask(served, infill(PREFIX, SUFFIX), params("exact"))
    assert ask(served, prompt, params())[0] == ask(engine(model), prompt, params("exact"))[0]


@pytest.mark.parametrize("chunk", [8, 20, 512])
def test_chunks_stop_at_the_seam_whatever_their_size(chunk: int) -> None:
    model, prompt = tiny_model(tiny_config()), infill([*PREFIX, 95], SUFFIX)
    answers = []
    for size in (chunk, 512):
        served = engine(model, max_batch_tokens=size, max_running=4)
        ask(served, infill(PREFIX, SUFFIX), params("exact"))
        answers.append(ask(served, prompt, params(n=1)))
    assert answers[0] == answers[1]


def test_several_answers_and_a_moved_cursor() -> None:
    served = engine()
    ask(served, infill(PREFIX, SUFFIX), params("exact"))
    down = infill([*PREFIX, *SUFFIX[:12]], SUFFIX[12:])
    up = infill(PREFIX[:-12], [*PREFIX[-12:], *SUFFIX])
    for prompt in (down, up):
        request_id = served.submit(prompt, params(n=3))
        deltas = run(served)
        served.check()
        assert {len(answer(deltas, request_id, index)) for index in range(3)} == {4}
        assert answer(deltas, request_id, 0) == answer(deltas, request_id, 2)
        assert max(d.num_cached_tokens for d in deltas) > 150


def test_another_tenants_suffix_is_never_taken() -> None:
    served = engine()
    ask(served, infill(PREFIX, SUFFIX), params("exact"), tenant="a")
    assert ask(served, infill([*PREFIX, 95], SUFFIX), params(), tenant="b")[1] == 0
    assert ask(served, infill([*PREFIX, 95], SUFFIX), params(), tenant="a")[1] > 150


def test_a_preempted_request_ends_as_well() -> None:
    served = engine(cache_tokens=640, max_running=4, max_batch_tokens=64)
    ask(served, infill(PREFIX, SUFFIX), params("exact"))
    ids = [served.submit(infill([*PREFIX, 90 + i], SUFFIX), params(max_tokens=40)) for i in range(3)]
    deltas = run(served)
    served.check()
    assert {len(answer(deltas, request_id)) for request_id in ids} == {40}


def test_evicted_donors_and_changed_weights_lead_to_exact_answers() -> None:
    model = tiny_model(tiny_config())
    served, prompt = engine(model, cache_tokens=512), infill([*PREFIX, 95], SUFFIX)
    exact = ask(engine(model), prompt, params("exact"))[0]
    ask(served, infill(PREFIX, SUFFIX), params("exact"))
    ask(served, [(11 * i) % 500 + 30 for i in range(500)], params("exact"))
    assert ask(served, prompt, params())[0] == exact


def test_prompts_without_a_hole_are_untouched() -> None:
    served = engine()
    assert ask(served, PREFIX, params())[1] == 0
    assert ask(served, PREFIX, params())[1] == 64


def test_it_is_refused_where_it_could_not_be_kept() -> None:
    with pytest.raises(InvalidValue, match="fim_reuse must be exact or shifted, not 'fast'"):
        params("fast")
    with pytest.raises(InvalidValue, match="deterministic"):
        engine(deterministic=True).submit(infill(PREFIX, SUFFIX), params())
    with pytest.raises(InvalidValue, match="prefix_caching is off"):
        engine(prefix_caching=False).submit(infill(PREFIX, SUFFIX), params())
    with pytest.raises(InvalidValue, match="fim_seam"):
        engine(fim_seam=0)


def test_copied_keys_are_turned_and_latents_are_not() -> None:
    served = engine()
    ask(served, infill(PREFIX, SUFFIX), params("exact"))
    served.submit(infill([*PREFIX, 95], SUFFIX), params(max_tokens=20))
    served.step()
    (request,) = served._scheduler.running
    assert request.shifted is not None
    cache = served._runner.cache
    donor = served._scheduler._take_over.__self__._donors[request.salt][0]  # type: ignore[attr-defined]
    old_slots = cache.slots(torch.tensor(served._pages.find(donor.digests)))
    new_slots = cache.slots(torch.tensor(request.pages))
    places = torch.tensor(request.shifted)
    latents, keys = cache.latent_LPSC.flatten(1, 2), cache.k_rope_LPSR.flatten(1, 2)
    assert torch.equal(latents[:, new_slots[places]], latents[:, old_slots[places - 1]])
    assert not torch.equal(keys[:, new_slots[places]], keys[:, old_slots[places - 1]])


tokens = st.lists(st.integers(0, 3), max_size=60)


@given(
    tokens, tokens, tokens, tokens, st.lists(st.integers(0, 3), min_size=40, max_size=60), st.integers(1, 20)
)
def test_a_run_is_equal_in_both_and_cannot_be_made_longer(
    a: list[int], b: list[int], c: list[int], d: list[int], middle: list[int], start: int
) -> None:
    new, old = array("i", [*a, *middle, *b]), array("i", [*c, *middle, *d])
    found = common_run(new, old, start=start)
    if found is None:
        return
    assert found.length >= NEEDLE
    assert new[found.new : found.new + found.length] == old[found.old : found.old + found.length]
    ends = found.new + found.length, found.old + found.length
    assert ends[0] == len(new) or ends[1] == len(old) or new[ends[0]] != old[ends[1]]
    assert 0 in (found.new, found.old) or new[found.new - 1] != old[found.old - 1]


def test_a_suffix_whose_start_or_end_was_cut_is_found_in_the_whole_one() -> None:
    whole = array("i", range(500))
    run = common_run(whole[100:400], whole, start=64)
    assert run is not None
    assert (run.new, run.old, run.length) == (0, 100, 300)
    assert common_run(array("i", range(1000, 1500)), whole, start=64) is None


def test_a_needle_that_occurs_twice_is_taken_where_more_is_equal() -> None:
    needle = list(range(NEEDLE))
    new = array("i", [*needle, *range(100, 200)])
    old = array("i", [*needle, 50, *needle, *range(100, 200)])
    run = common_run(new, old, start=0)
    assert run is not None
    assert (run.new, run.old, run.length) == (0, NEEDLE + 1, NEEDLE + 100)
