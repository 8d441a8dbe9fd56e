"""Answers that a model judges, against replies that a judge gave."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from coderv2.errors import ContextTooLong, Unsupported
from coderv2.evaluation.asking import Chat, Exchange, Place, Problem, Reply
from coderv2.evaluation.data import Data
from coderv2.evaluation.score import Figures, Item, Unmeasured
from coderv2.evaluation.task import TOO_LONG, Attempt, Score
from coderv2.evaluation.tasks import TASKS
from coderv2.evaluation.toolbox import Toolbox
from tests.evaluation.fakes import FakeTools
from tests.evaluation.tasks import invented

A_BETTER = "Both greet. Assistant A is warmer.\n\nMy final verdict is: [[A>>B]]"
B_BETTER = "Assistant B is a little better. [[B>A]]"
RATED = 'The answer is short. Rating: [[7.5]], on a scale where "[[10]]" would be perfect? No: [[8]]'
Said = str | Exception
FULL = ContextTooLong("This model's maximum context length is 8192 tokens")
CHINESE = "回答正确。\n{'事实正确性': 9, '满足用户需求': 8, '综合得分': 8.5}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return invented.data(tmp_path_factory.mktemp("data"))


def attempt(
    name: str, data: Data, replies: Sequence[Said], judgements: Sequence[Said], number: int = 0
) -> tuple[Attempt, FakeTools]:
    task, tools = TASKS[name], FakeTools(replies, judgements)
    problem = list(task.problems(data))[number]
    return asyncio.run(task.attempt(Place(name, problem), "chat", tools)), tools


def figures(name: str, *attempts: Attempt) -> Figures:
    items = [
        Item(
            str(n),
            0,
            "数学计算" if n == 0 else "文本写作",
            a.score.value,
            a.score.reason,
            "stop",
            a.score.others,
            a.score.kept,
        )
        for n, a in enumerate(attempts)
    ]
    return TASKS[name].figures(items)


def test_arena_hard_plays_both_sides_and_weighs_strong_verdicts(data: Data) -> None:
    found, tools = attempt("arena-hard", data, ["hello"], [A_BETTER, B_BETTER])
    # The baseline won the first game strongly (as A), and the second weakly (as B).
    assert (found.score.value, found.score.reason) == (0.0, "lost")
    assert found.score.kept["games"] == [[0.0, 3], [0.0, 1]]
    assert [m.content for m in tools.judged[0].messages] == ['Judge "them".\nWell.', "Say hi.\nhi\nhello"]
    assert tools.judged[1].messages[1].content == "Say hi.\nhello\nhi"
    won, _ = attempt("arena-hard", data, ["hello"], [B_BETTER, A_BETTER])
    assert won.score.reason == "won"
    assert figures("arena-hard", found, won).value == pytest.approx(0.5)


def test_arena_hard_asks_once_more_and_drops_what_has_no_verdict(data: Data) -> None:
    found, tools = attempt("arena-hard", data, ["hello"], ["Hm.", "[[A=B]]", "[[A>B]] or [[B>A]]"])
    assert len(tools.judged) == 3
    assert found.score.kept["games"] == [[0.5, 1]]
    assert figures("arena-hard", found).others["games without a verdict"] == 1


def test_the_baseline_against_itself_is_a_draw(data: Data) -> None:
    found, _ = attempt("arena-hard", data, ["hi"], [A_BETTER, A_BETTER])
    assert found.score.value == 0.5


def test_mt_bench_goes_on_from_the_models_own_answer_and_takes_the_last_rating(data: Data) -> None:
    found, tools = attempt("mt-bench", data, ["first", "second"], [RATED, "no number at all"])
    ask = tools.asked[1]
    assert isinstance(ask, Chat)
    assert [m.content for m in ask.messages] == ["Write.", "first", "Again."]
    assert ask.decoding.temperature == 0.7
    assert tools.judged[1].messages[-1].content == "Q Write. A first Q Again. A second"
    assert found.score.others == {"turn 1": 8.0}
    other, tools = attempt("mt-bench", data, ["2", "3"], ["Rating: [[4]]", "[6]"], number=1)
    assert tools.judged[0].messages[-1].content == "Q Add. R 2 A 2"
    total = figures("mt-bench", found, other)
    assert total.value == pytest.approx((8 + 4 + 6) / 3)
    assert total.others["without a rating"] == 1


@pytest.mark.parametrize(
    ("said", "reason"), [("m", {"won", "lost"}), ("M", {"won", "lost"}), ("both", {"no verdict"})]
)
def test_alpaca_eval_reads_which_output_was_named(data: Data, said: str, reason: set[str]) -> None:
    found, _ = attempt("alpaca-eval", data, ["hello there"], [said])
    assert found.score.reason in reason
    assert found.score.kept["longer"] == len("hello there") - len("hi")


def test_alpaca_eval_places_are_fixed_and_the_other_name_is_the_other_verdict(data: Data) -> None:
    verdicts = {attempt("alpaca-eval", data, ["hello"], [said])[0].score.value for said in ("m", "M")}
    assert verdicts == {0.0, 1.0}


def test_equal_length_takes_away_what_length_won() -> None:
    def item(n: int, longer: int, value: float) -> Item:
        return Item(str(n), 0, "", value, "won", kept={"longer": longer, "difficulty": 0.0})

    wordy = [item(n, 900 if n % 2 else -900, float(n % 2)) for n in range(200)]
    assert equal_length(wordy) == pytest.approx(0.5, abs=0.02)
    even = [item(n, (n % 5 - 2) * 100, float(n % 4 != 0)) for n in range(200)]
    assert equal_length(even) == pytest.approx(0.75, abs=0.03)
    alike = [item(n, 0, 0.5) for n in range(5)]
    assert equal_length(alike) == pytest.approx(0.5)


def equal_length(items: list[Item]) -> float:
    return TASKS["alpaca-eval"].figures(items).value


def test_the_interval_of_alpaca_eval_is_that_of_its_own_figure() -> None:
    """It was the plain win rate's, beside which the value stood."""
    items = [
        Item(
            str(n),
            0,
            "",
            float(n % 3 > 0 and n % 10 > 0),
            "won",
            kept={"longer": 900 * (n % 3), "difficulty": 0.0},
        )
        for n in range(120)
    ]
    found = TASKS["alpaca-eval"].figures(items)
    assert found.value < found.others["win rate"] - 0.2
    assert found.low < found.value < found.high < found.others["win rate"]


