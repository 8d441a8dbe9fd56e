"""Our exports in llama.cpp: the same tokens for a text, the same types, the same greedy answers.

llama-cpp-python is built from source, which takes minutes: `make test-llama-cpp` installs it.
"""

from pathlib import Path
from typing import Any

import gguf as package
import pytest
import torch

from coderv2.engine.llm import LLM
from coderv2.engine.request import SamplingParams
from coderv2.kernels import cpu
from coderv2.model import gguf, weights
from coderv2.model.batch import Batch, RouterRecord
from coderv2.model.gguf_export import export
from coderv2.model.gguf_types import FILE_TYPES
from coderv2.paths import bundled_model
from coderv2.text.tokenizer import Tokenizer
from tests.parity import sample_ids
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer_folder

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: make test-llama-cpp")

from benchmarks.peer_llama_cpp import LlamaCpp, quantise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cpu.kernels is None, reason="quants are unpacked by the CPU kernels"),
]

ANSWER = 32
PROMPTS = (
    "def quick_sort(arr):",
    "class Stack:\n    def __init__(self):\n",
    "import math\n\n\ndef area(r):\n    return ",
)
SOURCES = ("bisect.py", "heapq.py", "textwrap.py", "json/decoder.py", "turtle.py", "keyword.py")


def _checkpoint(folder: Path, family: str, **overrides: Any) -> Path:
    """A tiny model with a tokenizer; for `full` the experts of a group are nearly alike.

    llama.cpp ranks groups by the sum of their two best experts, DeepSeek-V2 by the best one: alike, both say the same.
    """
    tokenizer = Tokenizer.from_folder(tiny_tokenizer_folder(folder))
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    config = tiny_config(family, **ids, **overrides)
    model = tiny_model(config)
    if config.topk_method == "group_limited_greedy":
        for layer in model.layers[config.first_k_dense_replace :]:
            gate_ED = layer.mlp.gate.data
            groups = gate_ED.view(config.n_group, -1, config.hidden_size)
            groups.copy_(groups[:, :1] * 3 + 0.02 * groups)
    weights.save(model, folder)
    return folder


def _ours(path: Path, ids: list[int]) -> list[int]:
    llm = LLM(model=path, max_num_seqs=1, max_model_len=512, kv_cache_dtype="float32")
    params = SamplingParams(temperature=0, max_tokens=ANSWER, ignore_eos=True)
    (output,) = llm.generate([ids], params, use_tqdm=False)
    return output.outputs[0].token_ids


@pytest.mark.parametrize("family", ["lite", "full"])
@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_tiny_checkpoints_get_the_same_greedy_answer(tmp_path: Path, family: str, kind: str) -> None:
    folder, path = _checkpoint(tmp_path / "m", family), tmp_path / "x.gguf"
    export(folder, path, FILE_TYPES[kind], name="x")
    ids = sample_ids(40, 380)
    with LlamaCpp(path) as peer:
        ours, theirs = _ours(path, ids), peer.greedy(ids, ANSWER)
        if kind == "f32":
            assert ours == theirs
        elif ours != theirs:
            _assert_close_call(peer, ids, ours, theirs)


