"""Submissions are requests that create jobs: their fields, and the problems in them. No I/O."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypeAlias

from attrs import Factory, define, field, frozen

from adepoll.api.models import Json

Problem: TypeAlias = tuple[tuple[str, ...], str, str]
"""A problem in a request: path of the field, text for people, and type as in FastAPI."""

_BOOLEANS: Final = frozenset({"true", "false", "1", "0", "yes", "no", "on", "off"})


class InvalidRequestError(ValueError):
    """A request is invalid; the answer has the status 422.

    Attributes:
        problems: The problems in the request.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Create an error whose message joins the texts of the problems."""
        super().__init__("; ".join(message for _, message, _ in problems))
        self.problems = problems


@frozen(kw_only=True)
class Form:
    """The body of a submission: a form, or a JSON object.

    Attributes:
        fields: The fields, by name. In a form, all values are texts. In a JSON object, values have
            any type.
        filenames: Names of the sent files that are not empty, by the name of the field.
        is_json: True for a JSON object.
    """

    fields: Mapping[str, Json] = Factory(dict)
    filenames: Mapping[str, str] = Factory(dict)
    is_json: bool = False

    def has(self, name: str) -> bool:
        """Return whether a field or a file is present and not empty."""
        return name in self.filenames or self.fields.get(name) not in (None, "")


@frozen(kw_only=True)
class Submission:
    """The content of a request that creates a job.

    Attributes:
        filename: Name of the document.
        model: Requested model; None for the latest one.
        output_save_url: URL to which the result is PUT; None for no PUT.
        tier: Requested `service_tier`; None if no tier is requested.
        schema: JSON schema of the extraction, as parsed JSON; None for no schema.
        markdown: Markdown that the result repeats; None for no Markdown.
        options: Other fields on which the result depends, by name.
    """

    filename: str = "document.md"
    model: str | None = None
    output_save_url: str | None = None
    tier: str | None = None
    schema: Json = None
    markdown: str | None = field(default=None, repr=False)
    options: Mapping[str, Json] = Factory(dict)


@define
class FormReader:
    """Reads the fields of a form, and collects the problems in them.

    Attributes:
        form: The form.
        problems: The problems so far.
    """

    form: Form
    problems: list[Problem] = Factory(list)

    def text(self, name: str) -> str | None:
        """Return the text of a field; None if the field is absent or empty.

        If the field is not a text, record a problem, and return None.
        """
        value = self.form.fields.get(name)
        if value is None or isinstance(value, str):
            return value or None
        self.problem(name, "Input should be a valid string", "string_type")
        return None

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        """Return the text of a field; record a problem if it is not one of `choices`."""
        value = self.text(name)
        if value is not None and value not in choices:
            expected = " or ".join(f"'{choice}'" for choice in choices)
            self.problem(name, f"Input should be {expected}", "literal_error")
        return value

    def check_boolean(self, name: str) -> None:
        """Record a problem if a field is present and not a boolean."""
        if (self.text(name) or "false").lower() not in _BOOLEANS:
            message = "Input should be a valid boolean, unable to interpret input"
            self.problem(name, message, "bool_parsing")

    def document(self, name: str, url: str, *, only_one: bool = False) -> None:
        """Record a problem if a form has neither the document nor its URL.

        Args:
            name: The field with the document.
            url: The field with its URL.
            only_one: True to record a problem as well if the form has both.
        """
        has_document, has_url = self.form.has(name), self.form.has(url)
        if not (has_document or has_url):
            self.problem(name, f"Value error, {name} or {url} is required", "value_error")
        if only_one and has_document and has_url:
            self.problem(url, f"Value error, provide {name} or {url}, not both", "value_error")

    def filename(self, name: str, url: str) -> str:
        """Return the name of the file in the field `name`, or the end of the URL in `url`."""
        address = self.text(url) or ""
        return self.form.filenames.get(name) or address.rpartition("/")[2] or "document.pdf"

    def check_options(self, known: Collection[str]) -> None:
        """Record a problem if the field `options` has a key that is not in `known`."""
        if unknown := self.json_object("options").keys() - {*known}:
            message = f"Extra inputs are not permitted: {', '.join(sorted(unknown))}"
            self.problem("options", message, "extra_forbidden")

    def json_object(self, name: str, *, required: bool = False) -> dict[str, Json]:
        """Return the JSON object in a field; an empty object if the field is absent or invalid.

        Record a problem if the field is invalid, or if it is `required` and absent.
        """
        value = self.json(name)
        if isinstance(value, dict):
            return value
        if value is not None:
            self.problem(name, "Value error, must be a valid JSON object", "value_error")
        elif required:
            self.missing(name)
        return {}

    def json(self, name: str) -> Json:
        """Return the JSON value of a field; None if the field is absent.

        In a form, the value is a text, which this method parses. A text that is not JSON is
        returned unchanged. In a JSON body, the value is returned as it is.
        """
        value = self.form.fields.get(name)
        if self.form.is_json or not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value

    def missing(self, name: str) -> None:
        """Record that a required field is absent."""
        self.problem(name, "Field required", "missing")

    def problem(self, name: str, message: str, code: str) -> None:
        """Record a problem in the field `name`.

        `code` is FastAPI's name for this type of problem, such as "missing".
        """
        self.problems.append((("body", name), message, code))

    def check(self) -> None:
        """Raise `InvalidRequestError` if a problem was recorded."""
        if self.problems:
            raise InvalidRequestError(self.problems)


def read_integer(
    query: Mapping[str, str],
    name: str,
    problems: list[Problem],
    *,
    default: int,
    minimum: int,
    maximum: int | None = None,
) -> int:
    """Return an integer in a query; record a problem if it is not an integer or out of range.

    Args:
        query: The query.
        name: Name of the parameter.
        problems: List to which a problem is appended.
        default: Value of an absent parameter.
        minimum: Smallest allowed value.
        maximum: Largest allowed value; None for no limit.
    """
    where = ("query", name)
    try:
        value = int(query.get(name, default))
    except ValueError:
        message = "Input should be a valid integer, unable to parse string as an integer"
        problems.append((where, message, "int_parsing"))
        return default
    if value < minimum:
        message = f"Input should be greater than or equal to {minimum}"
        problems.append((where, message, "greater_than_equal"))
    elif maximum is not None and value > maximum:
        message = f"Input should be less than or equal to {maximum}"
        problems.append((where, message, "less_than_equal"))
    return value
