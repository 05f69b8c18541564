"""An ADE service of one's own, for tests and rehearsals: documented behaviour on loopback ports."""

from adepoll.emulator.app import make_api_app, make_results_app
from adepoll.emulator.jobs import JobPlan, Outcome, Profile
from adepoll.emulator.results import ResultBody
from adepoll.emulator.service import Emulator
from adepoll.emulator.source import EPOCH, WorldSource, loop_clock
from adepoll.emulator.virtualtime import VirtualTimeLoop, run
from adepoll.emulator.world import INLINE_LIMIT, Traffic, Truth, World

__all__ = [
    "EPOCH",
    "INLINE_LIMIT",
    "Emulator",
    "JobPlan",
    "Outcome",
    "Profile",
    "ResultBody",
    "Traffic",
    "Truth",
    "VirtualTimeLoop",
    "World",
    "WorldSource",
    "loop_clock",
    "make_api_app",
    "make_results_app",
    "run",
]
