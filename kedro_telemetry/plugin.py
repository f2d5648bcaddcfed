"""Opt-in usage telemetry for Kedro: the complete plugin, to be read downwards.

1. Nothing is sent without two yeses: one in the project's file `.telemetry`, and the
   user's own, in the user's own folder, which is not in the project. The user's yes is
   for one path, one address and one major version of this plugin.
2. A user who has not answered is asked before a command, at a terminal.
3. A command sends at most one event, when it ends. Its properties are the fields in
   FIELDS, each in its fixed format. The sender checks this (`build_event`).
4. Each word of the command line that is not in COMMANDS or OPTIONS is masked.
5. User and package names are hashed, with a secret salt that is new each month.
6. Only the sender uses the network. It is a second process, which runs this file as far
   as THE WALL, and gets one small message and a few environment variables. It posts at
   most once, to one URL, and ends within 4.5 seconds of its first line.
7. No command waits for the network, or fails because of an error in this plugin.
8. On disk are answers (in `.telemetry`, and in the user's own folder) and one salt.

Not protected against: code that runs as the user, or sets the user's environment.
Not checked: folders above an existing own folder; on Windows, owner and mode.
"""

import sys
import time

# This file is two programs: as a script it is the sender, which runs only to THE WALL.
if __name__ == "__main__":
    import faulthandler

    # Ends the process on every platform, even in the middle of a name look-up.
    faulthandler.dump_traceback_later(4.5, exit=True)
    time.sleep(0.5)  # before other modules are loaded: the command can finish first

import json
import os
import re
from collections.abc import Sequence
from os import environ

VERSION = "2.0.0+hardened"
APP_ID = "2388822444"  # the Kedro project at its collector, Heap
DEFAULT_ENDPOINT = "https://heapanalytics.com/api/track"
ENDPOINT_VARIABLE = "KEDRO_TELEMETRY_ENDPOINT"  # the URL of another collector
PREVIEW_VARIABLE = "KEDRO_TELEMETRY_PREVIEW"  # show each event, and send nothing
MAX_MESSAGE = 4096  # bytes: fits into the buffer of a pipe on every system

# --- Masking: what is sent of a command line ---

MASK = "*****"
MAX_WORDS = 32  # of a command line, with `kedro`

# The public commands, by group, and options of Kedro 0.18 to 1.7, its official plugins
# (kedro-viz, -docker, -airflow, -skills) and kedro-mlflow: from their releases' source.
COMMANDS = {
    "kedro": """
        activate-nbstripout airflow build-docs build-reqs catalog docker docs info
        ipython jupyter lint micropkg mlflow new package pipeline registry run server
        skills starter test viz
    """,
    "kedro airflow": "create",
    "kedro catalog": """
        create describe-datasets list list-patterns rank resolve resolve-patterns
    """,
    "kedro docker": "build cmd dive init ipython jupyter run",
    "kedro docker jupyter": "lab notebook",
    "kedro jupyter": "convert lab notebook setup",
    "kedro micropkg": "package pull",
    "kedro mlflow": "init modelify ui",
    "kedro pipeline": "create delete",
    "kedro registry": "describe list",
    "kedro server": "start",
    "kedro skills": "install list uninstall update",
    "kedro starter": "list",
    "kedro viz": "build deploy run",
}
OPTIONS = """
    -H -V -a -c -d -e -f -g -h -i -j -lv -n -ns -o -p -r -s -t -tc -v -y --alias --all
    --artifact-path --async --autoreload --await-registration-for --base-image --browser
    --bucket-name --check-only --checkout --ci --ci-config-path --code-path --code-paths
    --conda-env --conf-source --config --copy-mode --destination --directory
    --docker-args --endpoint --env --example --extra-pip-requirements --force
    --from-inputs --from-nodes --fs-args --gid --group-by --group-in-memory --help
    --host --ide --ignore-plugins --image --include-hooks --include-previews
    --infer-input-example --infer-signature --input-file --input-name --jinja-file
    --lite --load-file --load-version --load-versions --model-name --name --namespace
    --namespaces --no-browser --no-ci --node --nodes --only-missing-outputs --open
    --output-file --params --pip-requirements --pipeline --pipelines --platform --port
    --project-path --region --registered-model-name --reload --run-id --run-name
    --runner --runner-params --save-file --silent --skip-config --starter --tag --tags
    --target-dir --telemetry --template --to-nodes --to-outputs --tools --uid --verbose
    --version --with-spark --yes
""".split()