@pytest.mark.parametrize("kind", FILE_TYPES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_bundled_model_gets_the_same_greedy_answer(tmp_path: Path, kind: str, prompt: str) -> None:
    path = tmp_path / "x.gguf"
    export(bundled_model(), path, FILE_TYPES[kind], name="x")
    ids = Tokenizer.from_folder(bundled_model()).encode(prompt, bos=True)
    with LlamaCpp(path) as peer:
        theirs = peer.greedy(ids, ANSWER)
        ours = _ours(path, ids)
        if ours != theirs:
            _assert_close_call(peer, ids, ours, theirs)


def test_bf16_of_the_full_family_parts_from_llama_cpp_where_rounding_turns_a_routers_choice(
    tmp_path: Path,
) -> None:
    """Where every expert is taken, all logits are near; where six of forty are, those of some tokens are far. Groups
    need not be the reason: some of those tokens keep the same ones however groups are ranked."""
    assert _apart(tmp_path / "f32", "f32", **NO_CHOICE)[0].max() < 0.01
    assert _apart(tmp_path / "all", "bf16", **NO_CHOICE)[0].max() < 0.1
    chosen_T, alike_T = _apart(tmp_path / "bf16", "bf16")
    assert chosen_T.median() < 0.1 < chosen_T.max()
    assert (alike_T & (chosen_T > 0.1)).any()  # with AVX2 alone a tie of groups turns too, at one of two


NO_CHOICE = {"n_group": 1, "topk_group": 1, "n_routed_experts": 16, "num_experts_per_tok": 16}


def _apart(folder: Path, kind: str, **overrides: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """How far each token's logits are from llama.cpp's at most; whether both ways to rank groups keep the same."""
    path, ids = folder / "x.gguf", sample_ids(40, 380)
    export(_checkpoint(folder, "full", **overrides), path, FILE_TYPES[kind], name="x")
    model, log = gguf.load(path), list[RouterRecord]()
    with torch.inference_mode(), LlamaCpp(path) as peer:
        logits_TW = model(Batch.packed([ids], router_log=log))
        alike_T = torch.ones(len(ids), dtype=torch.bool)
        for record in log:
            groups = record.scores_TE.unflatten(-1, (model.config.n_group, -1))
            one, two = (_kept(groups.topk(best).values.sum(-1), model.config.topk_group) for best in (1, 2))
            alike_T &= (one == two).all(-1)
        return (logits_TW - peer.logits(ids)).abs().amax(-1), alike_T


def _kept(groups_TG: torch.Tensor, count: int) -> torch.Tensor:
    return groups_TG.topk(count).indices.sort().values


def _assert_close_call(peer: LlamaCpp, ids: list[int], ours: list[int], theirs: list[int]) -> None:
    """Both round activations, each in its way: they may part only where llama.cpp itself hardly prefers its token."""
    at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    logits_W = peer.logits(ids + theirs[:at])[-1]
    assert logits_W[theirs[at]] - logits_W[ours[at]] < 0.15, f"{at}: {ours[at]} for {theirs[at]}"


@pytest.mark.parametrize("name", SOURCES)
def test_code_has_the_same_tokens(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("tokens") / "x.gguf"
    export(bundled_model(), path, FILE_TYPES["q8_0"], name="x")
    tokenizer = Tokenizer.from_folder(bundled_model())
    library = Path(str(torch.__path__[0])).parent  # some text beyond ASCII comes from beside it
    source = Path(__import__("sysconfig").get_paths()["stdlib"], name)
    texts = [
        source.read_text("utf-8"),
        "x = '你好，世界' # naïve café 🚀\r\n\t y=2024;  \n\n" * 3,
        str(library),
    ]
    with LlamaCpp(path) as peer:
        for text in texts:
            assert peer.tokens(text) == tokenizer.encode(text)
        marked = "<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>"
        assert peer.tokens(marked, special=True) == tokenizer.encode(marked, control=True)


@pytest.mark.parametrize("kind", ["q8_0", "q6_k", "q5_k_m", "q4_k_m"])
def test_types_are_llama_quantizes_own(tmp_path: Path, kind: str) -> None:
    """Of the bundled model and of one with Lite's odd widths: rows of 128, 512 and 1,408 are no multiple of 256."""
    wide = {"hidden_size": 256, "kv_lora_rank": 512, "moe_intermediate_size": 1408, "num_hidden_layers": 9}
    odd = _checkpoint(tmp_path / "m", "lite", **wide, n_routed_experts=6, qk_nope_head_dim=128)
    for folder in (bundled_model(), odd):
        export(folder, tmp_path / "plain.gguf", FILE_TYPES["bf16"], name="x")
        export(folder, tmp_path / "ours.gguf", FILE_TYPES[kind], name="x")
        quantise(tmp_path / "plain.gguf", tmp_path / "theirs.gguf", FILE_TYPES[kind].number)
        assert _types(tmp_path / "ours.gguf") == _types(tmp_path / "theirs.gguf")


def _types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in package.GGUFReader(path).tensors}


@pytest.mark.parametrize("kind", ["q8_0", "q6_k", "q5_k_m", "q4_k_m"])
def test_our_rounding_loses_no_more_than_llama_quantizes(tmp_path: Path, kind: str) -> None:
    export(bundled_model(), tmp_path / "plain.gguf", FILE_TYPES["f32"], name="x")
    export(bundled_model(), tmp_path / "ours.gguf", FILE_TYPES[kind], name="x")
    quantise(tmp_path / "plain.gguf", tmp_path / "theirs.gguf", FILE_TYPES[kind].number)
    plain = _numbers(tmp_path / "plain.gguf")
    ours, theirs = _error(plain, tmp_path / "ours.gguf"), _error(plain, tmp_path / "theirs.gguf")
    assert ours <= 1.01 * theirs, f"{ours:.5f} against {theirs:.5f}"


def _numbers(path: Path) -> dict[str, torch.Tensor]:
    return {
        tensor.name: torch.from_numpy(
            package.quants.dequantize(tensor.data.copy(), tensor.tensor_type).copy()
        ).flatten()
        for tensor in package.GGUFReader(path).tensors
    }


def _error(plain: dict[str, torch.Tensor], path: Path) -> float:
    """Norm of all errors over norm of all weights."""
    numbers = _numbers(path)
    lost = sum(float((numbers[name] - x).double().square().sum()) for name, x in plain.items())
    return float((lost / sum(float(x.double().square().sum()) for x in plain.values())) ** 0.5)
