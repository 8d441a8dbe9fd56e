"""Latent attention: both forms against `reference`, over pages in any order and lengths across the kernels' spans."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coderv2.kernels import latents, native_attention, reference
from tests.kernels.packed import random, relative_error

# Norm of the difference over norm of the result: float32 throughout; products in bfloat16, sums in float32; int8.
EXACT, ROUNDED, IN_BYTES = 2e-6, 8e-3, 3e-2
SPAN_EDGES = (1, 15, 255, 256, 257, 511, 513, 700)
PAGE = 16


@dataclass(frozen=True)
class Paged:
    """Sequences in a cache whose pages lie in random order."""

    q_latent_THC: Tensor
    q_rope_THR: Tensor
    latent_PSC: Tensor
    k_rope_PSR: Tensor
    starts: list[int]
    lengths: list[int]
    page_tables: list[Tensor]

    @classmethod
    def of(
        cls,
        news: list[int],
        lengths: list[int],
        *,
        H: int = 4,
        C: int = 32,
        R: int = 8,
        dtype: torch.dtype = torch.float32,
    ) -> "Paged":
        starts = list(itertools.accumulate(news, initial=0))
        counts = [-(-length // PAGE) for length in lengths]
        free = torch.randperm(sum(counts) + 3, generator=torch.Generator().manual_seed(len(news)))
        return cls(
            random(starts[-1], H, C),
            random(starts[-1], H, R, seed=1),
            latents.stored(random(len(free), PAGE, C, seed=2), dtype),
            latents.stored(random(len(free), PAGE, R, seed=3), dtype),
            starts,
            lengths,
            list(free[3:].split(counts)),
        )

    def run(self, decode: "object" = native_attention.mla_decode, scale: float = 0.2) -> Tensor:
        out_THC: Tensor = decode(  # type: ignore[operator]
            self.q_latent_THC,
            self.q_rope_THR,
            self.latent_PSC,
            self.k_rope_PSR,
            starts=self.starts,
            lengths=self.lengths,
            page_tables=self.page_tables,
            scale=scale,
        )
        return out_THC

    def expected(self, scale: float = 0.2) -> Tensor:
        wide = {name: getattr(self, name).double() for name in ("q_latent_THC", "q_rope_THR")}
        widths = {"latent_PSC": self.q_latent_THC.shape[-1], "k_rope_PSR": self.q_rope_THR.shape[-1]}
        pages = {
            name: latents.widened(getattr(self, name), width, torch.double) for name, width in widths.items()
        }
        return Paged(
            **wide, **pages, starts=self.starts, lengths=self.lengths, page_tables=self.page_tables
        ).run(reference.mla_decode, scale)

    def only(self, b: int, first: int, last: int) -> "Paged":
        """Tokens `first:last` of sequence b's new ones, as they were when the last of them was the newest."""
        rows = slice(self.starts[b] + first, self.starts[b] + last)
        later = self.starts[b + 1] - self.starts[b] - last
        return Paged(
            self.q_latent_THC[rows],
            self.q_rope_THR[rows],
            self.latent_PSC,
            self.k_rope_PSR,
            [0, last - first],
            [self.lengths[b] - later],
            [self.page_tables[b]],
        )

    def poison(self, page: int, places: "slice | int") -> None:
        """Makes latents and keys there what is not a number."""
        for pages in (self.latent_PSC, self.k_rope_PSR):
            nothing = torch.full_like(pages[page, places], 1, dtype=torch.float32) * float("nan")
            if pages.dtype == torch.int8:
                nothing = nothing[..., : pages.shape[-1] - 8]
            pages[page, places] = latents.stored(nothing, pages.dtype)


BOUNDS = {
    torch.float32: EXACT,
    torch.bfloat16: ROUNDED,
    torch.int8: IN_BYTES,
    torch.float8_e4m3fn: ROUNDED,
    torch.float8_e5m2: ROUNDED,
}
caches = pytest.mark.parametrize("dtype", BOUNDS, ids=["f32", "bf16", "int8", "e4m3", "e5m2"])
sequences = st.lists(
    st.tuples(st.integers(1, 6), st.one_of(st.integers(0, 40), st.sampled_from(SPAN_EDGES))),
    min_size=1,
    max_size=5,
)