def mask_command(args: Sequence[str]) -> str:
    """Return the first words of a command line. Those that are not public are masked.

    After an unlisted option or command, so are all others:
    run --pipeline=ds -e prod   ->  kedro run --pipeline ***** -e *****
    run --client acme --async   ->  kedro run ***** ***** *****
    """
    words = list(args[:MAX_WORDS])
    command = "kedro"
    while words and words[0] in COMMANDS.get(command, "").split():
        command += f" {words.pop(0)}"
    shown = command.split()
    mask_rest = False
    for word in words:
        option, equals, _ = word.partition("=")
        if option in OPTIONS and not mask_rest:
            shown += [option, MASK] if equals else [option]
        else:
            shown.append(MASK)
            if word.startswith("-") or command in COMMANDS:
                mask_rest = True  # unlisted: an option, or perhaps a subcommand
    return " ".join(shown[:MAX_WORDS])


# --- The event: what is sent ---

TOOL = "Linting|Testing|Custom Logging|Documentation|Data Structure|PySpark|Kedro Viz"
HASH = "[0-9a-f]{32}"
COUNT = "[0-9]|[1-9][0-9]0{0,7}"  # a number with at most two significant digits
WORD = "|".join([*OPTIONS, *" ".join(COMMANDS.values()).split()])

# Each field, and the pattern that its whole text must match. Only counts are numbers.
# A new field requires a new major version, so that each yes must be given anew.
FIELDS = {
    "username": HASH,
    "package_name": HASH,
    "command": rf"kedro( (\*\*\*\*\*|{WORD})){{0,{MAX_WORDS - 1}}}",  # MASK or WORD
    "project_version": r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}",  # of Kedro
    "telemetry_version": re.escape(VERSION),
    "python_version": r"3\.[0-9]{1,2}",
    "os": "linux|darwin|win32|other",
    "tools": f"({TOOL})(, ({TOOL})){{0,6}}",
    "example_pipeline": "True|False",
    "number_of_datasets": COUNT,
    "number_of_nodes": COUNT,
    "number_of_pipelines": COUNT,
}


def build_event(message: bytes) -> bytes:
    """Return the event as it is sent, built anew from the fields in a JSON object.

    A value that does not match its format is dropped, and so is what is not in FIELDS.
    Raises an exception if a JSON object or user name is missing. The sender calls this:
    no mistake below THE WALL can add a field, or a word that is not public.
    """
    values = json.loads(message)
    properties = {}
    for name, pattern in FIELDS.items():
        value = values.get(name)
        kind = int if pattern == COUNT else str
        if type(value) is kind and re.fullmatch(pattern, str(value)):
            properties[name] = value
    counted = "number_of_datasets" in properties  # then the event has another name
    event = {
        "app_id": APP_ID,
        "event": "Kedro Project Statistics" if counted else "CLI command",
        "identity": properties["username"],
        "properties": properties,
    }
    return json.dumps(event).encode()


# --- The request: where the event goes ---

HOST = r"[\w-]{1,63}(\.[\w-]{1,63})*"
PORT = r"(?P<port>[1-9]\d{0,4})"
PATH = r"(/[\w/.~-]*)?"
HTTPS = rf"https://{HOST}(:{PORT})?{PATH}"
LOOPBACK = rf"http://127\.0\.0\.1:{PORT}{PATH}"
SECRET = r"[\w.~!$&*+%-]+"  # other characters are written with %
# No https:// or socks5://: urllib would speak plain HTTP to the proxy all the same.
PROXY = rf"(http://)?({SECRET}:{SECRET}@)?{HOST}:{PORT}"
MAX_URL = 200  # characters: a host that is too long for DNS is refused, too


