"""Responses that are kept: whose, how many, how long."""

import pytest

from coderv2.server import stored
from coderv2.server.errors import Refused
from coderv2.server.stored import Shelf, Stored, StoredResponses
from coderv2.text.chat import Message


def _kept(id: str, size: int = 1) -> Stored:
    return Stored({"id": id}, [Message("user", "x" * size)])


def test_each_is_seen_by_its_own_key_and_deleted_once() -> None:
    responses = StoredResponses()
    responses.keep("al", _kept("a"))
    assert responses.get("al", "a").response == {"id": "a"}
    for tenant, id in (("bo", "a"), ("al", "b")):
        with pytest.raises(Refused, match="there is no response") as caught:
            responses.get(tenant, id)
        assert (caught.value.failure.status, caught.value.failure.code) == (404, "not_found")
    responses.delete("al", "a")
    with pytest.raises(Refused):
        responses.delete("al", "a")


def test_the_oldest_go_when_there_are_too_many_or_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "KEPT", 3)
    monkeypatch.setattr(stored, "KEPT_BYTES", 200)
    responses = StoredResponses()
    for number in range(5):
        responses.keep("", _kept(str(number)))
    assert [id for _, id in responses._kept] == ["2", "3", "4"]
    responses.keep("", _kept("large", 170))
    assert [id for _, id in responses._kept] == ["4", "large"]
    responses.keep("", _kept("too large", 201))
    assert not responses._kept
    assert responses._bytes == 0


@pytest.mark.parametrize("field", ["instructions", "tools", "metadata", "output"])
def test_all_of_a_response_counts_for_what_is_kept(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "KEPT_BYTES", 1000)
    responses = StoredResponses()
    for number in range(5):
        responses.keep("", Stored({"id": str(number), field: {"a": "x" * 400}}, []))
    assert [id for _, id in responses._kept] == ["3", "4"]


@pytest.mark.parametrize(
    ("store", "response", "kept"), [(True, {"id": "a"}, 1), (False, {"id": "a"}, 0), (True, None, 0)]
)
def test_what_is_not_to_be_stored_or_failed_is_not_kept(
    store: bool, response: dict[str, str] | None, kept: int
) -> None:
    responses = StoredResponses()
    shelf = Shelf(responses, "al", "a", store)
    shelf.begin(object())  # type: ignore[arg-type]
    assert list(responses.running) == [("al", "a")]
    shelf.end(response, [])
    assert not responses.running
    assert len(responses._kept) == kept
