"""Every route is one of these: closed unless it says that it is open, and its body is strict JSON."""

import json
import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from coderv2.server import repeats
from coderv2.server.errors import Refused

if TYPE_CHECKING:
    from coderv2.server.door import Door

DEEPEST = 64
"""Objects and lists within one another."""


class StrictRequest(Request):
    """A request whose JSON holds neither NaN nor infinities, and nests no deeper than DEEPEST."""

    async def check(self) -> None:
        """Raises Refused for a body that is not JSON, with the place: of what `json` raises FastAPI tells nothing."""
        if body := await self.body():
            self._json = parse(body)


def parse(body: bytes) -> Any:
    """Raises Refused."""
    try:
        value = json.loads(body, parse_constant=_no_number, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise _invalid(f"{error.msg} at character {error.pos}") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # not UTF-8, a number of thousands of digits, or far too deep
        raise _invalid(str(error)[:100]) from None
    _check_depth(value)
    return value


def _no_number(name: str) -> None:
    raise _invalid(f"{name} is no number of JSON's")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _invalid(f"{digits[:40]} is larger than any number that can be computed with")
    return value


def _invalid(why: str) -> Refused:
    return Refused(400, "invalid_json", f"the body is not valid JSON: {why}")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [child for node in level for child in _children(node) if isinstance(child, dict | list)]
        if not level:
            return
    raise _invalid(f"it nests deeper than {DEEPEST} levels")


def _children(node: Any) -> Any:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _says_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _door(request: Request) -> "Door":
    door: Door = request.app.state.door
    return door


def open_to_all(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a route that needs no key."""
    endpoint.__dict__["open_to_all"] = True
    return endpoint


class GuardedRoute(APIRoute):
    """Asks the door who is there before anything of the request is read."""

    @property
    def open_to_all(self) -> bool:
        """Whether it needs no key."""
        return getattr(self.endpoint, "open_to_all", False)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, behind the door."""
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            request.state.route = self.path
            if not self.open_to_all:
                request.state.caller = _door(request).admit(request)
            if self.body_field is not None and not _says_json(request.headers.get("content-type", "")):
                raise Refused(415, None, "the body must be JSON: send content-type: application/json")
            strict = StrictRequest(request.scope, request.receive)
            if self.body_field is not None:
                await strict.check()
            if request.method == "POST" and repeats.HEADER in request.headers and not self.open_to_all:
                return await _door(request).repeats.answer(strict, handler)
            return await handler(strict)

        return guarded
