"""The lines of a run as tables: figures beside goals and bounds, ratios, kernels, failures.

python -m benchmarks.gpu_table FILE.jsonl…      # of runs that were ended before they said it, or of several
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.journal import Journal, Line
from benchmarks.record import as_table

SPEEDS = (
    "part",
    "what",
    "batch",
    "context",
    "prompt",
    "tokens/s",
    "least",
    "bound",
    "share of bound",
    "peak, GB",
)
TIMES = ("what", "µs", "GB/s", "TFLOP/s", "share of ceiling", "times PyTorch", "ours by", "PyTorch by")
KERNELS, PEER = "kernels", "transformers"


def table(lines: Sequence[Line]) -> str:
    """All of them."""
    return "\n\n".join(_sections(lines)) or "nothing was measured"


def _sections(lines: Sequence[Line]) -> Iterator[str]:
    failed = [line for line in lines if "error" in line]
    well = [line for line in lines if "error" not in line and "part" in line]
    speeds = [line for line in well if "tokens/s" in line]
    for title, columns, rows in (
        ("Speed", SPEEDS, speeds),
        ("Ratios", ("of", "to", "ratio", "least"), list(_ratios(speeds))),
        ("Kernels", TIMES, [line for line in lines if line.get("part") == KERNELS and "GB/s" in line]),
        (
            "Other",
            ("part", "what", "said", "file"),
            [line for line in well if line["part"] in ("tests", "tune")],
        ),
        ("Failed", ("part", "what", "batch", "context", "error"), failed),
    ):
        if rows:
            yield f"{title}\n{as_table([{column: row.get(column, '') for column in columns} for row in rows])}"


def _ratios(speeds: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """What the issue asks of one figure beside another."""
    by = {(line["part"], line["what"], line.get("batch"), line.get("context")): line for line in speeds}
    wanted: list[tuple[Any, ...]] = [
        (part, "decode", 1, 32768, part, "decode", 1, 512, 0.85) for part in ("bf16", "fp8", "int4")
    ]
    wanted += [("fp8", "decode", b, 2048, "bf16", "decode", b, 2048, 1.6) for b in (64, 256, 512)]
    wanted += [("bf16", "decode", 1, 512, PEER, "decode", 1, 512, 8.0)]
    wanted += [("bf16", "prefill", None, None, PEER, "prefill", None, None, 2.0)]
    for *pair, least in wanted:
        ours, theirs = by.get(tuple(pair[:4])), by.get(tuple(pair[4:]))
        if ours and theirs:
            yield _ratio(ours, theirs, "tokens/s", least)
            if PEER in pair and "peak, GB" in ours:
                yield _ratio(ours, theirs, "peak, GB", "below 1")


def _ratio(ours: Line, theirs: Line, figure: str, least: float | str) -> dict[str, Any]:
    return {
        "of": _name(ours, figure),
        "to": _name(theirs, figure),
        "ratio": ours[figure] / theirs[figure],
        "least": least,
    }


def _name(line: Line, figure: str) -> str:
    where = f" {line['batch']} at {line['context']}" if "batch" in line else ""
    return f"{line['part']} {line['what']}{where}, {figure}"


if __name__ == "__main__":
    print(table([line for name in sys.argv[1:] for line in Journal(Path(name)).lines]))
