"""Homes, salts, limits and moments not as they should be: a command ends as with telemetry off."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import support
from test_question import unprivileged
from test_system_calls import strace

from kedro_telemetry import plugin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts, limits and user ids of Linux")
KEDRO = [sys.executable, "-m", "kedro"]
MAIN = "from kedro.framework.cli import main; main()"
NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}  # so that the calls that are counted are the plugin's own
NOBODY = 54321  # a user id that has no name


def run(*line: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )


def assert_as_off(*line: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Output and exit status are those of the same command with telemetry off."""
    off = run(*line, cwd=cwd, env={**env, "DO_NOT_TRACK": "1"})
    on = run(*line, cwd=cwd, env=env)
    assert (on.returncode, on.stdout, on.stderr) == (off.returncode, off.stdout, off.stderr)
    return on


def month(shift: int = 0) -> str:
    year, number = map(int, time.strftime("%Y %m", time.gmtime()).split())
    total = year * 12 + number - 1 + shift
    return f"{total // 12:04}-{total % 12 + 1:02}"


def salt_file(home: Path) -> Path:
    return home / ".config" / "kedro" / "telemetry.salt"


def assert_good_salt(home: Path) -> None:
    """One salt of this month, for its owner alone, and no draft beside it."""
    assert re.fullmatch(rf"{month()} [0-9a-f]{{64}}\n", salt_file(home).read_text())
    assert salt_file(home).stat().st_mode & 0o7777 == 0o600
    assert os.listdir(salt_file(home).parent) == ["telemetry.salt"]


def files(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts}


# --- Homes ---
def absent(home: Path) -> dict[str, str | None]:
    return {"HOME": None}


def empty(home: Path) -> dict[str, str | None]:
    return {"HOME": ""}


def relative(home: Path) -> dict[str, str | None]:
    return {"HOME": "here"}


def read_only(home: Path) -> dict[str, str | None]:
    home.chmod(0o555)
    return {}


def a_file(home: Path) -> dict[str, str | None]:
    (home / "file").touch()
    return {"HOME": str(home / "file")}


def configuration_is_a_file(home: Path) -> dict[str, str | None]:
    (home / ".config").touch()
    return {}


def nowhere(home: Path) -> dict[str, str | None]:
    return {"HOME": "/proc/nowhere"}


def no_folder_rights(home: Path) -> dict[str, str | None]:
    (home / ".config" / "kedro").mkdir(parents=True)
    (home / ".config" / "kedro").chmod(0o500)
    return {}


HOMES = [absent, empty, relative, read_only, a_file, configuration_is_a_file, nowhere, no_folder_rights]


@pytest.mark.parametrize("make", HOMES)
def test_a_home_that_keeps_no_salt(
    make: Callable[[Path], dict[str, str | None]],
    project: Path,
    env: dict[str, str],
    collector: support.Collector,
    home: Path,
) -> None:
    """Where no salt can be stored, a salt for this event alone; nothing is written anywhere."""
    if make in (absent, empty) and os.geteuid() != 0:
        pytest.skip("needs a user id without a home, so root to take it on")
    changes = make(home)
    variables = {name: value for name, value in (env | changes).items() if value is not None}
    line = unprivileged(project, home)
    before = files(home, project)
    done = assert_as_off(*line, *KEDRO, "info", cwd=project, env=variables)
    assert done.returncode == 0, done.stderr
    run(*line, *KEDRO, "info", cwd=project, env=variables)
    one, other = collector.wait(2)
    assert one["identity"] != other["identity"]
    assert files(home, project) == before


def in_a_small_home(*line: str, cwd: Path, env: dict[str, str], fill: str = "") -> subprocess.CompletedProcess[str]:
    """The command with a home of its own, of 16 KiB; afterwards, on standard output, what the home holds."""
    script = (
        f'mount -t tmpfs -o size=16k tmpfs "$HOME" && {{ {fill}; "$@"; s=$?; cd "$HOME"; find . -type f; exit $s; }}'
    )
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    if run("unshare", *user, "--mount", "true", cwd=cwd, env=env).returncode != 0:
        pytest.skip("this machine allows no mounts: a full disk is NOT tried")
    return assert_as_off("unshare", *user, "--mount", "sh", "-c", script, "sh", *line, cwd=cwd, env=env)


