"""Small sample values that conform to a JSON schema, reproducible from a seed. Does no I/O."""

import random
from collections.abc import Callable
from typing import Final

from attrs import frozen

from adepoll.api.models import Json

_LARGEST_DEPTH: Final = 8
_WORDS: Final = ("amber", "ledger", "harbour", "quartz", "meadow", "signal", "copper", "lantern")


def sample_of(schema: Json, rng: random.Random) -> Json:
    """Return a value that conforms to `schema`, a JSON schema as parsed JSON.

    Supported keywords are `type`, `properties`, `items`, `enum`, `const`, `anyOf`, `oneOf`, and
    `$ref` within the document. Every other schema gives a string. Values nested deeper than eight
    levels are null.
    """
    return _Sampler(root=schema, rng=rng).value(schema, depth=0)


def sample_object(schema: Json, rng: random.Random) -> dict[str, Json]:
    """Return a random object that conforms to `schema`; `{}` if the schema describes no object."""
    value = sample_of(schema, rng)
    return value if isinstance(value, dict) else {}


def invoice(rng: random.Random) -> dict[str, Json]:
    """Return a random invoice: the values that a job without a schema extracts."""
    return {
        "document_type": "invoice",
        "number": f"INV-{rng.randrange(10**8):08d}",
        "issued_on": f"2025-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}",
        "currency": rng.choice(("CHF", "EUR", "USD")),
        "total": rng.randrange(10**7) / 100,
        "paid": rng.choice((True, False, None)),
    }


def references_for(value: Json, rng: random.Random) -> Json:
    """Return a copy of `value` in which each scalar is replaced by ``{"references": [ID]}``.

    A scalar is a text, a number, a boolean or null. The ids are random. In real answers, they are
    ids of chunks of the document.
    """
    return leaves_replaced(value, lambda _leaf: {"references": [f"{rng.getrandbits(48):012x}"]})


def leaves_replaced(value: Json, replace: Callable[[Json], Json]) -> Json:
    """Return a copy of `value` in which `replace` replaces every text, number, boolean and null."""
    if isinstance(value, dict):
        return {name: leaves_replaced(part, replace) for name, part in value.items()}
    if isinstance(value, list):
        return [leaves_replaced(part, replace) for part in value]
    return replace(value)


@frozen
class _Sampler:
    root: Json
    rng: random.Random

    def value(self, schema: Json, *, depth: int) -> Json:
        schema = self._resolved(schema)
        if depth > _LARGEST_DEPTH:
            return None
        if not isinstance(schema, dict):
            return _text(self.rng)
        if (choices := _choices(schema)) is not None:
            return self.rng.choice(choices)
        kind = _kind(schema)
        if kind == "object":
            fields = schema.get("properties")
            named = fields.items() if isinstance(fields, dict) else ()
            return {name: self.value(part, depth=depth + 1) for name, part in named}
        if kind == "array":
            items = schema.get("items", {})
            return [self.value(items, depth=depth + 1) for _ in range(2)]
        return _LEAVES.get(kind, _text)(self.rng)

    def _resolved(self, schema: Json) -> Json:
        """Return the schema without ``$ref``, ``anyOf`` or ``oneOf`` at its top level.

        A reference is followed, and the first of several options is chosen. Return None if the
        schema is not an object, or if this takes too many steps.
        """
        # The number of steps is limited, because a schema can refer to itself.
        for _ in range(_LARGEST_DEPTH):
            if not isinstance(schema, dict):
                return None
            options = schema.get("anyOf", schema.get("oneOf"))
            if isinstance(ref := schema.get("$ref"), str) and ref.startswith("#/"):
                schema = self._at(ref[2:])
            elif isinstance(options, list) and options:
                schema = options[0]
            else:
                return schema
        return None

    def _at(self, pointer: str) -> Json:
        """Return the part of the schema to which a pointer such as "$defs/Item" leads, or None."""
        found = self.root
        for name in pointer.split("/"):
            found = found.get(name) if isinstance(found, dict) else None
        return found


def _choices(schema: dict[str, Json]) -> list[Json] | None:
    """Return the values that a schema allows; None if it lists none."""
    if "const" in schema:
        return [schema["const"]]
    choices = schema.get("enum")
    return choices if isinstance(choices, list) and choices else None


def _kind(schema: dict[str, Json]) -> str:
    """Return the type that a schema describes; "string" if it does not say."""
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list) and kind:
        kind = kind[0]
    return kind if isinstance(kind, str) else "string"


def _text(rng: random.Random) -> str:
    return f"{rng.choice(_WORDS)} {rng.choice(_WORDS)} {rng.randrange(100)}"


_LEAVES: Final[dict[str, Callable[[random.Random], Json]]] = {
    "integer": lambda rng: rng.randrange(1_000),
    "number": lambda rng: rng.randrange(100_000) / 100,
    "boolean": lambda rng: rng.choice((True, False)),
    "null": lambda _rng: None,
}
