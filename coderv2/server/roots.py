"""One set of routes under every base that clients are configured with: /, /v1, /beta, /v1/beta, /anthropic/v1.

Clients join a base, with or without its last slash, and a fixed path. What is left of the path after the root decides
the route, and only the route that is then found decides who may use it.
"""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_SLASHES = re.compile("/{2,}")
_ROOT = re.compile("(/anthropic)?(/v1)?(/beta)?(?=/|$)")


class Roots:
    """Routes see the path below the root; `state.path` keeps what was sent, `state.beta` whether /beta was in it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rewrites the path and passes on."""
        if scope["type"] == "http":
            path, beta = below_root(scope["path"])
            scope["state"] |= {"path": scope["path"], "beta": beta}
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


def below_root(path: str) -> tuple[str, bool]:
    """The path without root, doubled and last slashes; and whether the root was a /beta."""
    path = _SLASHES.sub("/", path)
    match = _ROOT.match(path)
    rest = path[match.end() :] if match else path
    return rest.rstrip("/") or "/", match is not None and match[3] is not None
