"""/health for the process, /ready for whoever sends it requests."""

import pytest

from coderv2.server.app import create_app
from coderv2.server.backend import Backend
from coderv2.server.door import Door
from coderv2.server.models import Models
from tests.server.fakes import ScriptedEngine, request
from tests.tiny_tokenizer import tiny_tokenizer


@pytest.mark.parametrize(
    ("state", "health", "ready"),
    [("loading", 200, 503), ("ready", 200, 200), ("draining", 200, 503), ("stopped", 503, 503)],
)
@pytest.mark.parametrize("root", ["", "/v1"])
def test_each_state_has_its_statuses(state: str, health: int, ready: int, root: str) -> None:
    engine = ScriptedEngine()
    engine.alive = state != "stopped"
    door = Door(None if state == "loading" else Models.of("tiny", Backend(engine, tiny_tokenizer())))
    door.draining = state == "draining"
    app = create_app(door)
    first, second = request(app, "GET", f"{root}/health"), request(app, "GET", f"{root}/ready")
    assert (first.status_code, second.status_code) == (health, ready)
    assert first.json() == {"status": "ok" if state == "ready" else state}
    assert second.json() == {"status": state}
    assert ("retry-after" in second.headers) == (ready == 503)
