"""What Ollama's clients ask before: its version, its models, and what a model can do."""

from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response

from coderv2.server.door import Door, json_response
from coderv2.server.models import Models
from coderv2.server.schema.ollama import ShowRequest

API_LEVEL = "0.12.0"
"""The Ollama whose API this is; its clients refuse servers that they think too old."""
_CHAT_TEMPLATE = "{{ if .System }}{{ .System }}\n\n{{ end }}User: {{ .Prompt }}\n\nAssistant:"
_FIM_TEMPLATE = "<｜fim▁begin｜>{{ .Prompt }}<｜fim▁hole｜>{{ .Suffix }}<｜fim▁end｜>"


def add_routes(app: FastAPI, door: Door) -> None:
    """`POST /api/show`, `GET /api/tags`, `GET /api/version`, `GET` and `HEAD /`."""

    @app.post("/api/show")
    async def post_show(body: ShowRequest) -> Response:
        return json_response(_shown(door.served().called(body.model or body.name)))

    @app.get("/api/tags")
    async def get_tags() -> Response:
        models = door.served()
        created = time_of(models.created)
        tag = {"name": models.name, "model": models.name, "modified_at": created, "details": _details()}
        return json_response({"models": [tag]})

    @app.get("/api/version")
    async def get_version() -> Response:
        return json_response({"version": API_LEVEL})

    @app.head("/", include_in_schema=False)
    @app.get("/")
    async def get_root() -> Response:
        return PlainTextResponse("coderv2 is running")


def _shown(models: Models) -> dict[str, Any]:
    infills = models.text.no_infill is None
    fim = f"{{{{- if .Suffix }}}}{_FIM_TEMPLATE}{{{{ else }}}}{_CHAT_TEMPLATE}{{{{ end }}}}"
    return {
        "template": fim if infills else _CHAT_TEMPLATE,
        "details": _details(),
        "model_info": {
            "general.architecture": "deepseek2",
            "deepseek2.context_length": models.card()["context_length"],
        },
        "capabilities": ["completion", "tools", *(["insert"] if infills else [])],
        "modified_at": time_of(models.created),
    }


def _details() -> dict[str, Any]:
    return {"format": "coderv2", "family": "deepseek2", "families": ["deepseek2"]}


def time_of(seconds: float | None = None) -> str:
    """Now, or that moment, as ISO 8601."""
    at = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return at.isoformat().replace("+00:00", "Z")
