"""Reading below a root, and never beside it."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice_retrieval.sources.classify import is_binary, skip_by_content, skip_by_name
from sluice_retrieval.sources.folder import Folder, SkippedFile
from sluice_retrieval.sources.found import Budget
from sluice_retrieval.sources.local import LocalFolder
from sluice_retrieval.sources.patterns import IgnoreRules, PathFilter, PatternError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    inner = tmp_path / "root"
    (inner / "a" / "b").mkdir(parents=True)
    (inner / "a" / "b" / "file").write_text("text")
    (inner / "a" / "out").symlink_to(tmp_path)
    (inner / "a" / "link").symlink_to("b/file")
    return inner


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a/out/secret", "missing"),
        ("a/link", "symlink"),
        ("../secret", "missing"),
        ("a/../a/b/file", "missing"),
        ("a//b/file", "missing"),
        ("./a/b/file", "missing"),
        ("", "missing"),
        ("/etc/passwd", "missing"),
        ("a/b", "special"),
        ("a/b/file\0", "missing"),
        ("nothing", "missing"),
        ("a/b/file/deeper", "missing"),
    ],
)
def test_paths_that_lead_elsewhere_are_not_read(root, path, reason):
    with Folder.root(root) as folder, pytest.raises(SkippedFile) as skipped:
        folder.read_path(path.split("/"), 100)
    assert skipped.value.reason == reason


def test_what_lies_below_is_read_within_its_limit(root):
    with Folder.root(root) as folder:
        assert folder.read_path(["a", "b", "file"], 4) == b"text"
        with pytest.raises(SkippedFile) as skipped:
            folder.read_path(["a", "b", "file"], 3)
    assert skipped.value.reason == "too_large"


def test_no_descriptor_is_left_open(root):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with Folder.root(root) as folder:
            for path in ("a/b/file", "a/out/secret", "nothing/at/all", "a/link", "a/b"):
                try:
                    folder.read_path(path.split("/"), 100)
                except SkippedFile:
                    continue
    # Fewer, where something of an earlier test was closed meanwhile.
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


names = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=st.dictionaries(st.lists(names, min_size=1, max_size=3).map(tuple), st.binary(max_size=80), max_size=8))
def test_any_tree_is_read_or_counted(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("tree")
    written: dict[str, bytes] = {}
    for parts, data in tree.items():
        path = root.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError:
            continue  # a name that is a folder already, or that this disk does not take
        written["/".join(parts)] = data
    budget = Budget(1000, 1000, 100_000, 10, 60)
    source = LocalFolder(root, PathFilter(), budget)
    found = {file.path: source.read(file.path, file.ref) for file in source.files()}
    source.close()
    assert found.items() <= written.items()
    for path in written.keys() - found.keys():
        assert sum(budget.skipped.values()), path


@pytest.mark.parametrize(
    ("rules", "path", "is_folder", "ignored"),
    [
        ([("", "*.log")], "a/b.log", False, True),
        ([("", "*.log"), ("a", "!b.log")], "a/b.log", False, False),
        ([("", "/b.log")], "a/b.log", False, False),
        ([("", "build/")], "build", True, True),
        ([("", "build/")], "build", False, False),
        ([("a", "/x")], "a/x", False, True),
        ([("a", "/x")], "x", False, False),
        ([("", "a/**/z")], "a/b/c/z", False, True),
        ([("", "[")], "[", False, False),
        ([("", "# comment\n\n\\#real")], "#real", False, True),
    ],
)
def test_gitignore(rules, path, is_folder, ignored):
    stack = IgnoreRules()
    for folder, text in rules:
        stack = stack.within(folder, text)
    assert stack.ignores(path, is_folder=is_folder) is ignored


@given(st.lists(st.text(max_size=30), max_size=4), st.lists(st.text(max_size=30), max_size=4), st.text(max_size=40))
def test_any_pattern_is_taken_or_refused_by_its_place(include, exclude, path):
    try:
        filters = PathFilter(include, exclude)
    except PatternError as error:
        refused = [*include, *exclude][error.index]
        with pytest.raises(PatternError):
            PathFilter([refused])
        return
    assert filters.takes(path) in (True, False)


@pytest.mark.parametrize(
    ("path", "data", "reason"),
    [
        ("a.py", b"x = 1\n", None),
        ("a.py", b"", "empty"),
        ("a.py", b"x\0", "binary"),
        ("a.py", b"# This file is @generated by a tool\n", "generated"),
        ("a.py", b'"""Reads files that are @generated."""\nx = 1\n', None),
        ("a.go", b"// Code generated by protoc-gen-go. DO NOT EDIT.\n", "generated"),
        ("a.js", b"x" * 30_000, "minified"),
        ("a.js", (b"y" * 900 + b"\n") * 10, "minified"),
        ("a.md", (b"y" * 900 + b"\n") * 10, None),
        ("utf16.txt", "text".encode("utf-16"), "binary"),
    ],
)
def test_contents_are_classified(path, data, reason):
    assert skip_by_content(path, data) == reason


@pytest.mark.parametrize(
    ("path", "reason"),
    [("uv.lock", "generated"), ("x/Cargo.lock", "generated"), ("a_pb2.pyi", "generated"), ("j.min.js", "minified"), ("a.py", None)],
)  # fmt: skip
def test_names_are_classified(path, reason):
    assert skip_by_name(path) == reason


def test_a_few_broken_bytes_are_text_still():
    assert not is_binary("ein Käse\n".encode("latin-1") * 10)
    assert is_binary(bytes(range(128, 256)))
