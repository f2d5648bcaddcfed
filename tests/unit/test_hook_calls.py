"""The hooks: at most one event per command, and never a broken or slower command."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import support
from kedro.framework.cli.hooks.manager import CLIHooksManager
from kedro.framework.hooks.manager import (
    _create_hook_manager,
    _register_hooks_entry_points,
)

from kedro_telemetry import plugin

ENDPOINT, PREVIEW = plugin.ENDPOINT_VARIABLE, plugin.PREVIEW_VARIABLE
CATALOG = SimpleNamespace(keys=lambda: ["a", "b", "parameters"])
SELECTED = {"pipeline_names": ["ds"]}


class Kedro:
    """Kedro's own hook managers, with our hook in both, and a project with two yeses.

    Each method returns how many senders it has started.
    """

    def __init__(self, project: Path, home: Path) -> None:
        self.hook = plugin.TelemetryHook()
        self.metadata: Any = SimpleNamespace(project_path=project, package_name="acme")
        self.answer = project / ".telemetry"
        self.own = support.own_file(project, home)
        self.cli, self.session = CLIHooksManager(), _create_hook_manager()
        for manager in (self.cli, self.session):
            for other in manager.get_plugins():
                manager.unregister(other)
            manager.register(self.hook)

    def call(self, manager: Any, name: str, **arguments: Any) -> int:
        before = list(plugin.senders)
        getattr(manager.hook, name)(**arguments)
        return len([sender for sender in plugin.senders if sender not in before])

    def before(self, *args: Any) -> int:
        arguments = {"project_metadata": self.metadata, "command_args": list(args)}
        return self.call(self.cli, "before_command_run", **arguments)

    def run(self, catalog: Any = CATALOG, run_params: Any = SELECTED) -> int:
        arguments = {"run_params": run_params, "pipeline": None, "catalog": catalog}
        return self.call(self.session, "before_pipeline_run", **arguments)

    def after(self) -> int:
        arguments = {"project_metadata": self.metadata, "command_args": []}
        return self.call(self.cli, "after_command_run", **arguments, exit_code=1)

    def command(self, *args: Any) -> int:
        return self.before(*args) + self.run() + self.after()


@pytest.fixture
def kedro(agreed: Path, home: Path) -> Iterator[Kedro]:
    yield Kedro(agreed, home)
    for sender in plugin.senders:
        sender.kill()
        sender.wait()
    plugin.senders.clear()


# --- One event per command ---


def test_a_run_is_sent_once_when_it_ends_with_its_counts(
    kedro: Kedro,
    home: Path,
    collector: support.Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ENDPOINT, collector.url)
    support.agree(kedro.answer.parent, home, collector.url)
    assert kedro.before("run", "--env", "secret") + kedro.run() == 0
    assert kedro.after() == 1
    assert kedro.after() + kedro.run() + kedro.after() == 0
    (event,) = collector.wait()
    assert event["properties"]["command"] == "kedro run --env *****"
    assert event["properties"]["number_of_datasets"] == 2
    assert kedro.command("run") + kedro.command("info") == 2


def test_a_command_without_an_end_or_a_session_without_a_command_sends_nothing(
    kedro: Kedro,
) -> None:
    """In a notebook, a service, a packaged project."""
    assert kedro.run() + kedro.after() == 0
    assert kedro.before("docs") == 0
    assert kedro.command("info") == 1


def test_both_when_a_command_starts_and_when_it_ends_telemetry_must_be_on(
    kedro: Kedro,
) -> None:
    yes = kedro.own.read_bytes()
    for start, end in ((b"no\n", yes), (yes, b"no\n")):
        kedro.own.write_bytes(start)
        kedro.before("run")
        kedro.own.write_bytes(end)
        assert kedro.run() + kedro.after() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: fork")
def test_a_forked_child_that_ends_sends_nothing(kedro: Kedro) -> None:
    kedro.before("run")
    child = os.fork()
    if not child:
        os._exit(kedro.after())
    assert os.waitpid(child, 0)[1] == 0
    assert kedro.after() == 1


def test_a_no_that_a_command_sees_ends_the_users_own_yes(
    kedro: Kedro, monkeypatch: pytest.MonkeyPatch
) -> None:
    yes = kedro.own.read_bytes()
    for answer, own, variable, is_kept in (
        (b"consent: false\n", yes, "", False),
        (b"consent: False\n", b"yes\n", "", False),
        (b"consent: false\n", b"no\n", "", True),
        (b"consent: no\n", yes, "", True),  # not understood
        (b"consent: false\n", yes, PREVIEW, True),
        (b"consent: false\n", yes, "DO_NOT_TRACK", True),
    ):
        kedro.answer.write_bytes(answer)
        kedro.own.write_bytes(own)
        with monkeypatch.context() as changed:
            changed.setenv(variable or "UNUSED", "1")
            assert kedro.command("info") == 0
        assert kedro.own.exists() == is_kept, (answer, own, variable)
        assert kedro.answer.read_bytes() == answer
    kedro.own.unlink()
    assert kedro.command("info") == 0


def test_off_starts_writes_and_prints_nothing(
    kedro: Kedro,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    kedro.own.unlink()
    kedro.answer.unlink()
    kedro.own.parent.rmdir()
    before = sorted(home.rglob("*"))
    for name in ("DO_NOT_TRACK", "_KEDRO_COMPLETE", "LD_PRELOAD", "UNUSED"):
        with monkeypatch.context() as changed:
            changed.setenv(name, "1")
            assert kedro.command("run") == 0
    kedro.metadata = None
    assert kedro.command("info") == 0
    assert sorted(home.rglob("*")) == before
    assert os.listdir(kedro.answer.parent) == []
    assert capfd.readouterr() == ("", "")


# --- Errors ---


class Broken:
    """Metadata or a catalog that raises an error."""

    def __init__(self, error: type[BaseException], **known: Any) -> None:
        self.__dict__.update(known)
        self.error = error

    def __getattr__(self, name: str) -> Any:
        raise self.error(name)


@pytest.mark.parametrize("error", [RuntimeError, OSError, RecursionError, MemoryError])
def test_an_error_never_breaks_a_command(error: type[Exception], kedro: Kedro) -> None:
    good = kedro.metadata
    kedro.before("docs")  # Kedro does not report its end
    path = good.project_path
    for metadata in (Broken(error), Broken(error, project_path=path), 12, "text"):
        kedro.metadata = metadata
        assert kedro.command("info") == 0
    kedro.metadata = good
    for args in ([None], ["run", 12], [b"x"]):
        assert kedro.command(*args) == 0
    for catalog, run_params in ((Broken(error), {}), (CATALOG, None), (None, 12)):
        kedro.before("run")
        kedro.run(catalog, run_params)
        assert kedro.after() == 1, "only the counts are lost"


def test_ctrl_c_passes_at_each_hook(kedro: Kedro) -> None:
    broken = Broken(KeyboardInterrupt, project_path=kedro.answer.parent)
    good, kedro.metadata = kedro.metadata, Broken(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        kedro.before("info")
    kedro.metadata = broken
    kedro.before("info")
    with pytest.raises(KeyboardInterrupt):
        kedro.after()
    assert kedro.after() == 0
    kedro.metadata = good
    kedro.before("run")
    with pytest.raises(KeyboardInterrupt):
        kedro.run(broken)


# --- The start of the sender ---


def test_the_sender_gets_a_few_variables_and_no_arguments(
    kedro: Kedro, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxies = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
    passed = dict.fromkeys(proxies, "proxy.example:1")
    passed |= dict.fromkeys(
        ["NO_PROXY", "no_proxy", "SSL_CERT_FILE"], os.path.abspath("x")
    )
    passed |= dict.fromkeys(
        ["SSL_CERT_DIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"], os.path.abspath("y")
    )
    for variables in ({}, passed):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert kedro.command("info") == 1
        sender = psutil.Process(plugin.senders[-1].pid)
        if sys.platform != "win32":
            expected = {**variables, ENDPOINT: os.environ[ENDPOINT]}
            assert sender.environ() == expected
            assert (sender.cwd(), os.getsid(sender.pid)) == ("/", sender.pid)
        else:
            assert not {"PATH", "HOME", "LOGNAME", "PYTHONPATH"} & set(sender.environ())
        options = ["-I", "-S", "-B", str(support.PLUGIN)]
        assert sender.cmdline() == [sys.executable, *options]


@pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: zombies")
def test_starting_senders_leaks_nothing_and_reaps_those_that_ended(
    kedro: Kedro,
) -> None:
    this = psutil.Process()
    threads, descriptors = threading.enumerate(), this.num_fds()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kedro.command("info") + kedro.command("docs") == 2
        first, second = plugin.senders
        first.kill()
        process = psutil.Process(first.pid)
        support.wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE)
        assert kedro.command("run") == 1
        assert plugin.senders[:-1] == [second]
        assert not process.is_running(), "it has been reaped"
        running = psutil.Process(second.pid)
        plugin.senders.remove(second)
        del second
        gc.collect()
    assert threading.enumerate() == threads
    assert this.num_fds() <= descriptors
    running.kill()


def test_an_event_that_cannot_be_sent_at_once_is_dropped(
    kedro: Kedro, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="too long"):
        plugin.start_sender(bytes(plugin.MAX_MESSAGE + 1))
    assert plugin.MAX_MESSAGE == 4096, "what fits into a pipe on every system"
    for executable in ("/absent/python", os.devnull):
        monkeypatch.setattr(sys, "executable", executable)
        assert kedro.command("info") == 0


# --- Preview ---


def shown(kedro: Kedro, capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    """Return the lines that a command shows. It must send nothing."""
    assert kedro.command(*args) == 0
    out, err = capsys.readouterr()
    assert out == ""
    lines: list[str] = err.splitlines()
    return lines


def test_preview_shows_the_event_its_address_and_whether_it_would_be_sent(
    kedro: Kedro,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = os.environ[ENDPOINT]
    before = sorted([*home.rglob("*"), *kedro.answer.parent.rglob("*")])
    monkeypatch.setenv(PREVIEW, "1")
    title, address, event = shown(kedro, capsys, "run", "--env", "secret")
    assert title == "Preview: nothing is sent. This event would be sent."
    assert address == f"POST {url!r}"
    support.check_event(json.loads(event))
    assert "kedro run --env *****" in event
    assert "number_of_datasets" in event
    assert sorted([*home.rglob("*"), *kedro.answer.parent.rglob("*")]) == before
    assert "number_of" not in shown(kedro, capsys, "viz", "run")[2]
    for name, value in (
        ("CI", "1"),
        (ENDPOINT, "nowhere"),
        ("ALL_PROXY", "socks5://x"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            title, address, event = shown(kedro, capsys, "info")
        assert title.startswith(
            "Preview: nothing is sent. This event would not be sent"
        )
        assert name in title
        assert address == f"POST {repr(value if name == ENDPOINT else url)}"
        support.check_event(json.loads(event))
    kedro.answer.write_bytes(b"consent: false\n")
    assert "`.telemetry` says no" in shown(kedro, capsys, "info")[0]
    kedro.metadata = None
    assert "not in a Kedro project" in shown(kedro, capsys, "info")[0]
    monkeypatch.setenv("_KD_COMPLETE", "zsh_source")
    assert shown(kedro, capsys, "info") == []


def test_unsetting_preview_during_a_command_sends_nothing_without_a_yes(
    kedro: Kedro, monkeypatch: pytest.MonkeyPatch
) -> None:
    kedro.own.unlink()
    monkeypatch.setenv(PREVIEW, "1")
    kedro.before("run")
    monkeypatch.delenv(PREVIEW)
    assert kedro.after() == 0


# --- Kedro finds the hooks ---


def test_kedro_registers_the_hook() -> None:
    for group in ("kedro.hooks", "kedro.cli_hooks"):
        found = [p for p in entry_points(group=group) if p.name == "kedro-telemetry"]
        assert [point.load() for point in found] == [plugin.telemetry_hook]
    cli = CLIHooksManager()
    names = {caller.name for caller in cli.get_hookcallers(plugin.telemetry_hook) or []}
    assert names == {"before_command_run", "after_command_run"}
    cli.check_pending()
    for disabled, is_registered in (((), True), (("kedro-telemetry",), False)):
        session = _create_hook_manager()
        _register_hooks_entry_points(session, disabled)
        assert session.is_registered(plugin.telemetry_hook) == is_registered
        session.check_pending()
