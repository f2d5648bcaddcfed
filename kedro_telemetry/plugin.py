"""Opt-in usage telemetry for Kedro: all of it, in one file, to be read from here down.

1. Nothing leaves or starts unless a person said yes (`decide`, `ask`); only a question or a preview is shown before.
2. At most one event per `kedro` command leaves: the FIELDS below, each in a closed form, through `seal` alone.
3. Every value on a command line is masked: only the fixed words of COMMANDS and OPTIONS pass.
4. Names leave as hashes, keyed with a random salt that never leaves and lives for a month.
5. Only the sender touches the network: a second process that runs this file down to THE WALL, so it has no consent,
   no salt and no Kedro. It checks the event, posts it once, to one address, and is gone within 5 seconds.
6. The user's process never waits for it. An error in here means no event, never a broken command.
7. Two files are kept: the answer (`.telemetry` in the project) and the salt.
SECURITY.md names the test that proves each rule. Out of scope: hostile code that runs as the user.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:  # annotations are not evaluated: only a type checker needs their names
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Final

VERSION: Final = "1.0.0+hardened"
COLLECTOR: Final = "https://heapanalytics.com/api/track"
ENDPOINT, PREVIEW = "KEDRO_TELEMETRY_ENDPOINT", "KEDRO_TELEMETRY_PREVIEW"  # where events go; show them, send none
MASK: Final = "*****"
MAX_EVENT: Final = 4096  # bytes: what a pipe takes on any system before it is read
MAX_COMMAND, MAX_URL = 420, 200  # characters: together they keep a request below 1.5 KiB
DEADLINE: Final = 4  # seconds that the sender has once it runs: with one for its start, it is gone after five
TOOLS: Final = ("Linting", "Testing", "Custom Logging", "Documentation", "Data Structure", "PySpark", "Kedro Viz")
# The public words of Kedro 0.18.0 to 1.7.0 and of its official plugins; `=` marks an option that takes a value.
COMMANDS: Final = """info, docs, new, starter, starter list, run, ipython, package, test, lint, build-docs, build-reqs,
activate-nbstripout, jupyter, jupyter notebook, jupyter lab, jupyter setup, jupyter convert, catalog, catalog list,
catalog create, catalog rank, catalog resolve, catalog describe-datasets, catalog resolve-patterns,
catalog list-patterns, pipeline, pipeline create, pipeline delete, registry, registry list, registry describe, micropkg,
micropkg pull, micropkg package, server, server start, viz, viz run, viz build, viz deploy, docker, docker init,
docker build, docker run, docker ipython, docker cmd, docker jupyter, docker jupyter notebook, docker jupyter lab,
docker dive, airflow, airflow create, mlflow, mlflow init, mlflow ui, mlflow modelify""".replace("\n", " ").split(", ")
OPTIONS: Final = """--alias= --all --artifact-path= --async --autoreload --await-registration-for= --base-image=
--browser --bucket-name= --check-only --checkout= --ci --ci-config-path= --code-path= --code-paths= --conda-env=
--conf-source= --config= --copy-mode= --destination= --directory= --docker-args= --endpoint= --env= --example=
--extra-pip-requirements= --force --from-inputs= --from-nodes= --fs-args= --gid= --group-by= --group-in-memory --help
--host= --ignore-plugins --image= --include-hooks --include-previews --infer-input-example --infer-signature
--input-file= --input-name= --jinja-file= --lite --load-file= --load-version= --load-versions= --model-name= --name=
--namespace= --namespaces= --no-browser --no-ci --node= --nodes= --only-missing-outputs --open --output-file= --params=
--pip-requirements= --pipeline= --pipelines= --platform= --port= --project-path= --region= --registered-model-name=
--reload --run-id= --run-name= --runner= --runner-params= --save-file= --silent --skip-config --starter= --tag= --tags=
--target-dir= --telemetry= --template= --to-nodes= --to-outputs= --tools= --uid= --verbose --version --with-spark --yes
-H= -V -a -c= -d= -e= -f -g= -h= -i= -j= -lv= -n= -ns= -o -p= -r= -s= -t= -tc= -v -y""".split()


def mask_command(args: Sequence[str]) -> str:
    """`kedro` and these arguments, every value as `*****`, cut to MAX_COMMAND. Masking twice changes nothing."""
    words, is_value, end = ["kedro"], False, [*args, "--"].index("--")
    for position, arg in enumerate(args[: MAX_COMMAND // 3]):  # a word and its space: three characters or more
        if is_value or position > end:
            shown, is_value = [MASK], False
        elif position < 3 and " " not in arg and " ".join([*words[1:], arg]) in COMMANDS:  # no command has more words
            shown = [arg]
        else:
            shown, is_value = mask_option(arg)
        words += shown
    return " ".join([*words, ""])[: MAX_COMMAND + 1].rpartition(" ")[0]


def mask_option(arg: str) -> tuple[list[str], bool]:
    """An argument as the words that may be shown, and whether the next argument is its value."""
    for name, glued in (arg.partition("=")[::2], (arg[:2], arg[2:])):  # `--pipeline=ds`, or `-pds`
        if name in OPTIONS or f"{name}=" in OPTIONS:
            return ([name, MASK], False) if glued else ([name], f"{name}=" in OPTIONS)
    return [MASK], False


# --- The event: all that can leave, each field's type and form. To add one is a new major version ---
COUNT: Final = (int, lambda v: 0 <= v < 10**9 and not str(v)[2:].strip("0"))  # two digits: none stands out
FIELDS: Final[Mapping[str, tuple[type, Callable[[Any], bool]]]] = {
    **dict.fromkeys(("username", "package_name"), (str, lambda v: len(v) == 32 and set(v) <= set("0123456789abcdef"))),
    "command": (str, lambda v: v == mask_command(v.split(" ")[1:])),
    "project_version": (str, lambda v: len(v) < 12 and v.isascii() and all(map(str.isdecimal, v.split(".")))),
    "telemetry_version": (str, lambda v: v == VERSION),
    "python_version": (str, lambda v: v[:2] == "3." and v[2:].isdecimal() and v.isascii() and len(v) < 5),
    "os": (str, lambda v: v in ("linux", "darwin", "win32", "other")),
    "tools": (str, lambda v: v.split(", ") == [tool for tool in TOOLS if tool in v.split(", ")]),
    "example_pipeline": (str, lambda v: v in ("True", "False")),
    **dict.fromkeys(("number_of_datasets", "number_of_nodes", "number_of_pipelines"), COUNT),
}


def seal(properties: Mapping[str, Any]) -> bytes:
    """The event as it is sent: a fresh copy of those FIELDS that have their form, and nothing else."""
    kept: dict[str, Any] = {}
    for name, (kind, fits) in FIELDS.items():
        if type(value := properties.get(name)) is kind and fits(value):
            kept[name] = value
    title = "Kedro Project Statistics" if any(FIELDS[name] is COUNT for name in kept) else "CLI command"
    event = {"app_id": "2388822444", "event": title, "identity": kept.get("username"), "properties": kept}
    return json.dumps(event, separators=(",", ":")).encode("ascii")


def collector() -> str | None:
    """Where events go: an https URL, or http to a loopback address, that cannot break out of a request; or None."""
    url = os.environ.get(ENDPOINT, COLLECTOR)
    try:
        parts = urlsplit(url)
        host, port = str(parts.hostname), f":{parts.port}"
        whole = parts.netloc.lower() in (host, host + port, f"[{host}]", f"[{host}]{port}")  # no user or password
        allowed = parts.scheme == "https" or (parts.scheme == "http" and ip_address(host).is_loopback)
    except ValueError:  # a name, which can mean any machine; a port that is none
        return None
    plain = url.isascii() and url.isprintable() and len(url) <= MAX_URL and not set(url) & set(" @\\#%")
    return url if port != ":0" and whole and allowed and plain else None


def headers(url: str, event: bytes) -> str:
    """All headers of the request, a line each, in the order in which they are sent."""
    head = f"Host: {urlsplit(url).netloc}\nUser-Agent: kedro-telemetry/{VERSION}\nContent-Type: application/json"
    return f"{head}\nContent-Length: {len(event)}\nAccept-Encoding: identity\nConnection: close"


def send() -> None:
    """All that the sender process does. An error ends it: nobody listens to its output."""
    import faulthandler

    faulthandler.dump_traceback_later(DEADLINE, exit=True)  # also in a name look-up, which no timeout bounds
    import http.client
    import ssl
    from urllib import request

    getattr(os, "nice", int)(19)  # not before the imports: a busy machine would not end them. Windows: `start_sender`
    event, url = sys.stdin.buffer.read(MAX_EVENT + 1), collector()
    if url is None or len(event) > MAX_EVENT or seal(json.loads(event)["properties"]) != event:
        raise ValueError("not a sealed event, or nowhere to send it")
    # These handlers alone: no redirect, cookie, password or file. Only https takes a proxy: loopback stays loopback.
    opener = request.OpenerDirector()
    proxy = request.getproxies_environment().get("https")
    opener.add_handler(request.ProxyHandler({"https": proxy} if proxy else {}))
    opener.add_handler(request.HTTPHandler())
    opener.add_handler(request.HTTPSHandler(context=ssl.create_default_context()))
    http.client._MAXLINE = MAX_EVENT  # type: ignore[attr-defined]  # whatever answers, it takes no memory
    http.client.parse_headers = lambda *_, **__: sys.exit()  # the collector's is read as far as its status line
    post = request.Request(url, event, dict(line.split(": ") for line in headers(url, event).split("\n")))
    sys.excepthook = lambda *_: None  # nobody reads why it failed: a traceback would cost more than the event
    opener.open(post)


if __name__ == "__main__":
    sys.exit(send())  # type: ignore[func-returns-value]  # ends here, whatever happened in there

# --- THE WALL. The sender process has ended above this line. What follows is the user's process. ---
import hashlib
import select
import stat
import subprocess
import time
from functools import partial
from importlib import import_module
from pathlib import Path

from kedro import __version__ as kedro_version
from pluggy import HookimplMarker

CI_SIGNS: Final = """CI GITHUB_ACTION GITHUB_ACTIONS GITLAB_CI JENKINS_URL TF_BUILD TRAVIS CIRCLECI BUILDKITE APPVEYOR
TEAMCITY_VERSION BITBUCKET_BUILD_NUMBER CODEBUILD_BUILD_ID""".split()  # as each CI system documents its own
ON, ASK = 4, 6  # rows of the table in SECURITY.md: a trusted yes; no answer yet, and a person to ask
QUESTION: Final = """\
May Kedro's maintainers see how its commands are used in this project? After a
yes, each `kedro` command sends the command with every value masked, hashed user
and package names, versions and counts to {url}
See it exactly: KEDRO_TELEMETRY_PREVIEW=1 kedro ...  Undo: kedro-telemetry deny
Send these events? [y/N] """
SENDER_VARIABLES: Final = f"""{ENDPOINT} HTTPS_PROXY https_proxy NO_PROXY no_proxy SSL_CERT_FILE SSL_CERT_DIR
LD_LIBRARY_PATH DYLD_LIBRARY_PATH SYSTEMROOT""".split()  # the endpoint, a proxy, TLS trust, what loaders need


# --- Files and terminals: here Linux, macOS and Windows differ ---
def read_own(path: str, limit: int, others: int) -> bytes:
    """A regular file of the user's own, on which nobody has the mode bits `others`, or OSError. It never waits."""
    if stat.S_ISLNK(os.lstat(path).st_mode):  # Windows has no O_NOFOLLOW, and shows no owners
        raise PermissionError("it is a link")
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda name, _: os.open(name, os.O_RDONLY | flags)) as file:
        found = os.fstat(file.fileno())
        exposed = hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & others)
        if exposed or not stat.S_ISREG(found.st_mode):
            raise PermissionError("it is not a regular file of your own, closed to others")
        return file.read(limit)


