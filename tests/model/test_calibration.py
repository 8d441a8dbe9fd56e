"""Rows to calibrate with and to judge on: apart from each other, the same every time, and named."""

from pathlib import Path

import pytest

from coderv2.errors import BadData
from coderv2.model.calibration import ROW, rows_of
from coderv2.text.tokenizer import Tokenizer
from tests.tiny_tokenizer import tiny_tokenizer_folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tiny one."""
    return Tokenizer.from_folder(tiny_tokenizer_folder(tmp_path_factory.mktemp("tokenizer")))


def test_the_standard_library_serves_by_default(tokenizer: Tokenizer) -> None:
    rows = rows_of(tokenizer, None, learn=3, judge=2)
    assert (len(rows.learn), len(rows.judge)) == (3, 2)
    assert "standard library" in rows.source
    assert rows == rows_of(tokenizer, None, learn=3, judge=2)
    for row in rows.learn + rows.judge:
        assert row[0] == tokenizer.bos_id
        assert 32 < len(row) <= ROW


def test_files_are_either_learnt_from_or_judged_on(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(f"file number {i} " * 60, "utf-8")
    rows = rows_of(tokenizer, tmp_path, learn=100, judge=100)
    numbers = [{tokenizer.decode(row)[:20] for row in some} for some in (rows.learn, rows.judge)]
    assert not numbers[0] & numbers[1]
    assert len(rows.learn) > len(rows.judge) > 3


def test_one_file_is_cut_in_two(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("\n".join(f"line {i}" for i in range(500)), "utf-8")
    rows = rows_of(tokenizer, path)
    assert rows.source == str(path)
    assert "line 499" in tokenizer.decode(rows.judge[-1])
    assert "line 1\n" in tokenizer.decode(rows.learn[0])


def test_too_little_text_and_no_such_place(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x", "utf-8")
    for path, message in (
        (tmp_path, "too little"),
        (tmp_path / "a", "too little"),
        (tmp_path / "b", "no file"),
    ):
        with pytest.raises(BadData, match=message):
            rows_of(tokenizer, path)


def test_bytes_that_are_no_text_are_not_calibrated_on(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(bytes(range(256)) * 1000)
    for given in (tmp_path, tmp_path / "garbage"):
        with pytest.raises(BadData, match="too little text"):
            rows_of(tokenizer, given)
