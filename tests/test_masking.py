"""Masking: no word leaves that is not in the fixed vocabulary."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kedro import __version__ as kedro_version

from kedro_telemetry.plugin import COMMANDS, MASK, MAX_COMMAND, OPTIONS, mask_command

SECRET = "Acme-Bank"
VERBOSE = "--verbose -v"
# Every public command and its options: a row is one or more commands (comma-separated) and the options of each.
# Each of them also takes `--help -h`.
VOCABULARY = {
    "info": "",
    "docs": "",
    "new": "--config -c --starter -s --checkout --directory --name -n --tools -t --example -e --telemetry -tc -v "
    "--verbose",
    "starter, starter list": "",
    "run": (
        "--from-inputs --to-outputs --from-nodes --to-nodes --node --nodes -n --runner -r --async --runner-params "
        "--env -e --tag --tags -t --load-version --load-versions -lv --pipeline -p --pipelines --namespace "
        "--namespaces -ns --config -c --conf-source --params --only-missing-outputs"
    ),
    "ipython": "--env -e " + VERBOSE,
    "package": "",
    "test": VERBOSE,
    "lint": "--check-only -c " + VERBOSE,
    "build-docs": "--open -o",
    "build-reqs": "--input-file --output-file " + VERBOSE,
    "activate-nbstripout": VERBOSE,
    "jupyter, catalog, pipeline, registry, micropkg, server, docker, docker jupyter, airflow, mlflow": "",
    "jupyter notebook, jupyter lab": "--env -e " + VERBOSE,
    "jupyter setup": VERBOSE,
    "jupyter convert": "--all -a -y --env -e " + VERBOSE,
    "catalog list, catalog create": "--env -e --pipeline -p",
    "catalog rank, catalog resolve": "--env -e",
    "catalog describe-datasets, catalog resolve-patterns": "--env -e --pipeline -p",
    "catalog list-patterns": "--env -e",
    "pipeline create": "--env -e --skip-config --template -t " + VERBOSE,
    "pipeline delete": "--env -e --yes -y " + VERBOSE,
    "registry list": "",
    "registry describe": VERBOSE,
    "micropkg pull": "--alias --all -a --env -e --fs-args --destination -d " + VERBOSE,
    "micropkg package": "--alias --all -a --env -e --destination -d " + VERBOSE,
    "server start": "--host -H --port -p --reload --env -e --conf-source",
    "viz, viz run": (
        "--host --port --browser --no-browser --load-file --save-file --pipeline -p --env -e --autoreload -a --params "
        "--ignore-plugins --include-hooks --lite"
    ),
    "viz build": "--include-hooks --include-previews",
    "viz deploy": "--platform --endpoint --bucket-name --region --include-hooks --include-previews",
    "docker init": "--with-spark",
    "docker build": "--uid --gid --with-spark --base-image --image --docker-args",
    "docker run, docker ipython, docker cmd": "--image --docker-args " + VERBOSE,
    "docker jupyter notebook, docker jupyter lab": "--image --port --docker-args " + VERBOSE,
    "docker dive": "--ci --no-ci --ci-config-path -c --image --docker-args",
    "airflow create": (
        "--env -e --target-dir -t --pipeline --pipelines -p --jinja-file -j --params --all --tags --conf-source "
        "--group-in-memory --group-by -g"
    ),
    "mlflow init": "--force -f --silent -s --env -e",
    "mlflow ui": "--env -e --port -p --host -h --project-path",
    "mlflow modelify": (
        "--pipeline -p --input-name -i --infer-signature --infer-input-example --copy-mode --registered-model-name "
        "--await-registration-for --pip-requirements --extra-pip-requirements --conda-env --run-id -r --run-name "
        "--artifact-path --code-path --model-name --code-paths"
    ),
}
ROWS = [
    (command, option)
    for commands, options in VOCABULARY.items()
    for command in commands.split(", ")
    for option in ("", "--help", "-h", *options.split())
]
# One word, two meanings: a flag of Kedro's own command that takes a value elsewhere is read as taking one.
# That masks a word too much, and can show none too much.
ALSO_FLAGS = {"-c": "lint --check-only", "-h": "--help; mlflow ui --host"}

# Prints {command: [[option, whether it takes a value], ...]} of the Kedro project in the current folder.
WALK = """
import json, sys
from pathlib import Path
import click
from kedro.framework.cli.cli import KedroCLI

found = {}

def walk(command, path):
    found[" ".join(path)] = [
        [name, not (option.is_flag or option.count)]
        for option in command.params if isinstance(option, click.Option)
        for name in [*option.opts, *option.secondary_opts]
    ]
    for name in getattr(command, "list_commands", lambda context: [])(context := click.Context(command)):
        walk(command.get_command(context, name), [*path, name])

