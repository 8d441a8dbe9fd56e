"""Runs one of readme_programs/ as it stands, on a machine and a library that it was not written for.

    python tests/launch_program.py PROGRAM OLD=NEW…

Each OLD=NEW replaces a text in the program: the model's path, the import of vLLM. Two things around the program are
given back to it: without a GPU `.cuda()` leaves the model where it is, and `apply_chat_template` returns the bare ids,
which was its default before transformers 5.
"""

import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase


def _restore_bare_ids() -> None:
    modern = PreTrainedTokenizerBase.apply_chat_template
    assert inspect.signature(modern).parameters["return_dict"].default is True, (
        "transformers changed: drop this"
    )

    def bare(self: Any, *args: Any, return_dict: bool = False, **kwargs: Any) -> Any:
        return modern(self, *args, return_dict=return_dict, **kwargs)

    PreTrainedTokenizerBase.apply_chat_template = bare  # type: ignore[assignment]


def main(program: str, *replacements: str) -> None:
    """Runs `program` with the replacements made; each must be needed."""
    source = Path(program).read_text("utf-8")
    for old, _, new in (r.partition("=") for r in replacements):
        assert old in source, f"{program} does not hold {old!r}"
        source = source.replace(old, new)
    if not torch.cuda.is_available():
        torch.nn.Module.cuda = lambda self, device=None: self  # type: ignore[method-assign]
    _restore_bare_ids()
    exec(compile(source, program, "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main(*sys.argv[1:])
