"""Problems whose words stand in a corpus."""

import gzip
import json
from pathlib import Path

import pytest

from coderv2.errors import BadData
from coderv2.evaluation.asking import Problem
from coderv2.evaluation.contamination import Corpus, Hit, find
from coderv2.evaluation.tasks import TASKS
from tests.evaluation.tasks import invented

LONG = "write a function that returns the second largest even number of a list of numbers"
TEXTS = {"made": {"1": LONG, "2": "How tall is it?", "3": "no"}}


def hits(path: Path) -> list[Hit]:
    return list(find(TEXTS, Corpus(path)))


def test_ten_words_in_a_row_are_found_whatever_their_marks_and_case(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "# Write a FUNCTION, that returns\n# the second-largest even number of them"
    )
    (hit,) = hits(tmp_path)
    assert (hit.task, hit.problem, hit.document) == ("made", "1", str(tmp_path / "a.py"))
    assert hit.words == "write a function that returns the second largest even number"


def test_nine_of_them_and_other_orders_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("write a function that returns the second largest even sum")
    (tmp_path / "b.txt").write_text(" ".join(reversed(LONG.split())))
    assert hits(tmp_path) == []


def test_short_texts_must_occur_whole_and_the_shortest_do_not_count(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"text": "no"}, {"content": "tall, is it? how tall is IT really"}, {"text": "how tall is it"}]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (hit,) = hits(corpus)
    assert (hit.problem, hit.document) == ("2", f"{corpus}:2")


def test_a_file_that_is_not_searched_is_told(tmp_path: Path) -> None:
    """A corpus in a format that is not read looked clean."""
    (tmp_path / "weights").write_bytes(b"\0\1" + LONG.encode())
    with (tmp_path / "large.txt").open("wb") as large:
        large.truncate(64 << 20)
    corpus = Corpus(tmp_path)
    assert list(find(TEXTS, corpus)) == []
    assert corpus.unsearched == [tmp_path / "large.txt", tmp_path / "weights"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz"])
def test_gzipped_files_are_searched_and_all_text_of_a_row(tmp_path: Path, name: str) -> None:
    """They were skipped, as rows with other fields than text and content were."""
    row = {"messages": [{"role": "user", "content": LONG}]}
    (tmp_path / name).write_bytes(gzip.compress(json.dumps(row).encode()))
    assert [hit.problem for hit in hits(tmp_path)] == ["1"]


def test_each_character_of_a_language_without_spaces_is_a_word(tmp_path: Path) -> None:
    """A clause was one: two texts had to be cut by the same marks to be alike."""
    question = "小明有五个苹果，吃了两个，还剩几个？"
    (tmp_path / "a.txt").write_text(f"练习：已知{question.replace('，', ' ')}请回答。")
    (hit,) = find({"made": {"1": question}}, Corpus(tmp_path))
    assert hit.words == "小 明 有 五 个 苹 果 吃 了 两"


def test_every_task_names_the_words_of_its_problems(tmp_path: Path) -> None:
    """Aider, MT-Bench, Defects4J, LiveCodeBench and AlpacaEval named none, so every corpus was free of them."""
    files = invented.data(tmp_path)
    for name, task in TASKS.items():
        if name != "defects4j" and not name.startswith("needle"):  # which are made
            assert all("".join(task.texts(problem)) for problem in task.problems(files)), name


def test_of_a_patch_the_lines_before_and_after_are_searched() -> None:
    patch = (
        "--- a/F.java\n+++ b/F.java\n@@ -1,3 +1,3 @@ class F {\n int f() {\n-  return 1;\n+  return 2;\n }"
    )
    texts = TASKS["defects4j"].texts(Problem("Lang-1", {"patch": patch}))
    assert list(texts) == ["int f() {\n  return 1;\n}", "int f() {\n  return 2;\n}"]


def test_a_corpus_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no such corpus"):
        hits(tmp_path / "nowhere")
