# SPDX-License-Identifier: Apache-2.0
"""What the cases of tests/frp share: a supervisor under test, frps and frpc, a service to be reached."""
import array
import contextlib
import fcntl
import http.server
import json
import os
import pathlib
import pwd
import queue
import random
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import tomllib

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests/abuse"))
from wire import CONST, EVENT, HEADER, OPS, REPLY, SEALS, STATUS_NAME, message  # noqa: E402

TOKEN = "tok-3n.Secret_77"
AGENT = "0123456789abcdef0123456789abcdef"
TCP, HTTP, API = 1, 2, 3
STATES = re.findall(r"^\tX\(\w+, \"(\w+)\"", (TOP / "proto/proto.h").read_text().split(
    "define PROTO_TUNNEL_LIST")[1].split("\n\n")[0], re.M)
PROXY_STATES = re.findall(r"^\tX\(\w+, \"(\w+)\"", (TOP / "proto/proto.h").read_text().split(
    "define PROTO_PROXY_LIST")[1].split("\n\n")[0], re.M)


def ordinary_user():
    """Whom the daemons run as: not nobody, whose processes other tests may end."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    names = {p.pw_name for p in pwd.getpwall()}
    return next(n for n in ("uucp", "news", "nobody") if n in names)


class Refused(Exception):
    pass


def until(what, condition, timeout=60.0, every=0.02):
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {timeout} s: {what}")
        time.sleep(every)


def free_port(low=16000, high=16999, room=1):
    """A port that nobody has, and with it the next ones that make up @room."""
    for port in range(low, high):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                s.bind(("127.0.0.1", port))
                if port not in free_port.given:
                    free_port.given.update(range(port, port + room))
                    return port
    raise AssertionError("no port is free")


free_port.given = set()


def sealed(data):
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd


# ---- agentd's side of the protocol -------------------------------------------------------------------------
class Agent:
    """What agentd says to the supervisor, and the events that it hears."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(60)
        self.sock.connect(str(path))
        self.next_id = 1
        self.events = []
        self.call("FRP_HELLO", version=CONST["PROTO_VERSION"])

    def close(self):
        self.sock.close()

    def _receive(self):
        data, fds, _, _ = socket.recv_fds(self.sock, 4096, 2)
        if not data:
            raise ConnectionError("the supervisor has closed the connection")
        return HEADER.unpack(data[:16]), data[16:], fds

    @staticmethod
    def _fields(fields, body):
        out, at = {}, 0
        for f in fields:
            out[f.name] = f.unpack(body[at:at + f.size])
            at += f.size
        return out

    def _event(self, number, body):
        op = next(o for o in OPS.values() if o.number == number)
        self.events.append((op.name, self._fields(op.request, body)))

    def call(self, name, fds=(), **values):
        op = OPS[name]
        self.next_id += 1
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([message(op, op.body(**values), request_id=self.next_id)], rights)
        for fd in fds:
            os.close(fd)
        while True:
            (number, kind, status, got_id, _), body, got = self._receive()
            if kind == EVENT:
                self._event(number, body)
                continue
            assert (number, kind, got_id) == (op.number, REPLY, self.next_id), (name, number, kind)
            if status != 0:
                raise Refused(STATUS_NAME[status])
            out = self._fields(op.reply, body)
            out["fds"] = got
            return out

    def refused(self, name, **values):
        try:
            self.call(name, **values)
        except Refused as e:
            return str(e)
        return "OK"

    def configure(self, port, token=TOKEN, tls=1, naming=1, server="127.0.0.1", server_name="",
                  domain="tok.example.org", agent=AGENT):
        return self.call("FRP_CONFIGURE", [sealed(token.encode() + b"\n")], agent=agent, port=port, tls=tls,
                         naming=naming, server=server, server_name=server_name, domain=domain)

    def set(self, owner, *proxies):
        return self.call("FRP_SET", owner=owner, proxies=proxies)

    def status(self):
        s = self.call("FRP_STATUS")
        s["state"] = STATES[s["state"]]
        return s

    def list(self):
        """{(owner, local): (state, detail)}"""
        rep = self.call("FRP_LIST")
        with os.fdopen(rep["fds"][0], "rb") as f:
            raw = f.read()
        assert len(raw) == rep["bytes"]
        op, found, at = OPS["FRP_PROXY"], {}, 0
        while at < len(raw):
            number, kind, _, _, size = HEADER.unpack(raw[at:at + 16])
            assert (number, kind) == (op.number, EVENT)
            v = self._fields(op.request, raw[at + 16:at + 16 + size])
            found[(v["owner"], v["local"])] = (PROXY_STATES[v["state"]], v["detail"])
            at += 16 + size
        return found

    def await_state(self, state, timeout=60):
        until(f"the tunnels are {state}", lambda: self.status()["state"] == state, timeout)
        return self.status()

    def await_proxy(self, owner, local, state="running", timeout=60):
        return until(f"{owner} {local} is {state}", lambda: self.list().get((owner, local), ("",))[0] == state, timeout)


