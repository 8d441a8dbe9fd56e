"""The kernels' threads under ThreadSanitizer: none reads what another writes before it was told."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
POOL = ROOT / "coderv2/kernels/cpu/pool.cpp"


def _build(compiler: str, to: Path, *sources: Path) -> subprocess.CompletedProcess[str]:
    flags = ["-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=thread", "-pthread"]
    command = [compiler, *flags, f"-I{POOL.parent}", *map(str, sources), "-o", str(to)]
    return subprocess.run(command, capture_output=True, text=True)


def _run(program: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run([program], capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that makes programs with ThreadSanitizer which run here."""
    found = shutil.which(os.environ.get("CXX", "c++"))
    if found is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("tsan")
    (folder / "nothing.cpp").write_text("int main() { return 0; }\n")
    built = _build(found, folder / "nothing", folder / "nothing.cpp")
    if built.returncode:
        pytest.skip(f"{found} has no ThreadSanitizer: {built.stderr.strip()[-200:]}")
    ran = _run(folder / "nothing")
    if ran.returncode:  # the system lays programs out in a way that this version of it does not know
        pytest.skip(f"ThreadSanitizer of {found} does not run here: {ran.stderr.strip()[-200:]}")
    return found


def _stressed(compiler: str, folder: Path, pool: Path) -> subprocess.CompletedProcess[str]:
    built = _build(compiler, folder / "stress", Path(__file__).with_name("pool_stress.cpp"), pool)
    assert not built.returncode, built.stderr
    return _run(folder / "stress")


def test_no_thread_reads_what_it_was_not_told_is_there(compiler: str, tmp_path: Path) -> None:
    ran = _stressed(compiler, tmp_path, POOL)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_missing_word_between_threads_would_be_seen(compiler: str, tmp_path: Path) -> None:
    text = POOL.read_text()
    loosened = text.replace("std::memory_order_release", "std::memory_order_relaxed")
    assert loosened != text
    (tmp_path / "pool.cpp").write_text(loosened)
    ran = _stressed(compiler, tmp_path, tmp_path / "pool.cpp")
    assert ran.returncode
    assert "data race" in ran.stderr
