"""The random numbers of one answer."""

from array import array
from random import Random


class Luck:
    """Number n is for the answer's n-th token, whenever and however often it is asked for.

    So a step that is prepared early, and forgotten, leaves no trace. They are Python's, of the request's seed.
    """

    def __init__(self, seed: int) -> None:
        # Python's generator seeds -1 and 1 alike, so negative seeds go where no positive one is.
        self._random = Random(seed % 2**128)
        self._known = array("d")

    def at(self, place: int) -> float:
        """From 0 to below 1."""
        while len(self._known) <= place:
            self._known.append(self._random.random())
        return self._known[place]
