"""A client without a network: a list says what its requests return."""

from adepoll.api.client import AdeClient
from adepoll.throttling.waiting_times import RetryPolicy


class AnsweringClient(AdeClient):
    """A client that sends no requests: each poll of a job returns the next answer."""

    def __init__(self, *answers, base_url="http://127.0.0.1:9", attempts=3, **options):
        options.setdefault("retry", RetryPolicy(attempts=attempts, base=0.001, max_wait=0.001))
        super().__init__("key", base_url=base_url, **options)
        self.answers = list(answers)
        self.asked = []

    async def get_job(self, job_id):
        self.asked.append(str(job_id))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer
