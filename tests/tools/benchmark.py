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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
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

# Starts a sender and prints what it took. A small process does this, since Linux counts
# the memory of the process that starts another as that of the other.
LAUNCHER: Final = """
import json, os, subprocess, sys, time
start = time.monotonic()
sender = subprocess.Popen([sys.executable, "-I", "-S", "-B", sys.argv[1]])
_, _, usage = os.wait4(sender.pid, 0)
seconds = time.monotonic() - start
cpu = (usage.ru_utime + usage.ru_stime) * 1000
print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": usage.ru_maxrss / 1024}))
"""
REGISTRY: Final = """
import os
from kedro.pipeline import Pipeline, node

def one():
    return 1

def register_pipelines():
    numbers = range(int(os.environ.get("BENCHMARK_NODES", "2")))
    nodes = [node(one, None, f"data_{i}", name=f"node_{i}") for i in numbers]
    return {"__default__": Pipeline(nodes)}
"""

Figures = dict[str, float]  # times in milliseconds; "all" is the whole time
Case = tuple[str, ...]  # what is measured
Measures = dict[Case, Callable[[], Figures]]


# --- Collectors ---

FAST: Final = ("answers", "resets", "is absent")
SLOW: Final = ("answers after 1 s", "never answers", "trickles for 6 s")


def answer_slowly(pause: float, pause_between_bytes: float) -> support.Answer:
    def answer(connection: socket.socket, collector: support.Collector) -> None:
        collector.requests.append(support.read_request(connection))
        time.sleep(pause)
        for byte in b"HTTP/1.1 200 OK\r\n\r\n":  # 19 bytes
            connection.sendall(bytes([byte]))
            time.sleep(pause_between_bytes)

    return answer


def never_answer(connection: socket.socket, collector: support.Collector) -> None:
    collector.requests.append(support.read_request(connection))
    connection.recv(1)  # returns when the other side has gone


def reset(connection: socket.socket, collector: support.Collector) -> None:
    at_once = b"\1\0\0\0\0\0\0\0"  # struct linger: on, for 0 seconds
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)


@contextmanager
def collectors() -> Iterator[dict[str, str]]:
    """Yield the URL of a collector of each kind."""
    kinds: dict[str, support.Answer] = {
        "answers": support.answer_ok,
        "resets": reset,
        "answers after 1 s": answer_slowly(1, 0),
        "never answers": never_answer,
        "trickles for 6 s": answer_slowly(0, 6 / 19),
    }
    with ExitStack() as stack:
        urls = {}
        for name, answer in kinds.items():
            urls[name] = stack.enter_context(support.collecting(answer)).url
        closed = support.Collector()
        closed.close()
        yield urls | {"is absent": closed.url}


# --- Environments and processes ---


