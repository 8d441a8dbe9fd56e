"""Two ranks with sequences and caches of their own: the answers of one engine, and no rank waits for ever."""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from coderv2 import LLM, SamplingParams
from coderv2.engine.data_parallel import DataParallelEngine, EngineRanks
from coderv2.engine.engine import EngineSettings
from coderv2.engine.even import EvenGraphs
from coderv2.engine.sampler import Said
from coderv2.engine.scheduler import Chunk
from coderv2.errors import EngineStopped, InvalidValue, QueueFull, Unsupported
from coderv2.model.loading import open_tokenizer
from coderv2.model.parallel import Split
from coderv2.model.published import published_tensors
from coderv2.model.weights import load, save
from tests.engine.fakes import answer, run, warm_recording
from tests.tiny import tiny_model

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["def add(a, b):", "class Stack:\n    def push(self, x):", "import os\n", "x = 1\n", "for i in"]


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODERV2_THREADS", "1")


def _engine(folder: Path, **settings: Any) -> DataParallelEngine:
    split = Split(size=2, attention="tokens")
    ranks = EngineRanks(folder, split, dtype=torch.float32, recorder=warm_recording)
    limits = EngineSettings(**{"cache_tokens": 512, **settings})
    return DataParallelEngine(ranks, open_tokenizer(folder), limits)


@pytest.fixture
def engine(tiny_checkpoint: Path) -> Iterator[DataParallelEngine]:
    made = _engine(tiny_checkpoint)
    yield made
    made.ranks.stop()
    assert not dist.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("dealt", [False, True])
def test_answers_are_those_of_one_process(tiny_checkpoint: Path, dealt: bool, tmp_path: Path) -> None:
    """Likeliest, drawn without a seed, several of one prompt, with log-probabilities: before and after new weights."""
    drawn = replace(GREEDY, temperature=0.8)
    asked = [GREEDY, drawn, replace(drawn, n=3), replace(drawn, n=1, best_of=2), replace(GREEDY, logprobs=2)]
    settings: dict[str, Any] = {"cache_tokens": 512, "seed": 7}
    one = LLM(tiny_checkpoint, **settings)
    llm = LLM(
        tiny_checkpoint,
        **settings,
        tensor_parallel_size=2,
        enable_expert_parallel=dealt,
        data_parallel_attention=True,
    )
    assert isinstance(llm.engine, DataParallelEngine)
    try:
        for _ in range(2):
            _alike(llm, one, asked)
        assert llm.engine.stats().prompt_tokens == one.engine.stats().prompt_tokens
        assert llm.engine._others[0].prompt_tokens > 0, "the other rank has answered some"
        shutil.copytree(tiny_checkpoint, tmp_path / "new")
        save(tiny_model(load(tiny_checkpoint).config, seed=1), tmp_path / "new")
        with pytest.raises(Unsupported, match="from a folder"):
            llm.engine.update_weights(dict(published_tensors(load(tiny_checkpoint))))
        for either in (one, llm):
            either.engine.update_weights(tmp_path / "new")
        _alike(llm, one, asked)
    finally:
        llm.engine.ranks.stop()


def _alike(mine: LLM, theirs: LLM, asked: list[SamplingParams]) -> None:
    found = mine.generate(PROMPTS, asked, use_tqdm=False)
    wanted = theirs.generate(PROMPTS, asked, use_tqdm=False)
    assert [[o.token_ids for o in r.outputs] for r in found] == [
        [o.token_ids for o in r.outputs] for r in wanted
    ]
    assert [o.cumulative_logprob for r in found for o in r.outputs] == pytest.approx(
        [o.cumulative_logprob for r in wanted for o in r.outputs], abs=1e-4
    )


@pytest.mark.slow
def test_ranks_repeat_recorded_steps_as_large_as_the_fullest_needs(
    engine: DataParallelEngine, tiny_checkpoint: Path
) -> None:
    """One rank decodes three sequences and draws, the other one or none; prompts between them are plain passes."""
    plain = replace(GREEDY, draft_tokens=0)
    drawn = replace(plain, temperature=0.9, seed=3, max_tokens=20)
    asked = [
        plain,
        drawn,
        plain,
        replace(drawn, top_p=0.8),
        replace(plain, max_tokens=3),
        replace(plain, logprobs=2),
    ]
    alone = LLM(tiny_checkpoint, cache_tokens=512)
    wanted = [
        alone.generate([[5 + n, 9, 11]], params, use_tqdm=False)[0].outputs[0].token_ids
        for n, params in enumerate(asked)
    ]
    steps = engine._runner._graphs
    assert isinstance(steps, EvenGraphs)
    forms: list[tuple[int, int]] = []
    ahead = 0
    run_one = steps.run

    def noted(chunks: Sequence[Chunk]) -> tuple[Tensor, Said]:
        nonlocal ahead
        assert steps._agreed is not None
        forms.append((len(chunks), steps._agreed[0]))
        ahead += steps._ahead is not None
        return run_one(chunks)

    steps.run = noted  # type: ignore[method-assign]
    names = [engine.submit([5 + n, 9, 11], params) for n, params in enumerate(asked[:2])]
    deltas = [delta for _ in range(4) for delta in engine.step()]
    names += [engine.submit([7 + n, 9, 11], params) for n, params in enumerate(asked[2:])]
    deltas += run(engine)
    engine.check()
    assert [answer(deltas, name) for name in names] == wanted
    assert len(forms) >= 15
    assert any(mine < rows for mine, rows in forms)
    assert ahead >= 5, "steps that had been started before the host had looked at the last"
    assert engine.stats().pages_used == 0


