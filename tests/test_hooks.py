"""The hooks: one event per command at most, and never a broken command."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import support
from kedro.framework.cli.hooks.manager import CLIHooksManager
from kedro.framework.hooks.manager import _create_hook_manager, _register_hooks_entry_points
from kedro.framework.project import pipelines

from kedro_telemetry.plugin import PREVIEW, STARTED, TelemetryHook, salt_path, telemetry_hook

CATALOG = SimpleNamespace(keys=lambda: ["a", "b", "parameters"])


class Commands:
    """Real hook managers of Kedro's, with one hook of ours in both, and a project that said yes."""

    def __init__(self, project: Path) -> None:
        self.hook, self.senders = TelemetryHook(), set(STARTED)
        self.metadata = SimpleNamespace(project_path=project, package_name="acme", tools=None, example_pipeline="False")
        self.cli, self.session = CLIHooksManager(), _create_hook_manager()
        for manager in (self.cli, self.session):
            for plugin in manager.get_plugins():
                manager.unregister(plugin)
            manager.register(self.hook)

    def before(self, *args: str, metadata: Any = None) -> None:
        self.cli.hook.before_command_run(
            project_metadata=self.metadata if metadata is None else metadata, command_args=list(args)
        )

    def run(self, catalog: Any = CATALOG, **run_params: Any) -> None:
        run_params = {"project_path": self.metadata.project_path.as_posix(), **run_params}  # as Kedro writes it
        self.session.hook.before_pipeline_run(run_params=run_params, pipeline=None, catalog=catalog)

    def started_none(self, collector: support.Collector) -> bool:
        """Whether no sender was started since the beginning, and nobody connected."""
        return set(STARTED) <= self.senders and collector.connections == 0

    def after(self, exit_code: int = 0) -> None:
        self.cli.hook.after_command_run(project_metadata=self.metadata, command_args=[], exit_code=exit_code)


@pytest.fixture
def project_folder(tmp_path: Path) -> Path:
    (tmp_path / ".telemetry").write_text("consent: true\n")
    return tmp_path


