"""Every command, and `LLM`, over the bundled model's GGUF file."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from coderv2.cli import loading
from coderv2.cli.loading import load_for_one
from coderv2.engine.llm import LLM
from coderv2.engine.request import SamplingParams
from coderv2.kernels import cpu
from coderv2.model.gguf_export import export
from coderv2.model.gguf_types import FILE_TYPES
from coderv2.paths import bundled_model
from tests.cli.conftest import RunCommand
from tests.gguf_pieces import Pieces, text

pytestmark = pytest.mark.skipif(cpu.kernels is None, reason="quants are unpacked by the CPU kernels")

PROMPT = "def quick_sort(arr):"
GREEDY = SamplingParams(temperature=0, max_tokens=24)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small-q8_0.gguf"
    export(bundled_model(), path, FILE_TYPES["q8_0"], name="small")
    return path


@pytest.fixture(scope="module")
def expected(file: Path) -> str:
    (output,) = LLM(model=str(file)).generate(PROMPT, GREEDY, use_tqdm=False)
    return output.outputs[0].text


def test_eight_bits_write_what_the_checkpoint_writes(expected: str) -> None:
    (output,) = LLM().generate(PROMPT, GREEDY, use_tqdm=False)
    assert output.outputs[0].text == expected


def test_complete(command: RunCommand, file: Path, expected: str) -> None:
    outcome = command("complete", PROMPT, "-m", file, "--max-tokens", 24)
    assert (outcome.code, outcome.out, outcome.err) == (0, expected, "")


def test_infill(command: RunCommand, file: Path) -> None:
    outcome = command("infill", "-m", file, "--max-tokens", 4, stdin="def f(x):\n    <FILL>\n\nprint(f(1))\n")
    assert outcome.code == 0
    assert outcome.out


def test_chat(command: RunCommand, file: Path) -> None:
    outcome = command("chat", "-m", file, "--max-tokens", 4, "--temperature", 0, "Who are you?")
    assert outcome.code == 0
    assert outcome.out.strip()


def test_doctor_takes_the_files_size(
    command: RunCommand, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coderv2.engine import machine

    whole = machine.inspect
    monkeypatch.setattr(machine, "inspect", lambda: whole(weight_bytes=4 << 20))
    outcome = command("doctor", "-m", file)
    assert outcome.code == 0
    assert "as stored" in outcome.out
    assert "0.01 GB" in outcome.out
    assert "dtype auto (as stored)" in outcome.out
    assert "Tried here:" in outcome.out


def test_serve(file: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "coderv2", "serve", str(file), "--port", "0", "--max-model-len", "256"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"CODERV2_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        lines: list[str] = []
        while not any("base URL" in line for line in lines):
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        url = next(word for word in lines[-1].replace(",", " ").split() if word.startswith("http"))
        models = httpx.get(f"{url}/models", timeout=60).json()
        assert models["data"][0]["id"] == "small-q8_0"
        body = {"model": "small-q8_0", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
        answer = httpx.post(f"{url}/completions", json=body, timeout=60).json()
        assert answer["choices"][0]["text"]
    finally:
        process.kill()
        process.communicate()


def test_a_file_is_called_by_its_name(file: Path) -> None:
    assert load_for_one(str(file), "auto", "auto", {}).name == "small-q8_0"
    assert loading.name_of(str(file), file) == "small-q8_0"


def test_a_program_says_that_a_files_template_is_not_run(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    pieces = Pieces.of(file.read_bytes()).with_entry("tokenizer.chat_template", 8, text(b"{{ 1 }}"))
    other.write_bytes(pieces.joined())
    command = [sys.executable, "-m", "coderv2", "complete", "x", "-m", str(other), "--max-tokens", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "its own chat template" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("bundled", "OUT", "--type", "q8_0", "--dtype", "float32"),
            "--dtype and --max-shard-size are for folders",
        ),
        (("bundled", "FOLDER", "--type", "q8_0"), "--type is for GGUF files"),
        (("FILE", "OUT"), "is a GGUF file already"),
        (("bundled", "FILE"), "exists"),
    ],
)
def test_conversions_that_make_no_sense_are_one_line(
    command: RunCommand, file: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    places = {"OUT": tmp_path / "y.gguf", "FOLDER": tmp_path / "folder", "FILE": file}
    outcome = command("convert", *(places.get(one, one) for one in arguments))
    assert outcome.code == 2
    assert message in outcome.err
    assert not list(tmp_path.iterdir())


def test_convert_writes_the_type_asked_for(command: RunCommand, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "z.gguf"
    assert command("convert", "bundled", out).code == 0
    whole = out.stat().st_size
    assert command("convert", "bundled", out, "--type", "q8_0").code == 2  # it exists
    outcome = command("convert", "bundled", out, "--type", "q8_0", "--force")
    assert outcome.code == 0
    assert str(out) in outcome.out
    assert out.stat().st_size < 0.6 * whole
    assert abs(out.stat().st_size - file.stat().st_size) < 64
