"""The model that ships inside the package: data, pretraining, instruction phase, measurements, top to bottom.

    python -m recipes.bundled --out runs/bundled --minutes 60

About 75 minutes on two CPU cores; on a GPU when there is one. A killed run goes on where it stopped when the
same command is given again. The finished checkpoint, with its ledger and card, is `OUT/model`; the copy that
ships lies in `coderv2/bundled`. Benchmarks take hours and data of their own, so they come afterwards:

    coderv2 eval all -m runs/bundled/model --out runs/bundled/benchmarks
    python -m recipes.bundled --out runs/bundled --card

The model that ships is measured anew, on what is held out of the packages as they are installed, by

    python -m recipes.bundled --shipped

Training frees and takes the same large tensors at every step. Where the C library gives each of them back to the
system, as on Linux, these settings keep them, which was a third faster where the shipped model was made:

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184
"""

import dataclasses
import itertools
import json
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import torch

from coderv2 import paths
from coderv2.data import dedup, exercises, filters, ledger, pipeline, read, shards
from coderv2.data.composed import composed
from coderv2.data.conversations import conversations
from coderv2.data.document import Document
from coderv2.data.encode import FIM_RATE, cut, encode, encode_hole_lesson
from coderv2.data.licences import permissive_only
from coderv2.data.mix import hold_out, repeat
from coderv2.data.vocabulary import save_tokenizer, train_bpe
from coderv2.engine.llm import LLM
from coderv2.errors import InvalidValue
from coderv2.log import logger, to_stderr
from coderv2.model import weights
from coderv2.model.config import ModelConfig, RopeScaling
from coderv2.model.transformer import Transformer
from coderv2.text.chat import encode_conversation
from coderv2.text.tokenizer import Tokenizer
from coderv2.training import heldout
from coderv2.training import sft as instruction
from coderv2.training.config import OptimConfig, RunConfig, override
from coderv2.training.pretrain import pretrain as train_on_documents
from recipes import card, recall

VOCABULARY = 4096
LINES, COMPLETIONS = 300, 150
"""How many held-out lines to fill in and function heads to complete."""
CONTEXT = 8192
EXERCISE_COPIES = 40
TALK_COPIES = 24
ROLE_WORDS = ["User: \n\nAssistant: "] * 1000
"""The chat template's words, so that they are tokens."""
REPEATED_COPIES = 24
"""Of each hand-written exercise as a document, in the instruction phase."""
HOLED_COPIES = 12
"""The same in the last phase, which is mostly about holes."""
HOLE_TOKENS = 4_000_000
SHORT_WINDOWS = (150, 300, 600)
"""Characters of the last phase's pieces, and their tokens in all."""
REPLAYED_TOKENS = 400_000
"""Of other documents, in the instruction phase: nearly a third."""

HELD_OUT = (
    r"^(click|starlette|httpx|h11|jinja2)/",
    r"^python/(json/|(textwrap|heapq|statistics|fractions)\.py)",
)
"""Whole packages and modules that are only ever measured on."""
EXCLUDED = (
    r"/(tests?|_vendor|_click|lib2to3|encodings|pydoc_data|idlelib|turtledemo|distutils|lexers)/",
    r"/testing/_internal/",
    r"^(httpx2|httpcore2|setuptools)/",
    r"^math-verify/math_verify/few_shots\.py$",
)
"""Tests, tables, copies of other packages, among them forks of what is held out, and a problem of GSM8K."""
MIX = {"python": 2.0, "sympy": 0.3, "transformers": 0.15, "torch": 0.3, "openai": 0.5}
"""Times that each source is seen in an epoch; the others once."""


def data(out: Path) -> None:
    """Fills `out` with the tokenizer, the training shard, the held-out documents and the ledger."""
    dropped: list[Document] = []
    documents = list(pipeline.run(sources(), STAGES, dropped))
    training = (document for document in documents if not document.held_out)
    taught = [*exercises.bank(), *composed()]
    mixed = [*pipeline.run(training, [repeat(MIX)], dropped), *exercises.documents(taught, EXERCISE_COPIES)]
    record(out, documents, mixed, dropped)
    tokenizer = learn_vocabulary(out / "tokenizer", mixed)
    tokens = shards.write(out / "documents", encode(mixed, tokenizer), tokenizer.vocab_size)
    logger.info("%d documents, %d tokens an epoch", len(mixed), tokens)


