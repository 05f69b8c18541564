"""A table of jobs, as a program with SQLAlchemy has one."""

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Job(Base):
    __tablename__ = "jobs"
    job_id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str | None]


OPEN = select(Job.job_id).where(Job.status.is_(None))
ALL = select(Job.job_id, Job.status)


def added(job_ids):
    """Return the statement that adds these jobs."""
    return insert(Job).values([{"job_id": job_id} for job_id in job_ids])


def stored(job_id, status):
    """Return the statement that stores the status of a job."""
    return update(Job).where(Job.job_id == job_id).values(status=status)


def connect(url):
    """Return an engine for a PostgreSQL server."""
    return create_async_engine(url)
