#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""control-client against a simulated control plane: what it sends, and what it makes of good, late,
wrong and hostile answers. Usage: test_client.py PATH-OF-CONTROL-CLIENT
"""
import gzip
import http.server
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import plane as simulated  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
SETUP, HOST, STATS, STATE, INIT = range(1, 6)
CONNECTING, UP, DOWN, REFUSED = range(4)
UNKNOWN = 0xFFFFFFFF
API_KEY = "ak-test"
failures = []


def text(value, size):
    raw = value.encode()
    assert len(raw) < size
    return raw + bytes(size - len(raw))


def setup_bytes(url, secret="", ca_file="", pinned="", key=API_KEY):
    return (struct.pack("=4I", 1, 15001, os.getpid(), 0) + text(url, 256) + text(ca_file, 256) +
            text(pinned, 128) + text(key, 128) + text(secret, 64) +
            text("5f0c8bfe-6b3d-4a51-9d0a-6a4f8ed7f001", 40) + text("0123456789abcdef" * 2, 40) +
            text("", 64) + text("0.1.0", 32))


def host_bytes():
    return (struct.pack("=10I", 2, 24576, 65536, UNKNOWN, 16, 32, 3500, UNKNOWN, 10000, 2) +
            text("NVIDIA GeForce RTX 3090", 128) + text("Some CPU", 128) + text("12.4", 16) +
            text("", 64) + text("DE", 64) + text("", 64))


def stats_bytes(util, status="running"):
    return struct.pack("=2Q6I", 1 << 40, 7, util, 61500, 1000, 2000, UNKNOWN, 0) + text(status, 16)


class Client:
    def __init__(self, url, **setup):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", 'exec 3<&"$1"; exec "$0"', PROGRAM, str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stderr=self.log, stdin=subprocess.DEVNULL,
            user="nobody" if os.geteuid() == 0 else None)
        theirs.close()
        self.send(SETUP, setup_bytes(url, **setup))

    def send(self, op, body):
        self.sock.send(struct.pack("=IHHII", op, 0, 0, 0, len(body)) + body)

    def receive(self, seconds=60):
        if not select.select([self.sock], [], [], seconds)[0]:
            raise AssertionError(f"nothing came within {seconds} s; log: {self.words()}")
        data = self.sock.recv(65536)
        if not data:
            raise AssertionError(f"it ended: {self.words()}")
        return struct.unpack("=I", data[:4])[0], data[16:]

    def wait(self, op, seconds=60, what=lambda body: True):
        deadline = time.monotonic() + seconds
        while True:
            got, body = self.receive(max(0.01, deadline - time.monotonic()))
            if got == op and what(body):
                return body

    def wait_phase(self, phase, seconds=90):
        body = self.wait(STATE, seconds, lambda b: struct.unpack("=I", b[:4])[0] == phase)
        return body[8:].split(b"\0")[0].decode()

    def words(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def end(self):
        self.sock.close()
        code = self.process.wait(timeout=60)
        assert code == 0, f"it ended with {code}: {self.words()}"
        words = self.words()
        assert API_KEY not in words and "sk-" not in words, f"a secret in the log: {words}"


def init_fields(body):
    flags = struct.unpack("=6I", body[:24])
    texts, offset = [], 24
    for size in (64, 128, 128, 128, 128):
        texts.append(body[offset:offset + size].split(b"\0")[0].decode())
        offset += size
    assert offset == len(body)
    return flags, texts


class Rig:
    """A plane, its server, a client; all gone at the end."""

    def __init__(self, tls=None, **setup):
        self.plane = simulated.Plane()
        self.server = simulated.start(self.plane, 0, *(tls or ()))
        self.setup = setup
        self.scheme = "https" if tls else "http"

    def __enter__(self):
        return self

    def connect(self, host="127.0.0.1", **more):
        url = f"{self.scheme}://{host}:{self.server.server_port}/v0"
        self.client = Client(url, **{**self.setup, **more})
        return self.client

    def __exit__(self, *exc):
        self.server.shutdown()
        if exc[0] is None:
            self.client.end()
        else:
            self.client.process.kill()


def registers_and_reports():
    with Rig() as rig:
        client = rig.connect()
        flags, texts = init_fields(client.wait(INIT))
        assert texts[0] == rig.plane.secret and flags[1] == 0
        client.send(HOST, host_bytes())
        client.wait_phase(UP)
        client.send(STATS, stats_bytes(42500))
        stats = rig.plane.wait_path("/stats")
        ping, init, host = (rig.plane.wait_path(p) for p in ("/ping", "/init", "/init/host"))
        assert ping["headers"]["x-api-key"] == API_KEY and "x-agent-secret" not in ping["headers"]
        assert init["body"]["agent_id"] == "5f0c8bfe-6b3d-4a51-9d0a-6a4f8ed7f001"
        assert init["body"]["agent_port"] == 15001 and init["body"]["address"] == "127.0.0.1"
        assert "test_mode" not in init["body"] and init["body"]["pid"] == os.getpid()
        assert host["headers"]["x-agent-secret"] == rig.plane.secret
        assert "x-api-key" not in host["headers"]
        body = host["body"]
        assert body["gpu_amount"] == 2 and body["vram"] == 24 and body["location"] == {"country": "DE"}
        configuration = body["configuration"]
        assert configuration["ram"] == {"amount": 64, "unit": "GB"}
        assert "disk" not in configuration and "memory_speed" not in configuration
        assert configuration["cpu_freq"] == 3.5 and configuration["ethernet_in"] == 10
        assert stats["body"] == {"gpu_util": 42.5, "gpu_temp": 61.5, "cpu_util": 1.0, "ram_util": 2.0,
                                 "inet_in": 1 << 40, "inet_out": 7, "status": "running"}


def keeps_the_connection():
    with Rig() as rig:
        rig.plane.host_exists = True
        client = rig.connect()
        client.wait_phase(UP)
        for i in range(5):
            seen = len(rig.plane.calls)
            client.send(STATS, stats_bytes(i))
            rig.plane.wait_path("/stats", after=seen)
        assert len({call["port"] for call in rig.plane.calls}) == 1, "a new connection per call"


def newest_sample_wins():
    with Rig() as rig:
        rig.plane.host_exists = True
        client = rig.connect()
        client.wait_phase(UP)
        all_said = threading.Event()
        rig.plane.script.append(lambda handler, call: all_said.wait(60) and False)
        client.send(STATS, stats_bytes(0))
        rig.plane.wait_path("/stats")
        for i in range(1, 20):
            client.send(STATS, stats_bytes(i * 1000))
        all_said.set()
        rig.plane.wait(lambda c: c["path"].endswith("/stats") and c["body"]["gpu_util"] == 19)
        sent = [c["body"]["gpu_util"] for c in rig.plane.calls if c["path"].endswith("/stats")]
        assert sent == [0, 19], f"{sent} were sent, though the first of them took its time"


def uses_the_secret_it_has():
    with Rig() as rig:
        rig.plane.host_exists = True
        client = rig.connect(secret="sk-" + "s" * 40)
        client.wait_phase(UP)
        assert all("x-api-key" not in c["headers"] for c in rig.plane.calls)


def survives_a_rotated_secret():
    with Rig() as rig:
        rig.plane.host_exists = True
        client = rig.connect()
        client.wait_phase(UP)
        rig.plane.secret = "sk-" + "n" * 40
        client.send(STATS, stats_bytes(1))
        _, texts = init_fields(client.wait(INIT, what=lambda b: b"nnnn" in b))
        assert texts[0] == rig.plane.secret
        seen = len(rig.plane.calls)
        client.send(STATS, stats_bytes(2))
        assert rig.plane.wait_path("/stats", after=seen)["headers"]["x-agent-secret"] == rig.plane.secret


def says_that_the_key_is_unknown():
    with Rig() as rig:
        client = rig.connect(key="ak-other")
        assert "API key" in client.wait_phase(REFUSED)
        time.sleep(3)
        assert len(rig.plane.calls) <= 2, "it insists"


def backs_off_in_a_storm():
    with Rig() as rig:
        rig.plane.script = [lambda h, c: h.reply(503, b"") or True for _ in range(100)]
        client = rig.connect()
        assert "503" in client.wait_phase(DOWN)
        rig.plane.wait(lambda c: True, after=1)  # it tries again
        time.sleep(6)
        first = rig.plane.calls[0]["time"]
        soon = [c for c in rig.plane.calls if c["time"] - first <= 6]
        assert len(soon) <= 5, f"{len(soon)} calls in 6 s"


def obeys_retry_after():
    with Rig() as rig:
        rig.plane.script = [lambda h, c: h.reply(429, b"", Retry_After="3") or True]
        client = rig.connect()
        client.wait(INIT)
        first, second = rig.plane.calls[0], rig.plane.calls[1]
        assert second["time"] - first["time"] > 2.9


def refuses_init(answer, expected):
    with Rig() as rig:
        rig.plane.script = [lambda h, c: False, answer]
        client = rig.connect()
        words = client.wait_phase(DOWN)
        assert expected in words, words
        client.wait(INIT, 60)  # the next answer is good again, so nothing of the bad one stuck


def refuses_a_long_answer():
    refuses_init(lambda handler, call: send_endless(handler), "longer than")


def send_endless(handler):
    """50 MiB, as far as the other side takes them."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(50 << 20))
    handler.end_headers()
    try:
        for _ in range(50):
            handler.wfile.write(b" " * (1 << 20))
    except OSError:
        pass
    handler.close_connection = True
    return True


