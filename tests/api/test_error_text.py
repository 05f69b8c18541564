"""The text for people in the JSON of an error."""

import pytest

from adepoll.api.error_text import error_text


def nested(depth, text="deep"):
    return text if not depth else {"error": nested(depth - 1, text)}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("no", "no"),
        ("", None),
        (None, None),
        (7, None),
        ([], None),
        ({}, None),
        ({"other": "x"}, None),
        ({"message": ""}, None),
        ({"message": "", "error": "b"}, "b"),
        ({"title": "t", "detail": "d"}, "d"),  # the first known key that has a text
        ({"message": ["a", "b"]}, "a; b"),
        ({"Message": "m"}, "m"),
        ({"errors": [{"message": "a"}, {"title": "b"}]}, "a; b"),
        ({"error": {"errors": [{"message": "m"}]}}, "m"),
        ({"error": "invalid_token", "error_description": "m"}, "m"),
        ([1, "a", None, "b"], "a; b"),
        (list("abcdefg"), "a; b; c; d; e"),
        ([list("abcd"), list("efgh")], "a; b; c; d; e"),
        ([0, 0, 0, 0, 0, "late"], None),
        (nested(4), "deep"),
        (nested(5), None),
        ([[[["deep"]]]], "deep"),
        ([[[[["deep"]]]]], None),
        ({"message": "m", "code": "c1"}, "m (c1)"),
        ({"message": "m c1", "code": "c1"}, "m c1"),
        ({"message": "m", "code": ""}, "m"),
        ({"message": "m", "code": 7}, "m"),
        ({"message": ["m", "n"], "code": "c1"}, "m (c1); n"),
        ({"msg": "m", "loc": ["body", 0, None, "id"]}, "m @ body.0.id"),
        ({"msg": "m", "loc": []}, "m"),
        ({"msg": "m", "loc": "body"}, "m"),
        ({"msg": "m", "loc": ["a"], "code": "c1"}, "m (c1) @ a"),
        ({"msg": "m", "loc": list(range(21))}, f"m @ {'.'.join(map(str, range(20)))}"),
    ],
)
def test_the_text_of_an_error_is_found(raw, text):
    assert error_text(raw) == text
