"""Imports of a fresh interpreter: lazy public names, and lazy subcommands."""

import ast
import builtins
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import adepoll
from adepoll.__main__ import main
from adepoll.api.config import REGIONS
from adepoll.api.models import JobStatus
from adepoll.cli import cli, emulate_options, options
from adepoll.emulator import FAULT_NAMES, KINDS
from adepoll.tables import Format
from adepoll.watching.listing import Discovery

SLOW = {"aiohttp", "asyncio", "attrs", "backoff", "cattrs", "jinja2", "rich", "sqlite3", "ssl"}


def output_of(code, **options):
    """Return the output of the code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        **options,
    ).stdout


def modules_after(code):
    """Return the modules that a fresh interpreter has imported after the code."""
    listing = "import atexit, sys; atexit.register(lambda: print('\\n', *sys.modules))\n"
    return set(output_of(listing + code).rpartition("\n ")[2].split())


def modules_after_command(*arguments, **environment):
    code = f"import os, sys; sys.argv = {['adepoll', *arguments]}; os.environ |= {environment}\n"
    code += "from adepoll.__main__ import main\n"
    return modules_after(f"{code}try: main()\nexcept SystemExit: pass")


# --- the package ---------------------------------------------------------------------------------


def test_importing_the_package_imports_no_slow_module():
    modules = modules_after("import adepoll")
    assert "adepoll.errors" in modules
    assert modules & SLOW == set()


@pytest.mark.parametrize(
    ("names", "imported", "others"),
    [
        ("JobStatus, Fixed", {"adepoll.api.models", "adepoll.scheduling.schedules"}, {"asyncio"}),
        ("RecordedError", {"adepoll.journal.outcomes"}, set()),
    ],
)
def test_a_name_imports_only_its_package(names, imported, others):
    modules = modules_after(f"from adepoll import {names}")
    assert imported <= modules
    others |= {"aiohttp", "adepoll.api.client", "adepoll.watching.watcher"}
    assert modules & others == set()


def type_checkers_imports():
    """Return the public names and their modules as type checkers see them."""
    tree = ast.parse(Path(adepoll.__file__).read_text("utf-8"))
    [block] = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "typing.TYPE_CHECKING"
    ]
    assert all(isinstance(node, ast.ImportFrom) for node in block.body)
    return {name.name: node.module for node in block.body for name in node.names}


def test_lazy_names_are_those_that_type_checkers_see():
    at_run_time = {name: f"adepoll.{module}" for name, module in adepoll._MODULE_OF.items()}
    assert at_run_time == type_checkers_imports()


def test_every_public_name_is_either_lazy_or_imported():
    listing = "import adepoll; print(*vars(adepoll))"
    imported = set(output_of(listing).split())
    lazy = set(adepoll._MODULE_OF)
    assert lazy & imported == set()
    assert lazy <= set(adepoll.__all__) <= lazy | imported


def test_a_lazy_name_is_the_object_of_its_module():
    for name, module in type_checkers_imports().items():
        assert getattr(adepoll, name) is getattr(sys.modules[module], name)


def test_a_star_import_and_dir_contain_all_names():
    assert output_of("from adepoll import *; print(AdeClient.__name__)") == "AdeClient\n"
    names = output_of("import adepoll; print(*dir(adepoll))").split()
    assert {*adepoll.__all__, "fetcher", "__doc__"} <= set(names)
    assert len(names) == len(set(names))


def test_a_submodule_is_an_attribute():
    assert output_of("import adepoll; print(adepoll.journal.__name__)") == "adepoll.journal\n"


@pytest.mark.parametrize("name", ["nothing", "__wrapped__", "AdeClint"])
def test_an_unknown_attribute_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"module 'adepoll' has no attribute '{name}'") as info:
        getattr(adepoll, name)
    assert (info.value.name, info.value.obj) == (name, adepoll)


def test_an_unknown_name_is_an_import_error():
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from adepoll import nothing")


def test_a_submodule_with_a_missing_dependency_names_it():
    code = "import sys; sys.modules['aiohttp'] = None; import adepoll\n"
    for use in ("adepoll.fetcher", "adepoll.AdeClient"):
        attempt = f"try: {use}\nexcept ModuleNotFoundError as error: print(error.name)"
        assert output_of(code + attempt) == "aiohttp\n"


THREADS = """
import sys, threading
import adepoll
from adepoll.__main__ import main

sys.setswitchinterval(1e-6)
found = []
names = [name for name in adepoll.__all__ if name in adepoll._MODULE_OF]
barrier = threading.Barrier(8)

def use(shift):
    barrier.wait()
    found.append({name: id(getattr(adepoll, name)) for name in names[shift:] + names[:shift]})

