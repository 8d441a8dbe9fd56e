"""Decode steps that are recorded and repeated: padding, buffers and tokens chosen on the device change no answer."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.graphs import padded_sizes
from coderv2.engine.recording import Recorder, recorder_for
from coderv2.engine.request import SamplingParams
from coderv2.engine.sampler import Said
from coderv2.engine.scheduler import Chunk
from coderv2.engine.steps import Step
from coderv2.kernels import drawing
from coderv2.model import usage
from coderv2.model.published import published_tensors
from tests.engine.fakes import LateStream, Recording, answer, run
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


def _engine(recorder: Recorder | None, **settings: object) -> Engine:
    config = tiny_config("lite", num_hidden_layers=2, max_position_embeddings=128)
    chosen: dict[str, Any] = {"cache_tokens": 1024, "max_running": 12, "prefix_caching": False} | settings
    limits = EngineSettings(**chosen)
    return Engine(tiny_model(config), tiny_tokenizer(), limits, recorder=recorder)


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


@pytest.mark.parametrize(
    "company",
    [[GREEDY] * 4, [DRAWN, GREEDY] * 2, [GREEDY, DRAWN, replace(DRAWN, top_k=9), replace(DRAWN, top_p=0.8)]],
    ids=["likeliest", "some drawn", "some from the heaviest"],
)
def test_the_next_step_is_started_before_the_host_looks_at_this_one(company: list[SamplingParams]) -> None:
    """In a run of 30 steps the host waits once for each, and the device has then one more to do but at the ends."""
    recorder = Recording()
    engine = _engine(recorder)
    ids = [engine.submit([5 + n, 9, 11], replace(params, max_tokens=32)) for n, params in enumerate(company)]
    run(engine)
    assert len(ids) == 4
    stream = recorder.stream
    assert isinstance(stream, LateStream)
    assert stream.given == 31, "no step was started for nothing"
    assert stream.waits == 31
    # The first records its graph, the last is known to be the last.
    assert stream.behind == [0, *[1] * 29, 0]


def test_a_step_started_for_an_answer_that_ends_or_is_aborted_changes_nothing() -> None:
    found = []
    for recorder in (None, Recording()):
        engine = _engine(recorder, max_model_len=100)
        plain = [engine.submit([5 + n, 9, 11], replace(GREEDY, max_tokens=40 - 3 * n)) for n in range(6)]
        deltas = [delta for _ in range(12) for delta in engine.step()]
        engine.abort(plain[1])
        stopping = engine.submit([40, 41], replace(GREEDY, stop_token_ids=(answer(deltas, plain[0])[3],)))
        deltas += run(engine)
        engine.check()
        found.append([answer(deltas, one) for one in (*plain, stopping)])
    assert found[0] == found[1]


def test_new_weights_do_not_meet_a_step_started_under_the_old() -> None:
    found = []
    for recorder in (None, Recording()):
        engine = _engine(recorder)
        one = engine.submit([5, 9, 11], replace(GREEDY, max_tokens=30))
        deltas = [delta for _ in range(9) for delta in engine.step()]
        engine.update_weights(dict(published_tensors(tiny_model(engine.config, seed=1))))
        deltas += run(engine)
        found.append(answer(deltas, one))
    assert found[0] == found[1]


def test_with_too_few_pages_sequences_are_put_back_and_none_is_lost() -> None:
    found = []
    for recorder in (None, Recording()):
        engine = _engine(recorder, cache_tokens=160, page_size=4, max_model_len=100)
        ids = [engine.submit([5 + n, 9, 11], replace(GREEDY, max_tokens=60)) for n in range(4)]
        deltas = run(engine)
        found.append([answer(deltas, one) for one in ids])
    assert found[0] == found[1]


@given(st.data())
@settings(max_examples=15)
def test_any_company_gives_the_same_answers(data: st.DataObject) -> None:
    asked = data.draw(
        st.lists(st.tuples(st.integers(1, 20), st.integers(0, 6), st.booleans()), min_size=1, max_size=6)
    )
    found = []
    for recorder in (None, Recording()):
        engine = _engine(recorder)
        deltas, ids = [], []
        for tokens, pause, drawn in asked:
            params = replace(DRAWN if drawn else GREEDY, max_tokens=tokens)
            ids.append(engine.submit([5 + tokens, 9, 11], params))
            deltas += [delta for _ in range(pause) for delta in engine.step()]
        deltas += run(engine)
        found.append([answer(deltas, one) for one in ids])
    assert found[0] == found[1]


def test_what_is_copied_has_no_gaps_so_that_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of fewer sequences than max_running did: what has gaps goes through memory that is not page-locked."""
    copies: list[tuple[torch.Size, bool]] = []
    copy = Tensor.copy_

    def watched(mine: Tensor, theirs: Tensor, non_blocking: bool = False) -> Tensor:
        if non_blocking:
            copies.append((mine.shape, mine.is_contiguous() and theirs.is_contiguous()))
        return copy(mine, theirs, non_blocking)

    monkeypatch.setattr(Tensor, "copy_", watched)
    engine = _engine(Recording(), max_running=12, page_size=4)
    for number, params in enumerate([GREEDY, DRAWN, replace(DRAWN, top_k=3)]):
        engine.submit([5 + number, 9, 11], params)
    run(engine)
    assert {rows for (rows, _), _ in copies} >= {5, 1, 2, 3}
    assert {B for (_, B), _ in copies} == {4}
    assert all(whole for _, whole in copies)


