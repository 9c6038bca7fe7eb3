"""What clients call models: their own names, other names for them, and none.

Rules:
- an alias counts before a model of its name, and is no alias of an alias;
- of an alias with several models each gets its share of the sessions, and a session stays with one
  for as long as the shares stay: which, is drawn by its name; who names no session is one alone;
- a session whose model no worker serves just now goes with the others for so long;
- who goes on from an answer goes on with a model that the answer's worker serves;
- whose key allows some of an alias's models, and not the alias, has its share of those alone;
- who names no model means the default one, an alias or none, or the only one that there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Any

from router.gateway.fleet.workers import Workers
from router.http.errors import ModelNotFoundError, RequestError

Shares = tuple[tuple[str, float], ...]  # models, and what each gets of an alias's sessions


class ModelNames:
    """See the module."""

    def __init__(self, workers: Workers, aliases: Mapping[str, Shares], default: str) -> None:
        self._workers, self._aliases, self._default = workers, dict(aliases), default

    def resolve(
        self,
        name: str,
        session: str,
        among: Collection[str] | None = None,
        allowed: Collection[str] | None = None,
    ) -> tuple[str, bool]:
        """The model that is meant, of those `among` which it must be, and whether to say so.

        `allowed`: what its key may use; if it may use none of them, whichever is meant.

        Raises:
            RequestError: if none is named and there is no default.
        """
        asked = name or self._default
        if not asked:
            models = list(self._workers.models())
            if len(models) != 1:
                message = "'model' is required; GET /v1/models lists those that there are."
                raise RequestError(message, param="model", code="missing_field")
            return models[0], False
        shares = self._aliases.get(asked)
        if shares is None:
            return asked, not name
        if among is not None:
            shares = tuple(one for one in shares if one[0] in among)
            if not shares:
                raise ModelNotFoundError(asked)
        if allowed is not None and asked not in allowed:
            shares = tuple(one for one in shares if one[0] in allowed) or shares
        drawn = _drawn(shares, session := f"{asked}\0{session}")
        if len(shares) > 1 and not self._workers.serving(drawn):
            others = tuple(one for one in shares if self._workers.serving(one[0]))
            drawn = _drawn(others, f"{session}\0") if sum(share for _, share in others) else drawn
        return drawn, True

    def meant(self, name: str) -> tuple[str, ...]:
        """The models that a name may mean: its own, if it is no alias."""
        return tuple(model for model, _ in self._aliases.get(name, ((name, 1.0),)))

    def alias(self, name: str) -> str | None:
        """The alias that is asked for, by its name or because none is named; None if it is none."""
        asked = name or self._default
        return asked if asked in self._aliases else None

    def is_plain(self, name: str) -> bool:
        """Whether it means itself."""
        return bool(name) and name not in self._aliases

    def names_of(self, model: str, asked: str) -> tuple[str, ...]:
        """All that it may be called by who has `asked` for it: a key for one of them is enough.

        Who has named none may mean any name of it.
        """
        if asked:
            return asked, model
        aliases = (one for one, shares in self._aliases.items() if model in dict(shares))
        return (model, *aliases)

    def listed(self) -> dict[str, dict[str, Any]]:
        """All names, with what ``/v1/models`` says of them; aliases of what somebody serves."""
        served = self._workers.models()
        found = dict(served)
        for alias, shares in self._aliases.items():
            targets = [model for model, _ in shares if model in served]
            if targets:
                entry = {"id": alias, "object": "model", "created": 0, "owned_by": "makespan"}
                found[alias] = {**entry, "alias_of": targets}
        return found


def _drawn(shares: Shares, name: str) -> str:
    """One of them, the same for the same name."""
    draw = int.from_bytes(blake2b(name.encode("utf-8", "replace"), digest_size=8).digest()) / 2**64
    draw *= sum(share for _, share in shares)
    for model, share in shares:
        draw -= share
        if draw < 0:
            return model
    return shares[-1][0]
