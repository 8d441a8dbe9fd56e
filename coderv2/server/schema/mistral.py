"""Mistral's fill-in-the-middle."""

from coderv2.server.schema.base import Count, Natural, Seed, Stop, Temperature, TopP, Wire


class FimRequest(Wire):
    """POST /v1/fim/completions."""

    model: str = ""
    prompt: str
    suffix: str = ""
    max_tokens: Count | None = None
    min_tokens: Natural = 0
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: Stop | None = None
    stream: bool = False
    random_seed: Seed | None = None
