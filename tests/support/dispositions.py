"""What this process does on signals, and so the processes that it starts."""

import signal

LEFT = {signal.SIGPIPE, signal.SIGXFSZ}  # every interpreter ignores them, and resets them on exec


def reset_inherited():
    """Have all signals reach the processes that this one starts, whatever it has inherited.

    A background shell starts its commands with SIGINT ignored, `nohup` with SIGHUP ignored, and
    they pass that on. A handler is not passed on: an ignored signal gets one that does nothing, so
    that this process still survives it. Call this in the main thread.
    """
    for number in signal.valid_signals() - LEFT:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _handler_of(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _handler_of(number):
    if number == signal.SIGINT:
        return signal.default_int_handler  # tests expect it as in a foreground shell
    return signal.SIG_DFL if number == signal.SIGCHLD else _do_nothing


def _do_nothing(_number, _frame):
    pass
