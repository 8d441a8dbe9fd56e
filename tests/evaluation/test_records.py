"""Records on disk."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coderv2.errors import BadData, InvalidValue
from coderv2.evaluation.records import Record, Records, read

HEADER = {"coderv2": "eval 1", "task": "sums", "model": "m"}


def record(number: int, value: float = 1.0) -> Record:
    verdict = {"value": value, "reason": "passed", "others": {}, "kept": {}}
    return {"problem": f"p{number}", "sample": 0, "group": "", "finish_reason": "stop", "verdict": verdict}


def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "sums.jsonl"
    with Records(path, HEADER) as records:
        records.append(record(1))
    with Records(path, HEADER) as records:
        assert set(records.samples) == {("p1", 0)}
        records.append(record(2))
    assert [json.loads(line).get("problem") for line in path.read_text().splitlines()] == [None, "p1", "p2"]


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "sums.jsonl"
    with Records(path, HEADER) as records:
        records.append(record(1))
        records.append(record(2))
    os.truncate(path, path.stat().st_size - cut)
    with Records(path, HEADER) as records:
        assert set(records.samples) == {("p1", 0)}
        records.append(record(2))
    assert len(read(path).samples) == 2


def test_damage_elsewhere_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    with Records(path, HEADER) as records:
        records.append(record(1))
    path.write_text(path.read_text().replace('{"problem"', '{"prob', 1) + json.dumps(record(2)) + "\n")
    with pytest.raises(BadData, match=r"sums\.jsonl:2: damaged"):
        Records(path, HEADER)


def test_a_run_that_failed_before_its_first_sample_blocks_no_other(tmp_path: Path) -> None:
    with Records(tmp_path / "sums.jsonl", HEADER):
        pass
    with Records(tmp_path / "sums.jsonl", {**HEADER, "model": "n"}) as records:
        records.append(record(1))
    assert read(tmp_path / "sums.jsonl").header["model"] == "n"
    assert len(read(tmp_path / "sums.jsonl").samples) == 1


def test_another_run_is_never_mixed_in(tmp_path: Path) -> None:
    with Records(tmp_path / "sums.jsonl", HEADER) as records:
        records.append(record(1))
    with pytest.raises(InvalidValue, match="model 'm', and this one has 'n'"):
        Records(tmp_path / "sums.jsonl", {**HEADER, "model": "n"})


def test_two_runs_do_not_write_into_one_file(tmp_path: Path) -> None:
    """Each wrote over the other's lines."""
    path = tmp_path / "sums.jsonl"
    with Records(path, HEADER) as records:
        records.append(record(1))
        with pytest.raises(InvalidValue, match="written by another run"):
            Records(path, HEADER)
        records.append(record(2))
    assert len(read(path).samples) == 2


def test_where_files_cannot_be_locked_that_is_said_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_locks(file: int, kind: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", without_locks)
    with Records(tmp_path / "sums.jsonl", HEADER) as records:
        records.append(record(1))
    assert "let no other run write there" in caplog.text
    assert len(read(tmp_path / "sums.jsonl").samples) == 1


def test_samples_reach_the_disk_while_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They did at its end."""
    synced: list[int] = []
    now = iter(range(0, 100, 2))
    monkeypatch.setattr("os.fsync", synced.append)
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    with Records(tmp_path / "sums.jsonl", HEADER) as records:
        for number in range(3):
            records.append(record(number))
            assert len(synced) == number + 1


def test_a_foreign_file_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text('{"notes": 1}\n')
    with pytest.raises(BadData, match="not a file of"):
        Records(path, HEADER)
    assert path.read_text() == '{"notes": 1}\n'


def test_a_full_disk_keeps_whole_lines_and_says_how_to_go_on(tmp_path: Path) -> None:
    # The largest file that a process may write stands in for a disk that is full.
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom tests.evaluation.test_records import HEADER, record\n"
        "from coderv2.evaluation.records import Records\nfrom coderv2.errors import ServiceError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "records = Records(Path(sys.argv[1]), HEADER)\n"
        "try:\n    [records.append(record(n)) for n in range(99)]\n"
        "except ServiceError as error:\n    print(len(records.samples), error)\n"
    )
    path = tmp_path / "sums.jsonl"
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=root
    ).stdout
    kept = read(path).samples
    assert said.startswith(f"{len(kept)} ")
    assert 0 < len(kept) < 99
    assert "make room" in said
