"""Each process of a test run collects all tests, so collecting must cost little."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
SLOW = {  # each takes 0.1 to 1 s of CPU; `lazyimport.lazy_import` imports them with their first use
    "boto3", "celery", "django", "duckdb", "landingai_ade", "litestar", "moto", "nbclient",
    "nbformat", "openapi_spec_validator", "pandas", "playwright", "polars", "schemathesis",
    "sentry_sdk", "sqlalchemy",
}  # fmt: skip


def imported(statement):
    if isinstance(statement, ast.Import):
        return {alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.ImportFrom):
        return {statement.module.partition(".")[0]}
    return set()


def test_no_test_file_imports_at_its_top_what_takes_long():
    files = [*TESTS.rglob("test_*.py"), *TESTS.rglob("conftest.py")]
    assert len(files) > 100
    trees = {path.relative_to(TESTS): ast.parse(path.read_bytes()) for path in files}
    found = {
        str(path): names
        for path, tree in trees.items()
        if (names := SLOW & set().union(*map(imported, tree.body)))
    }
    assert found == {}
