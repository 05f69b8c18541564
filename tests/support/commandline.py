"""Runs the command against an emulator as a process; checks that its output has no secret."""

import asyncio
import hashlib
import json
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import forkserver
from waiting import supervised

from adepoll.emulator import JobPlan

KEY = "canary-key-8f2e1"
SOON = JobPlan(processing_time=0.05)
NEVER = JobPlan(processing_time=float("inf"))


@asynccontextmanager
async def started(ade, *arguments, key=KEY, variables=(), wrapper=(), real=False, **options):
    """Start the command against the emulator; kill it at the end if it is still running.

    It is forked from a process that has imported adepoll, unless the start must be `real`.
    """
    env = {name: value for name, value in os.environ.items() if "ADE" not in name}
    env |= {"LANDINGAI_ADE_BASE_URL": ade.base_url, "VISION_AGENT_API_KEY": key, **dict(variables)}
    start = asyncio.create_subprocess_exec if real else forkserver.create_subprocess_exec
    process = await start(
        *(*wrapper, sys.executable, "-W", "error", "-m", "adepoll", *map(str, arguments)),
        env=env,
        **{"stdin": -1, "stdout": -1, "stderr": -1} | options,
    )
    async with supervised(process):
        yield process


async def adepoll(ade, *arguments, stdin=None, **options):
    """Run the command; return exit code, stdout and stderr, which must not contain a secret."""
    async with started(ade, *arguments, **options) as process:
        out, err = await process.communicate(stdin)
    out, err = out.decode(), err.decode()
    for secret in (KEY, "X-Amz-Signature", "X-Amz-Credential"):
        assert secret not in out
        assert secret not in err
    assert "Traceback" not in err
    return process.returncode, out, err


async def adepoll_into(stdout, ade, *arguments):
    async with started(ade, *arguments, stdout=stdout) as process:
        _, err = await process.communicate()
    assert "Traceback" not in err.decode()
    return process.returncode, None, err.decode()


def ids_of(out):
    return [json.loads(line)["job_id"] for line in out.splitlines()]


def sha256_of(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
