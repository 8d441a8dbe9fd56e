"""Files that nobody should have made: each is one error, at once, that names the file and what is wrong."""

import re
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type

from coderv2.errors import BadCheckpoint, CoderV2Error, Unsupported
from coderv2.model import gguf
from coderv2.model.gguf_file import GgufFile
from tests.gguf_pieces import ODD_NUMBERS, Pieces, info, text
from tests.model.gguf_files import needs_kernels, write_gguf
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer_folder

UINT8, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 0, 4, 5, 6, 7, 8, 9, 10
HEADS = "deepseek2.attention.head_count"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    small = {"hidden_size": 32, "vocab_size": VOCAB_SIZE, "num_hidden_layers": 2, "n_routed_experts": 6}
    model = tiny_model(tiny_config(**small))
    tokenizer = tiny_tokenizer_folder(folder)
    return write_gguf(folder / "x.gguf", model, kind=Type.Q8_0, tokenizer=tokenizer).read_bytes()


def _refused(folder: Path, raw: bytes) -> CoderV2Error:
    path = folder / "x.gguf"
    path.write_bytes(raw)
    with pytest.raises(CoderV2Error) as caught:
        gguf.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message) < 1000
    return caught.value


Change = Callable[[Pieces], object]


def _first_info(change: Callable[[bytes], bytes]) -> Change:
    def apply(pieces: Pieces) -> None:
        pieces.infos[0] = change(pieces.infos[0])

    return apply


