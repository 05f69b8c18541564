"""A separate PostgreSQL server for a test or a benchmark, on a Unix socket."""

import asyncio
import os
import shutil
import signal
import stat
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import asyncpg
import attrs
from waiting import bounded

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
USER = "nobody"  # PostgreSQL does not run as root
IS_ROOT = os.getuid() == 0


def closed_folder():
    """Return a folder of temporary files that `USER` cannot enter; None if there is none."""
    temporary = Path(gettempdir()).resolve()
    folders = [temporary, *temporary.parents] if IS_ROOT else []
    return next((path for path in folders if not path.stat().st_mode & stat.S_IXOTH), None)


@attrs.define
class PostgreSQL:
    """A server.

    Attributes:
        folder: The folder with its data and its socket.
    """

    folder: Path
    _process: asyncio.subprocess.Process | None = attrs.field(init=False, default=None)

    @property
    def url(self):
        """URL of the server for asyncpg."""
        return f"postgresql://postgres@/postgres?host={self.folder}"

    @property
    def engine_url(self):
        """URL of the server for SQLAlchemy."""
        return self.url.replace("postgresql:", "postgresql+asyncpg:")

    async def start(self):
        """Start the server; return when it accepts connections."""
        options = ("-D", self.folder / "data", "-k", self.folder, "-h", "", "-F")
        self._process = await self._run("postgres", *options)
        async with bounded("for PostgreSQL to start"):
            while not await self._accepts():
                assert self._process.returncode is None
                await asyncio.sleep(0.05)

    async def crash(self):
        """Stop the server without cleanup: connections break, and committed rows remain."""
        self._process.send_signal(signal.SIGQUIT)
        await self._process.wait()

    async def create(self):
        """Create the data."""
        options = ("-D", self.folder / "data", "-A", "trust", "-U", "postgres", "--no-sync")
        assert await (await self._run("initdb", *options)).wait() == 0

    async def _accepts(self):
        try:
            await (await asyncpg.connect(self.url)).close()
        except (OSError, asyncpg.CannotConnectNowError):
            return False
        return True

    async def _run(self, program, *arguments):
        return await asyncio.create_subprocess_exec(
            BIN / program,
            *arguments,
            cwd=self.folder,
            user=USER if IS_ROOT else None,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )


@asynccontextmanager
async def running_postgresql():
    """Run a new server while the block runs."""
    # Folders of pytest cannot be used, because only the user of the tests can read them.
    with TemporaryDirectory(prefix="adepoll-postgresql-") as name:
        if IS_ROOT:
            shutil.chown(name, USER)
        server = PostgreSQL(Path(name))
        await server.create()
        await server.start()
        try:
            yield server
        finally:
            await server.crash()