def write_new(path: str, text: str, mode: int, target: str | None = None) -> None:
    """Write a file that must not exist yet, and put it in the place of `target`; if that fails, leave none behind."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(text.encode())
        if target:
            os.replace(path, target)
    except BaseException:
        os.unlink(path)
        raise


def salt_path() -> str:
    """`telemetry.salt` in the folder that `appdirs.user_config_dir("kedro")` names."""
    xdg, local = os.environ.get("XDG_CONFIG_HOME", ""), os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    places = {"win32": f"{local}/kedro", "darwin": "~/Library/Application Support"}
    folder = places.get(sys.platform) or (xdg if os.path.isabs(xdg) else "~/.config")
    return os.path.join(os.sep, os.path.expanduser(folder), "kedro", "telemetry.salt")


def at_terminal() -> bool:
    """Whether a person can be asked: three terminals, not a job in the background, and nothing typed before."""
    with suppress(OSError, ValueError, AttributeError):  # no terminal; a stream closed or absent
        files = [stream.isatty() and stream.buffer for stream in (sys.stdin, sys.stdout, sys.stderr)]
        if os.name == "nt":  # where `NUL` says that it is a terminal
            return all("Console" in repr(getattr(file, "raw", file)) for file in files)
        return all(files) and os.tcgetpgrp(0) == os.getpgrp() and not select.select([0], [], [], 0)[0]
    return False


# --- When: consent ---
def decide(project: str | None) -> tuple[int, str]:
    """The row that decides, and why, when a command starts. Only a project's own trusted `.telemetry` leads to ON."""
    for row, names in ((1, ("DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY")), (2, [*CI_SIGNS, "_KEDRO_COMPLETE"])):
        for name in filter(os.environ.get, names):
            return row, f"off: {name} is set"
    if project is None:
        return 3, "off: not in a Kedro project"
    try:
        if parse_consent(read_own(os.path.join(project, ".telemetry"), 4097, stat.S_IWOTH)):
            return ON, "on: .telemetry says `consent: true`"
        return 5, "off: .telemetry does not say `consent: true`"
    except FileNotFoundError:
        return (ASK, "off: not answered yet") if at_terminal() else (7, "off: not answered yet, nobody to ask here")
    except (OSError, ValueError) as error:
        return 5, f"off: .telemetry cannot be trusted: {error}"


