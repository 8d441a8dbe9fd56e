"""llama.cpp's `/infill` and `/completion`, as its editor plugins use them."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from coderv2.engine.request import Delta
from coderv2.errors import InvalidValue
from coderv2.server.backend import Backend, tokens_of
from coderv2.server.cut import Cut
from coderv2.server.dialects.chat import told
from coderv2.server.door import Door, aside, json_response, names
from coderv2.server.generation import Generation, Job
from coderv2.server.hole import encode_hole
from coderv2.server.logprobs import chat_logprobs
from coderv2.server.sampling import room_for
from coderv2.server.schema.llamacpp import (
    CompleteRequest,
    DetokenizeRequest,
    InfillRequest,
    Predict,
    TemplateRequest,
    TokenizeRequest,
)
from coderv2.server.stream import BARE_EVENTS
from coderv2.server.structured import of_schema
from coderv2.text.chat import CHAT_TEMPLATE, render_chat
from coderv2.text.tokenizer import Tokenizer


def add_routes(app: FastAPI, door: Door) -> None:
    """`POST /infill`, `/completion`, `/tokenize`, `/detokenize`, `/apply-template`; `GET /props`."""

    @app.post("/infill")
    async def post_infill(body: InfillRequest, request: Request) -> Response:
        work = await door.start(request, lambda models, _: infill_job(body, models.called(body.model).text))
        door.sessions.enter(request, work, f"slot {body.id_slot}" if body.id_slot >= 0 else "")
        return await _answer(door, request, body, work)

    @app.post("/completion")
    async def post_completion(body: CompleteRequest, request: Request) -> Response:
        work = await door.start(
            request,
            lambda models, caller: complete_job(
                body, models.called(body.model).text, control=caller.control_tokens
            ),
        )
        return await _answer(door, request, body, work)

    @app.post("/tokenize")
    async def post_tokenize(body: TokenizeRequest, request: Request) -> Response:
        tokenizer = door.served().text.count_tokenizer
        control = body.parse_special and request.state.caller.control_tokens
        return json_response(
            {"tokens": await aside(request, lambda: _tokens(tokenizer, body, control=control))}
        )

    @app.post("/detokenize")
    async def post_detokenize(body: DetokenizeRequest, request: Request) -> Response:
        tokenizer = door.served().text.tokenizer
        if max(body.tokens, default=0) >= tokenizer.vocab_size:
            raise InvalidValue(f"tokens must be below {tokenizer.vocab_size}", param="tokens")
        text = await aside(request, lambda: tokenizer.decode(body.tokens, skip_special=False))
        return json_response({"content": text})

    @app.post("/apply-template")
    async def post_apply_template(body: TemplateRequest, request: Request) -> Response:
        return json_response({"prompt": await aside(request, lambda: render_chat(told(body.messages)))})

    @app.get("/props")
    async def get_props() -> Response:
        models = door.served()
        settings = {"n_ctx": models.text.engine.max_model_len}
        return json_response(
            {
                "default_generation_settings": settings,
                "chat_template": CHAT_TEMPLATE,
                "model_alias": models.name,
            }
        )


async def _answer(door: Door, request: Request, body: Predict, work: Generation) -> Response:
    replies = Replies(names(request, "cmpl-"), door.served().name, body, work)
    return await door.reply(request, replies, BARE_EVENTS if body.stream else None)


def infill_job(request: InfillRequest, backend: Backend) -> Job:
    """Other files first, then the hole."""
    prefix = request.input_prefix + request.prompt
    files = [(file.filename, file.text) for file in request.input_extra]
    prompt = encode_hole(backend, prefix, request.input_suffix, files, max(1, request.n_predict))
    return _job(request, prompt, backend)


def complete_job(request: CompleteRequest, backend: Backend, *, control: bool = True) -> Job:
    """A raw prompt; with `control` it may hold control tokens."""
    prompt = request.prompt
    if isinstance(prompt, str):
        prompt = backend.prompt_tokenizer.encode(prompt, bos=True, control=control)
    return _job(request, prompt, backend)


def _job(request: Predict, prompt: list[int], backend: Backend) -> Job:
    wanted = None if request.n_predict < 0 else max(1, request.n_predict)
    params = backend.defaults.params(
        n=request.n_cmpl,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        max_tokens=room_for(wanted, len(prompt), backend.engine.max_model_len),
        stop=request.stop,
        seed=None if request.seed == -1 else request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repeat_penalty,
        logprobs=request.n_probs or None,
        structured_outputs=None if request.json_schema is None else of_schema(request.json_schema),
    )
    return Job([prompt], params, backend)


class Replies:
    """Deltas in the shape of this API."""

    def __init__(self, id: str, model: str, request: Predict, work: Generation) -> None:
        self._request = request
        self._work = work
        self._names = {"id": id, "model": model, "id_slot": request.id_slot}
        seconds = request.t_max_predict_ms / 1000
        self._cuts = [Cut(request.n_indent, seconds) for _ in range(work.choices)]
        self._tokens = [0] * work.choices

    async def whole(self) -> Any:
        """The answer to a request without `stream`; a list where there are several."""
        texts = [""] * self._work.choices
        lasts: list[dict[str, Any]] = [{} for _ in texts]
        tokens: list[list[int]] = [[] for _ in texts]
        probabilities: list[list[Any]] = [[] for _ in texts]
        async with aclosing(self.chunks(whole=True)) as chunks:
            async for chunk in chunks:
                index = chunk["index"]
                texts[index] += chunk["content"]
                tokens[index] += chunk["tokens"]
                probabilities[index] += chunk.pop("completion_probabilities", [])
                lasts[index] = chunk
        answers = []
        for index, text in enumerate(texts):
            more = {"completion_probabilities": probabilities[index]} if self._request.n_probs else {}
            whole = {"content": text, "tokens": tokens[index], **more}
            answers.append(self._selected(lasts[index] | whole))
        return answers if len(answers) > 1 else answers[0]

    async def chunks(self, *, whole: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        """The same in pieces; each says whether it is the last of its answer."""
        open_answers = self._work.choices
        async with aclosing(self._work.deltas()) as deltas:
            async for delta in deltas:
                cut = self._cuts[delta.index]
                if cut.ended:
                    continue
                chunk = self._chunk(delta, cut)
                open_answers -= chunk["stop"]
                yield chunk if whole or not chunk["stop"] else self._selected(chunk)
                if not open_answers:
                    return

    def _chunk(self, delta: Delta, cut: Cut) -> dict[str, Any]:
        self._tokens[delta.index] += tokens_of(delta)
        text = cut.push(delta.text)
        if delta.finish_reason and not cut.ended:
            text += cut.finish()
        if self._request.n_predict == 0:
            text = ""
        chunk = {
            "index": delta.index,
            "content": text,
            "tokens": list(delta.token_ids),
            "stop": bool(delta.finish_reason) or cut.ended,
            "tokens_predicted": self._tokens[delta.index],
            "tokens_evaluated": self._work.usage.prompt_tokens,
            **self._names,
        }
        if delta.logprobs:
            content = chat_logprobs(self._work.job.backend.tokenizer, delta.logprobs)["content"]
            chunk["completion_probabilities"] = [
                {"id": place.token_id, **told} for place, told in zip(delta.logprobs, content, strict=True)
            ]
        if chunk["stop"]:
            cut.ended = True
            chunk |= self._ending(delta)
        return chunk

    def _ending(self, delta: Delta) -> dict[str, Any]:
        usage, word = self._work.usage, delta.stop_reason
        kind = "word" if isinstance(word, str) else "eos" if delta.finish_reason == "stop" else "limit"
        return {
            "stop_type": kind,
            "stopping_word": word if isinstance(word, str) else "",
            "tokens_cached": usage.cached_tokens,
            "truncated": False,
            "timings": self._timings(),
            **usage.cache(),
        }

    def _timings(self) -> dict[str, float]:
        usage, clock = self._work.usage, self._work.clock
        prompt_ms, predicted_ms = clock.prompt_seconds * 1000, clock.answer_seconds * 1000
        computed, predicted = usage.missed_tokens, usage.completion_tokens
        return {
            "cache_n": usage.cached_tokens,
            "prompt_n": computed,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": _ratio(prompt_ms, computed),
            "prompt_per_second": _ratio(computed * 1000, prompt_ms),
            "predicted_n": predicted,
            "predicted_ms": predicted_ms,
            "predicted_per_token_ms": _ratio(predicted_ms, predicted),
            "predicted_per_second": _ratio(predicted * 1000, predicted_ms),
        }

    def _selected(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Only `response_fields`, where given; a path with slashes becomes a key as it is."""
        fields = self._request.response_fields
        if not fields:
            return answer
        found = ((field, _at(answer, field)) for field in fields)
        return {field: value for field, value in found if value is not None}


def _at(value: Any, path: str) -> Any:
    for name in path.split("/"):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _tokens(tokenizer: Tokenizer, request: TokenizeRequest, *, control: bool) -> list[Any]:
    ids = tokenizer.encode(request.content, bos=request.add_special, control=control)
    return [_piece(tokenizer, token_id) for token_id in ids] if request.with_pieces else ids


def _piece(tokenizer: Tokenizer, token_id: int) -> dict[str, Any]:
    """A token's text, or its bytes where they are part of a character."""
    spelled = tokenizer.token_bytes(token_id)
    try:
        return {"id": token_id, "piece": spelled.decode()}
    except UnicodeDecodeError:
        return {"id": token_id, "piece": list(spelled)}
