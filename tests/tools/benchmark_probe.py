"""Runs inside the processes that benchmark.py measures, and prints a time in ms.

It starts when Kedro is loaded and the plugin is not, as in a `kedro` command.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kedro.framework.cli.cli  # noqa: F401  # a `kedro` command has loaded it
from kedro.framework.startup import bootstrap_project


def clock() -> float:
    """Return the time. Garbage that Kedro has left behind is not collected later."""
    gc.collect(0)
    return time.perf_counter()


def load_hook() -> Any:
    from kedro_telemetry.plugin import telemetry_hook

    return telemetry_hook


def run_hooks(hook: Any, metadata: Any, *command: str) -> None:
    hook.before_command_run(project_metadata=metadata, command_args=command)
    hook.after_command_run()


def command(metadata: Any) -> float:
    """The plugin's part of one command."""
    assert "kedro_telemetry.plugin" not in sys.modules
    start = clock()
    run_hooks(load_hook(), metadata, "registry", "list")
    return start


def minimum(metadata: Any) -> float:
    """The least that a plugin takes: import, read a file, start a process."""
    nothing = subprocess.DEVNULL
    start = clock()
    from kedro_telemetry import empty  # type: ignore[attr-defined]

    with open(".telemetry", "rb") as file:
        file.read()
    arguments = [sys.executable, "-I", "-S", "-B", empty.__file__]
    subprocess.Popen(arguments, stdin=nothing, stdout=nothing, stderr=nothing)
    return start


def large_run(metadata: Any) -> float:
    """The hooks of `kedro run` in the project of BENCHMARK_NODES nodes and datasets."""
    from kedro.framework.project import pipelines
    from kedro.io import DataCatalog

    size = int(os.environ["BENCHMARK_NODES"])
    config = {f"data_{i}": {"type": "MemoryDataset"} for i in range(size)}
    catalog = DataCatalog.from_config(config)
    assert len(pipelines["__default__"].node_dependencies) == size
    hook = load_hook()
    start = clock()
    hook.before_command_run(project_metadata=metadata, command_args=["run"])
    if hasattr(hook, "before_pipeline_run"):
        params = {"project_path": os.getcwd(), "pipeline_names": None}
        hook.before_pipeline_run(run_params=params, catalog=catalog)
    else:  # the official plugin
        context = SimpleNamespace(project_path=metadata.project_path)
        hook.after_context_created(context)
        hook.after_catalog_created(catalog)
    hook.after_command_run()
    return start


def many(metadata: Any) -> float:
    """A command, of another user each time, for each line on standard input."""
    kind, start = type(load_hook()), clock()
    for number, _ in enumerate(sys.stdin):
        os.environ["LOGNAME"] = f"user{number}"
        run_hooks(kind(), metadata, "registry", "list")  # the official sends only once
    return start


if __name__ == "__main__":
    start = globals()[sys.argv[1]](bootstrap_project(Path.cwd()))
    print((time.perf_counter() - start) * 1000)
