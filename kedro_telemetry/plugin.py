"""Opt-in usage telemetry for Kedro: the complete plugin, to be read downwards.

1. Nothing is sent without a yes. It stands in the project's `.telemetry`, which must be
   the user's own file and not tracked by git (`decide`), or it was just given to the
   question (`ask`) and could not be saved.
2. A `kedro` command sends at most one event. Its properties are the fields in FIELDS
   and no others, each in its fixed format. `build_event` checks this in the process
   that sends, and adds the application's ID, a title and the user name's hash again.
3. Every value on a command line is masked. Only the names in COMMANDS, --help, -h,
   --version and -V are sent.
4. User and package names are sent as hashes, with a secret salt as their key.
5. Only the sender opens a network connection. It is a second process that runs this
   file as far as THE WALL. It is given one small message and a few environment
   variables. It posts once, to one URL, and ends within five seconds.
6. The `kedro` process never waits for the sender. An error in this file never breaks a
   command: the event, or its counts, are lost.
7. On disk are the answer (`.telemetry` in the project) and this month's salt, in the
   user's folder for Kedro's configuration. The salt of a past month is deleted as soon
   as an event of a later month is sent.

Not protected against: code that runs as the user, which could send anything anyway; a
`.telemetry` with a yes in an archive or a copied folder. On Windows, the owner and the
permissions of files are not checked.
SECURITY.md names the tests for each of these points.
"""

from __future__ import annotations

import os
import sys
import time

# Above THE WALL, other modules are imported in the functions that use them: the sender
# must load next to nothing before its pause. Below it, what is small or what Kedro has
# loaded anyway is imported at the top.
if __name__ != "__main__":  # only for annotations, which Python does not evaluate here
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Final

VERSION: Final = "1.1.0+hardened"
APP_ID: Final = "2388822444"  # the Kedro project at its collector, Heap
DEFAULT_ENDPOINT: Final = "https://heapanalytics.com/api/track"

ENDPOINT_VARIABLE: Final = "KEDRO_TELEMETRY_ENDPOINT"  # the URL of another collector
PREVIEW_VARIABLE: Final = "KEDRO_TELEMETRY_PREVIEW"  # show each event, and send nothing

MAX_MESSAGE: Final = 4096  # bytes: fits in the buffer of a pipe on every system
MAX_URL: Final = 200  # characters
MAX_WORDS: Final = 32  # words of a command, `kedro` included

# The sender's time, in seconds.
PAUSE: Final = 0.5  # lets a command that ends finish first, also on a single core
CONNECTION_TIMEOUT: Final = 1.5  # for each IP address of the collector, and each read
LIFETIME: Final = 4.5  # of `send`, whatever happens


# --- Masking: what is sent of a command line ---

MASK: Final = "*****"

# The public commands of Kedro 0.18 to 1.7, its official plugins and kedro-mlflow:
# "command": ("options that take a value", "options that take none")
# Every command also has --help, and -h unless the table gives -h a value.
COMMANDS: Final = {
    "activate-nbstripout": ("", "--verbose -v"),
    "airflow create": (
        "--env -e --target-dir -t --pipeline --pipelines -p --jinja-file -j --params"
        " --tags --conf-source --group-by -g",
        "--all --group-in-memory",
    ),
    "build-docs": ("", "--open -o"),
    "build-reqs": ("--input-file --output-file", "--verbose -v"),
    "catalog create": ("--env -e --pipeline -p", ""),
    "catalog describe-datasets": ("--env -e --pipeline -p", ""),
    "catalog list": ("--env -e --pipeline -p", ""),
    "catalog list-patterns": ("--env -e", ""),
    "catalog rank": ("--env -e", ""),
    "catalog resolve": ("--env -e", ""),
    "catalog resolve-patterns": ("--env -e --pipeline -p", ""),
    "docker build": ("--uid --gid --base-image --image --docker-args", "--with-spark"),
    "docker cmd": ("--image --docker-args", "--verbose -v"),
    "docker dive": ("--ci-config-path -c --image --docker-args", "--ci --no-ci"),
    "docker init": ("", "--with-spark"),
    "docker ipython": ("--image --docker-args", "--verbose -v"),
    "docker jupyter lab": ("--image --port --docker-args", "--verbose -v"),
    "docker jupyter notebook": ("--image --port --docker-args", "--verbose -v"),
    "docker run": ("--image --docker-args", "--verbose -v"),
    "docs": ("", ""),
    "info": ("", ""),
    "ipython": ("--env -e", "--verbose -v"),
    "jupyter convert": ("--env -e", "--all -a -y --verbose -v"),
    "jupyter lab": ("--env -e", "--verbose -v"),
    "jupyter notebook": ("--env -e", "--verbose -v"),
    "jupyter setup": ("", "--verbose -v"),
    "lint": ("", "--check-only -c --verbose -v"),
    "micropkg package": ("--alias --env -e --destination -d", "--all -a --verbose -v"),
    "micropkg pull": (
        "--alias --env -e --fs-args --destination -d",
        "--all -a --verbose -v",
    ),
    "mlflow init": ("--env -e", "--force -f --silent -s"),
    "mlflow modelify": (
        "--pipeline -p --input-name -i --copy-mode --registered-model-name"
        " --await-registration-for --pip-requirements --extra-pip-requirements"
        " --conda-env --run-id -r --run-name --artifact-path --code-path --code-paths"
        " --model-name",
        "--infer-signature --infer-input-example",
    ),
    "mlflow ui": ("--env -e --port -p --host -h --project-path", ""),
    "new": (
        "--config -c --starter -s --checkout --directory --name -n --tools -t"
        " --example -e --telemetry -tc",
        "--verbose -v",
    ),
    "package": ("", ""),
    "pipeline create": ("--env -e --template -t", "--skip-config --verbose -v"),
    "pipeline delete": ("--env -e", "--yes -y --verbose -v"),
    "registry describe": ("", "--verbose -v"),
    "registry list": ("", ""),
    "run": (
        "--from-inputs --to-outputs --from-nodes --to-nodes --node --nodes -n"
        " --runner -r --runner-params --env -e --tag --tags -t --load-version"
        " --load-versions -lv --pipeline -p --pipelines --namespace --namespaces -ns"
        " --config -c --conf-source --params",
        "--async --only-missing-outputs",
    ),
    "server start": ("--host -H --port -p --env -e --conf-source", "--reload"),
    "skills install": ("--ide", "--all --force"),
    "skills list": ("", ""),
    "skills uninstall": ("", "--force"),
    "skills update": ("", "--force"),
    "starter list": ("", ""),
    "test": ("", "--verbose -v"),
    "viz": (
        "--host --port --load-file --save-file --pipeline -p --env -e --params",
        "--browser --no-browser --autoreload -a --ignore-plugins --include-hooks"
        " --lite",
    ),
    "viz build": ("", "--include-hooks --include-previews"),
    "viz deploy": (
        "--platform --endpoint --bucket-name --region",
        "--include-hooks --include-previews",
    ),
    "viz run": (
        "--host --port --load-file --save-file --pipeline -p --env -e --params",
        "--browser --no-browser --autoreload -a --ignore-plugins --include-hooks"
        " --lite",
    ),
}