def test_a_full_disk(project: Path, env: dict[str, str], collector: support.Collector, tmp_path: Path) -> None:
    """On a full disk the event has a salt of its own, and no half a salt is left."""
    full = 'cat /dev/zero > "$HOME/ballast" 2>/dev/null'
    done = in_a_small_home(*KEDRO, "info", cwd=project, env=env, fill=full)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "./ballast"
    collector.wait()


def test_a_home_without_hard_links(
    project: Path, env: dict[str, str], collector: support.Collector, home: Path, tmp_path: Path
) -> None:
    """A file system that refuses links, as FAT does, keeps a salt all the same."""
    refuse = "inject=link,linkat,symlink,symlinkat:error=EPERM"
    line = [strace(), "-f", "-o", str(tmp_path / "trace"), "-e", refuse, *KEDRO]
    for _ in range(2):
        assert run(*line, "info", cwd=project, env=env).returncode == 0
    one, other = collector.wait(2)
    assert one["identity"] == other["identity"]
    assert_good_salt(home)


def test_a_user_id_without_a_name(project: Path, env: dict[str, str], collector: support.Collector, home: Path) -> None:
    """No login name is no error: the event has an identity, and the salt is kept."""
    line = unprivileged(project, home) or ["unshare", "--user", f"--map-user={NOBODY}"]
    variables = {name: value for name, value in env.items() if name not in ("LOGNAME", "USER")}
    if run(*line, "true", cwd=project, env=variables).returncode != 0:
        pytest.skip("this machine gives out no user id: one without a name is NOT tried")
    done = assert_as_off(*line, *KEDRO, "info", cwd=project, env=variables)
    assert done.returncode == 0, done.stderr
    run(*line, *KEDRO, "info", cwd=project, env=variables)
    one, other = collector.wait(2)
    assert one["identity"] == other["identity"] == one["properties"]["username"]
    assert_good_salt(home)


# --- Salts ---
def holds(text: str, mode: int = 0o600) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text)
        path.chmod(mode)

    return write


def salt_link(path: Path) -> None:
    path.with_name("target").write_text(f"{month()} {'a' * 64}\n")
    path.with_name("target").chmod(0o600)
    path.symlink_to(path.with_name("target"))


def broken_link(path: Path) -> None:
    path.symlink_to(path.with_name("target"))


def of_someone_else(path: Path) -> None:
    holds(f"{month()} {'a' * 64}\n")(path)
    os.chown(path, 12345, 12345)