def matches(text: str, form: str) -> bool:
    """Return whether a URL or proxy has this form, and a port that exists, if any."""
    found = len(text) <= MAX_URL and re.fullmatch(form, text, re.ASCII)
    return bool(found and int(found["port"] or 443) <= 65535)


def endpoint() -> str:
    """Return the URL of the collector. Raises ValueError if it is refused."""
    url = environ.get(ENDPOINT_VARIABLE, DEFAULT_ENDPOINT)
    form = LOOPBACK if url.startswith("http:") else HTTPS
    # The default address needs no pattern, which takes time to compile.
    if url != DEFAULT_ENDPOINT and not matches(url, form):
        forms = "https://HOST[:PORT][/PATH] or http://127.0.0.1:PORT[/PATH]"
        raise ValueError(f"{ENDPOINT_VARIABLE} is not {forms}")
    return url


def find_proxies() -> dict[str, str]:
    """Return the proxy for https, for urllib. Raises ValueError if it is refused."""
    for name in "https_proxy HTTPS_PROXY all_proxy ALL_PROXY".split():
        if proxy := environ.get(name):
            if not matches(proxy, PROXY):
                raise ValueError(f"{name} is not [http://][USER:PASSWORD@]HOST:PORT")
            return {"https": f"http://{proxy.removeprefix('http://')}"}
    return {}


def send() -> None:
    """Post the event on standard input. An error ends the process."""
    import ssl
    from urllib import request

    event = build_event(sys.stdin.buffer.read(MAX_MESSAGE))
    agent = f"kedro-telemetry/{VERSION}"
    headers = {"Content-Type": "application/json", "User-Agent": agent}
    opener = request.OpenerDirector()
    # There are no other handlers: so no redirects, cookies, log-in or retries.
    opener.add_handler(request.ProxyHandler(find_proxies()))  # it applies NO_PROXY
    opener.add_handler(request.HTTPHandler())
    context = ssl.create_default_context()  # verifies the certificate
    opener.add_handler(request.HTTPSHandler(context=context))
    post = request.Request(endpoint(), event, headers)
    opener.open(post, timeout=1.5)  # seconds, for each IP address and each reading


if __name__ == "__main__":
    send()
    sys.exit()

# --- THE WALL. The sender has ended above. Below is what the `kedro` process runs. ---

import hashlib
import select
import stat
import subprocess
from contextlib import suppress
from os.path import dirname, isabs, isdir, isfile, islink, join, lexists, realpath
from pathlib import Path
from typing import Any

from kedro import __version__ as kedro_version
from pluggy import HookimplMarker

# --- Files ---


def open_plain(path: str, flags: int, mode_if_new: int = 0) -> int:
    """Open a file that is not a symbolic link, without waiting for a FIFO."""
    if sys.platform != "win32":
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
    elif islink(path):
        raise OSError(f"{path!r} is a symbolic link")
    return os.open(path, flags, mode_if_new)


def read_file(path: str) -> bytes:
    """Return the content of a regular file, which must not be large. Raises OSError."""
    with open(path, "rb", opener=open_plain) as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode) or info.st_size > 1_000_000:
            raise OSError(f"{path!r} is not a file, or too large")
        return file.read(info.st_size)


def write_file(path: str, data: bytes, mode: int, flag: int = 0) -> None:
    """Write a file in place, a new one with this mode. Read it back. Raises OSError."""
    with open(open_plain(path, os.O_WRONLY | os.O_CREAT | flag, mode), "wb") as file:
        if os.fstat(file.fileno()).st_nlink > 1:  # a project can link to a user's file
            raise OSError(f"{path!r} is a hard link, perhaps to another file")
        file.truncate()  # "wb" does not truncate a descriptor: so a hard link is kept
        file.write(data)
    if read_file(path) != data:  # another process has written, too
        raise OSError(f"{path!r} reads back differently")


