#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A proxy for HTTP's GET on a Unix socket, so that a namespace without a network reaches this machine's mirror.
    tests/engine/mirror.py SOCKET      ends when its standard input does
"""
import http.server
import shutil
import socketserver
import sys
import threading
import urllib.error
import urllib.request


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):  # pylint: disable=invalid-name
        if not self.path.startswith("http://"):
            self.send_error(400)
            return
        try:
            answer = urllib.request.urlopen(self.path, timeout=60)
        except urllib.error.HTTPError as e:
            self.send_error(e.code)
            return
        except OSError:
            self.send_error(504)
            return
        with answer:
            self.send_response(200)
            for name in ("Content-Length", "Content-Type", "Last-Modified"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            shutil.copyfileobj(answer, self.wfile)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


if __name__ == "__main__":
    threading.Thread(target=Server(sys.argv[1], Handler).serve_forever, daemon=True).start()
    sys.stdin.read()
