"""Infilling that reuses a suffix: its latents from an earlier prompt, moved to where its tokens stand now.

In a prefix-first prompt every keystroke changes what stands before the suffix, so no page of the suffix is equal any
more. But the latent of a token holds no position; only its rotary numbers do, and turning them further moves the token.
What is lost: the latents were computed under the old prefix. So this is asked for by request (`fim_reuse="shifted"`),
the tokens next to the hole are computed anew, and so is everything after what was taken over. Nothing that stands on
moved latents ever gets a digest: no exact request can find it.
"""

from array import array
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from coderv2.engine.pages import Pages
from coderv2.engine.request import Request
from coderv2.model.cache import LatentCache
from coderv2.text.tokenizer import FimIds

NEEDLE = 16
"""Equal tokens in a row that make it likely that two suffixes are of one file."""
LEAST = 32
"""Fewer tokens are not worth it."""
_DONORS, _OWNERS, _TRIES = 8, 256, 8


@dataclass(frozen=True)
class Donor:
    """A prompt that was computed exactly; its pages are found by the digests, as long as they are there."""

    suffix: "array[int]"
    first: int
    """Where the suffix begins in the prompt."""
    digests: list[bytes]


@dataclass(frozen=True)
class Run:
    """Equal tokens in two suffixes, places counted from each one's start."""

    new: int
    old: int
    length: int


class Suffixes:
    """The newest infilling prompts of each owner, and how to take over their suffixes."""

    def __init__(self, cache: LatentCache, pages: Pages, fim: FimIds | None, *, seam: int) -> None:
        """`seam` tokens after the hole are computed in any case."""
        self._cache = cache
        self._pages = pages
        self._hole = None if fim is None else fim.hole
        self._seam = seam
        self._donors: OrderedDict[bytes, deque[Donor]] = OrderedDict()

    def take_over(self, request: Request, found: int) -> range | None:
        """Fills pages of `request`, whose first `found` tokens are cached, and says which tokens that makes cached.

        None when it must be, or has to be, exact; then it serves as a donor to others.
        """
        prompt = request.tokens[: request.prompt_count]
        if self._hole is None or self._hole not in prompt:
            return None
        first = prompt.index(self._hole) + 1
        if request.params.fim_reuse == "shifted" and not request.reads_prompt:
            for donor in self._donors.get(request.salt, ()):
                if (taken := self._move(donor, request, first, found)) is not None:
                    return taken
        self._remember(request, prompt, first)
        return None

    def _remember(self, request: Request, prompt: Sequence[int], first: int) -> None:
        if request.index or len(prompt) - first < LEAST:
            return
        size = self._pages.page_size
        digests = request.chain.digests(request.tokens, size, len(prompt) // size)
        donors = self._donors.setdefault(request.salt, deque(maxlen=_DONORS))
        donors.appendleft(Donor(array("i", prompt[first:]), first, digests))
        self._donors.move_to_end(request.salt)
        if len(self._donors) > _OWNERS:
            self._donors.popitem(last=False)

    def _move(self, donor: Donor, request: Request, first: int, found: int) -> range | None:
        suffix = array("i", request.tokens[first : request.prompt_count - 1])
        if (run := common_run(suffix, donor.suffix, start=self._seam)) is None:
            return None
        pages = self._pages.find(donor.digests)
        shift = first + run.new - (donor.first + run.old)
        begin = max(first + run.new, first + self._seam, found)
        end = min(first + run.new + run.length, len(pages) * self._pages.page_size + shift)
        if end - begin < LEAST:
            return None
        self._pages.touch(pages)
        self._cache.move(pages, range(begin - shift, end - shift), request.pages, range(begin, end))
        return range(begin, end)


def common_run(new: "array[int]", old: "array[int]", *, start: int) -> Run | None:
    """The longest equal run that goes through one of a few needles of `new`, the first of them at `start`.

    Code repeats itself, so the first place where `old` holds a needle need not be the right one.
    """
    best: Run | None = None
    for place in range(start, len(new) - NEEDLE + 1, max(start, NEEDLE))[:_TRIES]:
        for found in islice(_occurrences(old, new[place : place + NEEDLE]), _TRIES):
            run = _widened(np.asarray(new), np.asarray(old), place, found)
            best = run if best is None or run.length > best.length else best
        if best is not None and 2 * best.length > len(new):
            break
    return best


def _occurrences(old: "array[int]", needle: "array[int]") -> Iterator[int]:
    """Everywhere that `old` holds the tokens of `needle`."""
    haystack, wanted, width = old.tobytes(), needle.tobytes(), old.itemsize
    at = haystack.find(wanted)
    while at >= 0:
        if at % width == 0:
            yield at // width
        at = haystack.find(wanted, at + 1)


def _widened(new: "np.ndarray", old: "np.ndarray", place: int, found: int) -> Run:
    """The longest run of equal tokens that goes through both places."""
    after = _equal(new[place:], old[found:])
    before = _equal(new[:place][::-1], old[:found][::-1])
    return Run(place - before, found - before, before + after)


def _equal(a: "np.ndarray", b: "np.ndarray") -> int:
    """How many tokens two rows have in common from their start."""
    count = min(len(a), len(b))
    differ = np.flatnonzero(a[:count] != b[:count])
    return int(differ[0]) if len(differ) else count
