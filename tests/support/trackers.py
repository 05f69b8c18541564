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


RECORDER = _Recorder()
CLIENT = sentry_sdk.Client(  # one, because each would look for its integrations again
    dsn="http://key@127.0.0.1:9/1",
    transport=RECORDER,
    max_value_length=10**6,
    auto_enabling_integrations=False,  # of web frameworks, which would be imported and patched
)


def recorded(exc):
    """Return all text that sentry_sdk and rich, with the locals of all frames, show of an error."""
    with sentry_sdk.new_scope() as scope:
        scope.set_client(CLIENT)
        scope.capture_exception(exc)
    shown = Traceback.extract(  # without its layout, which takes most of the time
        type(exc), exc, exc.__traceback__, show_locals=True,
        locals_max_length=None, locals_max_string=None,
    )  # fmt: skip
    event = RECORDER.events.pop()
    assert not RECORDER.events
    assert event["exception"]["values"][-1]["type"] == type(exc).__name__
    return f"{json.dumps(event)}\n{shown}"