# --- The project's answer: its file `.telemetry` ---

PROJECT_YES = b"consent: true\n"
PROJECT_NO = b"consent: false\n"
ANSWERS = {
    "consent: true": True,
    "consent: True": True,
    "consent: false": False,
    "consent: False": False,
}


def find_answer(data: bytes) -> bool | None:
    """Return the answer in a `.telemetry` of at most 4 KiB. None means unclear."""
    # One line is neither empty nor a comment: so a YAML reader finds the same answer.
    text = data.decode("latin-1").replace("\r\n", "\n")
    lines = [line.rstrip(" ") for line in text.split("\n")]
    statements = [line for line in lines if line and not line.startswith("#")]
    good = len(data) <= 4096 and data.isascii() and text.replace("\n", "").isprintable()
    return ANSWERS.get("\n".join(statements)) if good else None


# --- The user's own answer: a file for each project, in their own folder ---

OWN_NO = b"no\n"  # for all versions and addresses. A yes is for those that it names


def own_yes() -> bytes:
    return f"yes to version {VERSION.partition('.')[0]} at {endpoint()}\n".encode()


def own_folder() -> str:
    """Return the user's own folder. It can be missing. FileNotFoundError: no home."""
    home = environ.get("LOCALAPPDATA" if sys.platform == "win32" else "HOME", "")
    if not isabs(home) or not isdir(home):
        raise FileNotFoundError("there is no home folder")
    if sys.platform == "win32":
        return join(home, "kedro-telemetry")
    if sys.platform == "darwin":
        return join(home, "Library", "Application Support", "kedro-telemetry")
    state = environ.get("XDG_STATE_HOME", "")
    if not isabs(state):
        state = join(home, ".local", "state")
    return join(state, "kedro-telemetry")


def own_file(project: str) -> str:
    """Return the path of the user's answer for this project, given its real path."""
    return join(own_folder(), hashlib.sha256(os.fsencode(project)).hexdigest())


def check_own_folder(project: str) -> None:
    """Raise OSError if the own folder is not safe, or could not be made or written."""
    folder = own_folder()
    if join(realpath(folder), "").startswith(join(project, "")):
        raise OSError(f"your own folder is inside the project: {folder!r}")
    existing = folder  # or, if it is missing, the folder in which it would be made
    while not lexists(existing):
        existing = dirname(existing)
    if not isdir(existing) or not os.access(existing, os.W_OK):
        raise OSError(f"you cannot write to {existing!r}")
    if sys.platform != "win32":
        info = os.stat(existing)
        if info.st_uid != os.geteuid():
            raise OSError(f"{existing!r} belongs to somebody else")
        if existing == folder and info.st_mode & 0o022:  # a new one gets 0700
            raise OSError(f"others can write to {folder!r}")


def write_own_answer(project: str, answer: bytes) -> None:
    """Save an own answer, after `check_own_folder`. New folders have mode 0700."""
    own = own_file(project)
    for folder in reversed(Path(own).parents):  # os.makedirs sets only the last mode
        folder.mkdir(0o700, exist_ok=True)
    write_file(own, answer, 0o600)


# --- Whether an event is sent, and why not ---

PROJECT_SAYS_NO = "`.telemetry` says no"
NOT_ANSWERED = "a yes is missing, for this address and version (kedro-telemetry allow)"


def is_preview() -> bool:
    return bool(environ.get(PREVIEW_VARIABLE))


def is_completing() -> bool:
    """Return whether a shell asks for completions, of `kedro` under any name."""
    return any(n.startswith("_") and n.endswith("_COMPLETE") for n in environ)