def parse_consent(data: bytes) -> bool:
    """Whether this is at most 4 KiB of UTF-8 with one line `consent: true`, else only comments and blank lines."""
    lines = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")
    # YAML ends lines at more characters, and refuses others. None of them, nor what is not UTF-8, is printable.
    if len(data) > 4096 or not all(line.replace("\t", " ").isprintable() for line in lines):
        return False
    said = [line.partition(" #")[0].rstrip(" ") for line in lines if not line.startswith("#")]
    return [line for line in said if line] in (["consent: true"], ["consent: True"], ["consent: TRUE"])


def ask(project: str) -> int:
    """Put the question, and record an answer: ON after a yes. Anything else is a no for this command."""
    sys.stderr.write(QUESTION.format(url=collector()))  # with newlines in it: all of it is shown at once
    answers = {"y\n": True, "yes\n": True, "\n": False, "n\n": False, "no\n": False}
    answered = os.name == "nt" or select.select([sys.stdin], [], [], 60)[0]  # seconds; Windows cannot wait like this
    answer = answers.get(sys.stdin.readline().lower()) if answered else None
    if answer is None:
        sys.stderr.write("\nNot an answer: nothing is sent or recorded.\n")
        return ASK
    with suppress(OSError):  # if it cannot be written, the answer holds for this command only
        write_new(os.path.join(project, ".telemetry"), f"consent: {str(answer).lower()}\n", 0o644)
    return ON if answer else ASK


