#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A control plane of our own: the calls of the real one with scripted answers, for the tests and for
trying the product by hand.

By hand:  tests/control/plane.py --port 8443 --key ak-test [--tls CERT KEY]
and in agentd.conf:  control_plane = http://127.0.0.1:8443/v0   (http only to this host)
It prints each call as one line of JSON, secrets left out.
"""
import argparse
import http.server
import json
import ssl
import sys
import threading
import time

SECRET_HEADERS = ("x-api-key", "x-agent-secret")


class Plane:
    """The state behind the answers. Tests change its members and read .calls."""

    def __init__(self, key="ak-test", prefix="/v0"):
        self.key = key
        self.prefix = prefix
        self.secret = "sk-" + "s" * 40
        self.host_exists = False
        self.emergency = 0  # how many /init answers still ask for it
        self.extra = {}  # members that are added to the data of /init
        self.script = []  # answers to give first: callables (handler, call) -> True when answered
        self.calls = []
        self.lock = threading.Condition()
        self.accept_secret = True

    def record(self, call):
        with self.lock:
            self.calls.append(call)
            self.lock.notify_all()

    def wait(self, what, seconds=60, after=0):
        """The first call, from number @after on, for which what(call) holds."""
        deadline = time.monotonic() + seconds
        with self.lock:
            while True:
                for call in self.calls[after:]:
                    if what(call):
                        return call
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"no such call within {seconds} s; calls: {self.calls}")
                self.lock.wait(left)

    def wait_path(self, path, seconds=60, after=0):
        return self.wait(lambda call: call["path"] == self.prefix + path, seconds, after)

    def known(self, call):
        headers = call["headers"]
        if self.accept_secret and headers.get("x-agent-secret") == self.secret:
            return True
        return headers.get("x-api-key") == self.key

    def answer(self, call):
        """(status, JSON value) for a call that no script has taken."""
        path = call["path"].removeprefix(self.prefix)
        if not self.known(call):
            return 401, {"ok": False, "error": "who are you"}
        if (call["method"], path) == ("GET", "/ping"):
            return 200, {"ok": True, "data": None}
        if (call["method"], path) == ("POST", "/init"):
            emergency = self.emergency > 0
            self.emergency -= 1 if emergency else 0
            data = {"agent_created": True, "emergency_reinit": emergency,
                    "host_exists": self.host_exists, "instance_running": False,
                    "secret_key": self.secret}
            data.update(self.extra)
            return 200, {"ok": True, "data": data}
        if (call["method"], path) == ("POST", "/init/host"):
            self.host_exists = True
            return 200, {"ok": True, "data": None}
        if (call["method"], path) == ("POST", "/stats"):
            return 200, {"ok": True, "data": None}
        return 404, {"ok": False, "error": "no such call"}


def make_handler(plane):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def serve(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            call = {"method": self.command, "path": self.path, "time": time.monotonic(),
                    "headers": {k.lower(): v for k, v in self.headers.items()},
                    "body": json.loads(body) if body else None, "port": self.client_address[1]}
            script = plane.script.pop(0) if plane.script else None
            plane.record(call)
            if script and script(self, call):
                return
            status, value = plane.answer(call)
            self.reply(status, json.dumps(value).encode())

        def reply(self, status, body, **headers):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:  # the other side has given up
                self.close_connection = True

        do_GET = do_POST = do_PUT = serve

    return Handler


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # the other side may go at any moment
            super().handle_error(request, client_address)


def start(plane, port=0, cert=None, key=None):
    """Serves @plane on loopback in a thread; returns the server, whose port is server_port."""
    server = Server(("127.0.0.1", port), make_handler(plane))
    server.daemon_threads = True
    if cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--key", default="ak-test")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    parser.add_argument("--frp", metavar="HOST:PORT:TOKEN:SUBDOMAIN", help="tunnel settings to hand out")
    args = parser.parse_args()
    plane = Plane(key=args.key)
    if args.frp:
        host, port, token, subdomain = args.frp.split(":")
        plane.extra = {"tunnel_token": token, "frp": {"server_addr": host, "server_port": int(port),
                                                      "token": token, "subdomain": subdomain}}
    start(plane, args.port, *(args.tls or ()))
    seen = 0
    try:
        while True:
            with plane.lock:
                plane.lock.wait(1)
                calls, seen = plane.calls[seen:], len(plane.calls)
            for call in calls:
                headers = {k: v for k, v in call["headers"].items() if k not in SECRET_HEADERS}
                print(json.dumps({**call, "headers": headers}), flush=True)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