def check_sender() -> None:
    """Raise ValueError, with the reason, if the sender could not run as promised."""
    if not sys.executable or hasattr(sys, "frozen") or not isfile(__file__):
        raise ValueError("there is no Python interpreter, or no plugin.py, to start")
    # Debuggers and profilers that also run their code in each process that we start.
    for name in "debugpy pydevd _pydevd_bundle viztracer scalene".split():
        if name in sys.modules:
            raise ValueError(f"{name} would run in the sender, too")
    # Such a library may redirect the network. The sender, without it, would not.
    for name in ("LD_PRELOAD", "DYLD_INSERT_LIBRARIES"):
        if environ.get(name):
            raise ValueError(f"{name} is set, but not for the sender")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):  # the sender runs in another folder
        paths = environ.get(name)
        if paths and not all(map(isabs, paths.split(os.pathsep))):
            raise ValueError(f"{name} is not an absolute path")
    endpoint()
    find_proxies()


def why_off(project: str) -> str | None:
    """Return the first reason why nothing is sent from this project folder, or None."""
    for name in "DO_NOT_TRACK KEDRO_DISABLE_TELEMETRY CI".split():
        if environ.get(name):
            return f"the environment variable {name} is set"
    if is_completing():
        return "shell completion is running"
    if not project:
        return "not in a Kedro project"
    answer, own_answer = None, b""  # if the files are missing
    try:
        check_sender()
        with suppress(FileNotFoundError):
            answer = find_answer(read_file(join(project, ".telemetry")))
            if answer is None:  # the file is there, but without a clear answer
                return "unclear `.telemetry`: write exactly `consent: true` (or false)"
        if answer is False:
            return PROJECT_SAYS_NO
        check_own_folder(project)  # if there is no home, this raises an error, too
        with suppress(FileNotFoundError):
            own_answer = read_file(own_file(project))
    except (OSError, ValueError) as error:
        return str(error)
    if own_answer == OWN_NO:
        return "your own answer is no (to change it: kedro-telemetry allow)"
    return None if answer and own_answer == own_yes() else NOT_ANSWERED


def describe(reason: str | None) -> str:
    """Return whether events are sent, with this reason why not, and the address."""
    state = "on" if reason is None else f"off: {reason}"
    address = f"address     {environ.get(ENDPOINT_VARIABLE, DEFAULT_ENDPOINT)!r}"
    return f"Telemetry is {state}.\n{address}"


# --- The question ---

ANSWER_SECONDS = 30  # except on Windows
FROM_PROJECT = "`.telemetry` says yes, but it may have come with the project. So:\n"
QUESTION = """\
May kedro commands here send usage data to {url}?
One event each: the command with its values masked, hashes of user and package
name, versions of Kedro, Python and this plugin, operating system, project
tools, example pipeline or not, numbers of datasets, nodes and pipelines. The
server also sees your IP address. KEDRO_TELEMETRY_PREVIEW=1 shows an event.
Saved in {folder!r} and .telemetry (if new)
To undo: kedro-telemetry deny. Send these events? Enter means no. [y/N] """
TOO_LATE = "\nNo answer in time counts as no. To change it: kedro-telemetry allow\n"

if sys.platform == "win32":
    import msvcrt

    def discard_input() -> None:
        while msvcrt.kbhit():
            msvcrt.getch()

    def read_line() -> str | None:
        return sys.stdin.readline()

else:

    def discard_input() -> None:
        import termios

        termios.tcflush(sys.stdin, termios.TCIFLUSH)

    def read_line() -> str | None:
        """Return a line with its newline; less if input ends; None if time is over."""
        end = time.monotonic() + ANSWER_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            seconds = max(0, end - time.monotonic())
            if not select.select([sys.stdin], [], [], seconds)[0]:
                return None
            part = os.read(sys.stdin.fileno(), 4096)  # a part, after `stty -icanon`
            if not part:
                break
            line += part
        return line.decode("latin-1")


def can_ask(project: str) -> bool:
    """Return whether somebody can answer here, and the project can keep the answer."""
    # Raises OSError if this is no terminal: no event then. Windows' NUL passes isatty.
    os.get_terminal_size(sys.stderr.fileno())
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    if sys.platform != "win32" and os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
        return False  # a background job
    return lexists(join(project, ".telemetry")) or os.access(project, os.W_OK)