def read_salt() -> bytes | None:
    """This UTC month's salt, if stored: the file holds `YYYY-MM`, a space, 64 hex digits, a newline."""
    with suppress(OSError, ValueError):
        month, digits = read_own(salt_path(), 100, 0o077).decode("ascii").split(" ")
        if month == time.strftime("%Y-%m", time.gmtime()) and len(salt := bytes.fromhex(digits)) == 32:
            return salt
    return None


def make_salt() -> bytes:
    """A new salt for this month; where it cannot be stored, for this event alone."""
    salt, path, month = os.urandom(32), salt_path(), time.strftime("%Y-%m", time.gmtime())
    with suppress(OSError):
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        for _ in range(50):
            with suppress(FileExistsError):  # of many first commands, one at a time drafts: all settle on one salt
                write_new(f"{path}.new", f"{month} {salt.hex()}\n", 0o600)
                if read_salt() is None:
                    os.replace(f"{path}.new", path)
                break
            time.sleep(0.002)
    with suppress(OSError):  # whatever failed, or died
        os.unlink(f"{path}.new")
    return read_salt() or salt


def build(args: Sequence[str], metadata: Any, counts: Mapping[str, int], salt: bytes) -> bytes:
    """The sealed event. `metadata` is Kedro's ProjectMetadata, or None outside of a project."""
    keyed = partial(hashlib.blake2b, digest_size=16, key=salt)  # RFC 7693; `person` keeps equal names apart
    # As getpass.getuser(), which takes longer to load than all of this takes to run.
    user = next(filter(None, map(os.environ.get, ("LOGNAME", "USER", "LNAME", "USERNAME"))), "")
    with suppress(KeyError, ImportError):  # a user id without a name; Windows
        user = user or import_module("pwd").getpwuid(os.getuid()).pw_name
    package, tools = getattr(metadata, "package_name", None), str(getattr(metadata, "tools", None))
    properties = {
        "username": keyed(user.encode("utf-8", "surrogatepass"), person=b"username").hexdigest(),
        "package_name": package and keyed(package.encode("utf-8", "surrogatepass"), person=b"package_name").hexdigest(),
        "command": mask_command(args),
        "project_version": kedro_version,
        "telemetry_version": VERSION,
        "python_version": f"3.{sys.version_info.minor}",
        "os": sys.platform if sys.platform in ("linux", "darwin", "win32") else "other",
        "tools": ", ".join(tool for tool in TOOLS if f"'{tool}'" in tools),
        "example_pipeline": str(getattr(metadata, "example_pipeline", None)),
    }
    return seal(properties | {name: round(n, min(0, 2 - len(str(n)))) for name, n in counts.items()})


