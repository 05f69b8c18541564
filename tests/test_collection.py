"""Each process of a test run collects all tests, so collecting must cost little."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
SLOW = {  # each takes 0.1 to 1 s of CPU; `lazyimport.lazy_import` imports them with their first use
    "boto3", "celery", "django", "duckdb", "landingai_ade", "litestar", "moto", "nbclient",
    "nbformat", "openapi_spec_validator", "pandas", "playwright", "polars", "schemathesis",
    "sentry_sdk", "sqlalchemy",
}  # fmt: skip


MENTIONED = re.compile(rf"^(import|from) .*\b({'|'.join(SLOW)})\b", re.MULTILINE)


def imported(statement):
    if isinstance(statement, ast.Import):
        return {alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.ImportFrom):
        return {statement.module.partition(".")[0]}
    return set()


def test_no_test_file_imports_at_its_top_what_takes_long():
    files = [*TESTS.rglob("test_*.py"), *TESTS.rglob("conftest.py")]
    assert len(files) > 100
    texts = {path.relative_to(TESTS): path.read_text("utf-8") for path in files}
    found = {
        str(path): names
        for path, text in texts.items()
        if MENTIONED.search(text)  # parsing all of them takes 3 s
        and (names := SLOW & set().union(*map(imported, ast.parse(text).body)))
    }
    assert found == {}
