"""The report of a run."""

import json
from pathlib import Path

import pytest

from coderv2.errors import BadData
from coderv2.evaluation import suite
from coderv2.evaluation.published import FULL, LITE
from coderv2.evaluation.report import write

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
