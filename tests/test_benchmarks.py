"""Each benchmark can be started; its figures are not tested."""

import importlib
import sys
from pathlib import Path

import forkserver
import pytest

from adepoll.scheduling.durations import Durations

FOLDER = Path(__file__).parent / "benchmarks"
BENCHES = sorted(FOLDER.glob("[!_]*.py"))


@pytest.mark.parametrize("bench", BENCHES, ids=lambda path: path.stem)
def test_a_benchmark_prints_its_help(bench):
    command = [sys.executable, "-W", "error", str(bench), "--help"]
    said = forkserver.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "--help" in said.stdout


def test_documented_benchmarks_exist():
    names = {path.stem for path in BENCHES}
    assert names >= {
        "batch",
        "decode",
        "emulator",
        "fetch",
        "memory",
        "schedule",
        "servers",
        "startup",
        "steps",
        "sweep",
        "throughput",
    }


@pytest.mark.parametrize("discovery", ["get", "list"])
def test_a_batch_is_played_to_its_end(monkeypatch, discovery):
    monkeypatch.syspath_prepend(FOLDER)
    workloads = importlib.import_module("_workloads")
    subscribe = workloads.watched(Durations(), discovery=discovery)
    outcome = workloads.play(workloads.Batch(workload="A", jobs=30, spread=20.0), subscribe)
    assert outcome.requests >= 30
    assert outcome.lag > 0
