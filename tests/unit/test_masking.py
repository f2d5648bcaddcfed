"""Masking: only names of public commands and options are sent of a command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from kedro_telemetry.plugin import COMMANDS, MASK, MAX_WORDS, mask_command

SECRET = "Acme-Bank"
V = " --verbose -v"
VIZ = (
    "--host --port --browser --no-browser --load-file --save-file --pipeline -p --env"
    " -e --autoreload -a --params --ignore-plugins --include-hooks --lite"
)
# Written down from the releases of each package, not from the plugin.
VOCABULARY = {
    "info": "",
    "docs": "",
    "new": "--config -c --starter -s --checkout --directory --name -n --tools -t"
    " --example -e --telemetry -tc" + V,
    "starter list": "",
    "run": "--from-inputs --to-outputs --from-nodes --to-nodes --node --nodes -n"
    " --runner -r --async --runner-params --env -e --tag --tags -t --load-version"
    " --load-versions -lv --pipeline -p --pipelines --namespace --namespaces -ns"
    " --config -c --conf-source --params --only-missing-outputs",
    "ipython": "--env -e" + V,
    "package": "",
    "test": V,
    "lint": "--check-only -c" + V,
    "build-docs": "--open -o",
    "build-reqs": "--input-file --output-file" + V,
    "activate-nbstripout": V,
    "jupyter notebook": "--env -e" + V,
    "jupyter lab": "--env -e" + V,
    "jupyter setup": V,
    "jupyter convert": "--all -a -y --env -e" + V,
    "catalog list": "--env -e --pipeline -p",
    "catalog create": "--env -e --pipeline -p",
    "catalog rank": "--env -e",
    "catalog resolve": "--env -e",
    "catalog describe-datasets": "--env -e --pipeline -p",
    "catalog resolve-patterns": "--env -e --pipeline -p",
    "catalog list-patterns": "--env -e",
    "pipeline create": "--env -e --skip-config --template -t" + V,
    "pipeline delete": "--env -e --yes -y" + V,
    "registry list": "",
    "registry describe": V,
    "micropkg pull": "--alias --all -a --env -e --fs-args --destination -d" + V,
    "micropkg package": "--alias --all -a --env -e --destination -d" + V,
    "server start": "--host -H --port -p --reload --env -e --conf-source",
    "viz": VIZ,
    "viz run": VIZ,
    "viz build": "--include-hooks --include-previews",
    "viz deploy": "--platform --endpoint --bucket-name --region --include-hooks"
    " --include-previews",
    "docker init": "--with-spark",
    "docker build": "--uid --gid --with-spark --base-image --image --docker-args",
    "docker run": "--image --docker-args" + V,
    "docker ipython": "--image --docker-args" + V,
    "docker cmd": "--image --docker-args" + V,
    "docker jupyter notebook": "--image --port --docker-args" + V,
    "docker jupyter lab": "--image --port --docker-args" + V,
    "docker dive": "--ci --no-ci --ci-config-path -c --image --docker-args",
    "airflow create": "--env -e --target-dir -t --pipeline --pipelines -p --jinja-file"
    " -j --params --all --tags --conf-source --group-in-memory --group-by -g",
    "mlflow init": "--force -f --silent -s --env -e",
    "mlflow ui": "--env -e --port -p --host -h --project-path",
    "mlflow modelify": "--pipeline -p --input-name -i --infer-signature"
    " --infer-input-example --copy-mode --registered-model-name"
    " --await-registration-for --pip-requirements --extra-pip-requirements --conda-env"
    " --run-id -r --run-name --artifact-path --code-path --model-name --code-paths",
    "skills list": "",
    "skills install": "--all --ide --force",
    "skills update": "--force",
    "skills uninstall": "--force",
}
OPTIONS = sorted({word for options in VOCABULARY.values() for word in options.split()})

# Prints {command: {option: whether it takes a value}} for Kedro's own commands.
WALK = """
import json
from pathlib import Path
import click
from kedro.framework.cli.cli import KedroCLI

found = {}

def walk(command, path):
    names = getattr(command, "list_commands", lambda context: [])(None)
    if path and not names:
        found[" ".join(path)] = {
            name: not (option.is_flag or option.count)
            for option in command.params if isinstance(option, click.Option)
            for name in [*option.opts, *option.secondary_opts]
        }
    for name in names:
        walk(command.get_command(None, name), [*path, name])

cli = KedroCLI(Path.cwd())
for group in [*cli.global_groups, *cli.project_groups]:
    if type(group).__module__.split(".")[0] in ("click", "kedro"):
        walk(group, [])