def test_one_problem_of_each_kind_does_not_make_alignbench_certain() -> None:
    kinds = ("数学计算", "中文理解", "文本写作", "角色扮演")
    found = TASKS["alignbench"].figures(
        [Item(kind, 0, kind, 2.0 * n, "rated") for n, kind in enumerate(kinds)]
    )
    assert found.stderr > 1.0


def test_alignbench_reads_the_total_and_averages_two_halves(data: Data) -> None:
    mathematics, tools = attempt("alignbench", data, ["2"], [CHINESE])
    assert mathematics.score.value == 8.5
    assert "[参考答案]\n2" in tools.judged[0].messages[0].content
    writing, _ = attempt("alignbench", data, ["诗"], ['{"综合得分": "5"}'], number=1)
    total = figures("alignbench", mathematics, writing)
    assert total.value == pytest.approx(6.75)
    assert (total.others["reasoning"], total.others["language"]) == (8.5, 5.0)


def test_alignbench_names_the_dimensions_of_a_kind_and_is_warm_where_there_is_much_to_say() -> None:
    task = TASKS["alignbench"]

    def asked(kind: str, **row: str) -> tuple[float, str]:
        problem = Problem("1", {"question": "问", "reference": "答", **row}, kind)
        ask, tools = task.prompt(problem, "chat"), FakeTools([], ["{'综合得分': 3}"])
        assert isinstance(ask, Chat)
        asyncio.run(task.score(problem, Exchange(ask, Reply("回答")), tools))
        return ask.decoding.temperature, tools.judged[0].messages[0].content

    warm = {kind: asked(kind)[0] for kind in ("中文理解", "专业能力", "数学计算", "综合问答", "角色扮演")}
    assert warm == {"中文理解": 0.1, "专业能力": 0.1, "数学计算": 0.1, "综合问答": 0.7, "角色扮演": 0.7}
    assert "事实正确性、满足用户需求、逻辑连贯性、完备性。" in asked("数学计算")[1]
    assert "清晰度、完备性。" in asked("基本任务", subcategory="信息抽取")[1]
    assert "创造性、丰富度。" in asked("基本任务", subcategory="翻译")[1]


