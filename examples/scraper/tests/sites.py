# SPDX-License-Identifier: BSL-1.0
"""Sites on 127.0.0.1 for the tests of the scraper."""

import gzip
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """Answers as `answer(handler, path)` says; remembers what it was asked for."""

    def __init__(self, answer):
        site = self
        self.requests = []
        self.asked = threading.Condition()
        self.closing = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with site.asked:
                    site.requests.append((self.path, self.headers.get("User-Agent")))
                    site.asked.notify_all()
                try:
                    answer(self, self.path)
                except OSError:  # the client went away
                    self.close_connection = True

            def send(self, body=b"", status=200, content_type="text/html", **headers):
                body = body if isinstance(body, bytes) else body.encode()
                self.send_response(status)
                if content_type:
                    self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def hang(self):
                site.closing.wait()
                self.close_connection = True

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, address):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.origin = "http://127.0.0.1:%d" % self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def wait_for_requests(self, n):
        with self.asked:
            self.asked.wait_for(lambda: len(self.requests) >= n)

    def paths(self):
        with self.asked:
            return [path for path, agent in self.requests]

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


# What stands on the nasty site's first page, one link a line. {elsewhere} is another site.
NASTY_LINKS = r"""
ok.html
ok.html#top
./ok.html#bottom
/sub/../ok.html
//{host}/ok.html?
missing.html
gone
error
loop1
self
endless?0
moved
moved-to-missing
away
moved-to-nonsense
moved-nowhere
hangup
short
garbage
plain.txt
no-end
no-type
huge.html
bomb.html
gzip.html
broken.html
latin1.html
empty.html
nothing
nul.html
a%20b.html
a b.html
%7Euser.html
~user.html
caf%C3%A9.html
café.html
100%.html
query?b=1&amp;a=2
query?b=1&amp;a=2#part
../../../up.html
{elsewhere}/x
mailto:a@b.c
javascript:void(0)
ftp://127.0.0.1/x
http://[broken
http://127.0.0.1:99999/
"""

NASTY_PAGES = {
    "/", "/ok.html", "/ok.html?", "/no-type", "/gzip.html", "/broken.html", "/broken-1",
    "/broken-2", "/latin1.html", "/empty.html", "/nul.html", "/a%20b.html", "/~user.html",
    "/caf%C3%A9.html", "/100%25.html", "/query?b=1&a=2", "/up.html", "/after-gzip",
}

NASTY_BROKEN = {
    "/missing.html": "HTTP 404",
    "/gone": "HTTP 410",
    "/error": "HTTP 500",
    "/loop1": "redirect loop",
    "/self": "redirect loop",
    "/endless?0": "more than 10 redirects",
    "/moved-to-missing": "redirects to {origin}/missing.html: HTTP 404",
    "/moved-to-nonsense": "redirects to a malformed URL",
    "/moved-nowhere": "HTTP 302",
    "/hangup": "server returned nothing (no headers, no data)",
    "/short": "transferred a partial file",
    "/garbage": "",  # as libcurl calls it
    "/huge.html": "larger than 16 MiB",
    "/bomb.html": "larger than 16 MiB",
    "http://[broken": "malformed URL",
    "http://127.0.0.1:99999/": "malformed URL",
}


def nasty(elsewhere):
    """A site that does everything that sites do wrong."""
    big = b"<p>words and words</p>\n" * (20 * 2**20 // 23)
    bomb = gzip.compress(big)

    def answer(h, path):
        host = h.headers["Host"]
        if path == "/":
            lines = NASTY_LINKS.strip().format(host=host, elsewhere=elsewhere).split("\n")
            h.send("<title>Nasty</title>" + "".join('<a href="%s">link</a>\n' % l for l in lines))
        elif path == "/gone":
            h.send("<a href=not-to-be-followed>gone</a>", 410)
        elif path == "/error":
            h.send("oops", 500)
        elif path == "/loop1":
            h.send(status=301, Location="/loop2")
        elif path == "/loop2":
            h.send(status=302, Location="http://%s/loop1#here" % host)
        elif path == "/self":
            h.send(status=307, Location="/self")
        elif path.startswith("/endless?"):
            h.send(status=302, Location="/endless?%d" % (int(path[9:]) + 1))
        elif path == "/moved":
            h.send(status=301, Location="ok.html#x")
        elif path == "/moved-to-missing":
            h.send(status=301, Location="/missing.html")
        elif path == "/away":
            h.send(status=301, Location=elsewhere + "/y")
        elif path == "/moved-to-nonsense":
            h.send(status=301, Location="http://[")
        elif path == "/moved-nowhere":
            h.send(status=302)
        elif path == "/hangup":
            h.close_connection = True
        elif path == "/short":
            h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
                          b"Content-Length: 1000\r\n\r\n<a href=not-to-be-followed>")
            h.close_connection = True
        elif path == "/garbage":
            h.wfile.write(b"\x00\xff this is not HTTP \r\n\r\n")
            h.close_connection = True
        elif path == "/plain.txt":
            h.send("<a href=not-to-be-followed>", content_type="text/plain")
        elif path == "/no-end":  # nobody should want to have it
            h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\n\r\n")
            while True:
                h.wfile.write(bytes(65536))
        elif path == "/no-type":
            h.send("<title>no type</title>", content_type=None)
        elif path == "/huge.html":
            h.send(big)
        elif path == "/bomb.html":
            h.send(bomb, Content_Encoding="gzip")
        elif path == "/gzip.html":
            h.send(gzip.compress(b"<a href=after-gzip>"), Content_Encoding="gzip")
        elif path == "/broken.html":
            h.send("<a href=broken-1><table><td></p><a <b href='broken-2'></table></html><a href=\"x")
        elif path == "/latin1.html":
            h.send(b"<title>caf\xe9</title>", content_type="text/html; charset=iso-8859-1")
        elif path == "/empty.html":
            h.send()
        elif path == "/nothing":
            h.send_response(204)
            h.end_headers()
        elif path == "/nul.html":
            h.send(b"\0\0<title>\0</title>\xff\xfe<a\0href=x>")
        elif path in NASTY_PAGES:
            h.send("<title>%s</title><a href='/'>home</a>" % path)
        else:
            h.send("missing", 404)

    return answer


def slow(h, path):
    """A site whose pages take for ever, each in its own way."""
    if path == "/robots.txt":
        h.send(status=404)
    elif path == "/":
        h.send("<a href=hang></a><a href=drip></a><a href=deep></a><a href=next></a>")
    elif path == "/hang":
        h.hang()
    elif path == "/drip":
        h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        never = threading.Event()
        while not never.wait(0.1):
            h.wfile.write(b"drop ")  # until the client goes away
    elif path == "/deep":  # gumbo needs the square of the depth
        h.send("<div>" * 200_000)
    else:
        h.send("<title>at last</title>")