def test_no_logits_are_picked_while_a_step_is_ahead() -> None:
    """Where an answer had ended the host sent the numbers of rows, and waited for the step that it had just started."""
    engine = _engine(Recording())
    graphs = engine._runner._graphs
    assert graphs is not None
    found: list[tuple[bool, bool]] = []
    run_one = graphs.run

    def watched(chunks: Sequence[Chunk]) -> tuple[Tensor, Said]:
        logits_RW, said = run_one(chunks)
        picked = logits_RW.data_ptr() != graphs._steps._logits_BW.data_ptr()
        found.append((graphs._ahead is not None, picked))
        return logits_RW, said

    graphs.run = watched  # type: ignore[method-assign]
    deltas = []
    first = engine.submit([5, 9, 11], GREEDY)
    ids = [engine.submit([6 + n, 9, 11], replace(GREEDY, max_tokens=20)) for n in range(3)]
    for _ in range(5):
        deltas += engine.step()
    engine.abort(first)
    deltas += run(engine)
    assert (True, False) in found
    assert (True, True) not in found
    wanted = _engine(None)
    plain = [wanted.submit([6 + n, 9, 11], replace(GREEDY, max_tokens=20)) for n in range(3)]
    told = run(wanted)
    assert [answer(deltas, one) for one in ids] == [answer(told, one) for one in plain]


def test_recorded_steps_share_the_memory_of_their_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kept its own: 31 sizes up to 512 sequences were 2.3 GB, three times over."""
    outputs: list[Tensor] = []
    step = Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda self: (outputs.append(step(self)), outputs[-1])[1])
    engine = _engine(Recording())
    _answers(engine)
    assert {logits_BW.shape[0] for logits_BW in outputs} == {4, 12}
    assert len({logits_BW.data_ptr() for logits_BW in outputs}) == 1


def test_the_settings_can_leave_graphs_out() -> None:
    recorder = Recording()
    assert _answers(_engine(recorder, graphs=False)) == _answers(_engine(None))
    assert recorder.recorded == 0


def test_steps_that_are_not_recorded_are_said_to_be_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "coderv2"):
        _engine(Recording(), deterministic=True)
        _engine(Recording(), graphs=False)
        _engine(Recording())
    said = [record.getMessage() for record in caplog.records]
    assert said == ["decode steps are not recorded as graphs: deterministic"]


def test_of_experts_only_choices_of_answers_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Rows that fill a step up, and steps that are dropped, counted too: 1,626 choices where 1,050 were made."""
    recorder = Recording()
    model = tiny_model(tiny_config("lite", num_hidden_layers=2, max_position_embeddings=128))
    usage.watch(model)
    with caplog.at_level(logging.INFO, "coderv2"):
        engine = Engine(
            model, tiny_tokenizer(), EngineSettings(cache_tokens=1024, max_running=12), recorder=recorder
        )
    assert "decode steps are not recorded as graphs: experts are counted" in caplog.text
    for number in range(5):
        engine.submit([5 + number, 9, 11], replace(GREEDY, max_tokens=33))
    run(engine)
    assert recorder.recorded == 0
    assert sum(usage.counted(model).counts[1]) == 5 * (3 + 32) * model.config.num_experts_per_tok