def record(out: Path, documents: list[Document], mixed: list[Document], dropped: list[Document]) -> None:
    """The held-out documents, the ledger of what is used, and how many were dropped for which reason."""
    unseen = [document for document in documents if document.held_out]
    used = {document.id.rpartition("#")[0] for document in mixed}
    read_from = [document for document in documents if document.id in used]
    made = [document for document in mixed if document.source == exercises.SOURCE]
    save_documents(out / "heldout.jsonl", unseen)
    write_json(out / "ledger.json", ledger.as_json([*unseen, *read_from, *made]))
    write_json(out / "dropped.json", dict(pipeline.reasons(dropped)))


def learn_vocabulary(folder: Path, mixed: list[Document]) -> Tokenizer:
    """Byte-level BPE over the documents, the conversations and the chat template's words."""
    texts = (document.text for document in mixed)
    talks = (message.content for talk in conversations(TALK_COPIES) for message in talk)
    save_tokenizer(
        train_bpe(itertools.chain(texts, talks, ROLE_WORDS), VOCABULARY), folder, model_max_length=CONTEXT
    )
    return Tokenizer.from_folder(folder)


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


def pretrain(out: Path, minutes: float, settings: Iterable[str] = ()) -> Transformer:
    """Next token and fill-in-the-middle over the documents of `out`."""
    tokenizer = Tokenizer.from_folder(out / "tokenizer")
    run = override(RunConfig(seed=0, minutes=minutes), settings)
    model, progress = train_on_documents(
        model_config(tokenizer),
        out / "documents",
        run,
        out / "pretrain",
        device=device(),
        dtype=torch.bfloat16,
    )
    logger.info("pretrained on %d tokens in %.0f s", progress.tokens, progress.seconds)
    return model


def sft(model: Transformer, out: Path, minutes: float, settings: Iterable[str] = ()) -> None:
    """The instruction phase, from two fifths of the pretraining's peak rates down to a tenth of that."""
    optim = OptimConfig(lr=1.2e-3, muon_lr=0.008, warmup_steps=20)
    run = override(RunConfig(seed=1, minutes=minutes, optim=optim), settings)
    finetune(
        model,
        out,
        "sft",
        lessons(out, TALK_COPIES, REPEATED_COPIES, FIM_RATE, REPLAYED_TOKENS, run.seed),
        run,
    )


def holes(model: Transformer, out: Path, minutes: float, settings: Iterable[str] = ()) -> None:
    """A last phase mostly on holes in short pieces of code.

    A document of a thousand tokens shows once how a middle begins, which is too seldom to be learnt in pretraining;
    pieces of a hundred tokens, with the loss on the middle alone, show it ten times as often.
    """
    optim = OptimConfig(lr=1.2e-3, muon_lr=0.008, warmup_steps=20)
    run = override(RunConfig(seed=2, minutes=minutes, optim=optim), settings)
    finetune(
        model,
        out,
        "holes",
        itertools.chain(
            hole_lessons(out, HOLE_TOKENS, run.seed),
            lessons(out, TALK_COPIES // 3, HOLED_COPIES, 0.8, REPLAYED_TOKENS, run.seed),
        ),
        run,
    )


def hole_lessons(out: Path, tokens: int, seed: int) -> Iterator[tuple[list[int], list[bool]]]:
    """Short pieces of the training documents, each with a hole, until there are `tokens` of them."""
    tokenizer = Tokenizer.from_folder(out / "tokenizer")
    rng = random.Random(seed)
    for ids in instruction.replay(shards.Shard(out / "documents"), 10 * tokens, seed=seed):
        if tokenizer.fim and tokenizer.fim.begin in ids:
            continue
        for piece in cut(tokenizer.decode(ids), rng.choice(SHORT_WINDOWS)):
            if tokens > 0 and piece.strip() and len(piece) > 1:
                lesson = encode_hole_lesson(piece, rng, tokenizer)
                tokens -= len(lesson[0])
                yield lesson


def lessons(
    out: Path, talk_copies: int, exercise_copies: int, fim_rate: float, replayed: int, seed: int
) -> Iterator[list[int] | tuple[list[int], list[bool]]]:
    """Conversations, hand-written exercises as documents, and so many tokens of replayed documents."""
    tokenizer = Tokenizer.from_folder(out / "tokenizer")
    written = exercises.documents(exercises.bank(), exercise_copies)
    yield from (encode_conversation(tokenizer, talk) for talk in conversations(talk_copies))
    yield from encode(written, tokenizer, fim_rate=fim_rate)
    yield from instruction.replay(shards.Shard(out / "documents"), replayed, seed=seed)


def finetune(
    model: Transformer,
    out: Path,
    phase: str,
    examples: Iterable[list[int] | tuple[list[int], list[bool]]],
    run: RunConfig,
) -> None:
    shards.write(out / f"{phase}-lessons", examples, VOCABULARY)
    progress = instruction.finetune(model, out / f"{phase}-lessons", run, out / phase)
    logger.info("%s: %d tokens in %.0f s", phase, progress.tokens, progress.seconds)


def package(model: Transformer, out: Path) -> Path:
    """Everything that a checkpoint's folder holds but the card; returns the folder."""
    folder = out / "model"
    weights.save(model, folder)
    for file in (out / "tokenizer").iterdir():
        shutil.copy(file, folder)
    shutil.copy(out / "ledger.json", folder)
    ids = {"bos_token_id": model.config.bos_token_id, "eos_token_id": model.config.eos_token_id}
    write_json(folder / "generation_config.json", {**ids, "do_sample": False})
    return folder


def measure(out: Path) -> None:
    """Measures `out/model` and keeps the figures in `out/measured.json`."""
    figures = {
        "vocabulary": VOCABULARY,
        "context": CONTEXT,
        "replayed": REPLAYED_TOKENS / shards.Shard(out / "sft-lessons").tokens,
        "machine": card.machine(),
        **card.run_figures(out),
        **measured(out / "model", load_documents(out / "heldout.jsonl")),
    }
    write_json(out / "measured.json", figures)


def measured(folder: Path, unseen: list[Document]) -> dict[str, Any]:
    """The card's figures of a checkpoint, on documents that it never saw."""
    llm = LLM(folder)
    model, tokenizer = weights.load(folder), llm.get_tokenizer()
    lengths = {
        name: heldout.code_length(
            model, tokenizer, (document for document in unseen if document.source == name)
        )
        for name in sorted({document.source for document in unseen})
    }
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "active": card.active_parameters(model),
        "bits_all": sum(lengths.values(), heldout.CodeLength()).bits_per_byte,
        "bits": {name: length.bits_per_byte for name, length in lengths.items()},
        "lines": LINES,
        "exact": heldout.exact_line_rate(llm, unseen, LINES),
        "completions": COMPLETIONS,
        "parse": heldout.parse_rate(llm, unseen, COMPLETIONS),
        **recall.answered(llm),
    }


