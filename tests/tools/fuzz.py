"""Try random inputs for a time: `python tests/tools/fuzz.py [SECONDS] [SEED]`.

Each input is a valid one with a few changes. A run of 60 seconds tries more than
300,000 `.telemetry` files and 40,000 command lines, and as many messages and indexes of
git as there is time for. It stops with the input at the first promise that is broken.
"""

from __future__ import annotations

import json
import random
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import support

from kedro_telemetry.plugin import (
    COMMANDS,
    FIELDS,
    MASK,
    MAX_WORDS,
    build_event,
    mask_command,
    parse_consent,
    read_git_index,
)

WORDS = sorted(
    {
        word
        for command, options in COMMANDS.items()
        for word in " ".join([command, *options]).split()
    }
    | {"--help", "-h", "--version", "-V"}
)
CONSENT_TEXTS = [
    *("consent: true", "consent: True", "consent: false", "consent", ":", " ", "true"),
    *("yes", "\n", "\r\n", "\r", "\t", "#", " #", "# ", "---", "...", "- ", "? "),
    *("'", '"', "|", ">", "&a ", "!!bool ", "{", "}", ",", "*a", "\0", "\x0b", "\x0c"),
    *("\ufeff", "\x85", "\xa0", "\\", "\u2028", "\u2029", "%YAML 1.1\n", "\u00e9"),
]
CONSENT_PIECES = [text.encode() for text in CONSENT_TEXTS] + [b"\xff", b"\xed\xa0"]
CONSENT_FILES = [
    b"consent: true\n",
    b"\xef\xbb\xbf# a\r\n\r\nconsent: TRUE # b\r\n",
    b"consent: false\n",
]
MESSAGE_TEXTS = ["null", "true", "NaN", "1e9", "-0", "[", "{", '"', ",", ":", "\\u0061"]
MESSAGE_PIECES = [text.encode() for text in (*MESSAGE_TEXTS, *FIELDS, *WORDS, MASK)]
REQUIRED = {"username", "command", "telemetry_version"}


def change(data: bytes, pieces: list[bytes], chance: random.Random) -> bytes:
    """Return these bytes after one to four small changes."""
    for _ in range(chance.randint(1, 4)):
        start, end = sorted(chance.choices(range(len(data) + 1), k=2))
        new = chance.choice(
            [chance.choice(pieces), chance.randbytes(1), data[start:end]]
        )
        data = data[:start] + new + data[chance.choice([start, start + 1, end]) :]
    return data


def try_consent(chance: random.Random) -> None:
    data = change(chance.choice(CONSENT_FILES), CONSENT_PIECES, chance)
    if parse_consent(data):
        found = yaml.safe_load(data)
        assert found == {"consent": True}, data
        assert found["consent"] is True, data


def try_command(chance: random.Random) -> None:
    def word() -> str:
        text = "".join(map(chr, chance.choices([*range(33, 127), 0xDCFF, 0x202E], k=4)))
        known = chance.choice(WORDS)
        return chance.choice([known, known, text, f"{known}={text}", known[:2] + text])

    args = [*chance.choice([*COMMANDS, "acme"]).split()] * chance.randint(0, 1)
    args += [word() for _ in range(chance.randint(0, 12))]
    shown = mask_command(args).split(" ")
    assert shown[0] == "kedro", args
    assert len(shown) <= MAX_WORDS, args
    assert set(shown[1:]) <= {*WORDS, MASK}, args
    assert mask_command(shown[1:]) == " ".join(shown), args


def try_message(chance: random.Random) -> None:
    message = change(support.MESSAGE, MESSAGE_PIECES, chance)
    try:
        event = json.loads(build_event(message))
    except Exception:  # the sender ends
        return
    properties = event["properties"]
    again = json.loads(build_event(json.dumps(properties).encode()))
    assert again == event, message
    if set(properties) >= REQUIRED:
        support.check_event(event)


def make_index(chance: random.Random) -> tuple[bytes, list[bytes]]:
    """Return an index of version 2 to 4, and its paths."""
    version = chance.randint(2, 4)
    letters = chance.choices(b"ab/.", k=400)
    paths = {bytes(letters[i : i + chance.randint(1, 12)]) for i in range(0, 400, 20)}
    data, before = struct.pack(">4sII", b"DIRC", version, len(paths)), b""
    for path in sorted(paths):
        extended = version > 2 and chance.random() < 0.3
        entry = bytes(60) + (b"\x40\0\0\0" if extended else b"\0\0")
        if version == 4:
            kept = chance.randint(0, 3)
            kept = kept if path[:kept] == before[:kept] else 0
            entry += bytes([len(before) - min(kept, len(before))])
            data += entry + path[min(kept, len(before)) :] + b"\0"
        else:
            entry += path
            data += entry + bytes(8 - len(entry) % 8)
        before = path
    data += struct.pack(">4sI4s", b"TREE", 4, b"tree")
    return data + bytes(20), sorted(paths)


def try_index(chance: random.Random) -> None:
    data, paths = make_index(chance)
    assert list(read_git_index(data)) == paths, data
    changed = change(data, [b"\0", b"\xff", b"DIRC", b"\x7f", b"\x80"], chance)
    start = time.monotonic()
    with suppress(OSError, ValueError, LookupError):  # which `decide` takes for a no
        list(read_git_index(changed))
    assert time.monotonic() - start < 1, changed


TARGETS: list[tuple[Callable[[random.Random], None], float]] = [
    (try_consent, 0.35),  # with its share of the time
    (try_command, 0.25),
    (try_message, 0.25),
    (try_index, 0.15),
]


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    print(f"seed {seed}")
    for target, share in TARGETS:
        chance = random.Random(seed)
        end = time.monotonic() + seconds * share
        count = 0
        while time.monotonic() < end:
            target(chance)
            count += 1
        print(f"{target.__name__}: {count:,} inputs", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
