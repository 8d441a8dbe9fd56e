"""Documents and installed packages to test the stages with."""

from importlib.metadata import Distribution
from pathlib import Path

from coderv2.data.document import Document


def document(text: str = "x = 1\n", name: str = "package/file.py", **fields: object) -> Document:
    defaults: dict[str, object] = {
        "id": name,
        "source": name.split("/")[0],
        "version": "1.0",
        "licence": "MIT",
    }
    return Document(text=text, **(defaults | fields))  # type: ignore[arg-type]


class FakeDistribution(Distribution):
    """An installed package of which only the metadata's text is known."""

    def __init__(self, *lines: str) -> None:
        self._metadata = "\n".join(["Metadata-Version: 2.4", "Name: fake", "Version: 1.0", *lines, ""])

    def read_text(self, filename: str) -> str | None:
        return self._metadata if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:
        return Path(str(path))
