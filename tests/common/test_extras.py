"""The advice on how to install an extra."""

import ast
import re
from pathlib import Path

import adepoll
from adepoll.common.extras import how_to_install

_PACKAGE = Path(adepoll.__file__).parent
_FROM_AN_INDEX = re.compile(r"pip install\s+[\"']*adepoll")


def test_the_advice_is_a_command_for_the_folder_of_the_repository():
    advice = 'install the extra "cli" of adepoll: pip install ".[cli]" in its repository'
    assert how_to_install("cli") == advice


def test_no_text_of_adepoll_installs_it_from_a_package_index():
    """Nobody has registered the name yet, so anybody could publish a program under it."""
    for path in _PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not _FROM_AN_INDEX.search(node.value), path
