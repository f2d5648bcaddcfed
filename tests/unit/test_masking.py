"""Masking: only names of public commands and options are sent of a command line."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import support
from hypothesis import given, settings
from hypothesis import strategies as st

from kedro_telemetry.plugin import (
    COMMANDS,
    FIELDS,
    MASK,
    MAX_WORDS,
    OPTIONS,
    mask_command,
)

# Written down from the releases of each package, not from the plugin.
PUBLIC_COMMANDS = """
    info, docs, new, starter list, run, ipython, package, test, lint, build-docs,
    build-reqs, activate-nbstripout, jupyter notebook, jupyter lab, jupyter setup,
    jupyter convert, catalog list, catalog create, catalog rank, catalog resolve,
    catalog describe-datasets, catalog resolve-patterns, catalog list-patterns,
    pipeline create, pipeline delete, registry list, registry describe, micropkg pull,
    micropkg package, server start, viz, viz run, viz build, viz deploy, docker init,
    docker build, docker run, docker ipython, docker cmd, docker jupyter notebook,
    docker jupyter lab, docker dive, airflow create, mlflow init, mlflow ui,
    mlflow modelify, skills list, skills install, skills update, skills uninstall
"""
PUBLIC_OPTIONS = """
    --alias --all --artifact-path --async --autoreload --await-registration-for
    --base-image --browser --bucket-name --check-only --checkout --ci --ci-config-path
    --code-path --code-paths --conda-env --conf-source --config --copy-mode
    --destination --directory --docker-args --endpoint --env --example
    --extra-pip-requirements --force --from-inputs --from-nodes --fs-args --gid
    --group-by --group-in-memory --help --host --ide --ignore-plugins --image
    --include-hooks --include-previews --infer-input-example --infer-signature
    --input-file --input-name --jinja-file --lite --load-file --load-version
    --load-versions --model-name --name --namespace --namespaces --no-browser --no-ci
    --node --nodes --only-missing-outputs --open --output-file --params
    --pip-requirements --pipeline --pipelines --platform --port --project-path --region
    --registered-model-name --reload --run-id --run-name --runner --runner-params
    --save-file --silent --skip-config --starter --tag --tags --target-dir --telemetry
    --template --to-nodes --to-outputs --tools --uid --verbose --version --with-spark
    --yes -H -V -a -c -d -e -f -g -h -i -j -lv -n -ns -o -p -r -s -t -tc -v -y
"""
NAMES = [" ".join(name.split()) for name in PUBLIC_COMMANDS.split(",")]


def test_the_lists_have_the_public_commands_and_options_and_no_others() -> None:
    groups: dict[str, set[str]] = {}
    for name in NAMES:
        words = ["kedro", *name.split()]
        for position in range(1, len(words)):
            groups.setdefault(" ".join(words[:position]), set()).add(words[position])
    assert {group: set(names.split()) for group, names in COMMANDS.items()} == groups
    assert sorted(OPTIONS) == sorted(PUBLIC_OPTIONS.split())


# Prints the options of each of Kedro's own commands, and the tools that it knows.
WALK = """
import json, click
from pathlib import Path
from kedro.framework.cli import starters
from kedro.framework.cli.cli import KedroCLI

found = {}

def walk(command, path):
    names = getattr(command, "list_commands", lambda context: [])(None)
    if path and not names:
        options = [p for p in command.params if isinstance(p, click.Option)]
        found[" ".join(path)] = [n for o in options for n in o.opts + o.secondary_opts]
    for name in names:
        walk(command.get_command(None, name), [*path, name])

cli = KedroCLI(Path.cwd())
for group in [*cli.global_groups, *cli.project_groups]:
    if type(group).__module__.split(".")[0] in ("click", "kedro"):
        walk(group, [])
