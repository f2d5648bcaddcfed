"""Ours beside upstream's beside no plugin: `python3 tests/benchmark.py`. Makes its own environments first.

Every figure of the table is a median of interleaved repetitions of this one run, on loopback collectors, without TLS.
Upstream's collector is hard-coded: here a finder redirects it to loopback, and the guard refuses everything else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import environment

if TYPE_CHECKING:
    import socket

    import support

KEDRO: Final = "1.7.0"
UPSTREAM: Final = "0.9.0"
PACKAGES: Final = {  # what is installed beside Kedro
    "none": [],
    "upstream": [f"kedro-telemetry=={UPSTREAM}"],
    "ours": [str(environment.ROOT)],
}
COLUMNS: Final = {"none": "no plugin", "upstream": f"upstream {UPSTREAM}", "ours": "this plugin"}
SLOW: Final = ("stays silent", "trickles for 15 s")  # upstream waits 10 s or longer for these
IN_FLIGHT: Final = 6  # events under way at a time
SIZES: Final = (10, 1_000, 10_000)

# --- What runs in the measured processes ---
SITE: Final = """\
import os, runpy, sys
from importlib.machinery import PathFinder

runpy.run_path(os.environ["BENCHMARK_GUARD"])


class Redirect:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "kedro_telemetry.plugin" or not (spec := PathFinder.find_spec(name, path)):
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            if hasattr(module, "HEAP_ENDPOINT"):
                module.HEAP_ENDPOINT = os.environ["KEDRO_TELEMETRY_ENDPOINT"]

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Redirect)
"""
PROBE: Final = '''\
"""Prints milliseconds and counts, as JSON. Timers start in a process where Kedro is loaded and the plugin is not."""
import json, os, sys, time
from pathlib import Path
from types import SimpleNamespace

clock = time.perf_counter


def note(start):
    return (clock() - start) * 1000


def load():
    from kedro_telemetry.plugin import telemetry_hook
    return telemetry_hook


def command(args):
    """A command in a project: import, before, after; and what the three load."""
    import kedro.framework.cli.cli
    from kedro.framework.startup import bootstrap_project
    metadata = bootstrap_project(Path.cwd())
    loaded = set(sys.modules)
    assert "kedro_telemetry.plugin" not in loaded
    start = clock(); hook = load(); found = {"import": note(start)}
    start = clock()
    hook.before_command_run(project_metadata=metadata, command_args=args)
    found["before"] = note(start)
    start = clock(); hook.after_command_run(); found["after"] = note(start)
    files = {getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - loaded}
    files = [file for file in files if file.endswith(".py") and os.sep + "kedro" + os.sep not in file]
    ours = [file for file in files if "site-packages" in file]
    found["lines"] = sum(Path(file).read_bytes().count(b"\\n") for file in ours)
    found["modules"] = len(set(sys.modules) - loaded)
    return found


def profile(args):
    """What `command` does with this plugin, taken apart: milliseconds by step."""
    import importlib.util, marshal
    import kedro.framework.cli.cli
    from kedro.framework.startup import bootstrap_project
    metadata = bootstrap_project(Path.cwd())
    found = {}
    def step(what, do):
        start = clock(); result = do(); found[what] = note(start)
        return result
    spec = step("finding two modules", lambda: importlib.util.find_spec("kedro_telemetry.plugin"))
    data = step("reading the byte code", lambda: spec.loader.get_data(spec.cached))
    code = step("unpacking it", lambda: marshal.loads(memoryview(data)[16:]))
    plugin = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    step("running it", lambda: exec(code, vars(plugin)))
    step("deciding", lambda: plugin.decide(os.fspath(metadata.project_path)))
    salt = step("reading the salt", plugin.read_salt)
    event = step("building the event", lambda: plugin.build(args, metadata, {}, salt or bytes(32)))
    step("checking the endpoint", plugin.collector)
    step("starting the sender", lambda: plugin.start_sender(event))
    return found


def floor():
    """What any plugin takes: an empty module where the plugin lies, a small file, an empty process."""
    import kedro.framework.cli.cli
    from kedro.framework.startup import bootstrap_project
    import subprocess
    bootstrap_project(Path.cwd())
    found, nothing = {}, subprocess.DEVNULL
    start = clock(); import benchmark_empty; found["import"] = note(start)
    start = clock(); open(".telemetry", "rb").read(); found["before"] = note(start)
    line = [sys.executable, "-I", "-S", benchmark_empty.__file__]
    start = clock()
    child = subprocess.Popen(line, stdin=nothing, stdout=nothing, stderr=nothing)
    found["after"] = note(start)
    child.wait()
    return found


def project(size):
    """`kedro run` in a project of this many datasets and nodes: all hooks, without the import."""
    import kedro.framework.cli.cli
    from kedro.framework.project import pipelines
    from kedro.framework.startup import bootstrap_project
    from kedro.io import DataCatalog
    metadata = bootstrap_project(Path.cwd())
    config = {f"data_{i}": {"type": "MemoryDataset"} for i in range(size)}
    catalog = DataCatalog.from_config(config)
    assert len(pipelines["__default__"].node_dependencies) == size and len(catalog.keys()) == size
    hook = load()
    hook.before_command_run(project_metadata=metadata, command_args=["run"])
    start = clock()
    if hasattr(hook, "before_pipeline_run"):
        hook.before_pipeline_run(run_params={"project_path": os.getcwd(), "pipeline_names": None}, catalog=catalog)
    else:
        hook.after_context_created(SimpleNamespace(project_path=metadata.project_path))
        hook.after_catalog_created(catalog)
    return {"run": note(start)}


def session():
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project
    bootstrap_project(Path.cwd())
    loaded = set(sys.modules)
    start = clock(); load()
    return {"import": note(start)}


def in_worker():
    import kedro.framework.project, kedro.runner.task
    start = clock(); load()
    return {"import": note(start)}


def worker():
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(in_worker)


def events():
    """A command for each line on standard input."""
    import kedro.framework.cli.cli
    from kedro.framework.startup import bootstrap_project
    metadata, kind = bootstrap_project(Path.cwd()), type(load())
    for _ in sys.stdin:
        hook = kind()  # upstream's sends once in its life
        hook.before_command_run(project_metadata=metadata, command_args=["registry", "list"])
        hook.after_command_run()
    return {}


def sealed():
    from kedro.framework.startup import bootstrap_project
    from kedro_telemetry import plugin
    args = ["run", "--pipeline=ds", "--env=base"]
    return {"event": plugin.build(args, bootstrap_project(Path.cwd()), {}, bytes(32)).decode()}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.stdin.readline()))))
'''
LAUNCH: Final = """\
import json, os, subprocess, sys, time
start = time.perf_counter()
sender = subprocess.Popen(sys.argv[1:])
_, _, usage = os.wait4(sender.pid, 0)
scale = 2**20 if sys.platform == "darwin" else 2**10
print(json.dumps({"exit": (time.perf_counter() - start) * 1000, "cpu": (usage.ru_utime + usage.ru_stime) * 1000,
                  "memory": usage.ru_maxrss / scale}))
