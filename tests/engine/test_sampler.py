import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coderv2.engine.luck import Luck
from coderv2.engine.request import Request, SamplingParams
from coderv2.engine.sampler import sample
from tests.tiny_tokenizer import tiny_tokenizer

W = 400


def request(
    prompt: tuple[int, ...] = (1,), answer: tuple[int, ...] = (), *, seed: int = 0, **params: Any
) -> Request:
    made = Request("r", 0, SamplingParams(**params), list(prompt), 100, tiny_tokenizer(), Luck(seed))
    made.tokens += answer
    return made


def row(**values: float) -> Tensor:
    """Logits of 0, save for tokens given as t3=2.5."""
    logits_W = torch.zeros(W)
    for name, value in values.items():
        logits_W[int(name[1:])] = value
    return logits_W


def likely(*probs: float) -> Tensor:
    """Logits of a distribution over the first tokens; the others have next to nothing."""
    return torch.tensor([math.log(p) for p in probs] + [-50.0] * (W - len(probs)))


def chosen(logits_W: Tensor, **params: Any) -> int:
    return sample(logits_W[None], [request(**params)])[0].token_id


def drawn(logits_W: Tensor, times: int = 300, **params: Any) -> Counter[int]:
    """How often each token comes in one answer, the logits being always the same."""
    asked = request(**params)
    for _ in range(times):
        asked.tokens.append(sample(logits_W[None], [asked])[0].token_id)
    return Counter(asked.tokens[asked.prompt_count :])


def test_temperature_0_takes_the_likeliest_of_each_row() -> None:
    logits_BW = torch.stack([row(t3=1), row(t7=1)])
    choices = sample(logits_BW, [request(temperature=0), request(temperature=0)])
    assert [c.token_id for c in choices] == [3, 7]


def test_drawing_follows_the_probabilities() -> None:
    counts = drawn(likely(0.5, 0.3, 0.2), times=4000)
    for token, probability in enumerate((0.5, 0.3, 0.2)):
        # Four standard deviations: one seed in sixteen thousand would fail, and the seed is fixed.
        spread = 4 * math.sqrt(probability * (1 - probability) / 4000)
        assert counts[token] / 4000 == pytest.approx(probability, abs=spread)


def test_temperature_sharpens_and_flattens() -> None:
    cold, hot = (drawn(likely(0.6, 0.4), temperature=t)[0] for t in (0.25, 4.0))
    assert cold > 230
    assert hot < 185


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-300])
def test_a_tiny_temperature_is_greedy_rather_than_an_overflow(temperature: float) -> None:
    logits = likely(0.3, 0.5, 0.2) + 1000
    assert drawn(logits, times=20, temperature=temperature).keys() == {1}


def test_top_k_keeps_the_k_likeliest() -> None:
    assert drawn(likely(0.1, 0.4, 0.2, 0.3), top_k=2).keys() == {1, 3}
    assert drawn(likely(0.1, 0.4, 0.2, 0.3), top_k=1, temperature=3.0).keys() == {1}


def test_top_k_of_more_than_the_vocabulary_keeps_all() -> None:
    assert drawn(likely(0.5, 0.5), top_k=10 * W).keys() == {0, 1}


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = likely(0.2, 0.4, 0.1, 0.3)
    assert drawn(logits, top_p=0.39).keys() == {1}
    assert drawn(logits, top_p=0.5).keys() == {1, 3}
    assert drawn(logits, top_p=0.89).keys() == {0, 1, 3}


def test_top_p_counts_within_what_top_k_kept() -> None:
    # Of 0.4 + 0.3, renormalised, the first alone holds 57 %.
    assert drawn(likely(0.2, 0.4, 0.1, 0.3), top_k=2, top_p=0.55).keys() == {1}
    assert drawn(likely(0.2, 0.4, 0.1, 0.3), top_k=2, top_p=0.6).keys() == {1, 3}


