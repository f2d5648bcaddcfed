"""Refuses connections and look-ups that would leave the machine, and makes a note.

Python imports this module by its name if this folder is on PYTHONPATH.
"""

import os
import sys
from typing import Any


def guard(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        return
    target = arguments[1] if event != "socket.getaddrinfo" else arguments[0]
    host = target[0] if isinstance(target, tuple) else target
    text = os.fsdecode(host) if isinstance(host, bytes) else str(host or "")
    if not text or text.startswith(("127.", "::1", "localhost", "/")):
        return
    notes = os.environ.get("TELEMETRY_TEST_ESCAPES")
    if notes:
        with open(notes, "a", encoding="utf-8") as file:
            file.write(f"{event} {text} from {sys.argv}\n")
    raise PermissionError(f"a test tried to reach {text}")


sys.addaudithook(guard)