def mask_command(args: Sequence[str]) -> str:
    """Return `kedro` and these arguments, with every value as `*****`.

    run --pipeline=ds -e prod   ->  kedro run --pipeline ***** -e *****
    pipeline create acme -v     ->  kedro pipeline create ***** -v
    acme-report --client acme   ->  kedro ***** ***** *****

    Masking the result once more does not change it. At most MAX_WORDS words are kept.
    """
    command = find_command(args)
    with_value, without_value = COMMANDS.get(command, ("", ""))
    value_options = with_value.split()
    flags = [*without_value.split(), "--help", "-h"]
    if not command:
        flags += ["--version", "-V"]

    shown = ["kedro", *command.split()]
    is_value = False  # the option before this argument takes a value
    mask_rest = False
    for arg in args[len(command.split()) :]:
        name, equals, _ = arg.partition("=")
        if mask_rest or is_value:
            shown.append(MASK)
            is_value = False
        elif arg in value_options:
            shown.append(arg)
            is_value = True
        elif arg in flags:
            shown.append(arg)
        elif equals and name in value_options:  # --pipeline=ds
            shown += [name, MASK]
        elif arg[:2] in value_options:  # a glued value: -pds (-nsds is shown as -n)
            shown += [arg[:2], MASK]
        else:
            shown.append(MASK)
            # Any word after an unknown option or command could be a value.
            mask_rest = arg.startswith("-") or is_group(command)
    return " ".join(shown[:MAX_WORDS])


def find_command(args: Sequence[str]) -> str:
    """Return the longest command, or group of commands, that the arguments start with.

    Returns "" if they start with none.
    """
    command = ""
    for arg in args[:3]:  # no command has more words
        if arg == "" or " " in arg:  # one argument is at most one word of a command
            break
        longer = f"{command} {arg}" if command else arg
        if longer not in COMMANDS and not is_group(longer):
            break
        command = longer
    return command


def is_group(command: str) -> bool:
    """Return whether there are commands below this one, or below `kedro` for ""."""
    start = f"{command} " if command else ""
    return any(other.startswith(start) for other in COMMANDS)


# --- The event: all that is ever sent ---

TOOLS: Final = (
    "Linting",
    "Testing",
    "Custom Logging",
    "Documentation",
    "Data Structure",
    "PySpark",
    "Kedro Viz",
)
# Parts of the patterns below.
ONE_TOOL: Final = "|".join(TOOLS)
HASH: Final = r"[0-9a-f]{32}"
COUNT: Final = r"[0-9]|[1-9][0-9]0{0,7}"  # two significant digits

# Each field with its type, and a pattern that its whole text must match.
# Adding a field requires a new major version.
FIELDS: Final = {
    "username": (str, HASH),
    "package_name": (str, HASH),
    "command": (str, r"kedro( [A-Za-z*-]+)*"),  # and masked: see `build_event`
    "project_version": (str, r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}"),  # of Kedro
    "telemetry_version": (str, r"1\.1\.0\+hardened"),
    "python_version": (str, r"3\.[0-9]{1,2}"),
    "os": (str, r"linux|darwin|win32|other"),
    "tools": (str, rf"({ONE_TOOL})(, ({ONE_TOOL})){{0,6}}"),
    "example_pipeline": (str, r"True|False"),
    "number_of_datasets": (int, COUNT),
    "number_of_nodes": (int, COUNT),
    "number_of_pipelines": (int, COUNT),
}


def build_event(message: bytes) -> bytes:
    """Return the event as it is sent, built from the fields in a message.

    The message is a JSON object of at most MAX_MESSAGE bytes. A value that does not
    match its format is dropped, and so is everything that is not in FIELDS.
    Raises an exception if the message is anything else, or lacks the user name or a
    masked command.
    """
    import json
    import re

    if len(message) > MAX_MESSAGE:
        raise ValueError("the message is too long")
    values = json.loads(message)
    properties: dict[str, Any] = {}
    for name, (kind, pattern) in FIELDS.items():
        value = values.get(name)
        if type(value) is kind and re.fullmatch(pattern, str(value)):
            properties[name] = value
    words = properties["command"].split(" ")
    if mask_command(words[1:]) != properties["command"]:
        raise ValueError("the command is not masked")

    has_counts = any(FIELDS[name][0] is int for name in properties)
    event = {
        "app_id": APP_ID,
        "event": "Kedro Project Statistics" if has_counts else "CLI command",
        "identity": properties["username"],
        "properties": properties,
    }
    return json.dumps(event, separators=(",", ":")).encode("ascii")


# --- The request: where the event goes, and how ---


def endpoint() -> str:
    """Return the URL of the collector: https, or http to a loopback IP address.

    Raises ValueError, with the reason, if KEDRO_TELEMETRY_ENDPOINT is not allowed.
    """
    from urllib.parse import urlsplit

    url = os.environ.get(ENDPOINT_VARIABLE, DEFAULT_ENDPOINT)
    if len(url) > MAX_URL:
        raise ValueError(f"{ENDPOINT_VARIABLE} is longer than {MAX_URL} characters")
    if not url.isascii() or not url.isprintable() or set(url) & set(" \\%#"):
        raise ValueError(f"{ENDPOINT_VARIABLE} has a character that is not allowed")
    if "@" in url:
        raise ValueError(
            f"{ENDPOINT_VARIABLE} must not contain a user name, a password or @"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"{ENDPOINT_VARIABLE} has an invalid host or port") from None
    # urllib parses the URL again, in its own way. So there must be nothing but the host
    # and the port between "//" and the path.
    authority = f"[{host}]" if ":" in host else host
    if port is not None:
        authority += f":{port}"
    if not host or port == 0 or parts.netloc.lower() != authority:
        raise ValueError(f"{ENDPOINT_VARIABLE} has an invalid host or port")
    if parts.scheme == "https":
        return url
    if parts.scheme == "http" and is_loopback_address(host):
        return url
    raise ValueError(
        f"{ENDPOINT_VARIABLE} must be an https:// URL,"
        " or http:// with a loopback IP address"
    )


