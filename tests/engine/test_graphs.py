"""Decode steps that are recorded and repeated: padding, buffers and tokens chosen on the device change no answer."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.graphs import Outputs, Recorder, padded_sizes, recorder_for
from coderv2.engine.request import SamplingParams
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True, draft_tokens=0)
DRAWN = replace(GREEDY, temperature=0.9, seed=3)
ASKED = [
    replace(GREEDY, max_tokens=14),
    replace(DRAWN, max_tokens=14),
    replace(DRAWN, top_p=0.8, max_tokens=14),
    replace(DRAWN, top_k=5, temperature=1.3),
    replace(DRAWN, min_p=0.2, temperature=1),
    replace(DRAWN, top_p=0.999, temperature=8),
    # What the step cannot do itself.
    replace(GREEDY, logprobs=2),
    replace(DRAWN, repetition_penalty=1.4),
    replace(GREEDY, max_tokens=3),
    replace(GREEDY, logit_bias={7: 50.0}),
]


class Recording:
    """Runs a recorded step as it is: what a GPU's graph would do, without a GPU."""

    def __init__(self) -> None:
        self.recorded = 0
        self.repeated = 0

    def __call__(self, step: Callable[[], Outputs]) -> Callable[[], Outputs]:
        self.recorded += 1

        def repeat() -> Outputs:
            self.repeated += 1
            return step()

        return repeat


def _engine(recorder: Recorder | None, **settings: object) -> Engine:
    config = tiny_config("lite", num_hidden_layers=2, max_position_embeddings=128)
    given = EngineSettings(cache_tokens=1024, max_running=12, prefix_caching=False, **settings)  # type: ignore[arg-type]
    return Engine(tiny_model(config), tiny_tokenizer(), given, recorder=recorder)


def _answers(engine: Engine) -> list[tuple[list[int], str]]:
    for number, params in enumerate(ASKED):
        engine.submit([5 + number, 9, 11, 40 + number], params, request_id=str(number))
    found: dict[str, list[int]] = {str(n): [] for n in range(len(ASKED))}
    texts = dict.fromkeys(found, "")
    while engine.has_work():
        for delta in engine.step():
            assert delta.error is None
            found[delta.request_id] += delta.token_ids
            texts[delta.request_id] += repr(delta.logprobs)
        engine.check()
    return [(found[name], texts[name]) for name in found]


def test_answers_are_the_same_with_and_without() -> None:
    recorder = Recording()
    # Ten sequences in a step of twelve; later three in a step of four.
    plain, recorded = _answers(_engine(None)), _answers(_engine(recorder))
    assert [tokens for tokens, _ in recorded] == [tokens for tokens, _ in plain]
    assert recorder.recorded >= 2
    assert recorder.repeated > recorder.recorded


def test_the_settings_can_leave_graphs_out() -> None:
    recorder = Recording()
    assert _answers(_engine(recorder, graphs=False)) == _answers(_engine(None))
    assert recorder.recorded == 0


def test_only_a_gpu_records() -> None:
    assert recorder_for(torch.device("cpu")) is None
    assert recorder_for(torch.device("cuda")) is not None


def test_logits_that_are_not_finite_end_their_request_only() -> None:
    engine = _engine(Recording())
    engine.submit([5, 6], GREEDY, request_id="good")
    engine.submit([5, 7], GREEDY, request_id="bad")
    engine.step()
    bad = next(r for group in engine._requests.values() for r in group if r.id == "bad")
    engine._cache.latent_LPSC[:, bad.pages[0]] = float("nan")
    ends = {}
    while engine.has_work():
        ends |= {d.request_id: d.finish_reason for d in engine.step() if d.finish_reason}
    assert ends == {"good": "length", "bad": "error"}


@given(st.integers(1, 700))
def test_padded_sizes_reach_every_number_without_much_waste(most: int) -> None:
    sizes = padded_sizes(most)
    assert sizes[-1] == most
    assert sizes == sorted(set(sizes))
    for before, size in pairwise(sizes):
        assert size <= 2 * before or size - before <= 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_gives_the_same_answers() -> None:
    def answers(graphs: bool) -> list[tuple[list[int], str]]:
        engine = _engine(None, graphs=graphs)
        config = engine.config
        on_gpu = Engine(tiny_model(config).cuda(), tiny_tokenizer(), engine.settings)
        return _answers(on_gpu)

    assert answers(True) == answers(False)