cli = KedroCLI(Path.cwd())
for group in [*cli.global_groups, *cli.project_groups]:
    if type(group).__module__.split(".")[0] in ("click", "kedro"):
        walk(group, [])
        found.setdefault("options of the root", []).extend(found.pop("", []))
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, bool]]]:
    """The command tree of the Kedro that is installed: each command's options, and whether they take a value."""
    project = tmp_path_factory.mktemp("tree")
    (project / "pyproject.toml").write_text(
        f'[tool.kedro]\npackage_name = "bare"\nproject_name = "bare"\nkedro_init_version = "{kedro_version}"\n'
    )
    package = project / "src" / "bare"
    package.mkdir(parents=True)
    for module in ("__init__.py", "settings.py", "pipeline_registry.py"):
        (package / module).touch()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WALK], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[tuple[str, bool]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def masked(line: str) -> str:
    return mask_command(line.split(" "))


# --- The vocabulary ---
@pytest.mark.parametrize(("command", "option"), ROWS)
def test_every_public_command_and_option_passes(command: str, option: str) -> None:
    words = [*command.split(), *option.split()]
    assert mask_command(words) == " ".join(["kedro", *words])
    assert mask_command([*words, SECRET]) == " ".join(["kedro", *words, MASK])


@pytest.mark.parametrize("option", sorted({option for _, option in ROWS if option}))
def test_a_glued_value_is_cut_off_every_option(option: str) -> None:
    assert mask_command(["run", f"{option}={SECRET}"]) == f"kedro run {option} {MASK}"


def test_the_root_takes_version() -> None:
    assert mask_command(["--version"]) == "kedro --version"
    assert mask_command(["-V"]) == "kedro -V"


def test_the_vocabulary_holds_the_public_words_and_no_other() -> None:
    assert set(COMMANDS) == {command for command, _ in ROWS}
    assert {option.rstrip("=") for option in OPTIONS} == {option for _, option in ROWS if option} | {"--version", "-V"}


def test_each_word_is_listed_once() -> None:
    """An option listed as a flag and as taking a value would be read as either."""
    names = [option.rstrip("=") for option in OPTIONS]
    assert sorted(set(names)) == sorted(names)
    assert sorted(set(COMMANDS)) == sorted(COMMANDS)


def test_the_installed_kedro_has_no_word_that_the_vocabulary_lacks(tree: dict[str, list[tuple[str, bool]]]) -> None:
    assert {"info", "new", "run", "registry list"} <= set(tree), "the walk missed Kedro's own commands"
    own = {command for command in tree if command != "options of the root"}
    assert own - set(COMMANDS) == set(), "commands of Kedro's own that the vocabulary lacks"
    names = {option.rstrip("=") for option in OPTIONS}
    lacking = {(command, name) for command, options in tree.items() for name, _ in options if name not in names}
    assert lacking == set(), "options of Kedro's own that the vocabulary lacks"


def test_options_of_kedro_take_a_value_where_the_vocabulary_says_so(tree: dict[str, list[tuple[str, bool]]]) -> None:
    """A value read as a word could be shown; a word read as a value is only masked, but says less than promised."""
    wrong = {
        (command, name, "takes a value" if takes_value else "is a flag")
        for command, options in tree.items()
        for name, takes_value in options
        if takes_value != (f"{name}=" in OPTIONS) and not (name in ALSO_FLAGS and not takes_value)
    }
    assert wrong == set()


# --- Traps seen in the field ---
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run --pipeline=ds --env=test", "kedro run --pipeline ***** --env *****"),
        ("run --pipeline ds --env test", "kedro run --pipeline ***** --env *****"),
        # A pipeline that is named like a command is a value.
        ("pipeline create run", "kedro pipeline create *****"),
        ("pipeline create list", "kedro pipeline create *****"),
        ("registry describe list", "kedro registry describe *****"),
        ("registry describe registry", "kedro registry describe *****"),
        ("run --pipeline run", "kedro run --pipeline *****"),
        ("run run", "kedro run *****"),
        ("ipython jupyter notebook", "kedro ipython ***** *****"),
        # A value that is glued, that begins with a dash, that is an option's name; an option given twice.
        ("run -pds", "kedro run -p *****"),
        ("run -p=ds", "kedro run -p *****"),
        ("run -p1 secret", "kedro run -p ***** *****"),
        ("run --pipeline -secret", "kedro run --pipeline *****"),
        ("run --pipeline --env", "kedro run --pipeline *****"),
        ("run --pipeline --env test", "kedro run --pipeline ***** *****"),
        ("run --params --env --env --params", "kedro run --params ***** --env *****"),
        ("run -p ds -p de --pipeline=x", "kedro run -p ***** -p ***** --pipeline *****"),
        ("run --params=a=b=c", "kedro run --params *****"),
        ("run --env= secret", "kedro run --env *****"),
        ("new -tcno", "kedro new -t *****"),
        ("new -tc no", "kedro new -tc *****"),
        ("run -lvds:1", "kedro run *****"),
        ("run -lv ds:1", "kedro run -lv *****"),
        ("run -nsx", "kedro run -n *****"),
        # A flag takes none: what follows is no value, and is masked all the same unless it is an option.
        ("run --async --env test", "kedro run --async --env *****"),
        ("run --async=secret", "kedro run --async *****"),
        ("registry describe -v secret", "kedro registry describe -v *****"),
        ("registry describe -vsecret", "kedro registry describe -v *****"),
        # Options before the command: it is no command there.
        ("-v run --params=password:1", "kedro -v ***** --params *****"),
        ("-v run secret", "kedro -v ***** *****"),
        ("--verbose run", "kedro --verbose *****"),
        ("secret run", "kedro ***** *****"),
        # The root's own options.
        ("--version SECRET", "kedro --version *****"),
        ("-V SECRET", "kedro -V *****"),
        ("-h SECRET", "kedro -h *****"),
        ("--help SECRET", "kedro --help *****"),
        # What nobody knows: commands, sub-commands and options of the project's own, words that only look like ours.
        ("acme-bank", "kedro *****"),
        ("acme-bank load --acme-user=x", "kedro ***** ***** *****"),
        ("run --acme-user x", "kedro run ***** *****"),
        ("run --acme-user=x", "kedro run *****"),
        ("catalog acme", "kedro catalog *****"),
        ("Run", "kedro *****"),
        ("run --ENV=x", "kedro run *****"),
        ("run --pipelin ds", "kedro run ***** *****"),
        ("run --pipeline\u200e=ds", "kedro run *****"),
        ("run -x", "kedro run *****"),
        ("run -", "kedro run *****"),
        ("run -=x", "kedro run *****"),
        ("run =", "kedro run *****"),
        ("run --=x", "kedro run *****"),
        # Behind `--`, and what is passed through.
        ("ipython -- --token x", "kedro ipython ***** ***** *****"),
        ("ipython -- --env x", "kedro ipython ***** ***** *****"),
        ("-- run", "kedro ***** *****"),
        ("run --env -- --env", "kedro run --env ***** *****"),
        ("jupyter lab --NotebookApp.token=x", "kedro jupyter lab *****"),
        ("jupyter lab --port=8888", "kedro jupyter lab --port *****"),
        ("docker cmd run", "kedro docker cmd *****"),
        ("jupyter notebook lab", "kedro jupyter notebook *****"),
    ],
)
def test_traps(line: str, expected: str) -> None:
    assert masked(line) == expected


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "kedro"),
        ([""], "kedro *****"),
        (["", "run"], "kedro ***** *****"),
        (["run", ""], "kedro run *****"),
        (["run", "--env", "", "--async"], "kedro run --env ***** --async"),
        (["jupyter notebook"], "kedro *****"),
        (["jupyter", "notebook "], "kedro jupyter *****"),
        (["run --env"], "kedro *****"),
        (["run", "--env x"], "kedro run *****"),
        (["run\n"], "kedro *****"),
        (["run", "--env\n"], "kedro run *****"),
        (["run", "--env\n=x"], "kedro run *****"),
        (["run", "--env", "line\nline\x1b[31m\x00\x07"], "kedro run --env *****"),
        (["\x1b]0;title\x07"], "kedro *****"),
        (["run", "--params=\udcff\udc80"], "kedro run --params *****"),
        (["\udcff"], "kedro *****"),
        (["run", "\u202e--env", "\u200frun"], "kedro run ***** *****"),
        (["r\u0443n"], "kedro *****"),  # a Cyrillic letter
        (["run", "--params=" + "x" * 2**20], "kedro run --params *****"),
        (["x" * 2**20], "kedro *****"),
        (["run", *["--env", "x"] * 2], "kedro run --env ***** --env *****"),
    ],
)
def test_hostile_arguments(args: list[str], expected: str) -> None:
    assert mask_command(args) == expected


