"""`coderv2 convert --pack` and `--weights`: what is asked, and what is said about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coderv2.errors import InvalidValue

if TYPE_CHECKING:
    from coderv2.model.calibration import Rows
    from coderv2.model.quantise import Quality
    from coderv2.text.tokenizer import Tokenizer

Command = Callable[..., Any]


def options(command: Command) -> Command:
    """The options that make a packed folder."""
    for option in reversed(
        (
            click.option(
                "--pack", is_flag=True, help="Keep every number as it is, in the order that kernels read."
            ),
            click.option(
                "--weights",
                type=click.Choice(["int4", "int8", "fp8", "bf16"]),
                help="Quantise, and report what it costs in quality; int4 is calibrated.",
            ),
            click.option(
                "--calibration",
                type=click.Path(path_type=Path),
                metavar="PATH",
                help="File or folder of text to calibrate with and to judge on.  [default: Python's standard library]",
            ),
            click.option(
                "--report/--no-report", default=None, help="Judge the quantised weights.  [default: --report]"
            ),
        )
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Choice:
    """What was asked."""

    pack: bool
    weights: str | None
    calibration: Path | None
    report: bool | None

    def __post_init__(self) -> None:
        if self.pack and self.weights:
            raise InvalidValue("--pack keeps the numbers as they are, --weights rounds them; choose one")
        if self.weights is None and (self.calibration is not None or self.report is not None):
            raise InvalidValue("--calibration and --report belong to --weights")
        if self.calibration is not None and self.report is False and self.weights != "int4":
            raise InvalidValue(f"--calibration has no use for {self.weights} with --no-report")

    @property
    def wanted(self) -> bool:
        """Whether a packed folder is."""
        return self.pack or self.weights is not None


def write(
    choice: Choice, source: Path, out: Path, tokenizer: "Tokenizer", before: Callable[[], object]
) -> Iterator[str]:
    """Packs or quantises; what to say about it, line by line. `before` runs once all is found in order."""
    from coderv2.model import convert

    rows = _rows(choice, tokenizer)
    before()
    quality = None
    if choice.weights is None:
        convert.pack_folder(source, out, progress=True)
    else:
        quality = convert.quantise_folder(source, out, choice.weights, rows, progress=True)
    size = sum(path.stat().st_size for path in out.glob("*.packed"))
    yield f"{out}: {size / 1e9:,.2f} GB; give it to any command as -m {out}"
    if quality is not None and rows is not None:
        yield from described(quality, rows)


def _rows(choice: Choice, tokenizer: "Tokenizer") -> "Rows | None":
    from coderv2.model import calibration

    if choice.weights is None or (choice.report is False and choice.weights != "int4"):
        return None
    rows = calibration.rows_of(tokenizer, choice.calibration)
    return rows.without_judging() if choice.report is False else rows


def described(quality: "Quality", rows: "Rows") -> Iterator[str]:
    """The report in a few lines."""
    worst = max(quality.layers, key=lambda layer: layer.own)
    yield f"Held-out text: {quality.tokens:,} tokens of {rows.source}"
    yield f"  KL to the wide weights  {quality.kl:.5f} nats a token"
    yield f"  perplexity              {quality.perplexity:.4f}, wide {quality.perplexity_wide:.4f}"
    yield f"  same likeliest token    {quality.same_first:.2%}"
    yield f"  largest layer error     {worst.own:.2%} of what layer {worst.layer} adds"
