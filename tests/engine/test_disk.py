"""Pages on disk: found again after a restart, and never believed when damaged or of another model."""

import os
import random
from pathlib import Path

import pytest
import torch

from coderv2.engine.disk import DiskTier, fingerprint
from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.llm import LLM
from coderv2.errors import InvalidValue
from coderv2.kernels.latents import KINDS, stored
from coderv2.model.cache import LatentCache
from coderv2.model.published import published_tensors
from tests.engine.fakes import FakeModel, answer, continuation, fake_engine, greedy, run
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer

PROMPT = random.Random(4).choices(range(10, 300), k=30)
A, B, C = (bytes([i]) * 32 for i in range(3))
MODEL = "ab" * 32
PAGE = 2 * 4 * (32 + 8) * 4 + 32  # layers, tokens, numbers, bytes each, checksum


def cache(seed: int = 0, dtype: torch.dtype = torch.float32) -> LatentCache:
    made = LatentCache(tiny_config(num_hidden_layers=2), pages=4, page_size=4, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    for part in (made.latent_LPSC, made.k_rope_LPSR):
        if dtype == torch.int8:
            part.random_(-128, 128, generator=generator)
        else:
            part[:] = stored(torch.randn(part.shape, generator=generator), dtype)
    return made


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def served(engine: Engine, ids: list[int] | None = None) -> tuple[list[int], int]:
    """Answer and cached tokens; afterwards the engine has written what it knows."""
    name = engine.submit(ids or PROMPT, greedy(5, ignore_eos=True))
    deltas = run(engine)
    while engine.save_page():
        pass
    engine.check()
    return answer(deltas, name), deltas[-1].num_cached_tokens


@pytest.mark.parametrize("dtype", KINDS)
def test_a_saved_page_comes_back_bit_by_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    first, second = cache(dtype=dtype), cache(seed=1, dtype=dtype)
    DiskTier(tmp_path, MODEL, first, 1 << 20).save(A, 2)
    later = DiskTier(tmp_path, MODEL, second, 1 << 20)
    assert later.load(A, 0)
    assert torch.equal(second.latent_LPSC[:, 0], first.latent_LPSC[:, 2])
    assert torch.equal(second.k_rope_LPSR[:, 0], first.k_rope_LPSR[:, 2])
    assert not later.load(B, 1)


def test_a_damaged_page_is_deleted_and_not_believed(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, MODEL, cache(), 1 << 20)
    for damage in (lambda c: c[:-1], lambda c: b"", lambda c: c[:40] + bytes([c[40] ^ 1]) + c[41:]):
        tier.save(A, 0)
        (path,) = files(tmp_path)
        path.write_bytes(damage(path.read_bytes()))
        target = cache(seed=1)
        before = target.latent_LPSC.clone()
        assert not DiskTier(tmp_path, MODEL, target, 1 << 20).load(A, 0)
        assert torch.equal(target.latent_LPSC, before)
        path.unlink(missing_ok=True)
        tier = DiskTier(tmp_path, MODEL, cache(), 1 << 20)


def test_a_page_under_anothers_name_is_not_believed(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, MODEL, cache(), 1 << 20)
    tier.save(A, 0)
    (path,) = files(tmp_path)
    other = path.parent.parent / B.hex()[:2] / B.hex()
    other.parent.mkdir()
    path.rename(other)
    assert not DiskTier(tmp_path, MODEL, cache(), 1 << 20).load(B, 0)


def test_a_file_that_has_gone_is_only_a_miss(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, MODEL, cache(), 1 << 20)
    tier.save(A, 0)
    files(tmp_path)[0].unlink()
    assert not tier.load(A, 0)
    tier.save(A, 0)
    assert tier.load(A, 1)


def test_the_least_recently_used_pages_make_room(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, MODEL, cache(), 2 * PAGE)
    tier.save(A, 0)
    tier.save(B, 1)
    assert tier.load(A, 3)
    tier.save(C, 2)
    assert [tier.load(name, 3) for name in (A, B, C)] == [True, False, True]
    assert sum(path.stat().st_size for path in files(tmp_path)) == 2 * PAGE


def test_several_engines_share_one_limit_and_what_they_saved(tmp_path: Path) -> None:
    digests = [bytes([i, engine]) * 16 for i in range(100) for engine in range(3)]
    tiers = [DiskTier(tmp_path, MODEL, cache(), 64 * PAGE) for _ in range(3)]
    for number, digest in enumerate(digests):
        tiers[number % 3].save(digest, 0)
    # Each has written five pages at the most since it last looked.
    assert 50 * PAGE <= sum(path.stat().st_size for path in files(tmp_path)) <= (64 + 3 * 5) * PAGE
    assert sum(tiers[0].load(digest, 1) for digest in digests[-30:]) >= 20
    assert not tiers[0].load(digests[0], 1)


def test_a_smaller_limit_at_the_next_start_deletes_the_oldest_of_any_model(tmp_path: Path) -> None:
    DiskTier(tmp_path, "cd" * 32, cache(), 1 << 20).save(A, 0)
    for path in files(tmp_path):
        os.utime(path, (1, 1))
    DiskTier(tmp_path, MODEL, cache(), 1 << 20).save(B, 0)
    later = DiskTier(tmp_path, MODEL, cache(), PAGE)
    assert later.load(B, 0)
    assert len(files(tmp_path)) == 1


def test_files_that_are_no_pages_are_never_deleted_even_in_a_folder_of_the_same_depth(tmp_path: Path) -> None:
    # As a hub's cache has them: models--name/blobs/SHA-256.
    blob = tmp_path / "models--someones" / "blobs" / ("ab" * 32)
    notes = tmp_path / MODEL / "00" / "notes.txt"
    for path in (blob, notes):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(1000))
    DiskTier(tmp_path, MODEL, cache(), 1)
    assert files(tmp_path) == sorted([blob, notes])


