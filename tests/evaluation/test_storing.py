"""A disk that takes no more, at every place where a run writes."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderv2.cli.main import run
from coderv2.errors import ServiceError
from coderv2.evaluation.records import Records, read
from coderv2.evaluation.storing import put
from tests.evaluation.tasks import invented


def fill(folder: Path) -> Path:
    """A file of all the room that is left."""
    ballast = folder / "ballast"
    room = os.statvfs(folder)
    ballast.write_bytes(bytes(room.f_bavail * room.f_frsize))
    return ballast


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_file_stays_as_it_was_where_the_new_one_does_not_fit(disk: Path) -> None:
    put(disk / "summary.json", b"old")
    fill(disk)
    with pytest.raises(ServiceError, match=r"summary\.json: No space left on device; nothing .* is lost"):
        put(disk / "summary.json", b"new" * 4096)
    assert (disk / "summary.json").read_bytes() == b"old"
    assert not list(disk.glob("*.part"))


def test_a_file_that_fits_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    put(tmp_path / "file", b"old")
    put(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_run_tells_of_a_full_disk_and_goes_on_when_there_is_room(
    disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def command(*words: object) -> tuple[int, str]:
        return run(list(map(str, words))), capfd.readouterr().err

    data, out = invented.data(tmp_path / "data").folder, disk / "out"
    settings = ("--answers", "canonical", "--data", data, "--out", out)
    assert command("eval", "gsm8k", *settings)[0] == 0
    before = (out / "summary.json").read_text()
    ballast = fill(disk)
    code, said = command("eval", "gsm8k", "triviaqa", *settings)
    assert code == 1
    assert "No space left on device" in said
    assert "make room and give the same command again" in said
    assert (out / "summary.json").read_text() == before
    code, said = command("eval", "report", out)
    assert code == 1
    assert "report.md: No space left on device" in said
    ballast.unlink()
    assert command("eval", "gsm8k", "triviaqa", *settings)[0] == 0
    after = json.loads((out / "summary.json").read_text())
    assert {name: figures["value"] for name, figures in after.items()} == {"gsm8k": 1.0, "triviaqa": 1.0}


def test_records_keep_whole_lines_on_a_full_disk(disk: Path) -> None:
    verdict = {"value": 1.0, "reason": "passed", "others": {}, "kept": {}}
    with Records(disk / "sums.jsonl", {"coderv2": "eval 1"}) as records:
        fill(disk)
        samples = [{"problem": str(number), "sample": 0, "verdict": verdict} for number in range(999)]
        with pytest.raises(ServiceError, match=r"samples so far are safe there"):
            list(map(records.append, samples))
        kept = len(records.samples)
    assert 0 < kept == len(read(disk / "sums.jsonl").samples)