def refuses_a_truncated_answer():
    def answer(handler, call):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"ok":true,"data":{')
        handler.close_connection = True
        return True
    refuses_init(answer, "")


def refuses_a_slow_answer():
    answered = threading.Event()
    refuses_init(lambda h, c: answered.wait(300) and False, "")  # by far longer than all that is waited for there
    answered.set()


def does_not_unpack():
    bomb = gzip.compress(b'{"ok":true,"data":{}}' + b" " * (20 << 20))
    refuses_init(lambda h, c: h.reply(200, bomb, Content_Encoding="gzip") or True, "no JSON")


def follows_no_redirect():
    silent = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            silent.append(self.path)
        do_POST = do_GET
        log_message = do_GET

    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    target = f"http://127.0.0.1:{other.server_port}/v0/init"
    for status in (301, 302, 307, 308):
        refuses_init(lambda h, c: h.reply(status, b"", Location=target) or True, str(status))
    assert not silent, "it went where the answer pointed"
    other.shutdown()


def refuses_strings_with_more_in_them():
    good = "x" * 20
    for key, value in (("secret_key", "sk-" + good + "\n[common]"), ("secret_key", good),
                       ("secret_key", "sk-short"), ("secret_key", 7), ("tunnel_token", 'a"b' + good),
                       ("tunnel_token", "{{ .Envs.HOME }}"), ("tunnel_token", "t" * 200),
                       ("agent_created", "yes"), ("frp", {"server_addr": "h", "server_port": 0}),
                       ("frp", {"server_addr": "h", "server_port": 65536}),
                       ("frp", {"server_addr": "h\u0000x", "server_port": 7000}),
                       ("frp", {"server_addr": "-oProxyCommand=x", "server_port": 7000}),
                       ("frp", {"server_addr": "h", "server_port": 7000, "token": "a b"}),
                       ("frp", {"server_addr": "h", "server_port": 7000, "subdomain": "a/b"}),
                       ("frp", {"server_port": 7000})):
        with Rig() as rig:
            rig.plane.extra = {key: value}
            client = rig.connect()
            words = client.wait_phase(DOWN)
            assert good not in words and "Envs" not in words, f"{key}: the log repeats the value"


def refuses_odd_json():
    for body in (b"", b"[]", b"null", b'{"ok":true}', b'{"ok":1,"data":{}}', b'{"ok":true,"data":[]}',
                 b'{"ok":true,"data":{"host_exists":true,"host_exists":false}}', b"\xff\xfe",
                 b'{"ok":true,"data":{}} trailing', b"[" * 60000):
        with Rig() as rig:
            rig.plane.script = [lambda h, c: False, lambda h, c: h.reply(200, body) or True]
            rig.connect().wait_phase(DOWN)


def takes_tunnel_settings():
    with Rig() as rig:
        rig.plane.host_exists = True
        rig.plane.extra = {"tunnel_token": "tok.en-1", "frp": {
            "server_addr": "frp.example.org", "server_port": 7000, "token": "abc", "subdomain": "a.b"}}
        flags, texts = init_fields(rig.connect().wait(INIT))
        assert flags[4] == 7000 and texts[1:] == ["tok.en-1", "frp.example.org", "abc", "a.b"]


def starts_anew_once_when_told():
    with Rig() as rig:
        rig.plane.host_exists = True
        rig.plane.emergency = 1000
        client = rig.connect(secret="sk-" + "s" * 40)
        client.wait_phase(UP)
        inits = [c for c in rig.plane.calls if c["path"].endswith("/init")]
        assert [("x-api-key" in c["headers"]) for c in inits] == [False, True], "not once with the key"
        time.sleep(2)
        assert len([c for c in rig.plane.calls if c["path"].endswith("/init")]) == 2


def make_certificate(folder, name):
    cert, key = f"{folder}/{name}.crt", f"{folder}/{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                    "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def pin_of(cert):
    public = subprocess.run(["openssl", "x509", "-in", cert, "-pubkey", "-noout"], check=True,
                            capture_output=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "der"], input=public, check=True,
                         capture_output=True).stdout
    digest = subprocess.run(["openssl", "dgst", "-sha256", "-binary"], input=der, check=True,
                            capture_output=True).stdout
    import base64
    return "sha256//" + base64.b64encode(digest).decode()


