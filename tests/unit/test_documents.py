"""README.md, SECURITY.md and CONTRIBUTING.md say what the code does."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import support

from kedro_telemetry import plugin

README = support.ROOT / "README.md"
SECURITY = support.ROOT / "SECURITY.md"
DOCUMENTS = [README, SECURITY, support.ROOT / ".github" / "CONTRIBUTING.md"]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def section(path: Path, title: str) -> str:
    """Return the text below this heading, up to the next one."""
    _, _, rest = read(path).partition(f"# {title}\n")
    assert rest, f"{path.name} has no section {title}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.M)[0]


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.*)$", read(path), re.M)
    return {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


def test_the_readme_lists_the_fields_and_shows_a_real_event() -> None:
    text = section(README, "What is sent")
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == list(plugin.FIELDS)
    (example,) = re.findall(r"```json\n(.*?)\n```", text, re.S)
    event = json.loads(example)
    support.check_event(event)
    assert set(event["properties"]) == set(plugin.FIELDS)


def test_the_picture_shows_the_question() -> None:
    picture = ElementTree.parse(support.ROOT / ".github" / "question.svg")
    lines = [
        text.text or "" for text in picture.iter("{http://www.w3.org/2000/svg}text")
    ]
    # The folder in the picture is somebody's.
    found = re.search(r"'(/[^']*kedro-telemetry)'", " ".join(lines))
    assert found
    url, folder = plugin.DEFAULT_ENDPOINT, found[1]
    assert "\n".join(lines[1:]) == plugin.QUESTION.format(url=url, folder=folder)


def test_each_guarantee_names_a_test() -> None:
    guarantees = re.split(r"^\d+\. ", section(SECURITY, "Guarantees"), flags=re.M)[1:]
    assert guarantees
    assert [text for text in guarantees if "::test_" not in text] == []


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        links = re.findall(r"\]\((?!https://)([^)#]*)#?([^)]*)\)", read(path))
        assert links
        for file, anchor in links:
            target = path.parent / file if file else path
            assert target.exists(), file
            assert not anchor or anchor in anchors(target), anchor


def test_names_of_files_and_tests_exist() -> None:
    for path in DOCUMENTS:
        for name in re.findall(
            r"`((?:tests|\.ci|\.github|kedro_telemetry)/[\w./-]+)`", read(path)
        ):
            assert (support.ROOT / name).exists(), name
        for file, name in re.findall(r"(\w+/\w+\.py)::(test_\w+)", read(path)):
            assert f"def {name}(" in read(support.ROOT / "tests" / file)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_row_of_a_table_has_as_many_cells_as_its_first(path: Path) -> None:
    """GitHub shows other tables as plain text."""
    tables = re.findall(r"(?:^\|.*\n)+", read(path), re.M)
    assert tables
    for table in tables:
        rows = re.sub(r"`[^`]*`", "", table).splitlines()
        assert len({row.count("|") for row in rows}) == 1, table
