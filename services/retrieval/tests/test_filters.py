"""Patterns do the same for a folder and for a repository, and what a plain model of them does."""

import contextlib
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.retrieval.v1 import corpus_pb2, corpus_service_pb2
from sluice_retrieval.sources.classify import skip_by_content
from sluice_retrieval.sources.folder import Folder, SkippedFile
from sluice_retrieval.sources.patterns import IgnoreRules, PathFilter
from sluice_retrieval.text.lines import decode, join_lines, split_lines

from .canaries import CANARY


async def test_a_folder_and_a_repository_of_it_have_the_same_index(client, tmp_path, git):
    root = tmp_path / "root"
    files = {
        ".gitignore": "\ufeff*.log\nbuild/\n/only-here.txt\n!keep.log\n",
        "a.py": "a = 1\n",
        "only-here.txt": "x\n",
        "x.log": "x\n",
        "keep.log": "x\n",
        "build/out.py": "x = 1\n",
        "pkg/.gitignore": "*.gen\n!special.log\nsub/\n",
        "pkg/a.gen": "x\n",
        "pkg/special.log": "x\n",
        "pkg/other.log": "x\n",
        "pkg/only-here.txt": "x\n",
        "pkg/sub/a.py": "x = 1\n",
        "pkg/$first/a.gen": "x\n",
        "node_modules/m/a.py": "x = 1\n",
        "node_modules/m/b.py": "x = 1\n",
        "vendor/v.py": "x = 1\n",
        "third_party/t.py": "t = 1\n",
        ".idea/i.xml": "<a/>\n",
        "yarn.lock": "x\n",
        "j.min.js": "x\n",
        "docs/a.md": "# A\n\nKettle.\n",
        "docs/b.md": "# B\n\nKettle.\n",
        "docs/drafts/c.md": "# C\n\nKettle.\n",
        "bin": "\0",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "link").symlink_to("a.py")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A", "-f")
    git(root, "commit", "-qm", "one")
    for number, filters in enumerate(
        (
            corpus_pb2.PathFilters(),
            corpus_pb2.PathFilters(include=["*.md", "third_party/"], exclude=["drafts/"]),
            corpus_pb2.PathFilters(exclude=["docs/*", "!docs/b.md", "*.txt"]),
            corpus_pb2.PathFilters(include=["vendor/**", "pkg"]),
        )
    ):
        results, listed, found = [], [], []
        for kind, source in (("folder", root), ("git", corpus_pb2.GitSource(url=str(root)))):
            corpus = f"{kind}{number}"
            result = await client.index(source, corpus, filters=filters)
            skipped = Counter(dict(result.skipped))
            # The folder that git keeps for itself is in the one alone.
            skipped["hidden"] -= kind == "folder"
            results.append((result.files, +skipped))
            request = corpus_service_pb2.ListDocumentsRequest(corpus=f"corpora/{corpus}")
            listed.append([document.path for document in (await client.call("ListDocuments", request)).documents])
            at_search = corpus_pb2.PathFilters(include=["docs/"], exclude=["a.md"])
            found.append([one.path for one in await client.search("kettle", corpus, filters=at_search)])
        assert results[0] == results[1]
        assert listed[0] == listed[1]
        assert found[0] == found[1]
        assert "docs/a.md" not in found[0]
        if not number:
            assert listed[0] == [
                ".gitignore", "a.py", "docs/a.md", "docs/b.md", "docs/drafts/c.md", "keep.log", "pkg/.gitignore",
                "pkg/only-here.txt", "pkg/special.log",
            ]  # fmt: skip
            assert results[0][1] == {
                "ignored": 7, "vendored": 3, "hidden": 1, "generated": 1, "minified": 1, "binary": 1, "symlink": 1,
            }  # fmt: skip


