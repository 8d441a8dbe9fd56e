"""How the server is, for those who look after it: /health, /ready, /metrics; and its routes as OpenAPI."""

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from coderv2.server.door import Door, json_response
from coderv2.server.guard import open_to_all


def add_routes(app: FastAPI, door: Door) -> None:
    """Open ones tell nothing but the state."""

    @app.get("/health")
    @open_to_all
    async def get_health() -> Response:
        """Whether the process does its work: 200 also while it loads or drains."""
        state = door.state
        return json_response(
            {"status": "ok" if state == "ready" else state}, 503 if state == "stopped" else 200
        )

    @app.get("/ready")
    @open_to_all
    async def get_ready() -> Response:
        """Whether to send requests here."""
        state = door.state
        headers = {} if state == "ready" else {"retry-after": "1"}
        response = json_response({"status": state}, 200 if state == "ready" else 503)
        response.headers.update(headers)
        return response

    @app.get("/metrics")
    async def get_metrics() -> Response:
        """Prometheus's text form."""
        return Response(door.metrics.page(door.models), media_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json", include_in_schema=False)
    async def get_openapi(request: Request) -> Response:
        """All routes with their types and ranges."""
        return json_response(app.openapi())
