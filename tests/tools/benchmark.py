"""Measure this plugin beside the official one, and beside no plugin (Linux).

It makes the environments that it needs, and runs everything on loopback. Times are
medians of repetitions that take turns. Each waits until the sender of the one before
has ended.
"""

from __future__ import annotations

import argparse
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

import namespace
import network
import support

KEDRO: Final = "1.7.0"
OFFICIAL: Final = "0.9.0"
PROBE: Final = str(Path(__file__).with_name("benchmark_probe.py"))
NODES: Final = 10_000  # of a large project, and datasets
IN_FLIGHT: Final = 16  # events under way at a time

# Starts a sender and prints what it took. (Started by a large process, its memory would
# be counted with that of the large one.)
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

def same(data):
    return data

def register_pipelines():
    nodes = [node(one, None, "data_0", name="node_0")]
    for i in range(1, int(os.environ.get("BENCHMARK_NODES", "2"))):
        nodes.append(node(same, f"data_{i - 1}", f"data_{i}", name=f"node_{i}"))
    return {"__default__": Pipeline(nodes)}
"""

Figures = dict[str, float]
Case = tuple[str, ...]  # what is measured
Measures = dict[Case, Callable[[], Figures]]


# --- Collectors ---

FAST: Final = ("answers", "resets", "is absent")
SLOW: Final = ("answers after 1 s", "never answers", "trickles for 6 s")


def answer_late(connection: socket.socket, collector: support.Collector) -> None:
    collector.requests.append(support.read_request(connection))
    time.sleep(1)
    connection.sendall(support.OK)


def never_answer(connection: socket.socket, collector: support.Collector) -> None:
    collector.requests.append(support.read_request(connection))
    connection.recv(1)  # returns when the other side has gone


def reset(connection: socket.socket, collector: support.Collector) -> None:
    at_once = b"\1\0\0\0\0\0\0\0"  # struct linger: on, for 0 seconds
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)


def trickle(connection: socket.socket, collector: support.Collector) -> None:
    collector.requests.append(support.read_request(connection))
    for byte in b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"[-12:]:
        connection.sendall(bytes([byte]))
        time.sleep(0.5)


@contextmanager
def collectors() -> Iterator[dict[str, str]]:
    """Yield the URL of a collector of each kind."""
    kinds: dict[str, support.Answer] = {
        "answers": support.answer_ok,
        "resets": reset,
        "answers after 1 s": answer_late,
        "never answers": never_answer,
        "trickles for 6 s": trickle,
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
    """Folders of `none`, `ours` and `official`: environment, home and project."""

    folder: Path
    quick: bool
    urls: dict[str, str] = field(default_factory=dict)  # of collectors, by kind

    def python(self, plugin: str) -> str:
        return str(self.folder / plugin / "venv" / "bin" / "python")

    def packages(self, plugin: str) -> Path:
        (packages,) = (self.folder / plugin / "venv").glob("lib/python3*/site-packages")
        return packages

    def sender(self) -> str:
        return str(self.packages("ours") / "kedro_telemetry" / "plugin.py")

    def pip(self, plugin: str, *arguments: str) -> None:
        env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # it compiles what it installs
        pip = [self.python(plugin), "-m", "pip", "-q", *arguments]
        subprocess.run(pip, check=True, env=env)

    def make_environments(self) -> None:
        venv = self.folder / "none" / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        self.pip("none", "install", f"kedro=={KEDRO}")
        self.pip("none", "uninstall", "-y", "kedro-telemetry")  # Kedro requires one
        for plugin in ("ours", "official"):
            shutil.copytree(venv, self.folder / plugin / "venv", symlinks=True)
        self.pip("ours", "install", str(support.ROOT))
        self.pip("official", "install", f"kedro-telemetry=={OFFICIAL}")

        # Only the address of the official plugin is changed, so that nothing leaves.
        file = self.packages("official") / "kedro_telemetry" / "plugin.py"
        address = '"https://heapanalytics.com/api/track"'
        before, after = file.read_text().split(address)
        file.write_text(f'{before}os.environ["KEDRO_TELEMETRY_ENDPOINT"]{after}')
        empty = self.packages("ours") / "benchmark_empty"
        empty.mkdir()
        (empty / "__init__.py").touch()
        (empty / "plugin.py").touch()
        compileall = [
            self.python("ours"),
            "-m",
            "compileall",
            "-q",
            str(file),
            str(empty),
        ]
        subprocess.run(compileall, check=True, env={})

    def make_projects(self) -> None:
        project = support.make_project(self.folder, self.folder, "weather")
        (project / "src" / "weather" / "pipeline_registry.py").write_text(REGISTRY)
        git = ["git", "-C", str(project), "-c", "user.name=x", "-c", "user.email=x"]
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
            subprocess.run([*git, *arguments], check=True)
        for plugin in ("none", "ours", "official"):
            support.copy_project(project, self.folder / plugin / "project")
            (self.folder / plugin / "home").mkdir()

    def start(
        self, plugin: str, *arguments: str, kind: str = "answers", **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start this plugin's Python in its project, with this kind of collector."""
        home = self.folder / plugin / "home"
        env = support.clean_environment(home, **variables)
        env["KEDRO_TELEMETRY_ENDPOINT"] = self.urls.get(kind, kind)
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
        process = self.start(plugin, PROBE, what, kind=kind, BENCHMARK_NODES=str(NODES))
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
        figures: Figures = json.loads(output.splitlines()[-1])
        return figures


