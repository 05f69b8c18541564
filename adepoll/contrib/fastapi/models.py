"""Response models for jobs and problems, for FastAPI and its OpenAPI description."""

import json
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adepoll import JobSnapshot, JobStatus
from adepoll.server.job_responses import job_as_json


class JobModel(BaseModel):
    """A job, without its result and without the presigned URL of the result.

    A route with this response model can return a `JobSnapshot`. To send more fields of the
    snapshot to clients, declare them in a subclass: ``data: dict[str, Any] | None``, or
    ``output_url: str | None``. Such a URL is a secret: everybody who has it can read the result for
    an hour.
    """

    model_config = ConfigDict(title="Job", frozen=True)

    job_id: str = Field(description="Id of the job.")
    kind: str = Field(description="Kind of the job, such as `v1-parse`.")
    label: str | None = Field(description="The server's own name for the job.")
    status: JobStatus = Field(description="Status of the job.")
    is_terminal: bool = Field(description="True if the job has settled: it never changes again.")
    partial: bool = Field(description="True if pages failed, or the result violates its schema.")
    received_at: datetime | None = Field(description="When the service received the job.")
    created_at: datetime | None = Field(description="When the job was created.")
    completed_at: datetime | None = Field(description="When the job settled.")
    progress: float | None = Field(description="Progress, 0 to 1.")
    version: str | None = Field(description="Version of the model that was used.")
    credits: float | None = Field(description="Price of the job, in credits.")
    page_count: int | None = Field(description="Number of pages of the document.")
    failed_pages: list[int] = Field(description="Pages that could not be parsed, from 0.")
    failure_reason: str | None = Field(description="Why the job failed.")
    error_code: str | None = Field(description="Code of the failure, from the service.")
    schema_violation: str | None = Field(description="Why the result violates its schema.")

    @model_validator(mode="before")
    @classmethod
    def _from_snapshot(cls, value: Any) -> Any:
        """Convert a `JobSnapshot` to a dict of its fields; return any other value unchanged."""
        if not isinstance(value, JobSnapshot):
            return value
        fields = job_as_json(value)
        if cls.model_fields.keys() <= fields.keys():
            return fields
        return {**json.loads(value.to_json()), **fields}


class ProblemModel(BaseModel):
    """Problem details of an error (RFC 9457)."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(description="URI of the kind of problem.")
    title: str = Field(description="Summary for people, the same for all problems of a kind.")
    status: int = Field(description="The HTTP status.")
    error: str = Field(description="Name of the error's class, for programs.")
    detail: str | None = Field(None, description="What happened this time, for people.")
    instance: str | None = Field(None, description="Path of the request.")
    job_id: str | None = Field(None, description="The job that the problem concerns.")
    last_status: str | None = Field(None, description="After a timeout, the job's last status.")
