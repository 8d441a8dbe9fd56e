"""An engine on two processes: the answers of one, and an end with a reason when a process dies."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gguf import GGMLQuantizationType as Type

from coderv2 import LLM, SamplingParams
from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.mirrored import MirroredSteps
from coderv2.engine.rank_processes import uninterrupted
from coderv2.engine.ranks import Ranks
from coderv2.errors import BadCheckpoint, EngineStopped, InvalidValue, Unsupported
from coderv2.model.convert import pack_folder
from coderv2.model.loading import open_tokenizer
from coderv2.model.parallel import Split
from coderv2.model.published import published_tensors
from coderv2.model.weights import load, save
from tests.engine.fakes import LeavingTogether, prompt_recording
from tests.model.gguf_files import needs_kernels, write_gguf
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer_folder

PROMPTS = ["def add(a, b):", "class Stack:\n    def push(self, x):", "import os\n"]


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODERV2_THREADS", "1")


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own answer to it, also where tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("dealt", [False, True])
def test_answers_are_those_of_one_process(tiny_checkpoint: Path, dealt: bool, tmp_path: Path) -> None:
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    one = LLM(tiny_checkpoint, cache_tokens=512).generate(PROMPTS, params)
    llm = LLM(tiny_checkpoint, cache_tokens=512, tensor_parallel_size=2, enable_expert_parallel=dealt)
    assert llm.engine.ranks is not None
    try:
        # Twice: the second time pages are shared, and one of them is copied on both ranks.
        for _ in range(2):
            two = llm.generate(PROMPTS, params)
            assert [r.outputs[0].token_ids for r in two] == [r.outputs[0].token_ids for r in one]
        _update(llm, tiny_checkpoint, tmp_path)
    finally:
        llm.engine.ranks.stop()
    assert not dist.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("dealt", [False, True])
def test_every_rank_repeats_recorded_steps(
    tiny_checkpoint: Path, dealt: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Likeliest and drawn tokens are those of one process without graphs, before and after new weights."""
    greedy = SamplingParams(temperature=0, max_tokens=14, ignore_eos=True, draft_tokens=0)
    drawn = replace(greedy, temperature=0.9, seed=3)
    asked = [greedy, replace(drawn, max_tokens=9), replace(drawn, top_p=0.8)]
    one = LLM(tiny_checkpoint, cache_tokens=512).generate(PROMPTS, asked)
    split = Split(size=2, experts="dealt" if dealt else "cut")
    ranks = Ranks(tiny_checkpoint, split, dtype=torch.float32, recorder=prompt_recording)
    told: list[str] = []
    tell = ranks.tell
    monkeypatch.setattr(ranks, "tell", lambda order, *rest: (told.append(order), tell(order, *rest)))
    settings = EngineSettings(cache_tokens=512, draft_tokens=0)
    llm = LLM.from_engine(Engine(ranks.model, open_tokenizer(tiny_checkpoint), settings, ranks=ranks))
    try:
        for _ in range(2):
            two = llm.generate(PROMPTS, asked)
            assert [r.outputs[0].token_ids for r in two] == [r.outputs[0].token_ids for r in one]
        assert told.count("start") >= 2 * 13, "every token but the first comes of a recorded step"
        _update(llm, tiny_checkpoint, tmp_path)
    finally:
        ranks.stop()