def test_only_a_gpu_records() -> None:
    assert recorder_for(torch.device("cpu")) is None
    assert recorder_for(torch.device("cuda")) is not None


def test_logits_that_are_not_finite_end_their_request_only() -> None:
    engine = _engine(Recording())
    engine.submit([5, 6], GREEDY, request_id="good")
    engine.submit([5, 7], GREEDY, request_id="bad")
    engine.step()
    bad = next(r for r in engine._open if r.id == "bad")
    engine._cache.latent_LPSC[:, bad.pages[0]] = float("nan")
    ends = {}
    while engine.has_work():
        ends |= {d.request_id: d.finish_reason for d in engine.step() if d.finish_reason}
    assert ends == {"good": "length", "bad": "error"}


ANY_RULE = st.builds(
    replace,
    st.sampled_from([GREEDY, DRAWN, replace(DRAWN, logprobs=1), replace(DRAWN, presence_penalty=0.5)]),
    temperature=st.sampled_from([0.0, 1e-30, 0.4, 1.0, 7.0]),
    top_k=st.sampled_from([-1, 0, 1, 2, 40, 10**9, 2**70]),
    top_p=st.one_of(st.just(1.0), st.floats(1e-6, 1)),
    min_p=st.one_of(st.just(0.0), st.floats(0, 1)),
    seed=st.integers(-(2**63), 2**64),
    n=st.integers(1, 2),
    max_tokens=st.integers(1, 12),
)


@given(st.lists(ANY_RULE, min_size=1, max_size=4))
@settings(max_examples=30)
def test_any_rules_beside_each_other_draw_the_same(asked: list[SamplingParams]) -> None:
    found = []
    for recorder in (None, Recording()):
        engine = _engine(recorder)
        ids = [engine.submit([5 + n, 9, 11], params) for n, params in enumerate(asked)]
        deltas = run(engine)
        found.append([answer(deltas, one, i) for one, p in zip(ids, asked, strict=True) for i in range(p.n)])
    assert found[0] == found[1]


def test_a_vocabulary_is_sorted_only_where_a_row_asks_for_its_heaviest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[tuple[int, bool]] = []
    drawn = drawing.drawn

    def watched(scores_NW: Tensor, best_N: Tensor, rules_5N: Tensor, *, cuts: bool) -> Tensor:
        sizes.append((len(best_N), cuts))
        return drawn(scores_NW, best_N, rules_5N, cuts=cuts)

    monkeypatch.setattr(drawing, "drawn", watched)
    for company, wanted in (
        ([GREEDY, GREEDY], set()),
        ([GREEDY, replace(GREEDY, top_p=0.5)], set()),
        ([GREEDY, DRAWN], {(2, False)}),
        ([GREEDY, DRAWN, replace(DRAWN, min_p=0.1)], {(4, True)}),
    ):
        engine = _engine(Recording())
        for number, params in enumerate(company):
            engine.submit([5 + number, 9, 11], params)
        engine.step()  # the prompts
        sizes.clear()
        engine.step()
        assert set(sizes) == wanted


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


def test_a_prompt_that_passes_token_by_token_is_not_taken_for_an_answer() -> None:
    """With budget for one token beside the answers, a step holds tokens of a prompt that only look like decoding."""
    found = []
    for recorder in (None, Recording()):
        engine = _engine(recorder, max_running=3, max_batch_tokens=3)
        ids = [engine.submit([5 + n, 9], replace(GREEDY, max_tokens=30)) for n in range(2)]
        deltas = [delta for _ in range(4) for delta in engine.step()]
        ids.append(engine.submit(list(range(40, 60)), GREEDY))
        ids.append(engine.submit(list(range(70, 90)), replace(GREEDY, prompt_logprobs=1)))
        deltas += run(engine)
        engine.check()
        scores = [repr(d.prompt_logprobs) for d in deltas if d.prompt_logprobs]
        found.append(([answer(deltas, one) for one in ids], scores))
    assert found[0] == found[1]
