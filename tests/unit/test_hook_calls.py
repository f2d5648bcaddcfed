"""The hooks: at most one event per command, and never a broken or slower command."""

import gc
import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import support
from kedro.framework.cli.hooks.manager import CLIHooksManager
from kedro.framework.hooks.manager import _create_hook_manager

from kedro_telemetry import plugin

ENDPOINT, PREVIEW = plugin.ENDPOINT_VARIABLE, plugin.PREVIEW_VARIABLE
CATALOG = SimpleNamespace(keys=lambda: ["a", "b", "parameters"])
SELECTED = {"pipeline_names": ["ds"]}


class Kedro:
    """Kedro's own hook managers, with our hook in both, and a project with two yeses.

    A call returns how many senders it has started.
    """

    def __init__(self, project: Path, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.project, self.home, self.patch = project, home, patch
        self.hook = plugin.TelemetryHook()
        self.metadata: Any = SimpleNamespace(project_path=project, package_name="acme")
        self.answer, self.own = project / ".telemetry", support.own_file(project, home)
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

    def command(self, *args: Any, **variables: str) -> int:
        with self.patch.context() as changed:
            for name, value in variables.items():
                changed.setenv(name, value)
            return self.before(*args) + self.run() + self.after()

    def files(self) -> list[Path]:
        return sorted([*self.home.rglob("*"), *self.project.rglob("*")])


@pytest.fixture
def kedro(agreed: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kedro]:
    yield Kedro(agreed, home, monkeypatch)
    for sender in plugin.senders:
        sender.kill()
        sender.wait()
    plugin.senders.clear()


def test_a_run_is_sent_once_when_it_ends_with_its_counts(
    kedro: Kedro, collector: support.Collector
) -> None:
    kedro.patch.setenv(ENDPOINT, collector.url)
    support.agree(kedro.project, kedro.home, collector.url)
    assert kedro.run() + kedro.after() == 0, "a notebook, a service, a packaged project"
    assert kedro.before("docs") == 0, "a command without an end"
    assert kedro.before("run", "--env", "secret") + kedro.run() == 0
    assert kedro.after() == 1
    assert kedro.after() + kedro.run() + kedro.after() == 0
    (event,) = collector.wait()
    assert event["properties"]["command"] == "kedro run --env *****"
    assert event["properties"]["number_of_datasets"] == 2
    assert kedro.command("run") + kedro.command("info") == 2


def test_telemetry_must_be_on_at_both_ends_of_a_command(
    kedro: Kedro, capsys: pytest.CaptureFixture[str]
) -> None:
    yes = kedro.own.read_bytes()
    kedro.patch.setattr(plugin, "can_ask", bool)  # this is no terminal
    for start, end in ((b"no\n", yes), (yes, b"no\n"), (yes, b"not an answer")):
        kedro.own.write_bytes(start)
        kedro.before("run")
        kedro.own.write_bytes(end)
        assert kedro.run() + kedro.after() == 0
    assert capsys.readouterr() == ("", ""), "the question comes before a command"


@pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: fork")
def test_a_forked_child_that_ends_sends_nothing(kedro: Kedro) -> None:
    kedro.before("run")
    child = os.fork()
    if not child:
        os._exit(kedro.after())
    assert os.waitpid(child, 0)[1] == 0
    assert kedro.after() == 1


def test_a_no_that_a_command_sees_ends_the_users_own_yes(kedro: Kedro) -> None:
    yes, no = kedro.own.read_bytes(), b"consent: false\n"
    for answer, own, variables, is_kept in (
        (no, yes, {}, False),
        (b"consent: False\n", yes.replace(b" 2 ", b" 1 "), {}, False),
        (no, b"no\n", {}, True),
        (b"consent: no\n", yes, {}, True),  # not understood
        (no, yes, {PREVIEW: "1"}, True),
        (no, yes, {"DO_NOT_TRACK": "1"}, True),
    ):
        kedro.answer.write_bytes(answer)
        kedro.own.write_bytes(own)
        assert kedro.command("info", **variables) == 0
        assert kedro.own.exists() == is_kept, (answer, own, variables)
        assert kedro.answer.read_bytes() == answer
    kedro.own.unlink()
    assert kedro.command("info") == 0


def test_off_starts_writes_and_prints_nothing(
    kedro: Kedro, capfd: pytest.CaptureFixture[str]
) -> None:
    kedro.own.unlink()
    kedro.answer.unlink()
    kedro.own.parent.rmdir()
    before = kedro.files()
    for name in ("DO_NOT_TRACK", "_KEDRO_COMPLETE", "LD_PRELOAD", "UNUSED"):
        assert kedro.command("run", **{name: "1"}) == 0
    kedro.metadata = None
    assert kedro.command("info") == 0
    assert kedro.files() == before
    assert capfd.readouterr() == ("", "")


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
    broken = Broken(error, project_path=kedro.project)
    for kedro.metadata in (12, Broken(error), broken, "text"):
        assert kedro.command("info") == 0
    kedro.metadata = good
    for args in ([None], ["run", 12], [b"x"]):
        assert kedro.command(*args) == 0
    for executable in ("/absent/python", os.devnull):
        with kedro.patch.context() as changed:
            changed.setattr(sys, "executable", executable)
            assert kedro.command("info") == 0
    with pytest.raises(ValueError, match="too long"):  # to write it could take time
        plugin.start_sender(bytes(4097))
    plugin.start_sender(bytes(4096))
    for catalog, run_params in ((Broken(error), {}), (CATALOG, None), (None, 12)):
        kedro.before("run")
        kedro.run(catalog, run_params)
        assert kedro.after() == 1, "only the counts are lost"


def test_ctrl_c_passes_at_each_hook(kedro: Kedro) -> None:
    good, broken = kedro.metadata, Broken(KeyboardInterrupt)
    kedro.metadata = broken
    with pytest.raises(KeyboardInterrupt):
        kedro.before("info")
    kedro.metadata = good
    kedro.before("run")
    with pytest.raises(KeyboardInterrupt):
        kedro.run(broken)
    kedro.hook.metadata = broken
    with pytest.raises(KeyboardInterrupt):
        kedro.after()
    assert kedro.after() == 0


def test_the_sender_gets_a_few_variables_and_no_arguments(kedro: Kedro) -> None:
    passed = dict.fromkeys(["HTTPS_PROXY", "https_proxy", "all_proxy"], "a.example:1")
    passed |= {"ALL_PROXY": "a.example:1", "NO_PROXY": "b", "no_proxy": "b"}
    passed |= {
        "SSL_CERT_FILE": os.path.abspath("x"),
        "SSL_CERT_DIR": os.path.abspath("y"),
    }
    passed |= {"LD_LIBRARY_PATH": "x", "DYLD_LIBRARY_PATH": "x"}
    for variables in ({}, passed):
        assert kedro.command("info", **variables) == 1
        sender = psutil.Process(plugin.senders[-1].pid)
        support.wait_until(sender.environ)  # Linux sets it a little later
        options = ["-I", "-S", "-B", str(support.PLUGIN)]
        assert sender.cmdline() == [sys.executable, *options]
        if sys.platform == "win32":  # it adds some
            secrets = {"PATH", "HOME", "LOGNAME", "PYTHONPATH"}
            assert secrets & set(sender.environ()) == set()
        else:
            expected = {**variables, ENDPOINT: os.environ[ENDPOINT]}
            assert sender.environ() == expected
            assert (sender.cwd(), os.getsid(sender.pid)) == ("/", sender.pid)


@pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: zombies")
def test_senders_leak_nothing_and_are_reaped(kedro: Kedro) -> None:
    this = psutil.Process()
    threads, descriptors = threading.enumerate(), this.num_fds()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert kedro.command("info") + kedro.command("docs") == 2
        ended, running = (psutil.Process(sender.pid) for sender in plugin.senders)
        ended.kill()
        support.wait_until(lambda: ended.status() == psutil.STATUS_ZOMBIE)
        assert kedro.command("run") == 1
        assert not ended.is_running(), "it has been reaped"
        assert running.is_running()
        left = [psutil.Process(sender.pid) for sender in plugin.senders[-1:]]
        plugin.senders.clear()
        gc.collect()
    for process in (running, *left):
        process.kill()
    assert caught == []
    assert threading.enumerate() == threads
    assert this.num_fds() <= descriptors


def test_preview_shows_the_event_its_address_and_whether_it_would_be_sent(
    kedro: Kedro, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*args: str, **variables: str) -> tuple[str, str]:
        """Return the text above the event, and the event."""
        assert kedro.command(*args, **variables) == 0
        out, err = capsys.readouterr()
        assert out == ""
        text, _, event = err.rstrip("\n").rpartition("\n")
        support.check_event(json.loads(event))
        return text, event

    url, before = os.environ[ENDPOINT], kedro.files()
    kedro.patch.setenv(PREVIEW, "1")
    text, event = shown("run", "--env", "secret")
    assert text.startswith("Preview")
    assert repr(url) in text
    on = shown("info")[0]
    assert text == on
    assert "kedro run --env *****" in event
    assert "number_of_datasets" in event
    assert "number_of" not in shown("viz", "run")[1]
    for name, value in {"CI": "1", ENDPOINT: "x", "ALL_PROXY": "socks5://x:1"}.items():
        text, _ = shown("info", **{name: value})
        assert name.lower() in text.lower(), "names have no case on Windows"
        assert repr("x" if name == ENDPOINT else url) in text
    assert kedro.files() == before
    kedro.answer.write_bytes(b"consent: false\n")
    assert plugin.PROJECT_SAYS_NO in shown("info")[0]
    kedro.metadata = None
    assert "not in a Kedro project" in shown("info")[0]
    assert kedro.command("info", _KD_COMPLETE="zsh_source") == 0
    kedro.metadata = SimpleNamespace(project_path=kedro.project)
    kedro.before("run")
    kedro.patch.delenv(PREVIEW)
    assert kedro.after() == 0, "a no is a no if the variable is unset meanwhile"
    assert capsys.readouterr() == ("", "")
