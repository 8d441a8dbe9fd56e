"""The tokenizer out of a file's metadata: the checkpoint's tokens, and no template is run."""

import logging
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.errors import BadCheckpoint, Unsupported
from coderv2.model import gguf
from coderv2.model.gguf_tokenizer import writes_as_ours
from coderv2.text.chat import CHAT_TEMPLATE
from coderv2.text.tokenizer import Tokenizer
from tests.gguf_pieces import Pieces, text
from tests.model.gguf_files import write_gguf
from tests.text.texts import ordinary_text, text_with_markers
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer_folder

STRING, ARRAY = 8, 9
# As DeepSeek-V2's checkpoints carry it.
PUBLISHED = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def good(folder: Path) -> Path:
    return write_gguf(folder / "x.gguf", tiny_model(tiny_config()), tokenizer=folder)


def _changed(good: Path, folder: Path, key: str, kind: int, value: bytes) -> Path:
    path = folder / "y.gguf"
    pieces = Pieces.of(good.read_bytes()).with_entry(key, kind, value)
    path.write_bytes(pieces.joined())
    return path


@pytest.fixture(scope="module")
def both(good: Path, folder: Path) -> tuple[Tokenizer, Tokenizer]:
    return gguf.read_tokenizer(good), Tokenizer.from_folder(folder)


def test_control_tokens_are_the_checkpoints(both: tuple[Tokenizer, Tokenizer]) -> None:
    ours, theirs = both
    assert (ours.bos_id, ours.eos_id, ours.fim, ours.special_ids) == (
        theirs.bos_id, theirs.eos_id, theirs.fim, theirs.special_ids
    )  # fmt: skip


@given(sample=ordinary_text | text_with_markers, control=st.booleans())
def test_every_text_has_the_checkpoints_tokens(
    both: tuple[Tokenizer, Tokenizer], sample: str, control: bool
) -> None:
    ours, theirs = both
    ids = theirs.encode(sample, control=control)
    assert ours.encode(sample, control=control) == ids
    assert ours.decode(ids, skip_special=False) == theirs.decode(ids, skip_special=False)


@pytest.mark.parametrize("pre", ["llama-bpe", "deepseek-coder", "default"])
def test_tokenizers_that_cut_otherwise_are_refused(good: Path, tmp_path: Path, pre: str) -> None:
    with pytest.raises(Unsupported, match=r"DeepSeek-Coder|tokenizer 'gpt2' with"):
        gguf.read_tokenizer(_changed(good, tmp_path, "tokenizer.ggml.pre", STRING, text(pre.encode())))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens", struct.pack("<IQ", 8, 1) + text(b"a")),
        ("tokens", struct.pack("<IQ", 5, 1) + b"\0\0\0\0"),
        ("token_type", struct.pack("<IQ", 5, 0)),
        ("merges", struct.pack("<IQ", 8, 1) + text(b"nospace")),
        ("merges", struct.pack("<IQ", 8, 1) + text(b"not there")),
    ],
    ids=["too few tokens", "tokens that are numbers", "no types", "a merge of one", "a merge of no tokens"],
)
def test_vocabularies_that_do_not_fit_are_one_error(
    good: Path, tmp_path: Path, key: str, value: bytes
) -> None:
    with pytest.raises(BadCheckpoint, match=r"y\.gguf: "):
        gguf.read_tokenizer(_changed(good, tmp_path, f"tokenizer.ggml.{key}", ARRAY, value))


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, PUBLISHED, PUBLISHED.replace("\n", "\\n")])
def test_our_template_and_the_published_one_go_without_saying(
    good: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, template: str
) -> None:
    gguf.read_tokenizer(_changed(good, tmp_path, "tokenizer.chat_template", STRING, text(template.encode())))
    assert not caplog.records
    assert writes_as_ours(template)


def test_another_template_is_not_run_and_one_line_says_so(
    good: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    template = "{{ cycler.__init__.__globals__.os.system('touch " + str(tmp_path / "run") + "') }}"
    with caplog.at_level(logging.INFO, "coderv2"):
        gguf.read_tokenizer(
            _changed(good, tmp_path, "tokenizer.chat_template", STRING, text(template.encode()))
        )
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "its own chat template" in record.message
    assert "is not run" in record.message
    assert not (tmp_path / "run").exists()
