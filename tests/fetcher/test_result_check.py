"""Whether downloaded bytes are a whole result, with the keys of its kind."""

import os

import pytest
from fuzzing import counted_calls

from adepoll.fetcher.result_check import ResultCheck


def checked(text, *, keys=(), counts_braces=False, size=10):
    check = ResultCheck(keys, counts_braces=counts_braces)
    for start in range(0, len(text), size):
        check.add(text[start : start + size])
    return check


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (b'{"a": 1, "b": {}}', ()),
        (b'{"b": {"c": 1}, "x": "}", "a": null}', ()),
        (b'{"a": 1}', ("required field missing @ $.b",)),
        (b"{}", ("required field missing @ $.a", "required field missing @ $.b")),
        (b'{"x": {"a": 1, "b": 2}}', ("required field missing @ $.a",
                                      "required field missing @ $.b")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_each_missing_key_is_a_problem(text, problems, size):
    assert checked(text, keys=["b", "a"], size=size).problems == problems


def test_bytes_that_are_not_json_are_the_only_problem():
    (problem,) = checked(b'{"a": 1, oops', keys=["a", "b"]).problems
    assert "required field" not in problem
    early = checked(b'{"a": 1, "b": 2, oops', keys=["a"], size=10)
    assert early.problems == ()  # all keys were found before
    assert checked(b"oops").problems == ()  # no key is required


@pytest.mark.parametrize(
    ("text", "is_truncated", "seen_with_braces"),
    [
        (b'{"a": 1}', False, False),
        (b'{"a": 1} \n', False, False),
        (b'{"a": 1}' + b" " * 2**16, False, False),
        (b'{"a": 1}' + b" " * (3 * 2**16 + 5), False, False),
        (b'{"a": 1', True, True),
        (b'{"a": 1 ' + b" " * 2**17, True, True),
        (b"", True, True),
        (b" " * 70_000, True, True),
        (b'{"a": {"b": 1}', False, True),
        (b'{"a": "}"}', False, False),
        (b'{"a": "{{"}', False, False),
        (b'{"a": "}', False, False),  # by chance, the numbers of braces are equal
        (b'{"a": {"b": "}}"}', False, True),
        (b'{"a": [}', False, False),
    ],
)
def test_a_text_that_ends_too_early_is_truncated(text, is_truncated, seen_with_braces, tmp_path):
    (tmp_path / "text").write_bytes(text)
    fd = os.open(tmp_path / "text", os.O_RDONLY)
    try:
        for counts_braces, expected in ((False, is_truncated), (True, seen_with_braces)):
            check = checked(text, counts_braces=counts_braces, size=4_096)
            assert check.is_truncated(fd, len(text)) is expected
    finally:
        os.close(fd)


def test_many_members_take_little_work(tmp_path):
    members = 50_000
    text = b'{"b":"{"%b}' % (b',"a":[1]' * members)
    (tmp_path / "text").write_bytes(text)
    fd = os.open(tmp_path / "text", os.O_RDONLY)
    try:
        check = checked(text, counts_braces=True, size=len(text))
        with counted_calls() as count:
            assert check.is_truncated(fd, len(text)) is False
        assert count() < members
    finally:
        os.close(fd)
