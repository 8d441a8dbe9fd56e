from coderv2.data.mix import hold_out, repeat
from tests.data.fakes import document


def test_sources_are_repeated_by_their_factor() -> None:
    documents = [document(name=f"{source}/{n}.py") for source in ("twice", "once") for n in range(3)]
    kept = list(repeat({"twice": 2.0})(documents))
    assert [item.id for item in kept][:4] == ["twice/0.py#0", "twice/0.py#1", "twice/1.py#0", "twice/1.py#1"]
    assert len(kept) == 9


def test_a_fraction_keeps_about_that_share_and_says_what_went() -> None:
    documents = [document(name=f"big/{n}.py") for n in range(1000)]
    judged = list(repeat({"big": 0.2})(documents))
    kept = [item for item in judged if item.dropped is None]
    assert 150 < len(kept) < 250
    assert {item.dropped for item in judged} == {None, "sampled out by the mix"}
    assert judged == list(repeat({"big": 0.2})(documents))


def test_held_out_documents_are_marked_and_go_first() -> None:
    documents = [document(name="torch/a.py"), document(name="click/a.py")]
    assert [(item.id, item.held_out) for item in hold_out("^click/")(documents)] == [
        ("click/a.py", True),
        ("torch/a.py", False),
    ]


def test_no_pattern_holds_out_nothing() -> None:
    assert [item.held_out for item in hold_out()([document()])] == [False]
