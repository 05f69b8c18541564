"""Measures the CPU time of decoding usual answers and hostile bodies.

The decoders of usual answers are compared with `json.loads`. No decoder can be faster, because each
must parse the same text. The two take turns, so that a busy machine slows both equally.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import process_time

from adepoll.api.kinds import v1_extract
from adepoll.errors import MalformedAnswerError

METADATA = {
    "filename": "a.pdf",
    "org_id": None,
    "duration_ms": 1200,
    "credit_usage": 3,
    "job_id": "j-1",
    "version": "extract-20260701",
    "warnings": [{"code": "nonconformant_schema", "msg": "no field 'total'"}],
}
PENDING = {"job_id": "j-1", "status": "pending", "received_at": 1_780_000_000, "progress": 0.0}
RESULT = {"extraction": {"total": 12.5, "text": "x" * 200}, "extraction_metadata": {}}
COMPLETED = {
    **PENDING,
    "status": "completed",
    "data": {**RESULT, "metadata": METADATA},
    "metadata": METADATA,
}
USUAL = {
    "an active job": (v1_extract.decode_job, json.dumps(PENDING)),
    "a completed job": (v1_extract.decode_job, json.dumps(COMPLETED)),
    "a page of 100 jobs": (v1_extract.decode_page, json.dumps({"jobs": [PENDING] * 100})),
}
DATA = '{"job_id":"j","status":"completed","data":{"extraction":1,"metadata":{"warnings":['
HOSTILE = {
    "list of {}": (v1_extract.decode_page, '{"jobs":[', "{}", "]}"),
    "list of 0": (v1_extract.decode_page, '{"jobs":[', "0", "]}"),
    "malformed warnings": (v1_extract.decode_job, DATA, '{"text":7,"code":7}', "]}}}"),
    "valid warnings": (v1_extract.decode_job, DATA, '{"msg":"m","code":"c"}', "]}}}"),
    "an unknown array of []": (v1_extract.decode_job, f'{DATA}]}}}}}},"new":[', "[]", "]}"),
}


def best_of(rounds: int, calls: list[Callable[[], object]], times: int) -> list[float]:
    """Return the least CPU seconds of each call; the calls take turns."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for index, call in enumerate(calls):
            start = process_time()
            for _ in range(times):
                with suppress(MalformedAnswerError):
                    call()
            best[index] = min(best[index], (process_time() - start) / times)
    return best


def main() -> None:
    """Measure all bodies, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"{'':22} bytes    us    / json.loads")
    for name, (decode, text) in USUAL.items():
        body = text.encode()
        ours, peer = best_of(rounds, [partial(decode, body), partial(json.loads, body)], 500)
        print(f"{name:22} {len(body):5}  {1e6 * ours:6.1f}  {ours / peer:5.2f}", flush=True)
    print(f"\n{'':22}   MB     ms    ms/MB")
    for name, (decode, head, item, tail) in HOSTILE.items():
        for megabytes in (0.5, 2, 8):
            count = int(megabytes * 2**20) // (len(item) + 1)
            body = (head + ",".join([item] * count) + tail).encode()
            [seconds] = best_of(3, [partial(decode, body)], 1)
            figures = f"{megabytes:4} {1e3 * seconds:7.1f} {1e3 * seconds / megabytes:7.1f}"
            print(f"{name:22} {figures}", flush=True)


if __name__ == "__main__":
    main()
