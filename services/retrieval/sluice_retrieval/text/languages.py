"""The language of a file, told from its name and, where that says nothing, from its first lines."""

import re
from pathlib import PurePosixPath
from typing import Final

HEAD_BYTES: Final = 8192
"""Bytes of a file that are looked at, at most."""

_BY_SUFFIX: Final = {
    ".py": "python", ".pyi": "python", ".pyx": "python", ".pyw": "python",
    ".md": "markdown", ".markdown": "markdown", ".mdx": "markdown",
    ".txt": "text", ".rst": "rst", ".adoc": "asciidoc", ".tex": "latex",
    ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript", ".jsx": "javascript",
    ".ts": "typescript", ".mts": "typescript", ".cts": "typescript", ".tsx": "tsx",
    ".go": "go", ".rs": "rust", ".java": "java", ".kt": "kotlin", ".kts": "kotlin", ".scala": "scala", ".sc": "scala",
    ".c": "c", ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".c++": "cpp", ".hpp": "cpp", ".hh": "cpp",
    ".hxx": "cpp", ".h++": "cpp", ".ipp": "cpp", ".inl": "cpp", ".cu": "cpp", ".cuh": "cpp", ".cs": "csharp",
    ".rb": "ruby", ".rake": "ruby", ".gemspec": "ruby", ".ru": "ruby", ".php": "php", ".phtml": "php",
    ".swift": "swift", ".lua": "lua", ".pl": "perl", ".pm": "perl", ".r": "r", ".jl": "julia",
    ".sh": "shell", ".bash": "shell", ".zsh": "shell", ".ksh": "shell", ".bats": "shell", ".ps1": "powershell",
    ".psm1": "powershell", ".sql": "sql", ".ddl": "sql", ".proto": "protobuf", ".graphql": "graphql", ".gql": "graphql",
    ".html": "html", ".htm": "html", ".xhtml": "html", ".css": "css", ".scss": "scss", ".less": "scss",
    ".json": "json", ".jsonc": "json", ".json5": "json", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml",
    ".ini": "ini", ".cfg": "ini", ".conf": "ini", ".properties": "ini", ".editorconfig": "ini", ".xml": "xml",
    ".xsd": "xml", ".xsl": "xml", ".svg": "xml", ".csproj": "xml", ".plist": "xml",
    ".csv": "csv", ".tf": "terraform", ".tfvars": "terraform", ".hcl": "terraform", ".vue": "vue", ".svelte": "svelte",
    ".dart": "dart", ".ex": "elixir", ".exs": "elixir", ".erl": "erlang", ".hs": "haskell", ".clj": "clojure",
    ".ml": "ocaml", ".zig": "zig", ".bzl": "starlark", ".bazel": "starlark", ".star": "starlark", ".mk": "make",
    ".mak": "make", ".cmake": "cmake", ".dockerfile": "dockerfile",
}  # fmt: skip
_BY_NAME: Final = {
    "makefile": "make", "gnumakefile": "make", "dockerfile": "dockerfile", "containerfile": "dockerfile",
    "readme": "text", "license": "text", "changelog": "text", "cmakelists.txt": "cmake",
    "build": "starlark", "workspace": "starlark", "sconstruct": "python", "gemfile": "ruby", "rakefile": "ruby",
    "vagrantfile": "ruby", "podfile": "ruby", "guardfile": "ruby", "jenkinsfile": "groovy",
    ".bashrc": "shell", ".profile": "shell", ".zshrc": "shell", ".gitconfig": "ini", ".npmrc": "ini",
}  # fmt: skip
_BY_INTERPRETER: Final = {
    "python": "python", "pypy": "python", "sh": "shell", "bash": "shell", "dash": "shell", "zsh": "shell",
    "ksh": "shell", "ash": "shell", "bats": "shell", "node": "javascript", "nodejs": "javascript", "deno": "typescript",
    "bun": "typescript", "ts-node": "typescript", "tsx": "typescript", "ruby": "ruby", "php": "php", "perl": "perl",
    "lua": "lua", "luajit": "lua", "rscript": "r", "julia": "julia", "make": "make", "pwsh": "powershell",
    "elixir": "elixir", "kotlin": "kotlin", "kotlinc": "kotlin", "scala": "scala", "swift": "swift",
}  # fmt: skip
_SHEBANG: Final = re.compile(rb"#!\s*(\S+)(?:[ \t]+([^\r\n]*))?")
_VERSION: Final = re.compile(r"[\d.]+$")
# Lines that no header of C has.
_CPP: Final = re.compile(
    rb"^\s*(?:namespace\s+[\w:]*\s*\{|template\s*<|class\s+\w+[\w\s:,<>]*[{;]|(?:public|private|protected)\s*:"
    rb"|using\s+(?:namespace\s)?\w|#\s*include\s*<[a-z_]+>)",
    re.MULTILINE,
)


def language_of(path: str, head: bytes = b"") -> str:
    """Returns the language of a file, e.g. "python"; empty where it is not known.

    `head` is how the file begins (`HEAD_BYTES` suffice). It is asked for the interpreter where the name has no ending,
    and tells a header of C++ from one of C.
    """
    pure = PurePosixPath(path)
    name = pure.name.lower()
    found = _BY_NAME.get(name) or _BY_SUFFIX.get(pure.suffix.lower(), "")
    if found:
        is_header = found == "c" and pure.suffix.lower() == ".h"
        return "cpp" if is_header and _CPP.search(head[:HEAD_BYTES]) else found
    if name.startswith(("dockerfile.", "containerfile.")):
        return "dockerfile"
    if name.startswith(("makefile.", "gnumakefile.")):
        return "make"
    return _interpreted(head) if not pure.suffix else ""


def _interpreted(head: bytes) -> str:
    match = _SHEBANG.match(head[:256])
    if match is None:
        return ""
    words = [match[1], *(match[2] or b"").split()]
    names = [word.rpartition(b"/")[2].decode("ascii", errors="replace").lower() for word in words]
    if names[0] == "env":
        # `env -S deno run`, `env NAME=value python`: the first word that is neither an option nor a setting.
        names = [name for name in names[1:] if not name.startswith("-") and "=" not in name]
    name = names[0] if names else ""
    return _BY_INTERPRETER.get(name) or _BY_INTERPRETER.get(_VERSION.sub("", name), "")
