"""The hooks: at most one event per command, and never a broken or slower command."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
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
from kedro.framework.project import pipelines

from kedro_telemetry import plugin
from kedro_telemetry.plugin import (
    ENDPOINT_VARIABLE as ENDPOINT,
)
from kedro_telemetry.plugin import (
    PREVIEW_VARIABLE as PREVIEW,
)
from kedro_telemetry.plugin import (
    TelemetryHook,
    telemetry_hook,
)

CATALOG = SimpleNamespace(keys=lambda: ["a", "b", "parameters"])


class Kedro:
    """Kedro's own hook managers, with our hook in both, and a project that said yes."""

    def __init__(self, project: Path) -> None:
        self.hook = TelemetryHook()
        self.metadata: Any = SimpleNamespace(project_path=project, package_name="acme")
        self.answer = project / ".telemetry"
        self.answer.write_text("consent: true\n")
        self.cli, self.session = CLIHooksManager(), _create_hook_manager()
        for manager in (self.cli, self.session):
            for other in manager.get_plugins():
                manager.unregister(other)
            manager.register(self.hook)

    def before(self, *args: str) -> None:
        self.cli.hook.before_command_run(
            project_metadata=self.metadata, command_args=list(args)
        )

    def run(self, catalog: Any = CATALOG, **changes: Any) -> None:
        # Kedro names the project as a string here.
        run_params = {"project_path": self.answer.parent.as_posix(), **changes}
        self.session.hook.before_pipeline_run(
            run_params=run_params, pipeline=None, catalog=catalog
        )

    def after(self, exit_code: int = 0) -> None:
        self.cli.hook.after_command_run(
            project_metadata=self.metadata, command_args=[], exit_code=exit_code
        )

    def command(self, *args: str) -> None:
        self.before(*args)
        self.after()


@pytest.fixture
def kedro(tmp_path: Path) -> Kedro:
    pipelines.configure()
    return Kedro(tmp_path)


class Sent(list[dict[str, Any]]):
    """The properties of the events that senders were started with."""

    @property
    def commands(self) -> list[str]:
        return [properties["command"] for properties in self]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    """Start no senders, and keep their events. All of them must be good."""
    found, errors = Sent(), []

    def start(message: bytes) -> None:
        try:
            event = json.loads(plugin.build_event(message))
            support.check_event(event)
            found.append(event["properties"])
        except Exception as error:
            errors.append(error)  # the hook swallows it
            raise

    monkeypatch.setattr(plugin, "start_sender", start)
    yield found
    assert errors == []


# --- One event per command ---


def test_a_run_is_sent_with_counts_before_its_pipeline_runs(
    kedro: Kedro, sent: Sent
) -> None:
    kedro.before("run", "--env", "secret")
    assert sent == []
    kedro.run()
    assert sent.commands == ["kedro run --env *****"]
    assert sent[0]["number_of_datasets"] == 2
    kedro.run()
    kedro.after()
    kedro.after()
    assert len(sent) == 1


def test_a_run_that_fails_early_is_sent_when_it_ends(kedro: Kedro, sent: Sent) -> None:
    kedro.before("run")
    kedro.after(exit_code=1)
    assert sent.commands == ["kedro run"]
    assert "number_of_datasets" not in sent[0]


def test_another_command_is_sent_when_it_ends(kedro: Kedro, sent: Sent) -> None:
    for args in (("viz", "run"), ("acme", "run"), ("ipython",)):
        kedro.before(*args)
        kedro.run()
        assert sent == []
        kedro.after()
        assert "number_of_datasets" not in sent.pop()


def test_each_command_of_a_process_is_sent(kedro: Kedro, sent: Sent) -> None:
    args = ["info"]
    kedro.cli.hook.before_command_run(
        project_metadata=kedro.metadata, command_args=args
    )
    args[:] = ["package"]
    kedro.after()
    kedro.command("run")
    assert sent.commands == ["kedro info", "kedro run"]


def test_a_run_that_only_showed_its_help_is_not_a_run(kedro: Kedro, sent: Sent) -> None:
    """A script shows the help in its own process, then runs a session."""
    for args in (("run", "--help"), ("run", "--env", "x", "-h")):
        kedro.before(*args)
        kedro.run()
        assert sent == []


