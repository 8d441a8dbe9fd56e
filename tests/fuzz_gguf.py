"""The GGUF reader under a coverage-guided fuzzer: `python -m tests.fuzz_gguf --seconds 3600` (pip install atheris).

What fails is left as a file, whose path is printed; `python -m tests.fuzz_gguf FILE` tries one again.
"""

import argparse
import inspect
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import atheris

from coderv2.kernels import ggml
from coderv2.model import config, gguf, gguf_config, gguf_file, gguf_parts, gguf_tokenizer
from tests.gguf_pieces import damaged
from tests.model.test_gguf_fuzz import read_all, seeds

READERS = (gguf, gguf_config, gguf_file, gguf_parts, gguf_tokenizer, config, ggml)

LIMITS = ("-timeout=600", "-rss_limit_mb=3000", "-max_len=400000", "-print_final_stats=1")


def watch(module: ModuleType) -> None:
    """Counts branches in each function of a module. (An import hook would not get on with an editable install's.)"""
    ours = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    classes = [value for value in ours if inspect.isclass(value)]
    for value in [*ours, *(method for one in classes for method in vars(one).values())]:
        function = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)))
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            atheris.instrument_func(function)


def fuzz(folder: Path, seconds: int) -> None:
    """Goes on from what `folder` holds of an earlier run; ends the process."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for i, raw in enumerate(seeds(folder)):
        (corpus / str(i)).write_bytes(raw)
    for module in READERS:
        watch(module)
    path = (Path("/dev/shm") if Path("/dev/shm").is_dir() else folder) / f"fuzz-{os.getpid()}.gguf"

    def once(raw: bytes) -> None:
        path.write_bytes(raw)
        read_all(path)

    def mutate(raw: bytes, largest: int, seed: int) -> bytes:
        changed: bytes = damaged(raw, seed) if seed % 8 else atheris.Mutate(raw, largest)
        return changed[:largest]

    arguments = [*LIMITS, f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", str(corpus)]
    atheris.Setup([sys.argv[0], *arguments], once, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="a file to try once")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="where corpus and failures are kept from run to run")
    arguments = parser.parse_args()
    if arguments.file is not None:
        print(read_all(arguments.file) or "read whole")
        return
    fuzz(arguments.folder or Path(tempfile.mkdtemp(prefix="fuzz-gguf-")), arguments.seconds)


if __name__ == "__main__":
    main()
