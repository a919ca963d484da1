"""Repositories over https, served by git's own back end."""

import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from sluice.retrieval.v1 import corpus_pb2
from sluice.task.v1 import task_service_pb2


class GitHandler(http.server.BaseHTTPRequestHandler):
    """The smart protocol by `git http-backend`, and a redirect that must not be followed."""

    root: ClassVar[Path]
    asked: ClassVar[list[str]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, body: bytes) -> None:
        self.asked.append(self.path)
        path, _, query = self.path.partition("?")
        if path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.replace("/moved/", "/", 1))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": str(self.root),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = next((value for name, value in fields if name == "Status"), "200 OK")
        self.send_response(int(status.split()[0]))
        for name, value in fields:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def https(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Serves repositories below `served` on a free port; returns it, and the certificate."""
    certificate = tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", str(tmp_path / "key.pem"), "-out", str(certificate), "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    GitHandler.root = tmp_path / "served"
    GitHandler.root.mkdir()
    GitHandler.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), GitHandler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that refuse the certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, certificate
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def served(https, source, git, tmp_path):
    git(source, "init", "-q", "-b", "main")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "one")
    git(source, "clone", "-q", "--bare", str(source), str(tmp_path / "served" / "tea.git"))
    return https


async def test_a_repository_over_https(start, served, source, git):
    port, certificate = served
    async with start({"git": {"private_hosts": ["localhost"], "ca_file": str(certificate)}}) as client:
        result = await client.index(corpus_pb2.GitSource(url=f"https://localhost:{port}/tea.git"))
        assert result.corpus.revision == git(source, "rev-parse", "HEAD")
        assert result.files == 4
        named = corpus_pb2.GitSource(url=f"https://localhost:{port}/tea.git", revision=result.corpus.revision)
        assert (await client.index(named)).files == 4


@pytest.mark.parametrize("case", ["redirect", "certificate", "nothing"])
async def test_what_is_not_as_it_should_be_is_refused(start, served, case):
    port, certificate = served
    settings = {"private_hosts": ["localhost"], "ca_file": str(certificate)}
    path = "tea.git"
    if case == "redirect":
        path = "moved/tea.git"
    elif case == "certificate":
        del settings["ca_file"]
    else:
        path = "no.git"
    async with start({"git": settings}) as client:
        await client.create()
        task = await client.ended(
            (await client.start_index(corpus_pb2.GitSource(url=f"https://localhost:{port}/{path}"))).name
        )
        assert task.state == task_service_pb2.TASK_STATE_FAILED
        assert "SOURCE_UNREADABLE" in str(task.error)
        assert all(asked.startswith(f"/{path}/") for asked in GitHandler.asked)
        assert bool(GitHandler.asked) == (case != "certificate")
