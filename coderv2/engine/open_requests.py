"""From a submission to its last delta: what callers ask for, and what ends by the clock.

Here requests are queued, aborted, and ended at their deadlines; what a forward pass does to them is `engine`'s.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from coderv2.engine import prefix
from coderv2.engine.admission import Admission
from coderv2.engine.contest import Contest, through
from coderv2.engine.deadlines import Deadlines, check_deadline
from coderv2.engine.request import Delta, Request, SamplingParams
from coderv2.engine.scheduler import Scheduler
from coderv2.engine.settings import EngineSettings
from coderv2.engine.speculation import Drafting
from coderv2.errors import InvalidValue, QueueFull, shown

_MOST_URGENT = 1_000_000
"""Levels of priority on either side of 0: more than a year of waiting."""


@dataclass(frozen=True)
class Terms:
    """On which a submission waits and runs. Raises InvalidValue."""

    tenant: str = ""
    """Cached prompts are shared among requests of the same one only."""
    priority: int = 0
    """A lower one is served first."""
    deadline: float | None = None
    """Seconds after which what is there is the answer."""
    patience: float | None = None
    """Seconds after which what has not begun is given up."""

    def __post_init__(self) -> None:
        check_deadline(0.0, self.deadline)
        check_deadline(0.0, self.patience)
        if not isinstance(self.priority, int) or abs(self.priority) > _MOST_URGENT:
            message = f"priority must be a whole number from -{_MOST_URGENT} to {_MOST_URGENT}"
            raise InvalidValue(f"{message}, not {shown(self.priority)}", param="priority")


class OpenRequests:
    """One engine's requests that have not ended, by the id of their submission; iterating gives each request."""

    def __init__(
        self,
        admission: Admission,
        scheduler: Scheduler,
        drafting: Drafting,
        settings: EngineSettings,
        clock: Callable[[], float],
    ) -> None:
        self._admission, self._scheduler, self._drafting = admission, scheduler, drafting
        self._settings, self._clock = settings, clock
        self._groups: dict[str, list[Request]] = {}
        self._contests: dict[str, Contest] = {}
        self._deadlines, self._patience = Deadlines(), Deadlines()
        self._ended: list[Delta] = []
        self._serial = count()
        self.gave_up = 0
        """Requests that waited too long in the queue."""

    def __iter__(self) -> Iterator[Request]:
        return (request for group in tuple(self._groups.values()) for request in tuple(group))

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._groups

    def __bool__(self) -> bool:
        """True while a request is open, or one's last delta has not been told."""
        return bool(self._groups or self._ended)

    def full(self, answers: int = 1) -> bool:
        """True when the queue has no room for so many more sequences."""
        return len(self._scheduler.waiting) + answers > self._settings.max_waiting

    def new_id(self) -> str:
        """For a submission that brings none."""
        return f"request-{next(self._serial)}"

    def add(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
        terms: Terms | None = None,
    ) -> str:
        """Queues what `Admission` has let pass; its id. Where it raises InvalidValue or QueueFull nothing is queued."""
        terms, arrival = terms or Terms(), self._clock()
        ends, gives_up = check_deadline(arrival, terms.deadline), check_deadline(arrival, terms.patience)
        if self.full(params.answers):
            raise QueueFull(f"{len(self._scheduler.waiting)} requests are waiting already; try again soon")
        request_id = request_id or self.new_id()
        if request_id in self:
            raise InvalidValue(f"request_id {request_id!r} is in use", param="request_id")
        requests = self._admission.requests(request_id, prompt_ids, params, self._salt(terms.tenant))
        for request in requests:
            self._drafting.equip(request)
        if params.answers > params.n:
            self._contests[request_id] = Contest(params)
        self._groups[request_id] = requests
        self._scheduler.add(requests, arrival=arrival, priority=terms.priority)
        self._deadlines.add(requests, ends)
        self._patience.add(requests[:1], gives_up)  # its other answers never begin before the first
        return request_id

    def _salt(self, tenant: str) -> bytes:
        owner = (tenant,) if self._settings.prefix_caching else (tenant, str(next(self._serial)))
        return prefix.salt("exact", *owner)

    def abort(self, request_id: str) -> None:
        """Ends a submission's open answers, if it has any."""
        for request in tuple(self._groups.get(request_id, ())):
            self._end(request, request.abort())

    def expire(self) -> None:
        """Ends whose time is up."""
        now = self._clock()
        for request in self._deadlines.passed(now):
            self._end(request, request.expire())
        for first in self._patience.passed(now):
            if first.num_cached is None:
                self._give_up(self._groups[first.id])

    def _give_up(self, group: Iterable[Request]) -> None:
        self.gave_up += 1
        for request in tuple(group):
            self._end(
                request, request.give_up("the server is busy: the request waited too long; try again soon")
            )

    def _end(self, request: Request, last: Delta) -> None:
        self._ended.append(last)
        self.retire(request)

    def retire(self, request: Request) -> None:
        """Forgets a request that has ended; its pages are free when this returns."""
        self._scheduler.remove(request)
        group = self._groups[request.id]
        group.remove(request)
        if not group:
            del self._groups[request.id]

    def take_ended(self) -> list[Delta]:
        """The last deltas of what ended between two passes, each given once."""
        ended, self._ended = self._ended, []
        return ended

    def tell_later(self, deltas: Iterable[Delta], *, without: Container[str] = ()) -> None:
        """Deltas that are first of what `take_ended` gives next, from which all of `without` is left out."""
        self._ended = [*deltas, *(delta for delta in self._ended if delta.request_id not in without)]

    def told(self, deltas: Iterable[Delta]) -> list[Delta]:
        """Those that callers hear of now: of `best_of`, the best alone and at its end."""
        return through(self._contests, deltas)
