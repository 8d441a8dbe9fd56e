"""Names of the served model."""

import pytest

from coderv2.errors import ModelNotFound
from coderv2.server.models import ServedModel

MODEL = ServedModel("owner/Tiny", max_model_len=64, fim=True)


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
    assert card["max_model_len"] == card["context_length"] == 64
    assert card["abilities"] == {"chat": True, "fim": True, "tools": False, "json_schema": False}
