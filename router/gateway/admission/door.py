"""The door of a gateway with keys: whoever has none stays outside.

Rules:
- a request's key is looked at here and nowhere else. What it allows goes along in the request's
  scope (`GRANT`); the key itself is taken off, in whichever headers it stands, so that neither
  workers nor logs ever have it;
- what has a guard of its own is let through to that (`guarded`);
- `OPEN` is open to all: load balancers and Kubernetes's probes have no keys, and it says whether
  this gateway serves, nothing of requests;
- the gateway's own pages (`is_own`) want a key with the right `admin`, metrics among them, as they
  tell of all tenants. In a browser it is the password, whatever the name;
- everything else is the engines' API: what of that is for any key says `router.http.relayed`;
- who is refused here is counted, and not remembered: that costs strangers' requests no room.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from router.gateway.accounting.keys import GRANT, Keys
from router.gateway.admission.headers import request_id
from router.gateway.siblings.together import ALONE
from router.http.apis import form_of
from router.http.asgi import FIELDS, Receive, Scope, Send, respond
from router.http.errors import ForbiddenError, RouterError, UnauthorizedError
from router.http.request_headers import KEY_HEADERS

App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset(("/health", "/ready"))
_OWN = frozenset(("/", "/metrics", "/docs", "/openapi.json"))
_OWN_FOLDERS = ("/makespan/", "/dashboard/", "/docs/")


def is_own(path: str) -> bool:
    """Whether it is one of the gateway's own pages, which are for its operators."""
    return path in _OWN or path.startswith(_OWN_FOLDERS)


class Door:
    """An ASGI application before another one; `refused` hears of whoever stays outside."""

    def __init__(
        self,
        app: App,
        *,
        keys: Keys,
        refused: Callable[[RouterError], None],
        guarded: Collection[str] = (),
    ) -> None:
        self._app, self._keys, self._refused = app, keys, refused
        self._open = OPEN | set(guarded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and not scope.get(ALONE) and scope["path"] not in self._open:
            try:
                scope = self._let_in(scope)
            except RouterError as error:
                self._refused(error)
                await _refuse(scope, send, error)
                return
        await self._app(scope, receive, send)

    def _let_in(self, scope: Scope) -> Scope:
        """The request with what its key allows in the place of the key.

        Raises:
            UnauthorizedError: if it has none.
            ForbiddenError: if that is not for what it asks.
        """
        own = is_own(scope["path"])
        grant, given = self._keys.find(scope, browser=own)
        if grant is None:
            raise UnauthorizedError(given=bool(given), browser=own)
        if own and not grant.key.admin:
            message = f"{scope['path']} wants a key with the right 'admin'; this one has it not."
            raise ForbiddenError(message, code="admin_only")
        headers = [
            (name, value)
            for name, value in scope["headers"]
            if name not in KEY_HEADERS and given[0] not in value
        ]
        scope = {**scope, "headers": headers, GRANT: grant}
        scope.pop(FIELDS, None)  # they may have been looked at before the door
        return scope


async def _refuse(scope: Scope, send: Send, error: RouterError) -> None:
    name = request_id(scope)
    api = form_of(scope["path"])
    await respond(send, error.status, [*error.headers(), *api.named(name)], api.error(error, name))