def observe(run_params: Mapping[str, Any], catalog: Any) -> dict[str, int]:
    """Counts of what Kedro itself has loaded for this run; nothing is loaded, nor sorted, for them."""
    loaded = sys.modules["kedro.framework.project"].pipelines
    names = catalog.keys() if hasattr(catalog, "keys") else catalog.list()
    counts = {"number_of_datasets": sum(n != "parameters" and not n.startswith("params:") for n in names)}
    named = run_params.get("pipeline_names", run_params.get("pipeline_name"))
    if loaded._is_data_loaded and not named:  # else a look would load them, or finds only a part
        counts |= {"number_of_pipelines": len(loaded), "number_of_nodes": len(loaded["__default__"]._nodes_by_name)}
    return counts


def preview(verdict: str, event: bytes) -> str:
    """The request as it would be sent, behind the reason why it would be or not."""
    note = "" if read_salt() else "The hashes are examples: this month's salt is made when an event is sent.\n"
    note = f"kedro-telemetry preview, nothing is sent. Telemetry is {verdict}.\n{note}"
    url = collector() or ""
    return f"{note}\nPOST {url or f'nowhere: {ENDPOINT} is refused'}\n{headers(url, event)}\n\n{event.decode()}\n"


STARTED: Final[list[subprocess.Popen[bytes]]] = []  # senders that may still run


def start_sender(event: bytes) -> None:
    """Start a sender on this event, and do not wait for it."""
    STARTED[:] = [sender for sender in STARTED if sender.poll() is None]  # no zombies pile up
    read_end, write_end = os.pipe()
    try:
        with open(write_end, "wb") as pipe:  # it fits, and its read end is open: no waiting, no signal
            pipe.write(event)
        sender = subprocess.Popen(  # noqa: S603  # no shell, and no word from outside
            [sys.executable, "-I", "-S", os.path.abspath(__file__)],
            stdin=read_end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=os.sep,
            env={name: os.environ[name] for name in SENDER_VARIABLES if name in os.environ},
            start_new_session=True,
            creationflags=0x08000040 if os.name == "nt" else 0,  # CREATE_NO_WINDOW, IDLE_PRIORITY_CLASS
        )
        sender._child_created = False  # type: ignore[attr-defined]  # else a warning at exit that it still runs
        STARTED.append(sender)
    finally:
        os.close(read_end)


