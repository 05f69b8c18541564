import shlex
import string

import pytest
from fuzzing import counted_calls
from hypothesis import given
from hypothesis import strategies as st

from adepoll.common.redaction import (
    REDACTED,
    is_redacted,
    redact_json,
    redact_text,
    redact_url,
    shell_line,
    showable,
)

CANARY = "CaNaRy0123456789"
URL_CHARS = string.ascii_letters + string.digits + "-._~!$&'()*+,;=:%"

POWERSHELL_QUOTES = [("\u2018", "98"), ("\u2019", "99"), ("\u201a", "9a"), ("\u201b", "9b")]

schemes = st.sampled_from(["https", "http", "s3", "HTTPS", "postgresql+asyncpg"])
url_text = st.text(URL_CHARS, max_size=20)
prose = st.text(max_size=30)


@given(
    schemes,
    st.builds("{}{}{}{}".format, st.sampled_from("?#"), url_text, st.just(CANARY), url_text),
    prose,
    prose,
)
def test_a_secret_in_a_query_or_fragment_is_never_shown(scheme, query, before, after):
    url = f"{scheme}://host/path{query}"
    assert CANARY not in redact_url(url)
    for show in (redact_text, showable):
        assert CANARY not in show(f"{before} {url} {after}")


@given(schemes, url_text, url_text, prose, prose)
def test_a_user_or_password_is_never_shown(scheme, head, tail, before, after):
    for url in (
        f"{scheme}://{head}{CANARY}{tail}@host/path",
        f"{scheme}://user:{head}{CANARY}{tail}@host",
    ):
        assert CANARY not in redact_url(url)
        for show in (redact_text, showable):
            assert CANARY not in show(f"{before} {url} {after}")


@given(
    st.sampled_from(["Bearer", "bearer", "BEARER", "Basic"]),
    st.sampled_from([" ", "  ", "\t", "%20", "+", "\n"]),
    st.text(string.ascii_letters + string.digits + "-._~+/=,;'", max_size=10),
    prose,
)
def test_a_bearer_token_is_never_shown(word, space, head, after):
    text = f"Authorization: {word}{space}{head}{CANARY} {after}"
    assert CANARY not in redact_text(text)
    assert CANARY not in showable(text)


@pytest.mark.parametrize(
    "text",
    [
        f"X-Amz-Signature={CANARY}",
        f"&X-Amz-Signature={CANARY}&X-Amz-Expires=3600",
        f"x-amz-security-token={CANARY}",
        f"X-Amz-Credential={CANARY}%2F20260101",
        f"X-Goog-Signature={CANARY}",
        f"?sv=2020&sig={CANARY}",
        f"AWSAccessKeyId={CANARY}",
        f"Signature%3D{CANARY}",
        rf"a\u0026X-Amz-Signature={CANARY}",
        rf"a\u0026X-Amz-Signature\u003d{CANARY}",
        f"a&amp;X-Amz-Signature={CANARY}",
        f"X-Amz-Signature%253D{CANARY}",
        f"X-Amz-Signature&#61;{CANARY}",
        f"<SignatureProvided>{CANARY}</SignatureProvided>",
        f'{{"X-Amz-Signature": "{CANARY}"}}',
        f"{{'sig': '{CANARY}'}}",
        rf'"{{\"sig\": \"{CANARY}\"}}"',
    ],
)
def test_a_signature_without_a_url_is_never_shown(text):
    assert CANARY not in redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        rf'{{"url":"https://h/p?a=b\u0026token={CANARY}"}}',
        rf'{{"url":"https:\/\/h\/p?token={CANARY}"}}',
        f"{{'url': 'https://h/p?token={CANARY}', 'a': 1}}",
        f"<Url>https://h/p?a=b&amp;token={CANARY}</Url>",
        f"https://proxy/https://user:{CANARY}@host/",
        f"https://user:pa/{CANARY}@host/",
        f"https://user:/{CANARY}@host/",
        f"https://user:pa?{CANARY}@host/",
    ],
)
def test_urls_are_recognised_in_any_quoting(text):
    assert CANARY not in redact_text(text)


def test_other_text_is_not_changed():
    for text in (
        "GET https://api.example.com:8443/v1/jobs/j-1 answered 503: try the Signature page",
        "1://x is no URL: https://h/p is one",
        "Invalid signature: expected a PNG, basically",
        "jobs of http://127.0.0.1:8080, but the base URL is 'https://api.example.com:8443'.",
    ):
        assert redact_text(text) == text


def test_a_redacted_url_shows_that_something_is_missing():
    assert redact_url("https://u:p@h:1/a/b?c=d#e") == f"https://h:1/a/b?{REDACTED}"
    assert redact_url("https://h/a#e") == f"https://h/a?{REDACTED}"
    assert redact_url("https://h/a") == "https://h/a"
    assert is_redacted(redact_url("https://h/a?b"))
    assert not is_redacted(redact_url("https://h/a"))


@pytest.mark.parametrize(
    "url", ["", "no url", "https://", "http://[", f"//u:{CANARY}@h", f"http://h:{CANARY}/"]
)
def test_other_text_than_a_url_is_replaced_completely(url):
    assert redact_url(url) == REDACTED


@given(schemes, url_text, url_text)
def test_redacting_twice_changes_nothing(scheme, path, query):
    once = redact_url(f"{scheme}://host/{path}?{query}")
    assert redact_url(once) == once


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_showable_text_is_short_and_printable(text, limit):
    shown = showable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit + len("...")


def test_control_characters_and_lone_surrogates_are_escaped():
    assert showable("a\x1b[31m\n\u202e\ud800b") == r"a\x1b[31m\n\u202e\ud800b"


