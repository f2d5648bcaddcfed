"""Runs inside the processes that benchmark.py measures, and prints figures as JSON.

Times are in milliseconds. They start when Kedro is loaded and the plugin is not, as in
a `kedro` command.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kedro.framework.cli.cli  # noqa: F401  # a `kedro` command has loaded it
from kedro.framework.startup import bootstrap_project

Figures = dict[str, float]


def clock() -> float:
    """Return the time. Garbage that Kedro has left behind is not collected later."""
    gc.collect(0)
    return time.perf_counter()


def milliseconds(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def load_hook() -> Any:
    from kedro_telemetry.plugin import telemetry_hook

    return telemetry_hook


def command(metadata: Any) -> Figures:
    """The plugin's part of one command, and how much Python it loads."""
    loaded = set(sys.modules)
    assert "kedro_telemetry.plugin" not in loaded
    start = clock()
    hook = load_hook()
    imported = milliseconds(start)

    start = time.perf_counter()
    hook.before_command_run(
        project_metadata=metadata, command_args=["registry", "list"]
    )
    before = milliseconds(start)

    start = time.perf_counter()
    hook.after_command_run()
    after = milliseconds(start)

    lines = 0
    for name in set(sys.modules) - loaded:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.endswith(".py") and not name.startswith("kedro."):
            lines += Path(file).read_bytes().count(b"\n")
    return {
        "all": imported + before + after,
        "import": imported,
        "before the command": before,
        "after the command": after,
        "lines": lines,
    }


def floor(metadata: Any) -> Figures:
    """Return the least that a plugin takes: import, read a file, start a process."""
    nothing = subprocess.DEVNULL
    start = clock()
    from benchmark_empty import plugin

    with open(".telemetry", "rb") as file:
        file.read()
    arguments = [sys.executable, "-I", "-S", "-B", plugin.__file__]
    child = subprocess.Popen(arguments, stdin=nothing, stdout=nothing, stderr=nothing)
    found = {"all": milliseconds(start)}
    child.wait()
    return found


def large_run(metadata: Any) -> Figures:
    """The hooks of `kedro run` in the project of BENCHMARK_NODES nodes and datasets."""
    from kedro.framework.project import pipelines
    from kedro.io import DataCatalog

    size = int(os.environ["BENCHMARK_NODES"])
    config = {f"data_{i}": {"type": "MemoryDataset"} for i in range(size)}
    catalog = DataCatalog.from_config(config)
    assert len(pipelines["__default__"].node_dependencies) == size
    hook = load_hook()
    hook.before_command_run(project_metadata=metadata, command_args=["run"])
    start = clock()
    if hasattr(hook, "before_pipeline_run"):
        params = {"project_path": os.getcwd(), "pipeline_names": None}
        hook.before_pipeline_run(run_params=params, catalog=catalog)
    else:  # the official plugin
        context = SimpleNamespace(project_path=metadata.project_path)
        hook.after_context_created(context)
        hook.after_catalog_created(catalog)
    return {"all": milliseconds(start)}


def many(metadata: Any) -> Figures:
    """A command, of another user each time, for each line on standard input."""
    kind = type(load_hook())
    for number, _ in enumerate(sys.stdin):
        os.environ["LOGNAME"] = f"user{number}"
        hook = kind()  # the official one sends once in its life
        hook.before_command_run(
            project_metadata=metadata, command_args=["registry", "list"]
        )
        hook.after_command_run()
    return {}


if __name__ == "__main__":
    project = bootstrap_project(Path.cwd())
    print(json.dumps(globals()[sys.argv[1]](project)))