"""
REGISTRY: Final = """\
import os
from kedro.pipeline import Pipeline, node


def same(data):
    return data


def register_pipelines():
    size = int(os.environ.get("BENCHMARK_SIZE", "2"))
    return {"__default__": Pipeline([node(same, f"data_{i}", f"data_{i + 1}", name=f"node_{i}") for i in range(size)])}
"""


# --- Collectors ---
def after_a_second(connection: socket.socket, collector: support.Collector) -> None:
    import support

    collector.requests.append(support.read_request(connection))
    time.sleep(1)
    connection.sendall(support.OK)


def silent(connection: socket.socket, collector: support.Collector) -> None:
    import support

    collector.requests.append(support.read_request(connection))
    connection.recv(1)  # until the peer has gone


def reset(connection: socket.socket, collector: support.Collector) -> None:
    import socket

    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def trickle(connection: socket.socket, collector: support.Collector) -> None:
    import support

    collector.requests.append(support.read_request(connection))
    for byte in b"HTTP/1.1 200 OK\r\nServer: ab\r\n\r\n"[:30]:
        connection.sendall(bytes([byte]))
        time.sleep(0.5)


@contextmanager
def collectors() -> Iterator[dict[str, support.Collector]]:
    """A collector of each kind, by what it does."""
    import support

    kinds: dict[str, support.Answer] = {
        "answers": support.answer_ok,
        "takes a second": after_a_second,
        "stays silent": silent,
        "resets": reset,
        "trickles for 15 s": trickle,
    }
    with ExitStack() as stack:
        found = {name: stack.enter_context(support.collecting(answer)) for name, answer in kinds.items()}
        absent = support.Collector()
        absent.close()
        yield {**found, "is not there": absent}


# --- Environments ---
@dataclass
class Bench:
    """Where it runs: an environment, a project and a home for each of PACKAGES."""

    folder: Path
    cache: Path
    quick: bool
    events: int

    @property
    def repetitions(self) -> int:
        return 3 if self.quick else 25

    def python(self, plugin: str) -> str:
        return str(self.cache / plugin / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))

    def install(self, plugin: str) -> None:
        """Kedro itself requires a `kedro-telemetry`: without one means without the one that it brings."""
        pip = [self.python(plugin), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        if not Path(self.python(plugin)).exists():
            print(f"Making the environment {COLUMNS[plugin]!r} ...", file=sys.stderr, flush=True)
            venv.create(self.cache / plugin, with_pip=True)
            subprocess.run([*pip, "install", f"kedro=={KEDRO}", *PACKAGES[plugin]], check=True)
        if plugin == "ours":  # which may have changed
            subprocess.run([*pip, "install", "--force-reinstall", "--no-deps", *PACKAGES[plugin]], check=True)
        if plugin == "none":
            subprocess.run([*pip, "uninstall", "--yes", "kedro-telemetry"], check=True)

    def prepare(self) -> None:
        import support

        for name in ("site", "home"):
            (self.folder / name).mkdir()
        (self.folder / "site" / "sitecustomize.py").write_text(SITE)
        (self.folder / "probe.py").write_text(PROBE)
        (self.folder / "launch.py").write_text(LAUNCH)
        template = support.make_project(self.folder, self.folder / "home", "weather")
        registry = template / "src" / "weather" / "pipeline_registry.py"
        registry.write_text(REGISTRY)
        for plugin in PACKAGES:
            self.install(plugin)
            (self.folder / plugin / "home").mkdir(parents=True)
            support.copy_project(template, self.folder / plugin / "project")
        for packages in self.cache.glob("ours/**/site-packages"):
            (packages / "benchmark_empty.py").touch()

    def environment(self, plugin: str, url: str) -> dict[str, str]:
        import support

        return support.scrubbed(
            self.folder / plugin / "home",
            PYTHONPATH=str(self.folder / "site"),
            BENCHMARK_GUARD=str(Path(support.__file__).parent / "guard" / "sitecustomize.py"),
            TELEMETRY_TEST_ESCAPES=str(self.folder / "escapes.log"),
            KEDRO_TELEMETRY_ENDPOINT=url,
        )

    def run(self, plugin: str, url: str, *line: str, data: str = "", **variables: str) -> str:
        done = subprocess.run(
            [self.python(plugin), *line],
            cwd=self.folder / plugin / "project",
            env=self.environment(plugin, url) | variables,
            capture_output=True,
            text=True,
            input=data,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def probe(self, plugin: str, url: str, what: str, *arguments: Any, **variables: str) -> dict[str, float]:
        done = self.run(plugin, url, str(self.folder / "probe.py"), what, data=json.dumps(arguments), **variables)
        found: dict[str, float] = json.loads(done.splitlines()[-1])
        return found


# --- Measurements: each returns the rows of the table that it fills ---
Row = dict[str, float | str]
Table = dict[str, Row]
Case = tuple[str, str]  # row, column
Measure = Callable[[], dict[str, float]]


def interleaved(cases: Mapping[Case, Measure], repetitions: Mapping[Case, int]) -> dict[Case, Any]:
    """The median of each figure of each case; the repetitions of all cases take turns, after one warm-up round."""
    found: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for turn in range(1 + max(repetitions.values())):
        for case, measure in cases.items():
            if turn == 0 and repetitions[case] > 2:
                measure()
            elif 0 < turn <= repetitions[case]:
                found[case].append(measure())
    return {c: {key: statistics.median(f[key] for f in all_) for key in all_[0]} for c, all_ in found.items()}


def in_process(bench: Bench, kinds: dict[str, support.Collector]) -> Table:
    args = ["registry", "list"]
    cases: dict[Case, Measure] = {
        (kind, plugin): partial(bench.probe, plugin, collector.url, "command", args)
        for kind, collector in kinds.items()
        for plugin in ("upstream", "ours")
    }
    cases["profile", "ours"] = partial(bench.probe, "ours", kinds["answers"].url, "profile", args)
    cases["floor", "ours"] = partial(bench.probe, "ours", kinds["answers"].url, "floor")
    count = {c: 2 if c[0] in SLOW and c[1] == "upstream" else bench.repetitions for c in cases}
    found = interleaved(cases, count)
    table: Table = {}
    for kind in kinds:
        row = table[f"in the user's process, collector {kind}, ms"] = {"none": 0.0}
        for plugin in ("upstream", "ours"):
            row[plugin] = sum(found[kind, plugin][part] for part in ("import", "before", "after"))
    for part, what in (("import", "import"), ("before", "before the command"), ("after", "after the command")):
        row = table[f"of that, {what} (collector answers), ms"] = {"none": 0.0}
        row |= {plugin: found["answers", plugin][part] for plugin in ("upstream", "ours")}
    for step, milliseconds in found["profile", "ours"].items():
        table[f"profile: {step}, ms"] = {"ours": milliseconds}
    floor = found["floor", "ours"]
    table["the floor: import an empty module, read a file, start an empty `python -I -S`, ms"] = {
        plugin: sum(floor.values()) for plugin in ("upstream", "ours")
    }
    for part, what in (("import", "an import"), ("before", "a read"), ("after", "a start")):
        table[f"the floor of {what}, ms"] = dict.fromkeys(("upstream", "ours"), floor[part])
    table["times the floor (the worst collector)"] = {
        plugin: max(float(table[f"in the user's process, collector {kind}, ms"][plugin]) for kind in kinds)
        / sum(floor.values())
        for plugin in ("upstream", "ours")
    }
    for key, what in (("lines", "lines of Python it loads, third parties included"), ("modules", "modules it loads")):
        table[what] = {"none": 0, **{p: int(found["answers", p][key]) for p in ("upstream", "ours")}}
    return table


def whole_command(bench: Bench, kinds: dict[str, support.Collector]) -> Table:
    def measure(plugin: str, url: str) -> dict[str, float]:
        start = time.perf_counter()
        bench.run(plugin, url, "-m", "kedro", "registry", "list")
        return {"all": (time.perf_counter() - start) * 1000}

    cases: dict[Case, Measure] = {
        (kind, plugin): partial(measure, plugin, collector.url)
        for kind, collector in kinds.items()
        for plugin in PACKAGES
    }
    found = interleaved(cases, {c: 2 if c[0] in SLOW and c[1] == "upstream" else bench.repetitions // 2 for c in cases})
    return {
        f"`kedro registry list` from start to end, collector {kind}, ms": {p: found[kind, p]["all"] for p in PACKAGES}
        for kind in kinds
    }


def growth(bench: Bench, url: str) -> Table:
    """With the project, with the command line; and the import where no command runs."""
    cases: dict[Case, Measure] = {}
    for plugin in ("upstream", "ours"):
        for size in SIZES:
            cases[f"hooks of `kedro run`, {size:,} datasets and nodes, ms", plugin] = partial(
                bench.probe, plugin, url, "project", size, BENCHMARK_SIZE=str(size)
            )
            cases[f"hooks of a command with {size:,} arguments, ms", plugin] = partial(
                bench.probe, plugin, url, "command", ["run", *["--params=a:1"] * size]
            )
        for what in ("session", "worker"):
            cases[f"import in a {what} process, ms", plugin] = partial(bench.probe, plugin, url, what)
    found = interleaved(cases, dict.fromkeys(cases, max(3, bench.repetitions // 2)))
    table: Table = {}
    for (row, plugin), figures in sorted(found.items(), key=lambda item: item[0][0][:14]):
        hooks = figures.get(
            "run", figures["before"] + figures["after"] if "before" in figures else figures.get("import")
        )
        table.setdefault(row, {"none": 0.0})[plugin] = hooks
    return table


def sender(bench: Bench, kinds: dict[str, support.Collector]) -> Table:
    """The second process, which upstream's does not have: started here as the plugin starts it."""
    event = str(bench.probe("ours", "", "sealed")["event"])
    plugin = bench.run("ours", "", "-c", "import kedro_telemetry.plugin as p; print(p.__file__)").strip()
    line = [bench.python("ours"), "-I", "-S"]

    def measure(url: str) -> dict[str, float]:
        done = subprocess.run(
            [*line, str(bench.folder / "launch.py"), *line, plugin],
            input=event,
            env={"KEDRO_TELEMETRY_ENDPOINT": url},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        found: dict[str, float] = json.loads(done.stdout)
        return found

    cases: dict[Case, Measure] = {(kind, "ours"): partial(measure, collector.url) for kind, collector in kinds.items()}
    found = interleaved(cases, {c: 3 if c[0] in SLOW else bench.repetitions for c in cases})
    healthy, table = found["answers", "ours"], dict[str, Row]()
    for key, what in (("cpu", "CPU, ms"), ("memory", "resident memory, MB")):
        table[f"the sender: {what}"] = {"none": 0, "upstream": "in the user's process", "ours": healthy[key]}
    for kind in kinds:
        gone = found[kind, "ours"]["exit"]
        table[f"the sender is gone after, collector {kind}, ms"] = {"upstream": "no sender", "ours": gone}
    return table


def delivery(bench: Bench) -> Table:
    import support

    table: Table = {
        "requests on the wire, bytes each": {"none": 0},
        f"events of {bench.events:,} commands": {"none": 0},
    }
    for plugin in ("upstream", "ours"):
        with support.collecting() as collector:
            with subprocess.Popen(
                [bench.python(plugin), str(bench.folder / "probe.py"), "events"],
                cwd=bench.folder / plugin / "project",
                env=bench.environment(plugin, collector.url),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            ) as process:
                assert process.stdin
                process.stdin.write(b"[]\n")  # no arguments
                lost, progress = 0, (0, time.monotonic())
                for sent in range(bench.events):
                    while sent - lost - len(collector.requests) >= IN_FLIGHT:
                        time.sleep(0.002)
                        if len(collector.requests) != progress[0]:
                            progress = len(collector.requests), time.monotonic()
                        elif time.monotonic() - progress[1] > 15:  # these will not come any more
                            lost = sent - len(collector.requests)
                    process.stdin.write(b"\n")
                    process.stdin.flush()
            support.wait_for_no_sender(url=collector.url)
            sizes = [len(request) for request in collector.requests]
        table["requests on the wire, bytes each"][plugin] = int(statistics.median(sizes or [0]))
        table[f"events of {bench.events:,} commands"][plugin] = len(sizes)
    return table


# --- Output ---
def shown(figure: float | str | None) -> str:
    if figure is None:
        return ""
    if isinstance(figure, str):
        return figure
    return f"{figure:,.0f}" if isinstance(figure, int) or figure >= 1000 else f"{figure:.2f}"


def markdown(table: Table) -> str:
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "--:|" * len(COLUMNS)]
    lines += [f"| {name} | " + " | ".join(shown(row.get(c)) for c in COLUMNS) + " |" for name, row in table.items()]
    return "\n".join(lines) + "\n"


