"""Measure this plugin beside the official one, and beside no plugin (Linux).

It makes the environments that it needs, and runs everything on loopback. Times are
medians of repetitions that take turns. Each repetition ends when its sender has ended.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import network
import support

KEDRO: Final = "1.7.0"
OFFICIAL: Final = "0.9.0"
PLUGINS: Final = ("ours", "official")
PROBE: Final = str(Path(__file__).with_name("benchmark_probe.py"))
NODES: Final = 10_000  # of a large project, which has as many datasets
IN_FLIGHT: Final = 16  # events under way at a time
ADDRESS: Final = "KEDRO_TELEMETRY_ENDPOINT"

# Starts a sender and prints what it took. A small process does this, because Linux
# counts the memory of a process also for the process that it starts.
LAUNCHER: Final = """
import json, os, platform, subprocess, sys
sender = subprocess.Popen([sys.executable, "-I", "-S", "-B", sys.argv[1]])
_, status, usage = os.wait4(sender.pid, 0)
assert status == 0
cpu = (usage.ru_utime + usage.ru_stime) * 1000
version = platform.python_version()
print(json.dumps({"version": version, "cpu": cpu, "memory": usage.ru_maxrss / 1024}))
"""
REGISTRY: Final = """
import os
from kedro.pipeline import Pipeline, node

def register_pipelines():
    names = [f"data_{i}" for i in range(int(os.environ.get("BENCHMARK_NODES", "2")))]
    return {"__default__": Pipeline([node(os.getpid, None, n, name=n) for n in names])}
"""

Case = tuple[str, ...]  # what is measured
Measures = dict[Case, Callable[[], float]]
Found = dict[Case, list[float]]  # times in milliseconds


def trickle(connection: socket.socket, collector: support.Collector) -> None:
    support.read_request(connection)
    for byte in b"HTTP/1.1 200 OK\r\n\r\n":  # 19 bytes
        connection.sendall(bytes([byte]))
        time.sleep(6 / 19)


def never_answer(connection: socket.socket, collector: support.Collector) -> None:
    support.read_request(connection)
    connection.recv(1)  # returns when the other side has gone


def reset(connection: socket.socket, collector: support.Collector) -> None:
    at_once = b"\1\0\0\0\0\0\0\0"  # struct linger: on, for 0 seconds
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)


COLLECTORS: Final = {
    "answers": support.answer_ok,
    "resets": reset,
    "is absent": reset,
    "never answers": never_answer,
    "trickles for 6 s": trickle,
}
FAST, SLOW = list(COLLECTORS)[:3], list(COLLECTORS)[3:]


class Bench:
    """An environment for each plugin, and a project for each plugin and collector."""

    def __init__(self, folder: Path, stack: ExitStack, quick: bool) -> None:
        self.folder, self.stack, self.quick = folder, stack, quick
        self.urls: dict[str, str] = {}  # of collectors
        self.make_environments()
        with suppress(OSError):  # where this is allowed, nothing can leave the machine
            network.enter_loopback()
        self.template = support.make_project(folder, folder, "weather")
        registry = self.template / "src" / "weather" / "pipeline_registry.py"
        registry.write_text(REGISTRY)
        for kind, answer in COLLECTORS.items():
            collector = self.add_collector(kind, answer)
            if kind == "is absent":
                collector.close()

    def make_environments(self) -> None:
        venv = self.folder / "none" / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        self.python("none", "-m", "pip", "-qq", "install", f"kedro=={KEDRO}")
        # Kedro requires one of the plugins.
        self.python("none", "-m", "pip", "-qq", "uninstall", "-y", "kedro-telemetry")
        packages = (str(support.ROOT), f"kedro-telemetry=={OFFICIAL}")
        for plugin, package in zip(PLUGINS, packages, strict=True):
            shutil.copytree(venv, self.folder / plugin / "venv", symlinks=True)
            self.python(plugin, "-m", "pip", "-qq", "install", package)
        # Only the address of the official plugin is changed, so that nothing leaves.
        file = self.plugin("official")
        before, after = file.read_text().split('"https://heapanalytics.com/api/track"')
        file.write_text(f'{before}os.environ["{ADDRESS}"]{after}')
        self.plugin("ours").with_name("empty.py").touch()
        for plugin in PLUGINS:
            self.python(plugin, "-m", "compileall", "-q", self.plugin(plugin).parent)

    def add_collector(self, kind: str, answer: support.Answer) -> support.Collector:
        """Start a collector. Make a project for each plugin, with both yeses to it."""
        collector = self.stack.enter_context(support.collecting(answer))
        self.urls[kind] = collector.url
        for plugin in ("none", *PLUGINS):
            copy = support.copy_project(self.template, self.folder / plugin / kind)
            support.agree(copy, self.folder / plugin, collector.url)
        return collector

    def turns(self, full: int, quick: int) -> tuple[int, int]:
        """Return how many repetitions to measure, and how many to warm up."""
        return (quick, 0) if self.quick else (full, 1)

    def plugin(self, plugin: str) -> Path:
        (packages,) = (self.folder / plugin).glob("venv/lib/python3*/site-packages")
        return packages / "kedro_telemetry" / "plugin.py"

    def python(self, plugin: str, *arguments: str | Path) -> None:
        python = self.folder / plugin / "venv" / "bin" / "python"
        env = {
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "",
        }  # it compiles what it installs
        subprocess.run([python, *arguments], check=True, env=env)

    def start(
        self, plugin: str, kind: str, *arguments: str, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start the Python of this environment in its project for this collector."""
        home = self.folder / plugin
        env = support.clean_environment(home, **variables, **{ADDRESS: self.urls[kind]})
        del env["PYTHONPATH"]  # the guard of the tests would be measured, too
        command = [str(home / "venv" / "bin" / "python"), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=home / kind, env=env, stdin=pipe, stdout=pipe, stderr=pipe
        )

    def probe(self, plugin: str, what: str, kind: str = "answers") -> float:
        """Run a function of benchmark_probe.py, with this kind of collector."""
        process = self.start(plugin, kind, PROBE, what, BENCHMARK_NODES=str(NODES))
        return float(finish(process).splitlines()[-1])


