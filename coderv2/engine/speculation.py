"""How many drafted tokens a step checks: as many as bring more tokens than checking them costs.

Weights are read once for all tokens of a pass, which is what makes drafts pay; but each token reads its own choice of
experts, so checking is not free: a pass of 2 tokens reads 1.5 times the weights for one of Lite's, one of 8 3.7 times.
"""

from collections.abc import Sequence
from dataclasses import replace

from coderv2.engine.choosing import Turn
from coderv2.engine.drafts import Drafter
from coderv2.engine.pages import Pages
from coderv2.engine.request import Request
from coderv2.engine.scheduler import Chunk
from coderv2.model.config import ModelConfig

# Multiplying with a weight, beside reading it from memory: about a tenth on CPUs, less on GPUs.
_ARITHMETIC = 0.1
# The text is certain, but not that the model spells it with these tokens.
_FORCED_TRUST = 0.95


class Costs:
    """What a forward pass takes, in parameters read; tokens choose their experts independently."""

    def __init__(self, config: ModelConfig) -> None:
        sparse = sum(not config.is_dense(layer) for layer in range(config.num_hidden_layers))
        expert = 3 * config.hidden_size * config.moe_intermediate_size
        self._share = config.num_experts_per_tok / config.n_routed_experts
        self._routed = float(sparse * config.n_routed_experts * expert)
        self._rest = float(
            config.num_hidden_layers * _attention(config)
            + sparse * (config.n_shared_experts or 0) * expert
            + (config.num_hidden_layers - sparse) * 3 * config.hidden_size * config.intermediate_size
            + config.hidden_size * config.vocab_size
        )

    def read(self, tokens: int) -> float:
        """Parameters that a pass of `tokens` tokens reads: 2.45 billion for one of Lite's."""
        return self._rest + self._routed * (1 - (1 - self._share) ** tokens)

    def __call__(self, tokens: int) -> float:
        """The same with the time for multiplying counted as reading."""
        return self.read(tokens) + _ARITHMETIC * tokens * self.read(1)


def _attention(config: ModelConfig) -> int:
    heads, compressed = config.num_attention_heads, config.q_lora_rank
    queries = config.hidden_size * heads * config.qk_head_dim
    if compressed is not None:
        queries = compressed * (config.hidden_size + heads * config.qk_head_dim)
    down = config.hidden_size * (config.kv_lora_rank + config.qk_rope_head_dim)
    up = config.kv_lora_rank * heads * (config.qk_nope_head_dim + config.v_head_dim)
    return queries + down + up + heads * config.v_head_dim * config.hidden_size


def worthwhile(chances: Sequence[float], cost: Costs, others: int, answers: int) -> int:
    """How many drafted tokens bring the most, beyond what checking them takes.

    A token is worth its part of a plain step: that of `others` tokens, of which `answers` bring one each.
    """
    plain = cost(others)
    worth = plain / answers
    best, best_gain, gain, chance = 0, 0.0, 0.0, 1.0
    for count, right in enumerate(chances, 1):
        chance *= right
        gain += chance * worth
        net = gain - (cost(others + count) - plain)
        if net > best_gain:
            best, best_gain = count, net
    return best


class Drafting:
    """Adds drafts to a step's chunks while its budget and the free pages last."""

    def __init__(
        self, config: ModelConfig, pages: Pages, *, max_batch_tokens: int, draft_tokens: int
    ) -> None:
        self._cost = Costs(config)
        self._pages = pages
        self._budget = max_batch_tokens
        self._most = draft_tokens

        self.drafted = 0
        self.accepted = 0

    def equip(self, request: Request) -> None:
        """Gives a new request its drafter, unless it wants none."""
        if self._most_for(request) == 0:
            return
        prediction = request.params.prediction or ()
        assert not isinstance(prediction, str), "Admission.ready has encoded it"
        request.drafter = Drafter(request.tokens, prediction)

    def count(self, turn: Turn) -> None:
        """Adds what became of a draft to the totals."""
        self.drafted += len(turn.chunk.draft)
        self.accepted += turn.taken

    def extend(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The same chunks, those of answers with a draft where that pays."""
        tokens = sum(len(chunk.token_ids) for chunk in chunks)
        answers = sum(chunk.completes for chunk in chunks)
        extended = []
        for chunk in chunks:
            draft = self._draft(chunk.request, tokens, answers) if chunk.completes else []
            tokens += len(draft)
            extended.append(replace(chunk, draft=tuple(draft)) if draft else chunk)
        return extended

    def _draft(self, request: Request, tokens: int, answers: int) -> list[int]:
        left = request.limit - request.answer_count - 1
        room = min(self._budget - tokens, left, self._most_for(request))
        # Where the whole prompt's logits are wanted there is no telling them from a draft's.
        if request.drafter is None or request.reads_prompt or room <= 0:
            return []
        draft, chances = _propose(request, request.drafter, room)
        draft = draft[: worthwhile(chances, self._cost, tokens, answers)]
        return draft[: self._room(request, len(draft))]

    def _most_for(self, request: Request) -> int:
        own = request.params.draft_tokens
        return self._most if own is None else own

    def _room(self, request: Request, wanted: int) -> int:
        """Drafted tokens for which there are pages; none are taken from another sequence."""
        if wanted and self._pages.grow(request.pages, len(request.tokens) + wanted):
            return wanted
        return min(wanted, len(request.pages) * self._pages.page_size - len(request.tokens))


def _propose(request: Request, drafter: Drafter, room: int) -> tuple[list[int], list[float]]:
    """What the constraint forces comes first; nothing is proposed that it rules out."""
    if request.constraint is None:
        return drafter.propose(room)
    if forced := list(request.constraint.forced())[:room]:
        return forced, [_FORCED_TRUST] * len(forced)
    draft, chances = drafter.propose(room)
    fitting = request.constraint.fitting(draft)
    return draft[:fitting], chances[:fitting]
