"""README, guides and CONTRIBUTING: programs run, commands have the options they are given, links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from coderv2 import LLM, SamplingParams
from coderv2.cli.main import coderv2
from coderv2.errors import NoSandbox

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
NEWCOMERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *GUIDES]
PAGES = [*NEWCOMERS, *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/clients/*.md"))]
_FENCE = re.compile(r"^(`{3,})(\w*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
# These need a server (tests/server/test_guide.py), or minutes (below).
ELSEWHERE = ("serve.md", "train.md")


def _blocks(page: Path, *languages: str) -> list[str]:
    return [text for _, language, text in _FENCE.findall(page.read_text("utf-8")) if language in languages]


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "page", [page for page in NEWCOMERS if _blocks(page, "python") and page.name not in ELSEWHERE], ids=_name
)
def test_its_programs_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for program in _blocks(page, "python"):
        try:
            exec(compile(program, _name(page), "exec"), {})
        except NoSandbox as error:
            pytest.skip(str(error))


@pytest.mark.slow
def test_the_program_that_trains_on_ones_own_code_leaves_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-code").mkdir()
    (tmp_path / "my-code" / "a.py").write_text("def add(a, b):\r\n    return a + b\r\n" * 9, "utf-8-sig")
    (program,) = _blocks(ROOT / "docs" / "guides" / "train.md", "python")
    assert "minutes=5" in program
    exec(program.replace("minutes=5", "steps=1, row_tokens=64, rows_per_step=1"), {})
    assert LLM("tuned/model").generate("def", SamplingParams(max_tokens=1), use_tqdm=False)


def test_the_readmes_answers_are_those_of_the_bundled_model() -> None:
    readme, llm = (ROOT / "README.md").read_text("utf-8"), LLM()
    greedy = SamplingParams(temperature=0, max_tokens=128)
    (completed,) = llm.generate("def quick_sort(arr):", greedy, use_tqdm=False)
    (shown,) = re.findall(r'complete "def quick_sort\(arr\):"\n(.*?)…', readme, re.DOTALL)
    assert completed.outputs[0].text.startswith(shown)
    asked = [{"role": "user", "content": "Write a function that adds two numbers."}]
    assert asked[0]["content"] in readme
    (answered,) = llm.chat(asked, greedy, use_tqdm=False)
    (shown,) = re.findall(r'"content":"(Here.*?)" …', readme)
    assert answered.outputs[0].text.removeprefix(" ") == shown.replace("\\n", "\n")


def _commands(page: Path) -> Iterator[list[str]]:
    """The words after `coderv2`, line by line, without prompts, comments, pipes and redirections."""
    for block in _blocks(page, "", "sh"):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True) if "coderv2 " in line else []
            if words and words[0].rpartition("/")[2] == "coderv2":
                end = next((i for i, word in enumerate(words) if word[0] in "|>"), len(words))
                yield words[1:end]


@pytest.mark.parametrize("page", [page for page in NEWCOMERS if any(_commands(page))], ids=_name)
def test_its_commands_have_the_options_that_they_are_given(page: Path) -> None:
    for words in _commands(page):
        _parse(coderv2, words)


def _parse(command: click.Command, words: list[str]) -> None:
    """As click would, to the innermost command. Raises UsageError."""
    context = click.Context(command)
    if isinstance(command, click.Group):
        _, found, rest = command.resolve_command(context, words)
        assert found is not None
        _parse(found, rest)
    else:
        command.make_context(command.name, list(words))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_its_links_lead_to_pages_and_headings_that_there_are(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not re.match(r"https?:", target):
            path, _, heading = target.partition("#")
            to = (page.parent / path).resolve() if path else page
            assert to.exists(), target
            assert not heading or heading in _headings(to), target


def _headings(page: Path) -> set[str]:
    """Anchors, as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