def ask(project: str) -> None:
    """Ask whether events may be sent, and save the answer."""
    try:
        discard_input()  # what was typed before the question
        path = join(project, ".telemetry")
        has_file = lexists(path)
        sys.stderr.write(FROM_PROJECT if has_file else "")
        sys.stderr.write(QUESTION.format(url=endpoint(), folder=own_folder()))
        line = read_line()
        if line is None:
            discard_input()  # else the shell would read what was typed without Enter
            if why_off(project) == NOT_ANSWERED:  # unless there is an answer by now
                sys.stderr.write(TOO_LATE)
                write_own_answer(project, OWN_NO)
        elif line.endswith("\n"):  # else the input has ended
            agreed = line.strip().lower() in ("y", "yes")
            if not agreed:  # first, because one no is enough
                write_own_answer(project, OWN_NO)
            if not has_file:  # one that somebody made meanwhile is not changed
                consent = PROJECT_YES if agreed else PROJECT_NO
                write_file(path, consent, 0o644, os.O_EXCL)
            if agreed:  # last, so that it counts only if all is saved
                write_own_answer(project, own_yes())
    except OSError as error:
        sys.stderr.write(f"Your answer could not be saved completely: {error}\n")
    except KeyboardInterrupt:  # Kedro would show a traceback
        with suppress(OSError):
            sys.stderr.write("\n")
        sys.exit(130)


# --- The message: the values of the fields ---


def find_salt() -> bytes:
    """Return this month's salt. A new one is stored, with the month, as hex digits."""
    month = time.strftime("%Y-%m", time.gmtime())
    new = os.urandom(32)
    with suppress(OSError):  # what cannot be stored is used once
        path = join(own_folder(), "salt")
        with suppress(OSError, ValueError):  # there is none, or it is damaged
            stored_month, digits = read_file(path).decode().split()
            if stored_month == month and len(digits) == 64:
                return bytes.fromhex(digits)
        if not is_preview():
            write_file(path, f"{month} {new.hex()}\n".encode(), 0o600)
    return new


def login_name() -> str:
    """Return the name in the environment, or else the user's number. No look-up."""
    for variable in "LOGNAME USER LNAME USERNAME".split():
        if name := environ.get(variable):
            return name
    if sys.platform == "win32":
        return "unknown"
    return str(os.getuid())


def hash_name(name: str, field: str, salt: bytes) -> str:
    """Return the first 128 bits of SHA-256(salt, field, name), as 32 hex digits."""
    text = f"{field}:{name}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(salt + text).hexdigest()[:32]


def count_objects(run_params: Any, catalog: Any) -> dict[str, int]:
    """Count what Kedro has loaded for this run, to two significant digits."""
    names = catalog.keys() if hasattr(catalog, "keys") else catalog.list()
    datasets = [n for n in names if n != "parameters" and not n.startswith("params:")]
    counts = {"number_of_datasets": len(datasets)}
    # A run that selects pipelines (or one, in Kedro 0) may have loaded no others.
    if not run_params.get("pipeline_names") and not run_params.get("pipeline_name"):
        from kedro.framework.project import pipelines

        # `node_dependencies`, because `nodes` takes long to sort.
        counts["number_of_nodes"] = len(pipelines["__default__"].node_dependencies)
        counts["number_of_pipelines"] = len(pipelines)
    return {name: int(float(f"{count:.2g}")) for name, count in counts.items()}


def build_message(command: str, metadata: Any, counts: Any) -> bytes:
    """Return the fields of an event as JSON. `metadata` is Kedro's ProjectMetadata."""
    salt = find_salt()
    package = getattr(metadata, "package_name", None)
    tools = str(getattr(metadata, "tools", None))  # "['Linting', 'Testing']"
    example = str(getattr(metadata, "example_pipeline", None))
    values = {
        "username": hash_name(login_name(), "username", salt),
        "package_name": package and hash_name(package, "package_name", salt),
        "command": command,
        "project_version": kedro_version,
        "telemetry_version": VERSION,
        "python_version": f"3.{sys.version_info.minor}",
        "os": sys.platform if sys.platform in "linux darwin win32".split() else "other",
        "tools": ", ".join(tool for tool in TOOL.split("|") if f"'{tool}'" in tools),
        "example_pipeline": example if example in ("True", "False") else None,
        **counts,
    }
    return json.dumps(values).encode()


