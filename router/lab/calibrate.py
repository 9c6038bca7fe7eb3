"""``makespan calibrate``: an engine's cost model from its own iterations, as a profile file."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson

from router.files import writable
from router.lab.calibration.limits import Limits, limits_of
from router.lab.calibration.probe_engine import EngineProbe
from router.lab.calibration.probe_http import HttpProbe
from router.lab.calibration.shapes import Shapes
from router.lab.pictures.scatter import scatter
from router.lab.simulate import progress
from router.settings.agent import AgentSettings
from router.settings.calibrate import CalibrateSettings
from router.settings.commands import load
from router.settings.hardware import hardware
from router.settings.secrets import bearer, read_key
from solver.cost.calibration import Calibration, FitError, Sample, calibrate
from solver.cost.model import Action

Probe = EngineProbe | HttpProbe

# What a server may leave untold, and where else it is said.
LIMITS = {"slots", "kv_tokens", "max_model_len", "max_batched_tokens"}
_AGAIN = "give it here by --{name}, or to simulate and replay by --{later}"
HOW = {
    "slots": _AGAIN.format(name="slots", later="slots"),
    "kv_tokens": _AGAIN.format(name="kv-tokens", later="kv-tokens"),
    "max_batched_tokens": _AGAIN.format(name="max-batched-tokens", later="prefill-budget"),
    "max_model_len": "give it here by --max-model-len",
}

DOUBTFUL = 0.15  # a median error above which a profile is not to be relied on


def run_calibrate(settings: CalibrateSettings) -> None:
    """Measure, fit, print the errors, and write the profile.

    Raises:
        BadSettings: if a file cannot be written, or the server does not answer.
        ProblemError: if there were too few samples.
    """
    with ExitStack() as files:  # which complain before the work, not after
        file = files.enter_context(writable(settings.out))
        plot = settings.plot and files.enter_context(writable(settings.plot))
        limits = _limits(settings)
        samples = asyncio.run(measure(_probe(settings, limits)))
        found = calibrate(samples)
        saved = profile(settings, found, len(samples), limits)
        file.write(orjson.dumps(saved, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        if plot:
            plot.write(scatter(samples, found.cost, settings.called).encode())
    print(orjson.dumps(saved).decode() if settings.json else _table(settings, found))
    for line in (*_untold(settings, limits), *_doubts(found)):
        print(line, file=sys.stderr)


async def measure(probe: Probe) -> list[Sample]:
    """All samples of a probe."""
    samples: list[Sample] = []
    with progress(probe.samples, "iterations") as advanced:
        async for sample in probe.measure():
            samples.append(sample)
            advanced(len(samples))
    return samples


def _limits(settings: CalibrateSettings) -> Limits:
    """Of the engine: those of a server as it tells them, else as they are set for it."""
    if settings.upstream is None:
        return Limits(settings.slots, settings.kv_tokens, None, settings.max_model_len)
    told = asyncio.run(_told(settings.upstream, settings.model, _key(settings)))
    return told.or_else(
        Limits(**{name: getattr(settings, name) for name in LIMITS & settings.model_fields_set})
    )


async def _told(url: str, model: str, key: str | None) -> Limits:
    async with aiohttp.ClientSession(headers=bearer(key)) as session:
        return await limits_of(session, url, model)


def _key(settings: CalibrateSettings) -> str | None:
    file = settings.upstream_key_file
    return None if file is None else read_key(file, "upstream_key_file")


def _within(setting: int, limit: int | None) -> int:
    """What is tried: no more than the engine takes."""
    return setting if limit is None else min(setting, limit)


def _probe(settings: CalibrateSettings, limits: Limits) -> Probe:
    cost = hardware(settings.cost).cost
    mixed = settings.engine == "transformers" or (
        settings.engine == "emulated" and cost.mixed is not None
    )
    slots = _within(settings.slots, limits.slots)
    longest = _within(settings.max_model_len, limits.max_model_len)
    kv_tokens = _within(settings.kv_tokens, limits.kv_tokens)
    shapes = Shapes(slots, kv_tokens, longest, settings.rounds, mixed)
    if settings.upstream is not None:
        key = _key(settings)
        return HttpProbe(settings.upstream, settings.model, shapes, settings.seed, key)
    if settings.engine == "emulated":
        from router.agent.engines.emulated.engine import EmulatedEngine

        emulated = EmulatedEngine(cost, {}, settings.seed)
        return EngineProbe(emulated, settings.model, shapes, settings.seed)
    from router.agent.engines.transformers.loading import resolve

    flags = ["--engine", "transformers", "--model", settings.model]
    flags += ["--slots", str(settings.slots + 1)]  # for one who joins
    for name in ("kv_tokens", "max_model_len", "threads"):
        value = getattr(settings, name)
        flags += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    flags += ["--prefill-budget", str(settings.max_model_len)]  # a prompt is one iteration
    _, engine = resolve(load(AgentSettings, flags))
    return EngineProbe(engine, settings.model, shapes, settings.seed)


def profile(
    settings: CalibrateSettings, found: Calibration, samples: int, limits: Limits
) -> dict[str, Any]:
    """What the file holds; `router.settings.hardware` reads it. A limit is null if nobody knows."""
    return {
        "name": settings.called,
        "model": settings.model,
        "engine": settings.engine or "openai",
        "hardware": settings.hardware or f"{platform.system()} {platform.machine()}",
        "date": datetime.now(UTC).date().isoformat(),
        **asdict(limits),
        "cost_ms": found.cost.to_ms(),
        "error": {
            action.value: {
                "median": error.median,
                "p95": error.p95,
                "r2": error.r2,
                "samples": error.samples,
                "held_out": error.held_out,
            }
            for action, error in found.errors.items()
        },
        "samples": samples,
    }


def _untold(settings: CalibrateSettings, limits: Limits) -> Iterator[str]:
    """What is not known of a server, and how to say it."""
    for name, value in asdict(limits).items():
        if value is None and settings.upstream is not None:
            yield (
                f"note: the server does not tell its {name.replace('_', ' ')}, so the profile has "
                f"none: {HOW[name]}"
            )


def _doubts(found: Calibration) -> Iterator[str]:
    for action, error in found.errors.items():
        if error.median > DOUBTFUL:
            yield _doubt(action, error)


def _doubt(action: Action, error: FitError) -> str:
    return (
        f"warning: half of all {action.value} iterations are more than {error.median:.0%} off what "
        "this cost model says; measure again on a quiet machine or with more --rounds"
    )


def _table(settings: CalibrateSettings, found: Calibration) -> str:
    """For people."""
    rows = [f"{name:<14}{value:>12.5g} ms" for name, value in found.cost.to_ms().items()]
    rows += ["", f"{'iterations':<14}{'tested':>8}{'median':>9}{'p95':>9}{'R2':>8}"]
    for action, error in found.errors.items():
        r2 = "-" if error.r2 is None else f"{error.r2:.3f}"
        seen = "" if error.held_out else "  (in the fit: too few shapes to hold some out)"
        rows.append(
            f"{action.value:<14}{error.samples:>8}{error.median:>9.1%}{error.p95:>9.1%}{r2:>8}{seen}"
        )
    return "\n".join([*rows, "", f"Written to {settings.out}; use it as --cost {settings.out}"])