# --- Hooks. Kedro does not guard them: what escaped here would end the user's command ---
class TelemetryHook:
    command: tuple[Sequence[str], Any, int, str, int] | None = None

    @HookimplMarker("kedro_cli")
    def before_command_run(self, project_metadata: Any, command_args: Sequence[str]) -> None:
        self.command = None
        with suppress(Exception):  # an error is a no
            project = str(project_metadata.project_path) if project_metadata else None
            row, verdict = decide(project)
            if project and row == ASK and collector() and not os.environ.get(PREVIEW):
                row = ask(project)
            if row == ON or (os.environ.get(PREVIEW) and not os.environ.get("_KEDRO_COMPLETE")):
                self.command = tuple(command_args), project_metadata, row, verdict, os.getpid()

    @HookimplMarker("kedro")
    def before_pipeline_run(self, run_params: Mapping[str, Any], catalog: Any) -> None:
        with suppress(Exception):  # an error is no run of its own
            command = self.command  # a session of another project is none of its runs
            if command and command[0][:1] == ("run",) and Path(run_params["project_path"]) == command[1].project_path:
                self.finish(lambda: observe(run_params, catalog))

    @HookimplMarker("kedro_cli")
    def after_command_run(self) -> None:
        self.finish(dict)

    def finish(self, count: Callable[[], Mapping[str, int]]) -> None:
        command, self.command = self.command, None  # one event per command, and none for a fork of its process
        with suppress(Exception):  # an error is no event
            if command and command[4] == os.getpid():
                args, metadata, row, verdict, _ = command
                if os.environ.get(PREVIEW):
                    sys.stderr.write(preview(verdict, build(args, metadata, count(), read_salt() or os.urandom(32))))
                elif row == ON and collector() and sys.executable and not hasattr(sys, "frozen"):
                    start_sender(build(args, metadata, count(), read_salt() or make_salt()))


telemetry_hook = TelemetryHook()


# --- Names that others rely on, and the command `kedro-telemetry` ---
def __getattr__(name: str) -> Any:
    if name == "ProjectMetadata":  # kedro-databricks imports it from here; Kedro may not have loaded it yet
        return import_module("kedro.framework.startup").ProjectMetadata
    raise AttributeError(name)


def _check_for_telemetry_consent(project_path: str | os.PathLike[str] | None) -> bool:
    return decide(None if project_path is None else os.fspath(project_path))[0] == ON


def find_project() -> str | None:
    """The nearest folder upwards whose `pyproject.toml` says `[tool.kedro]`: Kedro's own rule."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        with suppress(OSError, ValueError):
            if "[tool.kedro]" in (folder / "pyproject.toml").read_text(encoding="utf-8"):
                return str(folder)
    return None


def status(project: str | None) -> int:
    row, verdict = decide(project)
    print(f"Telemetry is {verdict} (row {row} in SECURITY.md).")
    print(f"collector  {collector() or f'none: {ENDPOINT} is neither a plain https URL nor http to loopback'}")
    print(f"salt       {salt_path()} ({'exists' if os.path.exists(salt_path()) else 'does not exist'})")
    print(f"plugin.py  {__file__}\nSHA-256    {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}")
    return int(row == ON)


def main(arguments: Sequence[str] | None = None) -> int:
    """status: on (exit status 1) or off (0), and why\nallow, deny: answer for this project\nforget: delete the salt"""
    from argparse import ArgumentParser, RawTextHelpFormatter

    parser = ArgumentParser("kedro-telemetry", description=main.__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("action", choices=("status", "allow", "deny", "forget"))
    try:
        action = parser.parse_args(arguments).action
        if action == "forget":
            Path(salt_path()).unlink(missing_ok=True)
            print(f"No salt is left at {salt_path()}: the next event has a new identity.")
        elif action == "status":
            return status(find_project())
        elif (project := find_project()) is None:
            parser.error("this is not a Kedro project: go to the folder with its pyproject.toml")
        else:
            path = os.path.join(project, ".telemetry")
            write_new(f"{path}.{os.getpid()}", f"consent: {str(action == 'allow').lower()}\n", 0o644, path)
            print(f"Telemetry is {decide(project)[1]}.")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0
