"""The model that ships inside the package: data, pretraining, instruction phase, measurements, top to bottom.

    python -m recipes.bundled --out runs/bundled --minutes 60

About 75 minutes on two CPU cores; on a GPU when there is one. A killed run goes on where it stopped when the
same command is given again. The finished checkpoint, with its ledger, is `OUT/model`.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from coderv2.data import dedup, exercises, filters, ledger, pipeline, read, shards
from coderv2.data.document import Document
from coderv2.data.encode import encode
from coderv2.data.licences import permissive_only
from coderv2.data.mix import hold_out, repeat
from coderv2.data.vocabulary import save_tokenizer, train_bpe
from coderv2.log import logger
from coderv2.model.config import ModelConfig, RopeScaling
from coderv2.text.tokenizer import Tokenizer

VOCABULARY = 4096
CONTEXT = 8192
EXERCISE_COPIES = 40

HELD_OUT = (
    r"^(click|starlette|httpx|h11|jinja2)/",
    r"^python/(json/|(textwrap|heapq|statistics|fractions)\.py)",
)
"""Whole packages and modules that are only ever measured on."""
EXCLUDED = (
    r"/(tests?|_vendor|_click|lib2to3|encodings|pydoc_data|idlelib|turtledemo|distutils|lexers)/",
    r"/testing/_internal/",
    r"^(httpx2|httpcore2|setuptools)/",
)
"""Tests, tables, and copies of other packages, among them forks of what is held out."""
MIX = {"python": 2.0, "sympy": 0.3, "transformers": 0.15, "torch": 0.3, "openai": 0.5}
"""Times that each source is seen in an epoch; the others once."""


def data(out: Path) -> Tokenizer:
    """Fills `out` with the tokenizer, the training shard, the held-out documents and the ledger."""
    dropped: list[Document] = []
    documents = list(pipeline.run(sources(), STAGES, dropped))
    training = [document for document in documents if not document.held_out]
    save_documents(out / "heldout.jsonl", (document for document in documents if document.held_out))
    mixed = list(pipeline.run(training, [repeat(MIX)], dropped))
    mixed += exercises.documents(EXERCISE_COPIES)
    used = {document.id.rpartition("#")[0] or document.id for document in mixed}
    shown = [document for document in documents if document.held_out or document.id in used]
    shown += (document for document in mixed if document.source == exercises.SOURCE)
    write_json(out / "ledger.json", ledger.as_json(shown))
    write_json(out / "dropped.json", dict(pipeline.reasons(dropped)))
    save_tokenizer(train_bpe((d.text for d in mixed), VOCABULARY), out / "tokenizer", model_max_length=CONTEXT)
    tokenizer = Tokenizer.from_folder(out / "tokenizer")
    tokens = shards.write(out / "documents", encode(mixed, tokenizer), tokenizer.vocab_size)
    logger.info("%d documents, %d tokens an epoch", len(mixed), tokens)
    return tokenizer


def sources() -> Iterator[Document]:
    """Everything that may be used: the standard library and the packages this project depends on."""
    yield from read.standard_library()
    yield from read.packages(read.dependencies_of("coderv2"))


STAGES: tuple[pipeline.Stage, ...] = (
    permissive_only,
    filters.outside(*EXCLUDED),
    filters.apply(*filters.CODE_RULES),
    hold_out(*HELD_OUT),
    dedup.exact,
    dedup.near,
)


def model_config(tokenizer: Tokenizer) -> ModelConfig:
    """10.2 million parameters, of which a token uses about 6: the Lite model's shape, small."""
    return ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=5,
        num_attention_heads=4,
        q_lora_rank=None,
        kv_lora_rank=64,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        intermediate_size=512,
        moe_intermediate_size=256,
        n_routed_experts=8,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        topk_method="greedy",
        n_group=1,
        topk_group=1,
        routed_scaling_factor=1.0,
        norm_topk_prob=False,
        rms_norm_eps=1e-6,
        max_position_embeddings=CONTEXT,
        rope_theta=10000.0,
        rope_scaling=RopeScaling(
            factor=8.0,
            original_max_position_embeddings=1024,
            beta_fast=32,
            beta_slow=1,
            mscale=0.707,
            mscale_all_dim=0.707,
        ),
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )


def save_documents(path: Path, documents: Iterable[Document]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps({"id": document.id, "text": document.text}, ensure_ascii=False) + "\n")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