def chart(table: Table, file: Path) -> None:
    """What a command pays in the user's process, by collector, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "kedro-telemetry", "svg.fonttype": "none", "font.size": 10}
    from matplotlib import pyplot

    start, end = "in the user's process, collector ", ", ms"
    rows = {name.removeprefix(start).removesuffix(end): row for name, row in table.items() if name.startswith(start)}
    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    for offset, plugin, colour in ((-0.2, "upstream", "#b0b7c3"), (0.2, "ours", "#1f6f50")):
        values = [float(row[plugin]) for row in rows.values()]
        bars = axes.barh([y + offset for y in range(len(rows))], values, 0.38, color=colour, label=COLUMNS[plugin])
        axes.bar_label(bars, [f"{value:,.1f}" for value in values], padding=3)
    floor = float(next(row["ours"] for name, row in table.items() if name.startswith("the floor:")))
    axes.axvline(floor, color="#444444", linestyle=":", label="floor: an import, a read, a process started")
    axes.set(xscale="log", xlabel="milliseconds added to a command, in the user's process (logarithmic)")
    axes.set_xlim(0.3, 100_000)
    axes.set_yticks(range(len(rows)), [f"collector {kind}" for kind in rows])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(file, metadata={"Date": None})


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions: a look, not a measurement")
    parser.add_argument("--events", type=int, default=1000, help="commands whose events are counted (1000)")
    parser.add_argument("--cache", type=Path, help="keep the environments in this folder")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here as well")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw the chart")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory() as name, collectors() as kinds:
        cache = options.cache or Path(name) / "cache"
        bench = Bench(Path(name).resolve(), cache.resolve(), options.quick, options.events)
        bench.prepare()
        table: Table = {}
        steps: dict[str, Callable[[], Table]] = {
            "in the user's process": lambda: in_process(bench, kinds),
            "as a whole": lambda: whole_command(bench, kinds),
            "by size": lambda: growth(bench, kinds["answers"].url),
            "the sender": lambda: sender(bench, kinds),
            "delivery": lambda: delivery(bench),
        }
        for title, measure in steps.items():
            print(f"Measuring {title} ...", file=sys.stderr, flush=True)
            table |= measure()
        escapes = bench.folder / "escapes.log"
        assert not escapes.exists(), escapes.read_text()
    text = markdown(table)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.chart:
        chart(table, options.chart)
    return 0


if __name__ == "__main__":
    parse()  # so that --help makes no environment
    environment.enter("test,benchmark")
    sys.exit(main())