@pytest.mark.parametrize("path", ["/elsewhere", None, 12])
def test_a_session_of_another_project_is_not_the_run(
    path: Any, kedro: Kedro, sent: Sent
) -> None:
    kedro.before("run")
    kedro.run(project_path=path)
    assert sent == []
    kedro.after()
    assert "number_of_datasets" not in sent[0]


def test_a_session_without_a_command_sends_nothing(kedro: Kedro, sent: Sent) -> None:
    """In a notebook, a service, a packaged project."""
    kedro.run()
    kedro.after()
    assert sent == []


def test_a_no_also_counts_for_a_running_command(kedro: Kedro, sent: Sent) -> None:
    kedro.before("jupyter", "lab")
    kedro.answer.write_text("consent: false\n")
    kedro.after()
    kedro.answer.write_text("consent: true\n")
    kedro.before("run")
    kedro.answer.write_text("consent: false\n")
    kedro.run()
    kedro.answer.write_text("consent: true\n")
    kedro.after()
    assert sent == []


def test_a_yes_counts_from_the_next_command(kedro: Kedro, sent: Sent) -> None:
    kedro.answer.write_text("consent: false\n")
    kedro.before("info")
    kedro.answer.write_text("consent: true\n")
    kedro.after()
    assert sent == []
    kedro.command("info")
    assert len(sent) == 1


def test_a_command_without_an_end_is_forgotten_by_the_next(
    kedro: Kedro, sent: Sent
) -> None:
    kedro.before("info")
    kedro.answer.write_text("consent: false\n")
    kedro.command("package")
    kedro.answer.write_text("consent: true\n")
    kedro.before("info")
    kedro.metadata = None
    kedro.command("info")
    assert sent == []


def test_a_forked_worker_sends_nothing(kedro: Kedro, sent: Sent) -> None:
    kedro.before("run")
    with warnings.catch_warnings():  # of threads, which the test has
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        kedro.run()
        kedro.after()
        os._exit(len(sent))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    kedro.run()
    assert sent.commands == ["kedro run"]


@pytest.mark.parametrize("consent", ["consent: false\n", "", None])
def test_without_a_yes_nothing_is_sent_or_stored(
    consent: str | None, kedro: Kedro, sent: Sent, home: Path
) -> None:
    kedro.answer.unlink()
    if consent is not None:
        kedro.answer.write_text(consent)
    kedro.command("info")
    kedro.before("run")
    assert kedro.hook.command is None, "nothing is counted"
    kedro.run()
    kedro.after()
    assert sent == []
    assert os.listdir(home) == []
    assert kedro.answer.exists() == (consent is not None)


# --- The question ---


