"""The peer's process, with a llama_cpp that computes nothing in place of the real one."""

import sys
from pathlib import Path
from typing import Any

import pytest

from coderv2.engine.peer import Peer
from coderv2.errors import Unsupported

FAKE = Path(__file__).parent / "fake_peer"


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))


def _load(peer: Peer, states: Path, **changed: Any) -> dict[str, Any]:
    values = {"gguf": "model.gguf", "threads": 1, "tokens": 8192, "sequences": 4, "repack": True}
    return peer.ask("load", **(values | changed), states=str(states))


def test_prompts_and_steps_take_time_and_memory(tmp_path: Path) -> None:
    with Peer(sys.executable) as peer:
        assert _load(peer, tmp_path)["version"] == "0.0-fake"
        assert peer.ask("prompt", tokens=5000)["value"] > 0  # in three batches
        for _ in range(2):  # the second time its context comes out of a file
            assert peer.ask("steps", sequences=4, depth=300, count=3)["value"] > 0
        assert peer.ask("steps", sequences=1, depth=0, count=3)["value"] > 0
        assert peer.ask("peak")["value"] > 1 << 20
    assert [path.name for path in tmp_path.iterdir()] == ["300.state"]


def test_what_ends_the_program_is_one_error(tmp_path: Path) -> None:
    with Peer(sys.executable) as peer, pytest.raises(Unsupported, match=r"cannot load refused\.gguf"):
        _load(peer, tmp_path, gguf="refused.gguf")
    with Peer(sys.executable) as peer:
        _load(peer, tmp_path, tokens=256)
        with pytest.raises(Unsupported, match="decode failed"):
            peer.ask("prompt", tokens=500)


def test_a_python_without_llama_cpp_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise ModuleNotFoundError(\"No module named 'llama_cpp'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Peer(sys.executable) as peer, pytest.raises(Unsupported, match="pip install llama-cpp-python"):
        _load(peer, tmp_path)


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"--peer-python .*nowhere"):
        Peer(str(tmp_path / "nowhere"))