def measure_shipped() -> dict[str, Any]:
    """The shipped model's figures on what is held out here, with the sources that differ from those of its ledger."""
    folder = paths.bundled_model()
    unseen = [document for document in pipeline.run(sources(), STAGES, []) if document.held_out]
    then = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    others = [entry["source"] for entry in ledger.as_json(unseen) if entry not in then]
    return {**measured(folder, unseen), "not_as_in_the_ledger": others}


def write_card(out: Path) -> None:
    """The card beside the weights: what `measure` found, and the scores in `out/benchmarks` once there are some."""
    figures = json.loads((out / "measured.json").read_text(encoding="utf-8"))
    card.write(out / "model" / "MODEL_CARD.md", figures)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


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
            file.write(json.dumps(dataclasses.asdict(document)) + "\n")


def load_documents(path: Path) -> list[Document]:
    return [Document(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check(settings: Iterable[str]) -> None:
    """Before anything is read: the data alone takes minutes. Raises UsageError."""
    try:
        override(RunConfig(minutes=1.0), settings)
    except InvalidValue as error:
        raise click.UsageError(str(error)) from None


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bundled"), show_default=True)
@click.option(
    "--minutes", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Of pretraining."
)
@click.option(
    "--sft-minutes",
    type=click.FloatRange(min=0),
    default=8.0,
    show_default=True,
    help="Of the instruction phase.",
)
@click.option(
    "--holes-minutes",
    type=click.FloatRange(min=0),
    default=14.0,
    show_default=True,
    help="Of the last phase, on holes.",
)
@click.option(
    "--card", "card_only", is_flag=True, help="Writes the card anew, with the benchmarks; trains nothing."
)
@click.option(
    "--shipped", is_flag=True, help="Measures the model that ships and prints its figures; trains nothing."
)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Such as optim.lr=3e-4 (pretraining)."
)
def main(
    out: Path,
    minutes: float,
    sft_minutes: float,
    holes_minutes: float,
    card_only: bool,
    shipped: bool,
    settings: tuple[str, ...],
) -> None:
    to_stderr()
    if card_only:
        if not (out / "measured.json").exists():
            raise click.UsageError(f"{out} holds no measured.json, which a finished run leaves there")
        write_card(out)
        return
    check(settings)
    torch.set_num_threads(paths.threads())
    if shipped:
        click.echo(json.dumps(measure_shipped(), indent=1))
        return
    if not (out / "documents" / "shard.json").exists():
        data(out)
    model = pretrain(out, minutes, settings)
    sft(model, out, sft_minutes)
    holes(model, out, holes_minutes)
    package(model, out)
    measure(out)
    write_card(out)


if __name__ == "__main__":
    main()
