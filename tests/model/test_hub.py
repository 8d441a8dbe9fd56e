"""Names → folders; the hub itself is played by a fake download."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from coderv2 import paths
from coderv2.errors import ModelNotFound
from coderv2.model import hub


def test_nothing_and_bundled_are_the_model_in_this_package() -> None:
    assert hub.resolve() == hub.resolve("bundled") == paths.bundled_model()


def test_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert hub.resolve(tmp_path) == hub.resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "name", ["no/such/folder", "../nowhere", "nowhere", "", "out/lite--int4", "out/lite-", "x" * 300]
)
def test_what_is_neither_folder_nor_hub_name_says_what_to_give(name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"give a folder, a \.gguf file, a hub name like"):
        hub.resolve(name)


def test_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ModelNotFound, match="is a file"):
        hub.resolve(tmp_path / "x.bin")


def test_hub_name_is_downloaded_without_code_or_pickles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert hub.resolve("deepseek-ai/DeepSeek-Coder-V2-Lite-Base") == tmp_path
    assert asked == [("deepseek-ai/DeepSeek-Coder-V2-Lite-Base", ["*.json", "*.safetensors", "*.packed"])]


def test_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no connection\nand a long story")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(ModelNotFound, match=r"the hub could not be reached: no connection$"):
        hub.resolve("owner/model")


def test_a_gguf_file_that_is_not_there_is_no_folder() -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        hub.resolve("nope.gguf")
