"""`coderv2 serve`: the model over HTTP."""

import ipaddress
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from coderv2 import log
from coderv2.cli import loading, options
from coderv2.errors import EngineStopped

if TYPE_CHECKING:
    from coderv2.engine.engine import Engine


@click.command()
@click.argument("model_argument", metavar="[MODEL]", required=False)
@options.model
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    metavar="N",
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--name", help="What clients call the model.  [default: the hub's or the folder's name]")
@click.option(
    "--max-model-len",
    type=int,
    metavar="N",
    help="Tokens of prompt and answer together.  [default: what the model and the memory allow]",
)
@click.option(
    "--cache-dir",
    metavar="DIR",
    help="Keep computed prompt starts here, so that they survive a restart.  [default: in memory only]",
)
@options.dtype
@click.option(
    "--tensor-parallel",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Cut every weight over N GPUs (or N processes of the CPU).",
)
@click.option(
    "--expert-parallel",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="As --tensor-parallel N, but each has some routed experts whole.",
)
@click.option(
    "--no-graphs",
    is_flag=True,
    help="On a GPU, run every step anew instead of repeating recorded ones; slower.",
)
@click.option("--verbose", is_flag=True, help="Log more, for example which fields of a request are ignored.")
def serve(
    model_argument: str | None,
    model: str | None,
    host: str,
    port: int,
    name: str | None,
    max_model_len: int | None,
    cache_dir: str | None,
    dtype: str,
    tensor_parallel: int,
    expert_parallel: int,
    no_graphs: bool,
    verbose: bool,
) -> None:
    """Serve a model to OpenAI's clients, until Ctrl-C.

    MODEL is the same as -m: a folder, a hub name, or nothing.
    """
    context = click.get_current_context()
    if model_argument is not None and model is not None:
        raise click.UsageError("Give the model once: as MODEL or with -m.", context)
    if 1 != tensor_parallel != expert_parallel != 1:
        raise click.UsageError(
            "--tensor-parallel and --expert-parallel are the same N, or one of them.", context
        )
    from coderv2.engine.worker import Worker
    from coderv2.server.app import create_app
    from coderv2.server.defaults import SamplingDefaults
    from coderv2.server.listen import bind
    from coderv2.server.listen import serve as listen

    bound = bind(host, port)
    log.to_stderr(logging.DEBUG if verbose else logging.INFO)
    loaded = loading.load(
        model_argument or model,
        dtype=dtype,
        max_model_len=max_model_len,
        cache_dir=cache_dir,
        tensor_parallel_size=max(tensor_parallel, expert_parallel),
        enable_expert_parallel=expert_parallel > 1,
        enforce_eager=no_graphs,
    )
    defaults = SamplingDefaults.from_folder(loaded.folder)
    worker = Worker(loaded.engine)
    app = create_app(worker, loaded.engine.tokenizer, name or loaded.name, defaults)
    with _together(loaded.engine):
        listen(app, worker, bound, on_ready=lambda: _greet(bound, name or loaded.name, loaded.engine))


@contextmanager
def _together(engine: "Engine") -> Iterator[None]:
    """While other ranks live: one that dies ends the server, and its reason is the command's error."""
    if (ranks := engine.ranks) is None:
        yield
        return
    ranks.on_failure = lambda: os.kill(os.getpid(), signal.SIGTERM)
    try:
        yield
    finally:
        ranks.stop()
    if ranks.failure is not None:
        raise EngineStopped(ranks.failure)


def _greet(bound: socket.socket, name: str, engine: "Engine") -> None:
    address, port = bound.getsockname()[:2]
    if not ipaddress.ip_address(address).is_loopback:
        click.echo(
            f"Warning: listening on {address} without keys: whoever reaches it can use the model.", err=True
        )
    click.echo(greeting(_url(address, port), name, engine.max_model_len, engine.tokenizer.fim is not None))


def _url(address: str, port: int) -> str:
    """Where a client on this machine finds the server."""
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    return f"http://{ip}:{port}" if ip.version == 4 else f"http://[{ip}]:{port}"


def greeting(url: str, name: str, max_model_len: int, fim: bool) -> str:
    """What to try, as lines to paste into another terminal."""
    complete: dict[str, Any] = {"prompt": "def quick_sort(arr):", "max_tokens": 128, "temperature": 0}
    infill = {"prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n", "temperature": 0}
    chat = {
        "messages": [{"role": "user", "content": "Write a function that adds two numbers."}],
        "max_tokens": 128,
        "temperature": 0,
    }
    tries = [
        ("Complete", _curl(f"{url}/v1/completions", complete)),
        *([("Fill a hole", _curl(f"{url}/v1/completions", infill))] if fim else []),
        ("Chat", _curl(f"{url}/v1/chat/completions", chat)),
    ]
    return "\n\n".join(
        [
            f"{name} is ready, with a context of {max_model_len} tokens. Ctrl-C stops it.",
            f"OpenAI clients: base URL {url}/v1, any key, model {name}",
            *(f"{title}:\n{line}" for title, line in tries),
        ]
    )


def _curl(url: str, body: dict[str, Any]) -> str:
    return f"curl {url} -H 'content-type: application/json' \\\n  -d '{json.dumps(body)}'"
