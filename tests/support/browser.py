"""Playwright's assertions, imported by the first test that needs them: the import costs 0.6 s."""


def expect(target):
    """Return the assertions about a page or a locator."""
    from playwright import async_api  # noqa: PLC0415 - see above; the fixture `chromium` skips tests without it

    return async_api.expect(target)