@caches
@pytest.mark.parametrize(("H", "C", "R"), [(4, 32, 8), (16, 512, 64), (3, 20, 6), (17, 41, 10), (1, 15, 2)])
def test_decode_is_the_references_for_any_heads_and_widths(
    isa: str, dtype: torch.dtype, H: int, C: int, R: int
) -> None:
    paged = Paged.of([1, 3, 2], [300, 17, 2], H=H, C=C, R=R, dtype=dtype)
    assert relative_error(paged.run(), paged.expected()) < BOUNDS[dtype]


@caches
@pytest.mark.parametrize("length", SPAN_EDGES)
def test_decode_across_the_edges_of_spans(isa: str, dtype: torch.dtype, length: int) -> None:
    paged = Paged.of([1], [length], dtype=dtype)
    assert relative_error(paged.run(), paged.expected()) < BOUNDS[dtype]


@caches
@given(sequences)
@settings(max_examples=20)
def test_decode_of_sequences_together(isa: str, dtype: torch.dtype, shape: list[tuple[int, int]]) -> None:
    news = [new for new, _ in shape]
    paged = Paged.of(news, [new + old for new, old in shape], dtype=dtype)
    assert relative_error(paged.run(), paged.expected()) < BOUNDS[dtype]


@caches
@given(sequences, st.data())
@settings(max_examples=20)
def test_a_tokens_bits_depend_on_its_own_keys_only(
    isa: str, dtype: torch.dtype, shape: list[tuple[int, int]], data: st.DataObject
) -> None:
    news = [new for new, _ in shape]
    paged = Paged.of(news, [new + old for new, old in shape], dtype=dtype)
    whole_THC = paged.run()
    b = data.draw(st.integers(0, len(news) - 1))
    first = data.draw(st.integers(0, news[b] - 1))
    last = data.draw(st.integers(first + 1, news[b]))
    rows = slice(paged.starts[b] + first, paged.starts[b] + last)
    assert torch.equal(paged.only(b, first, last).run(), whole_THC[rows])


@caches
@pytest.mark.parametrize(
    "C", [32, 33]
)  # numbers that are multiplied in pairs must not take the next row's first
def test_decode_does_not_read_beyond_a_sequences_end(isa: str, dtype: torch.dtype, C: int) -> None:
    paged = Paged.of([2, 1], [21, 19], C=C, dtype=dtype)
    clean_THC = paged.run()
    for table, length in zip(paged.page_tables, paged.lengths, strict=True):
        paged.poison(int(table[-1]), slice(length % PAGE, None))
    assert torch.equal(paged.run(), clean_THC)


@caches
def test_what_is_not_finite_stays_in_its_query_or_sequence(isa: str, dtype: torch.dtype) -> None:
    paged = Paged.of([3, 2], [21, 300], dtype=dtype)
    clean_THC = paged.run()
    paged.q_latent_THC[1, 2, 5] = float("nan")
    out_THC = paged.run()
    others = torch.ones(5, 4, dtype=torch.bool)
    others[1, 2] = False
    assert torch.equal(out_THC[others], clean_THC[others])
    assert out_THC[1, 2].isnan().all()
    paged.poison(int(paged.page_tables[1][0]), 0)
    out_THC = paged.run()
    assert torch.equal(out_THC[[0, 2]], clean_THC[[0, 2]])
    assert not out_THC[3:].isfinite().all(-1).any()


@caches
@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_flat_and_peaked_weights(isa: str, dtype: torch.dtype, scale: float) -> None:
    paged = Paged.of([2, 1], [280, 30], dtype=dtype)
    out_THC = paged.run(scale=scale)
    assert out_THC.isfinite().all()
    if dtype == torch.float32 or scale <= 1:  # a rounded query may prefer another of two keys
        assert relative_error(out_THC, paged.expected(scale)) < max(1, scale) * 3 * BOUNDS[dtype]


