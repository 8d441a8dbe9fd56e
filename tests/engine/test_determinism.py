"""Bitwise the same tokens and log-probabilities, whatever runs beside a request."""

from dataclasses import dataclass
from random import Random

import pytest
import torch

from coderv2.engine.determinism import seed_of
from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.request import SamplingParams, TokenLogprob
from coderv2.errors import Unsupported
from coderv2.kernels import cpu, invariant
from coderv2.model.pack import pack_model
from coderv2.model.transformer import Transformer
from coderv2.text.chat import Message, encode_chat
from coderv2.text.fim import encode_fim
from tests.engine.fakes import FakeModel, fake_engine
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer

Answers = dict[int, list[tuple[tuple[int, ...], tuple[TokenLogprob, ...] | None]]]


@dataclass(frozen=True)
class Job:
    prompt: list[int]
    params: SamplingParams
    cancel_after: int | None = None


def engine(model: Transformer, **settings: object) -> Engine:
    chosen = {"cache_tokens": 2048, "page_size": 4, "max_model_len": 512, "deterministic": True} | settings
    return Engine(model, tiny_tokenizer(), EngineSettings(**chosen))  # type: ignore[arg-type]


def jobs(count: int, random: Random) -> list[Job]:
    """Infilling, chats, long prompts and texts that start alike; with seeds and without, some cancelled."""
    tokenizer = tiny_tokenizer()
    source = "def add(a, b):\n    return a + b\n\n\nclass Stack:\n    def push(self, item):\n" * 3
    made = []
    for number in range(count):
        cut = random.randrange(len(source))
        kinds = (
            lambda cut=cut: encode_fim(tokenizer, source[:cut][-90:], source[cut:][:60]),
            lambda cut=cut: encode_chat(tokenizer, [Message("user", source[: cut % 80 + 1])]),
            lambda cut=cut: tokenizer.encode(source[: cut % 50 + 3], bos=True),
            lambda cut=cut: tokenizer.encode(source[:cut] + source, bos=True)[:400],
        )
        params = SamplingParams(
            temperature=(0.0, 1.0, 0.7)[number % 3],
            top_p=(1.0, 0.9)[number % 2],
            max_tokens=random.randint(1, 5),
            n=3 if number % 10 == 0 else 1,
            seed=None if number % 2 else number,
            logprobs=2,
            ignore_eos=True,
        )
        made.append(Job(kinds[number % 4](), params, random.randint(1, 6) if number % 15 == 7 else None))
    return made


def together(made: list[Job], served: Engine, order: list[int]) -> dict[int, Answers]:
    """All at once; the engine's queue fills while others run."""
    found: dict[int, Answers] = {number: {} for number in order}
    waiting, steps = list(order), 0
    while waiting or served.has_work():
        for number in waiting[:5]:
            served.submit(made[number].prompt, made[number].params, request_id=str(number))
        del waiting[:5]
        for delta in served.step():
            assert delta.error is None
            if delta.token_ids:
                found[int(delta.request_id)].setdefault(delta.index, []).append(
                    (delta.token_ids, delta.logprobs)
                )
        steps += 1
        served.check()
        for number in order:
            if made[number].cancel_after is not None and steps % 40 == made[number].cancel_after:
                served.abort(str(number))
    return found


@pytest.mark.parametrize("family", ["lite", "full"])
def test_200_mixed_requests_answer_bitwise_as_each_alone(family: str) -> None:
    model, random = tiny_model(tiny_config(family)), Random(5)
    made = jobs(200, random)
    order = random.sample(range(len(made)), len(made))
    crowd = engine(model, max_batch_tokens=48, max_running=24)
    many = together(made, crowd, order)
    assert crowd.stats().cached_tokens > 1000
    for number, job in enumerate(made):
        if job.cancel_after is None:
            alone = engine(model, max_batch_tokens=512, page_size=16)
            assert together([job], alone, [0])[0] == many[number], number


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [8, 33, 511])
def test_chunk_size_and_cache_hits_change_no_bit(dtype: torch.dtype, chunk: int) -> None:
    model = tiny_model(tiny_config("lite", kv_lora_rank=64, hidden_size=96)).to(dtype)
    prompt = [(7 * i) % 500 + 20 for i in range(450)]
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=5, ignore_eos=True)
    job = Job(prompt, params)
    whole = together([job], engine(model, max_batch_tokens=512), [0])
    served = engine(model, max_batch_tokens=chunk, max_running=8)
    cold = together([job], served, [0])
    warm = together([job], served, [0])
    assert served.stats().cached_tokens >= 440
    assert whole == cold == warm


@pytest.mark.skipif(cpu.kernels is None, reason="the CPU kernels are not built")
@pytest.mark.parametrize("family", ["lite", "full"])
@pytest.mark.parametrize("name", ["f32", "bf16", "fp8", "int8", "int4"])
def test_packed_models_answer_bitwise_alike_in_a_crowd_in_any_chunk_and_on_a_cache_hit(
    family: str, name: str
) -> None:
    model = pack_model(tiny_model(tiny_config(family)), lambda _: name)
    made = [job for job in jobs(40, Random(7)) if job.cancel_after is None]
    # More tokens than a span of the attention kernel holds.
    made.append(
        Job([(7 * i) % 500 + 20 for i in range(450)], SamplingParams(top_p=0.9, max_tokens=6, logprobs=3))
    )
    order = Random(1).sample(range(len(made)), len(made))
    crowd = engine(model, max_batch_tokens=33, max_running=24)
    many, again = (together(made, crowd, order) for _ in range(2))
    assert crowd.stats().cached_tokens > 1000
    alone = engine(model, max_batch_tokens=512, page_size=16, prefix_caching=False)
    for number, job in enumerate(made):
        assert together([job], alone, [0])[0] == many[number] == again[number], number


def test_a_request_without_a_seed_draws_alike_whenever_it_comes() -> None:
    served = engine(tiny_model(tiny_config()))
    made = [Job([5, 6, 7], SamplingParams(max_tokens=8)), Job([8, 9], SamplingParams(max_tokens=8))]
    assert together(made, served, [0, 1]) == together(made, served, [1, 0])
    assert seed_of([5, 6, 7], 0) != seed_of([5, 6, 7], 1)
    assert seed_of([5, 6, 7], 0) != seed_of([5, 6, 8], 0)


def test_logits_are_those_of_the_usual_operations_up_to_rounding() -> None:
    model, prompt = tiny_model(tiny_config("full")), list(range(20, 120))
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=5, ignore_eos=True)
    exact, usual = (
        together([Job(prompt, params)], engine(model, deterministic=mode), [0])[0][0]
        for mode in (True, False)
    )
    for (ids, logprobs), (other_ids, other_logprobs) in zip(exact, usual, strict=True):
        assert ids == other_ids
        assert logprobs is not None
        assert other_logprobs is not None
        assert logprobs[0].logprob == pytest.approx(other_logprobs[0].logprob, abs=1e-3)


def test_a_machine_whose_products_depend_on_company_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        invariant, "disagreement", lambda weight_OD: "16 rows at once give other bits than 256"
    )
    with pytest.raises(Unsupported, match=r"16 rows at once.*shape \[600, 64\]"):
        engine(tiny_model(tiny_config()))


def test_a_model_that_is_not_on_the_cpu_is_refused() -> None:
    model = FakeModel()
    model.device = torch.device("cuda")
    with pytest.raises(Unsupported, match="CPU"):
        fake_engine(model, deterministic=True)
