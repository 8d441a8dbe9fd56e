"""The report of a run."""

import json
from pathlib import Path

import pytest

from coderv2.errors import BadData
from coderv2.evaluation import suite
from coderv2.evaluation.published import FULL, LITE
from coderv2.evaluation.report import as_json, write
from coderv2.evaluation.tasks import TASKS

RUN = {
    "metric": "pass@1", "value": 0.5, "n": 40, "samples": 40, "stderr": 0.08, "low": 0.35, "high": 0.65, "others": {},
    "groups": {}, "reasons": {"passed": 20, "wrong": 19, "no | code": 1}, "truncated": 3, "model": "<ours>",
    "prompt": "chat", "limit": 40, "seed": 0, "note": "",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    news = {
        "humaneval": {**RUN, "title": "HumanEval"},
        "aime-2024": {**RUN, "title": "AIME 2024", "value": 0.1, "limit": None, "note": "Thirty problems."},
        "usaco": {"metric": "pass@1", "value": None, "n": 0, "title": "USACO", "not_run": "no data"},
    }
    suite.write(tmp_path, news)
    return tmp_path


def test_it_comes_in_three_forms_with_a_plot(folder: Path) -> None:
    names = {path.name for path in write(folder)}
    assert names == {"report.md", "report.json", "report.html", "performance.png"}


def test_our_row_stands_below_the_published_ones(folder: Path) -> None:
    write(folder)
    lines = (folder / "report.md").read_text().splitlines()
    table = lines[lines.index("## 3.1 Code generation") :]
    assert table[2] == "| model | HumanEval | MBPP+ | LiveCodeBench | USACO |"
    assert f"| {FULL} | 90.2 | 76.2 | 43.4 | 12.1 |" in table
    assert "| this run | 50.0 |  |  | not run |" in table
    assert "| this run |  |  | 3.0 |  |" in table, "AIME is told in problems of thirty"
    assert "## 3.5 General natural language" not in lines


def test_limits_notes_failures_and_what_did_not_run_are_said(folder: Path) -> None:
    write(folder)
    text = (folder / "report.md").read_text()
    assert "not comparable item by item: HumanEval (40)." in text
    assert "AIME 2024: Thirty problems." in text
    assert "wrong 19, no / code 1" in text
    assert "| usaco | no data |" in text


def row_of(text: str, section: str, task: str) -> list[str]:
    lines = text[text.index(f"## {section}") :].splitlines()
    return next(line for line in lines if line.startswith(f"| {task} |")).strip("| ").split(" | ")


def test_settings_and_further_figures_are_told(folder: Path) -> None:
    """They were in no report."""
    settings = {
        "temperature": 0.2,
        "seed": 7,
        "sandbox": "bubblewrap",
        "tokenizer": "ab12",
        "judge": "gpt-4 at http://x",
    }
    more = {"others": {"pass@5": 0.61, "maj@8": 0.5}, "groups": {"easy": 0.75}, "checkpoint": "cafe"}
    suite.write(folder, {"humaneval": {**RUN, **settings, **more, "title": "HumanEval"}})
    write(folder)
    text = (folder / "report.md").read_text()
    told = row_of(text, "How it was measured", "HumanEval")
    assert told[1] == "no: 40 problems instead of 164; temperature 0.2 instead of the protocol's"
    assert row_of(text, "How it was measured", "AIME 2024")[1] == "no: 40 problems instead of 30"
    assert told[2:] == [
        "chat",
        "7",
        "0.2",
        "the protocol's",
        "the protocol's",
        "ab12",
        "bubblewrap",
        "gpt-4 at http://x",
    ]
    assert "Model: <ours>, <ours> (checkpoint cafe)." in text
    rows = [line for line in text.splitlines() if line.startswith("| HumanEval | ")]
    assert rows[-3:] == [
        "| HumanEval | pass@5 | 0.61 |",
        "| HumanEval | maj@8 | 0.5 |",
        "| HumanEval | easy | 0.75 |",
    ]


@pytest.mark.parametrize(
    ("task", "figures", "said"),
    [
        ("humaneval", {"n": 164, "asked": 164, "prompt": TASKS["humaneval"].styles[0]}, []),
        ("humaneval", {"n": 40, "asked": 40}, ["40 problems instead of 164"]),
        (
            "humaneval",
            {"n": 164, "asked": 164, "temperature": 0.8},
            ["temperature 0.8 instead of the protocol's"],
        ),
        ("gsm8k", {"n": 1319, "asked": 1319, "prompt": "base"}, ["prompt base instead of chat"]),
        (
            "swe-bench-lite",
            {"n": 300, "asked": 300},
            ["one patch from the issue's text instead of an agent's"],
        ),
        (
            "mt-bench",
            {"n": 78, "asked": 80, "judge": "small at http://x/v1"},
            ["2 of them without a rating", "judge small instead of gpt-4"],
        ),
        ("mt-bench", {"n": 80, "asked": 80, "judge": "gpt-4 at http://x/v1"}, []),
        ("mbpp", {"n": 40, "asked": 40}, None),
    ],
)
def test_what_was_not_measured_as_published_is_told(
    task: str, figures: dict[str, object], said: list[str] | None
) -> None:
    assert as_json({task: {**RUN, "limit": None, **figures}})[task]["unlike_published"] == said


def test_json_sets_the_published_numbers_beside(folder: Path) -> None:
    write(folder)
    found = json.loads((folder / "report.json").read_text())
    assert found["humaneval"]["published"] == {LITE: 81.1, FULL: 90.2}
    assert found["usaco"]["value"] is None


def test_the_page_is_whole_and_escapes_what_it_shows(folder: Path) -> None:
    write(folder)
    page = (folder / "report.html").read_text()
    assert "&lt;ours&gt;" in page
    assert "<ours>" not in page
    assert page.count("data:image/png;base64,") == 1
    assert "<td class=n>90.2</td>" in page


def test_a_needle_that_was_not_begun_has_no_grid(folder: Path) -> None:
    """Its records hold their header alone: a TypeError from the plot."""
    (folder / "needle.jsonl").write_text('{"coderv2": "eval 1", "task": "needle"}\n')
    assert not any("needle" in path.name for path in write(folder))


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="holds no summary"):
        write(tmp_path)