def test_top_p_among_equals_keeps_its_share_of_them() -> None:
    counts = drawn(torch.zeros(W), times=2000, top_p=0.499)
    assert counts.keys() <= set(range(W // 2))
    assert len(counts) > 0.95 * W / 2


def test_min_p_keeps_what_is_not_much_less_likely_than_the_best() -> None:
    assert drawn(likely(0.2, 0.4, 0.1, 0.3), min_p=0.6).keys() == {1, 3}


@given(
    weights=st.lists(st.floats(0.001, 1), min_size=2, max_size=30),
    top_p=st.floats(0.01, 0.99),
    min_p=st.floats(0, 0.9),
    luck=st.integers(0, 10**6),
)
def test_a_drawn_token_is_in_the_nucleus(weights: list[float], top_p: float, min_p: float, luck: int) -> None:
    probs = torch.tensor(weights, dtype=torch.float64)
    logits = torch.cat([probs.log(), torch.full((W - len(weights),), -40.0)]).float()
    kept = _plain_nucleus(logits.softmax(-1), top_p, min_p)
    assert chosen(logits, seed=luck, top_p=top_p, min_p=min_p) in kept


def _plain_nucleus(probs_W: Tensor, top_p: float, min_p: float) -> set[int]:
    """The definition, by sorting everything; one rounding error of slack at the border."""
    probs_W = probs_W.double() * (probs_W >= min_p * probs_W.max())
    sorted_W, order_W = (probs_W / probs_W.sum()).sort(descending=True)
    before_W = sorted_W.cumsum(-1) - sorted_W
    tied = sorted_W[int((before_W < top_p + 1e-6).sum()) - 1]
    return set(order_W[sorted_W >= tied - 1e-9].tolist())


def test_a_seed_fixes_the_draws_whatever_the_neighbours_are() -> None:
    flat = torch.zeros(W)
    alone = [chosen(flat, seed=s) for s in range(5)]
    crowd = sample(flat.expand(5, W), [request(seed=s) for s in range(5)])
    assert [c.token_id for c in crowd] == alone
    assert len(set(alone)) > 1


@given(data=st.data())
def test_rows_that_are_drawn_together_give_what_each_gives_alone(data: st.DataObject) -> None:
    logits_BW = torch.randn(6, W, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))) * 3
    kinds: list[dict[str, Any]] = [
        {}, {"temperature": 0}, {"temperature": 3.0, "logprobs": 4}, {"top_p": 0.9}, {"top_k": 3},
        {"top_k": 200, "top_p": 0.99, "temperature": 4.0}, {"min_p": 0.1}, {"min_p": 0.01, "top_p": 0.5},
        {"presence_penalty": 1.0, "answer": (3, 4)}, {"logprobs": 0, "temperature": 0},
        {"top_p": 0.97, "temperature": 9.0},
    ]  # fmt: skip
    chosen_kinds = [data.draw(st.sampled_from(kinds)) | {"seed": seed} for seed in range(6)]
    together = sample(logits_BW, [request(**kind) for kind in chosen_kinds])
    for row, kind in enumerate(chosen_kinds):
        assert sample(logits_BW[row : row + 1], [request(**kind)]) == [together[row]]


def test_a_large_top_k_keeps_just_so_many() -> None:
    logits = torch.linspace(0, 0.01, W)
    counts = drawn(logits, times=3000, top_k=74)
    assert counts.keys() == set(range(W - 74, W))


def test_a_wide_nucleus_is_kept_whole() -> None:
    logits = torch.linspace(0, 0.01, W)
    counts = drawn(logits, times=4000, top_p=0.75, temperature=1.0)
    assert min(counts) in range(W - int(0.75 * W) - 3, W - int(0.74 * W))
    assert len(counts) > 0.7 * W


def test_logit_bias_is_added() -> None:
    assert chosen(row(t3=1), temperature=0, logit_bias={5: 2, 3: -0.5}) == 5
    assert drawn(torch.zeros(W), times=30, logit_bias={9: 100}).keys() == {9}