def believes_only_a_certificate_it_can_check():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        one, two = make_certificate(folder, "one"), make_certificate(folder, "two")
        os.chmod(one[0], 0o644)
        os.chmod(two[0], 0o644)
        for setup, good in (({}, False), ({"ca_file": one[0]}, True), ({"ca_file": two[0]}, False),
                            ({"ca_file": one[0], "pinned": pin_of(one[0])}, True),
                            ({"ca_file": one[0], "pinned": pin_of(two[0])}, False),
                            ({"ca_file": f"{folder}/absent"}, False)):
            with Rig(tls=one) as rig:
                rig.plane.host_exists = True
                client = rig.connect(**setup)
                client.wait_phase(UP if good else DOWN)
                assert bool(rig.plane.calls) == good, f"{setup}: it spoke before it was sure"
        with Rig(tls=one) as rig:  # the name has to be the certificate's
            rig.connect("localhost", ca_file=one[0]).wait_phase(DOWN)
            assert not rig.plane.calls


def takes_no_other_scheme():
    for url in ("http://203.0.113.7/v0", "ftp://127.0.0.1/", "file:///etc/passwd", "nonsense",
                "https://user:pass@127.0.0.1/"):
        client = Client(url)
        assert client.process.wait(timeout=60) == 1, url
        assert "control_plane" in client.words(), client.words()


