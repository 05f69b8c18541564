"""Objects whose constructor has failed have a repr."""

import enum
import importlib
import inspect
import pkgutil

import pytest
from attrs import field, frozen
from lazyimport import lazy_import

import adepoll
from adepoll.common.safe_repr import SafeRepr

trackers = lazy_import("trackers")


class Report(SafeRepr):
    def __init__(self):
        self.pages = 1

    def __repr__(self):
        return f"<Report of {self.pages} pages>"

    def __str__(self):
        return f"{self.pages} pages"

    def _repr_html_(self):
        return f"<b>{self.pages}</b>"


@frozen
class Number(SafeRepr):
    value: int = field(converter=int)


class OtherReport(Report):
    """Has the methods of its base class, and no own ones."""


def test_an_initialised_object_is_shown_as_its_class_says():
    assert repr(Report()) == "<Report of 1 pages>"
    assert str(Report()) == "1 pages"
    assert Report()._repr_html_() == "<b>1</b>"
    assert repr(Number("2")) == "Number(value=2)"


@pytest.mark.parametrize("cls", [Report, OtherReport, Number])
def test_an_object_that_is_not_initialised_says_so(cls):
    new = cls.__new__(cls)
    assert repr(new) == str(new) == f"{new}" == f"<{cls.__name__}, not initialised>"


def test_an_error_of_another_kind_is_not_hidden():
    class Broken(SafeRepr):
        def __repr__(self):
            return str(1 / 0)

    with pytest.raises(ZeroDivisionError):
        repr(Broken())


def exported():
    """Return every class that a module of adepoll exports, and that says how it is shown."""
    names = [info.name for info in pkgutil.walk_packages(adepoll.__path__, "adepoll.")]
    modules = [
        adepoll,
        *(importlib.import_module(name) for name in names if "__main__" not in name),
    ]
    things = [
        getattr(module, name) for module in modules for name in getattr(module, "__all__", ())
    ]
    return [
        cls
        for cls in sorted({thing for thing in things if inspect.isclass(thing)}, key=repr)
        if cls.__module__.startswith("adepoll")
        and not issubclass(cls, enum.Enum)  # has no constructor that could fail
        and any(is_own(cls, name) for name in ("__repr__", "__str__", "_repr_html_"))
    ]


def is_own(cls, name):
    """Return True if a method is defined by adepoll, not by a base class of another library."""
    return getattr(getattr(cls, name, None), "__module__", "").startswith("adepoll")


def shown_by_tracker(new):
    """Return what error trackers record of the local variable `new`."""
    try:
        raise LookupError  # noqa: TRY301 - the error of a constructor, with `self` in its frame
    except LookupError as error:
        return trackers.recorded(error)


def test_every_exported_class_has_a_repr_before_it_is_initialised():
    classes = exported()
    assert {adepoll.AdeClient, adepoll.JobWatcher, adepoll.Durations} < {*classes}
    for cls in classes:
        new = cls.__new__(cls)
        assert cls.__name__ in repr(new)
        assert cls.__name__ in str(new)
        if is_own(cls, "_repr_html_"):
            assert cls.__name__ in new._repr_html_()
        assert "broken repr" not in shown_by_tracker(new), cls


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: adepoll.JobWatcher(None, concurrency=0), "JobWatcher"),
        (lambda: adepoll.ResultFetcher(None, connections=0), "ResultFetcher"),
        (lambda: adepoll.Batch(None, downloads=0), "Batch"),
        (lambda: adepoll.WebhookVerifier("a", tolerance=-1), "WebhookVerifier"),
        (lambda: adepoll.AdeClient("a", timeout=-1), "AdeClient"),
    ],
)
def test_a_refused_argument_leaves_an_object_that_error_trackers_can_show(call, name):
    with pytest.raises((ValueError, TypeError, AttributeError)) as caught:
        call()
    assert f"<{name}, not initialised>" in trackers.recorded(caught.value)
