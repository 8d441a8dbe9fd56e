"""coderv2 chat: one answer, conversations, and a real terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coderv2.cli.chat import Conversation, converse
from coderv2.engine.llm import LLM
from coderv2.engine.request import SamplingParams
from coderv2.text.chat import Message, encode_chat
from tests.cli.conftest import RunCommand
from tests.engine.fakes import FakeModel, fake_engine, greedy


@pytest.mark.parametrize(("arguments", "stdin"), [(["Hello"], None), ([], "Hello"), (["-"], "Hello")])
def test_one_message_gets_one_answer(
    command: RunCommand, tiny_checkpoint: Path, arguments: list[str], stdin: str | None
) -> None:
    llm = LLM(tiny_checkpoint, max_model_len=256, cache_tokens=4096)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    (expected,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=9), use_tqdm=False)
    options = ["-m", tiny_checkpoint, "--system", "Be brief.", "--temperature", 0, "--max-tokens", 9]
    outcome = command("chat", *arguments, *options, stdin=stdin)
    assert (outcome.code, outcome.out) == (0, expected.outputs[0].text.removeprefix(" "))


def test_the_models_own_sampling_holds_unless_told_otherwise(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0}', "utf-8")
    options = ["-m", tmp_path, "--max-tokens", 20]
    assert command("chat", "Hi", *options).out == command("chat", "Hi", *options, "--temperature", 0).out
    assert command("chat", "Hi", *options).out != command("chat", "Hi", *options, "--temperature", 2).out


def _typed(*lines: str | type[BaseException]) -> Callable[[str], str]:
    """Somebody who types these lines, then Ctrl-D."""
    queue: Iterator[str | type[BaseException]] = iter(lines)

    def read_line(prompt: str) -> str:
        line = next(queue, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read_line


def _conversation(**more: object) -> Conversation:
    return Conversation(fake_engine(FakeModel(**more)), greedy(6))  # type: ignore[arg-type]


def test_turns_are_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    conversation = _conversation(context=400)
    converse(conversation, _typed("one", "", "  ", "two"))
    roles = [message.role for message in conversation.messages]
    assert roles == ["user", "assistant"] * 2
    first, second = (m.content for m in conversation.messages if m.role == "assistant")
    assert first != second
    assert first.removeprefix(" ") in capsys.readouterr().out


def test_reset_keeps_only_the_system_text() -> None:
    conversation = Conversation(fake_engine(FakeModel(context=400)), greedy(6), "Be brief.")
    converse(conversation, _typed("one", "/reset"))
    assert conversation.messages == [Message("system", "Be brief.")]


def test_lines_between_quotes_go_together() -> None:
    conversation = _conversation(context=400)
    converse(conversation, _typed('"""', "def f():", "    pass", '"""'))
    assert conversation.messages[0] == Message("user", "def f():\n    pass")


def test_help_and_unknown_commands_ask_the_model_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    conversation = _conversation()
    converse(conversation, _typed("/help", "/nonsense", KeyboardInterrupt))
    out = capsys.readouterr().out
    assert conversation.messages == []
    assert "/reset starts a new one" in out
    assert "/nonsense: no such command" in out
    assert "(Ctrl-D ends)" in out


def test_a_path_is_no_command() -> None:
    conversation = _conversation(context=400)
    converse(conversation, _typed("/usr/bin/python what?"))
    assert conversation.messages[0].content == "/usr/bin/python what?"


def test_a_conversation_that_is_too_long_says_the_way_out_and_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    conversation = _conversation(context=40)
    converse(conversation, _typed("x" * 100, "hi"))
    out = capsys.readouterr().out
    assert "maximum context length is 40 tokens" in out
    assert "/reset starts a new conversation" in out
    assert conversation.messages[0].content == "hi"


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said() -> None:
    engine = fake_engine(FakeModel(context=5000), cache_tokens=20_000)
    conversation = Conversation(engine, greedy(4000))
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked > 30

    before = signal.getsignal(signal.SIGINT)
    said = "".join(conversation.ask("hi", stopped))
    assert conversation.messages[1].content.removeprefix(" ") == said
    assert encode_chat(engine.tokenizer, conversation.messages)
    assert not engine.has_work()
    assert signal.getsignal(signal.SIGINT) is before


class Terminal:
    """A program in a pseudo terminal."""

    def __init__(self, arguments: list[str]) -> None:
        self.screen = ""
        self._end, other = pty.openpty()
        environment = os.environ | {"TERM": "dumb"}
        self.process = subprocess.Popen(
            arguments, stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True
        )
        os.close(other)

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Reads until the screen shows it, and forgets what came before."""
        end = time.monotonic() + seconds
        while text not in self.screen:
            readable, _, _ = select.select([self._end], [], [], max(0.0, end - time.monotonic()))
            assert readable, self.screen
            self.screen += os.read(self._end, 4096).decode(errors="replace")
        self.screen = self.screen.partition(text)[2]

    def press(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def close(self) -> int:
        """The exit code."""
        try:
            while os.read(self._end, 4096):
                pass
        except OSError:
            pass
        os.close(self._end)
        return self.process.wait()


def test_in_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_the_program(tiny_checkpoint: Path) -> None:
    # The likeliest answer of these random weights goes in circles and never ends by itself.
    options = ["-m", str(tiny_checkpoint), "--max-tokens", "100000", "--temperature", "0"]
    terminal = Terminal([sys.executable, "-m", "coderv2", "chat", *options])
    terminal.wait_for("Ctrl-D ends.")
    terminal.wait_for(">>> ")
    terminal.press("hello\n")
    terminal.wait_for("\n")
    time.sleep(0.2)
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.wait_for(">>> ")
    terminal.press("/help\n")
    terminal.wait_for("/reset starts a new one")
    terminal.wait_for(">>> ")
    terminal.press("\x04")
    assert terminal.close() == 0