print(json.dumps(found))
"""


def mask(line: str) -> str:
    return mask_command(line.split(" "))


# --- The vocabulary ---


def test_the_vocabulary_has_the_public_names_and_no_others() -> None:
    table = {name: set(options.split()) for name, options in VOCABULARY.items()}
    assert table == {
        name: {*with_value.split(), *without_value.split()}
        for name, (with_value, without_value) in COMMANDS.items()
    }


def test_public_commands_and_options_are_sent_without_values() -> None:
    for command, options in VOCABULARY.items():
        assert mask(command) == f"kedro {command}"
        for option in (*options.split(), "--help", "-h"):
            shown = f"kedro {command} {option}"
            assert mask(f"{command} {option}") == shown
            assert mask(f"{command} {option} {SECRET}") == f"{shown} {MASK}"
            if option not in COMMANDS[command][0].split():
                shown = f"kedro {command}"  # a flag with a value is unknown
            assert mask(f"{command} {option}={SECRET}") == f"{shown} {MASK}"


def test_an_option_of_another_command_is_masked() -> None:
    for command, options in VOCABULARY.items():
        own = {*options.split(), "--help", "-h"}
        for option in (*OPTIONS, "--version", "-V"):
            if option not in own and option[:2] not in own:
                masked = f"kedro {command} {MASK} {MASK}"
                assert mask(f"{command} {option} {SECRET}") == masked


def test_the_vocabulary_has_every_command_and_option_of_the_installed_kedro(
    tmp_path: Path,
) -> None:
    """And agrees with Kedro on which options take a value."""
    support.make_bare_project(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WALK],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    tree = json.loads(done.stdout.splitlines()[-1])
    assert {"info", "new", "run", "registry list"} <= set(tree)
    for command, options in tree.items():
        with_value, without_value = COMMANDS[command]
        for option, takes_value in options.items():
            words = with_value if takes_value else f"{without_value} --help -h"
            assert option in words.split(), f"{command} {option}"


# --- Single command lines ---

TRAPS = """
run --pipeline=ds --env=test       | run --pipeline ***** --env *****
run --pipeline ds --env test       | run --pipeline ***** --env *****
pipeline create run                | pipeline create *****
pipeline create list               | pipeline create *****
registry describe registry         | registry describe *****
run --pipeline run                 | run --pipeline *****
run run                            | run *****
ipython jupyter notebook           | ipython ***** *****
run -pds                           | run -p *****
run -p=ds                          | run -p *****
run -pds --async                   | run -p ***** --async
run -p1 secret                     | run -p ***** *****
run --pipeline -secret --async     | run --pipeline ***** --async
run --pipeline --env               | run --pipeline *****
run --pipeline --env test          | run --pipeline ***** *****
run --params --env --env --params  | run --params ***** --env *****
run -p ds -p de --pipeline=x       | run -p ***** -p ***** --pipeline *****
run --params=a=b=c                 | run --params *****
run --env= secret                  | run --env ***** *****
run secret --env test              | run ***** --env *****
new -tcno                          | new -t *****
new -tc no                         | new -tc *****
run -lvds:1 --async                | run ***** *****
run -lv ds:1                       | run -lv *****
run -lv=ds:1                       | run -lv *****
run -nsx                           | run -n *****
run --async --env test             | run --async --env *****
run --async=secret --async         | run ***** *****
registry describe -v secret        | registry describe -v *****
registry describe -vsecret         | registry describe *****
-v run --params=password:1         | ***** ***** *****
--verbose run                      | ***** *****
secret run                         | ***** *****
-- run                             | ***** *****
--version SECRET                   | --version *****
-V run                             | -V *****
-h SECRET                          | -h *****
--help SECRET                      | --help *****
-h --version                       | -h --version
run --version                      | run *****
mlflow ui -h secret                | mlflow ui -h *****
mycmd --pw -ps3cret                | ***** ***** *****
mycmd --help                       | ***** *****
acme-bank load --client=x          | ***** ***** *****
mlflow-acme --client x             | ***** ***** *****
run --client acme --env x          | run ***** ***** ***** *****
run --client=acme --async          | run ***** *****
run --yes                          | run *****
info --pipeline x                  | info ***** *****
catalog acme --env x               | catalog ***** ***** *****
catalog --env x                    | catalog ***** *****
catalog --help                     | catalog --help
docker jupyter acme                | docker jupyter *****
docker jupyter run                 | docker jupyter *****
viz acme --host x                  | viz ***** ***** *****
viz --host x run                   | viz --host ***** *****
skills list                        | skills list
skills install --ide x y           | skills install --ide ***** *****
Run                                | *****
run --ENV=x                        | run *****
run --pipelin ds                   | run ***** *****
run -x                             | run *****
run -                              | run *****
run -=x                            | run *****
run =                              | run *****
run --=x                           | run *****
ipython -- --token x               | ipython ***** ***** *****
ipython -- --env x                 | ipython ***** ***** *****
run --env -- --env                 | run --env ***** --env
jupyter lab --NotebookApp.token=x  | jupyter lab *****
jupyter lab --port=8888            | jupyter lab *****
docker cmd run                     | docker cmd *****
kedro run                          | ***** *****
"""


def test_only_public_names_pass_on_tricky_command_lines() -> None:
    for row in TRAPS.strip().split("\n"):
        line, _, expected = row.partition("|")
        assert mask(line.rstrip()) == f"kedro{expected}"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "kedro"),
        ([""], "kedro *****"),
        (["", "run"], "kedro ***** *****"),
        (["run", ""], "kedro run *****"),
        (["run", "--env", "", "--async"], "kedro run --env ***** --async"),
        (["jupyter notebook"], "kedro *****"),
        (["docker", "jupyter lab"], "kedro docker *****"),
        (["jupyter", "notebook "], "kedro jupyter *****"),
        (["run --env"], "kedro *****"),
        (["run", "--env x"], "kedro run *****"),
        (["run", "--env --async"], "kedro run *****"),
        (["run\n"], "kedro *****"),
        (["run", "--env\n"], "kedro run *****"),
        (["run", "--env", "line\nline\x1b[31m\x00"], "kedro run --env *****"),
        (["\x1b]0;title\x07"], "kedro *****"),
        (["run", "--params=\udcff\udc80"], "kedro run --params *****"),
        (["\udcff"], "kedro *****"),
        (["run", "\u202e--env", "\u200frun"], "kedro run ***** *****"),
        (["r\u0443n"], "kedro *****"),  # a Cyrillic letter
        (["run", "--pipeline\u200e=ds"], "kedro run *****"),
        (["run", "--params=" + "x" * 2**20], "kedro run --params *****"),
        (["x" * 2**20], "kedro *****"),
        (["kedro"], "kedro *****"),
    ],
)
def test_no_part_of_a_hostile_argument_is_sent(args: list[str], expected: str) -> None:
    assert mask_command(args) == expected


@pytest.mark.parametrize("word", ["--async", "--env", SECRET, "--", "", "x=y"])
def test_a_long_command_is_cut_to_its_first_words(word: str) -> None:
    shown = mask_command(["run", *[word] * 10_000]).split(" ")
    assert len(shown) == MAX_WORDS == 32
    assert set(shown) <= {"kedro", "run", word, MASK}


def test_a_command_with_all_its_words_within_the_limit_is_whole() -> None:
    longest = ["run", *["--async"] * 30]
    assert mask_command(longest) == " ".join(["kedro", *longest])


# --- Properties ---

WORDS = sorted({word for command in COMMANDS for word in command.split()} | {*OPTIONS})
ANY_TEXT = st.text(st.characters(), max_size=12)  # with surrogates, control characters
ARGUMENT = st.one_of(
    st.sampled_from([*WORDS, "--help", "-h", "--version", "--", MASK, "", " "]),
    st.tuples(st.sampled_from(WORDS), st.sampled_from("=: -"), ANY_TEXT).map("".join),
    ANY_TEXT,
)
WITH_VALUE = [f"{name} {o}" for name in COMMANDS for o in COMMANDS[name][0].split()]
COMMAND_LINE = st.tuples(
    st.sampled_from([*COMMANDS, "", "acme"]), st.lists(ARGUMENT, max_size=40)
).map(lambda parts: [*parts[0].split(), *parts[1]])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(WITH_VALUE), ANY_TEXT)
def test_a_value_does_not_change_what_is_sent(words: str, value: str) -> None:
    *command, option = words.split()
    for text in (value, "run", "--env", "--", option, ""):
        assert mask_command([*command, option, text]) == f"kedro {words} {MASK}"
        assert mask_command([*command, f"{option}={text}"]) == f"kedro {words} {MASK}"


@settings(max_examples=60, deadline=None)
@given(COMMAND_LINE, st.lists(ARGUMENT, max_size=10))
def test_everything_after_an_unknown_option_is_masked(
    args: list[str], after: list[str]
) -> None:
    # Two, because the first could be the value of an option.
    before = mask_command([*args, "--acme", "--acme"])
    shown = [*before.split(" "), *[MASK] * len(after)]
    assert mask_command([*args, "--acme", "--acme", *after]) == " ".join(
        shown[:MAX_WORDS]
    )