def is_loopback_address(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:  # a host name, which can mean any machine
        return False


def find_proxy(url: str) -> str | None:
    """Return the proxy for this URL as `[user:password@]host:port`, or None.

    HTTPS_PROXY decides, else ALL_PROXY; the lower-case names come first. NO_PROXY lists
    hosts that need no proxy. A loopback host never has one.
    Raises ValueError if the proxy is not a plain HTTP proxy: urllib would talk to it
    without encryption, and show it the password.
    """
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost" or is_loopback_address(host):
        return None
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    for entry in no_proxy.lower().split(","):
        name = entry.strip().lstrip(".")
        if name == "*" or name in (host, parts.netloc.lower()):
            return None
        if name and host.endswith(f".{name}"):
            return None
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        proxy = os.environ.get(variable)
        if proxy:
            return parse_proxy(variable, proxy)
    return None


def parse_proxy(variable: str, proxy: str) -> str:
    """Return a proxy without its scheme, and with a port. Raises ValueError."""
    from urllib.parse import urlsplit

    scheme, authority = "http", proxy
    if "://" in proxy:
        scheme, _, authority = proxy.partition("://")
    if scheme.lower() != "http":
        raise ValueError(f"{variable} does not name an http:// proxy")
    authority = authority.removesuffix("/")
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    is_clean = proxy.isprintable() and not set(authority) & set(" /?#")
    if not host or port == 0 or not is_clean:
        raise ValueError(f"{variable} is not http://[user:password@]host:port")
    return authority if port else f"{authority.removesuffix(':')}:80"


def request_headers(url: str, event: bytes) -> dict[str, str]:
    """Return all headers of the request, in the order in which they are sent."""
    from urllib.parse import urlsplit

    return {
        "Host": urlsplit(url).netloc,
        "User-Agent": f"kedro-telemetry/{VERSION}",
        "Content-Type": "application/json",
        "Content-Length": str(len(event)),
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


# --- The sender ---


def send() -> None:
    """Read a message and post its event. An error ends the process; nobody sees it."""
    import faulthandler

    # In its own session, signals to the command's process group do not reach it.
    # It stays in the command's session until here, because `start_sender` gave it a
    # lower priority, and Linux compares priorities only within a session (autogroup in
    # `man 7 sched`). So while Python started, the command went first.
    # (The leader of a process group cannot make a session. A sender that is started by
    # hand can be a leader.)
    if sys.platform != "win32" and os.getpgrp() != os.getpid():
        os.setsid()
    # Ends the process on every platform, also in the middle of a name look-up.
    faulthandler.dump_traceback_later(LIFETIME, exit=True)
    time.sleep(PAUSE)

    from base64 import b64encode
    from urllib import request
    from urllib.parse import unquote_to_bytes

    event = build_event(sys.stdin.buffer.read(MAX_MESSAGE + 1))
    url = endpoint()
    post = request.Request(url, event, request_headers(url, event))
    # An opener with one handler: no redirects, cookies, authentication or retries.
    opener = request.OpenerDirector()
    if post.type == "https":
        import ssl

        context = ssl.create_default_context()  # verifies the certificate
        opener.add_handler(request.HTTPSHandler(context=context))
    else:
        opener.add_handler(request.HTTPHandler())
    proxy = find_proxy(url)
    if proxy:  # so the URL is https: http is only for loopback, which has no proxy
        credentials, _, host_and_port = proxy.rpartition("@")
        # For an https request, this ignores "http" and makes a tunnel with CONNECT.
        post.set_proxy(host_and_port, "http")
        if credentials:
            user, _, password = credentials.partition(":")  # perhaps no password
            basic = b64encode(unquote_to_bytes(f"{user}:{password}")).decode("ascii")
            # urllib sends this only with CONNECT, never to the collector.
            post.add_header("Proxy-Authorization", f"Basic {basic}")
    opener.open(post, timeout=CONNECTION_TIMEOUT)


if __name__ == "__main__":
    send()
    sys.exit()

# --- THE WALL. The sender has ended above. Below is what the `kedro` process runs. ---

import json
import select
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

from kedro import __version__ as kedro_version
from pluggy import HookimplMarker

# --- Files ---


WRITABLE_BY_OTHERS: Final = 0o022
ACCESSIBLE_TO_OTHERS: Final = 0o077


def open_without_waiting(path: str, flags: int) -> int:
    if sys.platform != "win32":
        flags |= os.O_NONBLOCK
    return os.open(path, flags)


def open_no_link(path: str, flags: int) -> int:
    if sys.platform != "win32":
        flags |= os.O_NOFOLLOW
    return open_without_waiting(path, flags)


def check_small_regular_file(found: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise PermissionError("it is not a regular file")
    if found.st_size > limit:
        raise PermissionError(f"it has more than {limit} bytes")


def read_file(path: str, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Does not wait, not even for a FIFO. Raises OSError.
    """
    with open(path, "rb", opener=open_without_waiting) as file:
        found = os.fstat(file.fileno())
        check_small_regular_file(found, limit)
        return file.read(found.st_size)


def read_own_file(path: str, limit: int, refused_mode: int) -> bytes:
    """Return the content of a file like `read_file`, but only of the user's own file.

    It must not be a symbolic link, must belong to the user, and must have no bit of
    `refused_mode`. On Windows, owner and mode are not checked. Raises OSError.
    """
    if os.path.islink(path):  # for Windows; elsewhere `open_no_link` refuses it as well
        raise PermissionError("it is a symbolic link")
    with open(path, "rb", opener=open_no_link) as file:
        found = os.fstat(file.fileno())
        check_small_regular_file(found, limit)
        if sys.platform != "win32":
            if found.st_uid != os.geteuid():
                raise PermissionError("it belongs to another user")
            if found.st_mode & refused_mode:
                raise PermissionError("others have too much access to it (chmod go-w)")
        return file.read(found.st_size)


def write_new_file(path: str, text: str, mode: int) -> None:
    """Write a file that must not exist yet. Leaves none behind if that fails."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(text.encode("ascii"))
    except BaseException:
        os.unlink(path)
        raise


def describe(error: Exception) -> str:
    """Return what went wrong, without number and path."""
    return getattr(error, "strerror", None) or str(error)


# --- The terminal ---


if sys.platform == "win32":
    import msvcrt

    def is_terminal(descriptor: int) -> bool:
        """Tell a console from NUL, for which `isatty` is true as well."""
        import ctypes

        console_mode = ctypes.c_ulong()
        handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
        kernel32 = ctypes.windll.kernel32
        return bool(kernel32.GetConsoleMode(handle, ctypes.byref(console_mode)))

    def is_in_foreground(descriptor: int) -> bool:
        return True  # Windows has no background jobs

    def discard_input(descriptor: int) -> None:
        while msvcrt.kbhit():
            msvcrt.getwch()

    def read_key(descriptor: int, seconds: float) -> str | None:
        """Return a character, "" at the end of input, or None if none comes."""
        end = time.monotonic() + seconds
        while not msvcrt.kbhit():
            if time.monotonic() > end:
                return None
            time.sleep(0.05)
        key = msvcrt.getwche()
        if key == "\x03":  # Ctrl-C
            raise KeyboardInterrupt
        if key == "\r":  # Enter
            msvcrt.putwch("\n")
        return "" if key == "\x1a" else key  # Ctrl-Z ends the input

else:

    def is_terminal(descriptor: int) -> bool:
        return os.isatty(descriptor)

    def is_in_foreground(descriptor: int) -> bool:
        return os.tcgetpgrp(descriptor) == os.getpgrp()

    def discard_input(descriptor: int) -> None:
        import termios

        termios.tcflush(descriptor, termios.TCIFLUSH)

    def read_key(descriptor: int, seconds: float) -> str | None:
        """Return a character, "" at the end of input, or None if none comes.

        The terminal gives whole lines, so none comes before Enter.
        """
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return os.read(descriptor, 1).decode("latin-1") if ready else None


def can_ask() -> bool:
    """Return whether somebody can answer a question here."""
    try:
        streams = (sys.stdin, sys.stdout, sys.stderr)
        terminals = [is_terminal(stream.fileno()) for stream in streams]
        return all(terminals) and is_in_foreground(sys.stdin.fileno())
    except (AttributeError, OSError, ValueError):  # a stream is closed or replaced
        return False


def read_line(seconds: float) -> str | None:
    """Return the line that is typed, or None if it is not complete in time.

    It ends with a newline, unless the input ends before. Bytes are read one by one and
    not through Python's buffer, so that what follows stays for the next program.
    """
    end = time.monotonic() + seconds
    line = ""
    while not line.endswith("\n"):
        key = read_key(sys.stdin.fileno(), max(0, end - time.monotonic()))
        if key is None:
            return None
        if key == "":
            break
        line += "\n" if key == "\r" else key
    return line


# --- Git: a tracked `.telemetry` may hold somebody else's answer ---

MAX_INDEX: Final = 8 * 1024 * 1024  # bytes: about 80,000 files
MAX_PATH: Final = 4096  # bytes; a small index of version 4 can have very long paths


def is_tracked_by_git(project: str) -> bool:
    """Return whether any git repository around this project tracks its `.telemetry`.

    It takes about 0.5 ms for each 1,000 files in the index. Raises OSError, ValueError
    or LookupError if that cannot be told.
    """
    project = os.path.realpath(project)
    for top in (project, *map(str, Path(project).parents)):
        folder = find_git_folder(top)
        if folder is None:
            continue
        try:
            index = read_file(os.path.join(folder, "index"), MAX_INDEX)
        except FileNotFoundError:  # a repository in which nothing was added yet
            continue
        for path in read_git_index(index):
            tracked_folder, _, name = path.rpartition(b"/")
            # macOS and Windows take `.Telemetry` for the same file.
            if name.lower() == b".telemetry":
                candidate = os.path.join(top, os.fsdecode(tracked_folder))
                if os.path.isdir(candidate) and os.path.samefile(candidate, project):
                    return True
    return False


def find_git_folder(top: str) -> str | None:
    """Return the git folder of the repository with this top folder, or None.

    It is `.git`. In a worktree or submodule, `.git` is a file that names it.
    """
    dot_git = os.path.join(top, ".git")
    if not os.path.lexists(dot_git):
        return None
    if os.path.isdir(dot_git):
        return dot_git
    label, _, name = read_file(dot_git, 4096).partition(b": ")
    folder = os.path.join(top, os.fsdecode(name.rstrip(b"\r\n")))
    if label != b"gitdir" or not os.path.isdir(folder):
        raise ValueError(".git does not name a folder")
    return folder


def read_git_index(index: bytes) -> Iterator[bytes]:
    """Yield the paths in a git index of version 2, 3 or 4 (see `man gitformat-index`).

    Raises ValueError or LookupError if any of it is not understood. This includes a
    split or sparse index, which has an extension that says so, and an index with
    SHA-256 object names, whose entries are longer.
    """
    version = int.from_bytes(index[4:8], "big")
    if index[:4] != b"DIRC" or version not in (2, 3, 4):
        raise ValueError("unknown version")
    start = 12  # after "DIRC", the version and the number of entries
    path = b""
    for _ in range(int.from_bytes(index[8:12], "big")):
        # An entry: 40 bytes of file status, 20 of object name, 2 of flags. A flag, the
        # bit 0x40 here, tells that 2 more bytes of flags follow. Then comes the path.
        position = start + 62
        if index[start + 60] & 0x40:
            position += 2
        if version == 4:
            # The path begins like the one before it, less so many bytes at the end.
            less, position = read_number(index, position)
            if less > len(path):
                raise ValueError("damaged path")
            path = path[: len(path) - less]
        else:
            path = b""
        end = index.index(b"\0", position)
        path += index[position:end]
        if len(path) > MAX_PATH:
            raise ValueError("damaged path")
        yield path
        if version == 4:
            start = end + 1
        else:  # 1 to 8 NULs fill the entry up to a multiple of 8 bytes
            start += (end - start) // 8 * 8 + 8
    # Extensions follow, then a checksum of 20 bytes. An extension whose name begins
    # with a small letter changes what the entries mean.
    checksum = len(index) - 20
    while start < checksum:
        if not index[start : start + 1].isupper():
            raise ValueError("unknown extension")
        start += 8 + int.from_bytes(index[start + 4 : start + 8], "big")
    if start != checksum:
        raise ValueError("it does not end where it should")


def read_number(data: bytes, position: int) -> tuple[int, int]:
    """Return a number in git's "offset encoding", and the position after it.

    Each byte has 7 bits of it, the highest bits first. If the top bit of a byte is set,
    another byte follows. Before that is appended, 1 is added to the number so far.
    Raises ValueError if the number is longer than any path.
    """
    number = data[position] & 0x7F
    while data[position] & 0x80:
        if number > MAX_PATH:  # a number of millions of digits would take hours
            raise ValueError("damaged path")
        position += 1
        number = ((number + 1) << 7) + (data[position] & 0x7F)
    return number, position + 1


# --- Consent: whether anything is sent ---

SWITCHES: Final = ("DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY")
# Variables that CI systems set. Most set CI; these also cover those that do not.
CI_VARIABLES: Final = """
    AC_APPCIRCLE AGOLA_GIT_REF APPCENTER_BUILD_ID APPVEYOR bamboo_buildKey
    bamboo_planKey BITBUCKET_BUILD_NUMBER BITBUCKET_COMMIT BITRISE_IO BUDDY
    BUDDY_WORKSPACE_ID BUILD_ID BUILD_NUMBER BUILDER_OUTPUT BUILDKITE CF_BUILD_ID CI
    CI_NAME CIRCLECI CIRRUS_CI CM_BUILD_ID CODEBUILD_BUILD_ARN CODEBUILD_BUILD_ID
    CONTINUOUS_INTEGRATION DRONE DSARI EAS_BUILD FORGEJO_ACTIONS GITEA_ACTIONS
    GITHUB_ACTION GITHUB_ACTIONS GITLAB_CI GO_PIPELINE_LABEL GO_PIPELINE_NAME
    HARNESS_BUILD_ID HUDSON_URL JENKINS_HOME JENKINS_URL MAGNUM NETLIFY NEVERCODE
    NOW_BUILDER PROW_JOB_ID RELEASE_BUILD_ID RENDER SAILCI SCREWDRIVER SEMAPHORE
    SHIPPABLE STRIDER SYSTEM_TEAMFOUNDATIONCOLLECTIONURI TASKCLUSTER_ROOT_URL TDDIUM
    TEAMCITY_VERSION TF_BUILD TRAVIS VELA WERCKER XCS
""".split()

MAX_CONSENT: Final = 4096  # bytes of a `.telemetry` file

ON: Final = "on"
OFF: Final = "off"
ASK: Final = "ask"  # off until a person agrees


class Decision:
    def __init__(self, state: str, reason: str) -> None:
        self.state = state  # ON, OFF or ASK
        self.reason = reason


def decide(project: str | None) -> Decision:
    """Decide whether a command in this project folder may send an event, and why.

    The first rule that applies decides. They are explained in SECURITY.md.
      1  a switch is set                                  OFF
      2  a CI system, or shell completion                 OFF
      3  not in a Kedro project                           OFF
      4  .telemetry is there, but not a trusted yes       OFF
      5  it is not there, and nobody can answer           OFF
      6  git tracks it (late, because this takes longest) OFF
      7  it is a trusted yes                              ON
      8  it is not there                                  ASK
    An error counts as a no.
    """
    for name in (*SWITCHES, *CI_VARIABLES):
        if os.environ.get(name):
            return Decision(OFF, f"the environment variable {name} is set")
    if is_completing():
        return Decision(OFF, "shell completion is running")
    if project is None:
        return Decision(OFF, "not in a Kedro project")

    answer = read_answer(project)
    if answer.state == OFF:
        return answer
    if answer.state == ASK and not can_ask():
        return Decision(
            OFF, "no answer is saved, and this is not an interactive terminal"
        )

    try:
        if is_tracked_by_git(project):
            return Decision(
                OFF, "git tracks .telemetry, so it may be somebody else's answer"
            )
    except (OSError, ValueError, LookupError):
        return Decision(OFF, "git's index cannot be read, so git may track .telemetry")
    return answer


def read_answer(project: str) -> Decision:
    """Return what `.telemetry` says: ON, OFF, or ASK if there is none."""
    path = os.path.join(project, ".telemetry")
    try:
        data = read_own_file(path, MAX_CONSENT, WRITABLE_BY_OTHERS)
    except FileNotFoundError:
        return Decision(ASK, "no answer is saved yet")
    except (OSError, ValueError) as error:
        return Decision(OFF, f".telemetry is not trusted: {describe(error)}")
    if parse_consent(data):
        return Decision(ON, ".telemetry says `consent: true`")
    return Decision(OFF, ".telemetry does not say `consent: true`")


def is_completing() -> bool:
    """Return whether a shell asks for completions, of `kedro` under any name."""
    return any(
        value and name.startswith("_") and name.endswith("_COMPLETE")
        for name, value in os.environ.items()
    )


def parse_consent(data: bytes) -> bool:
    """Return whether this content of a `.telemetry` file is a yes.

    A yes is at most 4 KiB of UTF-8 with one line `consent: true` (or True, TRUE). All
    other lines are blank or comments. It is a subset of YAML, so that no YAML reader
    loads anything but {"consent": True} from a yes.
    """
    if len(data) > MAX_CONSENT:
        return False
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError:
        return False
    consent_lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        # YAML ends a line at more characters than \n. None of them is printable.
        if not line.replace("\t", " ").isprintable():
            return False
        statement = line.partition(" #")[0].rstrip(" ")
        if statement and not line.startswith("#"):
            consent_lines.append(statement)
    return consent_lines in (["consent: true"], ["consent: True"], ["consent: TRUE"])


ANSWER_SECONDS: Final = 30
QUESTION: Final = """\
Kedro usage telemetry: if you agree, each `kedro` command in this project sends
one event to {url}
It contains the command with every value masked; hashes of your user name and
package name; the versions of Kedro, Python and this plugin; the operating
system; the project's tools and whether it has an example pipeline; counts of
datasets, nodes and pipelines. See one: KEDRO_TELEMETRY_PREVIEW=1 kedro info
Your answer is saved in .telemetry. Enter means no. Undo: kedro-telemetry deny
"""
PROMPT: Final = "Send these events? [y/N] "


def ask(project: str) -> bool:
    """Ask whether events may be sent, save the answer, and return it."""
    sys.stderr.write(QUESTION.format(url=endpoint()))
    discard_input(sys.stdin.fileno())  # typed before the question was there
    sys.stderr.write(PROMPT)
    sys.stderr.flush()
    line = read_line(ANSWER_SECONDS)
    if line is None:
        discard_input(sys.stdin.fileno())  # a part of a line
        sys.stderr.write(
            f"\nNo answer in {ANSWER_SECONDS} seconds: taken as no."
            " Undo: kedro-telemetry allow\n"
        )
        agreed = False
    elif line.lower() in ("y\n", "yes\n"):
        agreed = True
    elif line.lower() in ("\n", "n\n", "no\n"):
        agreed = False
    else:
        newline = "" if line.endswith("\n") else "\n"  # after the end of input
        sys.stderr.write(
            f"{newline}Neither yes nor no, so nothing is sent this time.\n"
        )
        return False
    with suppress(OSError):  # then the answer counts for this command only
        write_new_file(os.path.join(project, ".telemetry"), consent_text(agreed), 0o644)
    return agreed


def consent_text(agreed: bool) -> str:
    return "consent: true\n" if agreed else "consent: false\n"


# --- The salt: 32 random bytes that never leave this machine ---


def salt_folder() -> str | None:
    """Return the user's folder for Kedro's configuration, or None without a home.

    It is the folder that `appdirs.user_config_dir("kedro")` names.
    """
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA", "")
        folder = os.path.join(home, "kedro", "kedro")  # appdirs: author, then name
    elif sys.platform == "darwin":
        home = os.environ.get("HOME", "")
        folder = os.path.join(home, "Library", "Application Support", "kedro")
    elif os.path.isabs(os.environ.get("XDG_CONFIG_HOME", "")):
        return os.path.join(os.environ["XDG_CONFIG_HOME"], "kedro")
    else:
        home = os.environ.get("HOME", "")
        folder = os.path.join(home, ".config", "kedro")
    return folder if os.path.isabs(home) and os.path.isdir(home) else None


def salt_name() -> str:
    """Return the name of this month's salt (UTC). Past months sort before it."""
    return time.strftime("telemetry.salt.%Y-%m", time.gmtime())


def read_salt() -> bytes | None:
    """Return this month's salt, or None. It is stored as 64 hexadecimal digits."""
    folder = salt_folder()
    if folder is None:
        return None
    try:
        path = os.path.join(folder, salt_name())
        digits = read_own_file(path, 100, ACCESSIBLE_TO_OTHERS)
        salt = bytes.fromhex(digits.decode("ascii"))
    except (OSError, ValueError):
        return None
    return salt if len(salt) == 32 else None


def prepare_salt() -> bytes:
    """Return this month's salt, stored if it is new. Delete the salts of past months.

    Where it cannot be stored safely, it is a salt for this event only.
    """
    new = os.urandom(32)
    folder = salt_folder()
    if folder is None:
        return new
    salt = read_salt()
    with suppress(OSError):
        make_own_folder(folder)
        delete_past_salts(folder)
        if salt is None:
            store_salt(folder, new)
    return salt or read_salt() or new


def delete_past_salts(folder: str) -> None:
    for name in os.listdir(folder):
        # The salt of version 1.0.0 is `telemetry.salt`.
        if name.startswith("telemetry.salt") and name < salt_name():
            with suppress(OSError):  # another command may have been first
                os.unlink(os.path.join(folder, name))


def make_own_folder(folder: str) -> None:
    """Make a folder and those above it that are missing, for this user alone.

    Raises OSError if the folder, or the first one above it that exists, belongs to
    somebody else.
    """
    try:
        found = os.stat(folder)
    except FileNotFoundError:
        make_own_folder(os.path.dirname(folder))
        with suppress(FileExistsError):  # made by another command just now
            os.mkdir(folder, 0o700)
        return
    if sys.platform != "win32" and found.st_uid != os.geteuid():
        raise PermissionError("it belongs to another user")


def store_salt(folder: str, salt: bytes) -> None:
    """Store a salt. Raises OSError: FileExistsError if another command was first."""
    path = os.path.join(folder, salt_name())
    # Read again: another command may have stored a good one. A file that is still
    # refused cannot be trusted.
    if os.path.lexists(path) and read_salt() is None:
        os.unlink(path)
    draft = f"{path}.{os.urandom(8).hex()}"
    write_new_file(draft, salt.hex(), 0o600)
    try:
        os.link(draft, path)  # all at once, and only if there is no such file
    finally:
        os.unlink(draft)


# --- The message: the values of the fields ---


def login_name() -> str:
    """Return the name in the environment, or else the user's number ("" on Windows).

    The user database is not asked: it can be on a network that does not answer.
    """
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        if os.environ.get(variable):
            return os.environ[variable]
    if sys.platform == "win32":
        return ""
    return str(os.getuid())


def hash_name(name: str, field: str, salt: bytes) -> str:
    """Return a keyed BLAKE2b hash of 128 bits, as 32 hexadecimal digits.

    The field is BLAKE2's "personalization", so that a name has different hashes in
    different fields. See https://www.blake2.net/blake2.pdf for both.
    """
    from hashlib import blake2b

    data = name.encode("utf-8", "surrogatepass")
    person = field.encode("ascii")
    return blake2b(data, digest_size=16, key=salt, person=person).hexdigest()


def round_count(count: int) -> int:
    """Return the count with two significant digits: it then says less of a project."""
    return count if count < 100 else round(count, 2 - len(str(count)))


def count_objects(run_params: Mapping[str, Any], catalog: Any) -> dict[str, int]:
    """Count what Kedro has loaded for this run. Nothing is loaded to count it.

    Some of these attributes are private to Kedro. If they change, counts are lost.
    """
    counts = {}
    with suppress(Exception):
        names = catalog.keys() if hasattr(catalog, "keys") else catalog.list()
        counts["number_of_datasets"] = sum(
            name != "parameters" and not name.startswith("params:") for name in names
        )
    with suppress(Exception):
        from kedro.framework.project import pipelines

        # Kedro loads all pipelines only if the run selects none. `run_params` then has
        # no name of a pipeline, or "__default__" in a service session.
        selected = run_params.get("pipeline_names") or run_params.get("pipeline_name")
        is_whole_project = selected in (None, [], "__default__", ["__default__"])
        # In Kedro 1.7, the pipelines that it was told to load. Empty or None means all.
        # With `--pipeline=__default__`, it is only that one.
        requested = getattr(pipelines, "_requested_pipelines", None)
        if is_whole_project and not requested and pipelines._is_data_loaded:
            nodes = pipelines["__default__"]._nodes_by_name
            counts["number_of_nodes"] = len(nodes)
            counts["number_of_pipelines"] = len(pipelines)
    return {name: round_count(count) for name, count in counts.items()}


def build_message(
    args: Sequence[str], metadata: Any, counts: Mapping[str, int], salt: bytes
) -> bytes:
    """Return the fields of an event as JSON, for `build_event` to check.

    `metadata` is Kedro's ProjectMetadata, or None outside of a project.
    """
    package = getattr(metadata, "package_name", None)
    # A list, or its text: "['Linting', 'Testing']". Only the names in TOOLS are taken.
    tools = str(getattr(metadata, "tools", None))
    os_name = sys.platform if sys.platform in ("linux", "darwin", "win32") else "other"
    values = {
        "username": hash_name(login_name(), "username", salt),
        "package_name": package and hash_name(package, "package_name", salt),
        "command": mask_command(args),
        "project_version": kedro_version,
        "telemetry_version": VERSION,
        "python_version": f"3.{sys.version_info.minor}",
        "os": os_name,
        "tools": ", ".join(tool for tool in TOOLS if f"'{tool}'" in tools),
        "example_pipeline": str(getattr(metadata, "example_pipeline", None)),
        **counts,
    }
    return json.dumps(values).encode("ascii")


# --- Starting the sender ---

sender_ids: list[int] = []  # of senders that may still run, or have not been reaped

# Debuggers and profilers that take over every process that is started.
TRACERS: Final = ("debugpy", "pydevd", "_pydevd_bundle", "viztracer", "scalene")

# The sender's whole environment. The loader needs the last three on some systems.
SENDER_VARIABLES: Final = """
    KEDRO_TELEMETRY_ENDPOINT HTTPS_PROXY https_proxy ALL_PROXY all_proxy NO_PROXY
    no_proxy SSL_CERT_FILE SSL_CERT_DIR LD_LIBRARY_PATH DYLD_LIBRARY_PATH SYSTEMROOT
""".split()


def find_obstacle() -> str | None:
    """Return why no event can be sent from this process, or None."""
    if not sys.executable or hasattr(sys, "frozen"):
        return "there is no Python interpreter to send events with"
    if not os.path.isfile(__file__):
        return "plugin.py is in an archive, where the sender cannot be started"
    for name in TRACERS:
        if name in sys.modules:
            return f"{name} takes over the processes that Python starts"
    try:
        find_proxy(endpoint())
    except ValueError as error:
        return str(error)
    return None


def sender_environment() -> dict[str, str]:
    variables = {}
    for name in SENDER_VARIABLES:
        if name in os.environ:
            variables[name] = os.environ[name]
    # The sender runs in another folder, where relative paths would lead elsewhere.
    if variables.get("SSL_CERT_FILE"):
        variables["SSL_CERT_FILE"] = os.path.abspath(variables["SSL_CERT_FILE"])
    if variables.get("SSL_CERT_DIR"):
        folders = variables["SSL_CERT_DIR"].split(os.pathsep)
        absolute = [os.path.abspath(folder) for folder in folders if folder]
        variables["SSL_CERT_DIR"] = os.pathsep.join(absolute)
    return variables


def start_sender(message: bytes) -> None:
    """Start a sender with this message. Does not wait for it."""
    import subprocess

    if len(message) > MAX_MESSAGE:  # to write it would have to wait for the sender
        raise ValueError("the message is too long")
    reap_senders()
    creation_flags = 0
    if sys.platform == "win32":
        creation_flags |= subprocess.CREATE_NO_WINDOW
        creation_flags |= subprocess.BELOW_NORMAL_PRIORITY_CLASS
    with terminal_signals_blocked():
        sender = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=os.sep,
            env=sender_environment(),
            creationflags=creation_flags,
        )
        sender_ids.append(sender.pid)
        # Not true yet. Without it, Popen would warn, when this function returns, that
        # the sender still runs.
        sender.returncode = 0
        assert sender.stdin  # for the type checker: it is a pipe
        with sender.stdin as pipe:
            pipe.write(message)
        if sys.platform != "win32":
            priority = os.getpriority(os.PRIO_PROCESS, 0) + 5  # the command goes first
            os.setpriority(os.PRIO_PROCESS, sender.pid, priority)


@contextmanager
def terminal_signals_blocked() -> Iterator[None]:
    """Hold back the signals of a terminal: Ctrl-C, Ctrl-\\, and that it was closed.

    This process gets them afterwards. A process that it starts meanwhile never does.
    Windows needs nothing: the sender has a console of its own there.
    """
    if sys.platform == "win32":
        yield
        return
    import signal

    blocked = {signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # blocks nothing, only reads
    try:
        # This may block them and then raise KeyboardInterrupt, for a Ctrl-C before it.
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def reap_senders() -> None:
    """Reap earlier senders that have ended.

    The last one stays until this process ends: as a zombie, which runs nothing.
    """
    if sys.platform == "win32":
        return
    for process_id in sender_ids[:]:
        try:
            ended, _ = os.waitpid(process_id, os.WNOHANG)
        except ChildProcessError:  # somebody else has reaped it
            ended = process_id
        if ended:
            sender_ids.remove(process_id)


# --- The hooks, which Kedro calls. It does not guard them against errors ---


class Command:
    """The `kedro` command that this process runs."""

    def __init__(self, args: Sequence[str], metadata: Any, decision: Decision) -> None:
        self.args = list(args)
        self.metadata = metadata  # Kedro's ProjectMetadata; None outside of a project
        self.decision = decision
        self.process_id = os.getpid()


class TelemetryHook:
    command: Command | None = None

    @HookimplMarker("kedro_cli")
    def before_command_run(
        self, project_metadata: Any, command_args: Sequence[str]
    ) -> None:
        self.command = None
        with suppress(Exception):  # an error means that nothing is sent
            self.command = prepare(project_metadata, command_args)

    @HookimplMarker("kedro")
    def before_pipeline_run(self, run_params: Mapping[str, Any], catalog: Any) -> None:
        counts = None
        with suppress(Exception):  # after an error, the command's end sends the event
            if self.command and is_run_of(self.command, run_params):
                counts = count_objects(run_params, catalog)
        if counts is not None:
            self.finish(counts)

    @HookimplMarker("kedro_cli")
    def after_command_run(self) -> None:
        self.finish({})

    def finish(self, counts: Mapping[str, int]) -> None:
        command, self.command = self.command, None  # at most one event per command
        with suppress(Exception):  # an error means that nothing is sent
            # A worker process that was forked has a copy of the command.
            if command and command.process_id == os.getpid():
                report(command, counts)


def prepare(metadata: Any, args: Sequence[str]) -> Command | None:
    """Decide about a command when it starts, and ask if there is no answer yet.

    Returns None if there will be nothing to send or to show.
    """
    project = str(metadata.project_path) if metadata else None
    decision = decide(project)
    is_preview = bool(os.environ.get(PREVIEW_VARIABLE))
    if project and decision.state == ASK and not is_preview and not find_obstacle():
        state = ON if ask(project) else OFF
        decision = Decision(state, "this was the answer to the question")
    if decision.state == ON or is_preview:
        return Command(args, metadata, decision)
    return None


def is_run_of(command: Command, run_params: Mapping[str, Any]) -> bool:
    """Return whether this is the run of that `kedro run`, not some other session."""
    if command.args[:1] != ["run"]:
        return False
    # `kedro run --help` runs nothing. In a script that calls it with click's
    # `standalone_mode=False`, Kedro does not call `after_command_run`. The next session
    # of the script is not this run.
    if "--help" in command.args or "-h" in command.args:
        return False
    return Path(run_params["project_path"]) == Path(command.metadata.project_path)


def report(command: Command, counts: Mapping[str, int]) -> None:
    """Send the event of this command, or show it in preview mode."""
    if os.environ.get(PREVIEW_VARIABLE):
        if not is_completing():
            salt = read_salt() or os.urandom(32)
            message = build_message(command.args, command.metadata, counts, salt)
            sys.stderr.write(preview(command.decision, message))
    elif command.decision.state == ON and find_obstacle() is None:
        # A no that was saved since the command started counts.
        if read_answer(str(command.metadata.project_path)).state == OFF:
            return
        salt = prepare_salt()
        start_sender(build_message(command.args, command.metadata, counts, salt))


def preview(decision: Decision, message: bytes) -> str:
    """Return the request that would be sent, and whether and why it would be."""
    event = build_event(message)
    state = ON if decision.state == ON else OFF
    lines = [
        "Preview only, nothing is sent.",
        f"Telemetry is {state}: {decision.reason}.",
    ]
    if read_salt() is None:
        lines += ["The hashes are only examples, because no salt is stored yet."]
    obstacle = find_obstacle()
    if obstacle:
        lines += [f"It would not be sent: {obstacle}.", "", event.decode(), ""]
        return "\n".join(lines)
    url = endpoint()
    proxy = find_proxy(url)
    if proxy:
        lines += [f"It would go through the proxy {proxy.rpartition('@')[2]}."]
    lines += ["", f"POST {url}"]
    lines += [f"{name}: {value}" for name, value in request_headers(url, event).items()]
    return "\n".join([*lines, "", event.decode(), ""])


telemetry_hook = TelemetryHook()


# --- Names that other packages use ---


def __getattr__(name: str) -> Any:
    if name == "ProjectMetadata":  # kedro-databricks imports it from here
        from kedro.framework.startup import ProjectMetadata

        return ProjectMetadata
    raise AttributeError(name)


def _check_for_telemetry_consent(project_path: str | os.PathLike[str] | None) -> bool:
    """Return whether events are sent. Only for others: Kedro's tests patch it."""
    project = None if project_path is None else os.fspath(project_path)
    return decide(project).state == ON


# --- The command `kedro-telemetry` ---

MAX_PYPROJECT: Final = 1024 * 1024  # bytes


def find_project() -> str | None:
    """Return the project folder that `kedro` would use from here, or None.

    It is the nearest folder whose pyproject.toml has [tool.kedro]. Kedro 0.18 looks
    only in the current folder.
    """
    folders = [Path.cwd(), *Path.cwd().parents]
    if kedro_version.startswith("0.18."):
        folders = [Path.cwd()]
    for folder in folders:
        with suppress(OSError, ValueError):  # no such file, or not one that Kedro reads
            data = read_file(str(folder / "pyproject.toml"), MAX_PYPROJECT)
            if "[tool.kedro]" in data.decode("utf-8"):
                return str(folder)
    return None


def current_state(project: str | None) -> Decision:
    """Return ON if a command would send an event here and now, else OFF, and why."""
    decision = decide(project)
    if decision.state == ASK:
        return Decision(OFF, decision.reason)
    if decision.state == ON and os.environ.get(PREVIEW_VARIABLE):
        return Decision(OFF, f"the environment variable {PREVIEW_VARIABLE} is set")
    obstacle = find_obstacle()
    if decision.state == ON and obstacle:
        return Decision(OFF, obstacle)
    return decision


def show(*lines: str, is_error: bool = False) -> None:
    """Print lines. It is no error if they cannot be written: the work is done."""
    stream = sys.stderr if is_error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = "\n".join(escape(line, encoding) for line in lines)
    try:
        print(text, file=stream, flush=True)
    except OSError:  # the reader of a pipe has gone, or the disk is full
        # Python tries again when it ends, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def escape(text: str, encoding: str) -> str:
    """Escape what this encoding does not have, and what a terminal would obey."""
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    for char in set(text):
        if not char.isprintable():
            text = text.replace(char, ascii(char).strip("'"))
    return text


def show_status() -> int:
    decision = current_state(find_project())
    try:
        address = endpoint()
    except ValueError as error:
        address = f"none: {error}"
    folder = salt_folder()
    if folder is None:
        salt = "none: there is no home folder to store it in"
    else:
        salt = os.path.join(folder, salt_name())
        if read_salt() is None:
            salt += " (created with the first event)"
    show(
        f"Telemetry is {decision.state}: {decision.reason}.",
        f"endpoint   {address}",
        f"salt       {salt}",
        f"plugin.py  {os.path.abspath(__file__)}",
        f"SHA-256    {own_digest()}",
    )
    return 1 if decision.state == ON else 0


def own_digest() -> str:
    """Return the SHA-256 of this file, in hexadecimal."""
    from hashlib import sha256

    try:
        return sha256(Path(__file__).read_bytes()).hexdigest()
    except OSError:  # in an archive
        return "cannot be read"


def save_answer(agreed: bool) -> int:
    project = find_project()
    if project is None:
        raise ValueError(
            "not in a Kedro project. Go to the folder whose pyproject.toml has a"
            " [tool.kedro] section."
        )
    path = os.path.join(project, ".telemetry")
    try:
        replace_file(path, consent_text(agreed))
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {describe(error)}."
            " Remove it, or check the permissions of its folder."
        ) from None
    decision = current_state(project)
    show(
        f"Saved `{consent_text(agreed).strip()}` in {path}",
        f"Telemetry is {decision.state} here: {decision.reason}.",
    )
    return 0


def replace_file(path: str, text: str) -> None:
    draft = f"{path}.{os.urandom(8).hex()}"
    write_new_file(draft, text, 0o644)
    try:
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def forget_salts() -> int:
    folder = salt_folder()
    lines = []
    if folder and os.path.isdir(folder):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name.startswith("telemetry.salt") and not os.path.isdir(path):
                try:
                    Path(path).unlink(missing_ok=True)  # a command may have been first
                except OSError as error:
                    raise OSError(
                        f"cannot delete {path}: {describe(error)}."
                        " Check the permissions of its folder."
                    ) from None
                lines.append(f"Deleted {path}")
    if lines:
        show(*lines, "Later events get new hashes.")
    else:
        show("There is no salt to delete.")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `kedro-telemetry`. Return its exit status."""
    from argparse import ArgumentParser, RawDescriptionHelpFormatter

    parser = ArgumentParser(
        prog="kedro-telemetry",
        description="Control whether kedro commands in this project send events.",
        epilog="DO_NOT_TRACK=1 in the environment turns telemetry off everywhere.\n"
        f"To see an event without sending it: {PREVIEW_VARIABLE}=1 kedro info",
        formatter_class=RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="COMMAND", required=True)
    for name, text in (
        ("status", "show whether telemetry is on here (exit status: 0 off, 1 on)"),
        ("allow", "turn telemetry on for this project (writes .telemetry)"),
        ("deny", "turn telemetry off for this project (writes .telemetry)"),
        ("forget", "delete the salt: later events get new hashes"),
    ):
        actions.add_parser(name, help=text, description=text)
    action = parser.parse_args(arguments).action
    try:
        if action == "status":
            return show_status()
        if action == "forget":
            return forget_salts()
        return save_answer(agreed=action == "allow")
    except (OSError, ValueError) as error:
        show(f"kedro-telemetry: {error}", is_error=True)
        return 2
