"""The seed determines every byte of an answer, on each Python and in each version."""

import json

from emulated_answers import FILE, lines


def test_a_seed_gives_the_recorded_answers():
    recorded = FILE.read_text("utf-8").splitlines()
    for line, expected in zip(lines(), recorded, strict=True):
        assert line == expected, json.loads(expected)[0]
