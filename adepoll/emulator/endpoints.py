"""The endpoints of the emulated service."""

from enum import Enum
from typing import Final


class Endpoint(Enum):
    """The part of the service to which a request goes.

    `GET` reads one job, `LIST` one page of the job list, `CREATE` submits a job, and `RESULT` is
    any request to the storage of large results.
    """

    GET = "get"
    LIST = "list"
    CREATE = "create"
    RESULT = "result"


ALL_ENDPOINTS: Final = frozenset(Endpoint)
API_ENDPOINTS: Final = ALL_ENDPOINTS - {Endpoint.RESULT}
READING_ENDPOINTS: Final = frozenset({Endpoint.GET, Endpoint.LIST})
