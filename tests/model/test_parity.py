"""Live comparison with the native `deepseek_v2` of transformers, an independent implementation, both directions.

`python -m tests.model.test_parity` rewrites `golden_logits.json` from transformers' answers.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from coderv2.model.batch import Batch
from coderv2.model.weights import load, save
from tests.model.test_transformer import greedy
from tests.parity import relative_error, sample_ids
from tests.tiny import tiny_config, tiny_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
LENGTH = 4400  # past the 4,096 positions of the original context
GREEDY = 256

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def _transformers(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def _theirs(folder: Path, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = _transformers(folder)(torch.tensor([ids])).logits[0]
    return logits


def _their_greedy(folder: Path, prompt: list[int]) -> list[int]:
    model = _transformers(folder)
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=GREEDY, min_new_tokens=GREEDY, do_sample=False, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["lite", "full"])
def test_checkpoint_we_save_gives_the_same_logits_there(tmp_path: Path, family: str) -> None:
    model = tiny_model(tiny_config(family), seed=7)
    save(model, tmp_path, max_shard_bytes=200_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ids = sample_ids(LENGTH)
    with torch.inference_mode():
        ours = model(Batch.packed([ids]))
    theirs = _theirs(tmp_path, ids)
    assert relative_error(ours, theirs) < 2e-5
    assert relative_error(ours[4096:], theirs[4096:]) < 2e-5


@pytest.mark.parametrize("family", ["lite", "full"])
def test_checkpoint_saved_there_gives_the_same_logits_here(tmp_path: Path, family: str) -> None:
    save(tiny_model(tiny_config(family), seed=8), tmp_path / "ours")
    _transformers(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    ids = sample_ids(500)
    with torch.inference_mode():
        ours = load(tmp_path / "theirs")(Batch.packed([ids]))
    assert relative_error(ours, _theirs(tmp_path / "ours", ids)) < 2e-5


@pytest.mark.parametrize("family", ["lite", "full"])
def test_256_greedy_tokens_are_identical(tmp_path: Path, family: str) -> None:
    model = tiny_model(tiny_config(family), seed=9)
    save(model, tmp_path)
    prompt = sample_ids(50)
    assert greedy(model, prompt, GREEDY) == _their_greedy(tmp_path, prompt)


def _golden(folder: Path, family: str) -> dict[str, Any]:
    save(tiny_model(tiny_config(family)), folder)
    rows = [0, 1, 17, 1000, 4095, 4096, LENGTH - 1]
    logits = _theirs(folder, sample_ids(LENGTH))[rows][:, :24]
    return {
        "tokens": LENGTH,
        "rows": rows,
        "logits": [[float(f"{x:.8g}") for x in row] for row in logits.tolist()],
        "prompt_tokens": 40,
        "greedy": _their_greedy(folder, sample_ids(40)),
    }


if __name__ == "__main__":
    import tempfile

    golden = {}
    for name in ("lite", "full"):
        with tempfile.TemporaryDirectory() as scratch:
            golden[name] = _golden(Path(scratch), name)
    (Path(__file__).parent / "golden_logits.json").write_text(json.dumps(golden) + "\n")
