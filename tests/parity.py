"""Shared by the golden and the live comparison: which tokens go in, how far apart results may be."""

from torch import Tensor


def sample_ids(count: int, vocabulary: int = 600) -> list[int]:
    """Fixed tokens; a longer call starts with a shorter call's."""
    state, ids = 12345, []
    for _ in range(count):
        state = (1103515245 * state + 12345) % 2**31
        ids.append((state >> 8) % vocabulary)
    return ids


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference over norm of theirs, in double precision."""
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()
