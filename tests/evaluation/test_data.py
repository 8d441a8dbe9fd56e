"""Benchmark files."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from coderv2.errors import BadData, InvalidValue
from coderv2.evaluation.data import Data, Source
from tests.evaluation.fakes import data_with

SOURCE = Source("set/rows.jsonl.gz", how="ask the authors")
ARCHIVE = Source("set/files.tar.gz", how="ask the authors")


@pytest.mark.parametrize("name", ["set/rows.jsonl.gz", "set/rows.jsonl"])
@pytest.mark.parametrize("packed", [True, False])
def test_rows_are_read_gzipped_or_not_under_either_name(tmp_path: Path, name: str, packed: bool) -> None:
    content = b'{"a": 1}\n\n{"a": 2}\n'
    data = data_with(tmp_path, {name: gzip.compress(content) if packed else content})
    assert data.rows(SOURCE) == [{"a": 1}, {"a": 2}]


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    """Valid rows were cut where a string holds another kind of line end, and told as damaged."""
    row = '{"a": "1\u2028\u2029\x852"}\r\n'
    assert (
        data_with(tmp_path, {"set/rows.jsonl": row.encode() * 2}).rows(SOURCE)
        == [{"a": "1\u2028\u2029\x852"}] * 2
    )


def test_a_list_of_objects_will_do_as_well(tmp_path: Path) -> None:
    assert data_with(tmp_path, {"set/rows.jsonl": '[{"a": 1}]'}).rows(SOURCE) == [{"a": 1}]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"a": 1}\n{"a": \n', r"rows\.jsonl\.gz:2: damaged, not JSON"),
        (b"[1, 2]", "not JSON objects"),
        (b"7\n", "not JSON objects"),
        (b"\xff\xfe", "not UTF-8"),
        (gzip.compress(b'{"a": 1}' * 99)[:-20], "damaged gzip"),
        (b"\x1f\x8bnonsense", "damaged gzip"),
    ],
)
def test_damage_is_an_error_that_names_file_and_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(BadData, match=complaint):
        data_with(tmp_path, {"set/rows.jsonl.gz": content}).rows(SOURCE)


def test_a_folder_in_a_files_place_is_an_error_of_data(tmp_path: Path) -> None:
    """It was one of the system, which ended a run of several tasks."""
    (tmp_path / SOURCE.path).mkdir(parents=True)
    with pytest.raises(BadData, match=r"rows\.jsonl\.gz: cannot be read \(Is a directory\)"):
        Data(tmp_path).rows(SOURCE)


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"rows\.jsonl\.gz is missing: ask the authors"):
        Data(tmp_path).rows(SOURCE)
    with pytest.raises(BadData, match="no such folder"):
        Data(tmp_path / "nowhere")


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_archives_and_folders_hold_members(tmp_path: Path) -> None:
    files = {"x/b.csv": b"2", "x/a.csv": b"1", "x/a.txt": b"3"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    kinds = {"t": {"set/files.tar.gz": tar(files)}, "z": {"set/files.tar.gz": buffer.getvalue()}}
    kinds["f"] = {f"set/files/{name}": content for name, content in files.items()}
    for kind, content in kinds.items():
        found = data_with(tmp_path / kind, content).members(ARCHIVE, ".csv")
        assert list(found.values()) == [b"1", b"2"]
    with pytest.raises(BadData, match="no file that ends in"):
        data_with(tmp_path / "t", {}).members(ARCHIVE, ".json")


def test_a_torn_archive_is_an_error(tmp_path: Path) -> None:
    data = data_with(tmp_path, {"set/files.tar.gz": tar({"a.csv": bytes(range(256)) * 99})[:-100]})
    with pytest.raises(BadData, match="damaged archive"):
        data.members(ARCHIVE, ".csv")


def test_the_environment_names_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODERV2_DATA", str(tmp_path))
    assert Data().folder == tmp_path
    assert not Data().fetches
    monkeypatch.setenv("CODERV2_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InvalidValue, match="CODERV2_DATA"):
        Data()


def test_without_a_folder_files_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CODERV2_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    public = tmp_path / "public.jsonl"
    public.write_text('{"a": 1}\n')
    source = Source("set/rows.jsonl.gz", public.as_uri())
    assert Data().rows(source) == [{"a": 1}]
    public.unlink()
    assert Data().rows(source) == [{"a": 1}]
    with pytest.raises(
        BadData,
        match=r"cannot be fetched.*by hand as .*/benchmarks/set/others\.jsonl, or as set/others\.jsonl in .*--data",
    ):
        Data().rows(Source("set/others.jsonl", public.as_uri()))
    assert not list((tmp_path / "cache").rglob("*.part"))
