"""Which page of the cache belongs to whom: handing out, sharing equal prefixes, evicting, and proving the sums.

A page is free, or held by one or more page tables, or idle: held by nobody, but kept because its content can be found
by its digest (`prefix`). Only full pages get a digest, and nothing is ever written to one again, so a page with a
digest may stand in many tables. Idle pages are taken, least recently used first, when no page is free.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol


class Tier(Protocol):
    """A slower place for pages that leave the cache; `disk` is one."""

    def load(self, digest: bytes, page: int) -> bool:
        """Fills the page with what was saved under this digest; False when there is nothing, or nothing sound."""

    def save(self, digest: bytes, page: int) -> None:
        """Keeps the page's content under this digest, unless that is there already."""


class Pages:
    """Pages 0 to count - 1."""

    def __init__(self, count: int, page_size: int, tier: Tier | None = None) -> None:
        self.count = count
        self.page_size = page_size
        self.tier = tier
        self._free = list(range(count - 1, -1, -1))
        self._holders: Counter[int] = Counter()
        self._idle: dict[int, None] = {}  # the least recently used first
        self._page_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._unsaved: dict[int, None] = {}  # known pages that the tier has not been given

    @property
    def used(self) -> int:
        """Pages in some table."""
        return len(self._holders)

    @property
    def idle(self) -> int:
        """Pages that nobody holds and a coming prefix may find."""
        return len(self._idle)

    @property
    def available(self) -> int:
        """Pages that could be handed out now."""
        return len(self._free) + len(self._idle)

    def needed(self, tokens: int) -> int:
        """Pages for so many tokens."""
        return -(-tokens // self.page_size)

    def find(self, digests: Sequence[bytes]) -> list[int]:
        """The pages of the longest known start of a chain; nothing changes."""
        found = []
        for digest in digests:
            if (page := self._page_of.get(digest)) is None:
                break
            found.append(page)
        return found

    def known(self, digest: bytes) -> int | None:
        """The page with this content."""
        return self._page_of.get(digest)

    def claim(self, table: list[int], tokens: int, digests: Sequence[bytes]) -> int | None:
        """Fills an empty table for `tokens` tokens, sharing what is known of the chain; how many pages came filled.

        None, and nothing changed, when too few pages are available.
        """
        found = self.find(digests)
        if self.needed(tokens) - len(found) > self.available - sum(page in self._idle for page in found):
            return None
        for page in found:
            self._hold(page)
        table += found
        table += self._load(digests[len(found) :])
        filled = len(table)
        self.grow(table, tokens)
        return filled

    def grow(self, table: list[int], tokens: int) -> bool:
        """Appends pages until `table` holds `tokens` tokens; False, and nothing changed, when too few are available."""
        wanted = self.needed(tokens) - len(table)
        if wanted > self.available:
            return False
        for _ in range(wanted):
            table.append(self._take())
        return True

    def touch(self, pages: Iterable[int]) -> None:
        """Counts these pages as used just now."""
        for page in reversed(list(pages)):
            if page in self._idle:
                self._idle[page] = self._idle.pop(page)

    def publish(self, page: int, digest: bytes) -> None:
        """Lets others find a held page that is full; of two pages with equal content the first stays the known one."""
        if digest not in self._page_of and page not in self._digest_of:
            self._page_of[digest] = page
            self._digest_of[page] = digest
            if self.tier is not None:
                self._unsaved[page] = None

    def release(self, table: list[int]) -> None:
        """Lets go of every page of `table` and empties it."""
        # Last page first: the end of a chain is of no use without its start, so it is to be evicted first.
        for page in reversed(table):
            if page not in self._holders:
                raise KeyError(page)
            self._holders[page] -= 1
            if not self._holders[page]:
                del self._holders[page]
                self._lay_down(page)
        table.clear()

    def forget(self) -> None:
        """Makes every page unknown, as when the weights change; none may be held."""
        if self._holders:
            raise AssertionError(f"{self.used} pages are still held")
        self._free += self._idle
        self._idle.clear()
        self._page_of.clear()
        self._digest_of.clear()
        self._unsaved.clear()

    def save(self) -> bool:
        """Gives one known page to the tier; False when it has been given all."""
        page = next(iter(self._unsaved), None)
        if page is not None:
            self._save(page)
        return page is not None

    def _save(self, page: int) -> None:
        if self.tier is not None and page in self._unsaved:
            del self._unsaved[page]
            self.tier.save(self._digest_of[page], page)

    def _hold(self, page: int) -> None:
        self._idle.pop(page, None)
        self._holders[page] += 1

    def _lay_down(self, page: int) -> None:
        if page in self._digest_of:
            self._idle[page] = None
        else:
            self._free.append(page)

    def _take(self) -> int:
        page = self._free.pop() if self._free else self._evict()
        self._holders[page] = 1
        return page

    def _evict(self) -> int:
        page = next(iter(self._idle))
        self._save(page)
        del self._idle[page], self._page_of[self._digest_of.pop(page)]
        return page

    def _load(self, digests: Sequence[bytes]) -> list[int]:
        """Pages filled from the tier, as far as it knows the chain."""
        loaded: list[int] = []
        for digest in digests if self.tier is not None else ():
            if (page := self._page_of.get(digest)) is not None:
                self._hold(page)
            elif (page := self._take_loaded(digest)) is None:
                break
            loaded.append(page)
        return loaded

    def _take_loaded(self, digest: bytes) -> int | None:
        page = self._take()
        if self.tier is None or not self.tier.load(digest, page):
            del self._holders[page]
            self._free.append(page)
            return None
        self.publish(page, digest)
        self._unsaved.pop(page, None)
        return page

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises AssertionError unless `tables`, which are all there are, and the books agree on every page."""
        held = Counter(page for table in tables for page in table)
        if held != self._holders:
            raise AssertionError(
                f"tables hold {sorted(held.items())}, the books say {sorted(self._holders.items())}"
            )
        if private := [page for page, count in held.items() if count > 1 and page not in self._digest_of]:
            raise AssertionError(f"pages that are not full were given twice: {private}")
        if sorted([*held, *self._idle, *self._free]) != list(range(self.count)):
            raise AssertionError(
                f"{len(held)} held, {len(self._idle)} idle and {len(self._free)} free pages are not all {self.count}"
            )
        if {page: digest for digest, page in self._page_of.items()} != self._digest_of:
            raise AssertionError("digests and pages do not match")
        if not self._idle.keys() <= self._digest_of.keys() or self._digest_of.keys() & set(self._free):
            raise AssertionError("an idle page cannot be found, or a free one can")