@pytest.mark.slow
def test_a_recorded_step_that_fails_on_the_first_rank_ends_the_engine(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coderv2.engine.rank_processes.REASON_SECONDS", 0.1)
    ranks = Ranks(tiny_checkpoint, Split(size=2), dtype=torch.float32, recorder=prompt_recording)
    settings = EngineSettings(cache_tokens=512)
    engine = Engine(ranks.model, open_tokenizer(tiny_checkpoint), settings, ranks=ranks)
    engine.submit([5, 6], SamplingParams(temperature=0, draft_tokens=0))
    engine.step()
    monkeypatch.setattr(MirroredSteps, "said", lambda *_: 1 // 0)
    with pytest.raises(EngineStopped, match="the first rank failed: ZeroDivisionError"):
        engine.step()
    ranks.stop()


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("stored", ["gguf", "packed"])
@pytest.mark.parametrize("dealt", [False, True])
def test_quants_are_cut_too(tmp_path: Path, stored: str, dealt: bool) -> None:
    sizes = {"hidden_size": 256, "moe_intermediate_size": 96, "v_head_dim": 32, "vocab_size": 640}
    model = tiny_model(tiny_config("lite", qk_rope_head_dim=16, **sizes))
    tiny_tokenizer_folder(tmp_path / "folder")
    save(model, tmp_path / "folder")
    if stored == "gguf":
        path = write_gguf(tmp_path / "x.gguf", model, kind=Type.BF16)
    else:
        path = tmp_path / "packed"
        pack_folder(tmp_path / "folder", path)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    settings: dict[str, Any] = {"tokenizer": tmp_path / "folder", "cache_tokens": 512}
    one = LLM(path, **settings).generate(PROMPTS, params)
    llm = LLM(path, **settings, tensor_parallel_size=2, enable_expert_parallel=dealt)
    assert llm.engine.ranks is not None
    try:
        two = llm.generate(PROMPTS, params)
    finally:
        llm.engine.ranks.stop()
    assert [r.outputs[0].token_ids for r in two] == [r.outputs[0].token_ids for r in one]


def _update(llm: LLM, folder: Path, tmp_path: Path) -> None:
    """New weights reach every rank, or none."""
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)

    def answers(one: LLM) -> list[list[int]]:
        return [r.outputs[0].token_ids for r in one.generate(PROMPTS, params)]

    before = answers(llm)
    with pytest.raises(Unsupported, match="from a folder"):
        llm.engine.update_weights(dict(published_tensors(load(folder))))
    shutil.copytree(folder, tmp_path / "bad")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(BadCheckpoint):
        llm.engine.update_weights(tmp_path / "bad")
    assert answers(llm) == before
    shutil.copytree(folder, tmp_path / "new")
    save(tiny_model(load(folder).config, seed=1), tmp_path / "new")
    llm.engine.update_weights(tmp_path / "new")
    assert answers(llm) == answers(LLM(tmp_path / "new", cache_tokens=512)) != before


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_engine_with_the_reason(tiny_checkpoint: Path) -> None:
    told: list[str] = []
    llm = LLM(tiny_checkpoint, cache_tokens=512, tensor_parallel_size=2)
    ranks = llm.engine.ranks
    assert ranks is not None
    ranks.on_failure = lambda: told.append("told")
    ranks._processes[0].kill()
    with pytest.raises(EngineStopped, match=r"rank 1 died \(exit code -9\)"):
        llm.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=400), use_tqdm=False)
    ranks.stop()
    assert told == ["told"]


