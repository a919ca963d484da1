"""The language of a file, told from its name."""

from pathlib import PurePosixPath
from typing import Final

_BY_SUFFIX: Final = {
    ".py": "python", ".pyi": "python", ".pyx": "python",
    ".md": "markdown", ".markdown": "markdown", ".mdx": "markdown",
    ".txt": "text", ".rst": "rst", ".adoc": "asciidoc", ".tex": "latex",
    ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript", ".jsx": "javascript",
    ".ts": "typescript", ".mts": "typescript", ".cts": "typescript", ".tsx": "typescript",
    ".go": "go", ".rs": "rust", ".java": "java", ".kt": "kotlin", ".kts": "kotlin", ".scala": "scala",
    ".c": "c", ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".hpp": "cpp", ".hh": "cpp", ".cs": "csharp",
    ".rb": "ruby", ".php": "php", ".swift": "swift", ".lua": "lua", ".pl": "perl", ".r": "r", ".jl": "julia",
    ".sh": "shell", ".bash": "shell", ".zsh": "shell", ".ps1": "powershell",
    ".sql": "sql", ".proto": "protobuf", ".graphql": "graphql", ".html": "html", ".css": "css", ".scss": "scss",
    ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".ini": "ini", ".cfg": "ini", ".xml": "xml",
    ".csv": "csv", ".tf": "terraform", ".vue": "vue", ".svelte": "svelte", ".dart": "dart", ".ex": "elixir",
    ".exs": "elixir", ".erl": "erlang", ".hs": "haskell", ".clj": "clojure", ".ml": "ocaml", ".zig": "zig",
}  # fmt: skip
_BY_NAME: Final = {
    "makefile": "make",
    "dockerfile": "dockerfile",
    "readme": "text",
    "license": "text",
    "changelog": "text",
    "cmakelists.txt": "cmake",
    "build.bazel": "starlark",
    "gemfile": "ruby",
    "rakefile": "ruby",
}


def language_of(path: str) -> str:
    """Returns the language of a path, e.g. "python"; empty where it is not known."""
    pure = PurePosixPath(path)
    return _BY_NAME.get(pure.name.lower()) or _BY_SUFFIX.get(pure.suffix.lower(), "")
