"""Options that several commands share, each described once."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from coderv2.engine.request import SamplingParams

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

model: Decorator[Any] = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="A folder, a .gguf file, or a name on the Hugging Face hub (owner/model).  [default: the bundled model]",
)

dtype: Decorator[Any] = click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float32"]),
    default="auto",
    show_default=True,
    help="Number format of the weights; auto is float32 for a small model on a CPU, else the checkpoint's own.",
)

CACHE_DTYPES = ("auto", "bfloat16", "float32", "int8", "fp8_e4m3", "fp8_e5m2")
kv_cache_dtype: Decorator[Any] = click.option(
    "--kv-cache-dtype",
    type=click.Choice(CACHE_DTYPES),
    default="auto",
    show_default=True,
    help="Number format of the cache: int8 (CPU) and fp8 take half the memory of bfloat16, and half the time for "
    "reading a long context; fp8 does the latter on a GPU only.",
)

_PLACING = (
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where to compute; auto takes the GPU when there is one.",
    ),
    click.option(
        "--quantization",
        type=click.Choice(["fp8", "int4"]),
        help="On a GPU: round weights on load.  [default: as the checkpoint has them]",
    ),
    click.option(
        "--gpu-memory",
        metavar="SIZE",
        help="Take no more of the GPU than this, for example 24G.  [default: what is free]",
    ),
    click.option(
        "--experts",
        type=click.Choice(["auto", "gpu", "ram"]),
        default="auto",
        show_default=True,
        help="Routed experts: as many on the GPU as fit and the rest in RAM, all on the GPU, or all in RAM.",
    ),
)


def placing(function: F) -> F:
    """Where weights go: --device, --quantization, --gpu-memory, --experts."""
    for option in reversed(_PLACING):
        function = option(function)
    return function


def placed(values: dict[str, Any]) -> dict[str, Any]:
    """What `placing` collected, taken out of `values`: `LLM`'s names."""
    return {name: values.pop(name) for name in ("device", "quantization", "gpu_memory", "experts")}


def sampling(*, max_tokens: int, temperature: float | None) -> Decorator[Any]:
    """The sampling options with a command's defaults; a temperature of None leaves it and top_p to the model."""
    top_p = None if temperature is None else 1.0
    options = [
        _number("--max-tokens", "N", "Tokens to write at most; fewer when the context is full.", max_tokens),
        _number("--temperature", "X", "Randomness: 0 takes the likeliest token.", temperature),
        _number("--top-p", "X", "Choose among the fewest tokens that hold this much probability.", top_p),
        click.option(
            "--top-k", type=int, default=0, metavar="N", help="Choose among the N likeliest tokens."
        ),
        click.option("--seed", type=int, metavar="N", help="Makes a random answer repeatable."),
        click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be repeated."),
    ]

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _number(name: str, metavar: str, text: str, default: float | None) -> Decorator[Any]:
    """N takes whole numbers, X any; without a default the model's own holds."""
    return click.option(
        name,
        type=int if metavar == "N" else float,
        default=default,
        show_default="the model's own" if default is None else True,
        metavar=metavar,
        help=text,
    )


def sampling_params(values: dict[str, Any]) -> "SamplingParams":
    """What `sampling` collected, checked: InvalidValue names a value out of range."""
    from coderv2.engine.request import SamplingParams

    return SamplingParams(**values)