@pytest.mark.slow
def test_ranks_that_leave_only_together_do_not_wait_for_each_other(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first waited for the others to end before it left, so that with NCCL each was killed, and then it hung."""
    monkeypatch.setattr(Ranks, "FOLLOWER", LeavingTogether)
    leave = dist.destroy_process_group
    monkeypatch.setattr(dist, "destroy_process_group", lambda: (dist.barrier(), leave()))
    ranks = Ranks(tiny_checkpoint, Split(size=2), dtype=torch.float32)
    ranks.stop()
    assert [process.exitcode for process in ranks._processes] == [0]
    assert not dist.is_initialized()


@pytest.mark.slow
def test_a_group_that_cannot_be_broken_off_keeps_nobody_from_leaving(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server was told of a rank's death only after that, and what has not left was not ended."""
    monkeypatch.setattr("coderv2.engine.rank_processes.LEAVE_SECONDS", 0.1)
    told, patience = threading.Event(), threading.Event()
    monkeypatch.setattr("coderv2.engine.parting._abort", lambda: patience.wait(60))
    ranks = Ranks(tiny_checkpoint, Split(size=2), dtype=torch.float32, on_failure=told.set)
    ranks._processes[0].kill()
    assert told.wait(10)
    ranks.stop()
    assert "their group cannot be left" in caplog.text
    patience.set()
    assert ranks._parting.left(10)
    assert not dist.is_initialized()


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.slow
@pytest.mark.parametrize("tokens", [False, True])
def test_ctrl_c_waits_for_the_step_and_ranks_answer_on_until_they_are_closed(
    tiny_checkpoint: Path, tokens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    options: dict[str, Any] = {"cache_tokens": 512, "tensor_parallel_size": 2}

    def answers(llm: LLM) -> list[list[int]]:
        return [r.outputs[0].token_ids for r in llm.generate(PROMPTS, params, use_tqdm=False)]

    with LLM(tiny_checkpoint, **options, data_parallel_attention=tokens) as llm:
        before = answers(llm)
        ranks = llm.engine.ranks
        assert ranks is not None
        tell = ranks.tell
        with monkeypatch.context() as interrupted:
            interrupted.setattr(ranks, "tell", lambda *a: (tell(*a), signal.raise_signal(signal.SIGINT)))
            with pytest.raises(KeyboardInterrupt):
                answers(llm)
        assert answers(llm) == before
        with pytest.raises(Unsupported, match="those first"):
            LLM(tiny_checkpoint, **options)
        assert answers(llm) == before
    assert not dist.is_initialized()
    assert not multiprocessing.active_children()
    with pytest.raises(EngineStopped, match="have been stopped"):
        answers(llm)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_is_held_back_and_comes_once_at_the_end() -> None:
    done = []

    @uninterrupted()
    @uninterrupted()
    def work() -> None:
        for part in range(2):
            signal.raise_signal(signal.SIGINT)
            done.append(part)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [0, 1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    "wrong", [{"deterministic": True}, {"max_model_len": 1 << 20}, {"max_model_len": 100, "cache_tokens": 50}]
)
def test_an_engine_that_ranks_cannot_be_is_refused_before_they_start(
    tiny_checkpoint: Path, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coderv2.engine.llm.Ranks", lambda *_, **__: pytest.fail("they started"))
    with pytest.raises((InvalidValue, Unsupported), match=next(iter(wrong))):
        LLM(tiny_checkpoint, tensor_parallel_size=2, **wrong)


@pytest.mark.slow
def test_no_rank_is_left_behind_where_there_comes_no_engine(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coderv2.engine.llm.Engine", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        LLM(tiny_checkpoint, cache_tokens=512, tensor_parallel_size=2)
    assert not multiprocessing.active_children()
    assert not dist.is_initialized()


@pytest.mark.slow
def test_a_rank_that_fails_says_why(tiny_checkpoint: Path) -> None:
    ranks = Ranks(tiny_checkpoint, Split(size=2), dtype=torch.float32)
    ranks.tell("copy_page", 0, 1)  # there is no cache yet
    with pytest.raises(EngineStopped, match=r"rank 1 died \(exit code 1\): AttributeError"):
        raise ranks.stopped()
    ranks.stop()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_nobody_is_left_behind(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (tmp_path / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    with pytest.raises(BadCheckpoint, match="holds neither"):
        Ranks(tmp_path, Split(size=2))
    assert not dist.is_initialized()


@pytest.mark.slow
def test_a_server_whose_rank_dies_exits_with_the_reason(tiny_checkpoint: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "coderv2",
        "serve",
        str(tiny_checkpoint),
        "--port",
        "0",
        "--tensor-parallel",
        "2",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert "is ready" in server.stdout.readline()
            os.kill(_rank_of(server.pid), signal.SIGKILL)
            _, said = server.communicate(timeout=120)
        finally:
            server.kill()  # or leaving this block would wait for a server that nobody has stopped
    assert server.returncode == 1
    assert "coderv2: rank 1 died (exit code -9)" in said
    assert "leaked" not in said


def _rank_of(parent: int) -> int:
    """The rank among a server's children, beside multiprocessing's resource tracker.

    By each process's word for its parent: the kernel's own list of children is empty now and then on some machines.
    """
    (rank,) = [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if _parent_of(process) == parent and "spawn_main" in (process / "cmdline").read_text()
    ]
    return rank


def _parent_of(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it ended meanwhile
        return None


def test_what_is_not_there_is_refused_before_anything_starts(tiny_checkpoint: Path) -> None:
    with pytest.raises(Unsupported, match="heads of 4 cannot be cut for 3 ranks"):
        Ranks(tiny_checkpoint, Split(size=3))
    if not torch.cuda.is_available():
        with pytest.raises(InvalidValue, match="2 ranks need as many GPUs; here are 0"):
            Ranks(tiny_checkpoint, Split(size=2), device="cuda")
    with pytest.raises(Unsupported, match="by heads, not by tokens"):
        Ranks(tiny_checkpoint, Split(size=2, attention="tokens"))
    with pytest.raises(InvalidValue, match="at least 1, not 0"):
        LLM(tiny_checkpoint, tensor_parallel_size=0)
