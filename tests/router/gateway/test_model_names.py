"""Other names of models, none, and shares of sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import pytest
from pydantic import ValidationError

from router.gateway.fleet.model_names import ModelNames, Shares
from router.gateway.fleet.workers import Workers
from router.http.errors import ModelNotFoundError, RequestError
from router.settings.base import read_alias
from router.settings.gateway import GatewaySettings

CHAT: dict[str, Shares] = {"chat": (("new", 0.1), ("old", 0.9))}


class Serving:
    """Workers that serve these."""

    def __init__(self, *models: str) -> None:
        self._models = {model: {"id": model} for model in models}

    def models(self) -> dict[str, Any]:
        return self._models

    def serving(self, model: str) -> bool:
        return model in self._models


def names(
    *models: str, aliases: Mapping[str, Shares] | None = None, default: str = ""
) -> ModelNames:
    return ModelNames(cast(Workers, Serving(*models)), aliases or {}, default)


def test_two_thousand_sessions_are_shared_out_and_each_stays_on_its_side() -> None:
    made = names("new", "old", aliases=CHAT)
    sides = [made.resolve("chat", f"session-{k}")[0] for k in range(2000)]
    assert Counter(sides)["new"] / 2000 == pytest.approx(0.1, abs=0.02)
    assert sides == [made.resolve("chat", f"session-{k}")[0] for k in range(2000)]
    more = names("new", "old", aliases={"chat": (("new", 0.3), ("old", 0.7))})
    later = [more.resolve("chat", f"session-{k}")[0] for k in range(2000)]
    moved = [(a, b) for a, b in zip(sides, later, strict=True) if a != b]
    assert {a for a, _ in moved} == {"old"}, "who was on the new side stays there"


def test_sessions_of_a_side_that_is_down_go_with_the_others_until_it_is_back() -> None:
    shares: dict[str, Shares] = {"chat": (("new", 0.2), ("old", 0.5), ("older", 0.3))}
    sides = [
        names("new", "old", "older", aliases=shares).resolve("chat", str(k)) for k in range(300)
    ]
    down = [names("old", "older", aliases=shares).resolve("chat", str(k)) for k in range(300)]
    moved = [(a[0], b[0]) for a, b in zip(sides, down, strict=True) if a != b]
    assert {a for a, _ in moved} == {"new"}, "nobody else has moved"
    assert {b for _, b in moved} == {"old", "older"}
    nobody = [names(aliases=shares).resolve("chat", str(k)) for k in range(300)]
    assert nobody == sides, "it may come up"


def test_which_model_is_meant() -> None:
    aliases = {"gpt": (("m", 1.0),), "m": (("x", 1.0),), **CHAT}
    made = names("m", "x", aliases=aliases, default="gpt")
    assert made.resolve("gpt", "") == ("m", True), "no alias of an alias"
    assert made.resolve("m", "") == ("x", True)
    assert made.resolve("x", "") == ("x", False)
    assert made.resolve("", "") == ("m", True)
    assert {made.resolve("chat", str(k), {"new", "z"}) for k in range(50)} == {("new", True)}
    with pytest.raises(ModelNotFoundError):
        made.resolve("chat", "", {"z"})
    assert names("m").resolve("", "") == ("m", False)
    assert names("m", "x", default="x").resolve("", "") == ("x", True)
    asked = {name: made.alias(name) for name in ("gpt", "m", "x", "")}
    assert asked == {"gpt": "gpt", "m": "m", "x": None, "": "gpt"}
    assert names("m", "x", aliases=CHAT, default="x").alias("") is None
    with pytest.raises(RequestError, match="'model' is required"):
        names("m", "x").resolve("", "")


def test_aliases_of_what_is_served_are_listed() -> None:
    listed = names("m", "old", aliases={"gpt": (("m", 1.0),), "no": (("z", 1.0),), **CHAT}).listed()
    assert listed.keys() == {"m", "old", "gpt", "chat"}
    assert listed["chat"]["alias_of"] == ["old"]


@pytest.mark.parametrize(
    ("text", "aliases"),
    [
        ("a=b", {"a": (("b", 1.0),)}),
        ("a=b,c=d:0.1,e:.9", {"a": (("b", 1.0),), "c": (("d", 0.1), ("e", 0.9))}),
        (["a=b", "c=d:1,e:3"], {"a": (("b", 1.0),), "c": (("d", 1.0), ("e", 3.0))}),
        ("a=llama3:8b", {"a": (("llama3:8b", 1.0),)}),
        ("a=llama3:8b:2,x", {"a": (("llama3:8b", 2.0), ("x", 1.0))}),
    ],
)
def test_settings(text: object, aliases: object) -> None:
    settings = GatewaySettings(worker="http://a", alias=text)  # type: ignore[arg-type,call-arg]
    assert settings.aliases() == aliases


@pytest.mark.parametrize("text", ["a", "=b", "a=", "a=b:0", "a=b,a=c", "a=b:-1", "a=b:1e999,c"])
def test_wrong_settings_are_named(text: str) -> None:
    with pytest.raises(ValidationError, match=r"alias\n"):
        GatewaySettings(worker="http://a", alias=text)  # type: ignore[arg-type,call-arg]
    if text in ("a", "=b", "a=", "a=b:0"):
        with pytest.raises(ValueError, match="is not like gpt-4o=llama-65b"):
            read_alias(text)