REPLACED: dict[str, Callable[[Path], None]] = {
    "empty": holds(""),
    "noise": holds("\x00\xff" * 5000),
    "short": holds(f"{month()} {'a' * 62}\n"),
    "long": holds(f"{month()} {'a' * 66}\n"),
    "no digits": holds(f"{month()} {'g' * 64}\n"),
    "last month's": holds(f"{month(-1)} {'a' * 64}\n"),
    "next month's": holds(f"{month(1)} {'a' * 64}\n"),
    "readable by the group": holds(f"{month()} {'a' * 64}\n", 0o640),
    "readable by everyone": holds(f"{month()} {'a' * 64}\n", 0o604),
    "FIFO": os.mkfifo,
    "link": salt_link,
    "broken link": broken_link,
    "someone else's": of_someone_else,
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_salt_that_is_none_is_replaced(
    name: str, project: Path, env: dict[str, str], collector: support.Collector, home: Path
) -> None:
    """What is not this user's own salt of this month is replaced, never used or followed."""
    if REPLACED[name] is of_someone_else and os.geteuid() != 0:
        pytest.skip("needs root, to give a file away")
    path = salt_file(home)
    path.parent.mkdir(parents=True)
    REPLACED[name](path)
    target = path.with_name("target")
    linked = target.read_text() if target.exists() else None
    done = assert_as_off(*KEDRO, "info", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    run(*KEDRO, "info", cwd=project, env=env)
    one, other = collector.wait(2)
    assert one["identity"] == other["identity"]
    assert (target.read_text() if target.exists() else None) == linked
    target.unlink(missing_ok=True)
    assert not path.is_symlink()
    assert "a" * 62 not in path.read_text()
    assert_good_salt(home)


def test_a_good_salt_is_kept(project: Path, env: dict[str, str], collector: support.Collector, home: Path) -> None:
    """This month's salt stays, byte for byte."""
    salt_file(home).parent.mkdir(parents=True)
    holds(f"{month()} {'a' * 64}\n")(salt_file(home))
    assert_as_off(*KEDRO, "info", cwd=project, env=env)
    collector.wait()
    assert salt_file(home).read_text() == f"{month()} {'a' * 64}\n"


def test_a_salt_that_is_a_folder(project: Path, env: dict[str, str], collector: support.Collector, home: Path) -> None:
    """A folder in the salt's place is no error: a salt for this event alone, no draft left behind."""
    salt_file(home).mkdir(parents=True)
    (salt_file(home) / "precious").touch()
    before = files(home)
    for _ in range(2):
        done = assert_as_off(*KEDRO, "info", cwd=project, env=env)
        assert done.returncode == 0, done.stderr
    collector.wait(2)
    assert files(home) == before


def test_a_draft_of_a_process_that_was_killed(
    project: Path, env: dict[str, str], collector: support.Collector, home: Path, tmp_path: Path
) -> None:
    """A process killed while it stored the salt does not cost the next commands theirs."""
    killed = [strace(), "-o", str(tmp_path / "trace"), "-e", "inject=rename:signal=SIGKILL:when=1", *KEDRO, "info"]
    assert run(*killed, cwd=project, env=env | NO_BYTECODE).returncode == -signal.SIGKILL
    assert len(os.listdir(salt_file(home).parent)) == 1
    for _ in range(3):
        assert_as_off(*KEDRO, "info", cwd=project, env=env)
    events = collector.wait(3)
    assert events[-1]["identity"] == events[-2]["identity"]
    assert_good_salt(home)


# --- The project, the streams, the interpreter ---
def test_a_project_that_is_read_only(
    project: Path, env: dict[str, str], collector: support.Collector, home: Path
) -> None:
    """Consent is read from a folder that cannot be written."""
    line = unprivileged(project, home)
    project.chmod(0o555)
    done = assert_as_off(*line, *KEDRO, "info", cwd=project, env=env)
    project.chmod(0o755)
    assert done.returncode == 0, done.stderr
    collector.wait()


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closing: str, project: Path, env: dict[str, str], collector: support.Collector) -> None:
    """With standard streams closed the command ends as it does with telemetry off, its event with it."""
    done = assert_as_off("sh", "-c", f'"$@" {closing}', "sh", *KEDRO, "registry", "list", cwd=project, env=env)
    if done.returncode == 0:
        collector.wait()
    support.wait_for_no_sender()
    assert collector.connections <= 1


@pytest.mark.parametrize(
    "line", ["sys.executable = ''", "sys.executable = None", "sys.executable = '/nowhere/python'", "sys.frozen = True"]
)
def test_an_interpreter_that_cannot_be_started(
    line: str, project: Path, env: dict[str, str], collector: support.Collector, home: Path
) -> None:
    """Frozen, or no interpreter path: the event is dropped."""
    done = assert_as_off(sys.executable, "-c", f"import sys; {line}; {MAIN}", "info", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    assert support.senders(collector.url) == []
    assert collector.connections == 0
    assert (line == "sys.executable = '/nowhere/python'") or files(home) == set()


def test_no_process_allowed(project: Path, env: dict[str, str], collector: support.Collector, home: Path) -> None:
    """At the limit of processes (RLIMIT_NPROC) the event is dropped, and nothing is said."""
    line = [*unprivileged(project, home), "prlimit", "--nproc=0:0"]
    refused = run(*line, sys.executable, "-c", "import os; os.fork()", cwd=project, env=env)
    assert "BlockingIOError" in refused.stderr, "the limit does not hold here"
    done = assert_as_off(*line, *KEDRO, "info", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    assert collector.connections == 0


@pytest.mark.parametrize("limit", range(4, 12))
def test_no_descriptor_left(limit: int, project: Path, env: dict[str, str], collector: support.Collector) -> None:
    """With so few descriptors (RLIMIT_NOFILE) Kedro does what it can: an event or none."""
    assert_as_off("prlimit", f"--nofile={limit}:{limit}", *KEDRO, "info", cwd=project, env=env)
    support.wait_for_no_sender()
    assert collector.connections <= 1


# --- Moments ---
CROWD = """
import os, sys
from pathlib import Path
import kedro.framework.cli.cli, kedro_telemetry.plugin
wait, go = os.pipe()
children = []
sys.executable = sys.argv[1]
for _ in range(40):
    if not (child := os.fork()):
        os.close(go)
        os.read(wait, 1)
        sys.argv = ["kedro", "info"]
        kedro.framework.cli.main()
    children.append(child)
os.close(go)
sys.exit(max(os.waitpid(child, 0)[1] for child in children))
"""


def test_forty_first_commands_at_once(project: Path, env: dict[str, str], tmp_path: Path, home: Path) -> None:
    """Many first commands, let go at one moment, settle on one salt: one identity, one file.

    A program that keeps the event stands in for the senders: forty of them at once need a fast machine.
    """
    events, keeper = tmp_path / "events", tmp_path / "keeper"
    events.mkdir()
    keeper.write_text(f'#!/bin/sh\ncat > "{events}/$$"\n')
    keeper.chmod(0o755)
    done = run(sys.executable, "-c", CROWD, str(keeper), cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    end = time.monotonic() + 60
    while len(kept := [path.read_bytes() for path in events.iterdir()]) < 40 or not all(kept):
        assert time.monotonic() < end, f"{len(kept)} of 40 events were sealed"
        time.sleep(0.05)
    assert len({json.loads(event)["identity"] for event in kept}) == 1
    assert_good_salt(home)


def after_ctrl_c(project: Path, env: dict[str, str], collector: support.Collector, home: Path) -> None:
    """At most one event so far; the next two commands send one each, of one identity."""
    support.wait_for_no_sender()
    came = len(collector.requests)
    assert came <= 1
    for count in (1, 2, 3):
        assert_as_off(*KEDRO, "info", cwd=project, env=env)
        collector.wait(came + count)
    assert len({event["identity"] for event in collector.bodies[came + 1 :]}) == 1
    assert_good_salt(home)


def test_ctrl_c_at_any_time(project: Path, env: dict[str, str], collector: support.Collector, home: Path) -> None:
    """Invariant 6: a run that is interrupted ends as it would have without telemetry, and is counted once at most."""
    node = "import time\n\n\ndef one():\n    print('running', flush=True)\n    time.sleep(30)\n"
    module = project / "src" / "acme" / "pipelines" / "ds" / "__init__.py"
    module.write_text(re.sub(r"import time|def one.*?\n\n\n", "", module.read_text(), flags=re.S) + f"\n\n{node}")
    statuses = []
    for switch in ({"DO_NOT_TRACK": "1"}, {}):
        child = subprocess.Popen(
            [*KEDRO, "run", "--pipeline=ds"],
            cwd=project,
            env=env | switch,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdout is not None
        while (word := child.stdout.readline()) and b"running" not in word:
            pass
        assert word
        if not switch:
            collector.wait()  # counted before it was stopped
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
        statuses.append(child.returncode)
    assert statuses[0] == statuses[1]
    support.wait_for_no_sender()
    assert len(collector.requests) == 1


@pytest.mark.parametrize("tenths", range(1, 10))
def test_ctrl_c_at_many_moments(
    tenths: int, project: Path, env: dict[str, str], collector: support.Collector, home: Path
) -> None:
    """Invariant 6: a command stopped at any moment ends by the signal or as it was; never twice counted, never hurt."""
    start = time.monotonic()
    whole = run(*KEDRO, "info", cwd=project, env=env | {"DO_NOT_TRACK": "1"})
    length = time.monotonic() - start
    child = subprocess.Popen([*KEDRO, "info"], cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(length * tenths / 10)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode in (whole.returncode, 1, 130, -signal.SIGINT)
    after_ctrl_c(project, env, collector, home)


# The system call at which Ctrl-C comes, and the file that it must name; each is the plugin's own.
MOMENTS = {
    "look at the consent": ("newfstatat,lstat", "consent"),
    "open the consent": ("openat", "consent"),
    "make the salt's folder": ("mkdir", ""),
    "make the salt's draft": ("openat", "draft"),
    "write the salt's draft": ("write", "draft"),
    "store the salt": ("rename", ""),
    "read the salt": ("openat", "salt"),
    "make the sender's pipe": ("pipe2", ""),
    "start the sender": ("vfork,clone,fork", ""),
}


def draft_path(project: Path, env: dict[str, str], home: Path, tmp_path: Path) -> Path:
    """The name under which a salt is drafted, as a first command in another home shows."""
    line = [strace(), "-o", str(tmp_path / "names"), "-e", "trace=openat", *KEDRO, "info"]
    (tmp_path / "other").mkdir()
    variables = {**env, "HOME": str(tmp_path / "other"), plugin.ENDPOINT: "http://127.0.0.1:9/"}
    run(*line, cwd=project, env=variables)
    names: list[str] = re.findall(rf'"{tmp_path}/other/(.*?)", \S*O_EXCL', (tmp_path / "names").read_text())
    (name,) = names
    return home / name


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_our_own_calls(
    moment: str, project: Path, env: dict[str, str], collector: support.Collector, home: Path, tmp_path: Path
) -> None:
    """Invariant 6: the signal comes at exactly one of the plugin's own system calls; the next commands are as ever."""
    calls, name = MOMENTS[moment]
    paths = {"consent": project / ".telemetry", "salt": salt_file(home)}
    if name == "draft":
        paths["draft"] = draft_path(project, env, home, tmp_path)
    chosen = ["-P", str(paths[name])] if name else []
    trace = tmp_path / "trace"
    line = [strace(), *chosen, "-o", str(trace), "-e", f"inject={calls}:signal=SIGINT:when=1", *KEDRO, "info"]
    done = run(*line, cwd=project, env=env | NO_BYTECODE)
    assert "SIGINT" in trace.read_text()
    assert done.returncode in (0, 1, 130, -signal.SIGINT)
    after_ctrl_c(project, env, collector, home)


# --- Several commands in one process, children, warnings ---
TWICE = """
import sys
from kedro.framework.cli import main
for arguments in (["info"], ["registry", "list"], ["info"]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        assert not end.code, end
"""


def test_commands_in_one_process(project: Path, env: dict[str, str], collector: support.Collector) -> None:
    """State is per command: three commands in one process are three events."""
    done = assert_as_off(sys.executable, "-c", TWICE, cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    events = collector.wait(3)
    names = sorted(event["properties"]["command"] for event in events)
    assert names == ["kedro info", "kedro info", "kedro registry list"]


SPACED = """
import os, sys, time, psutil
from kedro.framework.cli import main
most, descriptors = 0, []
for _ in range(5):
    sys.argv[1:] = ["info"]
    try:
        main()
    except SystemExit:
        pass
    children = psutil.Process().children()
    most = max(most, len(children))
    while any(child.status() != psutil.STATUS_ZOMBIE for child in children):
        time.sleep(0.02)
    descriptors.append(len(os.listdir("/proc/self/fd")))
sys.exit(0 if most == 1 and descriptors[0] == descriptors[-1] else f"{most} children, {descriptors} descriptors")
"""


def test_nothing_piles_up(project: Path, env: dict[str, str], collector: support.Collector) -> None:
    """Of commands spaced apart, at most one finished child waits to be reaped, and no descriptor stays."""
    done = run(sys.executable, "-c", SPACED, cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    assert len(collector.wait(5)) == 5


@pytest.mark.parametrize("options", [["-X", "dev"], ["-W", "error::ResourceWarning"], ["-W", "always"]])
@pytest.mark.parametrize("arguments", [["info"], ["run", "--pipeline=ds"], support.FAILING_RUN])
def test_no_warnings(
    options: list[str], arguments: list[str], project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    """The command's own warnings, and none of telemetry's."""
    line = [sys.executable, *options, "-m", "kedro", *arguments]
    off = run(*line, cwd=project, env={**env, "DO_NOT_TRACK": "1"})
    on = run(*line, cwd=project, env=env)
    assert on.returncode == off.returncode
    assert timeless(on.stderr) == timeless(off.stderr)
    assert "ResourceWarning" not in on.stderr
    assert "kedro_telemetry" not in on.stderr
    collector.wait()


def timeless(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+|\d+\.\d+ ?s\w*|\d\d:\d\d:\d\d", "…", text)


FORK = """
import os, click
@click.group(name="acme")
def cli(): ...
@cli.command()
def split():
    child = os.fork()
    print("child" if child == 0 else os.waitpid(child, 0)[1], flush=True)
"""


def test_a_fork_of_a_command_sends_nothing(project: Path, env: dict[str, str], collector: support.Collector) -> None:
    """A child that goes on where the command forked, to the end of the command, is no second command."""
    (project / "src" / "acme" / "cli.py").write_text(FORK)
    done = assert_as_off(*KEDRO, "split", cwd=project, env=env)
    assert sorted(done.stdout.split()) == ["0", "child"], done.stderr
    (event,) = collector.wait()
    assert event["properties"]["command"] == "kedro *****"
    support.wait_for_no_sender()
    assert len(collector.requests) == 1


def test_the_tools_are_here() -> None:
    """What these tests start is on the machine: each is of util-linux."""
    assert [name for name in ("setpriv", "prlimit", "unshare", "mount") if shutil.which(name) is None] == []
    assert psutil.Process().children() == []
    assert plugin.MAX_EVENT == 4096