def shows_no_secret_to_others():
    with Rig() as rig:
        client = rig.connect()
        client.wait(INIT)
        pid = client.process.pid
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            assert API_KEY.encode() not in f.read()
        status = open(f"/proc/{pid}/status").read()
        assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status or os.environ.get("QUDATA_SANDBOX") == "log"
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0, "it is dumpable"


def ends_with_its_master():
    with Rig() as rig:
        client = rig.connect()
        client.wait(INIT)


def finds_by_name():
    with Rig() as rig:
        rig.plane.host_exists = True
        rig.connect("localhost").wait_phase(UP)


CASES = [registers_and_reports, keeps_the_connection, newest_sample_wins, uses_the_secret_it_has,
         survives_a_rotated_secret, says_that_the_key_is_unknown, backs_off_in_a_storm, obeys_retry_after,
         refuses_a_long_answer, refuses_a_truncated_answer, refuses_a_slow_answer, does_not_unpack,
         follows_no_redirect, refuses_strings_with_more_in_them, refuses_odd_json, takes_tunnel_settings,
         starts_anew_once_when_told, believes_only_a_certificate_it_can_check, takes_no_other_scheme,
         shows_no_secret_to_others, ends_with_its_master, finds_by_name]


def main():
    wanted = sys.argv[2:]
    for case in CASES:
        if wanted and case.__name__ not in wanted:
            continue
        started = time.monotonic()
        try:
            case()
            print(f"PASS {case.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
        except Exception as e:  # noqa: BLE001
            failures.append(case.__name__)
            print(f"FAIL {case.__name__}: {type(e).__name__}: {e}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
