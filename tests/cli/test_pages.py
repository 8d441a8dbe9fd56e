"""docs/cli is what `--help` says."""

from pathlib import Path

from coderv2.cli.main import COMMANDS
from coderv2.cli.pages import pages, write

DOCS = Path(__file__).parents[2] / "docs" / "cli"


def test_the_pages_in_docs_are_current() -> None:
    current = dict(pages())
    assert current == {path.name: path.read_text("utf-8") for path in DOCS.glob("*.md")}, "run `make docs`"


def test_every_command_has_a_page_with_its_options(tmp_path: Path) -> None:
    write(tmp_path / "cli")
    assert {path.stem for path in (tmp_path / "cli").iterdir()} == {"coderv2", *COMMANDS}
    assert "--max-shard-size" in (tmp_path / "cli" / "convert.md").read_text("utf-8")
