"""Any OpenAI-compatible endpoint: chat, completions, infilling by `suffix`, options by echoed logprobs."""

import asyncio
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from coderv2.errors import ContextTooLong, InvalidValue, ServiceError, Unsupported
from coderv2.evaluation.asking import Ask, Chat, Choose, Complete, Decoding, Infill, Place, Reply
from coderv2.evaluation.clients import Clients
from coderv2.evaluation.pace import Pace
from coderv2.log import logger
from coderv2.text.tokenizer import Tokenizer

_BUSY = {429, 503}
_RETRIED = {408, 409, 425, 500, 502, 504}
_ATTEMPTS = 5
_LONGEST_WAIT = 60.0
_CONTEXT = re.compile(r"context (?:length|size|window)\D{1,20}(\d+)")
_REQUESTED, _INPUT = re.compile(r"requested (\d+)"), re.compile(r"(\d+) input tokens")
_Outcome = tuple[
    dict[str, Any] | None, str, float | None
]  # the body; else why not, and the wait that was asked for


class Endpoint:
    """A model behind `/v1`."""

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        key: str | None = None,
        in_flight: int = 64,
        tokenizer: Tokenizer | None = None,
        first_wait: float = 0.5,
        patience: float = 900.0,
        timeout: float = 600.0,
        option: str = "endpoint",
    ) -> None:
        """`model` None asks the endpoint what it serves, with the first request.

        An endpoint that is down is tried `_ATTEMPTS` times, after `first_wait` seconds and then twice as many each; one
        that is busy (429, 503) as often as it takes, unless it serves nobody for `patience` seconds. `timeout` is for
        one reply. `option` is the one that named it.
        """
        if not url.startswith(("http://", "https://")):
            raise InvalidValue(f"--{option} must be a URL (http://host:port/v1), not {url!r}", param=option)
        base = url.rstrip("/")
        self.url = base if base.endswith("/v1") else f"{base}/v1"
        self.name = model or self.url
        self.tokenizer = tokenizer
        self.context: int | None = None
        self._model = model
        self._naming = asyncio.Lock()
        self._pace = Pace(in_flight)
        self._first_wait, self._patience = first_wait, patience
        self._served_at = 0.0
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._clients = Clients(headers, httpx.Timeout(timeout, connect=10.0))

    async def close(self) -> None:
        """Closes the connections."""
        await self._clients.close()

    async def identity(self) -> dict[str, str]:
        """The model's name there, and where that is. Asks for the name where none was given."""
        await self._find_name()
        return {"model": self.name, "endpoint": self.url}

    async def reply(self, ask: Ask, place: Place) -> Reply:
        """See `Generator`."""
        match ask:
            case Chat():
                return _read_chat(
                    await self._post("chat/completions", {"messages": ask.shown}, ask.decoding, place)
                )
            case Complete():
                return _read_text(await self._post("completions", {"prompt": ask.text}, ask.decoding, place))
            case Infill():
                body = {"prompt": ask.prefix, "suffix": ask.suffix}
                return _read_text(await self._post("completions", body, ask.decoding, place))
            case Choose():
                return await self._weigh(ask, place)

    async def _weigh(self, ask: Choose, place: Place) -> Reply:
        weights = [await self._option(ask, option, place) for option in ask.options]
        best = max(range(len(weights)), key=weights.__getitem__)
        return Reply(ask.options[best], logprobs=tuple(weights))

    async def _option(self, ask: Choose, option: str, place: Place) -> float:
        body = {"prompt": ask.context + option, "echo": True, "logprobs": 1}
        try:
            answer = await self._post("completions", body, ask.decoding, place)
            return _echoed(answer["choices"][0]["logprobs"], len(ask.context), len(ask.context + option))
        except (InvalidValue, KeyError, TypeError, IndexError) as error:
            raise Unsupported(
                f"{self.url} does not give the log-probabilities of a prompt (echo with logprobs), by which this task "
                f"weighs options: ask for words instead with --prompt chat, or run the model in-process ({error})"
            ) from None

    async def _post(
        self, route: str, body: Mapping[str, Any], decoding: Decoding, place: Place
    ) -> dict[str, Any]:
        await self._find_name()
        whole = {"model": self._model, **body, **_sampling(decoding, place)}
        while True:
            try:
                return await self._send("POST", route, whole)
            except ContextTooLong as error:
                if whole["max_tokens"] == 1:
                    raise
                whole["max_tokens"] = _room(str(error), whole["max_tokens"])

    async def _find_name(self) -> None:
        async with self._naming:
            if self._model is None:
                listed = await self._send("GET", "models", None)
                try:
                    self.name = self._model = str(listed["data"][0]["id"])
                except (KeyError, TypeError, IndexError):
                    raise ServiceError(f"{self.url}/models lists no model: name one with -m") from None

    async def _send(self, method: str, route: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """One answer, asked for again as often as makes sense. Raises ServiceError, InvalidValue for a refusal."""
        failures, waits, began = 0, 0, time.monotonic()
        while True:
            async with self._pace:
                answer, trouble, wanted = await self._try(method, route, body)
            if answer is not None:
                self._served_at = time.monotonic()
                self._pace.went_well()
                return answer
            busy = wanted is not None
            failures, waits = failures + (not busy), waits + 1
            wait = wanted or min(_LONGEST_WAIT, self._first_wait * 2 ** (waits - 1))
            idle = time.monotonic() + wait - max(began, self._served_at)
            if failures >= _ATTEMPTS or idle > self._patience:
                raise ServiceError(
                    f"{self.url}/{route}: {trouble}; gave up after {waits} attempts. What was answered so far is "
                    "recorded: give the same command again when the endpoint works, and it goes on"
                )
            logger.debug("%s: %s; again in %.1f s", route, trouble, wait)
            self._pace.slow_down(wait) if busy else await asyncio.sleep(wait)

    async def _try(self, method: str, route: str, body: dict[str, Any] | None) -> _Outcome:
        try:
            answer = await self._clients.request(method, f"{self.url}/{route}", body)
        except httpx.HTTPError as error:
            return None, f"no answer ({type(error).__name__}: {error})", None
        excerpt = answer.text[:200]
        if answer.status_code in _BUSY:
            return (
                None,
                f"busy ({answer.status_code}: {excerpt})",
                _retry_after(answer.headers.get("retry-after")),
            )
        if answer.status_code in _RETRIED:
            return None, f"status {answer.status_code} ({excerpt})", None
        if answer.status_code == 400 and "context" in answer.text:
            raise ContextTooLong(answer.text[:1000])
        if answer.status_code >= 400:
            raise InvalidValue(f"{self.url}/{route} refuses the request with {answer.status_code}: {excerpt}")
        try:
            parsed = answer.json()
        except ValueError:
            return None, f"an answer that is not JSON ({excerpt!r})", None
        if not isinstance(parsed, dict) or not parsed.keys() & {"choices", "data"}:
            return None, f"an answer without choices ({excerpt!r})", None
        return parsed, "", None


def _room(refusal: str, max_tokens: int) -> int:
    """Tokens for a reply beside the prompt, by the refusal's numbers; half as many as refused where it has none."""
    context, requested, given = (p.search(refusal) for p in (_CONTEXT, _REQUESTED, _INPUT))
    prompt = int(given[1]) if given else int(requested[1]) - max_tokens if requested else None
    if context and prompt is not None:
        return max(1, min(int(context[1]) - prompt, max_tokens - 1))
    return max_tokens // 2


def _sampling(decoding: Decoding, place: Place) -> dict[str, Any]:
    fields: dict[str, Any] = {"max_tokens": decoding.max_tokens, "temperature": decoding.temperature}
    if decoding.temperature > 0:
        fields |= {"top_p": decoding.top_p, "seed": place.sample_seed}
    if decoding.stop:
        fields["stop"] = list(decoding.stop)
    return fields


def _read_chat(answer: Mapping[str, Any]) -> Reply:
    return _reply(answer, lambda choice: choice["message"]["content"] or "")


def _read_text(answer: Mapping[str, Any]) -> Reply:
    return _reply(answer, lambda choice: choice["text"])


def _reply(answer: Mapping[str, Any], text: Any) -> Reply:
    try:
        choice = answer["choices"][0]
        written = text(choice)
        tokens = (answer.get("usage") or {}).get("completion_tokens")
    except (KeyError, TypeError, IndexError, AttributeError):
        written = None
    if not isinstance(written, str):
        raise ServiceError(f"the endpoint's answer has no text where the API puts it: {str(answer)[:200]}")
    return Reply(written, choice.get("finish_reason") or "stop", tokens)


def _echoed(logprobs: Mapping[str, Any], start: int, end: int) -> float:
    """The sum over the tokens of the option, which stands at those characters of the echoed text."""
    pairs = zip(logprobs["token_logprobs"], logprobs["text_offset"], strict=True)
    own = [value for value, offset in pairs if start <= offset < end]
    if not own:
        raise KeyError("no token of the option among the logprobs")
    return float(sum(own))


def _retry_after(header: str | None) -> float:
    """Seconds; 0 where the endpoint does not say."""
    if header is None:
        return 0.0
    if header.strip().replace(".", "", 1).isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0
