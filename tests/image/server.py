# SPDX-License-Identifier: Apache-2.0
"""An HTTPS server with an authority of its own, whose paths misbehave in known ways."""
import contextlib
import http.server
import pathlib
import ssl
import subprocess
import threading


def make_authority(place: pathlib.Path):
    """ca.pem, and server.pem with its key, for 127.0.0.1."""
    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=place)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    (place / "ext").write_text("subjectAltName = IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "ext", "-out", "server.crt")
    (place / "server.pem").write_text((place / "server.key").read_text() + (place / "server.crt").read_text())


FAULTS = ("stall", "stall-once", "stall-unnamed", "drip", "silent", "creep", "away", "announces-more", "announces-less",
          "elsewhere", "chunked-once")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def redirect(self, where):
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_data(self, data, ranges, cut, etag='"one"'):
        """All of it, or from where the client says; with @cut the connection ends after so many bytes."""
        begin = 0
        if ranges and "Range" in self.headers and self.headers.get("If-Range", etag) == etag:
            begin = int(self.headers["Range"].split("=")[1].rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.server.requests.append((self.path, begin))
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        self.wfile.write(data[begin:begin + cut] if cut else data[begin:])
        if cut and begin + cut < len(data):
            self.close_connection = True
            self.connection.close()

    def faulty(self, kind, data):
        """Servers whose words on lengths and ranges are wrong, and slow ones. Each request is kept, with where it began."""
        begin = int(self.headers["Range"].split("=")[1].rstrip("-")) if "Range" in self.headers else 0
        nth = sum(path == self.path for path, _ in self.server.requests)
        self.server.requests.append((self.path, begin))
        if kind == "silent":
            self.server.stop.wait(60)
            return
        if kind == "away" and nth == 1:
            self.send_error(503)
            return
        if kind == "announces-more" and begin >= len(data):
            self.send_error(416)
            return
        told = len(data) + {"announces-more": 1000, "announces-less": -1000}.get(kind, 0)
        from_ = begin + (512 if kind == "elsewhere" else 0)
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {from_}-{told - 1}/{told}")
        if kind != "stall-unnamed":
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if kind == "chunked-once" and not begin:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3e8\r\n" + data[:1000] + b"\r\n")
            self.close_connection = True
            self.connection.close()
            return
        self.send_header("Content-Length", str(told - begin))
        self.end_headers()
        if kind == "chunked-once":
            self.wfile.write(data[begin:])
        elif kind in ("announces-more", "announces-less"):
            self.wfile.write(data[begin:told])
        elif kind == "stall-once" and nth > 0 or kind == "away" and nth > 1:
            self.wfile.write(data[begin:])
        elif kind == "drip":
            while not self.server.stop.wait(0.1):
                self.wfile.write(data[begin:begin + 1])
        else:
            self.wfile.write(data[begin:begin + 1000])
            self.wfile.flush()
            if kind.startswith("stall"):
                self.server.stop.wait(60)
        self.close_connection = True
        self.connection.close()

    def do_GET(self):  # pylint: disable=invalid-name
        kind, _, name = self.path.partition("?")[0].lstrip("/").partition("/")
        path = self.server.files / name
        if kind == "to-http":
            self.redirect(f"http://127.0.0.1:{self.server.server_port}/plain/{name}")
        elif kind == "to-file":
            self.redirect("file:///etc/passwd")
        elif kind == "to-https":
            self.redirect(f"/plain/{name}")
        elif kind == "round":
            self.redirect(self.path)
        elif not path.is_file():
            self.send_error(404)
        elif kind in FAULTS:
            with contextlib.suppress(OSError):
                self.faulty(kind, path.read_bytes())
        else:
            data = path.read_bytes()
            changed = kind == "changing" and len(self.server.requests) > 0
            self.send_data(data, ranges=kind in ("cut", "changing"), etag='"two"' if changed else '"one"',
                           cut=len(data) // 3 + 1 if kind in ("cut", "cut-for-good", "changing") else 0)


class Server:
    def __init__(self, place: pathlib.Path):
        make_authority(place)
        self.cacert = place / "ca.pem"
        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.httpd.handle_error = lambda *_: None
        self.httpd.files = place / "files"
        self.httpd.files.mkdir()
        self.httpd.requests = []
        self.httpd.stop = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(place / "server.pem")
        self.httpd.socket = context.wrap_socket(self.httpd.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.httpd.server_port}"
        self.files = self.httpd.files
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()

    @property
    def requests(self):
        return self.httpd.requests

    def close(self):
        self.httpd.stop.set()
        self.httpd.shutdown()