@caches
def test_zeros_in_the_cache_give_zeros(isa: str, dtype: torch.dtype) -> None:
    paged = Paged.of([1], [40], dtype=dtype)
    paged.latent_PSC.zero_()
    assert not paged.run().any()


@caches
def test_no_sequences_give_no_rows(isa: str, dtype: torch.dtype) -> None:
    assert Paged.of([], [], dtype=dtype).run().shape == (0, 4, 32)


@dataclass(frozen=True)
class Dense:
    """Sequences laid end to end, the first keys of each being context."""

    q_THX: Tensor
    k_SHX: Tensor
    v_SHV: Tensor
    q_starts: list[int]
    k_starts: list[int]

    @classmethod
    def of(cls, news: list[int], lengths: list[int], *, H: int = 4, X: int = 24, V: int = 16) -> "Dense":
        q_starts, k_starts = (list(itertools.accumulate(counts, initial=0)) for counts in (news, lengths))
        keys = k_starts[-1]
        return cls(
            random(q_starts[-1], H, X),
            random(keys, H, X, seed=1),
            random(keys, H, V, seed=2),
            q_starts,
            k_starts,
        )

    def run(self, *, rounded: bool = False, scale: float = 0.2) -> Tensor:
        return native_attention.mla_prefill(
            self.q_THX,
            self.k_SHX,
            self.v_SHV,
            q_starts=self.q_starts,
            k_starts=self.k_starts,
            scale=scale,
            rounded=rounded,
        )

    def expected(self, scale: float = 0.2) -> Tensor:
        return reference.mla_prefill(
            self.q_THX.double(),
            self.k_SHX.double(),
            self.v_SHV.double(),
            q_starts=self.q_starts,
            k_starts=self.k_starts,
            scale=scale,
        )


products = pytest.mark.parametrize(
    ("rounded", "bound"), [(False, EXACT), (True, ROUNDED)], ids=["f32", "bf16"]
)


@products
@pytest.mark.parametrize(("H", "X", "V"), [(4, 24, 16), (2, 192, 128), (3, 20, 20), (1, 7, 5), (5, 33, 17)])
def test_prefill_is_the_references_for_any_heads_and_widths(
    isa: str, rounded: bool, bound: float, H: int, X: int, V: int
) -> None:
    dense = Dense.of([5, 40, 1], [5, 60, 30], H=H, X=X, V=V)
    assert relative_error(dense.run(rounded=rounded), dense.expected()) < bound


@products
@pytest.mark.parametrize("tokens", SPAN_EDGES)
@pytest.mark.parametrize("context", [0, 7, 256])
def test_prefill_across_the_edges_of_spans(
    isa: str, rounded: bool, bound: float, tokens: int, context: int
) -> None:
    dense = Dense.of([tokens], [tokens + context], H=2)
    assert relative_error(dense.run(rounded=rounded), dense.expected()) < bound


@products
@given(sequences)
@settings(max_examples=20)
def test_prefill_attends_within_each_sequence_only(
    isa: str, rounded: bool, bound: float, shape: list[tuple[int, int]]
) -> None:
    news, lengths = [new for new, _ in shape], [new + old for new, old in shape]
    dense = Dense.of(news, lengths)
    out_THV = dense.run(rounded=rounded)
    assert relative_error(out_THV, dense.expected()) < bound
    for b in range(len(news)):
        queries, keys = slice(*dense.q_starts[b : b + 2]), slice(*dense.k_starts[b : b + 2])
        alone = Dense(
            dense.q_THX[queries], dense.k_SHX[keys], dense.v_SHV[keys], [0, news[b]], [0, lengths[b]]
        )
        assert torch.equal(alone.run(rounded=rounded), out_THV[queries])