@dataclass
class Bench:
    """An environment, a home and a project for `none`, `ours` and `official`."""

    folder: Path
    quick: bool
    urls: dict[str, str] = field(default_factory=dict)  # of collectors, by kind

    def turns(self, full: int, quick: int) -> tuple[int, int]:
        """Return how many repetitions to measure, and how many to warm up."""
        return (quick, 0) if self.quick else (full, 1)

    def python(self, plugin: str) -> str:
        return str(self.folder / plugin / "venv" / "bin" / "python")

    def packages(self, plugin: str) -> Path:
        (packages,) = (self.folder / plugin / "venv").glob("lib/python3*/site-packages")
        return packages

    def pip(self, plugin: str, *arguments: str) -> None:
        env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # it compiles what it installs
        pip = [self.python(plugin), "-m", "pip", "-qq", *arguments]
        subprocess.run(pip, check=True, env=env)

    def make_environments(self) -> None:
        venv = self.folder / "none" / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        self.pip("none", "install", f"kedro=={KEDRO}")
        self.pip("none", "uninstall", "-y", "kedro-telemetry")  # Kedro requires one
        for plugin in PLUGINS:
            shutil.copytree(venv, self.folder / plugin / "venv", symlinks=True)
        self.pip("ours", "install", str(support.ROOT))
        self.pip("official", "install", f"kedro-telemetry=={OFFICIAL}")

        # Only the address of the official plugin is changed, so that nothing leaves.
        file = self.packages("official") / "kedro_telemetry" / "plugin.py"
        before, after = file.read_text().split('"https://heapanalytics.com/api/track"')
        file.write_text(f'{before}os.environ["KEDRO_TELEMETRY_ENDPOINT"]{after}')
        empty = self.packages("ours") / "benchmark_empty"
        empty.mkdir()
        for name in ("__init__.py", "plugin.py"):
            (empty / name).touch()
        arguments = ["-m", "compileall", "-q", str(empty), str(file)]
        subprocess.run([self.python("ours"), *arguments], check=True, env={})

    def make_projects(self) -> None:
        """Make a project in a git repository, as `kedro` users have."""
        project = support.make_project(self.folder, self.folder, "weather")
        (project / "src" / "weather" / "pipeline_registry.py").write_text(REGISTRY)
        git = ["git", "-C", str(project), "-c", "user.name=x", "-c", "user.email=x"]
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
            subprocess.run([*git, *arguments], check=True)
        for plugin in ("none", *PLUGINS):
            support.copy_project(project, self.folder / plugin / "project")
            (self.folder / plugin / "home").mkdir()

    def start(
        self, plugin: str, *arguments: str, url: str, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start the Python of this environment in its project."""
        env = support.clean_environment(self.folder / plugin / "home", **variables)
        env["KEDRO_TELEMETRY_ENDPOINT"] = url
        del env["PYTHONPATH"]  # the guard of the tests would be measured, too
        return subprocess.Popen(
            [self.python(plugin), *arguments],
            cwd=self.folder / plugin / "project",
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def probe(self, plugin: str, what: str, kind: str = "answers") -> Figures:
        """Run a function of benchmark_probe.py, with this kind of collector."""
        nodes = {"BENCHMARK_NODES": str(NODES)}
        process = self.start(plugin, PROBE, what, url=self.urls[kind], **nodes)
        figures: Figures = json.loads(finish(process).splitlines()[-1])
        return figures


def finish(process: subprocess.Popen[bytes]) -> bytes:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    return output


def reap_senders() -> float:
    """Wait until each adopted sender has ended. Return their CPU time."""
    cpu = 0.0
    with suppress(ChildProcessError):
        while True:
            _, _, usage = os.wait4(-1, 0)
            cpu += (usage.ru_utime + usage.ru_stime) * 1000
    return cpu


# --- Statistics ---


def take_turns(
    measures: Measures, repetitions: int, warm_up: int
) -> dict[Case, list[Figures]]:
    """Measure each case so many times, in random order."""
    found: dict[Case, list[Figures]] = {case: [] for case in measures}
    for turn in range(warm_up + repetitions):
        for case in random.sample(list(measures), len(measures)):
            figures = measures[case]()
            figures["cpu"] = figures.get("cpu", 0) + reap_senders()
            if turn >= warm_up:
                found[case].append(figures)
    return found


def median(figures: list[Figures], key: str = "all") -> float:
    return statistics.median(figure[key] for figure in figures)


def difference(first: list[Figures], second: list[Figures], key: str) -> str:
    """Return the median of the differences of pairs, with their quartiles."""
    pairs = [a[key] - b[key] for a, b in zip(first, second, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return f"{middle:+.0f} ({low:.0f} to {high:.0f})"


def section(title: str, text: str, head: str, rows: Sequence[Sequence[str]]) -> str:
    """Return a section with a table, in Markdown."""
    columns = head.count("|")
    lines = [f"\n## {title}\n\n{text}\n", f"| {head} |", "|---|" + "--:|" * columns]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


# --- Measurements: each returns a section of the report ---

COMMANDS: Final = ("registry list", "run")
COMPARED: Final = {
    "ours off": "none",
    "ours on": "ours off",
    "official off": "none",
    "official on": "official off",
}
HEAD: Final = f" | this plugin | official plugin {OFFICIAL}"


def run_command(bench: Bench, command: str, state: str, cores: set[int]) -> Figures:
    plugin, _, switch = state.partition(" ")
    variables = {} if switch == "on" else {"DO_NOT_TRACK": "1"}
    arguments = ["-m", "kedro", *command.split()]
    every_core = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # of this thread and the processes that it starts
    start = time.perf_counter()
    process = bench.start(plugin, *arguments, url=bench.urls["answers"], **variables)
    _, process.returncode, usage = os.wait4(process.pid, 0)
    wall = (time.perf_counter() - start) * 1000
    os.sched_setaffinity(0, every_core)
    finish(process)
    return {"all": wall, "cpu": (usage.ru_utime + usage.ru_stime) * 1000}


def whole_commands(bench: Bench) -> str:
    every_core = os.sched_getaffinity(0)
    places = {"one core": {max(every_core)}, "all cores": every_core}
    rows: dict[str, list[list[str]]] = {"all": [], "cpu": []}
    for command, (place, cores) in itertools.product(COMMANDS, places.items()):
        measures: Measures = {
            (state,): partial(run_command, bench, command, state, cores)
            for state in ("none", *COMPARED)
        }
        found = take_turns(measures, *bench.turns(25, 4))
        for key, what in (("all", "time"), ("cpu", "CPU time")):
            name = f"`kedro {command}`, {place}, {what}"
            row = [name, f"{median(found[('none',)], key):.0f}"]
            for state, other in COMPARED.items():
                row.append(difference(found[(state,)], found[(other,)], key))
            rows[key].append(row)
    text = (
        "How much longer a command takes: the median of the differences of pairs, and"
        " their quartiles. CPU time includes that of the sender."
    )
    head = (
        " | no plugin | this plugin off, more than none | this plugin on, more than off"
        " | official off, more than none | official on, more than off"
    )
    return section("Whole commands, in ms", text, head, rows["all"] + rows["cpu"])


def in_process(bench: Bench) -> tuple[str, dict[str, tuple[float, float]]]:
    """Return the times of both plugins by collector as well, for the chart."""

    def probes(plugin: str, kinds: Sequence[str]) -> Measures:
        return {(k, plugin): partial(bench.probe, plugin, "command", k) for k in kinds}

    # The official plugin waits for these: once is enough, and all at the same time.
    slow = network.side_by_side(partial(bench.probe, "official", "command"), SLOW)
    found: dict[Case, list[Figures]] = {}
    for kind, figures in zip(SLOW, slow, strict=True):
        found[kind, "official"] = [figures]
    found |= take_turns(probes("ours", SLOW), *bench.turns(4, 1))
    measures = probes("ours", FAST) | probes("official", FAST)
    measures["floor", "ours"] = partial(bench.probe, "ours", "floor")
    found |= take_turns(measures, *bench.turns(15, 5))

    times, rows = {}, []
    for kind in (*FAST, *SLOW):
        ours, official = median(found[kind, "ours"]), median(found[kind, "official"])
        times[kind] = (ours, official)
        rows.append([f"the collector {kind}", f"{ours:.2f}", f"{official:,.1f}"])
    for part in ("import", "before the command", "after the command"):
        ours, official = (median(found["answers", p], part) for p in PLUGINS)
        rows.append([f"of the first row: {part}", f"{ours:.2f}", f"{official:.1f}"])
    floor = median(found["floor", "ours"])
    slowest = max(ours for ours, _ in times.values())
    fastest = min(official for _, official in times.values())
    rows += [
        ["the floor", f"{floor:.2f}", ""],
        ["the slowest row, divided by the floor", f"{slowest / floor:.1f}", ""],
        ["the official's fastest, divided by that", "", f"{fastest / slowest:.0f}"],
    ]
    text = (
        "Import, hooks, and the start of the sender. The floor is the least that such a"
        " plugin takes: import an empty module of a package, read a small file, start"
        " `python -I -S -B` with an empty file."
    )
    return section("In the `kedro` process, in ms", text, HEAD, rows), times


def send_many(bench: Bench, plugin: str, events: int) -> list[bytes]:
    """Run the hooks of so many commands, each of another user. Return the requests."""
    with support.collecting() as collector:
        process = bench.start(plugin, PROBE, "many", url=collector.url)
        assert process.stdin
        for sent in range(events):
            end = time.monotonic() + 10
            while sent - len(collector.requests) >= IN_FLIGHT:
                assert time.monotonic() < end, "events are lost"
                time.sleep(0.002)
            process.stdin.write(b"\n")
            process.stdin.flush()
        finish(process)
        reap_senders()
        return collector.requests


def loads(bench: Bench) -> str:
    measures: Measures = {(p,): partial(bench.probe, p, "large_run") for p in PLUGINS}
    found = take_turns(measures, *bench.turns(7, 2))
    events = 100 if bench.quick else 1000
    names = (
        f"hooks of `kedro run` with {NODES:,} nodes and datasets, ms",
        "lines of Python that are loaded, libraries included",
        "bytes of a request",
        f"events that arrive of {events:,} commands",
        f"different users in them, of {events:,}",
    )
    columns = []
    for plugin in PLUGINS:
        requests = send_many(bench, plugin, events)
        bodies = [json.loads(r.partition(b"\r\n\r\n")[2]) for r in requests]
        users = {body["identity"] for body in bodies}
        hooks = f"{median(found[(plugin,)]):.1f}"
        lines = f"{bench.probe(plugin, 'command')['lines']:,.0f}"
        size = f"{statistics.median(map(len, requests)):.0f}"
        columns.append([hooks, lines, size, f"{len(bodies):,}", f"{len(users):,}"])
    text = "The official plugin identifies a user by a file, so that all are one."
    return section("Loads", text, HEAD, list(zip(names, *columns, strict=True)))


def senders(bench: Bench, pythons: Sequence[str]) -> str:
    """Run the sender as the plugin starts it: with each Python, and each collector."""
    plugin = bench.packages("ours") / "kedro_telemetry" / "plugin.py"
    authority = network.Authority(bench.folder)
    system = ssl.get_default_verify_paths().cafile
    if system:  # these certificates take memory as well
        with authority.file.open("ab") as file:
            file.write(Path(system).read_bytes())

    def launch(python: str, url: str) -> Figures:
        done = subprocess.run(
            [python, "-I", "-S", "-c", LAUNCHER, str(plugin)],
            input=support.MESSAGE,
            env=authority.trust | {"KEDRO_TELEMETRY_ENDPOINT": url},
            capture_output=True,
            timeout=60,
            check=True,
        )
        figures: Figures = json.loads(done.stdout)
        return figures

    turns = bench.turns(7, 2)
    answer = network.over_tls(authority.context())
    with support.collecting(answer) as collector:
        url = network.secure_url(collector)
        measures: Measures = {(p,): partial(launch, p, url) for p in pythons}
        found = take_turns(measures, *turns)
        assert len(collector.requests) == len(pythons) * sum(turns)
    rows = []
    for (python,), figures in found.items():
        memory, cpu = median(figures, "memory"), median(figures, "cpu")
        rows.append(
            [f"Python {version(python)}, TLS", f"{memory:.1f}", f"{cpu:.0f}", ""]
        )
    kinds = list(bench.urls)
    lives = network.side_by_side(lambda k: launch(pythons[0], bench.urls[k]), kinds)
    for kind, life in zip(kinds, lives, strict=True):
        rows.append([f"the collector {kind}", "", "", f"{life['seconds']:.1f}"])
    head = " | memory, MB | CPU time, ms | ends after, s"
    return section("The sender", "Nobody waits for this process.", head, rows)


# --- Output ---


def version(python: str) -> str:
    code = "import platform; print(platform.python_version())"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, check=False)
    return done.stdout.decode().strip()


def find_pythons(others: Sequence[str]) -> list[str]:
    """Return a Python of each version from 3.10 to 3.14, of pyenv or of PATH."""
    folders = sorted(Path.home().glob(".pyenv/versions/3.1[0-4].*/bin"))
    pythons = [
        *others,
        sys.executable,
        *(str(folder / "python3") for folder in folders),
    ]
    pythons += [shutil.which(f"python3.{minor}") or "" for minor in range(10, 15)]
    found = {version(python): python for python in reversed(pythons) if python}
    return [found[v] for v in sorted(found) if v]


def draw(times: dict[str, tuple[float, float]], file: Path) -> None:
    """Draw what a user waits for, by plugin and collector."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "kedro-telemetry", "font.size": 11}
    from matplotlib import pyplot

    background = "#f6f8fa"  # in dark mode as well
    figure, axes = pyplot.subplots(figsize=(8, 4.4), layout="constrained")
    figure.set_facecolor(background)
    axes.set_facecolor(background)
    for plugin, name, colour, offset in (
        (1, f"official plugin {OFFICIAL}", "#7d8590", -0.2),
        (0, "this plugin", "#0a6b4f", 0.2),
    ):
        values = [pair[plugin] for pair in times.values()]
        places = [row + offset for row in range(len(values))]
        bars = axes.barh(places, values, 0.38, color=colour, label=name)
        labels = [f"{v / 1000:.1f} s" if v >= 1000 else f"{v:.1f} ms" for v in values]
        axes.bar_label(bars, labels, padding=4)
    ticks = {1: "1 ms", 10: "10 ms", 100: "0.1 s", 1000: "1 s", 10_000: "10 s"}
    axes.set(xscale="log", xlim=(0.5, 50_000))
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_yticks(range(len(times)), [f"collector {kind}" for kind in times])
    axes.set_title("How long a command waits for its telemetry (logarithmic)")
    axes.invert_yaxis()
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight", pad_inches=0.15)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most two minutes")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="for the tables")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="for the chart")
    parser.add_argument(
        "--python", action="append", default=[], help="run the sender with it as well"
    )
    options = parser.parse_args()
    network.adopt_orphans()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        bench = Bench(Path(name).resolve(), options.quick)
        print("Making the environments ...", file=sys.stderr)
        bench.make_environments()
        bench.make_projects()
        with suppress(OSError):  # where this is allowed, nothing can leave the machine
            network.enter_loopback()
        bench.urls = stack.enter_context(collectors())
        print("Measuring ...", file=sys.stderr)
        process, times = in_process(bench)
        cores, linux = len(os.sched_getaffinity(0)), platform.release().split("-")[0]
        text = (
            f"# Benchmark\n\nOne run of `benchmark.py` on {cores} cores, with Linux"
            f" {linux}, Python {platform.python_version()} and Kedro {KEDRO}. Times are"
            " medians. The collector is on the same machine. Only the address of the"
            " official plugin was changed.\n"
        )
        text += whole_commands(bench) + process + loads(bench)
        text += senders(bench, find_pythons(options.python))
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.chart:
        draw(times, options.chart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
