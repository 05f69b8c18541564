"""Decoders of settings and URLs, in addition to those of `decoders`."""

import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from unittest.mock import patch

from decoders import check_error, entry
from yarl import URL

from adepoll import TransportOptions
from adepoll.api.config import read_base_urls, read_key, region_url
from adepoll.api.file_names import label_stem, name_key, result_name
from adepoll.common.redaction import Secret, redact_url
from adepoll.errors import ConfigurationError, ResultMalformedError
from adepoll.fetcher.result_check import ResultCheck
from adepoll.fetcher.storage_rules import timing_of, validity_of
from adepoll.journal.endpoints import Endpoints

URLS = [
    URL(text) for text in ("https://api.example", "http://127.0.0.1:80/a", "https://[::1]:8443")
]


@entry("proxy", ConfigurationError)
def check_proxy(body):
    """Read the environment variables ``HTTPS_PROXY`` and ``NO_PROXY``, separated by a line end."""
    text, _, no_proxy = os.fsdecode(body.replace(b"\0", b"_")).partition("\n")
    # In another place, nothing tells that a word is a password.
    authority = re.split(r"[/?#\s]", text.strip().partition("://")[2] or text.strip())[0]
    is_password = 0 < text.count("canary") == authority.count(":canary@")
    secrets = ["canary"] if is_password and "canary" not in no_proxy else []
    environment = {"HTTPS_PROXY": text, "http_proxy": text, "NO_PROXY": no_proxy}
    with patch.dict(os.environ, environment, clear=True):
        try:
            proxies = TransportOptions().proxies()
        except ConfigurationError as error:
            check_error(error, *secrets)
            raise
    assert not any(secret in repr(proxies) for secret in secrets)
    for url in URLS:
        options = proxies.options_for(url, {})
        if "proxy" in options:
            assert options["proxy"].isascii()
            assert options["proxy"].isprintable()
            assert "@" not in URL(options["proxy"], encoded=True).authority
    with suppress(ConfigurationError):
        shown = repr(TransportOptions(proxy=text))
        assert not any(secret in shown for secret in secrets)


@entry("base-url", ConfigurationError)
def check_base_url(body):
    text = body.decode("utf-8", "surrogateescape")
    with patch.dict(os.environ, clear=True), suppress(ConfigurationError):
        region_url(text)
    with suppress(ConfigurationError):
        endpoints = Endpoints.of(text)
        assert Endpoints.of(*endpoints.notes.values()) == endpoints
        assert endpoints.shown.isprintable()
    try:
        for url in read_base_urls(text or "?", text, None):
            assert url.isascii()
            assert url.isprintable()
            assert not url.endswith("/")
            assert URL(url, encoded=True).host
            assert read_base_urls(url, None, None) == (url, url)
    except ConfigurationError as error:
        check_error(error)
        raise


@entry("api-key", ConfigurationError)
def check_api_key(body):
    text = body.decode("utf-8", "surrogateescape")
    try:
        key = read_key(Secret(text)).reveal()
    except ConfigurationError as error:
        check_error(error)
        raise
    assert key.isascii()
    assert key.isprintable()
    assert " " not in key


@entry("storage-url")
def check_storage_url(body):
    """Read the validity of a presigned URL, which the service sends."""
    url = body.decode("utf-8", "surrogateescape")
    with suppress(ValueError):  # adepoll requests no URL that `urlsplit` refuses
        for time in validity_of(url):
            assert time is None or time.utcoffset() is not None
        timing_of(url, body, datetime(2026, 1, 1, tzinfo=UTC))
    assert "canary" not in redact_url(url).partition("?")[2]


@entry("file-name")
def check_file_name(body):
    label = body.decode("utf-8", "surrogateescape")
    stem = label_stem(label)
    name = result_name(stem)
    assert name.isprintable()
    assert not {*name} & {*'/\\:*?"<>|~\0'}
    assert len(name.encode()) <= 143
    assert name not in {".json", "..json"}
    assert label_stem(stem) == stem
    assert name_key(name_key(stem)) == name_key(stem)


@entry("result-check", ResultMalformedError)
def check_result_check(body):
    def problems(step):
        check = ResultCheck({"markdown", "a"}, counts_braces=True)
        for start in range(0, len(body), step):
            check.add(memoryview(body)[start : start + step])
        return check.problems

    found = problems(len(body) or 1)
    assert all(problem.isprintable() for problem in found)
    assert found or not problems(7)  # nothing is checked after the chunk that has the last key
    if found:
        raise ResultMalformedError(found, job_id="j")
