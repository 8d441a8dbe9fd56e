"""Counts and times for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from coderv2.server.generation import Generation
from coderv2.server.models import Models

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_STATS = {
    "running": "sequences that advance together",
    "waiting": "sequences in the queue",
    "pages_used": "cache pages held by running sequences",
    "pages_total": "cache pages",
    "pages_idle": "cache pages kept for prompts that start the same",
    "prompt_tokens": "prompt tokens of all requests that have started",
    "cached_tokens": "of these, found in the cache",
    "draft_tokens": "guessed tokens that were checked",
    "accepted_tokens": "of these, right",
    "gave_up": "requests that waited too long in the queue",
}


class Metrics:
    """One server's."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "coderv2_requests", "requests that ended", ["route", "status"], registry=registry
        )
        self._open = Gauge("coderv2_open_requests", "requests being answered", registry=registry)
        self._seconds = _histogram("coderv2_request_seconds", "a request from start to end", registry)
        self._first = _histogram("coderv2_first_token_seconds", "until the first token", registry)
        self._between = _histogram(
            "coderv2_between_tokens_seconds", "between steps that brought tokens", registry
        )
        self._tokens = Counter("coderv2_tokens", "tokens by kind", ["route", "kind"], registry=registry)
        self._events = Counter(
            "coderv2_completion_events",
            "what editors say became of completions",
            ["event"],
            registry=registry,
        )
        self._stats = {
            name: Gauge(f"coderv2_engine_{name}", text, ["engine"], registry=registry)
            for name, text in _STATS.items()
        }

    def begin(self, work: Generation) -> None:
        """A generation has started."""
        self._open.inc()

    def end(self, route: str, status: int, seconds: float, work: Generation | None) -> None:
        """A request has ended, and with it its generation if it had one."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if work is None:
            return
        self._open.dec()
        usage = work.usage
        for kind, count in (
            ("prompt_hit", usage.cached_tokens),
            ("prompt_miss", usage.missed_tokens),
            ("completion", usage.completion_tokens),
        ):
            self._tokens.labels(route, kind).inc(count)
        if work.clock.first is not None:
            self._first.labels(route).observe(work.clock.prompt_seconds)
        between = self._between.labels(route)
        for gap in work.clock.gaps:
            between.observe(gap)

    def seen(self, event: str) -> None:
        """An editor says that it showed a completion, or that it was taken or dismissed."""
        self._events.labels(event).inc()

    def page(self, models: Models | None) -> bytes:
        """All of it in Prometheus's text form."""
        for place, backend in enumerate(models.backends if models else ()):
            stats = backend.engine.stats()
            for name, gauge in self._stats.items():
                gauge.labels(("chat", "text")[place]).set(getattr(stats, name))
        return generate_latest(self._registry)


def _histogram(name: str, text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, ["route"], buckets=_SECONDS, registry=registry)
