"""The page about servers: the fields that it lists are those of the response."""

import re
from pathlib import Path

from adepoll import JobKind, JobRef, JobTimeoutError
from adepoll.server.job_responses import active_reply

PAGE = (Path(__file__).parents[2] / "docs" / "servers.md").read_text("utf-8")
(SECTION,) = re.findall(r"^## The status of a job\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
FIELDS = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", SECTION, re.MULTILINE)))


def test_the_page_lists_every_field_of_a_status_and_those_of_an_active_job():
    error = JobTimeoutError(job_id="job-1", timeout=1.0, last_status="processing")
    ref = JobRef("job-1", kind=JobKind.V1_EXTRACT, label="page one")
    body = active_reply(ref, error, default_kind=JobKind.V1_EXTRACT).body
    assert sorted(FIELDS) == sorted(body)
    stated = re.search(r"\(202\), only (.*?) are known", SECTION, re.DOTALL)[1]
    assert {*re.findall(r"`(\w+)`", stated)} == {name for name in body if body[name]}