@pytest.mark.parametrize("agreed", [True, False])
def test_the_answer_to_the_question_decides(
    agreed: bool, kedro: Kedro, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    kedro.answer.unlink()
    asked = []

    def ask(project: str) -> bool:
        asked.append(project)
        return agreed

    monkeypatch.setattr(plugin, "can_ask", lambda: True)
    monkeypatch.setattr(plugin, "ask", ask)
    kedro.command("info")
    assert asked == [str(kedro.answer.parent)]
    assert len(sent) == agreed
    sent.clear()
    for name in (PREVIEW, ENDPOINT):
        monkeypatch.setenv(name, "x")
        kedro.command("info")
        monkeypatch.delenv(name)
    kedro.metadata = None
    kedro.command("info")
    assert (len(asked), sent) == (1, []), "nothing could be sent"


# --- Errors ---


class Broken:
    """Metadata that raise an error."""

    def __init__(self, error: type[BaseException], **known: Any) -> None:
        self.__dict__.update(known)
        self.error = error

    def __getattr__(self, name: str) -> Any:
        raise self.error(name)


ERRORS = (RuntimeError, OSError, RecursionError, MemoryError, AssertionError)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_never_breaks_a_command(
    error: type[Exception], kedro: Kedro, sent: Sent
) -> None:
    metadata = kedro.metadata
    kedro.before("docs")  # Kedro does not report its end
    kedro.metadata = Broken(error)
    kedro.command("info")
    kedro.metadata = Broken(error, project_path=kedro.answer.parent)
    kedro.command("info")
    assert sent == []
    kedro.metadata = metadata
    kedro.before("run")
    kedro.run(catalog=Broken(error))
    assert sent.commands == ["kedro run"], "without the count of datasets"


def test_arguments_of_any_type_never_break_a_command(kedro: Kedro, sent: Sent) -> None:
    hook: Any = kedro.hook
    for metadata in (None, 12, "text", SimpleNamespace(), kedro.metadata):
        for args in (None, 12, [None], ["run", 12, b"x"], ["info"]):
            hook.before_command_run(metadata, args)
            for run_params in (None, {}, 12, {"project_path": 12}):
                hook.before_pipeline_run(run_params, CATALOG)
            hook.after_command_run()
    assert sent.commands == ["kedro info"]


def test_ctrl_c_passes(kedro: Kedro, sent: Sent) -> None:
    with pytest.raises(KeyboardInterrupt):
        kedro.hook.before_command_run(Broken(KeyboardInterrupt), ["info"])
    metadata = Broken(KeyboardInterrupt, project_path=kedro.answer.parent)
    kedro.hook.before_command_run(metadata, ["info"])
    with pytest.raises(KeyboardInterrupt):
        kedro.hook.after_command_run()
    kedro.after()
    assert sent == []

    def press_ctrl_c() -> list[str]:
        os.kill(os.getpid(), signal.SIGINT)
        return []

    kedro.before("run")
    with pytest.raises(KeyboardInterrupt):
        kedro.run(SimpleNamespace(keys=press_ctrl_c))


# --- Obstacles ---


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [
        ({"sys.executable": None}, "no Python interpreter"),
        ({"sys.executable": ""}, "no Python interpreter"),
        ({"sys.frozen": True}, "no Python interpreter"),
        ({"plugin.__file__": "/absent.zip/plugin.py"}, "in an archive"),
        ({"debugpy": ""}, "debugpy takes over"),
        ({"pydevd": ""}, "pydevd takes over"),
        ({"_pydevd_bundle": ""}, "_pydevd_bundle takes over"),
        ({"viztracer": ""}, "viztracer takes over"),
        ({"scalene": ""}, "scalene takes over"),
        ({ENDPOINT: ""}, "invalid host"),
        ({ENDPOINT: "ftp://127.0.0.1/"}, "must be an https"),
        ({ENDPOINT: "https://[2001:db8::1]/", "ALL_PROXY": "socks5://x:1"}, "proxy"),
    ],
)
def test_an_obstacle_drops_the_event_and_stores_nothing(
    obstacle: dict[str, Any],
    reason: str,
    kedro: Kedro,
    sent: Sent,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert plugin.find_obstacle() is None
    for name, value in obstacle.items():
        if name.isupper():
            monkeypatch.setenv(name, value)
        elif value == "" and "." not in name:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        else:
            holder = sys if name.startswith("sys") else plugin
            name = name.partition(".")[2]
            monkeypatch.setattr(holder, name, value, raising=False)
    assert reason in str(plugin.find_obstacle())
    kedro.command("info")
    kedro.before("run")
    kedro.run()
    assert sent == []
    assert os.listdir(home) == []


# --- The start of the sender ---

REPORT = """#!{python} -IS
import json, os, sys
found = dict(
    arguments=sys.argv[1:], input=sys.stdin.read(), folder=os.getcwd(),
    environment=dict(os.environ),
    files=[os.path.realpath(f"/proc/self/fd/{{n}}") for n in (1, 2)],
    descriptors=len(os.listdir("/proc/self/fd")),
)
open("{report}.new", "w").write(json.dumps(found))
os.rename("{report}.new", "{report}")
"""


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return what the last sender was started with; a script is in its place."""
    interpreter, path = tmp_path / "python", tmp_path / "report"
    interpreter.write_text(REPORT.format(python=sys.executable, report=path))
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))

    def read() -> Any:
        end = time.monotonic() + 10
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.01)
        return json.loads(path.read_text())

    return read


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: /proc")
def test_the_sender_gets_the_message_and_nothing_else(
    reports: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    passed = dict.fromkeys(plugin.SENDER_VARIABLES, "x")
    passed |= {"SSL_CERT_FILE": "ca.pem", "SSL_CERT_DIR": f"certs:/etc/ssl:{os.curdir}"}
    for name, value in passed.items():
        monkeypatch.setenv(name, value)
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        plugin.start_sender(b"the message")
        found = reports()
    found["environment"].pop("LC_CTYPE", None)  # set by Python itself
    assert found == {
        "arguments": ["-I", "-S", "-B", str(support.PLUGIN)],
        "input": "the message",
        "folder": "/",
        "environment": passed
        | {
            "SSL_CERT_FILE": f"{tmp_path}/ca.pem",
            "SSL_CERT_DIR": f"{tmp_path}/certs:/etc/ssl:{tmp_path}",
        },
        "files": ["/dev/null", "/dev/null"],
        "descriptors": 4,  # 0 to 2, and the folder that is listed
    }


def test_an_empty_variable_reaches_the_sender_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty endpoint is refused. It must not become the default in the sender."""
    monkeypatch.setenv("SSL_CERT_DIR", "")
    monkeypatch.setenv(ENDPOINT, "")
    assert plugin.sender_environment() == {ENDPOINT: "", "SSL_CERT_DIR": ""}
    monkeypatch.delenv(ENDPOINT)
    monkeypatch.delenv("SSL_CERT_DIR")
    assert plugin.sender_environment() == {}


@pytest.mark.parametrize("name", ["SIGINT", "SIGQUIT", "SIGHUP"])
def test_terminal_signals_do_not_end_a_starting_sender(
    reports: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(plugin, "sender_ids", [])
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    plugin.start_sender(b"the message")
    os.kill(plugin.sender_ids[0], signal.Signals[name])
    assert reports()["input"] == "the message"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked


def test_ctrl_c_while_a_sender_starts_leaves_no_signal_blocked(
    reports: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    change = signal.pthread_sigmask
    blocked = change(signal.SIG_BLOCK, [])

    def interrupted(how: int, signals: set[signal.Signals]) -> set[int]:
        """Change the mask, then raise, as CPython does after a Ctrl-C just before."""
        before = change(how, signals)
        if how == signal.SIG_BLOCK and signals:
            raise KeyboardInterrupt
        return before

    monkeypatch.setattr(signal, "pthread_sigmask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plugin.start_sender(b"the message")
    assert change(signal.SIG_BLOCK, []) == blocked


@pytest.fixture
def sleepers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The ids of senders that only sleep, and do not read their input."""
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nexec sleep 60\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    monkeypatch.setattr(plugin, "sender_ids", [])
    yield plugin.sender_ids
    for process_id in plugin.sender_ids:
        os.kill(process_id, signal.SIGKILL)
        os.waitpid(process_id, 0)


def test_a_message_that_is_too_long_is_dropped_without_waiting(
    kedro: Kedro, sleepers: list[int]
) -> None:
    kedro.metadata.example_pipeline = "x" * 1_000_000
    kedro.command("info")
    with pytest.raises(ValueError, match="too long"):
        plugin.start_sender(bytes(plugin.MAX_MESSAGE + 1))
    assert sleepers == []
    plugin.start_sender(bytes(plugin.MAX_MESSAGE))
    assert len(sleepers) == 1


def test_starting_a_sender_does_not_wait_or_leak(
    kedro: Kedro, sleepers: list[int]
) -> None:
    threads, descriptors = threading.enumerate(), psutil.Process().num_fds()
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("info", "docs"):
            kedro.command(name)
        gc.collect()
    assert time.monotonic() - start < 30
    assert [str(warning.message) for warning in caught] == []
    assert threading.enumerate() == threads
    assert psutil.Process().num_fds() <= descriptors
    assert len(sleepers) == 2
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for process_id in sleepers:
        priority = os.getpriority(os.PRIO_PROCESS, process_id)
        assert priority > own or priority == 19, "it lets others go first"


def test_senders_that_ended_are_reaped_and_nothing_else(
    kedro: Kedro, sleepers: list[int]
) -> None:
    for name in ("info", "docs", "run"):
        kedro.command(name)
    first, second, third = sleepers
    for process_id in (first, second):
        os.kill(process_id, signal.SIGKILL)
        os.waitid(os.P_PID, process_id, os.WEXITED | os.WNOWAIT)
    os.waitpid(first, 0)  # somebody else was faster
    with subprocess.Popen(["true"]) as other:
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        kedro.command("info")
        assert sleepers[:-1] == [third], "it still runs"
        with pytest.raises(ChildProcessError):
            os.waitpid(second, 0)
        assert other.wait() == 0


@pytest.mark.parametrize("executable", ["/absent/python", "/dev/null"])
def test_an_interpreter_that_does_not_start_drops_the_event(
    executable: str, kedro: Kedro, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    before = psutil.Process().num_fds()
    with pytest.raises(OSError, match=executable):
        plugin.start_sender(b"the message")
    kedro.command("info")
    assert psutil.Process().num_fds() <= before


# --- Preview ---

ON = [
    "Preview only, nothing is sent.",
    "Telemetry is on: .telemetry says `consent: true`.",
]
EXAMPLES = "The hashes are only examples, because no salt is stored yet."


@pytest.fixture
def preview(
    kedro: Kedro,
    sent: Sent,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Return what a command shows in preview mode with these variables."""

    def show(*args: str, **variables: str) -> str:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(PREVIEW, "1")
        before = sorted(home.rglob("*"))
        kedro.before(*args)
        kedro.run()
        kedro.after()
        monkeypatch.delenv(PREVIEW)
        assert sorted(home.rglob("*")) == before
        assert sent == []
        shown = capsys.readouterr()
        assert shown.out == ""
        return shown.err

    return show


def test_preview_shows_the_whole_request_once_and_sends_nothing(
    preview: Callable[..., str],
) -> None:
    lines = preview("run", "--env=secret").splitlines()
    url = os.environ[ENDPOINT]
    assert lines[:6] == [*ON, EXAMPLES, "", f"POST {url}", "Host: 127.0.0.1:9"]
    assert lines[-2] == ""
    assert len(lines) == 13
    support.check_event(json.loads(lines[-1]))
    assert "kedro run --env *****" in lines[-1]


def test_preview_shows_what_is_sent(
    preview: Callable[..., str], kedro: Kedro, sent: Sent
) -> None:
    kedro.command("info")
    properties = sent.pop()
    lines = preview("info").splitlines()
    assert lines[:3] == [*ON, ""], "the salt is there"
    assert json.loads(lines[-1])["properties"] == properties


@pytest.mark.parametrize("consent", ["consent: false\n", None])
def test_preview_works_without_a_yes(
    consent: str | None, preview: Callable[..., str], kedro: Kedro
) -> None:
    kedro.answer.unlink()
    if consent:
        kedro.answer.write_text(consent)
    assert "Telemetry is off: " in preview("info").splitlines()[1]
    kedro.metadata = None
    assert "Telemetry is off: not in a Kedro project." in preview("info")


def test_preview_names_the_proxy_without_its_password(
    preview: Callable[..., str],
) -> None:
    shown = preview(
        "info",
        KEDRO_TELEMETRY_ENDPOINT="https://collector.example/x",
        HTTPS_PROXY="http://ada:s3cret@proxy.example:3128",
    )
    assert "through the proxy proxy.example:3128.\n" in shown
    assert "s3cret" not in shown


def test_preview_says_why_nothing_can_be_sent(preview: Callable[..., str]) -> None:
    lines = preview("info", KEDRO_TELEMETRY_ENDPOINT="nowhere").splitlines()
    assert lines[3:5] == [
        f"It would not be sent: {ENDPOINT} has an invalid host or port.",
        "",
    ]
    support.check_event(json.loads(lines[5]))
    assert len(lines) == 6


def test_preview_is_silent_in_shell_completion(preview: Callable[..., str]) -> None:
    assert preview("info", _KD_COMPLETE="bash_complete") == ""


@pytest.mark.parametrize("consent", ["consent: false\n", None])
def test_unsetting_preview_during_a_command_does_not_send(
    consent: str | None, kedro: Kedro, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    kedro.answer.unlink()
    if consent:
        kedro.answer.write_text(consent)
    monkeypatch.setattr(plugin, "can_ask", lambda: True)
    monkeypatch.setenv(PREVIEW, "1")
    kedro.before("run")
    monkeypatch.delenv(PREVIEW)
    kedro.run()
    kedro.after()
    assert sent == []


# --- Kedro finds the hooks ---


def test_kedro_registers_the_hook() -> None:
    for group in ("kedro.hooks", "kedro.cli_hooks"):
        found = [p for p in entry_points(group=group) if p.name == "kedro-telemetry"]
        assert [point.load() for point in found] == [telemetry_hook]
    cli = CLIHooksManager()
    names = {caller.name for caller in cli.get_hookcallers(telemetry_hook) or []}
    assert names == {"before_command_run", "after_command_run"}
    cli.check_pending()
    for disabled, is_registered in (((), True), (("kedro-telemetry",), False)):
        session = _create_hook_manager()
        _register_hooks_entry_points(session, disabled)
        assert session.is_registered(telemetry_hook) == is_registered
        session.check_pending()
