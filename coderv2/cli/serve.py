"""`coderv2 serve`: the model over HTTP."""

import ipaddress
import json
import logging
import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from coderv2 import log
from coderv2.cli import interrupts, options
from coderv2.cli.serving import Engines, Others
from coderv2.errors import InvalidValue
from coderv2.server.upstream import BEGIN_SECONDS

if TYPE_CHECKING:
    from coderv2.server.models import Models
    from coderv2.server.upstream.launch import Launch


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
    type=click.IntRange(1),
    metavar="N",
    help="Tokens of prompt and answer together.  [default: what the model and the memory allow]",
)
@click.option(
    "--max-queue-seconds",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="S",
    help="A request that has not begun after so long is refused, to be sent again later.",
)
@click.option(
    "--cache-dir",
    metavar="DIR",
    help="Keep computed prompt starts here, so that they survive a restart.  [default: in memory only]",
)
@options.dtype
@options.kv_cache_dtype
@options.placing
@click.option(
    "--expert-usage",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With experts in RAM: counts of which are used most; read where it is there, added to when the server stops.  "
    "[default: expert_usage.json of the model's folder is read]",
)
@click.option(
    "--move-experts",
    is_flag=True,
    help="With experts in RAM: while serving, move the most used to the GPU; all of them then lie in RAM too.",
)
@click.option(
    "--fim-model",
    metavar="MODEL",
    help="A second model under the same name, for raw text and holes; MODEL answers conversations.",
)
@click.option(
    "--upstream",
    multiple=True,
    metavar="URL",
    help="Serve what runs there (SGLang, vLLM, llama.cpp, any OpenAI-compatible server) instead of computing here; of "
    "MODEL only the tokenizer is read. May be repeated.",
)
@click.option(
    "--upstream-key", envvar="CODERV2_UPSTREAM_KEY", metavar="KEY", help="The key that upstreams want."
)
@click.option(
    "--upstream-seconds",
    type=click.FloatRange(0, min_open=True),
    default=BEGIN_SECONDS,
    show_default=True,
    metavar="S",
    help="With --upstream or --engine: a server that has not begun to answer after so long is passed over; where no "
    "other does, the answer is 504.",
)
@click.option(
    "--engine",
    type=click.Choice(["coderv2", "sglang", "vllm"]),
    default="coderv2",
    show_default=True,
    help="Start this installed engine and serve what it computes.",
)
@click.option(
    "--tensor-parallel",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Cut every weight over N GPUs (here also over N processes of the CPU).",
)
@click.option(
    "--expert-parallel",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="As --tensor-parallel N, but each has some routed experts whole; not with --engine.",
)
@click.option(
    "--data-parallel-attention",
    is_flag=True,
    help="With --tensor-parallel or --expert-parallel N: each has all heads, and sequences and a cache of its own.",
)
@click.option(
    "--no-graphs",
    is_flag=True,
    help="On a GPU, run every step anew instead of repeating recorded ones; slower.",
)
@click.option("--fp8", is_flag=True, help="With --engine: weights in FP8.")
@click.option("--fp8-cache", is_flag=True, help="With --engine: the cache in FP8.")
@click.option("--torch-compile", is_flag=True, help="With --engine: compile the model.")
@click.option(
    "--keys",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Let in only the keys of this file; `coderv2 key` makes them.  [default: everybody]",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Also answer under this host name; addresses and localhost are always right. May be repeated.",
)
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Let web pages of this origin use the server (CORS). May be repeated.  [default: none]",
)
@click.option("--verbose", is_flag=True, help="Log more, for example which fields of a request are ignored.")
def serve(
    model_argument: str | None,
    model: str | None,
    host: str,
    port: int,
    name: str | None,
    max_model_len: int | None,
    max_queue_seconds: float,
    cache_dir: str | None,
    dtype: str,
    kv_cache_dtype: str,
    fim_model: str | None,
    upstream: tuple[str, ...],
    upstream_key: str | None,
    upstream_seconds: float,
    engine: str,
    tensor_parallel: int,
    expert_parallel: int,
    data_parallel_attention: bool,
    no_graphs: bool,
    fp8: bool,
    fp8_cache: bool,
    torch_compile: bool,
    keys: Path | None,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    verbose: bool,
    expert_usage: Path | None,
    move_experts: bool,
    **values: Any,
) -> None:
    """Serve a model to the clients of OpenAI, DeepSeek, Mistral, Anthropic, Ollama and llama.cpp, until Ctrl-C.

    MODEL is the same as -m: a folder, a hub name, or nothing.
    """
    if model_argument is not None and model is not None:
        raise click.UsageError("Give the model once: as MODEL or with -m.", click.get_current_context())
    started = None if upstream else engine
    theirs = fp8 or fp8_cache or torch_compile
    _check_here(started)
    ranks = max(tensor_parallel, expert_parallel)
    if data_parallel_attention and ranks == 1:
        why = "--data-parallel-attention goes with --tensor-parallel or --expert-parallel."
        raise click.UsageError(why, click.get_current_context())
    _check_together(tensor_parallel, expert_parallel, theirs, started, alone=fim_model is None)
    placed = options.placed(values) | {"expert_usage": expert_usage, "move_experts": move_experts}
    _check_placed(placed, started, alone=fim_model is None)
    hosts, origins = [_host(name) for name in allow_host], [_origin(text) for text in allow_origin]
    from coderv2.server.app import create_app
    from coderv2.server.caller import Accounts
    from coderv2.server.door import Door
    from coderv2.server.keys import Keys
    from coderv2.server.listen import bind
    from coderv2.server.listen import serve as listen
    from coderv2.server.upstream.engine import check_urls

    bound = bind(host, port)
    log.to_stderr(logging.DEBUG if verbose else logging.INFO)
    settings = {
        "dtype": dtype,
        "kv_cache_dtype": kv_cache_dtype,
        "max_model_len": max_model_len,
        "cache_dir": cache_dir,
        "tensor_parallel_size": ranks,
        "enable_expert_parallel": expert_parallel > 1,
        "data_parallel_attention": data_parallel_attention,
        "enforce_eager": no_graphs,
        **placed,
    }
    wanted = model_argument or model
    launch = _launch(engine, wanted, max_model_len, tensor_parallel, fp8, fp8_cache, torch_compile)
    engines: Engines | Others = Engines(wanted, fim_model, name, settings, max_queue_seconds)
    if upstream or launch is not None:
        check_urls(upstream)
        engines = Others(wanted, name, upstream, upstream_key, launch, max_model_len, upstream_seconds)
    door = Door(accounts=Accounts(None if keys is None else Keys.from_file(keys)))
    app = create_app(door, hosts=[host, *hosts], origins=origins)
    interrupts.as_usual()
    code = listen(
        app,
        door,
        bound,
        load=engines.load,
        stop=engines.stop,
        on_ready=lambda: _greet(bound, door.served(), keys),
    )
    if code:
        _leave(code)
    engines.check()


