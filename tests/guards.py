"""Each guard of the plugin, removed in turn: `python tests/guards.py [word]`. A test has to fail for each.

A guard is a line, or a part of one, that says no. Works on a copy of the repository in a temporary folder, in an
environment of its own that finds this one's packages. Ends non-zero where a guard is removed and all tests stay green.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import NamedTuple

import environment

ROOT = environment.ROOT
PLUGIN = Path("kedro_telemetry") / "plugin.py"
NEW_LINE = "\n"


class Guard(NamedTuple):
    """What is removed: `old`, which is in plugin.py once, becomes `new`; and the tests that must notice."""

    name: str
    old: str
    new: str
    tests: str  # `masking -k traps`: of tests/test_masking.py those that `-k` chooses
    also: tuple[str, str] = ("", "")  # the same for the second of two guards that stand for each other

    @property
    def files(self) -> str:
        return self.tests.partition(" -k ")[0]

    @property
    def chosen(self) -> str:
        return self.tests.partition(" -k ")[2].strip("'")


GUARDS = [
    # --- Masking ---
    Guard("a value of an option is masked", "if is_value or ", "if ", "masking -k traps"),
    Guard("all behind `--` is masked", " or position > end", "", "masking -k traps"),
    Guard("a space inside of an argument", '" " not in arg and ', "", "masking -k hostile"),
    Guard(
        "commands come first alone",
        "[*words[1:], arg]",
        "[*[w for w in words[1:] if w != MASK], arg]",
        "masking -k traps",
    ),
    Guard("an unknown word is masked", "    return [MASK], False\n", "    return [arg], False\n", "masking -k traps"),
    Guard("a glued value is masked", "([name, MASK], False) if glued", "([arg], False) if glued", "masking -k traps"),
    Guard("an option's next word is a value", '([name], f"{name}=" in OPTIONS)', "([name], False)", "masking -k traps"),
    Guard("a command's length", "[: MAX_COMMAND + 1]", "", "masking -k ten_thousand"),
    Guard("a command is cut at a word", '.rpartition(" ")[0]', "", "masking"),
    # --- The event ---
    Guard("a digest's length", "len(v) == 32 and ", "", "event -k has_not_its_form"),
    Guard("a digest's digits", ' and set(v) <= set("0123456789abcdef")', "", "event -k has_not_its_form"),
    Guard("a count is not negative", "0 <= v < 10**9", "v < 10**9", "event -k has_not_its_form"),
    Guard("a count has a limit", "0 <= v < 10**9", "0 <= v", "event -k has_not_its_form"),
    Guard("a count has two significant digits", ' and not str(v)[2:].strip("0")', "", "event -k has_not_its_form"),
    Guard("a command's form", 'v == mask_command(v.split(" ")[1:])', "True", "event -k has_not_its_form"),
    Guard("a version's length", "len(v) < 12 and v.isascii()", "v.isascii()", "event -k has_not_its_form"),
    Guard("a version is ASCII", "len(v) < 12 and v.isascii()", "len(v) < 12", "event -k has_not_its_form"),
    Guard("a version is numbers", ' and all(map(str.isdecimal, v.split(".")))', "", "event -k has_not_its_form"),
    Guard("this plugin's version", "lambda v: v == VERSION", "lambda v: True", "event -k has_not_its_form"),
    Guard("Python 3", 'v[:2] == "3." and ', "", "event -k has_not_its_form"),
    Guard("Python's number", " and v[2:].isdecimal()", "", "event -k has_not_its_form"),
    Guard(
        "Python's number is ASCII", " and v.isascii() and len(v) < 5", " and len(v) < 5", "event -k has_not_its_form"
    ),
    Guard(
        "Python's number is short", " and v.isascii() and len(v) < 5", " and v.isascii()", "event -k has_not_its_form"
    ),
    Guard("one of four systems", 'v in ("linux", "darwin", "win32", "other")', "True", "event -k has_not_its_form"),
    Guard(
        "tools of Kedro's own",
        'v.split(", ") == [tool for tool in TOOLS if tool in v.split(", ")]',
        "True",
        "event -k has_not_its_form",
    ),
    Guard("true or false", 'v in ("True", "False")', "True", "event -k has_not_its_form"),
    Guard(
        "a field's type",
        "type(value := properties.get(name)) is kind",
        "isinstance(value := properties.get(name), kind)",
        "event -k another_type",
    ),
    Guard("a field's form", "is kind and fits(value)", "is kind", "event -k has_not_its_form"),
    Guard(
        "known fields alone",
        "kept: dict[str, Any] = {}",
        "kept: dict[str, Any] = dict(properties)",
        "event -k nobody_knows",
    ),
    Guard(
        "names leave as hashes",
        'keyed(user.encode("utf-8", "surrogatepass"), person=b"username").hexdigest()',
        "user",
        "event -k a_whole_event",
    ),
    Guard("hashes are keyed", "digest_size=16, key=salt", "digest_size=16", "identity -k another_salt"),
    Guard("equal names are kept apart", 'person=b"package_name"', 'person=b"username"', "identity -k two_fields"),
    Guard(
        "the command is masked",
        '"command": mask_command(args)',
        '"command": " ".join(["kedro", *args])',
        "event -k 'a_whole_event or whatever'",
    ),
    Guard("no build string of Python", 'f"3.{sys.version_info.minor}"', "sys.version", "event -k a_whole_event"),
    Guard("counts are rounded", "round(n, min(0, 2 - len(str(n))))", "n", "event -k significant"),
    Guard(
        "parameters are no datasets",
        'n != "parameters" and not n.startswith("params:")',
        "True",
        "event -k are_counted",
    ),
    Guard("no pipeline is loaded for a look", "loaded._is_data_loaded and ", "", "event -k loads_no_pipeline"),
    Guard("no part is reported as the whole", " and not named:", ":", "event -k names_pipelines"),
    # --- How it leaves ---
    Guard(
        "http is for loopback",
        '(parts.scheme == "http" and ip_address(host).is_loopback)',
        'parts.scheme == "http"',
        "sender -k no_other_place",
    ),
    Guard("http is not ftp", 'parts.scheme == "http" and ', "", "sender -k no_other_place"),
    Guard("https alone", 'allowed = parts.scheme == "https" or', "allowed = True or", "sender -k no_other_place"),
    Guard("a port that is none", 'port != ":0" and ', "", "sender -k no_other_place"),
    Guard("an address without user, password, more", "whole and ", "", "sender -k no_other_place"),
    Guard(
        "an address that is none",
        "    except ValueError:  # a name, which",
        "    except ZeroDivisionError:  # a name, which",
        "sender -k no_other_place",
    ),
    Guard("an address is ASCII", "plain = url.isascii() and ", "plain = ", "sender -k no_other_place"),
    Guard("an address is printable", "url.isprintable() and ", "", "sender -k no_other_place"),
    Guard("an address is short", "len(url) <= MAX_URL and ", "", "sender -k no_other_place"),
    *(
        Guard(
            f"an address without {sign!r}",
            '" @\\\\#%"',
            f'"{"".join(s for s in kept if s != sign)}"'.replace("\\", "\\\\"),
            "sender -k no_other_place",
        )
        for kept in (" @\\#%",)
        for sign in kept
    ),
    Guard(
        "an address that may be used",
        " and allowed and plain else None",
        " and plain else None",
        "sender -k no_other_place",
    ),
    Guard(
        "an address that is plain",
        " and allowed and plain else None",
        " and allowed else None",
        "sender -k no_other_place",
    ),
    Guard(
        "the sender's end",
        "faulthandler.dump_traceback_later(DEADLINE, exit=True)",
        "pass",
        "sender -k its_input_does_not",
    ),
    Guard(
        "the sender's deadline",
        "faulthandler.dump_traceback_later(DEADLINE",
        "faulthandler.dump_traceback_later(DEADLINE * 9",
        "sender -k its_input_does_not",
    ),
    Guard(
        "the sender's priority",
        '    getattr(os, "nice", int)(19)',
        '    getattr(os, "nice", int)(0)',
        "platforms -k sender_runs_at",
    ),
    Guard(
        "the sender's limit of a read",
        "sys.stdin.buffer.read(MAX_EVENT + 1)",
        "sys.stdin.buffer.read()",
        "sender -k no_more_than",
    ),
    Guard("the sender's check", 'seal(json.loads(event)["properties"]) != event', "False", "sender -k no_sealed_event"),
    Guard(
        "no redirect is followed, twice over",
        "opener = request.OpenerDirector()",
        "opener = request.build_opener()",
        "faults -k 'test_redirect and 302'",
        ("    http.client.parse_headers = ", "    http.client.nothing = "),
    ),
    Guard(
        "an answer takes no memory",
        "    http.client._MAXLINE = MAX_EVENT",
        "    http.client.nothing = MAX_EVENT",
        "sender -k whatever_the_answer",
    ),
    Guard(
        "loopback takes no proxy, twice over",
        'request.ProxyHandler({"https": proxy} if proxy else {})',
        "request.ProxyHandler(request.getproxies_environment())",
        "system_calls -k only_the_sender",
        ("{ENDPOINT} HTTPS_PROXY", "{ENDPOINT} HTTP_PROXY HTTPS_PROXY"),
    ),
    Guard(
        "certificates are verified",
        "context=ssl.create_default_context()",
        "context=ssl._create_unverified_context()",
        "faults -k 'certificate and untrusted'",
    ),
    Guard(
        "the sender ends at the wall",
        "    sys.exit(send())  # type: ignore[func-returns-value]",
        "    pass",
        "sender -k 'standard_library_alone or byte_for_byte'",
    ),
    # --- Files and terminals ---
    Guard("a read does not wait", ' | getattr(os, "O_NONBLOCK", 0)', "", "consent -k fifo"),
    Guard(
        "a link is not trusted",
        "if stat.S_ISLNK(os.lstat(path).st_mode):",
        "if False:",
        "platforms -k 'no_link or one_flag'",
    ),
    Guard("a file of one's own", "found.st_uid != os.geteuid() or ", "", "consent -k another_user"),
    Guard("a file closed to others", " or found.st_mode & others)", ")", "consent -k everyone_may_write"),
    Guard("not an exposed file", "if exposed or not", "if not", "consent -k everyone_may_write"),
    Guard("a regular file", " or not stat.S_ISREG(found.st_mode):", ":", "consent -k 'fifo or device'"),
    Guard("a read has a limit", "return file.read(limit)", "return file.read()", "consent -k limit_of_a_read"),
    Guard(
        "a new file", "os.O_WRONLY | os.O_CREAT | os.O_EXCL", "os.O_WRONLY | os.O_CREAT", "question -k never_replaces"
    ),
    Guard(
        "no half a file is left",
        "    except BaseException:\n        os.unlink(path)\n        raise\n",
        "    except BaseException:\n        raise\n",
        "command_line -k half_written",
    ),
    Guard(
        "a relative folder is none",
        '(xdg if os.path.isabs(xdg) else "~/.config")',
        '(xdg or "~/.config")',
        "command_line -k relative",
    ),
    Guard(
        "standard input is a terminal",
        "(sys.stdin, sys.stdout, sys.stderr)",
        "(sys.stdout, sys.stderr)",
        "platforms -k each_of_the_three",
    ),
    Guard(
        "standard output is a terminal",
        "(sys.stdin, sys.stdout, sys.stderr)",
        "(sys.stdin, sys.stderr)",
        "platforms -k each_of_the_three",
    ),
    Guard(
        "standard error is a terminal",
        "(sys.stdin, sys.stdout, sys.stderr)",
        "(sys.stdin, sys.stdout)",
        "platforms -k each_of_the_three",
    ),
    Guard("not in the background", " and os.tcgetpgrp(0) == os.getpgrp()", "", "question -k background"),
    Guard("what was typed before", " and not select.select([0], [], [], 0)[0]", "", "platforms -k typed_before"),
    Guard(
        "NUL is no terminal",
        'all("Console" in repr(getattr(file, "raw", file)) for',
        "all(file for",
        "platforms -k nul_is",
    ),
    Guard(
        "a terminal that is none",
        "with suppress(OSError, ValueError, AttributeError):",
        "with suppress(ZeroDivisionError):",
        "platforms -k 'not_there or no_question'",
    ),
    Guard(
        "no terminal, no question",
        "    return False\n\n\n# --- When",
        "    return True\n\n\n# --- When",
        "platforms -k 'not_there or no_question'",
    ),
    # --- When ---
    Guard(
        "DO_NOT_TRACK",
        '("DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY")',
        '("KEDRO_DISABLE_TELEMETRY",)',
        "consent -k row_1",
    ),
    Guard(
        "KEDRO_DISABLE_TELEMETRY",
        '("DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY")',
        '("DO_NOT_TRACK",)',
        "consent -k row_1",
    ),
    Guard("CI", '(2, [*CI_SIGNS, "_KEDRO_COMPLETE"])', '(2, ["_KEDRO_COMPLETE"])', "consent -k row_2"),
    Guard("completion", '(2, [*CI_SIGNS, "_KEDRO_COMPLETE"])', "(2, CI_SIGNS)", "consent -k row_2"),
    Guard(
        "outside of a project",
        "    if project is None:\n        return 3,",
        "    if False:\n        return 3,",
        "consent -k row_3",
    ),
    Guard(
        "a file's word",
        "        if parse_consent(read_own(",
        "        if True or parse_consent(read_own(",
        "consent -k row_5",
    ),
    Guard("a file of others", "4097, stat.S_IWOTH)", "4097, 0)", "consent -k everyone_may_write"),
    Guard("one byte more than is allowed", '".telemetry"), 4097', '".telemetry"), 4096', "consent -k above_the_limit"),
    Guard("a terminal to ask on", "if at_terminal() else (7,", "if True else (7,", "consent -k row_7"),
    Guard(
        "a file that cannot be trusted",
        "    except (OSError, ValueError) as error:\n        return 5,",
        "    except (OSError, ValueError) as error:\n        return ON,",
        "consent -k row_5",
    ),
    Guard("a file's length", "len(data) > 4096 or ", "", "consent -k 'a_no or four_kib'"),
    Guard(
        "a file is UTF-8, and its lines are YAML's",
        ' or not all(line.replace("\\t", " ").isprintable() for line in lines)',
        "",
        "consent -k a_no",
    ),
    Guard(
        "a file's one line",
        "return [line for line in said if line] in (",
        "return [line for line in said if line][:1] in (",
        "consent -k a_no",
    ),
    Guard("default no", '"\\n": False', '"\\n": True', "question -k test_an_answer"),
    Guard("no is no", '"no\\n": False', '"no\\n": True', "question -k test_an_answer"),
    Guard(
        "the question has an end", "sys.stdin], [], [], 60)[0]", "sys.stdin], [], [])[0]", "question -k nobody_answers"
    ),
    Guard("no answer is no", "    if answer is None:\n", "    if False:\n", "question -k 'no_answer or ctrl_d'"),
    Guard("a no just said", "return ON if answer else ASK", "return ON", "question -k test_an_answer"),
    Guard(
        "an answer's file",
        '{str(answer).lower()}\\n", 0o644)',
        '{str(answer).lower()}\\n", 0o666)',
        "question -k test_an_answer",
    ),
    Guard(
        "an answer that cannot be written",
        "    with suppress(OSError):  # if it cannot",
        "    with suppress(ZeroDivisionError):  # if it cannot",
        "question -k cannot_be_written",
    ),
    # --- Who ---
    Guard(
        "a salt closed to others",
        "read_own(salt_path(), 100, 0o077)",
        "read_own(salt_path(), 100, 0)",
        "identity -k others_could_know",
    ),
    Guard(
        "a salt of this month", 'month == time.strftime("%Y-%m", time.gmtime()) and ', "", "identity -k another_month"
    ),
    Guard(
        "a salt's month is UTC's",
        'month == time.strftime("%Y-%m", time.gmtime())',
        'month == time.strftime("%Y-%m")',
        "identity -k utc",
    ),
    Guard(
        "a salt's length",
        "len(salt := bytes.fromhex(digits)) == 32",
        "(salt := bytes.fromhex(digits))",
        "identity -k not_one",
    ),
    Guard(
        "a salt that is none",
        "    with suppress(OSError, ValueError):\n        month, digits",
        "    with suppress(OSError):\n        month, digits",
        "identity -k not_one",
    ),
    Guard("a salt's file", '{salt.hex()}\\n", 0o600)', '{salt.hex()}\\n", 0o644)', "identity -k salts_file"),
    Guard("a salt's folder", "0o700, exist_ok=True", "0o755, exist_ok=True", "identity -k salts_file"),
    Guard(
        "a salt that cannot be stored",
        "    with suppress(OSError):\n        os.makedirs",
        "    with suppress(ZeroDivisionError):\n        os.makedirs",
        "identity -k takes_no_file",
    ),
    Guard("one salt of many", "if read_salt() is None:", "if True:", "identity -k 'at_once or made_once'"),
    Guard("a draft that was left", '        os.unlink(f"{path}.new")\n', "        pass\n", "identity -k left_behind"),
    Guard(
        "a name that is none",
        "with suppress(KeyError, ImportError):",
        "with suppress(ZeroDivisionError):",
        "identity -k without_a_name",
    ),
    # --- The sender's start ---
    Guard("finished senders are reaped", "if sender.poll() is None]", "]", "places -k piles_up"),
    Guard("no warning", "sender._child_created = False", "pass", "hooks -k no_warning"),
    Guard("the sender is isolated", '"-I", "-S", os.path', '"-S", os.path', "system_calls -k only_the_sender"),
    Guard("the sender has no site", '"-I", "-S", os.path', '"-I", os.path', "system_calls -k only_the_sender"),
    Guard("the sender says nothing", "            stdout=subprocess.DEVNULL,\n", "", "system_calls -k holds"),
    Guard("the sender reports nothing", "            stderr=subprocess.DEVNULL,\n", "", "system_calls -k holds"),
    Guard("the sender's folder", "            cwd=os.sep,\n", "", "system_calls -k holds"),
    Guard(
        "the sender's environment",
        " if name in os.environ},",
        " if name in os.environ} | dict(os.environ),",
        "system_calls -k holds",
    ),
    Guard("the sender's session", "            start_new_session=True,\n", "", "system_calls -k holds"),
    Guard(
        "no descriptors are inherited",
        "            start_new_session=True,\n",
        "            start_new_session=True, close_fds=False,\n",
        "system_calls -k holds",
    ),
    Guard("a pipe is closed", "        os.close(read_end)\n", "        pass\n", "places -k piles_up"),
    # --- Hooks ---
    Guard(
        "a command's state is its own",
        "        self.command = None\n        with",
        "        with",
        "hooks -k 'leaves_nothing or follows_one'",
    ),
    Guard(
        "an error is a no",
        "        with suppress(Exception):  # an error is a no\n",
        "        with suppress(ZeroDivisionError):  # an error is a no\n",
        "hooks -k error_before",
    ),
    Guard(
        "Ctrl-C passes before a command",
        "        with suppress(Exception):  # an error is a no\n",
        "        with suppress(BaseException):  # an error is a no\n",
        "hooks -k ctrl_c_before",
    ),
    Guard("asked where no answer is", "if project and row == ASK and", "if project and", "hooks"),
    Guard(
        "asked where events could go", "row == ASK and collector() and", "row == ASK and", "question -k nothing_could"
    ),
    Guard(
        "a preview does not ask",
        "collector() and not os.environ.get(PREVIEW):",
        "collector():",
        "question -k by_variable",
    ),
    Guard("a yes alone is on", "if row == ON or (os.environ.get(PREVIEW) and ", "if (", "hooks -k without_a_yes"),
    Guard(
        "a preview is silent in completion",
        ' and not os.environ.get("_KEDRO_COMPLETE")):',
        "):",
        "hooks -k silent_in_shell",
    ),
    Guard(
        "arguments are copied",
        "tuple(command_args), project_metadata",
        "command_args, project_metadata",
        "hooks -k change_later",
    ),
    Guard(
        "only a run sends before a pipeline",
        'if command and command[0][:1] == ("run",) and Path',
        "if command and Path",
        "hooks -k another_command",
    ),
    Guard(
        "a session of another project",
        ' and Path(run_params["project_path"]) == command[1].project_path:',
        ":",
        "hooks -k another_project",
    ),
    Guard(
        "an error before a run is a no",
        "        with suppress(Exception):  # an error is no run of its own\n            command = self",
        "        with suppress(ZeroDivisionError):\n            command = self",
        "hooks -k like_no_other",
    ),
    Guard("a preview is no yes", "elif row == ON and collector()", "elif collector()", "hooks -k meanwhile"),
    Guard(
        "one event of a command",
        "command, self.command = self.command, None",
        "command = self.command",
        "hooks -k 'before_the_pipeline or one_event'",
    ),
    Guard(
        "an error is no event",
        "        with suppress(Exception):  # an error is no event\n",
        "        with suppress(ZeroDivisionError):  # an error is no event\n",
        "hooks -k error_in",
    ),
    Guard(
        "Ctrl-C passes in an event",
        "        with suppress(Exception):  # an error is no event\n",
        "        with suppress(BaseException):  # an error is no event\n",
        "hooks -k ctrl_c_in",
    ),
    Guard("a fork sends nothing", " and command[4] == os.getpid():", ":", "hooks -k fork"),
    Guard(
        "a preview sends nothing",
        "                if os.environ.get(PREVIEW):\n                    sys.stderr.write",
        "                if False:\n                    sys.stderr.write",
        "hooks -k preview_shows_and",
    ),
    Guard(
        "a preview makes no salt",
        "count(), read_salt() or os.urandom(32))",
        "count(), read_salt() or make_salt())",
        "hooks -k preview",
    ),
    Guard("nowhere to send", "row == ON and collector() and sys", "row == ON and sys", "hooks -k no_collector"),
    Guard("no interpreter", "collector() and sys.executable and", "collector() and", "places -k cannot_be_started"),
    Guard("a frozen application", ' and not hasattr(sys, "frozen"):', ":", "hooks -k frozen"),
    # --- Names, and the command ---
    Guard("names that do not exist", "    raise AttributeError(name)\n", "    return None\n", "names"),
    Guard("only a yes is consent", "[0] == ON\n", "[0] >= ON\n", "names"),
    Guard(
        "only Kedro's projects",
        'if "[tool.kedro]" in (folder / "pyproject.toml").read_text(encoding="utf-8"):',
        'if (folder / "pyproject.toml").exists():',
        "command_line -k names_no_project",
    ),
    Guard(
        "a project file that is no text",
        "        with suppress(OSError, ValueError):\n            if",
        "        with suppress(OSError):\n            if",
        "command_line -k names_no_project",
    ),
    Guard(
        "an answer belongs to a project",
        "        elif (project := find_project()) is None:\n",
        "        elif not (project := find_project() or '.'):\n",
        "command_line -k outside_a_project",
    ),
    Guard(
        "an error of the system is said",
        "    except (OSError, ValueError) as error:\n        parser.error",
        "    except ZeroDivisionError as error:\n        parser.error",
        "command_line -k 'half_written or cannot_be_deleted'",
    ),
    Guard(
        "an error of the output is no yes",
        "    except (OSError, ValueError) as error:\n        parser.error",
        "    except OSError as error:\n        parser.error",
        "command_line -k cannot_be_written",
    ),
]


# Not here, since nothing can show that they are gone: the number of words that are looked at (only time is saved),
# O_NOFOLLOW (a link is refused before, but for a race), the sender's limit (no sealed event is that long), its `url is
# None`, and the hooks' `if command` and `if self.command` (without these an error ends the same attempt).

# Loads what the tests load, once, then runs pytest in a fork for each line of arguments that comes.
SERVER = """
import importlib, json, os, signal, sys
sys.dont_write_bytecode = True
reply = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for name in ("pytest", "hypothesis", "psutil", "pexpect", "yaml", "trustme", "kedro.framework.cli.cli", "kedro.io"):
    importlib.import_module(name)
