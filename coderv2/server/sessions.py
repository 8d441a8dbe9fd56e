"""A newer request of one editor takes the place of an older one that is still waiting for its first token."""

from weakref import WeakValueDictionary

from starlette.requests import Request

from coderv2.server.errors import Refused
from coderv2.server.generation import Generation


class Sessions:
    """The last request of each session: a key, an address, and what the editor calls its session or slot."""

    def __init__(self) -> None:
        self._latest: WeakValueDictionary[tuple[str, ...], Generation] = WeakValueDictionary()

    def enter(self, request: Request, work: Generation, slot: str = "") -> None:
        """`slot` stands in where the request names no session; with neither, nothing happens."""
        caller = request.state.caller
        session = caller.session or slot
        if not session:
            return
        place = (caller.tenant, request.client.host if request.client else "", session)
        older = self._latest.get(place)
        if older is not None and older.clock.first is None:
            older.abandon(Refused(499, None, "a newer request of the same session took its place"))
        self._latest[place] = work
