import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adepoll.api.job_ids import (
    MAX_JOB_ID_LENGTH,
    check_job_id,
    is_job_id,
    is_plain,
)
from adepoll.errors import InvalidJobIdError


def documented(job_id: str) -> bool:
    """Return whether the id follows the rule in the docstring of `check_job_id`."""
    return (
        job_id != ""
        and len(job_id) <= 256
        and set(job_id) != {"."}
        and not set(job_id) & set("/\\?#%")
        and not any(char.isspace() or not char.isprintable() for char in job_id)
    )


@given(st.text(st.sampled_from("aZ9-_.~:@é漢/\\?#% \t\x00\u200b\ud800")) | st.text())
@example(".")
@example("..")
@example("...")
@example("a..")
@example("a" * MAX_JOB_ID_LENGTH)
@example("a" * (MAX_JOB_ID_LENGTH + 1))
@example("\ud800")
@example("a\u3000b")
@example("a\x7f")
def test_exactly_the_documented_ids_are_valid(job_id):
    assert is_job_id(job_id) is documented(job_id)
    if documented(job_id):
        assert check_job_id(job_id) is job_id
    else:
        with pytest.raises(InvalidJobIdError) as caught:
            check_job_id(job_id)
        assert caught.value.job_id == job_id
        assert caught.value.reason


@pytest.mark.parametrize("job_id", [None, 7, b"job", ["job"], 1.5])
def test_a_non_string_id_is_refused_with_its_type(job_id):
    with pytest.raises(InvalidJobIdError, match=f"{type(job_id).__name__} .*it is not a string"):
        check_job_id(job_id)


def test_the_message_names_the_problem_and_is_safe_for_logs():
    with pytest.raises(InvalidJobIdError) as caught:
        check_job_id("a\nERROR forged line" + "x" * 10_000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    with pytest.raises(InvalidJobIdError, match="it contains '/'"):
        check_job_id("a/b")


class Subclass(str):
    __slots__ = ()


@pytest.mark.parametrize("job_id", ["a", "Z9", "a-b", "-a", "a" * 256, "0"])
def test_ids_of_letters_digits_and_hyphens_are_plain(job_id):
    assert is_plain(job_id)


@pytest.mark.parametrize(
    "job_id",
    [
        "",
        "-",
        "a_b",
        "a.b",
        "a b",
        "é",
        "٣",
        "a" * 257,
        "a" * 250 + "-" * 7,
        b"a",
        7,
        Subclass("a"),
    ],
)
def test_other_ids_are_not_plain(job_id):
    assert not is_plain(job_id)


def test_the_error_of_a_non_string_id_contains_its_type_and_value():
    with pytest.raises(InvalidJobIdError) as caught:
        check_job_id(7)
    assert caught.value.job_id == "int 7"
