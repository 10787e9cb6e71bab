"""URLs, fetched from a server on loopback; and the addresses and answers that are refused."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from fpdf import FPDF

from kmcli.errors import KmError, NotFoundError, ResourceError, UsageError
from kmcli.ingest import read, web

SENTENCE = "The mill stood by the river for a hundred years before the flood took its wheel and half of its wall. "
ARTICLE = (
    '<!DOCTYPE html><html><head><title>The Mill</title></head><body><nav><a href="/">Home</a> </nav>'
    f"<article><h1>The Mill</h1><p>{SENTENCE * 3}</p><h2>After the flood</h2><p>snake_case and 2*3. {SENTENCE * 3}</p>"
    "</article><aside><a href='/ad'>Buy a wheel</a></aside><footer>Copyright</footer></body></html>"
)
ARTICLE_TEXT = (
    f"# The Mill\n\n{(SENTENCE * 3).strip()}\n\n## After the flood\n\nsnake_case and 2*3. {(SENTENCE * 3).strip()}"
)


def small_pdf() -> bytes:
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Helvetica", "", 11)
    pdf.cell(text="Words behind a URL.")
    return bytes(pdf.output())


Answer = tuple[int, dict[str, str], bytes]
ANSWERS: dict[str, Answer] = {
    "/blog/the-mill.html": (200, {"Content-Type": "text/html; charset=utf-8"}, ARTICLE.encode()),
    "/": (200, {"Content-Type": "text/html"}, ARTICLE.encode()),
    "/latin": (200, {"Content-Type": "text/html; charset=iso-8859-1"}, "<html><p>Größe</p></html>".encode("latin-1")),
    "/paper.pdf": (200, {"Content-Type": "application/octet-stream"}, small_pdf()),
    "/v1.2/my%20notes": (200, {"Content-Type": "text/markdown"}, b"# Notes\n\n*as is*"),
    "/moved": (302, {"Location": "/paper.pdf"}, b""),
    "/loop": (302, {"Location": "/loop"}, b""),
    "/to-file": (302, {"Location": "file:///etc/passwd"}, b""),
    "/to-ftp": (302, {"Location": "ftp://127.0.0.1/x"}, b""),
    "/to-private": (302, {"Location": "http://10.1.2.3/admin"}, b""),
    "/gone": (410, {}, b"gone"),
    "/forbidden": (403, {}, b"no"),
    "/empty.txt": (200, {}, b""),
    "/image": (200, {"Content-Type": "application/pdf"}, b"\x89PNG\r\n\x1a\n000"),
    "/short.txt": (200, {"Content-Length": "1000"}, b"only this"),
    "/large.txt": (200, {}, b"x" * 5000),
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, headers, body = ANSWERS.get(self.path, (404, {}, b"no such page"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.ALLOW_PRIVATE, "1")


def failure(url: str) -> KmError:
    with pytest.raises(KmError) as caught:
        read(url)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


# --- what is read -------------------------------------------------------------------------------------------------


def test_article(server: str) -> None:
    url = f"{server}/blog/the-mill.html"
    got = read(url)
    assert (got.source, got.kind, got.suggested_name, got.pages) == (url, "html", "the-mill", None)
    assert got.text == ARTICLE_TEXT
    assert got.data == ARTICLE.encode()


def test_name_from_the_title(server: str) -> None:
    assert read(f"{server}/").suggested_name == "The Mill"


def test_page_without_an_article_and_with_a_charset(server: str) -> None:
    assert read(f"{server}/latin").text == "Größe"


def test_pdf(server: str) -> None:
    got = read(f"{server}/paper.pdf")
    assert (got.kind, got.text, got.pages, got.suggested_name) == ("pdf", "Words behind a URL.", 1, "paper")


def test_redirect(server: str) -> None:
    got = read(f"{server}/moved#top")
    assert (got.source, got.kind, got.suggested_name) == (f"{server}/moved#top", "pdf", "paper")


def test_kind_by_content_type_where_the_path_says_nothing(server: str) -> None:
    got = read(f"{server}/v1.2/my notes")  # the blank is quoted on the way
    assert (got.kind, got.text, got.suggested_name) == ("markdown", "# Notes\n\n*as is*", "my notes")


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "0x7f.1", "2130706433", "10.0.0.1", "192.168.1.1", "169.254.169.254",
     "100.64.0.1",
     "[::ffff:127.0.0.1]", "[fe80::1]", "[fc00::1]", "[2002:7f00:1::]", "0.0.0.0", "224.0.0.1",
     "[::7f00:1]", "[::]", "[::ffff:0:7f00:1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::a00:1]",
     "[fec0::1]", "192.0.0.8", "198.18.0.1", "255.255.255.255", "[ff02::1]"],
)  # fmt: skip
def test_private_addresses(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv(web.ALLOW_PRIVATE)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("it connected"))
    error = failure(f"http://{host}/x")
    assert isinstance(error, UsageError)
    assert "this machine or of a private network" in error.message
    assert "KM_ALLOW_PRIVATE_URLS=1" in error.hint


def test_a_host_with_one_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(web.ALLOW_PRIVATE)
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answers)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("it connected"))
    assert "private network" in failure("https://example.org/").message


def test_the_checked_address_is_the_one_connected_to(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a public address when it is checked cannot become a private one afterwards."""
    monkeypatch.delenv(web.ALLOW_PRIVATE)
    asked: list[str] = []
    connected: list[tuple[str, int]] = []

    def resolve(host: str, port: int, *args: object, **kwargs: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]

    def connect(address: tuple[str, int], *args: object, **kwargs: object) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert "Connection refused" in failure("http://example.org:8080/").message
    assert (asked, connected) == (["example.org"], [("93.184.216.34", 8080)])


