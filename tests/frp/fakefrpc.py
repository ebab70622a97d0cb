# SPDX-License-Identifier: Apache-2.0
"""A stand-in for frpc and its server: a strict reader of frpc.toml, the admin API, real forwarding, and faults
on order. Its process is `door`, which lives in frpc's cage; all behaviour is here, in the test's process."""
import base64
import contextlib
import http.server
import json
import re
import select
import socket
import struct
import threading
import time
import tomllib

TOP_KEYS = {"serverAddr": str, "serverPort": int, "loginFailExit": bool, "log": dict, "transport": dict,
            "auth": dict, "webServer": dict, "proxies": list}
TABLES = {"log": {"to": str, "level": str, "disablePrintColor": bool},
          "transport": {"protocol": str, "tcpMuxKeepaliveInterval": int, "tls": dict},
          "auth": {"method": str, "token": str},
          "webServer": {"addr": str, "port": int, "user": str, "password": str}}
TLS = {"enable": bool, "trustedCaFile": str, "serverName": str}
PROXY = {"tcp": {"name": str, "type": str, "localIP": str, "localPort": int, "remotePort": int},
         "http": {"name": str, "type": str, "localIP": str, "localPort": int, "customDomains": list}}


class Wrong(Exception):
    pass


def check_keys(table, known, where, optional=()):
    for key, value in table.items():
        if key not in known or type(value) is not known[key]:  # noqa: E721: bool is an int
            raise Wrong(f"{where}: {key} = {value!r}")
    for key in known:
        if key not in table and key not in optional:
            raise Wrong(f"{where}: {key} is missing")


def read_config(text):
    """The file as frpc may see it and nothing else: no template, no escape, and only these keys, so that there is
    no plugin, no include and no value source."""
    for mark in ("{{", "}}", "\\", "\r"):
        if mark in text:
            raise Wrong(f"{mark!r} in the file")
    c = tomllib.loads(text)
    check_keys(c, TOP_KEYS, "top", ["proxies"])
    for name, keys in TABLES.items():
        check_keys(c[name], keys, name, ["token"])
    check_keys(c["transport"]["tls"], TLS, "tls", ["trustedCaFile", "serverName"])
    if c["webServer"]["addr"] != "127.0.0.1" or c["loginFailExit"] or c["log"]["to"] != "console":
        raise Wrong("fixed values differ")
    names = set()
    for p in c.get("proxies", []):
        check_keys(p, PROXY.get(p.get("type"), {}), "proxy")
        if p["localIP"] != "127.0.0.1" or not 0 < p["localPort"] < 65536 or p["name"] in names:
            raise Wrong(f"proxy {p}")
        if p["type"] == "http" and (len(p["customDomains"]) != 1 or type(p["customDomains"][0]) is not str):
            raise Wrong(f"proxy {p}")
        names.add(p["name"])
    return c


def pump(a, b):
    """Joins two connections until both directions have ended."""
    ends = {a: b, b: a}
    with contextlib.suppress(OSError):
        while ends:
            for s in select.select(list(ends), [], [])[0]:
                data = s.recv(1 << 16)
                if data:
                    ends[s].sendall(data)
                else:
                    with contextlib.suppress(OSError):
                        ends[s].shutdown(socket.SHUT_WR)
                    del ends[s]
                    break
    a.close()
    b.close()


class Tunnel:
    """One proxy: what it listens on, if it got it."""

    def __init__(self, fake, config):
        self.config, self.error, self.listener = config, "", None
        if config["type"] == "tcp":
            self._listen(fake, config["remotePort"])
        elif config["customDomains"][0] in fake.names:
            self.error = "router config conflict"
        else:
            fake.names[config["customDomains"][0]] = self

    def _listen(self, fake, port):
        if not 10000 <= port <= 15000:
            self.error = "port not allowed"
            return
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if port in fake.conflicts:
                raise OSError("scripted")
            self.listener.bind(("127.0.0.1", port))
        except OSError:
            self.listener.close()
            self.listener, self.error = None, "port already used"
            return
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.forward(client, b"")

    def forward(self, client, first):
        local = socket.socket()
        try:
            local.connect((self.config["localIP"], self.config["localPort"]))
            local.sendall(first)
        except OSError:
            client.close()
            local.close()
            return
        threading.Thread(target=pump, args=(client, local), daemon=True).start()

    def close(self, fake):
        if self.listener:
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        domain = self.config.get("customDomains", [None])[0]
        if fake.names.get(domain) is self:
            del fake.names[domain]


