"""Which page of the cache belongs to which sequence, and the proof that the sums are right."""

from collections.abc import Iterable, Sequence


class Pages:
    """Pages 0 to count - 1, each free or in exactly one page table."""

    def __init__(self, count: int, page_size: int) -> None:
        self.count = count
        self.page_size = page_size
        self._free = list(range(count - 1, -1, -1))
        self._used: set[int] = set()

    @property
    def used(self) -> int:
        """Pages in some table."""
        return len(self._used)

    def grow(self, table: list[int], tokens: int) -> bool:
        """Appends pages until `table` holds `tokens` tokens; False, and nothing changed, when too few are free."""
        wanted = -(-tokens // self.page_size) - len(table)
        if wanted > len(self._free):
            return False
        for _ in range(wanted):
            page = self._free.pop()
            self._used.add(page)
            table.append(page)
        return True

    def release(self, table: list[int]) -> None:
        """Frees every page of `table` and empties it."""
        for page in table:
            self._used.remove(page)
            self._free.append(page)
        table.clear()

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises AssertionError unless every page is free or in exactly one of `tables`, which are all there are."""
        held = [page for table in tables for page in table]
        if len(set(held)) != len(held):
            raise AssertionError(f"a page was given twice: {sorted(held)}")
        if set(held) != self._used:
            raise AssertionError(f"tables hold {sorted(held)}, but marked as used are {sorted(self._used)}")
        if sorted([*held, *self._free]) != list(range(self.count)):
            raise AssertionError(
                f"{len(held)} used and {len(self._free)} free pages are not all {self.count}"
            )
