"""Who has seen which prompt's start."""

from coderv2.server.upstream import affinity
from coderv2.server.upstream.affinity import BLOCK, Affinity

A, B = [1] * BLOCK, [2] * BLOCK


def test_the_longest_known_start_counts() -> None:
    seen = Affinity()
    seen.sent(A + B, "", 0)
    seen.sent(A + B + A, "", 1)
    assert seen.longest(A + B + A + [3], "") == (1, 3)
    assert seen.longest(A + A, "") == (1, 1)
    assert seen.longest(B, "") == (None, 0)
    assert seen.longest(A[:-1], "") == (None, 0)


def test_tenants_do_not_meet() -> None:
    seen = Affinity()
    seen.sent(A, "al", 0)
    assert seen.longest(A, "bo") == (None, 0)


def test_old_blocks_are_forgotten() -> None:
    seen = Affinity()
    for number in range(affinity.REMEMBERED + 10):
        seen._seen[number.to_bytes(16, "big")] = 0
    seen.sent(A, "", 1)
    assert len(seen._seen) == affinity.REMEMBERED
