"""`coderv2 convert`: a folder that Transformers opens, a GGUF file that llama.cpp opens, or packed weights."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coderv2 import paths
from coderv2.cli import packing
from coderv2.errors import InvalidValue

if TYPE_CHECKING:
    import torch

    from coderv2.text.tokenizer import Tokenizer

_WEIGHTS = ("*.safetensors", "model.safetensors.index.json", "config.json", "*.packed", "quantisation.json")
# Beside the weights: tokenizer, sampling defaults, what the weights may be used for and what went into them.
_KEPT = ("*.json", "*.jinja", "*.md", "LICENSE*")
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    help="Number format to write.  [default: the checkpoint's own]",
)
@click.option(
    "--max-shard-size",
    metavar="SIZE",
    help="Largest weight file: 500MB, 2GiB, …  [default: 5GB]",
)
@click.option(
    "--type",
    "file_type",
    type=click.Choice(["f32", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]),
    help="For a .gguf: number types to write.  [default: bf16]",
)
@packing.options
@click.option("--force", is_flag=True, help="Write into OUT although it holds files; old weights there go.")
def convert(
    source: str,
    out: Path,
    dtype: str | None,
    max_shard_size: str | None,
    file_type: str | None,
    force: bool,
    **packed: Any,
) -> None:
    """Write a model as a folder for Transformers, as a GGUF file for llama.cpp, or packed for this program.

    SRC is a folder, a hub name, a .gguf file, or "bundled". OUT gets config, weights, tokenizer and generation
    settings: safetensors in the published layout, or with --pack or --weights one file that opens in the time it takes
    to read it, and that only this program reads. If OUT ends in .gguf it is one file that holds all of that.

    \b
    coderv2 convert bundled my-model
    coderv2 convert my-model my-model.gguf --type q4_k_m
    coderv2 convert lite-q4_k_m.gguf lite-packed --pack
    coderv2 convert deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct lite-int4 --weights int4
    """
    choice = packing.Choice(**packed)
    if choice.wanted and (dtype or max_shard_size):
        raise InvalidValue("--dtype and --max-shard-size belong to safetensors, not to --pack or --weights")
    if out.suffix == ".gguf":
        _check_for_gguf(out, bool(dtype or max_shard_size or choice.wanted), force)
        _convert_to_gguf(source, out, file_type or "bf16")
        return
    if file_type is not None:
        raise InvalidValue(f"--type is for GGUF files; {out} does not end in .gguf", param="type")
    max_shard_bytes = _bytes(max_shard_size or "5GB")
    from coderv2.model import hub, weights
    from coderv2.model.loading import open_plain, open_tokenizer

    folder = hub.resolve(source)
    _check_out(out, folder, force)
    tokenizer = open_tokenizer(folder)
    if choice.wanted:
        with ExitStack() as stack:
            begin = _whole_or_nothing(out)
            said = packing.write(choice, folder, out, tokenizer, before=lambda: stack.enter_context(begin))
            lines = list(said)
            _copy_the_rest(folder, out, tokenizer)
        click.echo("\n".join(lines))
        return
    model = open_plain(folder, dtype=_torch_dtype(dtype), progress=True)
    with _whole_or_nothing(out):
        weights.save(model, out, max_shard_bytes=max_shard_bytes, progress=True)
        _copy_the_rest(folder, out, tokenizer)
    click.echo(f"{out}: AutoModelForCausalLM.from_pretrained({str(out)!r}) opens it.")


def _check_for_gguf(out: Path, for_folders: bool, force: bool) -> None:
    if for_folders:
        raise InvalidValue(
            "--pack, --weights, --dtype and --max-shard-size are for folders; a .gguf file takes --type",
            param="type",
        )
    if out.is_dir() or (out.exists() and not force):
        raise InvalidValue(f"{out} exists; choose another name" + ("" if out.is_dir() else ", or --force"))


def _convert_to_gguf(source: str, out: Path, file_type: str) -> None:
    from coderv2.model import gguf_export, hub
    from coderv2.model.gguf_types import FILE_TYPES

    folder = hub.resolve(source)
    if not folder.is_dir():
        raise InvalidValue(f"{folder} is a GGUF file already; SRC is a folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    name = f"coderv2-{source}" if folder == paths.bundled_model() else folder.resolve().name
    with _naming(out):
        gguf_export.export(folder, out, FILE_TYPES[file_type], name=name, progress=True)
    click.echo(f"{out}: coderv2 complete -m {out} runs it, and so does llama.cpp.")


def _bytes(size: str) -> int:
    match = re.fullmatch(r"(\d+) ?([KMG]I?B)", size.strip().upper())
    if match is None or int(match[1]) == 0:
        raise InvalidValue(f"--max-shard-size {size!r}: a number with KB, MB, GB, KiB, MiB or GiB")
    return int(match[1]) * _UNITS[match[2]]


def _check_out(out: Path, folder: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InvalidValue(f"{out} is a file; OUT is a folder")
    if out.resolve() == folder.resolve():
        raise InvalidValue(f"{out} is SRC itself; choose another folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise InvalidValue(f"{out} is not empty; choose another folder, or write into it with --force")


def _torch_dtype(name: str | None) -> "torch.dtype | None":
    import torch

    return {None: None, "bfloat16": torch.bfloat16, "float32": torch.float32}[name]


@contextmanager
def _naming(out: Path) -> Iterator[None]:
    """A full disk names no file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(out)
        raise


@contextmanager
def _whole_or_nothing(out: Path) -> Iterator[None]:
    """Old weights go first; what fails then leaves nothing of what it began."""
    _clear(out)
    old = set(out.iterdir()) if out.is_dir() else None
    try:
        with _naming(out):
            yield
    except (Exception, KeyboardInterrupt):
        if old is None:
            shutil.rmtree(out, ignore_errors=True)
        else:
            for path in set(out.iterdir()) - old:
                path.unlink()
        raise


def _clear(out: Path) -> None:
    """A shard or an index left from before would be taken for part of the model, counts of experts for its own."""
    for pattern in (*_WEIGHTS, "expert_usage.json"):
        for old in out.glob(pattern):
            old.unlink()


def _copy_the_rest(folder: Path, out: Path, tokenizer: "Tokenizer") -> None:
    if folder.is_file():
        tokenizer.save(out)
    ours = {path.name for pattern in _WEIGHTS for path in folder.glob(pattern)}
    for pattern in _KEPT if folder.is_dir() else ():
        for path in folder.glob(pattern):
            if path.name not in ours:
                shutil.copyfile(path, out / path.name)
    settings = out / "generation_config.json"
    if not settings.exists():
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
        settings.write_text(json.dumps(ids, indent=2) + "\n", "utf-8")
