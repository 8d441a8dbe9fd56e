"""256 streams at once on the bundled model, some left at random: `python -m benchmarks.door_load [SECONDS]`.

Every stream must be the start of what the engine says to its prompt, or whole; at the end no page is held, and the
process is as large as it was after the first half.
"""

import asyncio
import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.door_overhead import _serve_bundled
from benchmarks.record import record
from coderv2 import paths
from coderv2.engine.llm import LLM
from coderv2.engine.params import SamplingParams

STREAMS = 256
PROMPTS = [f"def function_{number}(first, second):\n    " for number in range(32)]
LENGTHS = (8, 24, 64)


def main(seconds: float = 600.0) -> None:
    """Prints and records what came of it."""
    texts = expected()
    worker, url, stop = _serve_bundled()
    counts = {"whole": 0, "left": 0, "wrong": 0}
    sizes: list[float] = []
    asyncio.run(_load(url, seconds, texts, counts, sizes))
    for _ in range(100):
        if not worker.stats().running:
            break
        time.sleep(0.1)
    stats = worker.stats()
    stop()
    half = len(sizes) // 2
    rows: list[dict[str, Any]] = [
        {"measured": name, "value": value}
        for name, value in [
            ("seconds", seconds),
            ("streams at once", STREAMS),
            *((f"streams {name}", count) for name, count in counts.items()),
            ("running at the end", stats.running + stats.waiting),
            ("pages held at the end", stats.pages_used),
            ("resident after the first half, MiB", sizes[half]),
            ("resident at the end, MiB", sizes[-1]),
            ("resident at its largest, MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        ]
    ]
    record("door_load", rows, ["fastapi", "uvicorn"])
    assert not counts["wrong"], "a stream was not what the engine says"
    assert (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)


def expected() -> dict[tuple[str, int], str]:
    """What a greedy engine says alone."""
    llm = LLM(paths.bundled_model())
    texts: dict[tuple[str, int], str] = {}
    for length in LENGTHS:
        outputs = llm.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=length), use_tqdm=False)
        texts |= {(prompt, length): out.outputs[0].text for prompt, out in zip(PROMPTS, outputs, strict=True)}
    return texts


async def _load(
    url: str, seconds: float, texts: dict[tuple[str, int], str], counts: dict[str, int], sizes: list[float]
) -> None:
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=STREAMS + 8, max_keepalive_connections=STREAMS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=300) as client:

        async def one(number: int) -> None:
            chance = random.Random(number)
            while time.monotonic() < end:
                await _stream(client, chance, texts, counts)

        async def watch() -> None:
            while time.monotonic() < end:
                sizes.append(_resident())
                await asyncio.sleep(min(5.0, seconds / 20))

        await asyncio.gather(watch(), *(one(number) for number in range(STREAMS)))
        sizes.append(_resident())


async def _stream(
    client: httpx.AsyncClient,
    chance: random.Random,
    texts: dict[tuple[str, int], str],
    counts: dict[str, int],
) -> None:
    prompt, length = chance.choice(PROMPTS), chance.choice(LENGTHS)
    leaves = chance.randrange(length) if chance.random() < 0.3 else None
    body = {"prompt": prompt, "max_tokens": length, "temperature": 0, "stream": True}
    said, events = "", 0
    async with client.stream("POST", "/v1/completions", json=body) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                said += json.loads(line[6:])["choices"][0]["text"]
                events += 1
                if leaves is not None and events > leaves:
                    break
    whole = texts[prompt, length]
    right = whole.startswith(said) if leaves is not None else whole == said
    counts["wrong" if not right else "whole" if leaves is None else "left"] += 1


def _resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
