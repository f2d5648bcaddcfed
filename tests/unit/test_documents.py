"""README.md, SECURITY.md and CONTRIBUTING.md say what the code does."""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import support

from kedro_telemetry import plugin

README = support.ROOT / "README.md"
SECURITY = support.ROOT / "SECURITY.md"
CONTRIBUTING = support.ROOT / ".github" / "CONTRIBUTING.md"
MASKING = "unit/test_masking.py"  # has the vocabulary once more
DOCUMENTS = [README, SECURITY, CONTRIBUTING]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def section(path: Path, title: str) -> str:
    """Return the text below this heading, up to the next one."""
    _, _, rest = read(path).partition(f"# {title}\n")
    assert rest, f"{path.name} has no section {title}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.M)[0]


def block(text: str, language: str) -> str:
    """Return the only code block of this language."""
    (found,) = re.findall(rf"```{language}\n(.*?)\n```", text, re.S)
    return str(found)


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.*)$", read(path), re.M)
    return {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


def test_the_readme_lists_the_fields_that_are_sent() -> None:
    table = section(README, "What is sent")
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(plugin.FIELDS)


def test_the_readme_shows_a_real_request() -> None:
    text = section(README, "What is sent")
    event = json.loads(block(text, "json"))
    support.check_event(event)
    assert set(event["properties"]) == set(plugin.FIELDS)
    body = plugin.build_event(json.dumps(event["properties"]).encode())
    assert json.loads(body) == event
    headers = plugin.request_headers(plugin.DEFAULT_ENDPOINT, body)
    lines = [f"\n{name}: {value}" for name, value in headers.items()]
    assert block(text, "http") == f"POST {plugin.DEFAULT_ENDPOINT}{''.join(lines)}"


def test_the_picture_shows_the_question() -> None:
    picture = ElementTree.parse(support.ROOT / ".github" / "question.svg")
    lines = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    question = plugin.QUESTION.format(url=plugin.DEFAULT_ENDPOINT) + plugin.PROMPT
    assert lines[1:] == question.split("\n")


def test_the_readme_shows_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        plugin.main(["--help"])
    shown = f"$ kedro-telemetry --help\n{capsys.readouterr().out}```"
    assert shown in read(README)


def test_the_readme_has_the_figures_of_the_benchmark() -> None:
    measured = read(support.ROOT / "tests" / "tools" / "benchmark.md").splitlines()
    rows = re.findall(r"^\|.*\|$", section(README, "Performance"), re.M)
    assert len(rows) > 5
    assert [row for row in rows if row not in measured] == []


def test_the_readme_has_the_test_command_of_ci() -> None:
    (command,) = re.findall(r"^\$ (.*/pytest)$", section(README, "Contributing"), re.M)
    assert command in read(support.ROOT / ".ci" / "run")


def test_security_has_the_digest_of_the_file() -> None:
    """CONTRIBUTING.md has the command that updates it."""
    digest = hashlib.sha256(support.PLUGIN.read_bytes()).hexdigest()
    assert re.findall(r"^    ([0-9a-f]{64})$", read(SECURITY), re.M) == [digest]
    # Also in a checkout where git is set to change line ends, as often on Windows.
    assert "* text=auto eol=lf\n" in read(support.ROOT / ".gitattributes")


def test_each_guarantee_names_a_test() -> None:
    guarantees = re.split(r"^\d+\. ", section(SECURITY, "Guarantees"), flags=re.M)[1:]
    assert len(guarantees) >= 20
    assert [text for text in guarantees if "::test_" not in text] == []


def test_security_lists_the_ci_variables() -> None:
    _, _, rest = read(SECURITY).partition("<summary>The CI variables</summary>")
    names = re.findall(r"`(\w+)`", rest.partition("</details>")[0])
    assert names == plugin.CI_VARIABLES


def test_security_lists_the_versions_that_tox_runs() -> None:
    row = r"^\| (\d+\.\d+|newest)\b.* \| 3.(\d+) to 3.(\d+) \|$"
    shown = {
        (f"py3{minor}", kedro)
        for kedro, first, last in re.findall(row, read(SECURITY), re.M)
        for minor in range(int(first), int(last) + 1)
    }
    tox = read(support.ROOT / "pyproject.toml")
    run = {
        (python, kedro)
        for pythons, kedros in re.findall(r"product = \[\[(.*?)\], \[(.*?)\]\]", tox)
        for python in re.findall(r"py3\d+", pythons)
        for kedro in re.findall(r"\d+\.\d+|newest", kedros)
    }
    assert shown == run


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        links = re.findall(r"\]\((?!https://)([^)#]*)#?([^)]*)\)", read(path))
        assert links
        for file, anchor in links:
            target = path.parent / file if file else path
            assert target.exists(), file
            assert not anchor or anchor in anchors(target), anchor


def test_names_of_files_tests_and_code_exist() -> None:
    folders = r"tests|\.ci|\.github|kedro_telemetry"
    for path in DOCUMENTS:
        for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", read(path)):
            assert (support.ROOT / name).exists(), name
        for file, name in re.findall(r"(\w+/\w+\.py)::(test_\w+)", read(path)):
            assert f"def {name}(" in read(support.ROOT / "tests" / file)
    tour = section(SECURITY, "Tour of plugin.py")
    changes = section(CONTRIBUTING, "If you change something")
    helpers = [support.ROOT / "tests" / name for name in ("support.py", MASKING)]
    code = "".join(read(path) for path in (support.PLUGIN, *helpers))
    for name in re.findall(r"`([a-z]+_[a-z_]+|[A-Z_]+)`", tour + changes):
        assert name in code, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_row_of_a_table_has_as_many_cells_as_its_first(path: Path) -> None:
    """GitHub shows other tables as plain text."""
    tables = re.findall(r"(?:^\|.*\n)+", read(path), re.M)
    assert tables
    for table in tables:
        rows = re.sub(r"`[^`]*`", "", table).splitlines()
        assert len({row.count("|") for row in rows}) == 1, table
