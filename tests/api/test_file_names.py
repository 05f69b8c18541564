"""File names of results."""

import hashlib
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.api.file_names import check_is_local, label_stem, name_key, result_name
from adepoll.errors import ConfigurationError


@pytest.mark.parametrize("job_id", ["a", "a" * 138, "é" * 69])
def test_the_file_name_of_a_short_id_is_the_id(job_id):
    assert result_name(job_id) == f"{job_id}.json"


@pytest.mark.parametrize(
    ("job_id", "head"),
    [("a" * 201, "a" * 100), ("é" * 100 + "a", "é" * 50), ("a" + "é" * 100, "a" + "é" * 49)],
)
def test_the_file_name_of_a_long_id_is_its_first_100_bytes_and_a_hash(job_id, head):
    digest = hashlib.sha256(job_id.encode()).hexdigest()
    assert result_name(job_id) == f"{head}-{digest[:32]}.json"


@pytest.mark.parametrize("text", ["a/", "\u0315\u0300", "\ud800"])
def test_a_label_of_any_length_becomes_a_short_name_quickly(text):
    """The second text would take hours if all of it was normalised (Unicode, UAX #15)."""
    labels = [f"invoice {text * 1_000_000}{end}" for end in ("a", "b")]
    names = {label_stem(label) for label in labels}
    assert len(names) == 2
    assert all(name.startswith("invoice ") and len(name.encode()) <= 138 for name in names)


@pytest.mark.parametrize(
    "path",
    [
        "s3://bucket/results",
        Path("gs://bucket"),
        "https://a.example/x",
        b"s3://bucket",
        "file:///a",
    ],
)
def test_a_url_is_not_a_local_path(path):
    with pytest.raises(ConfigurationError, match="out_dir must be a local path, not a URL"):
        check_is_local(path, "out_dir")


@pytest.mark.parametrize("path", ["results", "/a/s3://b", "./s3:/bucket", "c:/a", "a:b", Path("x")])
def test_other_paths_are_local(path):
    check_is_local(path, "out_dir")


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_names_that_a_file_system_can_mix_up_have_the_same_key(name):
    key = name_key(name)
    assert name_key(key) == key
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert name_key(unicodedata.normalize(form, name)) == key
    nfd = unicodedata.normalize("NFD", name)
    for other in (nfd.lower(), nfd.casefold(), name + "\ufe0f", name + "\u3164"):
        assert name_key(other) == key


@pytest.mark.parametrize(
    ("name", "other"), [("a", "b"), ("Mutter", "M\u00fctter"), ("ba", "b a"), ("1", "\u0661")]
)
def test_names_that_every_file_system_distinguishes_have_different_keys(name, other):
    assert name_key(name) != name_key(other)


@pytest.mark.parametrize("name", ["a", "cmg4x0q5p0001", "a~b_c-1.json", "\u4e2d"])
def test_the_key_of_an_ordinary_name_is_the_name(name):
    assert name_key(name) == name