@pytest.fixture
def commands(project_folder: Path, collector: support.Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    """Commands whose events go to this test's collector."""
    monkeypatch.setenv("KEDRO_TELEMETRY_ENDPOINT", collector.url)
    pipelines.configure()
    yield Commands(project_folder)
    for sender in STARTED:
        sender.wait(support.SENDER_LIFE)


def texts(events: list[dict[str, Any]]) -> list[str]:
    return sorted(event["properties"]["command"] for event in events)


def arrived(collector: support.Collector, count: int) -> list[str]:
    """The commands that arrive, once no sender is left that could bring one more."""
    collector.wait(count)
    for sender in STARTED:
        sender.wait(support.SENDER_LIFE)
    assert collector.connections == count
    return texts(collector.bodies)


# --- One event per command ---
def test_a_run_is_sent_before_the_pipeline_runs(commands: Commands, collector: support.Collector) -> None:
    """So that a run that is killed was counted."""
    commands.before("run", "--env", "secret")
    assert collector.connections == 0
    commands.run()
    (event,) = collector.wait()
    assert event["event"] == "Kedro Project Statistics"
    assert event["properties"]["number_of_datasets"] == 2
    commands.after()
    assert arrived(collector, 1) == ["kedro run --env *****"]


def test_a_run_that_fails_before_its_pipeline_is_sent_when_it_ends(
    commands: Commands, collector: support.Collector
) -> None:
    commands.before("run")
    commands.after(1)
    (event,) = collector.wait()
    assert event["event"] == "CLI command"
    assert arrived(collector, 1) == ["kedro run"]


def test_another_command_is_sent_when_it_ends(commands: Commands, collector: support.Collector) -> None:
    """Even if it runs pipelines on its way."""
    commands.before("viz", "run")
    commands.run()
    assert commands.started_none(collector)
    commands.after()
    assert arrived(collector, 1) == ["kedro viz run"]
    assert "number_of_datasets" not in collector.bodies[0]["properties"]


def test_two_runs_in_one_command_are_one_event(commands: Commands, collector: support.Collector) -> None:
    commands.before("run")
    commands.run()
    commands.run()
    commands.after()
    commands.after()
    assert arrived(collector, 1) == ["kedro run"]


def test_two_commands_in_one_process_are_two_events(commands: Commands, collector: support.Collector) -> None:
    for name in ("info", "run"):
        commands.before(name)
        commands.after()
    assert arrived(collector, 2) == ["kedro info", "kedro run"]


def test_a_command_that_never_ended_leaves_nothing_to_the_next(
    commands: Commands, collector: support.Collector, project_folder: Path
) -> None:
    """Least of all a yes."""
    commands.before("info")
    (project_folder / ".telemetry").write_text("consent: false\n")
    commands.before("package")
    commands.after()
    assert commands.started_none(collector)


def test_a_command_outside_of_a_project_follows_one_inside(commands: Commands, collector: support.Collector) -> None:
    commands.before("info")
    commands.cli.hook.before_command_run(project_metadata=None, command_args=["info"])
    commands.after()
    assert commands.started_none(collector)


def test_arguments_that_change_later_do_not_show(commands: Commands, collector: support.Collector) -> None:
    args = ["info"]
    commands.cli.hook.before_command_run(project_metadata=commands.metadata, command_args=args)
    args[:] = ["package"]
    commands.after()
    assert arrived(collector, 1) == ["kedro info"]


# --- Commands only ---
def test_a_session_without_a_command_sends_nothing(commands: Commands, collector: support.Collector) -> None:
    """A notebook, a service, a packaged project."""
    commands.run()
    commands.after()
    assert commands.started_none(collector)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
def test_a_fork_sends_nothing(commands: Commands, collector: support.Collector) -> None:
    """A worker of a parallel runner inherits the command, and its hooks. The command itself still sends."""
    commands.before("run")
    before = list(STARTED)
    child = os.fork()
    if child == 0:  # pragma: no cover
        commands.run()
        commands.after()
        os._exit(before != STARTED)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the fork has started a sender"
    assert commands.started_none(collector)
    commands.run()
    commands.after()
    assert arrived(collector, 1) == ["kedro run"]


@pytest.mark.parametrize("consent", ["consent: false\n", "", "consent: true # \x00"])
def test_without_a_yes_nothing_is_sent_or_kept(
    consent: str, commands: Commands, collector: support.Collector, project_folder: Path
) -> None:
    (project_folder / ".telemetry").write_text(consent)
    commands.before("run")
    assert commands.hook.command is None
    commands.run()
    commands.after()
    assert commands.started_none(collector)
    assert not os.path.exists(salt_path())


@pytest.mark.parametrize("consent", ["consent: false\n", None])
@pytest.mark.parametrize("args", [("run",), ("info",)])
def test_a_preview_that_is_switched_off_meanwhile_is_no_yes(
    args: tuple[str, ...],
    consent: str | None,
    commands: Commands,
    collector: support.Collector,
    project_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Code of the command can change its environment before the event is built."""
    (project_folder / ".telemetry").unlink()
    if consent:
        (project_folder / ".telemetry").write_text(consent)
    monkeypatch.setenv(PREVIEW, "1")
    commands.before(*args)
    monkeypatch.delenv(PREVIEW)
    commands.run()
    commands.after()
    assert commands.started_none(collector)
    assert not os.path.exists(salt_path())


@pytest.mark.parametrize("armed", [True, False])
@pytest.mark.parametrize("run_params", [None, {}, {"project_path": 12}, 12])
def test_a_session_like_no_other_is_no_error(
    armed: bool, run_params: Any, commands: Commands, collector: support.Collector
) -> None:
    """Kedro does not guard this hook either: an error would end a run, also one of a session without a command."""
    if armed:
        commands.before("run")
    commands.hook.before_pipeline_run(run_params, CATALOG)
    assert commands.started_none(collector)


@pytest.mark.parametrize("path", ["/elsewhere", None])
def test_a_session_of_another_project_is_not_counted(
    path: str | None, commands: Commands, collector: support.Collector
) -> None:
    """Inside of a `kedro run`, or after one whose end Kedro did not report."""
    commands.before("run")
    commands.run(project_path=path)
    assert commands.started_none(collector)
    commands.after()
    assert arrived(collector, 1) == ["kedro run"]
    assert collector.bodies[0]["event"] == "CLI command"


# --- Errors are swallowed, Ctrl-C passes ---
class Broken:
    """A project whose truth, or whose first attributes, raise this error."""

    def __init__(self, error: type[BaseException], known: dict[str, Any] | None = None) -> None:
        self.error, self.known = error, known

    def __bool__(self) -> bool:
        if self.known is None:
            raise self.error("a broken project")
        return True

    def __getattr__(self, name: str) -> Any:
        if name not in (self.known or {}):
            raise self.error(name)
        return (self.known or {})[name]


ERRORS = [RuntimeError, OSError, RecursionError, MemoryError, UnicodeError, AssertionError, StopIteration]


@pytest.mark.parametrize("known", [None, {}])
@pytest.mark.parametrize("error", ERRORS)
def test_an_error_before_a_command_is_a_no(
    error: type[Exception], known: dict[str, Any] | None, commands: Commands, collector: support.Collector
) -> None:
    commands.before("run", metadata=Broken(error, known))
    assert commands.hook.command is None
    commands.run()
    commands.after()
    assert commands.started_none(collector)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_an_event_is_no_event(
    error: type[Exception], commands: Commands, collector: support.Collector, project_folder: Path
) -> None:
    commands.before("info", metadata=Broken(error, {"project_path": project_folder}))
    assert commands.hook.command
    commands.after()
    assert commands.started_none(collector)
    commands.before("info")
    commands.after()
    assert arrived(collector, 1) == ["kedro info"], "the next command is as if nothing had been"


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_a_catalog_is_no_event(
    error: type[Exception], commands: Commands, collector: support.Collector
) -> None:
    def keys() -> list[str]:
        raise error

    commands.before("run")
    commands.run(catalog=SimpleNamespace(keys=keys))
    commands.after()
    assert commands.started_none(collector)


@pytest.mark.parametrize(
    "call",
    [
        lambda hook: hook.before_command_run(SimpleNamespace(project_path=None), None),
        lambda hook: hook.before_command_run(SimpleNamespace(), ["run"]),
        lambda hook: hook.before_command_run(None, None),
        lambda hook: hook.before_command_run(12, ["run"]),
        lambda hook: hook.before_command_run("text", 12),
    ],
)
def test_what_is_no_metadata_is_a_no(call: Callable[[TelemetryHook], None]) -> None:
    hook = TelemetryHook()
    call(hook)
    assert hook.command is None


def test_arguments_that_are_no_text_are_no_event(commands: Commands, collector: support.Collector) -> None:
    commands.cli.hook.before_command_run(project_metadata=commands.metadata, command_args=["run", 12, b"x", None])
    commands.run()
    assert commands.started_none(collector)


def test_ctrl_c_before_a_command_passes(commands: Commands) -> None:
    with pytest.raises(KeyboardInterrupt):
        commands.hook.before_command_run(Broken(KeyboardInterrupt), ["run"])


def test_ctrl_c_in_an_event_passes_and_ends_it(
    commands: Commands, collector: support.Collector, project_folder: Path
) -> None:
    commands.before("info", metadata=Broken(KeyboardInterrupt, {"project_path": project_folder}))
    with pytest.raises(KeyboardInterrupt):
        commands.hook.after_command_run()
    commands.after()
    assert commands.started_none(collector)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals of this kind")
def test_a_real_ctrl_c_passes(commands: Commands) -> None:
    """A signal while the catalog is looked at."""

    def keys() -> list[str]:
        os.kill(os.getpid(), signal.SIGINT)
        return []

    commands.before("run")
    with pytest.raises(KeyboardInterrupt):
        commands.run(SimpleNamespace(keys=keys))
    assert commands.hook.command is None


# --- Where nothing can be sent to, or by ---
@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1/", "http://collector.example/", "https://a:b@127.0.0.1/"])
def test_no_collector_no_sender(url: str, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDRO_TELEMETRY_ENDPOINT", url)
    before = list(STARTED)
    commands.before("info")
    commands.after()
    assert before == STARTED
    assert not os.path.exists(salt_path()), "a salt is made for an event that is sent"


@pytest.mark.parametrize("executable", [None, ""])
def test_no_interpreter_no_sender(
    executable: str | None, commands: Commands, collector: support.Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    commands.before("info")
    commands.after()
    assert commands.started_none(collector)
    assert not os.path.exists(salt_path())


def test_a_frozen_application_starts_no_sender(
    commands: Commands, collector: support.Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, `sys.executable` is the application itself: it would start again and again."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    commands.before("info")
    commands.after()
    assert commands.started_none(collector)
    assert not os.path.exists(salt_path())


@pytest.mark.parametrize("executable", ["/absent/python", "/dev/null"])
def test_an_interpreter_that_does_not_start_drops_the_event(
    executable: str, commands: Commands, collector: support.Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no descriptor and no child."""
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    monkeypatch.setattr(sys, "executable", executable)
    commands.before("info")
    commands.after()
    assert commands.started_none(collector)
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors


# --- What is left in the user's process ---
def test_no_thread_one_child_at_most_and_no_warning(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later fork by a parallel runner must find no thread."""
    monkeypatch.setenv("KEDRO_TELEMETRY_ENDPOINT", "http://127.0.0.1:9/nobody-listens")
    threads = threading.enumerate()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            commands.before("info")
            commands.after()
            assert threading.enumerate() == threads
            assert len(STARTED) == 1, "a finished child is reaped by the next command"
            os.waitid(os.P_PID, STARTED[0].pid, os.WEXITED | os.WNOWAIT)  # finished, and not reaped
        STARTED[0].wait()
        STARTED.clear()
        commands.before("info")
        commands.after()
        sender = STARTED.pop()
        pid = sender.pid
        del sender
        gc.collect()
    os.waitpid(pid, 0)
    assert [str(warning.message) for warning in caught] == []


# --- Preview ---
ON = "kedro-telemetry preview, nothing is sent. Telemetry is on: .telemetry says `consent: true`.\n"
EXAMPLES = "The hashes are examples: this month's salt is made when an event is sent.\n"


def test_preview_shows_and_sends_nothing(
    commands: Commands,
    collector: support.Collector,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(PREVIEW, "1")
    commands.before("run", "--env=secret")
    commands.run()
    commands.after()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"{ON}{EXAMPLES}\nPOST {collector.url}\n")
    assert shown.err.count(ON) == 1
    assert '"command":"kedro run --env *****"' in shown.err
    assert "secret" not in shown.err
    assert commands.started_none(collector)
    assert not os.path.exists(salt_path())


@pytest.mark.parametrize("consent", ["consent: false\n", None])
def test_preview_shows_whatever_the_consent(
    consent: str | None, commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = commands.metadata.project_path / ".telemetry"
    path.unlink()
    if consent:
        path.write_text(consent)
    monkeypatch.setenv(PREVIEW, "1")
    before = list(STARTED)
    commands.before("info")
    commands.after()
    assert "Telemetry is off: " in capsys.readouterr().err
    assert before == STARTED
    assert path.exists() == bool(consent)


def test_preview_outside_of_a_project(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PREVIEW, "1")
    commands.cli.hook.before_command_run(project_metadata=None, command_args=["info"])
    commands.after()
    assert "Telemetry is off: not in a Kedro project." in capsys.readouterr().err


@pytest.fixture
def previewed(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, str], str]:
    """What a preview of a command writes where one more variable is set."""

    def show(name: str, value: str) -> str:
        monkeypatch.setenv(PREVIEW, "1")
        monkeypatch.setenv(name, value)
        commands.before("info")
        commands.after()
        return capsys.readouterr().err

    return show


def test_preview_without_a_collector(previewed: Callable[[str, str], str]) -> None:
    shown = previewed("KEDRO_TELEMETRY_ENDPOINT", "nowhere")
    assert "POST nowhere: KEDRO_TELEMETRY_ENDPOINT is refused\n" in shown


def test_preview_is_silent_in_shell_completion(previewed: Callable[[str, str], str]) -> None:
    """Where it is set for good, Tab would write it over the prompt."""
    assert previewed("_KEDRO_COMPLETE", "bash_complete") == ""


def test_preview_of_a_salt_that_is_there(
    commands: Commands,
    collector: support.Collector,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What it shows is then what was sent, to the byte."""
    commands.before("info")
    commands.after()
    collector.wait()
    head, _, body = collector.requests[0].partition(b"\r\n\r\n")
    monkeypatch.setenv(PREVIEW, "1")
    commands.before("info")
    commands.after()
    shown = capsys.readouterr().err
    assert shown.startswith(f"{ON}\nPOST ")
    assert shown.endswith(f"\n\n{body.decode()}\n")
    lines = head.decode().split("\r\n")[1:]
    assert f"POST {collector.url}\n" + "\n".join(lines) in shown


# --- Kedro finds the hooks ---
@pytest.mark.parametrize("group", ["kedro.hooks", "kedro.cli_hooks"])
def test_the_entry_points_name_the_hook(group: str) -> None:
    (found,) = [point for point in entry_points(group=group) if point.name == "kedro-telemetry"]
    assert found.value == "kedro_telemetry.plugin:telemetry_hook"
    assert found.load() is telemetry_hook


def test_kedro_registers_the_hook_for_commands() -> None:
    manager = CLIHooksManager()
    assert manager.is_registered(telemetry_hook)
    assert {"before_command_run", "after_command_run"} == {
        c.name for c in manager.get_hookcallers(telemetry_hook) or []
    }


def test_kedro_registers_the_hook_for_sessions_unless_disabled() -> None:
    for disabled, registered in (((), True), (("kedro-telemetry",), False)):
        manager = _create_hook_manager()
        _register_hooks_entry_points(manager, disabled)
        assert manager.is_registered(telemetry_hook) == registered
    manager.register(telemetry_hook)
    assert [caller.name for caller in manager.get_hookcallers(telemetry_hook) or []] == ["before_pipeline_run"]


@pytest.mark.parametrize("make", [CLIHooksManager, _create_hook_manager])
def test_the_hooks_ask_for_no_more_than_kedro_gives(make: Callable[[], Any]) -> None:
    """Pluggy's own check of names and arguments."""
    manager = make()
    if not manager.is_registered(telemetry_hook):
        manager.register(telemetry_hook)
    manager.check_pending()


def test_a_worker_that_is_spawned_has_no_command() -> None:
    script = "from kedro_telemetry.plugin import telemetry_hook as hook; assert hook.command is None"
    subprocess.run([sys.executable, "-c", script], check=True)
