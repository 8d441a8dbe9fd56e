import torch

from coderv2.engine.luck import Luck
from coderv2.engine.pages import Pages
from coderv2.engine.request import Request, SamplingParams
from coderv2.engine.runner import Runner
from coderv2.engine.scheduler import Chunk
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from tests.engine.fakes import FakeModel, one_peak
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer


def request(tokens: list[int]) -> Request:
    return Request("r", 0, SamplingParams(), tokens, 100, tiny_tokenizer(), Luck(0))


def chunk(asked: Request, pages: Pages, count: int) -> Chunk:
    assert pages.grow(asked.pages, asked.cached + count)
    made = Chunk(asked, asked.cached, asked.tokens[asked.cached : asked.cached + count])
    asked.cached += count
    return made


def test_logits_come_per_chunk_and_see_the_tokens_of_earlier_chunks() -> None:
    model = FakeModel()
    runner, pages = Runner(model, LatentCache(model.config, 8, 4, torch.float32)), Pages(8, 4)
    a, b = request([11, 12, 13, 14, 15]), request([21, 22])
    runner.run([chunk(a, pages, 3)])
    logits_BW = runner.run([chunk(b, pages, 2), chunk(a, pages, 2)])
    assert torch.equal(logits_BW, torch.stack([one_peak(b.tokens), one_peak(a.tokens)]))


def test_pieces_through_the_cache_give_the_logits_of_the_whole_text() -> None:
    model = tiny_model(tiny_config())
    runner, pages = Runner(model, LatentCache(model.config, 16, 4, torch.float32)), Pages(16, 4)
    asked = request(list(range(20, 45)))
    for count in (7, 1, 16, 1):
        logits_BW = runner.run([chunk(asked, pages, count)])
    with torch.no_grad():
        whole_TW = model(Batch.packed([asked.tokens]))
    torch.testing.assert_close(logits_BW[0], whole_TW[-1], rtol=1e-4, atol=1e-4)


def test_logits_carry_no_gradient() -> None:
    model = tiny_model(tiny_config())
    runner, pages = Runner(model, LatentCache(model.config, 4, 4, torch.float32)), Pages(4, 4)
    assert not runner.run([chunk(request([5, 6]), pages, 2)]).requires_grad
