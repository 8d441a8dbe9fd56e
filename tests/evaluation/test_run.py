"""Running a task."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from coderv2.errors import BadData, ContextTooLong, InvalidValue, ServiceError, Unsupported
from coderv2.evaluation.asking import Ask, Chat, Decoding, Place, Problem, Style
from coderv2.evaluation.data import Data
from coderv2.evaluation.records import read
from coderv2.evaluation.run import Settings, problems, run
from coderv2.evaluation.score import Figures
from coderv2.evaluation.toolbox import Toolbox
from tests.evaluation.fakes import Scripted, Sums

QUIET = {"progress": False}


def right(ask: Ask, place: Place) -> str:
    return str(2 * place.problem.row["n"])


def go(task: Sums, generator: Scripted, out: Path, settings: Settings | None = None) -> Figures:
    toolbox = Toolbox()
    try:
        return asyncio.run(run(task, Data(out), generator, out, settings or Settings(**QUIET), toolbox))
    finally:
        toolbox.close()


def test_every_sample_is_recorded_with_all_that_made_it(tmp_path: Path) -> None:
    figures = go(Sums(), Scripted(lambda ask, at: "0"), tmp_path)
    assert figures.value == pytest.approx(1 / 6)
    log = read(tmp_path / "sums.jsonl")
    assert log.header["model"] == "scripted"
    sample = next(s for s in log.samples if s["problem"] == "sum/3")
    assert sample["prompt"] == [{"role": "user", "content": "3 + 3 ="}]
    assert sample["reply"] == "0"
    assert sample["verdict"]["reason"] == "wrong answer"
    assert sample["seconds"] >= 0


def test_a_run_that_is_given_again_asks_nothing_again(tmp_path: Path) -> None:
    go(Sums(), Scripted(right), tmp_path)
    again = Scripted(right)
    assert go(Sums(), again, tmp_path).value == 1.0
    assert again.asked == []


def test_a_run_does_not_go_on_with_a_prompt_that_was_changed(tmp_path: Path) -> None:
    """Nothing said that half of the samples had been asked in other words, or up to another stop."""

    @dataclass(frozen=True, kw_only=True)
    class Reworded(Sums):
        stop: str = ""

        def prompt(self, problem: Problem, style: Style) -> Ask:
            return Chat.of(f"What is twice {problem.row['n']}?", Decoding(stop=(self.stop,)))

    go(Sums(), Scripted(right), tmp_path)
    with pytest.raises(InvalidValue, match="holds a run with layout"):
        go(Reworded(), Scripted(right), tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    go(Reworded(), Scripted(right), other)
    with pytest.raises(InvalidValue, match="holds a run with layout"):
        go(Reworded(stop="."), Scripted(right), other)


def test_an_error_in_the_middle_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    def until_four(ask: Ask, place: Place) -> str:
        if place.problem.row["n"] == 4:
            raise ServiceError("the endpoint is gone")
        return right(ask, place)

    with pytest.raises(ServiceError, match="gone"):
        go(Sums(), Scripted(until_four), tmp_path, Settings(in_flight=1, **QUIET))
    later = Scripted(right)
    assert go(Sums(), later, tmp_path).value == 1.0
    assert {place.problem.row["n"] for _, place in later.asked} == {4, 5}


def test_killed_halfway_it_goes_on(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.evaluation import test_run as t\n"
        "def slow(ask, at):\n    time.sleep(0.02)\n    return t.right(ask, at)\n"
        "t.go(t.Sums(count=500), t.Scripted(slow), Path(sys.argv[1]), t.Settings(in_flight=4, progress=False))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2])
    path = tmp_path / "sums.jsonl"
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = len(read(path).samples)
    later = Scripted(right)
    assert go(Sums(count=500), later, tmp_path).value == 1.0
    assert done + 1 >= 20
    assert len(later.asked) == 500 - done
    names = [sample["problem"] for sample in read(path).samples]
    assert len(names) == len(set(names)) == 500


def test_a_smaller_limit_is_within_a_larger_one_and_goes_on_to_it(tmp_path: Path) -> None:
    few = {p.id for p in problems(Sums(count=50), Data(tmp_path), 5)}
    more = {p.id for p in problems(Sums(count=50), Data(tmp_path), 10)}
    assert len(few) == 5
    assert few < more
    go(Sums(count=50), Scripted(right), tmp_path, Settings(limit=5, **QUIET))
    later = Scripted(right)
    assert go(Sums(count=50), later, tmp_path, Settings(limit=10, **QUIET)).n == 10
    assert len(later.asked) == 5


def test_samples_differ_in_their_seed_alone(tmp_path: Path) -> None:
    generator = Scripted(right)
    figures = go(Sums(), generator, tmp_path, Settings(samples=3, temperature=0.8, **QUIET))
    assert (figures.n, figures.samples) == (6, 18)
    assert len({place.sample_seed for _, place in generator.asked}) == 18
    assert {ask.decoding.temperature for ask, _ in generator.asked} == {0.8}


def test_as_many_as_allowed_are_in_flight(tmp_path: Path) -> None:
    @dataclass
    class Watching(Scripted):
        now: int = 0
        most: int = 0

        def __init__(self) -> None:
            super().__init__(right)
            self.now = self.most = 0

        async def reply(self, ask, place):  # type: ignore[no-untyped-def]
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return await super().reply(ask, place)

    watching = Watching()
    go(Sums(count=20), watching, tmp_path, Settings(in_flight=7, **QUIET))
    assert watching.most == 7


def test_a_prompt_that_does_not_fit_is_a_failure_of_its_own_kind(tmp_path: Path) -> None:
    def too_long(ask: Ask, place: Place) -> str:
        raise ContextTooLong("9000 tokens; the limit is 8192")

    figures = go(Sums(count=2), Scripted(too_long), tmp_path)
    assert figures.reasons == {"prompt too long for the model": 2}
    assert read(tmp_path / "sums.jsonl").samples[0]["finish_reason"] == "context"


@pytest.mark.parametrize("wrong", [{"samples": 2}, {"limit": 0}, {"in_flight": 0}, {"max_tokens": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidValue):
        Settings(**wrong)  # type: ignore[arg-type]


def test_a_prompt_that_a_task_lacks_is_refused() -> None:
    with pytest.raises(Unsupported, match="no base prompt"):
        Settings(style="base").chosen_style(Sums(styles=("chat",)))


def test_rows_without_what_the_task_needs_name_the_file(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Broken(Sums):
        def problems(self, data: Data):  # type: ignore[no-untyped-def]
            yield {}["question"]

    with pytest.raises(BadData, match="not what it should be"):
        problems(Broken(), Data(tmp_path))


def test_the_prompt_of_a_chat_is_shown_as_messages() -> None:
    assert json.dumps(Chat.of("hi").shown) == '[{"role": "user", "content": "hi"}]'