def test_a_tuple_is_as_good_as_a_list() -> None:
    assert mask_command(("pipeline", "create", "x")) == "kedro pipeline create *****"


@pytest.mark.parametrize("word", ["-v", "-p", "--env", "--extra-pip-requirements", SECRET, "--", "x=y", ""])
def test_ten_thousand_arguments_are_cut_at_a_whole_word(word: str) -> None:
    command = mask_command(["run", *[word] * 10_000])
    words = command.split(" ")
    assert MAX_COMMAND - 30 < len(command) <= MAX_COMMAND
    assert set(words) <= {"kedro", "run", word, MASK}


@pytest.mark.parametrize(("first", "length"), [("run", 420), ("docker", 420), ("info", 421), ("starter", 421)])
def test_the_longest_command(first: str, length: int) -> None:
    """A command of MAX_COMMAND characters is whole; with one more, its last word is gone."""
    flags = next(number for number in range(3) if not (length - len(f"kedro {first}") - 3 * number) % 6)
    words = ["kedro", first, *["-v"] * flags, *[MASK] * ((length - len(f"kedro {first}")) // 6)]
    whole = " ".join(words)
    assert len(whole) == length
    assert mask_command(words[1:]) == (whole if length <= MAX_COMMAND else whole.rpartition(" ")[0])


@pytest.mark.parametrize("length", range(MAX_COMMAND // 6 - 5, MAX_COMMAND // 6 + 5))
def test_a_command_that_just_fits_is_not_cut(length: int) -> None:
    """Either all of the words are there, or as many as fit: the next one would not have."""
    words = ["kedro", "run", *["-v", "secret"][: length % 2], *[MASK] * length]
    command = mask_command(words[1:])
    whole = " ".join(["kedro", "run", *["-v"][: length % 2], *[MASK] * length])
    assert whole.startswith(command)
    assert len(command) == len(whole) or len(command) + 1 + len(MASK) > MAX_COMMAND


def test_exactly_as_long_as_allowed() -> None:
    masks, left = divmod(MAX_COMMAND - len("kedro run"), len(MASK) + 1)
    assert left == len(" -v"), "the limit has changed: choose another word"
    full = ["run", "-v", *["x"] * masks]
    assert len(mask_command(full)) == MAX_COMMAND
    assert mask_command([*full, "x"]) == mask_command(full)
    assert mask_command(["run", "--all", *["x"] * masks]) == " ".join(["kedro run --all", *[MASK] * (masks - 1)])


# --- Properties ---
WORDS = sorted({word for command in COMMANDS for word in command.split()} | {o.rstrip("=") for o in OPTIONS})
ANY_TEXT = st.text(st.characters(), max_size=12)  # surrogates and control characters included
ARGUMENT = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(["--", MASK, "", " ", "kedro"]),
    st.tuples(st.sampled_from(WORDS), st.sampled_from(["=", ":", " ", ""]), ANY_TEXT).map("".join),
    ANY_TEXT,
)
ALLOWED = {"kedro", MASK, *WORDS}


def test_no_command_has_more_than_three_words() -> None:
    """The file looks for no more."""
    assert max(len(command.split(" ")) for command in COMMANDS) == 3


@settings(max_examples=500, deadline=None)
@given(st.lists(ARGUMENT, max_size=60))
@example(["--", *WORDS])
@example(WORDS)
def test_every_word_is_of_the_vocabulary_or_the_mask(args: list[str]) -> None:
    command = mask_command(args)
    words = command.split(" ")
    assert words[0] == "kedro"
    assert set(words) <= ALLOWED
    assert len(command) <= MAX_COMMAND
    assert mask_command(words[1:]) == command, "masking again changes nothing"


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(COMMANDS), st.lists(st.one_of(st.sampled_from(OPTIONS), ANY_TEXT), max_size=30))
def test_a_value_never_depends_on_what_it_is(command: str, rest: list[str]) -> None:
    """Where an option takes a value, any two values lead to the same masked command."""
    args = [*command.split(), *(word.rstrip("=") for word in rest), "--async", "--async", "--env"]
    assert mask_command([*args, SECRET]) == mask_command([*args, "run"]) == mask_command([*args, "--params"])


@settings(max_examples=500, deadline=None)
@given(st.lists(ARGUMENT, max_size=10), st.lists(ARGUMENT, max_size=10))
def test_behind_two_dashes_all_is_masked(before: list[str], behind: list[str]) -> None:
    shown = mask_command([*before, "--"])
    assert mask_command([*before, "--", *behind]) == " ".join([shown, *[MASK] * len(behind)])[:MAX_COMMAND]


def test_no_vocabulary_is_built_at_run_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose command line interface, imported, has a command of its own: it is masked all the same."""
    (tmp_path / "acme_cli.py").write_text(
        "import click\n@click.group()\ndef cli(): ...\n@cli.command()\n@click.option('--acme-user')\ndef acme(): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("acme_cli")
    assert mask_command(["acme", "--acme-user", "x"]) == "kedro ***** ***** *****"