# --- Starting the sender ---

# The sender's environment, besides the address. The last three lead to libraries.
SENDER_VARIABLES = """
    HTTPS_PROXY https_proxy ALL_PROXY all_proxy NO_PROXY no_proxy
    SSL_CERT_FILE SSL_CERT_DIR LD_LIBRARY_PATH DYLD_LIBRARY_PATH SYSTEMROOT
""".split()
senders: list[Any] = []  # kept, so that the next start can reap them with `poll`


def start_sender(message: bytes) -> None:
    """Start a sender, isolated from packages and PYTHON* variables. Does not wait."""
    if len(message) > MAX_MESSAGE:  # to write it would have to wait for the sender
        raise ValueError("the message is too long")

    # Not at the top: where a tool has made Popen a function, the import would fail.
    class Sender(subprocess.Popen[bytes]):
        def __del__(self) -> None:
            """Do not warn that the process still runs."""

    environment = {n: environ[n] for n in SENDER_VARIABLES if environ.get(n)}
    # Always set: some tools that wrap Popen take an empty environment for "all".
    environment[ENDPOINT_VARIABLE] = endpoint()
    for sender in senders:
        sender.poll()
    new: Any = Sender(
        [sys.executable, "-I", "-S", "-B", __file__],  # -B: it writes no .pyc
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",  # so that the user can remove the project's folder
        env=environment,
        start_new_session=True,  # so signals of the terminal do not reach it
        creationflags=0x08000000 if sys.platform == "win32" else 0,  # no window
    )
    senders.append(new)
    with new.stdin as pipe:
        pipe.write(message)


# --- The hooks. Kedro does not guard them: an error would end the command ---


def decide(project: str, may_ask: bool = False) -> str | None:
    """Return why no event is sent, or None. Can ask the user, or withdraw their yes."""
    reason = why_off(project)
    if is_preview():
        return reason
    if reason == NOT_ANSWERED and may_ask and can_ask(project):
        ask(project)
        reason = why_off(project)
    if reason == PROJECT_SAYS_NO:  # a no that a command has seen ends the own yes
        with suppress(FileNotFoundError):
            if read_file(own_file(project)) != OWN_NO:
                os.unlink(own_file(project))
    return reason


class TelemetryHook:
    command = ""  # what runs, masked. Empty if no event can be sent

    @HookimplMarker("kedro_cli")
    def before_command_run(self, project_metadata: Any, command_args: Any) -> None:
        self.command = ""
        with suppress(Exception):  # an error means that nothing is sent
            self.metadata = project_metadata  # None outside of a project
            self.project = project_metadata and realpath(project_metadata.project_path)
            self.process_id = os.getpid()
            self.counts: Any = {}
            reason = decide(self.project, may_ask=True)
            if reason is None or (is_preview() and not is_completing()):
                self.command = mask_command(command_args)

    @HookimplMarker("kedro")
    def before_pipeline_run(self, run_params: Any, catalog: Any) -> None:
        with suppress(Exception):  # an error means that the event has no counts
            # Sessions in other commands, such as `kedro ipython`, do not count.
            if self.command.startswith("kedro run"):
                self.counts = count_objects(run_params, catalog)

    @HookimplMarker("kedro_cli")
    def after_command_run(self) -> None:  # Kedro 0.18 skips it after some errors
        command, self.command = self.command, ""  # at most one event
        with suppress(Exception):  # an error means that nothing is sent
            if not command or self.process_id != os.getpid():  # a forked child
                return
            reason = decide(self.project)
            if reason is not None and not is_preview():
                return
            message = build_message(command, self.metadata, self.counts)
            if is_preview():
                sys.stderr.write(f"Preview only.\n{describe(reason)}\n")
                sys.stderr.write(f"{build_event(message).decode()}\n")
            else:
                start_sender(message)