def test_what_a_crash_left_half_written_counts_and_goes_first(tmp_path: Path) -> None:
    DiskTier(tmp_path, MODEL, cache(), 1 << 20).save(B, 0)
    half = tmp_path / MODEL / "00" / f"{A.hex()}.1234"
    half.parent.mkdir()
    half.write_bytes(bytes(PAGE - 1))
    os.utime(half, (1, 1))
    assert DiskTier(tmp_path, MODEL, cache(), PAGE).load(B, 0)
    assert half not in files(tmp_path)


def test_a_page_that_another_process_deletes_while_the_folder_is_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DiskTier(tmp_path, MODEL, cache(), 1 << 20).save(A, 0)
    (page,) = files(tmp_path)
    listed = sorted(tmp_path.glob("*/*/*"))
    page.unlink()
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(listed))
    assert not DiskTier(tmp_path, MODEL, cache(), 1 << 20).load(A, 0)


def test_where_bits_count_another_thread_count_is_another_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pages = FakeModel(), cache()
    names = {fingerprint(model, pages, deterministic=exact) for exact in (True, False)}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    more = {fingerprint(model, pages, deterministic=exact) for exact in (True, False)}
    assert len(names | more) == 3


def test_a_disk_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, MODEL, cache(), 1 << 20)
    (tmp_path / MODEL / A.hex()[:2]).write_text("a file where a folder should be")
    tier.save(A, 0)
    assert not tier.load(A, 0)


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidValue, match="cache_dir"):
        fake_engine(cache_dir=tmp_path / "file")
    with pytest.raises(InvalidValue, match="prefix_caching"):
        fake_engine(cache_dir=tmp_path, prefix_caching=False)


def test_after_a_restart_a_prompt_is_read_from_disk(tmp_path: Path) -> None:
    assert served(fake_engine(cache_dir=tmp_path))[1] == 0
    model = FakeModel()
    assert served(fake_engine(model, cache_dir=tmp_path)) == (continuation(PROMPT, 5), 28)
    assert model.batches[0] == [2]


def test_evicted_pages_come_back_from_disk(tmp_path: Path) -> None:
    engine = fake_engine(cache_dir=tmp_path, cache_tokens=48, max_running=1, max_model_len=48)
    others = [random.Random(i).choices(range(10, 300), k=30) for i in range(3)]
    for ids in (PROMPT, *others):
        name = engine.submit(ids, greedy(5))
        assert answer(run(engine), name) == continuation(ids, 5)
    assert served(engine) == (continuation(PROMPT, 5), 28)


def test_another_model_never_reads_the_pages(tmp_path: Path) -> None:
    served(fake_engine(cache_dir=tmp_path))
    other = FakeModel()
    other.weight[0] = 1e-30
    assert served(fake_engine(other, cache_dir=tmp_path))[1] == 0
    assert served(fake_engine(cache_dir=tmp_path, page_size=8))[1] == 0


def test_after_an_update_the_old_models_pages_are_left_alone(tmp_path: Path) -> None:
    engine = fake_engine(cache_dir=tmp_path)
    served(engine)
    engine.update_weights({"model.norm.weight": torch.ones(4)})
    assert served(engine)[1] == 0
    engine.update_weights({"model.norm.weight": torch.zeros(4)})
    assert served(engine)[1] == 28


def test_a_real_model_answers_the_same_from_disk(tmp_path: Path) -> None:
    settings = EngineSettings(cache_tokens=512, max_model_len=128, page_size=4, cache_dir=tmp_path)
    model = tiny_model(tiny_config()).requires_grad_(False)
    told = [served(Engine(model, tiny_tokenizer(), settings)) for _ in range(2)]
    assert told[0][0] == told[1][0]
    assert [cached for _, cached in told] == [0, 28]


def test_every_weight_counts_for_what_a_model_is() -> None:
    model = tiny_model(tiny_config()).requires_grad_(False)
    names = {
        fingerprint(model, cache(), deterministic=False),
        fingerprint(model, cache(), deterministic=True),
    }
    for tensor in list(dict(published_tensors(model)).values())[::7]:
        tensor.flatten()[-1] += 1e-3
        names.add(fingerprint(model, cache(), deterministic=False))
    assert len(names) == 2 + len(list(published_tensors(model))[::7])


def test_llm_keeps_its_cache_in_cache_dir(tiny_checkpoint: Path, tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        llm = LLM(tiny_checkpoint, max_model_len=128, cache_tokens=256, cache_dir=tmp_path)
        told.append(llm.generate(prompt_token_ids=PROMPT, use_tqdm=False)[0].num_cached_tokens)
    assert told == [0, 16]
