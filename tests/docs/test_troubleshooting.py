"""Each heading of the troubleshooting page is a part of an error's text."""

import errno
import re
from pathlib import Path

import pytest

from adepoll import errors

ROOT = Path(__file__).parents[2]
SECTION = re.compile(r"^## ([^\n]+)\n\n(.*?)(?=\n## |\Z)", re.MULTILINE | re.DOTALL)
SECTIONS = SECTION.findall((ROOT / "docs" / "troubleshooting.md").read_text("utf-8"))
# Not errors of adepoll.
OTHERS = {"Nothing happens"}
FULL_DISK = OSError(errno.ENOSPC, "No space left on device")
FAILED = errors.JobFailedError(job_id="job-1", failure_reason=None)
# Texts that no line of the library contains as they are.
COMPOSED = [
    str(errors.JournalEndpointError(path="b.db", theirs="X", ours="Y")),
    str(errors.StorageError(job_id="job-1", path="a.json", cause=FULL_DISK)),
    str(errors.UnresolvedJobsError({"job-1": FAILED, "job-2": FAILED})),
]


def words_of_the_library():
    text = "".join(path.read_text("utf-8") for path in (ROOT / "adepoll").rglob("*.py"))
    return "\n".join([re.sub(r'"\s*f?"', "", text), *COMPOSED])  # joins the parts of a text


@pytest.fixture(scope="module")
def library():
    return words_of_the_library()


@pytest.mark.parametrize(("title", "text"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_the_page_names_texts_and_classes_that_exist(title, text, library):
    for name in re.findall(r"`(\w+Error)`", text):
        assert hasattr(errors, name)
    if title in OTHERS:
        return
    # What the text leaves open, such as a number or a name, is a single capital letter or a number.
    parts = re.split(r"\b(?:[A-Z]|[0-9]{3})\b", title)
    for part in parts:
        assert part.strip(" :,") in library
