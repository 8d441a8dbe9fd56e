"""What Ollama's clients find out about the model."""

import re

from coderv2.server.app import create_app
from coderv2.server.backend import Backend
from coderv2.server.dialects.ollama_models import time_of
from coderv2.server.door import Door
from coderv2.server.models import Models
from tests.server.fakes import ScriptedEngine, post, request, scripted_app
from tests.tiny_tokenizer import tiny_tokenizer


def test_clients_see_by_the_template_whether_it_infills() -> None:
    able = post(scripted_app(ScriptedEngine()), "/api/show", model="tiny").json()
    backend = Backend(ScriptedEngine(), tiny_tokenizer(), no_infill="it cannot")
    unable = post(create_app(Door(Models.of("tiny", backend))), "/api/show", name="tiny").json()
    assert ".Suffix" in able["template"]
    assert "insert" in able["capabilities"]
    assert ".Suffix" not in unable["template"]
    assert "insert" not in unable["capabilities"]
    assert able["model_info"]["deepseek2.context_length"] == 4096


def test_the_model_the_version_and_the_root() -> None:
    app = scripted_app(ScriptedEngine())
    (tag,) = request(app, "GET", "/api/tags").json()["models"]
    assert tag["name"] == tag["model"] == "tiny"
    assert re.fullmatch(r"\d+\.\d+\.\d+", request(app, "GET", "/api/version").json()["version"])
    assert request(app, "HEAD", "/").status_code == 200
    assert request(app, "GET", "/").text == "coderv2 is running"


def test_times_are_iso_8601_in_utc() -> None:
    assert time_of(0) == "1970-01-01T00:00:00Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", time_of())
