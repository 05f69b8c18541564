"""Requests that are sent on a stale connection, in virtual time."""

import asyncio

from attrs import define, field

from adepoll.errors import TransportError


@define
class StaleRequest:
    """A request whose first connections are stale, for `RequestSender.call_once`.

    Attributes:
        seconds: Seconds until a connection is closed, and until the answer.
        stale: Number of attempts whose connection is stale.
        sent: The record of each attempt.
        in_flight: Number of attempts that have not ended.
    """

    seconds: float = 1.0
    stale: int = 1
    sent: list = field(factory=list)
    in_flight: int = 0

    @property
    def times(self):
        return [sent.at for sent in self.sent]

    async def __call__(self, sent):
        self.sent.append(sent)
        self.in_flight += 1
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.in_flight -= 1
        if len(self.sent) <= self.stale:
            sent.is_stale = True
            raise TransportError("the connection was closed", job_id="j-1")
        return "answer"
