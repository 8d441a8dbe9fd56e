"""Under which names this server answers: a web page must not reach it under a name of its own (DNS rebinding).

An address is no name, so it is always right; other names are this machine's and those that were allowed.
"""

import ipaddress
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from coderv2.server.errors import Refused


class Hosts:
    """Refuses requests to other names."""

    def __init__(self, app: ASGIApp, allowed: Iterable[str] = ()) -> None:
        self._app = app
        self._allowed = {"localhost", *(name.lower().rstrip(".") for name in allowed)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks at the one Host header."""
        if scope["type"] == "http":
            names = [value for name, value in scope["headers"] if name == b"host"]
            if len(names) > 1 or not self._right(names[0].decode("latin-1") if names else ""):
                raise Refused(
                    403,
                    "host_not_allowed",
                    "this server does not answer under that host name; --allow-host NAME has it do so",
                    type="permission_error",
                )
        await self._app(scope, receive, send)

    def _right(self, host: str) -> bool:
        name = host.lower()
        if not name.endswith("]"):
            name, _, port = name.rpartition(":") if ":" in name else (name, "", "0")
            if not port.isdecimal():
                return False
        name = name.rstrip(".")
        return name == "" or name in self._allowed or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