@pytest.mark.parametrize(
    ("said", "rating"),
    [
        ("“综合得分”：7", 7.0),
        ("{'综合得分': 10}", 10.0),
        ("{'综合得分': 0}", None),
        ("综合得分: 85", None),
        ("好", None),
    ],
)
def test_alignbench_takes_ratings_from_1_to_10_alone(data: Data, said: str, rating: float | None) -> None:
    found, _ = attempt("alignbench", data, ["2"], [said])
    assert (found.score.value, found.score.reason) == (rating or 0.0, "rated" if rating else "no rating")


def test_alignbench_bounds_the_mean_of_halves_not_that_of_kinds() -> None:
    def item(n: int, kind: str, value: float) -> Item:
        return Item(f"{kind}{n}", 0, kind, value, "rated")

    kinds = {"数学计算": 9, "中文理解": 3, "文本写作": 3, "角色扮演": 3}
    items = [item(n, kind, level + n % 2) for kind, level in kinds.items() for n in range(20)]
    found = TASKS["alignbench"].figures(items)
    assert found.value == pytest.approx(6.5)
    assert 6.0 < found.low < 6.5 < found.high < 7.0
    assert found.others == {"reasoning": 9.5, "language": 3.5, "without a rating": 0.0}


@pytest.mark.parametrize("name", ["mt-bench", "alignbench", "arena-hard", "alpaca-eval"])
def test_where_no_answer_was_judged_there_is_no_number(name: str, data: Data) -> None:
    """It was 0.0, or the number that a tie in each game makes."""
    silent, _ = attempt(name, data, ["hello", "hello"], ["Hm."] * 4)
    with pytest.raises(Unmeasured, match="none of 1 answers has a rating or verdict"):
        figures(name, silent)


@pytest.mark.parametrize(
    ("name", "said"),
    [("mt-bench", RATED), ("alignbench", CHINESE), ("arena-hard", A_BETTER), ("alpaca-eval", "m")],
)
def test_a_problem_that_the_model_could_not_be_asked_leaves_the_others_measured(
    name: str, said: str, data: Data
) -> None:
    """KeyError: nothing is kept of it."""
    found, _ = attempt(name, data, ["hello", "hello"], [said] * 2)
    mute = replace(found, score=Score(0.0, TOO_LONG))
    assert figures(name, found, mute).samples == (2 if name == "arena-hard" else 1)


@pytest.mark.parametrize(
    ("name", "said"), [("alignbench", CHINESE), ("arena-hard", A_BETTER), ("alpaca-eval", "m")]
)
def test_a_reply_that_the_judge_has_no_room_for_is_kept_and_not_scored(
    name: str, said: str, data: Data
) -> None:
    """The reply was lost, and the problem one that was too long for the model."""
    unjudged, _ = attempt(name, data, ["hello"], [FULL])
    assert (unjudged.exchange.reply.text, unjudged.score.reason) == ("hello", "too long for the judge")
    judged, _ = attempt(name, data, ["hello"], [said] * 2)
    alone, both = (figures(name, *some) for some in ([judged], [judged, unjudged]))
    assert both.value == alone.value


def test_mt_bench_keeps_the_first_turn_where_the_second_has_no_room(data: Data) -> None:
    """Of the model's context, or of the judge's: the first answer was lost with it."""
    found, tools = attempt("mt-bench", data, ["first", FULL], [RATED])
    assert (found.score.others, found.exchange.reply.finish_reason) == ({"turn 1": 8.0}, "context")
    assert len(tools.judged) == 1
    judged, _ = attempt("mt-bench", data, ["first", "second"], [RATED, FULL])
    assert (judged.score.others, judged.exchange.reply.text) == ({"turn 1": 8.0}, "second")
    total = figures("mt-bench", found, judged)
    assert (total.value, total.others["without a rating"]) == (8.0, 2)


def test_without_a_judge_the_task_says_what_it_needs(data: Data) -> None:
    box = Toolbox()
    exchange = Exchange(Chat.of("x"), Reply("y"))
    problem: Problem = next(iter(TASKS["arena-hard"].problems(data)))

    async def never(ask, place):  # type: ignore[no-untyped-def]
        raise AssertionError

    with pytest.raises(Unsupported, match="--judge"):
        asyncio.run(TASKS["arena-hard"].score(problem, exchange, box.over(never)))
    box.close()


def test_canonical_answers_exist(data: Data, tmp_path: Path) -> None:
    for name in ("arena-hard", "mt-bench", "alpaca-eval", "alignbench"):
        for problem in TASKS[name].problems(data):
            assert TASKS[name].canonical(problem, "chat")