threads = [threading.Thread(target=use, args=(5 * number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(found), all(names == found[0] for names in found))
"""


def test_threads_can_use_names_at_the_same_time():
    assert output_of(THREADS) == "8 True\n"


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], [], ["wacht"], ["--nothing"]],
    ids=["version", "help", "no-arguments", "unknown-subcommand", "unknown-option"],
)
def test_the_command_starts_without_slow_modules(arguments):
    modules = modules_after_command(*arguments)
    assert "adepoll.cli" in modules
    assert modules & SLOW == set()


def test_help_and_completion_of_all_subcommands_import_no_slow_module():
    """All in one process, because each start of Python takes a tenth of a second."""
    words = [
        "adepoll wa",
        "adepoll get --region e",
        "adepoll list --status co",
        "adepoll watch --discovery ",
        "adepoll emulate --fault rate",
        "adepoll emulate --profile a.toml --fault redirect --fault rate",
        *(f"adepoll {name} --" for name in cli.commands),
    ]
    completions = [
        {"_ADEPOLL_COMPLETE": "zsh_complete", "COMP_WORDS": text, "COMP_CWORD": text.count(" ")}
        for text in words
    ]
    code = (
        "import os, sys\nfrom adepoll.__main__ import main\n"
        "def run():\n    try: main()\n    except SystemExit: pass\n"
        f"for name in {sorted(cli.commands)}: sys.argv = ['adepoll', name, '--help']; run()\n"
        "sys.argv = ['adepoll']\n"
        f"for env in {completions}:\n"
        "    os.environ |= {name: str(value) for name, value in env.items()}\n"
        "    run()\n"
    )
    modules = modules_after(code)
    assert "adepoll.cli.commands" in modules
    assert modules & {*SLOW, "adepoll.emulator"} == set()


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["completion", "bash"], "cattrs rich sqlite3"),
        (["fetch", "a/b"], "sqlite3"),
        (["get"], "rich sqlite3"),
        (["status", "journal.db"], ""),
    ],
)
def test_a_subcommand_does_not_import_what_others_need(arguments, others):
    modules = modules_after_command(*arguments)
    assert modules & {"adepoll.batch", "adepoll.emulator", "jinja2", *others.split()} == set()


def test_the_emulator_does_not_import_what_others_need():
    modules = modules_after("import adepoll.cli.emulate")
    assert "adepoll.emulator" in modules
    assert modules & {"rich", "jinja2", "sqlite3"} == set()


def test_the_options_offer_the_values_that_the_library_has():
    assert tuple(sorted(REGIONS)) == options.REGION_NAMES
    assert get_args(Discovery) == get_args(options.Discovery)
    assert get_args(Format) == get_args(options.TableFormat)
    assert emulate_options.FAULT_CHOICES == FAULT_NAMES
    assert tuple(KINDS) == options.KIND_CHOICES
    [status] = [param for param in cli.commands["list"].params if param.name == "status"]
    assert list(status.type.choices) == [s.value for s in JobStatus if s is not JobStatus.UNKNOWN]


def test_a_subcommand_without_the_cli_extra_says_how_to_install_it():
    code = (
        "import sys; sys.modules['jinja2'] = None; sys.argv = ['adepoll', 'report', 'a']\n"
        "from adepoll.__main__ import main\n"
        "sys.stderr = sys.stdout\n"
        "try: main()\n"
        "except SystemExit as error: print(error.code)"
    )
    message = 'adepoll: the command needs jinja2; install the extra "cli" of adepoll: pip install'
    output = output_of(code)
    assert output.startswith(message)
    assert output.endswith("\n2\n")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 74, "adepoll: out of memory\n"),
        (KeyboardInterrupt(), 130, ""),
        (ModuleNotFoundError(name="rich"), 2, "adepoll: the command needs rich; "),
    ],
)
def test_an_error_while_the_command_is_imported_ends_it(monkeypatch, capsys, error, code, message):
    real = builtins.__import__

    def import_module(name, scope=None, variables=None, names=(), level=0):
        if (name, names) == ("adepoll", ("cli",)):
            raise error
        return real(name, scope, variables, names, level)

    monkeypatch.setattr(builtins, "__import__", import_module)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(message)


def test_another_module_that_is_missing_is_a_bug(monkeypatch, capsys):
    real = builtins.__import__

    def import_module(name, scope=None, variables=None, names=(), level=0):
        if (name, names) == ("adepoll", ("cli",)):
            raise ModuleNotFoundError(name="other")
        return real(name, scope, variables, names, level)

    monkeypatch.setattr(builtins, "__import__", import_module)
    with pytest.raises(ModuleNotFoundError):
        main()
    assert capsys.readouterr().err == ""