assert "kedro_telemetry.plugin" not in sys.modules
for line in sys.stdin:
    if not (child := os.fork()):
        with open("output", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        seconds, arguments = json.loads(line)
        signal.alarm(seconds)
        status = sys.modules["pytest"].main(arguments)
        sys.stdout.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=reply, flush=True)
"""


class Copy:
    """The repository's copy, in an environment that finds it before the packages of this one, and a server of tests."""

    options: list[str]  # of pytest, in each run
    seconds = 600  # that a run may take

    def __init__(self, folder: Path) -> None:
        self.options = []
        self.root = folder / "repository"
        shutil.copytree(ROOT, self.root, ignore=shutil.ignore_patterns(".*", "__pycache__", "dist", "build"))
        venv.create(folder / "environment", symlinks=True)
        scripts = folder / "environment" / "bin"
        site = next((folder / "environment" / "lib").glob("python*")) / "site-packages"
        packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (site / "guards.pth").write_text("\n".join([str(self.root), *packages]))
        for name in ("kedro", "kedro-telemetry"):
            text = (Path(sys.prefix) / "bin" / name).read_text()
            (scripts / name).write_text(f"#!{scripts / 'python'}\n{text.partition(NEW_LINE)[2]}")
            (scripts / name).chmod(0o755)
        line = [str(scripts / "python"), "-c", SERVER]
        env = {**os.environ, "KEDRO_LOGGING_CONFIG": str(self.root / "tests" / "logging.yml")}
        self.server = subprocess.Popen(
            line, cwd=self.root, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def write(self, source: str) -> None:
        (self.root / PLUGIN).write_text(source, encoding="utf-8")
        shutil.rmtree(self.root / PLUGIN.parent / "__pycache__", ignore_errors=True)

    def test(self, names: str, chosen: str) -> tuple[int, str]:
        """Pytest's exit status for these files (`masking` for tests/test_masking.py) and this choice; its output."""
        options = [
            "-q",
            "--ff",  # a mutant often dies of the same test as the one before
            "--tb=line",
            "--hypothesis-profile=no-shrinking",
            *(["-k", chosen] if chosen else []),
            *self.options,
        ]
        arguments = [*options, *(f"tests/test_{name}.py" for name in names.split())]
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps([self.seconds, arguments]) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline()), (self.root / "output").read_text(errors="replace")

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(10)