def test_short_plain_text_is_not_changed():
    assert showable("Zurück in 5 min: 100 %") == "Zurück in 5 min: 100 %"
    assert showable("x" * 300) == "x" * 300


def test_shortened_text_ends_with_dots():
    assert showable("x" * 301) == "x" * 300 + "..."
    assert showable("x" * 1_000_000, 10) == "x" * 10 + "..."
    assert showable(" " * 50, 10) == "..."


def test_the_beginning_of_a_secret_at_the_cut_is_not_shown():
    """Redaction shortens the text, so text from behind the cut can become visible."""
    before = "https://h/?" + "x" * 100
    for start in range(1, 60):
        text = f"{before} {'a' * start} https://{CANARY * 5}@h"
        assert CANARY[:8] not in showable(text, 40)


def test_redacted_text_is_cut_at_its_limit():
    assert redact_text("a b" * 10, 6) == "a ba..."
    assert len(redact_text("x " * 1_000_000)) < 70_000
    assert redact_url(f"https://h/{'x' * 20_000}") == REDACTED


def test_all_texts_and_names_of_json_are_redacted():
    url = f"https://h/p?{CANARY}"
    shown = f"https://h/p?{REDACTED}"
    raw = {"a": [url, {"b": url, url: 1, "Signature": "x"}], "n": [None, 1, True]}
    assert redact_json(raw) == {
        "a": [shown, {"b": shown, shown: 1, "Signature": REDACTED}],
        "n": [None, 1, True],
    }
    assert redact_json(url) == shown


def test_redacting_json_does_not_change_the_original():
    inner = [f"https://h/p?{CANARY}"]
    raw = {"a": inner}
    redact_json(raw)
    assert raw == {"a": inner} == {"a": [f"https://h/p?{CANARY}"]}


def test_only_the_first_texts_of_very_large_json_are_kept():
    texts = [f"text {number} {'x' * 1_000}" for number in range(1_000)]
    shown = redact_json(texts)
    kept = len(shown) - 1
    assert kept > 200
    assert shown == [*texts[:kept], REDACTED]
    assert redact_json({"a": {text: text for text in texts}, "b": 1}) == {"a": {}}
    assert redact_json({"a": 1, "b": ["x" * 300_000, 2], "c": 3}) == {"a": 1, "b": [REDACTED]}
    assert redact_json([""] * 40_000) == [""] * 32_768 + [REDACTED]
    rows = [[[text], {"n": text, "m": [1]}] for text in texts]
    *nested, last = redact_json(rows)
    assert nested == rows[: len(nested)]
    assert last == [[texts[len(nested)]], {"n": REDACTED}]


def test_only_the_first_containers_and_suspicious_texts_of_json_are_kept():
    """Short ones take more time than their characters."""
    for inner, empty in (({"a": 1}, {}), (["a"], []), ([1], [])):
        shown = redact_json([inner] * 20_000)
        assert shown == [inner] * 9_999 + [empty]
    shown = redact_json(["a=b"] * 5_000)
    assert 3_900 < len(shown) < 4_200
    assert shown == ["a=b"] * (len(shown) - 1) + [REDACTED]


def test_the_part_of_a_text_that_is_not_shown_is_not_escaped():
    """An escape takes a microsecond, and a hostile id can have thousands of such characters."""
    with counted_calls() as count:
        assert showable("\ud800" * 10_000, 40) == r"\ud800" * 6 + r"\ud8..."
    assert count() < 300


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("a.db", "a.db"),
        ("a b", "'a b'"),
        ("=a", "'=a'"),  # zsh would replace it with the path of the program "a"
        ("= a", "'= a'"),
        ("", "''"),
        (r"a\b c", r"'a\b c'"),
        (r"a\'b", r"""'a'"\\'"'b'"""),
        ("aZ09\n", r"$'aZ09\x0a'"),
        ("é\t", r"$'\xc3\xa9\x09'"),
        # PowerShell reads these as single quotes, after which "; b" would be a command.
        *((f"a{quote};", rf"$'a\xe2\x80\x{last}\x3b'") for quote, last in POWERSHELL_QUOTES),
        ("\udcff", r"$'\xff'"),  # a byte of a file name that is not UTF-8
    ],
)
def test_a_shell_reads_the_same_words(word, quoted):
    assert shell_line(["adepoll", word]) == f"adepoll {quoted}"


def test_names_count_towards_the_amount_of_json_that_is_copied():
    names = dict.fromkeys([f"{number:05}" for number in range(11_000)], 0)
    assert [len(copy) for copy in redact_json([names, names])] == [11_000, 0]


def words_in_fish(line):
    """Return the words of a line without substitutions, by the quoting rules of fish."""
    words, quote, position = [""], "", 0
    while position < len(line):
        char, after = line[position], line[position + 1 : position + 2]
        if quote and char == "\\" and after in {"\\", quote}:
            words[-1] += after
            position += 1
        elif char in {"'", '"'} and quote in {"", char}:
            quote = "" if quote else char
        elif char == " " and not quote:
            words.append("")
        else:
            assert quote == "'" or char not in "$();"
            words[-1] += char
        position += 1
    assert not quote
    return words


@pytest.mark.parametrize("quotes", ["'", "\\'", "'\\", "\\\\'", "\\'\\'", "'\\'\\", "'\\\\''"])
def test_fish_reads_no_quote_of_a_word_as_the_end_of_the_word(quotes):
    """Within single quotes, fish reads a backslash and a quote as a quote."""
    words = ["adepoll", f"/a{quotes}$(touch b);{quotes}", f"/c{quotes}", f"{quotes}d e"]
    assert words_in_fish(shell_line(words)) == words
    assert shlex.split(shell_line(words)) == words
