"""adepoll works without what Windows does not have; `nox -s portable` runs more tests so."""

import ast
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "support" / "portable_program.py"
LIBRARY = Path(__file__).parents[1] / "adepoll"
POSIX_ONLY = {
    *("chown", "fchmod", "fchown", "fdatasync", "fork", "geteuid", "getuid", "killpg", "mkfifo"),
    *("getxattr", "removexattr", "setxattr"),
    *("pread", "preadv", "pwrite", "pwritev", "register_at_fork", "statvfs", "sysconf"),
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK"),
    *("SIGHUP", "SIGKILL", "SIGPIPE", "PIPE_BUF", "add_signal_handler"),
}
# These two ask whether a name exists, or are called where it does.
ALLOWED = {
    "file_system.py": POSIX_ONLY,
    "target_file.py": {"fchmod", "fchown", "getxattr", "removexattr", "setxattr"},
}
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


def test_only_one_module_uses_names_that_windows_does_not_have():
    used = {}
    for path in LIBRARY.rglob("*.py"):
        names = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Attribute) and node.attr in POSIX_ONLY
        }
        if names := names - ALLOWED.get(path.name, set()):
            used[path.name] = names
    assert used == {}