def red_before(guards: list[Guard], copy: Copy) -> list[str]:
    """The chosen tests that fail although nothing is removed: these prove nothing, and are left out."""
    choices: dict[str, set[str]] = {}
    for guard in guards:
        choices.setdefault(guard.files, set()).add(guard.chosen)
    red = []
    for files, chosen in choices.items():
        together = "" if "" in chosen else " or ".join(f"({one})" for one in sorted(chosen))
        status, output = copy.test(files, together)
        found = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
        assert status == 0 or found, output
        red += found
    return red


def wrong_without(guard: Guard, source: str, copy: Copy) -> str:
    """What is wrong where this guard is removed; nothing if a test noticed."""
    for old in filter(None, (guard.old, guard.also[0])):
        if source.count(old) != 1:
            return f"its text {old!r} is {source.count(old)} times in plugin.py, not once: renew it in tests/guards.py"
    changed = source.replace(guard.old, guard.new)
    copy.write(changed.replace(*guard.also) if guard.also[0] else changed)
    status, output = copy.test(guard.files, guard.chosen)
    hangs = status == -signal.SIGALRM  # as a user's command would
    noticed = hangs or (status == 1 and re.search(r"^FAILED ", output, re.MULTILINE))
    return "" if noticed else f"no test of `{guard.tests}` noticed (pytest ended with {status})"


def main(word: str = "") -> int:
    """Remove those guards whose name has this word in it."""
    chosen = [guard for guard in GUARDS if word in guard.name]
    source = (ROOT / PLUGIN).read_text(encoding="utf-8")
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        red = red_before(chosen, copy)
        print("".join(f"red before anything is removed: {test}\n" for test in red), end="", flush=True)
        copy.seconds = 30
        copy.options = ["-x", *(f"--deselect={test}" for test in red)]
        for guard in chosen:
            start = time.monotonic()
            wrong = wrong_without(guard, source, copy)
            survived += bool(wrong)
            took = time.monotonic() - start
            print(f"{'SURVIVED' if wrong else 'noticed '} {took:5.1f} s  {guard.name}  {wrong}".rstrip(), flush=True)
        copy.close()
    print(f"{len(chosen)} guards removed, {len(chosen) - survived} noticed, {survived} survived")
    return int(survived > 0 or bool(red) or not chosen)


if __name__ == "__main__":
    environment.enter("test")
    sys.exit(main(*sys.argv[1:2]))
