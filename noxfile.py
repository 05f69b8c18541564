"""Tests, lint, typing and benchmarks of this project. Start with ``nox -s tests``."""

import argparse
import os
import random
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"  # uv installs ten times as fast
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # `tests-all` uses the installed Pythons
nox.options.sessions = ["tests", "lint", "typing"]

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)


def groups(*names: str) -> list[str]:
    """Return the requirements of dependency groups."""
    return nox.project.dependency_groups(PROJECT, *names)


CORES = os.cpu_count() or 1
# More pytest processes than cores, because many tests wait for servers, browsers and processes.
# Each further process collects all tests: 9 s of CPU, and 14 s in a new checkout.
PARALLEL = [f"--numprocesses={2 * CORES + 1}", "--dist=worksteal"]


def install(session: nox.Session) -> None:
    """Install the project and what its tests need."""
    # The tests start many processes. Without bytecode files, each of them would compile all
    # modules.
    session.env["PYTHONDONTWRITEBYTECODE"] = None
    session.install(".[cli,json,speed]", *groups("tests"))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the current Python; what follows ``--`` goes to pytest."""
    install(session)
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session(name="tests-all", python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """Run the tests on each supported Python that is installed, and some in development mode.

    The development mode finds tasks and coroutines that nobody awaits, and calls in wrong threads.
    It makes asyncio several times slower.
    """
    install(session)
    session.run("pytest", *PARALLEL, *session.posargs)
    if not session.posargs:
        session.env["PYTHONDEVMODE"] = "1"
        areas = ("api", "batch", "throttling", "watching/test_eager_tasks.py")
        session.run("pytest", *PARALLEL, *(f"tests/{area}" for area in areas))


@nox.session
def thorough(session: nox.Session) -> None:
    """Run what `tests` leaves out: more seeds, kills, jobs and Hypothesis examples."""
    install(session)
    which = ["-m", "thorough or hypothesis", "--hypothesis-profile=thorough"]
    limit = "--timeout=900"  # seconds; some of these tests take 30 s of CPU on an idle machine
    fewer = f"--numprocesses={CORES + 2}"  # these tests need more CPU, and wait less
    session.run("pytest", *PARALLEL, fewer, *which, limit, *session.posargs)


@nox.session
def portable(session: nox.Session) -> None:
    """Run tests without the names that Windows does not have; see tests/support/portable.py."""
    install(session)
    session.env["PYTHONPATH"] = "tests/support"  # the plugin is loaded before pytest reads its file
    areas = ("api", "batch", "fetcher", "journal", "report", "throttling", "watching")
    paths = [f"tests/{area}" for area in areas]
    session.run("pytest", "-p", "portable", *PARALLEL, *paths, *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Try many inputs of the decoders of foreign data: ``-- --examples 1000000 -k answer``.

    ``--seed`` repeats a run; without it, a seed is drawn and printed.
    """
    parser = argparse.ArgumentParser(prog="nox -s fuzz --")
    parser.add_argument("--examples", type=int, default=20_000, help="for each decoder")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))  # noqa: S311 - draws inputs, not a secret
    options, others = parser.parse_known_args(session.posargs)
    install(session)
    session.log(f"drawing inputs with --seed {options.seed}")
    drawing = [f"--fuzz-examples={options.examples}", f"--fuzz-seed={options.seed}"]
    session.run("pytest", *PARALLEL, "--timeout=0", "tests/fuzz", *drawing, *others)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests, and print which lines no test runs. Takes twice as long as `tests`."""
    install(session)
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
def dist(session: nox.Session) -> None:
    """Build sdist and wheel, check both, and run tests of the sdist in an empty folder."""
    session.install(*groups("dist", "tests"))
    out = Path(session.create_tmp(), "dist").resolve()
    session.run("python", "-m", "build", "--outdir", str(out))
    session.run("twine", "check", "--strict", *map(str, out.iterdir()))
    (sdist,) = out.glob("*.tar.gz")
    session.run("python", "-m", "tarfile", "-e", str(sdist), str(out))
    session.install(f"{sdist}[cli,json,speed]")
    session.chdir(out / sdist.name.removesuffix(".tar.gz"))
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site into docs/_build; broken links are errors. Then check it."""
    session.install(*groups("docs", "tests"), "-e", ".[cli,fastapi,json,otel,prometheus,pytest]")
    site = Path("docs/_build/html")
    session.run("sphinx-build", "-E", "-W", "--keep-going", "-b", "html", "docs", str(site))
    session.env["ADEPOLL_SITE"] = str(site.resolve())
    # This includes the notebooks, which `tests` leaves out because a kernel starts slowly.
    session.run("pytest", "tests/docs", "-m", "thorough or not thorough", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run a benchmark, and print its table: ``nox -s bench -- NAME``."""
    benches = {path.stem: path for path in Path("tests/benchmarks").glob("[!_]*.py")}
    if not session.posargs or session.posargs[0] not in benches:
        session.error(f"name one of these benchmarks: {', '.join(sorted(benches))}")
    name, *arguments = session.posargs
    install(session)
    session.run("python", str(benches[name]), *arguments)


@nox.session
def typing(session: nox.Session) -> None:
    """Check types: mypy checks the library; mypy and pyright check public API and examples."""
    session.install(*groups("typing"), ".[cli,fastapi,otel,prometheus,pytest,speed]")
    session.run("mypy")
    for folder in ("tests/typing", "docs/examples"):
        session.run("mypy", "--strict", *(str(path) for path in Path(folder).glob("*.py")))
    session.run("pyright")


@nox.session
def mutation(session: nox.Session) -> None:
    """Change modules without I/O, one place at a time, and show each change that no test notices.

    A changed module is called a mutant. ``nox -s mutation -- job_ids estimators --sample 50`` tests
    50 random mutants of two modules. Without names, all modules of ``[tool.mutmut]`` are changed.
    Without ``--sample``, all mutants are tested. tests/equivalent_mutants.md lists mutants that do
    the same as the original. mutmut changes neither properties nor module-level code, and its
    changes of code that runs during imports, such as `api/json_reader.py`, have no effect.
    """
    parser = argparse.ArgumentParser(prog="nox -s mutation --")
    parser.add_argument("modules", nargs="*", help="such as: job_ids estimators")
    parser.add_argument("--sample", type=int, help="number of mutants; default: all")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))  # noqa: S311 - draws a sample, not a secret
    options = parser.parse_args(session.posargs)
    session.install("-e", ".[cli,json,speed]", *groups("tests", "mutation"))
    # No mutant has the name "none". mutmut creates all mutants, finds out which tests run the code
    # of each mutant, and then fails.
    session.run("mutmut", "run", "none", success_codes=[1], silent=True)
    names = [name for name, _ in _mutants(session)]
    if options.modules:
        wanted = set(options.modules)
        names = [name for name in names if name.split(".x", 1)[0].rpartition(".")[2] in wanted]
    if not names:
        session.error("no mutants; are the modules listed in [tool.mutmut] of pyproject.toml?")
    if options.sample is not None and options.sample < len(names):
        session.log(f"drawing {options.sample} of {len(names)} mutants with --seed {options.seed}")
        draw = random.Random(options.seed)  # noqa: S311 - draws a sample, not a secret
        names = draw.sample(names, options.sample)
    session.run("mutmut", "run", *names)
    fates = dict(_mutants(session))
    survivors = [name for name in names if fates[name] != "killed"]
    for name in survivors:
        session.log(f"{name}: {fates[name]}")
        session.run("mutmut", "show", name)
    session.log(f"{len(names) - len(survivors)} of {len(names)} mutants were killed")


def _mutants(session: nox.Session) -> list[tuple[str, str]]:
    """Return the name and the state of each mutant, such as "killed"."""
    results = session.run("mutmut", "results", "--all", "true", silent=True)
    lines = [line.strip().rpartition(": ") for line in str(results).splitlines()]
    return [(name, fate) for name, _, fate in lines if "__mutmut_" in name]