# ---- processes ---------------------------------------------------------------------------------------------
def alive(pid):
    with contextlib.suppress(OSError):
        return not re.search(r"^State:\s+[XZ]", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)
    return False


class Supervisor:
    """frp-supervisor from a build tree, as an ordinary user where the tests run as root."""

    place = "/run" if os.geteuid() == 0 else None  # of its files

    def __init__(self, build, frpc, settings=(), prefix=()):
        self.program = pathlib.Path(build) / "frp-supervisor/frp-supervisor"
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="qudata-frp-", dir=self.place))
        self.root.chmod(0o755)
        self.prefix = list(prefix)
        self.process = None
        self.user = ordinary_user()
        pw = pwd.getpwnam(self.user)
        self.ids = (pw.pw_uid, pw.pw_gid)
        self.run_dir = self.root / "run"
        self.socket_dir = self.root / "socket"
        for d in (self.run_dir, self.socket_dir):
            d.mkdir(mode=0o700)
            os.chown(d, *self.ids)
        self.socket_dir.chmod(0o755)
        self.socket = self.socket_dir / "frp.sock"
        self.log_path = self.root / "log"
        values = {"socket": self.socket, "run_dir": self.run_dir, "frpc": frpc,
                  "socket_group": subprocess.check_output(["id", "-gn", self.user], text=True).strip(),
                  "agentd_user": pwd.getpwuid(os.geteuid()).pw_name,
                  "tls": "off", "api_port_low": 1024, "api_port_high": 65535, **dict(settings)}
        self.conf = self.root / "frp-supervisor.conf"
        self.conf.write_text("".join(f"{k} = {v}\n" for k, v in values.items()))

    def start(self):
        as_user = ["setpriv", f"--reuid={self.ids[0]}", f"--regid={self.ids[1]}", "--clear-groups",
                   "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"] if os.geteuid() == 0 else []
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(  # pylint: disable=consider-using-with
                [*self.prefix, *as_user, str(self.program), "--config", str(self.conf)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, cwd="/", env=self.environment(), start_new_session=True)
        until("the supervisor listens", self.listens)
        return self

    @staticmethod
    def environment():
        keep = {k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", "HOSTILE": "{{ x }}", **keep}

    def listens(self):
        if self.process.poll() is not None:
            raise AssertionError(f"it has ended with {self.process.returncode}: {self.log()[-800:]}")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(str(self.socket))
            return True
        return False

    def agent(self):
        return Agent(self.socket)

    def end(self, number=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)
        return self.process.returncode if self.process else None

    def down(self):
        """Ends it with its frpc, whatever state they are in."""
        self.end(signal.SIGINT)
        pid = self.frpc_pid()
        if pid and alive(pid):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def record(self):
        with contextlib.suppress(OSError):
            return dict(line.split(" = ", 1) for line in (self.run_dir / "frpc.run").read_text().splitlines())
        return {}

    def frpc_pid(self):
        return int(self.record().get("pid", 0))

    def rendered(self):
        return (self.run_dir / "frpc.toml").read_text()

    def toml(self):
        return tomllib.loads(self.rendered())


class Slow:
    """A relay on loopback that holds everything back for a while, each piece a little differently."""

    def __init__(self, port, delay_s=0.08, jitter_s=0.02):
        self.target, self.delay_s, self.jitter_s = port, delay_s, jitter_s
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                for a, b in ((client, server), (server, client)):
                    pieces = queue.Queue()
                    threading.Thread(target=self._read, args=(a, pieces), daemon=True).start()
                    threading.Thread(target=self._write, args=(b, pieces), daemon=True).start()

    def _read(self, source, pieces):
        data = b"x"
        while data:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            pieces.put((time.monotonic() + self.delay_s + random.uniform(-1, 1) * self.jitter_s, data))

    @staticmethod
    def _write(sink, pieces):
        with contextlib.suppress(OSError):
            while True:
                due, data = pieces.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Process:
    """A program of the test's own whose output is kept in a file."""

    def __init__(self, argv, log, prefix=()):
        self.log_path = pathlib.Path(log)
        with open(log, "ab") as f:
            self.process = subprocess.Popen([*prefix, *map(str, argv)], stdin=subprocess.DEVNULL, stdout=f, stderr=f)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def end(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)


class Frps(Process):
    """The real server."""

    def __init__(self, binary, folder, port=None, token=TOKEN, vhost=None, prefix=(), bind="127.0.0.1", extra=""):
        self.port = port or free_port()
        self.vhost = vhost or free_port()
        self.binary, self.folder, self.prefix, self.bind, self.token = binary, pathlib.Path(folder), prefix, bind, token
        self.conf = self.folder / "frps.toml"
        self.conf.write_text(
            f'bindAddr = "{bind}"\nproxyBindAddr = "{bind}"\nbindPort = {self.port}\nvhostHTTPPort = {self.vhost}\n'
            f'auth.token = "{token}"\nlog.disablePrintColor = true\nallowPorts = [{{start = 10000, end = 15000}}]\n'
            + extra)
        self.start()

    def start(self):
        super().__init__([self.binary, "-c", self.conf], self.folder / "frps.log", self.prefix)
        if not self.prefix:
            until("frps listens", self.listens)

    def listens(self):
        assert self.process.poll() is None, self.log()[-500:]
        with contextlib.suppress(OSError), socket.create_connection((self.bind, self.port), 1):
            return True
        return False


# ---- what is at the other end of a tunnel --------------------------------------------------------------------
class Service:
    """An HTTP server on a local port that names itself; and a TCP one that sends what it is asked for."""

    def __init__(self, name, port=None, secret=None):
        self.port = port or free_port(24000, 29999, 10)
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                code = 200
                if secret is not None and self.path != "/ping":
                    given = self.headers.get("X-Agent-Secret")
                    code = 401 if given is None else 200 if given == secret else 403
                body = json.dumps({"name": name, "port": service.port}).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):  # pylint: disable=arguments-differ
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Source:
    """
    Sends as many bytes of a known pattern as the client asks for in its first 8 bytes; with @slow only a trickle of
    them until release().
    """

    PATTERN = bytes(range(251)) * 1024

    def __init__(self, port=None, slow=False):
        self.port = port or free_port(24000, 29999, 10)
        self.released = threading.Event()
        if not slow:
            self.released.set()
        pattern, released = self.PATTERN, self.released

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                want = int.from_bytes(self.request.recv(8), "big")
                sent = 0
                while sent < want:
                    at = sent % len(pattern)
                    chunk = pattern[at:at + (want - sent if released.is_set() else min(4096, want - sent))]
                    self.request.sendall(chunk)
                    sent += len(chunk)
                    released.wait(0.02)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def release(self):
        self.released.set()

    def close(self):
        self.release()
        self.server.shutdown()
        self.server.server_close()


def fetch(port, want, host="127.0.0.1"):
    """Takes @want bytes of a Source behind @port; every byte is compared."""
    got, pattern = 0, Source.PATTERN
    with socket.create_connection((host, port), 60) as s:
        s.settimeout(60)
        s.sendall(want.to_bytes(8, "big"))
        while got < want:
            data = s.recv(1 << 16)
            if not data:
                break
            at = got % len(pattern)
            ring = pattern[at:] + pattern
            assert data == (ring * (len(data) // len(ring) + 1))[:len(data)], f"wrong bytes after {got}"
            got += len(data)
    assert got == want, f"{got} of {want} bytes"
    return got


def get(port, path="/", host=None, headers=None, address="127.0.0.1", timeout=60):
    """(status, JSON or None) of an HTTP request; (0, None) when nothing answers."""
    conn = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        conn.request("GET", path, headers={**({"Host": host} if host else {}), **(headers or {})})
        r = conn.getresponse()
        raw = r.read()
        with contextlib.suppress(ValueError):
            return r.status, json.loads(raw)
        return r.status, None
    except OSError:
        return 0, None
    finally:
        conn.close()