def reap_senders() -> float:
    """Wait until each adopted sender has ended. Return their CPU time in ms."""
    cpu = 0.0
    with suppress(ChildProcessError):
        while True:
            _, _, usage = os.wait4(-1, 0)
            cpu += (usage.ru_utime + usage.ru_stime) * 1000
    return cpu


# --- Statistics ---


def take_turns(
    measures: Measures, repetitions: int, warm_up: int = 1
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
    low, middle, high = statistics.quantiles(pairs, n=4)
    return f"{middle:+.0f} ({low:+.0f} to {high:+.0f})"


def section(title: str, text: str, head: str, rows: list[list[str]]) -> str:
    """Return a section with a table, in Markdown."""
    columns = head.count("|")
    lines = [f"\n## {title}\n\n{text}\n", f"| {head} |", "|---|" + "--:|" * columns]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


# --- Measurements: each returns a section of the report ---

HEAD: Final = f" | this plugin | official plugin {OFFICIAL}"
CASES: Final = ("no plugin", "ours off", "ours on", "official off", "official on")


def run_command(bench: Bench, command: str, case: str, cores: set[int]) -> Figures:
    plugin, _, state = case.replace("no plugin", "none").partition(" ")
    switch = {} if state == "on" else {"DO_NOT_TRACK": "1"}
    every_core = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # of this thread and the processes that it starts
    start = time.perf_counter()
    process = bench.start(plugin, "-m", "kedro", *command.split(), **switch)
    _, process.returncode, usage = os.wait4(process.pid, 0)
    wall = (time.perf_counter() - start) * 1000
    os.sched_setaffinity(0, every_core)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    return {"all": wall, "cpu": (usage.ru_utime + usage.ru_stime) * 1000}


def whole_commands(bench: Bench) -> str:
    cores = os.sched_getaffinity(0)
    places = {"one core": {max(cores)}, "all cores": cores}
    commands = ("registry list", "run")
    measures: Measures = {
        (command, where, case): partial(run_command, bench, command, case, place)
        for command in commands
        for where, place in places.items()
        for case in CASES
    }
    found = take_turns(measures, 3 if bench.quick else 21)
    rows = []
    for key, what in (("all", ""), ("cpu", ", CPU time")):
        for command in commands:
            for where in places:
                none, ours_off, ours_on, official_off, official_on = (
                    found[command, where, case] for case in CASES
                )
                rows.append(
                    [
                        f"`kedro {command}`, {where}{what}",
                        f"{median(none, key):.0f}",
                        difference(ours_off, none, key),
                        difference(ours_on, ours_off, key),
                        difference(official_off, none, key),
                        difference(official_on, official_off, key),
                    ]
                )
    return section(
        "Whole commands, in ms",
        "Medians of the differences between pairs of commands, with the quartiles. CPU"
        " time includes that of the sender.",
        "command | without a plugin | this plugin off | this plugin on, compared with"
        " off | official plugin off | official plugin on, compared with off",
        rows,
    )


def in_process(bench: Bench) -> tuple[str, dict[str, tuple[float, float]]]:
    """Return the times of both plugins by collector as well, for the chart."""

    def probes(plugin: str, kinds: Sequence[str]) -> Measures:
        return {(k, plugin): partial(bench.probe, plugin, "command", k) for k in kinds}

    # The official plugin waits for these: once is enough, and all at the same time.
    slow = network.side_by_side(partial(bench.probe, "official", "command"), SLOW)
    found: dict[Case, list[Figures]] = {}
    for kind, figures in zip(SLOW, slow, strict=True):
        found[kind, "official"] = [figures]
    found |= take_turns(probes("ours", SLOW), *((1, 0) if bench.quick else (7, 1)))
    measures = probes("ours", FAST) | probes("official", FAST)
    measures["floor", "ours"] = partial(bench.probe, "ours", "floor")
    found |= take_turns(measures, 5 if bench.quick else 21)

    kinds = (*FAST, *SLOW)
    times = {k: (median(found[k, "ours"]), median(found[k, "official"])) for k in kinds}
    rows = []
    for kind, (ours, official) in times.items():
        rows.append([f"the collector {kind}", f"{ours:.2f}", f"{official:,.1f}"])
    for part in ("import", "before the command", "after the command"):
        two = [median(found["answers", p], part) for p in ("ours", "official")]
        rows.append([f"of the first row: {part}", f"{two[0]:.2f}", f"{two[1]:.1f}"])
    floor = median(found["floor", "ours"])
    slowest = max(ours for ours, _ in times.values())
    fastest = min(official for _, official in times.values())
    rows += [
        ["the floor", f"{floor:.2f}", f"{floor:.2f}"],
        ["slowest row / floor", f"{slowest / floor:.1f}", ""],
        [
            "official, fastest row / this plugin, slowest row",
            f"{fastest / slowest:.0f}",
            "",
        ],
    ]
    text = (
        "What the plugin adds to the `kedro` process: import, hooks, and the start of"
        " the sender. The floor is what the least possible plugin would take: import an"
        " empty module of a package, read a small file, and start `python -I -S -B`"
        " with an empty file."
    )
    return section("In the user's process, in ms", text, HEAD, rows), times


def loads(bench: Bench) -> str:
    """What grows: the project, and the number of commands."""
    measures: Measures = {
        (plugin,): partial(bench.probe, plugin, "large_run")
        for plugin in ("ours", "official")
    }
    found = take_turns(measures, 2 if bench.quick else 7)
    events = 100 if bench.quick else 1000
    arrived, sizes, lines = [], [], []
    for plugin in ("ours", "official"):
        lines.append(f"{bench.probe(plugin, 'command')['lines']:,.0f}")
        requests = send_many(bench, plugin, events)
        sizes.append(f"{statistics.median(len(request) for request in requests):.0f}")
        bodies = [json.loads(r.partition(b"\r\n\r\n")[2]) for r in requests]
        users = len({body["identity"] for body in bodies})
        arrived.append(f"{len(bodies):,} of {users:,} users")
    rows = [
        [
            f"hooks of `kedro run` with {NODES:,} nodes and datasets, ms",
            *(f"{median(figures):.1f}" for figures in found.values()),
        ],
        ["lines of Python that are loaded, libraries included", *lines],
        ["bytes of a request", *sizes],
        [f"events that arrive from {events:,} commands of {events:,} users", *arrived],
    ]
    return section("Load", "", HEAD, rows)


def send_many(bench: Bench, plugin: str, events: int) -> list[bytes]:
    """Run the hooks of so many commands, each of another user. Return the requests."""
    with support.collecting() as collector:
        process = bench.start(plugin, PROBE, "many", kind=collector.url)
        assert process.stdin
        for sent in range(events):
            end = time.monotonic() + 10
            while sent - len(collector.requests) >= IN_FLIGHT:
                assert time.monotonic() < end, "events are lost"
                time.sleep(0.002)
            process.stdin.write(b"\n")
            process.stdin.flush()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
        reap_senders()
        return collector.requests


def senders(bench: Bench, pythons: Sequence[str]) -> str:
    """The sender as it starts it, without `kedro`: with TLS, and by collector."""
    authority = network.Authority(bench.folder)
    bundle = ssl.get_default_verify_paths().cafile  # as large as a real one
    if bundle:
        with authority.file.open("ab") as file:
            file.write(Path(bundle).read_bytes())

    def launch(python: str, url: str) -> Figures:
        done = subprocess.run(
            [python, "-I", "-S", "-c", LAUNCHER, bench.sender()],
            input=network.MESSAGE,
            env=authority.trust | {"KEDRO_TELEMETRY_ENDPOINT": url},
            capture_output=True,
            timeout=60,
            check=True,
        )
        figures: Figures = json.loads(done.stdout)
        return figures

    answer = network.over_tls(authority.context())
    with support.collecting(answer) as collector:
        url = network.secure_url(collector)
        measures: Measures = {(p,): partial(launch, p, url) for p in pythons}
        found = take_turns(measures, 2 if bench.quick else 7)
        assert len(collector.requests) == len(pythons) * (3 if bench.quick else 8)
    rows = []
    for (python,), figures in found.items():
        name = f"with Python {version(python)}, TLS and the certificates of the system"
        memory, cpu = median(figures, "memory"), median(figures, "cpu")
        rows.append([name, f"{memory:.1f} MB", f"{cpu:.0f} ms", ""])
    kinds = list(bench.urls)
    lives = network.side_by_side(lambda k: launch(pythons[0], bench.urls[k]), kinds)
    for kind, life in zip(kinds, lives, strict=True):
        rows.append([f"a collector that {kind}", "", "", f"{life['seconds']:.1f} s"])
    text = "The second process, which the user does not wait for."
    head = "the sender | memory | CPU time | ends after"
    return section("The sender", text, head, rows)


# --- Output ---


def version(python: str) -> str:
    code = "import platform; print(platform.python_version())"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, check=False)
    return done.stdout.decode().strip()


