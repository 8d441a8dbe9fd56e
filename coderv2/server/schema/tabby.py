"""What Tabby's editor plugins send to its server: pieces of the editor instead of a prompt."""

from typing import Annotated, Literal

from pydantic import Field

from coderv2.server.schema.base import Listed, Seed, Temperature, Wire


class Snippet(Wire):
    """A piece of another file that may help."""

    filepath: str = ""
    body: str


Snippets = Annotated[Listed[Snippet], Field(max_length=256)]


class Segments(Wire):
    """What is around the cursor."""

    prefix: str
    suffix: str = ""
    declarations: Snippets = Field(default_factory=list)
    relevant_snippets_from_changed_files: Snippets = Field(default_factory=list)
    """The best first."""
    relevant_snippets_from_recently_opened_files: Snippets = Field(default_factory=list)

    @property
    def snippets(self) -> list[Snippet]:
        """All of them, the most useful last: next to the hole, and the last to go where there is no room."""
        opened, changed = (
            self.relevant_snippets_from_recently_opened_files,
            self.relevant_snippets_from_changed_files,
        )
        return [*reversed(opened), *reversed(changed), *self.declarations]


class SegmentsRequest(Wire):
    """POST /v1/completions with `segments`."""

    segments: Segments
    temperature: Temperature | None = None
    seed: Seed | None = None


class EventRequest(Wire):
    """POST /v1/events: whether a completion was seen, taken or dismissed."""

    type: Literal["view", "select", "dismiss"]
