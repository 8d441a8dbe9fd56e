"""Names of the served model."""

from dataclasses import replace

import pytest

from coderv2.errors import ModelNotFound
from coderv2.server.backend import Backend, why_no_infill
from coderv2.server.models import Models
from tests.server.fakes import ScriptedEngine
from tests.tiny import tiny_config
from tests.tiny_tokenizer import tiny_tokenizer

MODEL = Models.of("owner/Tiny", Backend(ScriptedEngine(), tiny_tokenizer()))


@pytest.mark.parametrize(
    "name",
    [
        "owner/Tiny",
        "OWNER/TINY",
        "",
        "default",
        "deepseek-coder",
        "DeepSeek-Coder-V2",
        "deepseek-coder-v2:16b",
    ],
)
def test_own_name_and_the_names_clients_come_with_are_served(name: str) -> None:
    MODEL.check(name)


@pytest.mark.parametrize("name", ["gpt-4", "tiny", "deepseek-coder-v3", "deepseek"])
def test_other_names_are_unknown_and_the_message_says_what_is_here(name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"owner/Tiny"):
        MODEL.check(name)


def test_the_card_has_limits_and_abilities() -> None:
    card = MODEL.card()
    assert (card["id"], card["object"]) == ("owner/Tiny", "model")
    assert isinstance(card["created"], int)
    assert card["max_model_len"] == card["context_length"] == 4096
    assert card["abilities"] == {"chat": True, "fim": True, "tools": True, "json_schema": True}


def test_the_236b_says_why_it_does_not_infill() -> None:
    large = replace(tiny_config("lite"), hidden_size=5120, num_hidden_layers=60)
    reason = why_no_infill(tiny_tokenizer(), large)
    assert reason is not None
    assert "trained without fill-in-the-middle" in reason
    assert "--fim-model" in reason
    backend = Backend(ScriptedEngine(), tiny_tokenizer(), no_infill=reason)
    assert Models.of("m", backend).card()["abilities"]["fim"] is False
    assert why_no_infill(tiny_tokenizer(), tiny_config("lite")) is None


def test_two_checkpoints_under_one_name() -> None:
    text = Backend(ScriptedEngine(max_model_len=32), tiny_tokenizer())
    models = Models.of("m", Backend(ScriptedEngine(), tiny_tokenizer(), no_infill="no"), text)
    assert models.text is text
    assert models.card()["max_model_len"] == 32
    assert models.card()["abilities"]["fim"] is True
