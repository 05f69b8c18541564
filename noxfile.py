"""What is run on this project: tests, lint, typing, benches. Start with ``nox -s tests``."""

from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = False  # those that a machine has are run
nox.options.sessions = ["tests", "lint", "typing"]

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)


def groups(*names: str) -> list[str]:
    """Give the requirements of dependency groups."""
    return nox.project.dependency_groups(PROJECT, *names)


# The suite takes all cores there are.
PARALLEL = ["--numprocesses=auto", "--dist=worksteal"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests; what follows ``--`` goes to pytest."""
    session.install(".[cli,json,speed]", *groups("tests"))
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests, and tell what they do not reach; takes twice as long."""
    session.install(".[cli,json,speed]", *groups("tests"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *PARALLEL)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", "--skip-covered", "--fail-under=95")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, and the direction of imports."""
    session.install(*groups("lint"), "-e", ".[cli]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def bench(session: nox.Session) -> None:
    """Print a table of speeds beside their peers: ``nox -s bench -- NAME``."""
    benches = {path.stem: path for path in Path("tests/benchmarks").glob("[!_]*.py")}
    if not session.posargs or session.posargs[0] not in benches:
        session.error(f"which one? There are: {', '.join(sorted(benches))}")
    name, *arguments = session.posargs
    session.install(".[cli,json,speed]", *groups("tests"))
    session.run("python", str(benches[name]), *arguments)


@nox.session
def typing(session: nox.Session) -> None:
    """Check types: mypy on the library, both checkers on the public face and the examples."""
    session.install(*groups("typing"), ".[cli,fastapi,otel,prometheus,pytest,speed]")
    session.run("mypy")
    session.run("mypy", "--strict", "tests/typing/api.py")
    session.run("mypy", "--strict", *(str(path) for path in Path("docs/examples").glob("*.py")))
    session.run("pyright")