tools = getattr(starters, "NUMBER_TO_TOOLS_NAME", {})  # since Kedro 0.19
print(json.dumps([found, list(tools.values())]))
"""


def test_the_lists_have_all_words_of_the_installed_kedro(tmp_path: Path) -> None:
    support.make_bare_project(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WALK],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    commands, tools = json.loads(done.stdout.splitlines()[-1])
    assert {"info", "new", "run", "registry list"} <= set(commands)
    for command, options in commands.items():
        shown = f"kedro {command} {' '.join(options)}"
        assert mask_command([*command.split(), *options]) == shown.strip()
    pattern = support.SCHEMA["properties"]["properties"]["properties"]["tools"]
    assert [tool for tool in tools if tool not in pattern["pattern"]] == []


TRAPS = """
run --pipeline=ds --env=test       | run --pipeline ***** --env *****
run -p ds -p de --pipeline=x       | run -p ***** -p ***** --pipeline *****
run --env=--env                    | run --env *****
run --async=secret                 | run --async *****
run secret --env test              | run ***** --env *****
run --pipeline --env               | run --pipeline --env
info --pipeline x                  | info --pipeline *****
pipeline create run                | pipeline create *****
registry describe list             | registry describe *****
docker cmd run                     | docker cmd *****
run -pds --async                   | run ***** *****
run --pipeline -secret --async     | run --pipeline ***** *****
-v run --params=password:1         | -v ***** *****
--version SECRET --env             | --version ***** *****
mlflow ui -h secret                | mlflow ui -h *****
viz --host x run                   | viz --host ***** *****
catalog --help                     | catalog --help
catalog acme --env x               | catalog ***** ***** *****
acme-bank load --env=x             | ***** ***** *****
mycmd --pw -ps3cret                | ***** ***** *****
-- run                             | ***** *****
run --client acme --env x          | run ***** ***** ***** *****
run --client=acme --async          | run ***** *****
Run                                | *****
run --ENV=x --async                | run ***** *****
run = --async                      | run ***** --async
ipython -- --env x                 | ipython ***** ***** *****
jupyter lab --X.token=x --env      | jupyter lab ***** *****
skills install --ide x y           | skills install --ide ***** *****
"""
HOSTILE: list[tuple[list[str], str]] = [
    ([], "kedro"),
    ([""], "kedro *****"),
    (["run", "", "--async"], "kedro run ***** --async"),
    (["jupyter", "notebook "], "kedro jupyter *****"),
    (["run", "--env --async"], "kedro run *****"),
    (["run\n"], "kedro *****"),
    (["run", "--env\n"], "kedro run *****"),
    (["run", "--env", "line\nline\x1b[31m\x00"], "kedro run --env *****"),
    (["run", "--params=\udcff\udc80"], "kedro run --params *****"),
    (["run", "\u202e--env", "\u200frun"], "kedro run ***** *****"),
    (["r\u0443n"], "kedro *****"),  # a Cyrillic letter
    (["run", "--pipeline\u200e=ds"], "kedro run *****"),
    (["run", "--params=" + "x" * 2**20], "kedro run --params *****"),
]


def test_only_public_names_pass_on_tricky_command_lines() -> None:
    for row in TRAPS.strip().split("\n"):
        line, _, expected = row.partition("|")
        assert mask_command(line.rstrip().split(" ")) == f"kedro{expected}", row
    for args, expected in HOSTILE:
        assert mask_command(args) == expected, args


def test_a_long_command_line_is_cut_before_it_is_looked_at() -> None:
    for word in ("--async", "--env=x", "secret", "--"):
        args = ["run", *[word] * 400_000]
        start = time.process_time()
        shown = mask_command(args)
        assert time.process_time() - start < 0.05, word
        assert len(shown.split(" ")) == MAX_WORDS == 32
        assert "x" not in shown
    longest = ["run", *["--async"] * 30]
    assert mask_command(longest) == " ".join(["kedro", *longest])


WORDS = sorted({*PUBLIC_COMMANDS.replace(",", "").split(), *PUBLIC_OPTIONS.split()})
ANY_TEXT = st.text(st.characters(), max_size=12)  # with surrogates, control characters
ARGUMENT = st.one_of(
    st.sampled_from([*WORDS, "--", MASK, "", " "]),
    st.tuples(st.sampled_from(WORDS), st.sampled_from("=: -"), ANY_TEXT).map("".join),
    ANY_TEXT,
)
COMMAND_LINE = st.tuples(
    st.sampled_from([*NAMES, "", "acme"]), st.lists(ARGUMENT, max_size=40)
).map(lambda parts: [*parts[0].split(), *parts[1]])


@settings(max_examples=support.examples(100), deadline=None)
@given(COMMAND_LINE)
def test_each_word_that_is_sent_is_public(args: list[str]) -> None:
    shown = mask_command(args)
    assert set(shown.split(" ")) <= {"kedro", MASK, *WORDS}
    assert re.fullmatch(FIELDS["command"], shown)  # so that the sender sends it