def find_pythons(others: Sequence[str]) -> list[str]:
    """Return each Python from 3.10 to 3.14 on this machine, of pyenv or of PATH."""
    found = {version(python): python for python in others}
    for minor in range(10, 15):
        installed = Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3")
        for python in (*map(str, installed), shutil.which(f"python3.{minor}")):
            if python and not any(v.startswith(f"3.{minor}.") for v in found):
                found |= {version(python): python}
    found.pop("", None)  # a shim without a Python behind it
    return [found[v] for v in sorted(found, key=lambda v: int(v.split(".")[1]))]


def draw(times: dict[str, tuple[float, float]], file: Path) -> None:
    """Draw what a user waits for, by collector. One colour for each plugin."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "kedro-telemetry", "font.size": 11}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
    figure.set_facecolor("#f6f8fa")  # also readable on a dark page
    axes.set_facecolor("#f6f8fa")
    for plugin, name, colour, offset in (
        (1, f"official plugin {OFFICIAL}", "#9a6700", -0.2),
        (0, "this plugin", "#0a6b4f", 0.2),
    ):
        values = [pair[plugin] for pair in times.values()]
        places = [row + offset for row in range(len(values))]
        bars = axes.barh(places, values, 0.38, color=colour, label=name)
        labels = [f"{v / 1000:.1f} s" if v >= 1000 else f"{v:.1f} ms" for v in values]
        axes.bar_label(bars, labels, padding=4)
    axes.set(xscale="log", xlim=(1, 60_000))
    axes.set_title("Time that a user waits for one event, by what the collector does")
    axes.set_xticks(
        [1, 10, 100, 1000, 10_000], ["1 ms", "10 ms", "0.1 s", "1 s", "10 s"]
    )
    axes.set_yticks(range(len(times)), list(times))
    axes.invert_yaxis()
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(file, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most two minutes")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="for the tables")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="for the chart")
    parser.add_argument(
        "--python", action="append", default=[], help="run the sender with it as well"
    )
    options = parser.parse_args()
    namespace.adopt_orphans()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        bench = Bench(Path(name).resolve(), options.quick)
        print("Making the environments ...", file=sys.stderr)
        bench.make_environments()
        bench.make_projects()
        with suppress(OSError):  # where this is allowed, nothing can leave the machine
            namespace.enter()
        bench.urls = stack.enter_context(collectors())
        print("Measuring ...", file=sys.stderr)
        process, times = in_process(bench)
        parts = [
            "# Benchmark\n\nWritten by `benchmark.py`. Medians of one run, on"
            f" {os.cpu_count()} cores, Linux {platform.release().partition('-')[0]},"
            f" Python {platform.python_version()} and Kedro {KEDRO}. The collector is"
            " on the same machine. The official plugin is version"
            f" {OFFICIAL}; only its address is changed.\n",
            whole_commands(bench),
            process,
            loads(bench),
            senders(bench, find_pythons(options.python)),
        ]
    text = "".join(parts)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.chart:
        draw(times, options.chart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