def _leave(code: int) -> None:
    """At once, under a model that is still being loaded."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_HERE_ONLY = (
    "fim_model",
    "cache_dir",
    "dtype",
    "kv_cache_dtype",
    "max_queue_seconds",
    "expert_parallel",
    "data_parallel_attention",
    "no_graphs",
)


def _check_here(started: str | None) -> None:
    """`started`: the engine, None for servers that run already."""
    context = click.get_current_context()
    given = [f"--{name.replace('_', '-')}" for name in _HERE_ONLY if _is_given(name)]
    if started == "coderv2" and _is_given("upstream_seconds"):
        raise click.UsageError("--upstream-seconds goes with --upstream or --engine.", context)
    if started is not None and _is_given("upstream_key"):
        raise click.UsageError("--upstream-key goes with --upstream.", context)
    if given and started != "coderv2":
        why = f"{', '.join(given)}: only for what is computed here, not with --engine or --upstream."
        raise click.UsageError(why, context)


def _host(name: str) -> str:
    """As it stands in a Host header, without its port."""
    if not re.fullmatch(r"[^\s/:]+", name):
        raise InvalidValue(
            f"--allow-host {name!r}: a name alone, such as box.example.org", param="allow_host"
        )
    return name


def _origin(text: str) -> str:
    """As browsers write it."""
    origin = text.lower().removesuffix("/")
    if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^\s/]+", origin):
        why = f"--allow-origin {text!r}: scheme and host alone, such as https://app.example.org"
        raise InvalidValue(why, param="allow_origin")
    return origin


def _is_given(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _check_together(tensor: int, expert: int, theirs: bool, started: str | None, *, alone: bool) -> None:
    """`theirs`: options of other engines."""
    ours, several = started == "coderv2", max(tensor, expert) > 1
    refused = {
        "--fp8, --fp8-cache and --torch-compile go with --engine sglang or vllm.": theirs
        and started in ("coderv2", None),
        "--tensor-parallel is for what is started here; what --upstream names runs already.": started is None
        and tensor > 1,
        "--tensor-parallel and --expert-parallel are the same N, or one of them.": 1 != tensor != expert != 1,
        "--fim-model does not go with --tensor-parallel or --expert-parallel: ranks serve one model.": ours
        and several
        and not alone,
    }
    for why, wrong in refused.items():
        if wrong:
            raise click.UsageError(why, click.get_current_context())


def _check_placed(placed: dict[str, Any], started: str | None, *, alone: bool) -> None:
    given = [name for name, value in placed.items() if value not in (None, "auto", False)]
    names = ", ".join("--" + name.replace("_", "-") for name in given)
    if given and started != "coderv2":
        why = f"{names}: for what is computed here, not for --engine or --upstream."
        raise click.UsageError(why, click.get_current_context())
    if not alone and {"gpu_memory", "expert_usage", "move_experts"} & set(given):
        why = "--gpu-memory, --expert-usage and --move-experts are for one model, and --fim-model is a second one."
        raise click.UsageError(why, click.get_current_context())


def _launch(
    engine: str,
    model: str | None,
    max_model_len: int | None,
    tensor_parallel: int,
    fp8: bool,
    fp8_cache: bool,
    torch_compile: bool,
) -> "Launch | None":
    """None: the engine is ours, or runs elsewhere already."""
    if engine == "coderv2":
        return None
    from coderv2.model import hub
    from coderv2.server.upstream.launch import Launch

    return Launch(engine, hub.resolve(model), tensor_parallel, fp8, fp8_cache, torch_compile, max_model_len)


def _greet(bound: socket.socket, models: "Models", keys: Path | None) -> None:
    address, port = bound.getsockname()[:2]
    if keys is None and not ipaddress.ip_address(address).is_loopback:
        click.echo(
            f"Warning: listening on {address} without keys: whoever reaches it can use the model.", err=True
        )
    card = models.card()
    click.echo(
        greeting(_url(address, port), models.name, card["max_model_len"], card["abilities"]["fim"], keys)
    )


def _url(address: str, port: int) -> str:
    """Where a client on this machine finds the server."""
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    return f"http://{ip}:{port}" if ip.version == 4 else f"http://[{ip}]:{port}"


def greeting(url: str, name: str, max_model_len: int, fim: bool, keys: Path | None = None) -> str:
    """What to try, as lines to paste into another terminal."""
    complete: dict[str, Any] = {"prompt": "def quick_sort(arr):", "max_tokens": 128, "temperature": 0}
    infill = {"prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n", "temperature": 0}
    chat = {
        "messages": [{"role": "user", "content": "Write a function that adds two numbers."}],
        "max_tokens": 128,
        "temperature": 0,
    }
    tries = [
        ("Complete", _curl(f"{url}/v1/completions", complete, keys)),
        *([("Fill a hole", _curl(f"{url}/v1/completions", infill, keys))] if fim else []),
        ("Chat", _curl(f"{url}/v1/chat/completions", chat, keys)),
    ]
    key = "any key" if keys is None else f"a key of {keys}"
    return "\n\n".join(
        [
            f"{name} is ready, with a context of {max_model_len} tokens. Ctrl-C stops it.",
            f"OpenAI clients: base URL {url}/v1, {key}, model {name}",
            *(f"{title}:\n{line}" for title, line in tries),
        ]
    )


def _curl(url: str, body: dict[str, Any], keys: Path | None) -> str:
    key = "" if keys is None else '-H "authorization: Bearer $KEY" '
    return f"curl {url} {key}-H 'content-type: application/json' \\\n  -d '{json.dumps(body)}'"