def test_redirect_to_a_private_address(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first hop is allowed as if it were public; the second is judged by itself."""
    monkeypatch.delenv(web.ALLOW_PRIVATE)
    judge = web._public
    monkeypatch.setattr(web, "_public", lambda address: address == "127.0.0.1" or judge(address))
    error = failure(f"{server}/to-private")
    assert isinstance(error, UsageError)
    assert "10.1.2.3 is an address of this machine or of a private network" in error.message


def test_redirects_elsewhere(server: str) -> None:
    assert "redirects in circles, or to what is no web page" in failure(f"{server}/to-file").message
    assert "redirects in circles" in failure(f"{server}/loop").message
    assert "neither http nor https" in failure(f"{server}/to-ftp").message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.org/x", "neither http nor https"),
        ("file:///etc/passwd", "neither http nor https"),
        ("http:///x", "names no host"),
        ("http://example.org:99999/", "not a valid URL"),
        ("http://[::1/", "not a valid URL"),
        ("https://me:secret@example.org/", "a name or password"),
    ],
)
def test_odd_urls(url: str, words: str) -> None:
    error = failure(url)
    assert isinstance(error, UsageError)
    assert words in error.message
    assert "secret" not in str(error)


def test_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = failure(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert isinstance(error, ResourceError)
    assert "cannot be reached: Connection refused" in error.message


def test_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert web.TIMEOUT == 30.0
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        error = failure(f"http://127.0.0.1:{deaf.getsockname()[1]}/")
    assert isinstance(error, ResourceError)
    assert "it took too long" in error.message


def test_status(server: str) -> None:
    for path in ("/nothing-here", "/gone"):
        error = failure(server + path)
        assert isinstance(error, NotFoundError)
        assert f"there is no page {server}{path}" in error.message
    assert "status 403 Forbidden" in failure(f"{server}/forbidden").message


def test_limits(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert web.MAX_BYTES == 50_000_000
    assert len(read(f"{server}/large.txt").text) == 5000
    monkeypatch.setattr(web, "MAX_BYTES", 4999)
    assert "is larger than" in failure(f"{server}/large.txt").message
    monkeypatch.setattr(web, "MAX_SECONDS", -1.0)
    assert "takes longer" in failure(f"{server}/large.txt").message


@pytest.mark.parametrize(
    "beginning",
    [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b""],
    ids=["head", "body", "status"],
)
def test_a_server_that_sends_a_byte_now_and_then(monkeypatch: pytest.MonkeyPatch, beginning: bytes) -> None:
    """Each byte comes in time, and all of them together do not."""
    monkeypatch.setattr(web, "MAX_SECONDS", 1.0)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as slow:

        def serve() -> None:
            connection, _ = slow.accept()
            with connection:
                connection.sendall(beginning)
                last = time.monotonic() + 10  # where nothing else ends it
                while not ended.wait(0.1) and time.monotonic() < last:
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            began = time.monotonic()
            assert "takes longer than" in failure(f"http://127.0.0.1:{slow.getsockname()[1]}/").message
            assert time.monotonic() - began < 9, "the clock ends it, not the server"
        finally:
            ended.set()
            thread.join(10)


def test_bodies_that_are_no_document(server: str) -> None:
    assert "is empty" in failure(f"{server}/empty.txt").message
    assert "is an image, not a PDF" in failure(f"{server}/image").message
    assert "broke off after 9 bytes" in failure(f"{server}/short.txt").message