@products
def test_what_is_not_finite_stays_in_its_sequence_and_head(isa: str, rounded: bool, bound: float) -> None:
    dense = Dense.of([20, 9], [20, 30])
    clean_THV = dense.run(rounded=rounded)
    dense.v_SHV[3, 1, 0] = float("nan")
    dense.q_THX[25, 2, 0] = float("inf")
    out_THV = dense.run(rounded=rounded)
    others = torch.ones(29, 4, dtype=torch.bool)
    others[:20, 1] = False
    others[25, 2] = False
    assert torch.equal(out_THV[others], clean_THV[others])
    assert out_THV[3:20, 1, 0].isnan().all()
    assert out_THV[25, 2].isnan().all()


@products
@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_flat_and_peaked_weights_of_a_prompt(isa: str, rounded: bool, bound: float, scale: float) -> None:
    dense = Dense.of([40], [300])
    out_THV = dense.run(rounded=rounded, scale=scale)
    assert out_THV.isfinite().all()
    if not rounded or scale <= 1:
        assert relative_error(out_THV, dense.expected(scale)) < max(1, scale) * 3 * bound


@products
def test_a_prompt_of_no_tokens_gives_no_rows(isa: str, rounded: bool, bound: float) -> None:
    assert Dense.of([], []).run(rounded=rounded).shape == (0, 4, 16)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 3e-6), (torch.bfloat16, 1e-2)], ids=["f32", "bf16"]
)
@given(st.integers(1, 40), st.sampled_from([0, 5, 230, 500]))
@settings(max_examples=12)
def test_absorbed_and_expanded_forms_are_one(
    isa: str, dtype: torch.dtype, bound: float, new: int, old: int
) -> None:
    H, N, V = 4, 16, 12
    paged = Paged.of([new], [new + old], H=H, dtype=dtype)
    key_HNC, value_HVC = random(H, N, 32, seed=5) / 6, random(H, V, 32, seed=6) / 6
    q_nope_THN = random(new, H, N, seed=7)
    absorbed = Paged(
        torch.einsum("thn,hnc->thc", q_nope_THN, key_HNC),
        *(getattr(paged, name) for name in ("q_rope_THR", "latent_PSC", "k_rope_PSR")),
        paged.starts,
        paged.lengths,
        paged.page_tables,
    )
    absorbed_THV = torch.einsum("thc,hvc->thv", absorbed.run(), value_HVC)
    latent_SC, k_rope_SR = (
        pages[paged.page_tables[0]].flatten(0, 1)[: new + old].float()
        for pages in (paged.latent_PSC, paged.k_rope_PSR)
    )
    expanded = Dense(
        torch.cat((q_nope_THN, paged.q_rope_THR), -1),
        torch.cat(
            (torch.einsum("sc,hnc->shn", latent_SC, key_HNC), k_rope_SR[:, None].expand(-1, H, -1)), -1
        ),
        torch.einsum("sc,hvc->shv", latent_SC, value_HVC),
        [0, new],
        [0, new + old],
    )
    assert relative_error(absorbed_THV, expanded.run(rounded=dtype == torch.bfloat16)) < bound


@products
@given(st.integers(1, 40), st.sampled_from([1, 16, 300]))
@settings(max_examples=12)
def test_parts_of_the_keys_put_together_are_the_whole(
    isa: str, rounded: bool, bound: float, new: int, old: int
) -> None:
    dense = Dense.of([new], [new + old])
    parts = [(slice(0, old // 2), False), (slice(old // 2, old), False), (slice(old, None), True)]
    for kernels in (native_attention, reference):
        how = {"scale": 0.2, "rounded": rounded}
        found = [
            kernels.mla_part(dense.q_THX, dense.k_SHX[keys], dense.v_SHV[keys], causal=causal, **how)  # type: ignore[arg-type]
            for keys, causal in parts
            if len(dense.k_SHX[keys])
        ]
        spread_PTH = torch.stack([spread for _, spread in found])
        shares_PTH = (spread_PTH - spread_PTH.logsumexp(0)).exp()
        whole = (torch.stack([out for out, _ in found]) * shares_PTH[..., None]).sum(0)
        assert relative_error(whole, dense.expected()) < bound
