"""What error trackers record of an exception: an event of sentry_sdk, and a traceback of rich."""

import json

import sentry_sdk
from rich.traceback import Traceback
from sentry_sdk.transport import Transport


class _Recorder(Transport):
    """Keeps the events instead of sending them."""

    def __init__(self):
        super().__init__()
        self.events = []

    def capture_envelope(self, envelope):
        self.events.append(envelope.get_event())


def recorded(exc):
    """Return all text that sentry_sdk, with its defaults, and rich with locals show of an error."""
    recorder = _Recorder()
    client = sentry_sdk.Client(
        dsn="http://key@127.0.0.1:9/1", transport=recorder, max_value_length=10**6
    )
    with sentry_sdk.new_scope() as scope:
        scope.set_client(client)
        scope.capture_exception(exc)
    shown = Traceback.extract(  # without its layout, which takes most of the time
        type(exc), exc, exc.__traceback__, show_locals=True,
        locals_max_length=None, locals_max_string=None,
    )  # fmt: skip
    (event,) = recorder.events
    assert event["exception"]["values"][-1]["type"] == type(exc).__name__
    return f"{json.dumps(event)}\n{shown}"