telemetry_hook = TelemetryHook()  # the entry point of kedro.hooks and kedro.cli_hooks


# --- Names that other packages use ---


def __getattr__(name: str) -> Any:
    # For kedro-databricks. An import at the top would make Kedro set up its logging.
    if name == "ProjectMetadata":
        from kedro.framework.startup import ProjectMetadata

        return ProjectMetadata
    raise AttributeError(name)


def _check_for_telemetry_consent(project_path: Any) -> bool:
    """Return whether telemetry is on. Not used here: Kedro's own tests patch it."""
    return why_off(realpath(project_path)) is None


def parse_consent(data: bytes) -> bool:
    """Return whether this content of a `.telemetry` file is a yes."""
    return find_answer(data) is True


# --- The command `kedro-telemetry` ---

USAGE = """kedro-telemetry {status,allow,deny}

status  show whether kedro commands here send events (exit status: 0 no, 1 yes)
allow   turn telemetry on here: a yes in .telemetry, and your own
deny    turn telemetry off here: a no in .telemetry, and no answer of your own
DO_NOT_TRACK=1 in the environment turns telemetry off everywhere.
KEDRO_TELEMETRY_PREVIEW=1 kedro info shows an event without sending it."""


def find_project() -> str:
    """Return the project folder, as `kedro` would find it from here, or ""."""
    folders = [Path.cwd(), *Path.cwd().parents]
    if kedro_version.startswith("0.18."):
        del folders[1:]  # Kedro 0.18 looks only in the current folder
    for folder in folders:
        with suppress(OSError, ValueError):  # no such file, or not one that Kedro reads
            path = realpath(folder / "pyproject.toml")  # `read_file` takes no link
            if "[tool.kedro]" in read_file(path).decode():
                return realpath(folder)
    return ""


def show_status(project: str) -> bool:
    """Show and return whether a command in this project would send an event."""
    reason = why_off(project)
    if reason is None and is_preview():
        reason = f"the environment variable {PREVIEW_VARIABLE} is set"
    text = describe(reason)
    with suppress(OSError):  # without a home
        text += f"\nown folder  {own_folder()!r}"
    text += f"\nplugin.py   {__file__!r}"
    try:
        print(text.encode("ascii", "backslashreplace").decode(), flush=True)
    except OSError:  # a pipe is closed. At its exit, Python would write again, and fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return reason is None


def allow(project: str) -> None:
    """Save both yeses, the user's own last. Raises OSError or ValueError."""
    path = join(project, ".telemetry")
    answer = own_yes()
    check_own_folder(project)
    if not lexists(path) or not parse_consent(read_file(path)):
        write_file(path, PROJECT_YES, 0o644)
    write_own_answer(project, answer)


def deny(project: str) -> None:
    """Delete the own answer, and write the project's no, which counts for everybody."""
    try:
        with suppress(FileNotFoundError):  # no answer, or no home
            os.unlink(own_file(project))
    finally:
        write_file(join(project, ".telemetry"), PROJECT_NO, 0o644)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the console script `kedro-telemetry`. Return its exit status."""
    import argparse

    parser = argparse.ArgumentParser(usage=USAGE)
    parser.add_argument("action", choices="status allow deny".split())
    action = parser.parse_args(arguments).action
    try:
        project = find_project()
        if action == "status":
            return show_status(project)
        if not project:
            raise ValueError("not in a Kedro project: go to one")
        (allow if action == "allow" else deny)(project)
        show_status(project)
        return 0
    except Exception as error:
        earlier = error.__context__ or ""  # the first, if both steps of `deny` failed
        with suppress(Exception):  # standard error can be closed
            sys.stderr.write(f"kedro-telemetry: {error} {earlier}\nCorrect this.\n")
        return 2
