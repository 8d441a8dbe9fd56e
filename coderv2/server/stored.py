"""Responses that are kept for a while, so that a next one can follow them; each is seen by its own key only."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from coderv2.server.errors import Refused
from coderv2.server.generation import Generation
from coderv2.server.stream import encode_json
from coderv2.text.chat import Message

KEPT = 1000
KEPT_BYTES = 50_000_000
"""Of all responses and their conversations together, about; the oldest go first."""


@dataclass(frozen=True)
class Stored:
    """A finished response, and the conversation that it ended."""

    response: dict[str, Any]
    messages: Sequence[Message]

    @cached_property
    def size(self) -> int:
        """Bytes, about."""
        return len(encode_json(self.response)) + sum(len(message.content) for message in self.messages)


class StoredResponses:
    """In memory; a restart forgets them."""

    def __init__(self) -> None:
        self.running: dict[tuple[str, str], Generation] = {}
        """Those that are being written, by key and id."""
        self._kept: OrderedDict[tuple[str, str], Stored] = OrderedDict()
        self._bytes = 0

    def keep(self, tenant: str, stored: Stored) -> None:
        """Remembers one, and forgets old ones."""
        self._kept[tenant, stored.response["id"]] = stored
        self._bytes += stored.size
        while len(self._kept) > KEPT or self._bytes > KEPT_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].size

    def get(self, tenant: str, id: str) -> Stored:
        """Raises Refused for one that is unknown, forgotten, or another's: all look the same."""
        found = self._kept.get((tenant, id))
        if found is None:
            raise _unknown(id)
        return found

    def delete(self, tenant: str, id: str) -> None:
        """Raises Refused as `get` does."""
        self._bytes -= self.get(tenant, id).size
        del self._kept[tenant, id]


class Shelf:
    """Where one response is kept, while it runs and after."""

    def __init__(self, stored: StoredResponses, tenant: str, id: str, store: bool) -> None:
        self._stored = stored
        self._place = (tenant, id)
        self._store = store

    def begin(self, work: Generation) -> None:
        """It is being written."""
        self._stored.running[self._place] = work

    def end(self, response: dict[str, Any] | None, messages: Sequence[Message]) -> None:
        """It was written, if there is a `response`; the conversation is kept with it."""
        del self._stored.running[self._place]
        if self._store and response is not None:
            self._stored.keep(self._place[0], Stored(response, messages))


def _unknown(id: str) -> Refused:
    """What is said of a response that is not there."""
    return Refused(404, "not_found", f"there is no response {id[:64]!r}", type="not_found_error")
