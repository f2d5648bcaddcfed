"""Coverage-guided attack on the consent parser and the sender's check: `python tests/fuzz.py SECONDS`.

Ends by itself, prints the number of cases, and exits non-zero with the input if there is a find. Needs atheris.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from network import EVENT, is_event

CONSENT_SEEDS = [
    b"consent: true\n",
    b"consent: True",
    b"\xef\xbb\xbfconsent: TRUE\r\n",
    b"# a comment\n\nconsent: true # yes\n",
    b"consent: false\n",
    b"consent: true\nconsent: false\n",
    b"---\nconsent: true\n...\n",
    b"consent: true\x85consent: false",
    b"consent: true #\xe2\x80\xa8consent: false",
    b"consent: !!bool true\n",
    b"consent: &a true\n",
    b"consent:\n  true\n",
    b"\tconsent: true\n",
    b'"consent": true\n',
    b"{consent: true}\n",
    b"consent: true\n\x00",
    b"consent: true\rconsent: no\n",
]
CONSENT_WORDS = [
    "consent",
    "true",
    "True",
    "TRUE",
    "false",
    ": ",
    " #",
    "\\x0a",
    "\\x0d\\x0a",
    "\\x0d",
    "\\x09",
    "---",
    "...",
    "%",
]
CONSENT_WORDS += [
    "\\xef\\xbb\\xbf",
    "\\xc2\\x85",
    "\\xe2\\x80\\xa8",
    "\\xc2\\xa0",
    "\\xff\\xfe",
    "\\x00",
    "!!",
    "&a",
    "? ",
    "- ",
]
EVENT_SEEDS = [
    EVENT,
    b'{"app_id":"2388822444","event":"CLI command","identity":null,"properties":{}}',
    b'{"app_id":"2388822444","event":"CLI command","identity":null,"properties":{"command":"kedro -v *****"}}',
    b'{"properties":{"number_of_nodes":1e3,"tools":"Linting, PySpark","os":"\\u006cinux"}}',
    b'{"properties":{"username":[0],"package_name":{},"command":null,"python_version":"3.11","x":-0.0}}',
    b'{"properties":{"number_of_datasets":NaN,"number_of_pipelines":true,"project_version":"\xd9\xa1.\xd9\xa2"}}',
]
EVENT_WORDS = [
    "properties",
    "identity",
    "command",
    "username",
    "null",
    "true",
    "NaN",
    "1e9",
    "-0",
    "\\\\u00",
    " --",
    "*****",
]
EVENT_WORDS += [
    "kedro run",
    "--pipeline",
    "--env",
    "project_version",
    "number_of_nodes",
    "number_of_datasets",
    "Linting, ",
]


def try_consent(data: bytes) -> None:
    """No yes that a YAML reader would not load as exactly that; and never an exception."""
    from kedro_telemetry.plugin import parse_consent

    if parse_consent(data):
        loaded = yaml.safe_load(data)
        assert loaded == {"consent": True}
        assert loaded["consent"] is True
        assert len(data) <= 4096


def try_event(data: bytes) -> None:
    """What the sender would post is an event, and an event it would post; what is sealed is one, whatever went in."""
    from kedro_telemetry.plugin import seal

    loaded: Any = None
    try:
        loaded = json.loads(data)["properties"]
        posted = seal(loaded) == data
    except Exception:  # as in the sender: an error ends it
        posted = False
    assert posted == is_event(data)
    if isinstance(loaded, dict):
        sealed = seal(loaded)
        assert is_event(sealed)
        assert seal(json.loads(sealed)["properties"]) == sealed


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes], list[str]]] = {
    "consent": (try_consent, CONSENT_SEEDS, CONSENT_WORDS),
    "event": (try_event, EVENT_SEEDS, EVENT_WORDS),
}


def attack(name: str, seconds: str, folder: str) -> None:
    """One target, in a process of its own, which atheris ends."""
    import atheris

    with atheris.instrument_imports(include=["kedro_telemetry", "json"]):
        import kedro_telemetry.plugin  # noqa: F401
    limits = [f"-max_total_time={seconds}", "-max_len=4200", "-timeout=20", "-rss_limit_mb=2048"]
    atheris.Setup(
        ["fuzz", *limits, f"-dict={folder}/words", f"-artifact_prefix={folder}/find-", folder + "/seeds"],
        TARGETS[name][0],
    )
    atheris.Fuzz()


def start(name: str, seconds: str, folder: Path) -> subprocess.Popen[str]:
    """Start on one target, from its seeds and its words."""
    _, seeds, words = TARGETS[name]
    (folder / "seeds").mkdir(parents=True)
    for number, seed in enumerate(seeds):
        (folder / "seeds" / str(number)).write_bytes(seed)
    (folder / "words").write_text("".join(f'"{word}"\n' for word in words))
    command = [sys.executable, __file__, seconds, name, str(folder)]
    return subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"))


def report(name: str, status: int, folder: Path) -> bool:
    """Print what came of it; whether all is well."""
    log = (folder / "log").read_text(errors="replace")
    cases = re.findall(r"^(?:Done (\d+) runs|#(\d+)\s)", log, re.M)
    count = int("".join(cases[-1])) if cases else 0
    finds = [file.read_bytes() for file in folder.glob("find-*")]
    print(f"{name}: {count:,} cases, {len(finds)} finds", flush=True)
    if finds or status or not count:
        print(log[-4000:], *finds, sep="\n")
        return False
    return True


def main() -> int:
    seconds, *child = sys.argv[1:] or ["60"]
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: nothing was tried", file=sys.stderr)
        return 2
    if child:
        attack(child[0], seconds, child[1])
    with tempfile.TemporaryDirectory() as folder:
        started = {name: start(name, seconds, Path(folder, name)) for name in TARGETS}
        well = [report(name, process.wait(), Path(folder, name)) for name, process in started.items()]
        return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