words = st.sampled_from(["a", "b", "ab", "src", "test", "x.py", "y.md", "ünï"])
paths = st.lists(words, min_size=1, max_size=4).map("/".join)
segments = st.one_of(words, st.sampled_from(["*", "*.py", "a*", "?", "**"]))
# What nobody writes is left out: to pathspec, `a/**/` is the folder itself.
patterns = (
    st.tuples(st.booleans(), st.booleans(), st.lists(segments, min_size=1, max_size=3), st.booleans())
    .map(lambda made: "!" * made[0] + "/" * made[1] + "/".join(made[2]) + "/" * made[3])
    .filter(lambda pattern: not pattern.endswith("**/"))
)


def glob(text: str, name: str) -> bool:
    """Matches one part of a path, the slow and plain way."""
    if not text:
        return not name
    if text[0] == "*":
        return any(glob(text[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and (text[0] == "?" or text[0] == name[0]) and glob(text[1:], name[1:])


def along(pattern: list[str], parts: list[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(parts)  # all that is inside
        return any(along(pattern[1:], parts[at:]) for at in range(len(parts) + 1))
    return bool(parts) and glob(pattern[0], parts[0]) and along(pattern[1:], parts[1:])


def matches(pattern: str, path: str, *, is_folder: bool) -> bool:
    """Tells whether a pattern means a file or folder itself."""
    text = pattern.removeprefix("!")
    if text.endswith("/") and not is_folder:
        return False
    text = text.rstrip("/")
    wanted = text.lstrip("/").split("/")
    return along(wanted if "/" in text else ["**", *wanted], path.split("/"))


def model(listed: list[str], path: str) -> bool:
    """Says what patterns say of a file, as git does: the last that means a folder on the way, or the file, decides, and
    what lies in a folder that is meant is meant with it."""
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        said = False
        for pattern in listed:
            if matches(pattern, "/".join(parts[:end]), is_folder=end < len(parts)):
                said = not pattern.startswith("!")
        if said:
            return True
    return False


plain = patterns.map(lambda pattern: pattern.removeprefix("!"))


@settings(max_examples=300, deadline=None)
@given(st.lists(plain, max_size=3), st.lists(plain, max_size=3), paths)
def test_filters_do_as_the_model_does(include, exclude, path):
    wanted = (not include or model(include, path)) and not model(exclude, path)
    assert PathFilter(include, exclude).takes(path) == wanted


@settings(max_examples=300, deadline=None)
@given(st.lists(patterns, min_size=1, max_size=4), paths)
def test_ignore_files_do_as_the_model_does(listed, path):
    rules = IgnoreRules().within("", "\n".join(listed))
    parts = path.split("/")
    ignored = any(rules.ignores("/".join(parts[:end]), is_folder=end < len(parts)) for end in range(1, len(parts) + 1))
    assert ignored == model(listed, path)


@settings(max_examples=200, deadline=None)
@given(st.lists(patterns, min_size=1, max_size=3), paths)
def test_a_folder_that_is_not_entered_has_nothing_that_counts(exclude, path):
    filters = PathFilter((), exclude)
    *folders, _ = path.split("/")
    for end in range(1, len(folders) + 1):
        if filters.skips_folder("/".join(folders[:end])):
            assert not filters.takes(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_characters="\0/"), max_size=20), min_size=1, max_size=5))
def test_any_path_stays_below_the_root(tmp_path_factory, parts):
    beside = tmp_path_factory.mktemp("beside")
    (beside / "canary").write_text(CANARY)
    root = beside / "root"
    root.mkdir()
    (root / "inside").write_text("inside")
    with Folder.root(root) as folder:
        for path in (parts, ["..", *parts], [*parts, "..", "..", "canary"], ["inside", *parts]):
            with contextlib.suppress(SkippedFile):
                assert folder.read_path(path, 1000) == b"inside"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_any_contents_are_text_or_are_counted(data):
    reason = skip_by_content("a.txt", data)
    assert reason in (None, "empty", "binary", "generated", "minified", "lfs_pointer")
    if reason is None:
        lines = split_lines(decode(data))
        assert join_lines(lines, 1, len(lines)) == "".join(lines) == decode(data)
