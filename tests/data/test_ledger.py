import hashlib

from coderv2.data import ledger
from tests.data.fakes import document


def test_a_source_is_one_entry_with_the_hash_of_its_sorted_files() -> None:
    (entry,) = ledger.as_json([document("b", name="p/b.py"), document("ä", name="p/a.py")])
    assert entry == {
        "source": "p",
        "version": "1.0",
        "licence": "MIT",
        "held_out": False,
        "files": 2,
        "bytes": 3,
        "sha256": hashlib.sha256("äb".encode()).hexdigest(),
    }


def test_held_out_files_of_a_source_have_their_own_entry() -> None:
    made = ledger.entries([document(name="p/a.py"), document(name="p/b.py", held_out=True)])
    assert [(entry.source, entry.held_out, entry.files) for entry in made] == [
        ("p", False, 1),
        ("p", True, 1),
    ]
