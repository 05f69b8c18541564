"""Shell completion: the scripts, and the values that the command completes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import forkserver
import pytest
from searchpath import search_path


def adepoll(*arguments, **env):
    return forkserver.run(
        [sys.executable, "-W", "error", "-m", "adepoll", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def completed(words):
    """Return kind and value of each completion for the zsh script, which gets them line by line."""
    answer = adepoll(
        _ADEPOLL_COMPLETE="zsh_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    ).splitlines()
    return list(zip(answer[::3], answer[1::3], strict=True))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_calls_the_command(shell):
    script = adepoll("completion", shell)
    assert f"_ADEPOLL_COMPLETE={shell}_complete" in script
    assert "adepoll" in script


def test_help_says_how_to_install_the_scripts():
    help_text = adepoll("completion", "--help")
    assert """echo 'eval "$(adepoll completion bash)"' >> ~/.bashrc""" in help_text
    assert "~/.zshrc" in help_text
    assert "~/.config/fish/completions/adepoll.fish" in help_text


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("adepoll wa", ["watch"]),
        ("adepoll watch --dis", ["--discovery"]),
        ("adepoll watch --discovery ", ["auto", "get", "list"]),
        ("adepoll get --region ", ["eu", "us"]),
        ("adepoll list --status fa", ["failed"]),
        ("adepoll completion z", ["zsh"]),
        ("adepoll emulate --fault rate", ["rate-limit"]),
    ],
)
def test_commands_options_and_their_values_are_completed(words, values):
    assert sorted(completed(words)) == [("plain", value) for value in values]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("adepoll watch -f re", "file"),
        ("adepoll watch --out re", "dir"),
        ("adepoll fetch a -o re", "file"),
        ("adepoll emulate --profile re", "file"),
    ],
)
def test_the_shell_completes_files_and_folders(words, kind):
    assert completed(words) == [(kind, "re")]


def test_the_script_for_fish_does_not_cut_descriptions_at_commas():
    script = adepoll("completion", "fish")
    assert 'string split -m 1 ","' in script
    assert 'string split ","' not in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_bash_completes_with_the_script(tmp_path):
    (tmp_path / "completion").write_text(adepoll("completion", "bash"))
    script = (
        "source ./completion && complete -p adepoll; "
        "COMP_WORDS=(adepoll watch --discovery l); COMP_CWORD=3; "
        '_adepoll_completion adepoll; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": search_path(tmp_path),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    registered, found = done.stdout.splitlines()
    assert registered.endswith("-F _adepoll_completion adepoll")
    assert found == "list"