@pytest.mark.slow
def test_requests_come_and_go_on_both_ranks(engine: DataParallelEngine, tiny_checkpoint: Path) -> None:
    """One alone, others that join and are aborted meanwhile, scores beside them: nobody waits, nothing is lost."""
    alone = LLM(tiny_checkpoint, cache_tokens=512)
    ids = list(range(40, 60))
    scores = alone.engine.score([ids])
    wanted = alone.generate([ids], replace(GREEDY, max_tokens=30), use_tqdm=False)[0].outputs[0].token_ids
    first = engine.submit(ids, replace(GREEDY, max_tokens=30))
    deltas = [delta for _ in range(3) for delta in engine.step()]
    others = [engine.submit([5 + n, 9, 11], replace(GREEDY, max_tokens=20)) for n in range(4)]
    with pytest.raises(InvalidValue, match="in use"):
        engine.submit(ids, GREEDY, request_id=others[0])
    deltas += engine.step()
    assert engine.stats().running == 5
    assert engine.score([ids])[0] == pytest.approx(scores[0], abs=1e-4)
    for name in others[:3]:
        engine.abort(name)
    deltas += run(engine)
    engine.check()
    assert answer(deltas, first) == wanted
    ends = {delta.request_id: delta.finish_reason for delta in deltas if delta.finish_reason}
    assert [ends[name] for name in others] == ["abort", "abort", "abort", "length"]
    assert engine.stats().pages_used == 0
    assert engine.step() == []


@pytest.mark.slow
def test_the_queue_is_full_when_every_ranks_is(tiny_checkpoint: Path) -> None:
    engine = _engine(tiny_checkpoint, max_waiting=2)
    for _ in range(2):
        engine.submit([5, 6], replace(GREEDY, n=2))
    assert engine.full()
    with pytest.raises(QueueFull):
        engine.submit([5, 6], GREEDY)
    assert len([d for d in run(engine) if d.finish_reason]) == 4
    assert not engine.full(2)
    engine.ranks.stop()


@pytest.mark.slow
def test_a_rank_that_fails_in_a_pass_ends_the_engine_with_the_reason(engine: DataParallelEngine) -> None:
    engine.submit([5, 6], GREEDY)
    engine.ranks.tell("what nobody does")
    with pytest.raises(EngineStopped, match=r"rank 1 .*: AttributeError: .*what nobody does"):
        run(engine)


@pytest.mark.slow
def test_a_submission_that_another_rank_refuses_ends_no_other(
    engine: DataParallelEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [engine.submit([5 + n, 9, 11], GREEDY) for n in range(3)]
    for wrong in ({"deadline": 0}, {"deadline": "soon"}, {"patience": -1.0}, {"priority": 10**400}):
        with pytest.raises(InvalidValue, match=r"deadline|priority"):
            engine.submit([5, 9, 11], GREEDY, **wrong)
    monkeypatch.setattr(engine, "validate", lambda *_: None)
    refused = engine.submit([10**6], replace(GREEDY, n=2, seed=0))
    assert engine._away[refused].rank == 1
    ends = {(delta.request_id, delta.index): delta for delta in run(engine) if delta.finish_reason}
    assert {ends[name, 0].finish_reason for name in names} == {"length"}
    assert {ends[refused, index].finish_reason for index in range(2)} == {"error"}
    assert "token 1000000" in (ends[refused, 0].error or "")


@pytest.mark.slow
def test_a_served_answer_is_that_of_one_process(tiny_checkpoint: Path) -> None:
    params = replace(GREEDY, ignore_eos=False)
    one = LLM(tiny_checkpoint, cache_tokens=512).generate(PROMPTS[:2], params, use_tqdm=False)
    options = ["--port", "0", "--expert-parallel", "2", "--data-parallel-attention", "--max-model-len", "128"]
    command = [sys.executable, "-m", "coderv2", "serve", str(tiny_checkpoint), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert "is ready" in server.stdout.readline()
            url = (
                next(line for line in server.stdout if "base URL" in line).split("base URL ")[1].split(",")[0]
            )
            # The first answer is still open when the second comes, which so goes to the other rank.
            assert _completed(url, PROMPTS[:2]) == [r.outputs[0].text for r in one]
        finally:
            server.terminate()
    assert server.returncode == 0


def _completed(url: str, prompts: list[str]) -> list[str]:
    body = {"prompt": prompts, "temperature": 0, "max_tokens": GREEDY.max_tokens}
    asked = urllib.request.Request(
        f"{url}/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=120) as response:
        return [choice["text"] for choice in json.load(response)["choices"]]


def test_one_rank_has_nobody_to_share_with(tiny_checkpoint: Path) -> None:
    with pytest.raises(InvalidValue, match="set tensor_parallel_size"):
        LLM(tiny_checkpoint, data_parallel_attention=True)
    with pytest.raises(Unsupported, match="by tokens, not by heads"):
        EngineRanks(tiny_checkpoint, Split(size=2))
