"""An ADE service for tests: it implements the documented behaviour on loopback ports."""

from adepoll.emulator.app import make_api_app, make_results_app
from adepoll.emulator.effects import (
    FAULT_NAMES,
    ConnectionFailure,
    Corruption,
    Effect,
    Latency,
    LatencyShape,
    ListDistortion,
    OverlongBody,
    Redirect,
    SlowBody,
    StorageEffect,
    WrongLength,
    make_effect,
)
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.faults import Fault, Faults, When, make_fault
from adepoll.emulator.ground_truth import GroundTruth
from adepoll.emulator.job_list import ListOrder
from adepoll.emulator.jobs import JobPlan, JobTruth, Outcome
from adepoll.emulator.kinds import KINDS
from adepoll.emulator.kinds.v1 import INLINE_LIMIT
from adepoll.emulator.odd_values import OddValue
from adepoll.emulator.profiles import Profile
from adepoll.emulator.refusals import RateLimit, Refusal, RefusalKind, RetryAfter
from adepoll.emulator.request_log import EarlyRequest, Leak, Traffic
from adepoll.emulator.results import ResultBody
from adepoll.emulator.service import Emulator
from adepoll.emulator.settings import Settings, SettingsError, read_settings
from adepoll.emulator.virtual_time import VirtualTimeLoop, run
from adepoll.emulator.world import World
from adepoll.emulator.world_source import EPOCH, WorldSource, loop_clock

__all__ = [
    "EPOCH",
    "FAULT_NAMES",
    "INLINE_LIMIT",
    "KINDS",
    "ConnectionFailure",
    "Corruption",
    "EarlyRequest",
    "Effect",
    "Emulator",
    "Endpoint",
    "Fault",
    "Faults",
    "GroundTruth",
    "JobPlan",
    "JobTruth",
    "Latency",
    "LatencyShape",
    "Leak",
    "ListDistortion",
    "ListOrder",
    "OddValue",
    "Outcome",
    "OverlongBody",
    "Profile",
    "RateLimit",
    "Redirect",
    "Refusal",
    "RefusalKind",
    "ResultBody",
    "RetryAfter",
    "Settings",
    "SettingsError",
    "SlowBody",
    "StorageEffect",
    "Traffic",
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
