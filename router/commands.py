"""All commands: their settings say what they are called, and what they take."""

from __future__ import annotations

from router.lab.calibrate_settings import CalibrateSettings
from router.lab.settings import BenchSettings, PlanSettings, ReplaySettings, SimulateSettings
from router.settings import AgentSettings, GatewaySettings, Settings, UpSettings

COMMANDS: tuple[type[Settings], ...] = (
    UpSettings,
    GatewaySettings,
    AgentSettings,
    SimulateSettings,
    ReplaySettings,
    PlanSettings,
    CalibrateSettings,
    BenchSettings,
)
