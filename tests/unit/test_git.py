"""Git: a `.telemetry` that git tracks may be somebody else's answer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import support
from support import git

from kedro_telemetry import plugin
from kedro_telemetry.plugin import (
    OFF,
    ON,
    decide,
    find_git_folder,
    is_tracked_by_git,
    read_git_index,
)

LONG_ENTRY = f"100644 {'1' * 40} 0\t{'c/' * 2048}c\n"
ERRORS = (OSError, ValueError, LookupError)  # `decide` takes them for a no


def add_answer(project: Path) -> None:
    project.mkdir(parents=True, exist_ok=True)
    (project / ".telemetry").write_text("consent: true\n")


@pytest.fixture(scope="module")
def _git() -> None:
    if not shutil.which("git"):
        support.missing("git")


@pytest.fixture
def repo(tmp_path: Path, _git: None) -> Path:
    """A project in a repository of its own, with some files; nothing is tracked yet."""
    git("init", "-q", "repo", cwd=tmp_path)
    folder = tmp_path / "repo"
    add_answer(folder)
    for number in range(12):
        path = folder / "src" / f"{'long' * (number % 9)}{number}" / "file.py"
        path.parent.mkdir(parents=True)
        path.touch()
    return folder


def paths(repo: Path) -> list[bytes]:
    return list(read_git_index((repo / ".git" / "index").read_bytes()))


# --- What is tracked ---


@pytest.mark.parametrize("version", [2, 3, 4])
def test_each_version_of_the_index_is_read(version: int, repo: Path) -> None:
    git("add", "src", cwd=repo)
    if version == 3:  # git writes it if it has a use for it
        (repo / "later").touch()
        git("add", "--intent-to-add", "later", cwd=repo)
    else:
        git("update-index", "--index-version", str(version), cwd=repo)
    index = (repo / ".git" / "index").read_bytes()
    assert int.from_bytes(index[4:8], "big") == version
    listed = git("ls-files", "-z", cwd=repo).encode().split(b"\0")[:-1]
    assert paths(repo) == listed
    assert not is_tracked_by_git(str(repo))
    git("add", ".telemetry", cwd=repo)
    assert is_tracked_by_git(str(repo))
    assert decide(str(repo)).state == OFF
    assert "git tracks .telemetry" in decide(str(repo)).reason


@pytest.mark.parametrize("version", [2, 4])
def test_paths_of_every_length_are_read(version: int, repo: Path) -> None:
    """Version 4 cuts a number of bytes off the path before, up to 127 or more."""
    names = ["a" * length for length in range(1, 200)]
    names += [f"{'b/' * length}c" for length in (62, 63, 64, 65, 200)]
    names += [f"{'b/' * 2047}cc"]  # 4096 bytes
    entries = "".join(f"100644 {'1' * 40} 0\t{name}\n" for name in names)
    git("update-index", "--index-version", str(version), cwd=repo)
    git("update-index", "--index-info", cwd=repo, text_input=entries)
    assert [os.fsdecode(path) for path in paths(repo)] == sorted(names)
    git("update-index", "--index-info", cwd=repo, text_input=entries + LONG_ENTRY)
    with pytest.raises(ValueError, match="damaged path"):
        paths(repo)


def test_an_untracked_or_ignored_answer_counts(repo: Path) -> None:
    git("add", "src", cwd=repo)
    git("commit", "-qm", "first", cwd=repo)
    assert decide(str(repo)).state == ON
    (repo / ".gitignore").write_text(".telemetry\n")
    git("add", ".gitignore", cwd=repo)
    assert decide(str(repo)).state == ON


def test_git_add_is_enough_and_git_rm_undoes_it(repo: Path) -> None:
    git("add", "--force", ".telemetry", cwd=repo)
    assert decide(str(repo)).state == OFF
    git("commit", "-qm", "first", cwd=repo)
    assert decide(str(repo)).state == OFF
    git("rm", "-q", "--cached", ".telemetry", cwd=repo)
    assert decide(str(repo)).state == ON


def test_the_clone_of_a_tracked_answer_is_off(repo: Path, tmp_path: Path) -> None:
    git("add", "--force", ".telemetry", cwd=repo)
    git("commit", "-qm", "first", cwd=repo)
    git("clone", "-q", str(repo), "clone", cwd=tmp_path)
    assert (tmp_path / "clone" / ".telemetry").read_text() == "consent: true\n"
    assert decide(str(tmp_path / "clone")).state == OFF


def test_a_repository_without_commits_or_files_tracks_nothing(repo: Path) -> None:
    assert not (repo / ".git" / "index").exists()
    assert decide(str(repo)).state == ON
    assert not is_tracked_by_git(str(repo / "src"))


def test_a_folder_outside_of_git_tracks_nothing(tmp_path: Path) -> None:
    add_answer(tmp_path)
    assert decide(str(tmp_path)).state == ON


# --- Where the project is ---


def test_a_project_can_be_a_subfolder_of_a_repository(repo: Path) -> None:
    project, other = repo / "teams" / "a project \u00e9", repo / "teams" / "other"
    add_answer(project)
    add_answer(other)
    git("add", "--all", "teams/other", ".telemetry", cwd=repo)
    assert not is_tracked_by_git(str(project)), "other projects do not matter"
    git("add", "--all", cwd=repo)
    assert is_tracked_by_git(str(project))


def test_a_file_whose_name_only_ends_like_the_answer_is_another(repo: Path) -> None:
    for name in ("x.telemetry", ".telemetry.md", "src/.telemetry"):
        (repo / name).touch()
    git("add", "x.telemetry", ".telemetry.md", "src/.telemetry", cwd=repo)
    assert not is_tracked_by_git(str(repo))


def test_a_tracked_answer_in_other_letter_case_counts(repo: Path) -> None:
    """As on macOS and Windows."""
    (repo / ".Telemetry").touch()
    git("add", ".Telemetry", cwd=repo)
    assert is_tracked_by_git(str(repo))


def test_a_worktree_has_an_index_of_its_own(repo: Path, tmp_path: Path) -> None:
    git("add", "src", cwd=repo)
    git("commit", "-qm", "first", cwd=repo)
    git("worktree", "add", "-q", str(tmp_path / "tree"), cwd=repo)
    add_answer(tmp_path / "tree")
    assert (tmp_path / "tree" / ".git").is_file()
    assert not is_tracked_by_git(str(tmp_path / "tree"))
    git("add", ".telemetry", cwd=tmp_path / "tree")
    assert is_tracked_by_git(str(tmp_path / "tree"))
    assert not is_tracked_by_git(str(repo))


def test_a_submodule_has_an_index_of_its_own(repo: Path, tmp_path: Path) -> None:
    git("add", "src", cwd=repo)
    git("commit", "-qm", "first", cwd=repo)
    git("init", "-q", "outer", cwd=tmp_path)
    git("submodule", "--quiet", "add", str(repo), "sub", cwd=tmp_path / "outer")
    project = tmp_path / "outer" / "sub"
    add_answer(project)
    assert (project / ".git").is_file()
    assert not is_tracked_by_git(str(project))
    git("add", ".telemetry", cwd=project)
    assert is_tracked_by_git(str(project))


def test_outer_repositories_are_checked_too(repo: Path) -> None:
    project = repo / "project"
    add_answer(project)
    git("add", "project/.telemetry", cwd=repo)
    git("init", "-q", cwd=project)
    assert is_tracked_by_git(str(project))


def test_links_and_relative_paths_to_a_project_are_followed(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, link = repo / "project", tmp_path / "link"
    add_answer(project)
    link.symlink_to(project)
    git("add", "src", cwd=repo)
    monkeypatch.chdir(project)
    assert not is_tracked_by_git(str(link))
    assert not is_tracked_by_git(".")
    git("add", "project", cwd=repo)
    assert is_tracked_by_git(str(link))
    assert is_tracked_by_git(".")


# --- What cannot be told is a no ---


def cannot_tell(project: Path) -> bool:
    """Return whether this project is off for this reason."""
    decision = decide(str(project))
    return decision.state == OFF and "index cannot be read" in decision.reason


def test_a_split_or_sparse_index_is_a_no(repo: Path) -> None:
    (repo / "file").touch()
    git("add", "src", "file", cwd=repo)
    git("commit", "-qm", "first", cwd=repo)
    assert not cannot_tell(repo)
    git("update-index", "--split-index", cwd=repo)
    assert cannot_tell(repo)
    git("update-index", "--no-split-index", cwd=repo)
    assert not cannot_tell(repo)
    git("sparse-checkout", "set", "--cone", "--sparse-index", "other", cwd=repo)
    assert cannot_tell(repo)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
@pytest.mark.usefixtures("_git")
def test_sha256_object_names_are_a_no(count: int, tmp_path: Path) -> None:
    git("init", "-q", "--object-format=sha256", cwd=tmp_path)
    add_answer(tmp_path)
    for number in range(count):
        (tmp_path / f"file{number}").write_text("x" * number)
    git("add", "--all", cwd=tmp_path)
    assert decide(str(tmp_path)).state == OFF


def test_an_untracked_cache_and_other_extensions_are_no_obstacle(repo: Path) -> None:
    git("add", "src", cwd=repo)
    git("commit", "-qm", "first", cwd=repo)
    git("update-index", "--untracked-cache", cwd=repo)
    git("status", cwd=repo)
    index = (repo / ".git" / "index").read_bytes()
    assert b"UNTR" in index
    assert b"TREE" in index
    assert decide(str(repo)).state == ON


@pytest.mark.parametrize("version", [2, 4])
def test_a_damaged_index_is_a_no(version: int, repo: Path) -> None:
    git("add", "src", cwd=repo)
    git("commit", "-qm", "first", cwd=repo)
    git("update-index", "--index-version", str(version), cwd=repo)
    data = (repo / ".git" / "index").read_bytes()
    for length in range(len(data)):
        try:
            found = list(read_git_index(data[:length]))
        except ERRORS:
            continue
        assert found == paths(repo), "only extensions are missing"
    too_long = data.replace(b"TREE\0", b"TREE\1")  # the length of an extension
    assert too_long != data
    wrong_count = data[:8] + b"\xff" + data[9:]
    for damaged in (b"", data + b"\0", b"X" + data[1:], wrong_count, too_long):
        (repo / ".git" / "index").write_bytes(damaged)
        assert cannot_tell(repo)
    for other in (0, 1, 5, 2**24 + version, 2**32 - 1):
        changed = data[:4] + other.to_bytes(4, "big") + data[8:]
        with pytest.raises(ValueError, match="unknown version"):
            list(read_git_index(changed))
    if version == 4:  # cut more off the path before than it has
        changed = data[:74] + b"\x01" + data[75:]
        with pytest.raises(ValueError, match="damaged path"):
            list(read_git_index(changed))


@pytest.mark.parametrize("version", [2, 4])
def test_reading_a_damaged_index_always_ends(version: int, repo: Path) -> None:
    git("add", "src", cwd=repo)
    git("update-index", "--index-version", str(version), cwd=repo)
    data = (repo / ".git" / "index").read_bytes()
    for position in range(len(data)):
        changed = data[:position] + b"\xff" + data[position + 1 :]
        try:
            found = list(read_git_index(changed))
        except ERRORS:
            continue
        assert len(found) == 12


@pytest.mark.timeout(20)
def test_an_endless_number_in_an_index_is_refused_at_once() -> None:
    head = b"DIRC" + (4).to_bytes(4, "big") + (1).to_bytes(4, "big")
    with pytest.raises(ValueError, match="damaged path"):
        list(read_git_index((head + bytes(62)).ljust(plugin.MAX_INDEX, b"\xff")))


def test_an_index_of_more_than_8_mib_is_a_no(repo: Path) -> None:
    git("add", "src", cwd=repo)
    index = repo / ".git" / "index"
    data = index.read_bytes()[:-20]
    length = 2**23 - len(data) - 28  # 8 bytes of head before, a checksum of 20 behind
    extension = b"Fill" + length.to_bytes(4, "big") + bytes(length)
    index.write_bytes(data + extension + bytes(20))
    assert decide(str(repo)).state == ON
    extension = b"Fill" + (length + 1).to_bytes(4, "big") + bytes(length + 1)
    index.write_bytes(data + extension + bytes(20))
    assert cannot_tell(repo)
    os.truncate(index, 2**40)
    assert cannot_tell(repo)


def test_a_saved_no_is_the_reason_even_if_git_tracks_it(repo: Path) -> None:
    (repo / ".telemetry").write_text("consent: false\n")
    git("add", ".telemetry", cwd=repo)
    assert ".telemetry does not say" in decide(str(repo)).reason


def test_an_index_or_git_folder_of_another_kind_is_a_no(tmp_path: Path) -> None:
    add_answer(tmp_path)
    dot_git = tmp_path / ".git"
    dot_git.mkdir()
    (dot_git / "index").mkdir()
    assert cannot_tell(tmp_path)
    (dot_git / "index").rmdir()
    os.mkfifo(dot_git / "index")
    assert cannot_tell(tmp_path)
    (dot_git / "index").unlink()
    dot_git.rmdir()
    os.mkfifo(dot_git)
    assert cannot_tell(tmp_path)
    dot_git.unlink()
    dot_git.symlink_to("absent")
    assert cannot_tell(tmp_path)


def test_a_git_file_that_names_no_folder_is_a_no(repo: Path) -> None:
    (repo / "folder").mkdir()
    (repo / ".git").rename(repo / "moved")
    wrong = [b"", b"folder\n", b"gitdir:folder\n", b"gitfolder: folder\n", b"\xff\xfe"]
    wrong += [b"gitdir: " + name for name in (b"absent\n", b"/absent/git\n", b".git\n")]
    wrong += [b"gitdir: folder\0\n", b"gitdir: " + b"x" * 5000]
    for content in wrong:
        (repo / ".git").write_bytes(content)
        assert cannot_tell(repo), content


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_git_file_names_the_git_folder(end: bytes, repo: Path) -> None:
    (repo / ".git").rename(repo / "real folder")
    for name in (b"real folder", os.fsencode(repo / "real folder")):
        (repo / ".git").write_bytes(b"gitdir: " + name + end)
        found = find_git_folder(str(repo))
        assert found
        assert os.path.samefile(found, repo / "real folder")
        assert decide(str(repo)).state == ON