def finish(process: subprocess.Popen[bytes]) -> bytes:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    return output


def reap_senders() -> None:
    """Wait until each adopted sender has ended."""
    with suppress(ChildProcessError):
        while True:
            os.wait()


def take_turns(measures: Measures, repetitions: int, warm_up: int) -> Found:
    """Measure each case so many times, in random order."""
    found: Found = {case: [] for case in measures}
    for turn in range(warm_up + repetitions):
        for case in random.sample(list(measures), len(measures)):
            figure = measures[case]()
            reap_senders()
            if turn >= warm_up:
                found[case].append(figure)
    return found


def difference(first: list[float], second: list[float]) -> str:
    """Return the median of the differences of pairs, with their quartiles."""
    pairs = [a - b for a, b in zip(first, second, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return f"{middle:+.0f} ({low:.0f} to {high:.0f})"


def section(title: str, text: str, head: str, rows: Sequence[Sequence[str]]) -> str:
    """Return a section with a table, in Markdown."""
    lines = [f"\n## {title}\n\n{text}\n", f"| {head} |", "|---" * len(rows[0]) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


HEAD: Final = f" | this plugin | official plugin {OFFICIAL}"


def run_command(bench: Bench, command: str, state: str) -> float:
    plugin, _, switch = state.partition(" ")
    variables = {} if switch == "on" else {"DO_NOT_TRACK": "1"}
    start = time.perf_counter()
    arguments = ["-m", "kedro", *command.split()]
    process = bench.start(plugin, "answers", *arguments, **variables)
    process.wait()  # a short output fits into the pipes
    end = time.perf_counter()
    finish(process)
    return (end - start) * 1000


def whole_commands(bench: Bench) -> str:
    every_core = os.sched_getaffinity(0)
    places = {"one core": {max(every_core)}, "all cores": every_core}
    states = ("none", "ours off", "ours on", "official off", "official on")
    compared = ((1, 0), (2, 1), (3, 0), (4, 3))
    rows = []
    for command, place in itertools.product(("registry list", "run"), places):
        # This is for the processes that this thread starts, so not for the collector.
        os.sched_setaffinity(0, places[place])
        measures: Measures = {
            (s,): partial(run_command, bench, command, s) for s in states
        }
        found = list(take_turns(measures, *bench.turns(25, 2)).values())
        none = f"{statistics.median(found[0]):.0f}"
        extra = [difference(found[a], found[b]) for a, b in compared]
        rows.append([f"`kedro {command}`, {place}", none, *extra])
    text = (
        "A command without a plugin, and the extra time with one: the median of the"
        " differences of pairs, with their quartiles. Off is compared with no plugin,"
        " and on with off."
    )
    head = " | no plugin | this, off | this, on | official, off | official, on"
    return section("Whole commands, in ms", text, head, rows)


def count_events(bench: Bench, plugin: str, commands: int) -> int:
    """Run the hooks of so many commands. Return how many events arrive."""
    collector = bench.add_collector(f"events of {plugin}", support.answer_ok)
    process = bench.start(plugin, f"events of {plugin}", PROBE, "many")
    assert process.stdin
    for sent in range(commands):
        while sent - len(collector.requests) >= IN_FLIGHT:
            assert process.poll() is None
            time.sleep(0.002)
        process.stdin.write(b"\n")
        process.stdin.flush()
    finish(process)
    reap_senders()
    return len(collector.requests)


def in_process(bench: Bench) -> str:
    def probes(plugin: str, kinds: list[str]) -> Measures:
        return {(plugin, k): partial(bench.probe, plugin, "command", k) for k in kinds}

    # The official plugin waits for these: once is enough, and both at the same time.
    slow = network.side_by_side(partial(bench.probe, "official", "command"), SLOW)
    found: Found = {("official", k): [t] for k, t in zip(SLOW, slow, strict=True)}
    measures = probes("ours", list(COLLECTORS)) | probes("official", FAST)
    measures["ours", "minimum"] = partial(bench.probe, "ours", "minimum")
    found |= take_turns(measures, *bench.turns(25, 3))
    measures = {(p, "run"): partial(bench.probe, p, "large_run") for p in PLUGINS}
    found |= take_turns(measures, *bench.turns(7, 2))

    times = {case: statistics.median(figures) for case, figures in found.items()}
    minimum = times["ours", "minimum"]
    slowest = max(times["ours", kind] for kind in COLLECTORS)
    fastest = min(times["official", kind] for kind in COLLECTORS)
    commands = 100 if bench.quick else 1000
    events = [f"{count_events(bench, plugin, commands):,}" for plugin in PLUGINS]
    rows = [
        [
            f"the collector {k}",
            f"{times['ours', k]:.2f}",
            f"{times['official', k]:,.1f}",
        ]
        for k in COLLECTORS
    ]
    large = [f"{times[plugin, 'run']:.1f}" for plugin in PLUGINS]
    rows += [
        ["the minimum", f"{minimum:.2f}", ""],
        ["the slowest, divided by the minimum", f"{slowest / minimum:.1f}", ""],
        [
            "the official's fastest, divided by our slowest",
            "",
            f"{fastest / slowest:.0f}",
        ],
        [f"`kedro run` with {NODES:,} nodes and datasets", *large],
        [f"events that arrive of {commands:,} commands", *events],
    ]
    text = (
        "Import, hooks, and the start of the sender. The minimum is what such a plugin"
        " needs at least: import an empty module of its package, read a small file,"
        " start `python -I -S -B` with an empty file."
    )
    return section("In the `kedro` process, in ms", text, HEAD, rows)


def senders(bench: Bench, pythons: Sequence[str]) -> str:
    """Run the sender as the plugin starts it, over TLS, with each Python."""
    authority = network.Authority(bench.folder)
    system = ssl.get_default_verify_paths().cafile
    if system:  # these certificates take memory as well
        with authority.file.open("ab") as file:
            file.write(Path(system).read_bytes())
    answer = network.over_tls(authority.context())
    collector = bench.stack.enter_context(support.collecting(answer))
    env = authority.trust | {ADDRESS: network.secure_url(collector)}
    rows = []
    for python in pythons:
        command = [python, "-I", "-S", "-c", LAUNCHER, str(bench.plugin("ours"))]
        found = [
            json.loads(subprocess.check_output(command, input=support.MESSAGE, env=env))
            for _ in range(sum(bench.turns(7, 2)))
        ]
        memory = statistics.median(each["memory"] for each in found)
        cpu = statistics.median(each["cpu"] for each in found)
        rows.append([f"Python {found[0]['version']}", f"{memory:.1f}", f"{cpu:.0f}"])
    text = "Nobody waits for this process. It sends one event over TLS."
    return section("The sender", text, " | memory, MB | CPU time, ms", rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most two minutes")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="for the report")
    parser.add_argument(
        "--python", action="append", default=[], help="run the sender with it as well"
    )
    options = parser.parse_args()
    network.adopt_orphans()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        bench = Bench(Path(name).resolve(), stack, options.quick)
        cores, linux = len(os.sched_getaffinity(0)), platform.release().split("-")[0]
        text = (
            f"# Benchmark\n\nOne run of `benchmark.py` on {cores} cores, with Linux"
            f" {linux}, Python {platform.python_version()} and Kedro {KEDRO}. Times are"
            " medians. The collector is on the same machine. Only the address of the"
            " official plugin was changed.\n"
        )
        text += whole_commands(bench) + in_process(bench)
        text += senders(bench, [sys.executable, *options.python])
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
