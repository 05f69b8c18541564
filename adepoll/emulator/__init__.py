"""An ADE service of one's own, for tests and rehearsals: documented behaviour on loopback ports."""

from adepoll.emulator.app import make_api_app, make_results_app
from adepoll.emulator.catalogue import NAMES, make_effect
from adepoll.emulator.effects import (
    Break,
    Corruption,
    Distortion,
    Effect,
    Endpoint,
    Latency,
    Overlong,
    RateLimit,
    Redirect,
    Refusal,
    Refuse,
    RetryAfter,
    Shape,
    Throttle,
    Trick,
    WrongLength,
)
from adepoll.emulator.faults import Fault, Faults, When, make_fault
from adepoll.emulator.jobs import JobPlan, Outcome, Profile
from adepoll.emulator.ledger import EarlyRequest, Leak, Traffic, Truth
from adepoll.emulator.listing import ListOrder
from adepoll.emulator.results import ResultBody
from adepoll.emulator.service import Emulator
from adepoll.emulator.settings import Settings, SettingsError, read_settings
from adepoll.emulator.source import EPOCH, WorldSource, loop_clock
from adepoll.emulator.truth import TruthTeller
from adepoll.emulator.virtualtime import VirtualTimeLoop, run
from adepoll.emulator.world import INLINE_LIMIT, World

__all__ = [
    "EPOCH",
    "INLINE_LIMIT",
    "NAMES",
    "Break",
    "Corruption",
    "Distortion",
    "EarlyRequest",
    "Effect",
    "Emulator",
    "Endpoint",
    "Fault",
    "Faults",
    "JobPlan",
    "Latency",
    "Leak",
    "ListOrder",
    "Outcome",
    "Overlong",
    "Profile",
    "RateLimit",
    "Redirect",
    "Refusal",
    "Refuse",
    "ResultBody",
    "RetryAfter",
    "Settings",
    "SettingsError",
    "Shape",
    "Throttle",
    "Traffic",
    "Trick",
    "Truth",
    "TruthTeller",
    "VirtualTimeLoop",
    "When",
    "World",
    "WorldSource",
    "WrongLength",
    "loop_clock",
    "make_api_app",
    "make_effect",
    "make_fault",
    "make_results_app",
    "read_settings",
    "run",
]
