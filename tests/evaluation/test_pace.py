"""How many requests are in flight."""

import asyncio
import time

from coderv2.evaluation.pace import Pace


def test_no_more_than_allowed_are_in_flight() -> None:
    async def go() -> int:
        pace, now, most = Pace(3), 0, 0

        async def one() -> None:
            nonlocal now, most
            async with pace:
                now += 1
                most = max(most, now)
                await asyncio.sleep(0)
                now -= 1

        await asyncio.gather(*(one() for _ in range(20)))
        return most

    assert asyncio.run(go()) == 3


def test_a_busy_endpoint_halves_them_and_each_round_that_went_well_gives_one_back() -> None:
    pace = Pace(8)
    pace.slow_down(0)
    assert pace.limit == 4
    for _ in range(5):
        pace.went_well()
    assert pace.limit == 5
    for _ in range(1000):
        pace.went_well()
    assert pace.limit == 8
    for _ in range(9):
        pace.slow_down(0)
    assert pace.limit == 1


def test_nothing_is_sent_for_as_long_as_was_asked() -> None:
    async def go() -> float:
        pace = Pace(2)
        pace.slow_down(0.05)
        begin = time.monotonic()
        async with pace:
            return time.monotonic() - begin

    assert asyncio.run(go()) >= 0.05
