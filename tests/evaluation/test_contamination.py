"""Problems whose words stand in a corpus."""

import json
from pathlib import Path

import pytest

from coderv2.errors import BadData
from coderv2.evaluation.asking import Problem
from coderv2.evaluation.contamination import Hit, find

LONG = "write a function that returns the second largest even number of a list of numbers"
PROBLEMS = {
    "made": [
        Problem("1", {"prompt": LONG}),
        Problem("2", {"question": "How tall is it?"}),
        Problem("3", {"text": "no"}),
    ]
}


def hits(corpus: Path) -> list[Hit]:
    return list(find(PROBLEMS, corpus))


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


def test_a_binary_file_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"\0\1" + LONG.encode())
    assert hits(tmp_path) == []


def test_a_corpus_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no such corpus"):
        hits(tmp_path / "nowhere")
