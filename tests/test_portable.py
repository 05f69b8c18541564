"""adepoll works without what Windows does not have; `nox -s portable` runs more tests so."""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "support" / "portable_program.py"
EXPECTED = """\
completed
3 watched
resumed: True
['large.json'] True
busy: True
2 outcomes
4 files; ['batch.db', 'large.json', 'results']
"""


def test_watch_wait_fetch_and_batch_work_without_the_names(tmp_path):
    command = [sys.executable, "-W", "error", str(PROGRAM), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout, run.stderr, run.returncode) == (EXPECTED, "", 0)