def test_presence_and_frequency_penalties_count_the_answer_only() -> None:
    logits = row(t3=1.0, t4=0.9)
    assert chosen(logits, temperature=0, prompt=(3, 3, 3), presence_penalty=0.5) == 3
    assert chosen(logits, temperature=0, answer=(3,), presence_penalty=0.5) == 4
    assert chosen(logits, temperature=0, answer=(3, 4), presence_penalty=0.5) == 3
    assert chosen(logits, temperature=0, answer=(3, 3, 4), frequency_penalty=0.2) == 4
    assert chosen(logits, temperature=0, answer=(4,), presence_penalty=-0.5) == 4


def test_repetition_penalty_counts_prompt_and_answer() -> None:
    logits = row(t3=1.0, t4=0.9)
    assert chosen(logits, temperature=0, prompt=(3,), repetition_penalty=1.2) == 4
    assert chosen(logits, temperature=0, answer=(3,), repetition_penalty=1.2) == 4
    assert chosen(row(t3=1.0, t4=0.9), temperature=0, prompt=(4,), repetition_penalty=0.5) == 4
    # Negative logits are multiplied, so that a penalty never helps.
    assert (
        chosen(
            torch.full((W,), -1.0) + row(t3=0.5, t4=0.4), temperature=0, prompt=(3,), repetition_penalty=1.5
        )
        == 4
    )


def test_min_tokens_bars_the_end() -> None:
    eos = tiny_tokenizer().eos_id
    logits = row(**{f"t{eos}": 5, "t3": 1, "t4": 2})
    assert chosen(logits, temperature=0) == eos
    assert chosen(logits, temperature=0, min_tokens=1) == 4
    assert chosen(logits, temperature=0, min_tokens=1, stop_token_ids=[4]) == 3
    assert chosen(logits, temperature=0, min_tokens=1, answer=(7,)) == eos


@pytest.mark.parametrize("penalty", [1e-40, 1e40])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_extreme_repetition_penalty_stays_finite(penalty: float, temperature: float) -> None:
    logits = row(t3=4.0, t4=3.0) - 1
    favoured = {"repetition_penalty": penalty, "temperature": temperature, "top_k": 1, "prompt": (3, 5)}
    assert chosen(logits, **favoured) == (3 if penalty < 1 else 4)


def test_where_every_token_is_barred_the_first_is_taken_and_nothing_breaks() -> None:
    everything = {"min_tokens": 2, "stop_token_ids": list(range(W))}
    for temperature in (0.0, 1.0):
        assert chosen(torch.zeros(W), temperature=temperature, **everything) == 0


def test_logprobs_are_the_models_own_whatever_was_adjusted() -> None:
    logits = likely(0.5, 0.3, 0.2)
    asked = request(temperature=0, logprobs=2, logit_bias={2: 50})
    (choice,) = sample(logits[None], [asked])
    assert choice.logprob is not None
    assert choice.token_id == choice.logprob.token_id == 2
    assert choice.logprob.logprob == pytest.approx(math.log(0.2), abs=1e-5)
    assert choice.logprob.rank == 3
    assert [token for token, _ in choice.logprob.top] == [0, 1]
    assert [math.exp(value) for _, value in choice.logprob.top] == pytest.approx([0.5, 0.3], abs=1e-5)


def test_logprobs_0_gives_the_chosen_token_alone() -> None:
    (choice,) = sample(likely(0.5, 0.5)[None], [request(logprobs=0)])
    assert choice.logprob is not None
    assert choice.logprob.top == ()


def test_the_given_logits_are_left_as_they_were() -> None:
    logits_BW = row(t3=1)[None]
    before = logits_BW.clone()
    sample(logits_BW, [request(answer=(3,), presence_penalty=1, logit_bias={1: 1}, min_tokens=5)])
    assert torch.equal(logits_BW, before)
