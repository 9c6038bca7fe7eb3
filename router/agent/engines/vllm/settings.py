"""What the plug-in is told by its environment, and which versions of vLLM it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.settings.hardware import hardware
from router.settings.targets import read_targets
from solver.batching.policies import POLICIES
from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS, Targets
from solver.cost.model import CostModel

POLICY, COST = "MAKESPAN_VLLM_POLICY", "MAKESPAN_VLLM_COST"
TARGETS = "MAKESPAN_VLLM_TARGETS"
DEFAULT_POLICY = "adaptive"
# Minor versions whose scheduler was read and tested: vLLM's is no public interface.
KNOWN = ("0.32",)


@dataclass(frozen=True, slots=True)
class Settings:
    """The policy's name, the cost model, and the targets of all requests but bulk ones.

    `cost` None: to be learnt from the engine's iterations.
    """

    policy: str
    cost: CostModel | None
    targets: Targets


def read_settings(environment: Mapping[str, str]) -> Settings:
    """From environment variables.

    Raises:
        ValueError: naming the variable that is wrong.
    """
    policy = environment.get(POLICY) or DEFAULT_POLICY
    if policy not in POLICIES:
        raise ValueError(f"{POLICY}: unknown policy {policy!r}; known: {', '.join(POLICIES)}")
    text = environment.get(COST, "").strip()
    cost = _read_cost(text) if text else None
    return Settings(policy, cost, _read_targets(environment.get(TARGETS, "").strip()))


def _read_targets(text: str) -> Targets:
    """As a gateway's settings have them; what says nothing has a person waiting."""
    try:
        return read_targets(text) if text else DEFAULT_TARGETS[Priority.DEFAULT]
    except ValueError as error:
        raise ValueError(f"{TARGETS}: {error}") from error


def _read_cost(text: str) -> CostModel:
    """By a profile's name or file, or its terms as JSON."""
    try:
        return hardware(text).cost
    except ValueError as error:
        raise ValueError(f"{COST}: {error}") from error


def check_version(installed: str) -> None:
    """Refuse a vLLM whose scheduler may differ from those that are known.

    Raises:
        RuntimeError: naming the installed version, the known ones, and what to do.
    """
    minor = ".".join(installed.split(".")[:2])
    if minor not in KNOWN:
        known = ", ".join(f"{version}.*" for version in KNOWN)
        raise RuntimeError(
            f"Makespan's scheduler knows vLLM {known}, and {installed} is installed. Install a "
            "version that it knows, or start vLLM without --scheduler-cls and run the agent "
            "beside it."
        )
