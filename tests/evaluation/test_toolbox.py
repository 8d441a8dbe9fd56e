"""What attempts of one run share, and those of two do not."""

import asyncio
from typing import Any

import pytest

from coderv2.errors import ServiceError
from coderv2.evaluation.toolbox import Toolbox
from coderv2.sandbox.judge import Program, Verdict


class CountingJudge:
    """In a judge's place: says how often it was asked; the first times it may fail."""

    workers = 1

    def __init__(self, failures: int = 0) -> None:
        self.asked, self.failures = 0, failures

    def judge_one(self, program: Program) -> Verdict:
        self.asked += 1
        reason = "sandbox" if self.asked <= self.failures else "passed"
        return Verdict(reason == "passed", reason, "", 0.0)


def box(judge: Any) -> Toolbox:
    return Toolbox(judge)


def program() -> Program:
    return Program("python", "")


def test_what_says_the_same_each_time_is_run_once_a_suite() -> None:
    async def ask(tools: Toolbox) -> None:
        both = await asyncio.gather(tools.run_once("a/1", program), tools.run_once("a/1", program))
        assert both[0] is both[1]
        await tools.run_once("b/1", program)

    judges = CountingJudge(), CountingJudge()
    for judge in judges:
        tools = box(judge)
        asyncio.run(ask(tools))
        tools.close()
    assert [judge.asked for judge in judges] == [2, 2]


def test_a_run_that_failed_is_tried_anew() -> None:
    judge = CountingJudge(failures=1)
    tools = box(judge)

    async def ask() -> None:
        with pytest.raises(ServiceError, match="the sandbox failed"):
            await tools.run_once("a/1", program)
        assert (await tools.run_once("a/1", program)).passed

    asyncio.run(ask())
    tools.close()
    assert judge.asked == 2


def test_who_is_cancelled_takes_it_from_nobody_else() -> None:
    judge = CountingJudge()
    tools = box(judge)

    async def ask() -> None:
        first, second = (asyncio.create_task(tools.run_once("a/1", program)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).passed

    asyncio.run(ask())
    tools.close()
    assert judge.asked == 1
