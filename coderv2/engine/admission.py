"""What an engine refuses, and how a submission becomes its requests."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random

from coderv2.engine import determinism
from coderv2.engine.constraint import Constraint
from coderv2.engine.contest import scored
from coderv2.engine.grammar import Grammars
from coderv2.engine.healing import Healing
from coderv2.engine.luck import Luck
from coderv2.engine.request import Request, SamplingParams
from coderv2.engine.settings import EngineSettings
from coderv2.errors import ContextTooLong, InvalidValue, shown
from coderv2.model.config import ModelConfig
from coderv2.text.healing import Healed
from coderv2.text.tokenizer import Tokenizer

_AT_ONCE = 4096
"""Characters of a prediction that are encoded at once, 10 ms: other threads wait meanwhile for the interpreter."""


class Admission:
    """Checks against one engine's limits; `check` and `ready` may be called from any thread."""

    def __init__(
        self, config: ModelConfig, tokenizer: Tokenizer, settings: EngineSettings, max_model_len: int
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._settings = settings
        self._max_model_len = max_model_len
        self._grammars = Grammars(tokenizer, config.vocab_size)
        self._healing = Healing(tokenizer, config.vocab_size)
        self._seeds = Random(settings.seed)

    def check(self, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Raises InvalidValue or ContextTooLong for what the engine can never serve."""
        self.ids("prompt", prompt_ids)
        self.ids("stop_token_ids", params.stop_token_ids or ())
        self.ids("logit_bias", params.logit_bias or ())
        if params.prediction is not None and not isinstance(params.prediction, str):
            self.ids("prediction", params.prediction)
        if params.structured_outputs is not None:
            self._grammars.compile(params.structured_outputs)
        self._check_reuse(params)
        if not prompt_ids:
            raise InvalidValue("the prompt is empty: it needs at least one token", param="prompt")
        if params.answers > self._settings.max_waiting:
            name, most = "n" if params.best_of is None else "best_of", self._settings.max_waiting
            raise InvalidValue(f"{name} must be at most {most}, not {params.answers}", param=name)
        self._check_length(len(prompt_ids), params.max_tokens)

    def ready(self, params: SamplingParams) -> SamplingParams:
        """The same with its prediction as token ids, and no more of them than a context holds. Again: no change."""
        given = params.prediction
        if given is None:
            return params
        ids = self._encoded(given) if isinstance(given, str) else self.ids("prediction", given)
        return replace(params, prediction=ids[: self._max_model_len])

    def _encoded(self, text: str) -> list[int]:
        """At least the first tokens of a context: where a piece ends inside a token, one guess is wrong."""
        ids: list[int] = []
        for start in range(0, len(text), _AT_ONCE):
            if len(ids) >= self._max_model_len:
                break
            ids += self._tokenizer.encode(text[start : start + _AT_ONCE])
        return ids

    def _check_reuse(self, params: SamplingParams) -> None:
        if params.fim_reuse == "exact":
            return
        if self._settings.deterministic:
            raise InvalidValue(
                "fim_reuse='shifted' depends on what is cached: not with deterministic", param="fim_reuse"
            )
        if not self._settings.prefix_caching:
            raise InvalidValue(
                "fim_reuse='shifted' takes suffixes from the cache, but prefix_caching is off",
                param="fim_reuse",
            )

    def seed(self, prompt_ids: Sequence[int], params: SamplingParams) -> int:
        """The request's own, or the next one."""
        if params.seed is not None:
            return params.seed
        if self._settings.deterministic:
            return determinism.seed_of(prompt_ids, self._settings.seed)
        return self._seeds.getrandbits(63)

    def requests(
        self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams, salt: bytes
    ) -> list[Request]:
        """One for each of the n answers."""
        seed = self.seed(prompt_ids, params)
        healed = Healed(self.ids("prompt", prompt_ids))
        if params.token_healing:
            healed = self._healing.heal(healed.prompt_ids)
        room = self._max_model_len - len(healed.prompt_ids)
        requests: list[Request] = []
        params = scored(params)
        for index in range(params.answers):
            request = Request(
                id=request_id,
                index=index,
                params=params,
                tokens=list(healed.prompt_ids),
                healed=healed,
                limit=min(params.max_tokens or room, room),
                tokenizer=self._tokenizer,
                luck=Luck(seed + index),
                salt=salt,
                first=requests[0] if requests else None,
            )
            request.constraint = self._constraint(request)
            requests.append(request)
        return requests

    def _constraint(self, request: Request) -> Constraint | None:
        if request.params.structured_outputs is not None:
            return self._grammars.compile(request.params.structured_outputs)
        return self._healing.constraint(request.healed, request.end_ids)

    def check_scored(self, ids: Sequence[int]) -> None:
        """The same for a sequence that nothing is to follow."""
        self.ids("sequences", ids)
        if not 0 < len(ids) <= self._max_model_len:
            raise ContextTooLong(f"a sequence has {len(ids)} tokens; the limit is 1 to {self._max_model_len}")

    def ids(self, name: str, given: Iterable[int]) -> list[int]:
        """As Python's own numbers. Raises InvalidValue for what is no token of the model."""
        try:
            ids = [operator.index(token_id) for token_id in given]
        except TypeError:
            message = f"{name}: token ids are whole numbers, not {shown(given)}"
            raise InvalidValue(message, param=name) from None
        last = self._config.vocab_size - 1
        if ids and (min(ids) < 0 or max(ids) > last):
            wrong = next(i for i in ids if not 0 <= i <= last)
            raise InvalidValue(f"{name}: token {wrong} is not from 0 to {last}", param=name)
        return ids

    def _check_length(self, prompt_count: int, max_tokens: int | None) -> None:
        wanted = prompt_count + (max_tokens or 1)
        if wanted <= self._max_model_len:
            return
        limit = f"This model's maximum context length is {self._max_model_len} tokens"
        if self._max_model_len < self._config.max_position_embeddings:
            limit += f" as it is run here (its own is {self._config.max_position_embeddings})"
        raise ContextTooLong(
            f"{limit}. However, you requested {wanted} tokens ({prompt_count} in the prompt, {wanted - prompt_count} "
            "for the answer). Shorten the prompt or ask for fewer tokens."
        )
