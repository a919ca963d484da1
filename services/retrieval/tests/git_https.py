"""A git server over https, on a free port of this machine."""

import contextlib
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar


class GitHandler(http.server.BaseHTTPRequestHandler):
    """The smart protocol by `git http-backend`, a redirect that must not be followed, and paths that need a login."""

    root: ClassVar[Path]
    asked: ClassVar[list[str]]
    logins: ClassVar[dict[str, str]] = {}
    """For paths that begin so: the value of the header that opens them."""
    sent: ClassVar[list[tuple[str, str]]] = []
    """The paths that were asked for with a login, and what it was."""
    before_pack: ClassVar[list[Callable[[], None]]] = []
    """Called before a pack is sent."""
    bytes_sent: ClassVar[int] = 0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, body: bytes) -> None:
        self.asked.append(self.path)
        path, _, query = self.path.partition("?")
        login = self.headers.get("Authorization", "")
        if login:
            self.sent.append((path, login))
        if path.endswith("/git-upload-pack"):
            for call in self.before_pack:
                call()
        if path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.replace("/moved/", "/", 1))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        for start, wanted in self.logins.items():
            if path.startswith(start) and login != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
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
        type(self).bytes_sent += len(content)
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[int, Path]]:
    """Serves repositories below `served` on a free port; returns it, and the certificate."""
    certificate = folder / "cert.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", str(folder / "key.pem"), "-out", str(certificate), "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    GitHandler.root = folder / "served"
    GitHandler.root.mkdir()
    GitHandler.asked, GitHandler.sent, GitHandler.logins, GitHandler.bytes_sent = [], [], {}, 0
    GitHandler.before_pack = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), GitHandler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that refuse the certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, certificate
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