def _own_info(shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> Change:
    """The embedding's entry anew; `shape` innermost first."""
    return _first_info(lambda old: info(b"token_embd.weight", shape, kind, offset))


def _array(kind: int, count: int, body: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + body


def _nested(deep: int) -> bytes:
    return struct.pack("<IQ", ARRAY, 1) * deep + struct.pack("<IQ", UINT8, 0)


def _set(key: str, kind: int, value: bytes) -> Change:
    return lambda pieces: pieces.with_entry(key, kind, value)


def _u32(key: str, value: int) -> Change:
    return _set(f"deepseek2.{key}", UINT32, struct.pack("<I", value))


def _f32(key: str, value: float) -> Change:
    return _set(f"deepseek2.{key}", FLOAT32, struct.pack("<f", value))


def _attribute(name: str, value: object) -> Change:
    return lambda pieces: setattr(pieces, name, value)


HOSTILE: dict[str, tuple[Change, str]] = {
    "not a GGUF": (_attribute("magic", b"GGML"), "does not start with GGUF"),
    "version 1": (_attribute("version", 1), "GGUF version 1"),
    "big endian": (_attribute("version", 3 << 24), "GGUF version 50331648"),
    "2^63 tensors": (_attribute("tensors", 1 << 63), "claims 9223372036854775808 tensors"),
    "2^64 - 1 keys": (_attribute("keys", (1 << 64) - 1), "claims 18446744073709551615 metadata keys"),
    "more tensors than entries": (_attribute("tensors", 900), "x.gguf: "),
    "no metadata": (_attribute("keys", 0), "x.gguf: "),
    "no tensors": (_attribute("infos", []), r"token_embd\.weight is missing"),
    "2^62 values": (_set("a", ARRAY, _array(UINT8, 1 << 62)), "claims 4611686018427387904 values of 'a'"),
    "values without a type": (_set("a", 99, b""), "'a': values of unknown type 99"),
    "array of no type": (_set("a", ARRAY, _array(77, 0)), "'a': values of unknown type 77"),
    "arrays five deep": (_set("a", ARRAY, _nested(5)), "nested more than 4 deep"),
    "arrays 100,000 deep": (_set("a", ARRAY, _nested(100_000)), "nested more than 4 deep"),
    "a key twice": (lambda p: p.metadata.append(p.metadata[0]), "metadata key '.*' twice"),
    "a key of no length": (_set("", UINT8, b"\0"), "a metadata key is ''"),
    "a key that is not UTF-8": (
        lambda p: p.metadata.append(text(b"\xff\xfe") + b"\0\0\0\0\0"), "a metadata key is not UTF-8"
    ),
    "a key that moves the cursor": (_set("\x1b[2J", UINT8, b"\0"), "a metadata key is"),
    "a string that is not UTF-8": (_set("a", STRING, text(b"\xed\xa0\x80")), "'a' is not UTF-8"),
    "a string longer than the file": (_set("a", STRING, struct.pack("<Q", 1 << 40)), "claims 1099511627776 bytes"),
    "alignment 0": (_set("general.alignment", UINT32, struct.pack("<I", 0)), "general.alignment is 0"),
    "alignment 12": (_set("general.alignment", UINT32, struct.pack("<I", 12)), "general.alignment is 12"),
    "alignment a string": (_set("general.alignment", STRING, text(b"32")), "general.alignment is '32'"),
    "another architecture": (_set("general.architecture", STRING, text(b"llama")), "architecture 'llama'"),
    "architecture an array": (_set("general.architecture", ARRAY, _array(UINT8, 0)), r"architecture \[\]"),
    "a tensor's name of 65 bytes": (_first_info(lambda i: text(b"a" * 65) + i[25:]), "a tensor's name is"),
    "a tensor's name with a newline": (_first_info(lambda i: text(b"a\nb") + i[25:]), "a tensor's name is"),
    "no dimensions": (_own_info(()), "0 dimensions"),
    "five dimensions": (_own_info((1, 1, 1, 1, 1)), "5 dimensions"),
    "2^32 - 1 dimensions": (
        _first_info(lambda i: text(b"token_embd.weight") + b"\xff\xff\xff\xff" + i[29:]), "4294967295 dimensions"
    ),
    "a dimension of 0": (_own_info((32, 0)), r"token_embd\.weight: shape \[0, 32\]"),
    "2^63 columns": (_own_info((1 << 63, 1)), "shape"),
    "a product that wraps to 0": (_own_info((1 << 32, 1 << 32)), "shape"),
    "a product that wraps to 4": (_own_info(((1 << 62) + 1, 4)), "shape"),
    "more than the file": (_own_info((32, 1 << 30)), "ends at byte .*truncated"),
    "unknown type": (_own_info((32, VOCAB_SIZE), 40), "GGML type 40"),
    "type 2^32 - 1": (_own_info((32, VOCAB_SIZE), (1 << 32) - 1), "GGML type 4294967295"),
    "rows of part of a block": (_own_info((31, VOCAB_SIZE), 8), "rows of 31 are no multiple of 32"),
    "offset 2^64 - 32": (_own_info((32, VOCAB_SIZE), 8, (1 << 64) - 32), "ends at byte 1844"),
    "offset off the alignment": (_own_info((32, VOCAB_SIZE), 8, 8), "offset 8 is no multiple"),
    "overlap": (_own_info((32, VOCAB_SIZE), 8, 64), "overlaps"),
    "a tensor twice": (lambda p: p.infos.append(p.infos[0]), "tensor token_embd.weight twice"),
    "a quantised norm": (
        lambda p: p.infos.__setitem__(-2, info(b"stranger", (32,), 8, 0)), "x.gguf: "
    ),
    "another shape": (_own_info((32, VOCAB_SIZE - 32), 8), "shape"),
    "4 billion layers": (_u32("block_count", (1 << 32) - 1), "num_hidden_layers is 4294967295"),
    "1,024 layers": (_u32("block_count", 1024), "is missing"),
    "no layers": (_u32("block_count", 0), "num_hidden_layers is 0"),
    "4 billion experts": (_u32("expert_count", (1 << 32) - 1), "n_routed_experts is 4294967295"),
    "no experts": (_u32("expert_count", 0), "n_routed_experts is 0"),
    "more experts chosen than there are": (_u32("expert_used_count", 7), "num_experts_per_tok is 7"),
    "2^63 wide": (_set("deepseek2.embedding_length", UINT64, struct.pack("<Q", 1 << 63)), "hidden_size is 9223"),
    "minus 5 heads": (_set(HEADS, INT32, struct.pack("<i", -5)), "num_attention_heads is -5"),
    "heads of each layer": (_set(HEADS, ARRAY, _array(UINT32, 1, b"\4\0\0\0")), "head_count is"),
    "heads true": (_set(HEADS, BOOL, b"\1"), "head_count is True"),
    "all of the head rotated": (_u32("rope.dimension_count", 24), "qk_nope_head_dim is 0"),
    "an odd part of the head rotated": (_u32("rope.dimension_count", 7), "qk_rope_head_dim is 7"),
    "eps NaN": (_f32("attention.layer_norm_rms_epsilon", float("nan")), "rms_norm_eps is nan"),
    "eps infinite": (_f32("attention.layer_norm_rms_epsilon", float("inf")), "rms_norm_eps is inf"),
    "eps -1": (_f32("attention.layer_norm_rms_epsilon", -1.0), "rms_norm_eps is -1.0"),
    "theta 0": (_f32("rope.freq_base", 0.0), "rope_theta is 0.0"),
    "theta 1": (_f32("rope.freq_base", 1.0), "rope_theta is 1.0"),
    "factor 0": (_f32("rope.scaling.factor", 0.0), "factor is 0.0"),
    "factor NaN": (_f32("rope.scaling.factor", float("nan")), "factor is nan"),
    "original context of 0": (_u32("rope.scaling.original_context_length", 0), "original_max_position_embeddings is 0"),
    "context of 0": (_u32("context_length", 0), "max_position_embeddings is 0"),
    "linear scaling": (_set("deepseek2.rope.scaling.type", STRING, text(b"linear")), "rope scaling 'linear'"),
    "sigmoid routing": (_u32("expert_gating_func", 2), "routing other than by softmax"),
    "three groups of six": (_u32("expert_group_count", 4), "n_group"),
    "more groups kept than there are": (
        lambda p: (_u32("expert_group_count", 3)(p), _u32("expert_group_used_count", 4)(p)),
        "topk_group is 4 of n_group 3",
    ),
    "too few experts in the groups kept": (
        lambda p: (_u32("expert_group_count", 3)(p), _u32("expert_group_used_count", 1)(p)), "leaves 2 of 6 experts"
    ),
    "a rank for queries without the tensors": (_u32("attention.q_lora_rank", 8), r"attn_q_a\.weight is missing"),
    "a huge rank for queries": (_u32("attention.q_lora_rank", 1 << 31), "q_lora_rank is 2147483648"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_file_is_one_error(good: bytes, tmp_path: Path, kind: str) -> None:
    change, message = HOSTILE[kind]
    pieces = Pieces.of(good)
    change(pieces)
    start = time.monotonic()
    error = _refused(tmp_path, pieces.joined())
    assert time.monotonic() - start < 20
    assert isinstance(error, BadCheckpoint | Unsupported)
    assert re.search(message, str(error)), str(error)


@needs_kernels
def test_undamaged_file_is_read(good: bytes, tmp_path: Path) -> None:
    """The cases above fail for what they change."""
    path = tmp_path / "x.gguf"
    path.write_bytes(Pieces.of(good).joined())
    gguf.load(path)


def test_file_cut_at_every_byte_of_its_header_is_one_error(good: bytes, tmp_path: Path) -> None:
    pieces = Pieces.of(good)
    for key in ("tokens", "token_type", "merges"):
        pieces.with_entry(f"tokenizer.ggml.{key}", ARRAY, _array(UINT8, 2, b"ab"))
    raw = pieces.joined()
    header = len(raw) - len(pieces.rest)
    path = tmp_path / "x.gguf"
    for end in range(header):
        path.write_bytes(raw[:end])
        with pytest.raises(BadCheckpoint, match=r"x\.gguf: "):
            GgufFile(path)


def test_file_cut_within_its_tensors_is_one_error(good: bytes, tmp_path: Path) -> None:
    for end in range(len(good) - 1, len(good) - len(Pieces.of(good).rest), -997):
        assert "truncated" in str(_refused(tmp_path, good[:end]))


@needs_kernels
def test_file_that_shrinks_while_it_is_read_is_one_error(good: bytes, tmp_path: Path) -> None:
    """Mapped, it would end the process."""
    path = tmp_path / "x.gguf"
    path.write_bytes(good)
    file = GgufFile(path)
    with path.open("r+b") as other:
        other.truncate(file.entries["output.weight"].begin + 1)
    with pytest.raises(BadCheckpoint, match=r"output\.weight: the file ends within it"):
        file.packed("output.weight")
    file.close()


@needs_kernels
@pytest.mark.parametrize("number", ODD_NUMBERS)
def test_any_number_in_any_field_of_a_tensor_is_read_or_one_error(
    good: bytes, tmp_path: Path, number: int
) -> None:
    path = tmp_path / "x.gguf"
    for at, width in ((-12, 4), (-8, 8), (-20, 8), (-28, 8)):
        pieces = Pieces.of(good)
        entry = bytearray(pieces.infos[2])
        entry[at : at + width or None] = struct.pack("<Q", number)[:width]
        pieces.infos[2] = bytes(entry)
        path.write_bytes(pieces.joined())
        try:
            gguf.load(path)
        except CoderV2Error as error:
            assert "x.gguf" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("metadata", "infos"),
    [
        ([text(f"k{i}".encode()) + struct.pack("<IB", UINT8, 1) for i in range(1_000_000)], []),
        ([], [info(f"t{i}".encode(), (1,), 0, 32 * i) for i in range(1_000_000)]),
    ],
    ids=["keys", "tensors"],
)
def test_a_million_entries_are_refused_at_once(
    tmp_path: Path, metadata: list[bytes], infos: list[bytes]
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(Pieces(metadata=metadata, infos=infos).joined())
    start = time.process_time()
    with pytest.raises(BadCheckpoint, match="claims 1000000 "):
        GgufFile(path)
    assert time.process_time() - start < 0.5


def test_a_header_larger_than_any_model_needs_is_refused_and_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(Pieces(metadata=[text(b"a") + struct.pack("<IIQ", ARRAY, UINT8, 1 << 32)]).joined())
    with path.open("r+b") as file:
        file.truncate(1 << 33)  # no byte of it takes room on the disk
    with pytest.raises(BadCheckpoint, match="claims 4294967296 values of 'a'"):
        GgufFile(path)


def test_a_file_larger_than_any_memory_is_one_error(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(good)
    with path.open("r+b") as file:
        file.truncate(1 << 43)
    try:
        gguf.read_config(
            path
        )  # where the system maps it, what stands behind the last tensor is nobody's concern
    except BadCheckpoint as error:
        assert "cannot be mapped into memory" in str(error)  # noqa: PT017


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    with pytest.raises(BadCheckpoint, match="0 bytes, too short"):
        GgufFile(tmp_path / "x.gguf")