class FakeFrp:
    """Server and client in one. @token is what the server takes."""

    def __init__(self, token, port):
        self.token, self.port = token, port
        self.faults, self.conflicts, self.names = set(), set(), {}
        self.tunnels, self.config, self.raw = {}, None, ""
        self.door, self.admin = None, None
        self.up = True  # the server
        self.reloads, self.polls = 0, 0
        self.wrong, self.wrong_expected = [], False
        self.lock = threading.RLock()
        self.control = socket.create_server(("127.0.0.1", 0))
        self.control_port = self.control.getsockname()[1]
        threading.Thread(target=self._doors, daemon=True).start()
        self.vhost_socket = socket.create_server(("127.0.0.1", 0))
        self.vhost = self.vhost_socket.getsockname()[1]
        threading.Thread(target=self._vhost, daemon=True).start()

    # -- the process
    def _doors(self):
        with contextlib.suppress(OSError):
            while True:
                door, _ = self.control.accept()
                threading.Thread(target=self._door, args=(door,), daemon=True).start()

    @staticmethod
    def _exactly(door, n):
        data = b""
        while len(data) < n:
            part = door.recv(n - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def _read_config(self, door):
        return self._exactly(door, struct.unpack("!I", self._exactly(door, 4))[0]).decode()

    def order(self, kind, text=""):
        for _ in range(6000):  # between two processes there is none
            door = self.door
            if door:
                break
            time.sleep(0.01)
        door.sendall(kind.encode() + struct.pack("!I", len(text)) + text.encode())

    def attempt(self, what):
        """errno of something that the cage must refuse; 0: it could; None: it was killed for it."""
        with self.lock:
            self.order("T", what)
            try:
                return struct.unpack("=i", self._exactly(self.door, 4))[0]
            except OSError:
                return None

    def die(self, code=3):
        self.order("X", str(code))

    def _door(self, door):
        with contextlib.suppress(OSError):
            if self._exactly(door, 4) != b"door":
                raise OSError
            self._attend(door)
            return
        door.close()  # some stranger who tries ports

    def _attend(self, door):
        with self.lock:
            self._end()
            try:
                self.door, self.raw = door, self._read_config(door)
                self.config = read_config(self.raw)
            except (Wrong, ValueError) as e:
                self.wrong.append(str(e))
                self.die(1)
                return
            except OSError:
                return
            try:
                self._serve_admin()
            except OSError:
                self.die(1)
                return
            self.connect()
        # The order's answers are read elsewhere: here only the end is waited for.
        poll = select.poll()
        poll.register(door, select.POLLRDHUP)
        poll.poll()
        with self.lock:
            if self.door is door:
                self._end()

    def _end(self):
        self._apply([])
        if self.admin:
            admin, self.admin = self.admin, None
            threading.Thread(target=lambda: (admin.shutdown(), admin.server_close()), daemon=True).start()
            admin.socket.close()
        self.door = None

    # -- the server
    def connect(self):
        if not self.up:
            self.order("L", "2026-11-21 10:00:00.000 [W] [client/service.go:1] connect to server error: "
                            "dial tcp 127.0.0.1: connect: connection refused\n")
        elif self.config["auth"].get("token", "") != self.token:
            self.order("L", "2026-11-21 10:00:00.000 [W] [client/service.go:1] connect to server error: "
                            "token in login doesn't match token from configuration\n")
        else:
            self._apply(self.config.get("proxies", []))

    def server(self, up):
        with self.lock:
            self.up = up
            self._apply([])
            if self.door:
                self.connect()

    def _apply(self, wanted):
        new = {p["name"]: p for p in wanted}
        for name in [n for n, t in self.tunnels.items() if new.get(n) != t.config]:
            self.tunnels.pop(name).close(self)
        for name, p in new.items():
            if name not in self.tunnels:
                self.tunnels[name] = Tunnel(self, p)

    def _vhost(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.vhost_socket.accept()
                threading.Thread(target=self._route, args=(client,), daemon=True).start()

    def _route(self, client):
        head = b""
        with contextlib.suppress(OSError):
            while b"\r\n\r\n" not in head and len(head) < 65536:
                part = client.recv(4096)
                if not part:
                    break
                head += part
        host = re.search(rb"(?im)^host: *([^\r\n:]*)", head)
        tunnel = self.names.get(host[1].decode().lower()) if host else None
        if tunnel:
            tunnel.forward(client, head)
        else:
            with contextlib.suppress(OSError):
                client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            client.close()

    # -- the admin API
    def _serve_admin(self):
        fake, web = self, self.config["webServer"]
        secret = "Basic " + base64.b64encode(f"{web['user']}:{web['password']}".encode()).decode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                if "silent" in fake.faults:
                    time.sleep(30)
                    return
                if "drip" in fake.faults:
                    self.drip()
                    return
                if self.headers.get("Authorization") != secret:
                    self.answer(401, b"Unauthorized\n")
                elif self.path == "/api/reload?strictConfig=true":
                    self.answer(*fake.reload())
                elif self.path == "/api/status":
                    self.answer(*fake.status())
                else:
                    self.answer(404, b"404 page not found\n")

            def drip(self):
                with contextlib.suppress(OSError):
                    for byte in b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n" + b"X: y\r\n" * 10000:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.05)

            def answer(self, code, body):
                with contextlib.suppress(OSError):
                    if "huge" in fake.faults:
                        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + b'{"tcp":[' + b" " * (8 << 20))
                        return
                    if "chunked" in fake.faults:
                        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
                        return
                    self.send_response(code)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args):  # pylint: disable=arguments-differ
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

        self.admin = Server(("127.0.0.1", web["port"]), Handler)
        threading.Thread(target=self.admin.serve_forever, daemon=True).start()

    def reload(self):
        with self.lock:
            self.reloads += 1
            if "die_on_reload" in self.faults:
                self.faults.discard("die_on_reload")
                self.die()
                time.sleep(0.2)
                return 200, b""
            try:
                self.order("R")
                self.raw = self._read_config(self.door)
                config = read_config(self.raw)
            except (Wrong, ValueError) as e:
                self.wrong.append(str(e))
                return 400, str(e).encode()
            except (OSError, AttributeError):
                return 500, b""
            self.config = config
            if self.up and config["auth"].get("token", "") == self.token:
                self._apply(config.get("proxies", []))
            return 200, b""

    def status(self):
        with self.lock:
            self.polls += 1
            found = {}
            for name, t in sorted(self.tunnels.items()):
                c, ok = t.config, not t.error
                remote = f"127.0.0.1:{c['remotePort']}" if c["type"] == "tcp" else f"{c['customDomains'][0]}:{self.vhost}"
                entry = {"name": name, "type": c["type"], "status": "running" if ok else "start error",
                         "err": t.error, "local_addr": f"{c['localIP']}:{c['localPort']}", "plugin": "",
                         "remote_addr": remote if ok else ""}
                if "lie_local" in self.faults:
                    entry["local_addr"] = "10.0.0.1:22"
                if "lie_plugin" in self.faults:
                    entry["plugin"] = "unix_domain_socket"
                if "forge" in self.faults:
                    entry.update(status="start error", err="\n<0>forged record\x1b[31m\nPRIORITY=0 " + "x" * 5000)
                found.setdefault(c["type"], []).append(entry)
            if "extra" in self.faults:
                found.setdefault("tcp", []).append({"name": "not-ours", "type": "tcp", "status": "running", "err": "",
                                                    "local_addr": "127.0.0.1:22", "plugin": "", "remote_addr": ":1"})
            if "garbage" in self.faults:
                return 200, b'{"tcp": [{"name": 3'
            if "wrong_types" in self.faults:
                return 200, json.dumps({"tcp": {"name": "x"}, "http": 3}).encode()
            if "deep" in self.faults:
                return 200, b"[" * 100000
            return 200, json.dumps(found).encode()

    def close(self):
        with self.lock:
            self._end()
        for listener in (self.control, self.vhost_socket):
            # Wakes its thread, which would else accept for whoever gets the descriptor's number next.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
