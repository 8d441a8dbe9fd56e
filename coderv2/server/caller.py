"""Who asks, as the headers say, and what that key has left this minute."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request

from coderv2.server.errors import Refused
from coderv2.server.keys import Key, Keys

MINUTE = 60.0
_NO_KEY = "this server needs a valid API key: send it as Authorization: Bearer KEY"
_HEADERS = ("x-api-key", "api-key")


class Account:
    """One key's use in the last minute."""

    def __init__(self, key: Key, clock: Callable[[], float] = time.monotonic) -> None:
        self.key = key
        self.running = 0
        self._clock = clock
        self._requests: deque[float] = deque()
        self._tokens: deque[tuple[float, int]] = deque()
        self._spent = 0
        """Their sum."""

    def begin(self) -> None:
        """Counts a request. Raises Refused where the key has no more."""
        self._forget()
        for name, limit, used, wait in self._uses():
            if limit is not None and used >= limit:
                raise _limited("rate_limit_exceeded", f"this key may take {limit} {name} a minute", wait)
        if self.key.concurrent is not None and self.running >= self.key.concurrent:
            raise _limited("concurrency_limit", f"{self.running} requests of this key are running", 1.0)
        self._requests.append(self._clock())
        self.running += 1

    def end(self, tokens: int) -> None:
        """The request is over, and took so many tokens."""
        self.running -= 1
        if tokens:
            self._tokens.append((self._clock(), tokens))
            self._spent += tokens

    def headers(self) -> dict[str, str]:
        """What is left, as OpenAI tells it; only of what is limited."""
        self._forget()
        told: dict[str, str] = {}
        for name, limit, used, wait in self._uses():
            if limit is not None:
                told[f"x-ratelimit-limit-{name}"] = str(limit)
                told[f"x-ratelimit-remaining-{name}"] = str(max(0, limit - used))
                told[f"x-ratelimit-reset-{name}"] = _spelled(wait)
        return told

    def _uses(self) -> Iterator[tuple[str, int | None, int, float]]:
        """What is counted, its limit, what is used of it, and the seconds until some of that is forgotten."""
        requests, tokens = self._requests, self._tokens
        yield (
            "requests",
            self.key.requests_per_minute,
            len(requests),
            self._wait(requests[0] if requests else None),
        )
        yield "tokens", self.key.tokens_per_minute, self._spent, self._wait(tokens[0][0] if tokens else None)

    def _wait(self, oldest: float | None) -> float:
        return 0.0 if oldest is None else max(0.0, oldest + MINUTE - self._clock())

    def _forget(self) -> None:
        old = self._clock() - MINUTE
        while self._requests and self._requests[0] <= old:
            self._requests.popleft()
        while self._tokens and self._tokens[0][0] <= old:
            self._spent -= self._tokens.popleft()[1]


def _limited(code: str, message: str, wait: float) -> Refused:
    headers = {
        "retry-after": str(max(1, round(wait + 0.5))),
        "retry-after-ms": str(max(1, round(wait * 1000))),
    }
    return Refused(429, code, f"{message}; try again soon", type="rate_limit_error", headers=headers)


def _spelled(seconds: float) -> str:
    """6m0s, 1.5s, 12ms"""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:.0f}s" if minutes else f"{rest:.3g}s"


@dataclass
class Caller:
    """One request's sender."""

    account: Account | None = None
    """None: the server runs without keys."""
    session: str = ""
    """The editor session that the client named, if it did."""
    deadline: float | None = None
    """Seconds that the answer may take."""

    @property
    def tenant(self) -> str:
        """Cached prompts are shared within it only."""
        return "" if self.account is None else self.account.key.name

    @property
    def control_tokens(self) -> bool:
        """Whether raw prompts may hold control tokens."""
        return self.account is None or self.account.key.control_tokens


@dataclass
class Accounts:
    """Callers by their keys; without keys everybody is let in."""

    keys: Keys | None = None
    _accounts: dict[str, Account] = field(default_factory=dict)

    def recognise(self, request: Request) -> Caller:
        """Raises Refused with the same words for a key that is missing, wrong, or not the same in all headers."""
        headers = request.headers
        session = headers.get("x-session-id", "")[:256]
        caller = Caller(session=session, deadline=_deadline(headers.get("x-deadline-ms")))
        if self.keys is not None:
            presented = _presented(headers)
            key = self.keys.find(presented.pop() if len(presented) == 1 else "")
            if key is None:
                told = {"www-authenticate": "Bearer"}
                raise Refused(401, "invalid_api_key", _NO_KEY, type="authentication_error", headers=told)
            caller.account = self._accounts.setdefault(key.name, Account(key))
        return caller


def _presented(headers: Mapping[str, str]) -> set[str]:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = {headers[name].strip() for name in _HEADERS if name in headers}
    if scheme.lower() == "bearer":
        given.add(bearer.strip())
    elif scheme:
        given.add("")  # another scheme is no key of ours, and agrees with none
    return given


def _deadline(text: str | None) -> float | None:
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= len(text) <= 10 or int(text) < 1:
        raise Refused(
            400,
            "invalid_value",
            "x-deadline-ms must be a whole number of milliseconds",
            param="x-deadline-ms",
        )
    return int(text) / 1000
