#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the real qudatactl against a scripted API peer and checks exit codes, output and requests.

usage: ctl-fake-api.py QUDATACTL [MANUAL-PAGE]
"""
import contextlib
import fcntl
import http.server
import json
import os
import pty
import pwd
import random
import re
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

CTL = sys.argv.pop(1)
MANUAL = sys.argv.pop(1) if len(sys.argv) > 1 else None
ID = "3f2a00112233aabb"
ID2 = "3f2b00112233aabb"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVKo3YJ9Zk0sOgkQlgnFrHd1cSwpkBqlIOcmdqRyGAJ"
SECRET = "sk-0123456789abcdef"


def instance(iid=ID, **changes):
    base = {
        "instance_id": iid, "vm_id": iid, "status": "running", "detail": "guest is ready",
        "cpus": 2, "memory_mib": 1024, "disk_mib": 10240, "image": "debian-12",
        "ports": {"22": "10001"}, "created_at": int(time.time()) - 3662,
        "since": int(time.time()) - 65, "accel": "tcg",
        "ssh": {"host": "127.0.0.1", "port": 10001, "user": "root", "host_key": KEY},
    }
    base.update(changes)
    return base


def heed_signals():
    """Whoever runs the tests, by nohup say, may ignore them."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Peer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def address_string(self):
        return "peer"

    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if length else b""
        record = (self.command, self.path, json.loads(body) if body else None, dict(self.headers))
        self.server.requests.append(record)
        reply = self.server.script(record)
        if callable(reply):
            self.close_connection = True
            reply(self)
            return
        status, value = reply
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_DELETE = answer


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hangs up early is what some of the cases are about."""


class TcpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True


def ok(data=None):
    return 200, {"ok": True, "data": data}


def error(status, text):
    return status, {"ok": False, "error": text}


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.sock = os.path.join(self.dir.name, "ctl.sock")
        self.server = UnixServer(self.sock, Peer)
        self.prepare(self.server)
        self.instances = [instance()]
        self.server.script = self.script
        self.special = {}

    def prepare(self, server):
        server.requests = []
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)

    def tearDown(self):
        self.dir.cleanup()

    def script(self, record):
        method, path, _, _ = record
        key = f"{method} {path.split('?')[0]}"
        if key in self.special:
            reply = self.special[key]
            return reply.pop(0) if isinstance(reply, list) else reply
        if key == "GET /v1/instances":
            return ok({"instances": self.instances})
        for inst in self.instances:
            if key == f"GET /v1/instances/{inst['instance_id']}":
                return ok(inst)
        return error(404, "no such instance")

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items()
               if not k.startswith(("QUDATA_", "LC_", "LANG")) and not k.lower().endswith("_proxy")}
        env.update(TERM="xterm", NO_COLOR="1", **more)
        return env

    def ctl(self, *args, expect=0, stdin=None, env=None, sock=True):
        argv = [CTL] + (["--socket", self.sock] if sock else []) + list(args)
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=180,
                              stdin=subprocess.DEVNULL if stdin is None else None,
                              env=self.environment(**(env or {})))
        out, err = done.stdout.decode(), done.stderr.decode()
        self.assertEqual(done.returncode, expect, f"{args}\nout: {out}\nerr: {err}")
        return out, err

    def requests(self, method):
        return [r for r in self.server.requests if r[0] == method]


class Reading(Case):
    def test_list_is_a_table_and_json(self):
        self.instances.append(instance(ID2, status="pending", detail="starting QEMU",
                                       created_at=int(time.time()) - 9999))
        out, _ = self.ctl("list")
        lines = out.splitlines()
        self.assertEqual(lines[0].split(),
                         ["ID", "STATUS", "SINCE", "CPUS", "MEMORY", "GPUS", "IMAGE", "DETAIL"])
        self.assertTrue(lines[1].startswith(ID2), "the oldest comes first")
        self.assertRegex(lines[2], rf"^{ID}  running  1m \d+s +2   1 GiB     -  debian-12  guest is ready$")
        out, _ = self.ctl("list", "--json")
        self.assertEqual(json.loads(out)["instances"], self.instances)

    def test_status(self):
        out, _ = self.ctl("status")
        for text in (f"Instance  {ID}", "Status    running: guest is ready", "1h 1m ago",
                     "2 CPUs, 1 GiB memory, 10 GiB disk", "22 -> 10001",
                     f"qudatactl ssh {ID}  (root@127.0.0.1, port 10001)", KEY):
            self.assertIn(text, out)
        out, _ = self.ctl("--json", "status", "3f2a")
        self.assertEqual(json.loads(out), self.instances[0])

    def test_where_ssh_leads(self):
        self.instances[0]["ssh"].update({"in": "vm", "detail": ""})
        self.assertNotIn("into the", self.ctl("status")[0])
        self.instances[0]["ssh"].update({"in": "vm", "detail": "no sshd\x1b[31m"})
        self.assertIn("          into the VM: no sshd\\x1b[31m\n", self.ctl("status")[0])
        self.instances[0]["ssh"].update({"in": "container", "detail": ""})
        self.assertIn("          into the container\n", self.ctl("status")[0])

    def test_gpus_of_an_instance(self):
        self.instances[0]["gpus"] = ["0000:01:00.0", "0000:81:00.0"]
        out, _ = self.ctl("status")
        self.assertIn("GPUs      0000:01:00.0\n          0000:81:00.0\n", out)
        self.assertRegex(self.ctl("list")[0].splitlines()[1], r"1 GiB +2  debian-12")

    def test_tunnels(self):
        mine = {"port": 10001, "address": "frp.example.org:10001", "kind": "tcp", "state": "conflict",
                "detail": "port already used \x1b[31m"}
        self.instances[0]["tunnels"] = {"22": mine}
        self.assertIn("Tunnels   22 -> frp.example.org:10001 (tcp), conflict: port already used \\x1b[31m\n",
                      self.ctl("status")[0])
        self.instances[0]["tunnels"] = {"22": {"port": 3, "state": 4}, "80": 5}
        self.assertIn("Tunnels   22 -> - (-), -\n          80 -> - (-), -\n", self.ctl("status")[0])
        data = {"state": "connecting", "detail": "refused", "tunnels": 2, "running": 1, "server": "frp.example.org",
                "server_port": 7000, "list": [
                    {"instance": None, "name": "api", "guest_port": 0, "host_port": 15001, "port": 15001,
                     "address": "tok-15001.example.org", "kind": "http", "state": "running", "detail": ""},
                    {"instance": ID, "name": "", "guest_port": 22, "host_port": 10022, **mine}]}
        self.special["GET /v1/tunnels"] = ok(data)
        lines = self.ctl("tunnels")[0].splitlines()
        self.assertEqual(lines[0].split(), ["INSTANCE", "PORT", "HOST", "PORT", "KIND", "ADDRESS", "STATE", "DETAIL"])
        self.assertEqual(lines[1].split(), ["api", "-", "15001", "http", "tok-15001.example.org", "running"])
        self.assertRegex(lines[2], rf"^{ID} +22 +10022  tcp   frp.example.org:10001  conflict  port .*\\x1b\[31m$")
        self.assertEqual(lines[3:], ["", "frp.example.org:7000 connecting: refused, 1 of 2 tunnels run"])
        self.assertEqual(json.loads(self.ctl("tunnels", "--json")[0]), data)
        self.special["GET /v1/tunnels"] = ok({"state": "off", "list": []})
        self.assertIn("There is no server", self.ctl("tunnels")[1])
        self.special["GET /v1/tunnels"] = ok({"state": "off"})
        self.ctl("tunnels", expect=1)
        self.special["GET /v1/tunnels"] = error(403, "for operators")
        self.ctl("tunnels", expect=7)

    def test_foreign_text_is_escaped(self):
        self.instances[0]["detail"] = "\x1b]0;owned\x07 \u202e \x9b"
        for command in ("status", "list"):
            out, _ = self.ctl(command)
            self.assertNotRegex(out, "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
            self.assertIn("\\x1b]0;owned\\x07", out)
        self.special[f"GET /v1/instances/{ID}"] = error(500, "bad \x1b[31m")
        _, err = self.ctl("status", ID, expect=1)
        self.assertIn("bad \\x1b[31m", err)

    def test_prefix_name_and_absence(self):
        self.instances.append(instance(ID2, name="Web.1"))
        self.ctl("status", "3f2b")
        out, _ = self.ctl("status", "Web.1")
        self.assertIn(ID2, out)
        _, err = self.ctl("status", "3f2", expect=2)
        self.assertIn(ID2, err)
        _, err = self.ctl("status", expect=2)
        self.assertIn("say which", err)
        self.ctl("status", "ff", expect=3)
        self.ctl("status", "ffffffffffffffff", expect=3)
        self.ctl("status", "../x", expect=2)
        self.instances.clear()
        _, err = self.ctl("status", expect=3)
        self.assertIn("qudatactl create", err)

    def test_statuses_become_exit_codes(self):
        for status, code in ((401, 7), (403, 7), (404, 3), (408, 5), (409, 6), (422, 1), (500, 1)):
            self.special["GET /v1/instances"] = error(status, "because")
            out, err = self.ctl("list", "--json", expect=code)
            self.assertIn("because", err)
            self.assertEqual(json.loads(out)["exit"], code)

    def test_nonsense_answers(self):
        for raw in (b"", b"hello", b"[]", b'{"ok":true}', b'{"ok":true,"data":{"instances":3}}',
                    b'{"ok":true,"ok":false}', b'\xff\xfe'):
            self.special["GET /v1/instances"] = (200, raw)
            self.ctl("list", expect=1)

    def test_answer_is_bounded(self):
        self.special["GET /v1/instances"] = (200, b" " * (17 << 20))
        _, err = self.ctl("list", expect=1)
        self.assertIn("larger than", err)

    def test_full_output_is_an_error(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([CTL, "--socket", self.sock, "list"], stdout=full,
                                  stderr=subprocess.PIPE, timeout=180, env=self.environment())
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot write", done.stderr)

    def test_host_and_version(self):
        self.special["GET /v1/host"] = ok({"version": "0.1.0", "http_port": 15001,
                                           "accel": {"choice": "tcg", "reason": "no sign of life"}})
        self.assertIn("accel.reason                     no sign of life", self.ctl("host")[0])
        self.assertEqual(json.loads(self.ctl("host", "--json")[0])["http_port"], 15001)
        self.assertRegex(self.ctl("version")[0], r"qudatactl \S+\nagent     0.1.0\n")
        out, _ = self.ctl("check", "--json", expect=self.check_code())
        accel = [c for c in json.loads(out)["checks"] if c["check"] == "accel"]
        self.assertEqual(accel[0]["detail"], "the helper's choice is tcg: no sign of life")

    def check_code(self):
        """check depends on the machine: its exit status must agree with its own report."""
        done = subprocess.run([CTL, "--socket", self.sock, "check", "--json"], capture_output=True,
                              timeout=180, env=self.environment())
        report = json.loads(done.stdout)
        failed = any(c["level"] == "FAIL" for c in report["checks"])
        self.assertEqual(done.returncode, 1 if failed else 0)
        self.assertEqual(report["ok"], not failed)
        return done.returncode


def gpu(bus, **changes):
    address = f"0000:{bus:02x}:00.0"
    base = {
        "address": address, "name": "GeForce RTX 3090", "verdict": "rentable", "instance": None,
        "leased": False, "driver": "nvidia", "group": bus, "node": 0,
        "bars": [16 << 20, 32 << 30, 0, 32 << 20, 0, 0], "together": [], "reasons": [], "holders": [],
        "parts": [{"address": address, "role": "gpu", "group": bus, "driver": "nvidia", "what": ""},
                  {"address": address[:-1] + "1", "role": "companion", "group": bus,
                   "driver": "snd_hda_intel", "what": ""}],
    }
    base.update(changes)
    return base


class Gpus(Case):
    def setUp(self):
        super().setUp()
        pair = [{"address": f"0000:0{n}:00.0", "role": "gpu", "group": 3, "driver": "", "what": ""}
                for n in (3, 4)]
        self.gpus = [
            gpu(1),
            gpu(2, verdict="not_viable", node=1,
                reasons=[{"reason": "not_viable", "address": "0000:09:00.0", "what": "e1000e", "text": "not alone"},
                         {"reason": "busy", "address": "0000:02:00.0", "what": "", "text": "it is in use"}],
                holders=[{"pid": 7, "program": "nvidia-smi", "node": "/dev/nvidia0", "service": "x.service"}]),
            gpu(3, group=3, node=None, together=["0000:04:00.0"], instance=ID, leased=True, verdict="busy",
                driver="vfio-pci", parts=pair),
            gpu(4, group=3, node=None, together=["0000:03:00.0"], verdict="quarantined", driver="", parts=pair),
        ]
        self.special["GET /v1/gpus"] = ok({"gpus": self.gpus})

    def test_table(self):
        out, err = self.ctl("gpus")
        self.assertEqual(err, "")
        table, remarks = out.split("\n\n")
        self.assertEqual([line.split()[0] for line in table.splitlines()],
                         ["ADDRESS"] + [g["address"] for g in self.gpus])
        self.assertRegex(table, r"0000:01:00\.0  GeForce RTX 3090  rentable +nvidia +1 +0 +16M,32G,32M  -\n")
        self.assertRegex(table, rf"0000:03:00\.0 .* busy +vfio-pci +3 +- +16M,32G,32M  {ID}\n")
        self.assertEqual(remarks.splitlines(), [
            "0000:02:00.0  not_viable: not alone (0000:09:00.0: e1000e)",
            "0000:02:00.0  busy: it is in use",
            "0000:02:00.0  process 7 nvidia-smi has /dev/nvidia0 open, of x.service",
            "0000:03:00.0  is rented together with 0000:04:00.0 or not at all",
            "0000:04:00.0  try: qudatactl gpus recover 0000:04:00.0",
            "0000:04:00.0  is rented together with 0000:03:00.0 or not at all"])
        self.assertEqual(json.loads(self.ctl("gpus", "--json")[0]), {"gpus": self.gpus})

    def test_tree(self):
        out, _ = self.ctl("gpus", "--tree")
        self.assertEqual(out.splitlines(), [
            "NUMA node 0",
            "`- 0000:01:00.0  GeForce RTX 3090  rentable  [the host, driver nvidia]",
            "   `- IOMMU group 1",
            "      |- 0000:01:00.0  gpu        nvidia",
            "      `- 0000:01:00.1  companion  snd_hda_intel",
            "NUMA node 1",
            "`- 0000:02:00.0  GeForce RTX 3090  not_viable  [the host, driver nvidia]",
            "   `- IOMMU group 2",
            "      |- 0000:02:00.0  gpu        nvidia",
            "      `- 0000:02:00.1  companion  snd_hda_intel",
            "NUMA node not known",
            f"`- 0000:03:00.0  GeForce RTX 3090  busy  [instance {ID}]",
            "   0000:04:00.0  GeForce RTX 3090  quarantined  [no driver has it]",
            "   (rented together or not at all)",
            "   `- IOMMU group 3",
            "      |- 0000:03:00.0  gpu        -",
            "      `- 0000:04:00.0  gpu        -"])

    def test_tree_fits_the_terminal(self):
        for env, mark, branch in ((dict(LC_ALL="C.UTF-8"), "…", "└─ "), ({}, "~", "`- ")):
            out, _ = self.ctl("gpus", "--tree", env=dict(COLUMNS="40", **env))
            self.assertEqual(max(len(line) for line in out.splitlines()), 40)
            self.assertIn(f"{branch}0000:01:00.0  GeForce RTX 3090  rent{mark}\n", out)

    def test_foreign_text(self):
        evil = "\x1b]0;owned\x07"
        for key in ("name", "driver", "verdict", "instance"):
            self.gpus[0][key] = evil
        self.gpus[0]["parts"][0].update(role=evil, what=evil, address=evil)
        self.gpus[1]["reasons"][0].update(reason=evil, what=evil, text=evil)
        self.gpus[1]["holders"][0].update(program=evil)
        self.gpus[2]["together"] = [evil]
        for args in ([], ["--tree"]):
            out, _ = self.ctl("gpus", *args)
            self.assertNotRegex(out, "[\x00-\x09\x0b-\x1f\x7f-\x9f]")

    def test_nonsense(self):
        for nonsense in ({}, {"gpus": {}}, None, []):
            self.special["GET /v1/gpus"] = ok(nonsense)
            self.ctl("gpus", expect=1)
        for wrong in (7, {}, {"address": 1, "parts": 3, "bars": ["x"], "node": "y"}):
            self.special["GET /v1/gpus"] = ok({"gpus": [wrong]})
            for args in ([], ["--tree"], ["--json"]):
                self.ctl("gpus", *args)
        self.special["GET /v1/gpus"] = ok({"gpus": []})
        self.assertIn("no GPU", self.ctl("gpus")[1])

    def test_denied_and_away(self):
        self.special["GET /v1/gpus"] = error(403, "operators only")
        self.ctl("gpus", expect=7)
        self.special["GET /v1/gpus"] = error(503, "vfio-helper is not connected")
        self.assertIn("vfio-helper is not connected", self.ctl("gpus", expect=1)[1])

    def test_recover(self):
        self.special["POST /v1/gpus/0000:04:00.0/recover"] = ok({"recovered": 1, "left": 0})
        self.assertIn("recovered: 1, left: 0", self.ctl("gpus", "recover", "0000:04:00.0")[1])
        self.special["POST /v1/gpus/recover"] = ok({"recovered": 1, "left": 2})
        out, _ = self.ctl("gpus", "recover", "--all", "--json", expect=1)
        self.assertEqual(json.loads(out), {"recovered": 1, "left": 2})
        self.special["POST /v1/gpus/recover"] = error(409, "it is in use")
        self.ctl("gpus", "recover", "--all", expect=6)
        self.special["POST /v1/gpus/0000:09:00.0/recover"] = error(404, "no GPU")
        self.ctl("gpus", "recover", "0000:09:00.0", expect=3)

    def test_create(self):
        self.special["POST /v1/instances"] = ok({"success": True, "instance_id": ID})
        self.ctl("create", "--gpus", "2")
        self.ctl("create", "-g", "0000:01:00.0,10000:81:00.0")
        self.ctl("create", "--gpus", "0")
        self.assertEqual([r[2]["gpus"] for r in self.requests("POST")],
                         [2, ["0000:01:00.0", "10000:81:00.0"], 0])
        self.special["POST /v1/instances"] = error(409, "gpus: 0000:01:00.0: busy")
        _, err = self.ctl("create", "--gpus", "1", expect=6)
        self.assertIn("0000:01:00.0: busy", err)


class Reaching(Case):
    def test_no_socket(self):
        _, err = self.ctl("--socket", self.dir.name + "/none", "list", expect=4, sock=False)
        self.assertIn("does not exist", err)
        self.assertIn("quickstart --keep", err)

    def test_stale_socket(self):
        path = self.dir.name + "/stale"
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(path)
        stale.close()
        _, err = self.ctl("--socket", path, "list", expect=4, sock=False)
        self.assertIn("nobody listens", err)

    def test_check_and_version_need_no_agent(self):
        self.server.shutdown()
        os.unlink(self.sock)
        self.check_code = Reading.check_code.__get__(self)
        self.assertIn(self.check_code(), (0, 1))
        self.assertIn("not reachable", self.ctl("version")[0])

    def tcp(self):
        server = TcpServer(("127.0.0.1", 0), Peer)
        server.script = self.script
        self.prepare(server)
        return server, f"http://127.0.0.1:{server.server_address[1]}"

    def secret(self, mode=0o600, text=SECRET + "\n"):
        path = os.path.join(self.dir.name, f"secret-{mode:o}-{len(text)}")
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        os.chmod(path, mode)
        return path

    def test_tcp_with_secret(self):
        server, url = self.tcp()
        # A proxy from the environment must not see the secret.
        self.ctl("--url", url, "--secret-file", self.secret(), "list", sock=False,
                 env={"http_proxy": "http://127.0.0.1:9/"})
        self.assertEqual(server.requests[0][3]["X-Agent-Secret"], SECRET)
        self.ctl("list", sock=False, env={"QUDATA_CTL_URL": url, "QUDATA_SECRET_FILE": self.secret()})
        self.assertEqual(server.requests[1][3]["X-Agent-Secret"], SECRET)

    def test_secret_is_kept(self):
        _, url = self.tcp()
        _, err = self.ctl("--url", "http://192.0.2.1:15001", "--secret-file", self.secret(), "list",
                          expect=2, sock=False)
        self.assertIn("clear text", err)
        self.ctl("--url", url, "--secret-file", self.secret(0o644), "list", expect=1, sock=False)
        self.ctl("--url", url, "--secret-file", self.secret(text="a b"), "list", expect=1, sock=False)
        self.ctl("--url", url, "--secret-file", self.secret(text=""), "list", expect=1, sock=False)
        self.ctl("--url", "file:///etc/passwd", "list", expect=2, sock=False)

    def test_missing_secret(self):
        _, url = self.tcp()
        self.special["GET /v1/instances"] = error(401, "no")
        _, err = self.ctl("--url", url, "list", expect=7, sock=False)
        self.assertIn("--secret-file", err)
        self.assertEqual(self.ctl("--url", "http://127.0.0.1:9", "list", expect=4, sock=False)[0], "")


class Usage(Case):
    def test_wrong_usage(self):
        for args in (["lst"], [], ["status", "a", "b"], ["--bogus"], ["create", "--memory"],
                     ["create", "--memory", "8X"], ["create", "--cpus", "0"],
                     ["create", "--disk", "1500M"], ["create", "--port", "70000"],
                     ["create", "--port", "80/udp"], ["create", "--env", "1A=b"],
                     ["create", "--env", "NOT_SET_ANYWHERE"], ["wait", "--for", "happy"],
                     ["wait", "--timeout", "2d"], ["keys"], ["keys", "add"],
                     ["completion", "fish"], ["create", "stray"], ["console", "--json"],
                     ["create", "--gpus", "all"], ["create", "--gpus", "0000:01:00.0,"],
                     ["create", "--gpus", "01:00.0"], ["create", "--gpus", "0000:01:20.0"],
                     ["create", "--gpus", "0000:01:00.8"], ["create", "--gpus", "-1"],
                     ["gpus", "0000:01:00.0"], ["gpus", "recover"], ["gpus", "recover", "x"],
                     ["gpus", "recover", "--all", "0000:01:00.0"], ["gpus", "lost"]):
            self.ctl(*args, expect=2)
        self.assertEqual(self.server.requests, [])
        self.assertIn("unknown or ambiguous option: -x\n", self.ctl("list", "-jx", expect=2)[1])
        self.ctl("list", "-" + "jq" * 500)

    def test_help(self):
        out, _ = self.ctl("--help")
        names = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  +\S", out, re.M)
        self.assertGreaterEqual(len(names), 19)
        for name in names:
            text, _ = self.ctl(*name.split(), "--help")
            self.assertTrue(text.startswith(f"Usage: qudatactl {name}"), text)

    def test_completions(self):
        bash, _ = self.ctl("completion", "bash")
        script = bash + "\nCOMP_WORDS=(qudatactl st); COMP_CWORD=1; _qudatactl; echo ${COMPREPLY[*]}\n" \
            "COMP_WORDS=(qudatactl keys r); COMP_CWORD=2; _qudatactl; echo ${COMPREPLY[*]}\n" \
            "COMP_WORDS=(qudatactl wait --for p); COMP_CWORD=3; _qudatactl; echo ${COMPREPLY[*]}\n" \
            "COMP_WORDS=(qudatactl create --mem); COMP_CWORD=2; _qudatactl; echo ${COMPREPLY[*]}\n" \
            f"COMP_WORDS=(qudatactl create --ssh-key {self.sock[:-3]}); COMP_CWORD=3; _qudatactl; " \
            "echo ${COMPREPLY[*]}\n" \
            "COMP_WORDS=(qudatactl gpus re); COMP_CWORD=2; _qudatactl; echo ${COMPREPLY[*]}\n" \
            "COMP_WORDS=(qudatactl gpus --tr); COMP_CWORD=2; _qudatactl; echo ${COMPREPLY[*]}\n" \
            "COMP_WORDS=(qudatactl gpus recover --a); COMP_CWORD=3; _qudatactl; echo ${COMPREPLY[*]}\n" \
            "COMP_WORDS=(qudatactl audit v); COMP_CWORD=2; _qudatactl; echo ${COMPREPLY[*]}\n"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.stderr, "")
        self.assertEqual(done.stdout.splitlines(),
                         ["status start stop", "remove", "pending paused", "--memory", self.sock,
                          "recover", "--tree", "--all", "verify"])
        zsh, _ = self.ctl("completion", "zsh")
        self.assertTrue(zsh.startswith("#compdef qudatactl\n"))
        if os.path.exists("/usr/bin/zsh") or os.path.exists("/bin/zsh"):
            subprocess.run(["zsh", "-n"], input=zsh.encode(), check=True, timeout=120)

    @unittest.skipUnless(MANUAL, "no manual page given")
    def test_manual_page_is_fresh(self):
        lists, _ = self.ctl("completion", "mdoc")
        with open(MANUAL, encoding="utf-8") as f:
            page = f.read()
        self.assertIn(lists, page, "run docs/man/refresh-qudatactl")


class Acting(Case):
    def test_actions(self):
        self.special[f"PUT /v1/instances/{ID}"] = ok()
        for action in ("start", "stop", "restart"):
            self.ctl(action)
            self.assertEqual(self.requests("PUT")[-1][2], {"action": action})
        self.special[f"PUT /v1/instances/{ID}"] = error(409, "it runs already")
        _, err = self.ctl("start", ID, expect=6)
        self.assertIn("it runs already", err)

    def test_delete_asks(self):
        self.special[f"DELETE /v1/instances/{ID}"] = ok()
        self.ctl("delete", expect=2)
        self.assertEqual(self.requests("DELETE"), [])
        self.ctl("delete", "--yes")
        self.ctl("delete", ID)
        self.assertEqual(len(self.requests("DELETE")), 2)

    def test_delete_waits(self):
        self.special[f"DELETE /v1/instances/{ID}"] = ok()
        self.special[f"GET /v1/instances/{ID}"] = ok(instance(status="running", detail="powering down"))
        self.special[f"GET /v1/instances/{ID}/wait"] = error(404, "gone")
        self.ctl("delete", ID, "--wait")

    def test_create(self):
        env_file = os.path.join(self.dir.name, "env")
        with open(env_file, "w", encoding="ascii") as f:
            f.write("# comment\nA=1\nB=x=y\n")
        self.special["POST /v1/instances"] = ok({"success": True, "instance_id": ID})
        out, _ = self.ctl("create", "--cpus", "2", "--memory", "1536M", "--disk", "20G", "--port", "8080",
                          "--port", "3000:15100/http", "-p", "22:auto/tcp", "--env", "TOKEN",
                          "--env-file", env_file, "--image", "debian:12", "--command", "sleep 1 && x",
                          "--name", "web", env={"TOKEN": "hush"})
        self.assertEqual(out, ID + "\n")
        self.assertEqual(self.requests("POST")[0][2], {
            "cpus": "2", "memory": "1536M", "storage_gb": 20, "ssh_enabled": True, "name": "web",
            "ports": [{"container_port": 8080},
                      {"container_port": 3000, "remote_port": 15100, "proto": "http"},
                      {"container_port": 22, "proto": "tcp"}],
            "env_variables": {"TOKEN": "hush", "A": "1", "B": "x=y"},
            "image": "debian:12", "command": "sleep 1 && x"})

    def key_file(self, text=KEY + " me@here\n"):
        path = os.path.join(self.dir.name, f"key{len(text)}")
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        return path

    def test_create_with_key_and_wait(self):
        self.special["POST /v1/instances"] = ok({"instance_id": ID})
        self.special[f"POST /v1/instances/{ID}/ssh"] = [error(409, "not up"), ok()]
        steps = [("pending", "preparing the disk"), ("pending", "starting QEMU"),
                 ("pending", "guest is booting"), ("running", "guest is ready")]
        answers = [ok(instance(status=s, detail=d)) for s, d in steps]
        self.special[f"GET /v1/instances/{ID}"] = answers[0]
        self.special[f"GET /v1/instances/{ID}/wait"] = answers[1:]
        out, err = self.ctl("create", "--wait", "--ssh-key", self.key_file(), "--json")
        self.assertEqual([re.sub(r"^ *\d+s  ", "", line) for line in err.splitlines()],
                         [d for _, d in steps])
        self.assertEqual(json.loads(out)["status"], "running")
        self.assertEqual([r[2] for r in self.requests("POST")[1:]],
                         [{"ssh_pubkey": KEY + " me@here"}] * 2)
        waits = [r[1] for r in self.requests("GET") if "/wait" in r[1]]
        self.assertIn("state=running", waits[0])
        self.assertIn("detail=preparing%20the%20disk", waits[0])

    def test_private_key_stays_here(self):
        path = self.key_file("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
        _, err = self.ctl("create", "--ssh-key", path, expect=2)
        self.assertIn("private key", err)
        self.ctl("keys", "add", path, expect=2)
        self.assertEqual(self.requests("POST"), [])

    def test_wait_outcomes(self):
        self.special[f"GET /v1/instances/{ID}"] = ok(instance(status="pending", detail="booting"))
        self.special[f"GET /v1/instances/{ID}/wait"] = error(504, "not yet")
        start = time.monotonic()
        _, err = self.ctl("wait", ID, "--timeout", "1", expect=5)
        self.assertIn("pending: booting", err)
        self.assertLess(time.monotonic() - start, 5)
        self.assertLess(len(self.server.requests), 10, "it must not spin")
        self.special[f"GET /v1/instances/{ID}/wait"] = ok(instance(status="error", error="QEMU died"))
        _, err = self.ctl("wait", ID, expect=1)
        self.assertIn("QEMU died", err)
        self.special[f"GET /v1/instances/{ID}/wait"] = error(404, "gone")
        self.ctl("wait", ID, expect=3)
        self.ctl("wait", ID, "--for", "destroyed")

    def test_keys(self):
        other = KEY[:-1] + "K other"
        self.special[f"GET /v1/instances/{ID}/ssh"] = ok({"keys": [KEY + " me@here", other]})
        self.special[f"POST /v1/instances/{ID}/ssh"] = ok()
        self.special[f"DELETE /v1/instances/{ID}/ssh"] = ok()
        self.assertEqual(self.ctl("keys", "list")[0], f"{KEY} me@here\n{other}\n")
        self.ctl("keys", "add", ID, "-", stdin=(KEY + " x\n").encode())
        self.assertEqual(self.requests("POST")[0][2], {"ssh_pubkey": KEY + " x"})
        self.ctl("keys", "remove", "other")
        self.ctl("keys", "remove", ID, self.key_file())
        self.assertEqual([r[2]["ssh_pubkey"] for r in self.requests("DELETE")], [other, KEY + " me@here"])
        self.ctl("keys", "remove", "nobody", expect=3)


FAKE_SSH = """#!/bin/bash
printf '%s\\n' "$@" >"$OUT_DIR/argv"
for a in "$@"; do case $a in UserKnownHostsFile=*) cat "${a#*=}" >"$OUT_DIR/known_hosts" ;; esac; done
exit 42
"""


class Ssh(Case):
    def run_ssh(self, *args, expect):
        path = os.path.join(self.dir.name, "ssh")
        with open(path, "w", encoding="ascii") as f:
            f.write(FAKE_SSH)
        os.chmod(path, 0o755)
        env = {"PATH": self.dir.name + ":" + os.environ["PATH"], "OUT_DIR": self.dir.name}
        return self.ctl("ssh", *args, expect=expect, env=env)

    def test_pinned_host_key(self):
        self.run_ssh("3f2a", "--", "-v", "echo $HOME; true", expect=42)
        with open(self.dir.name + "/argv", encoding="ascii") as f:
            argv = f.read().splitlines()
        self.assertIn("StrictHostKeyChecking=yes", argv)
        self.assertIn(f"HostKeyAlias=qudata-{ID}", argv)
        self.assertEqual(argv[-5:], ["-p", "10001", "root@127.0.0.1", "-v", "echo $HOME; true"])
        with open(self.dir.name + "/known_hosts", encoding="ascii") as f:
            self.assertEqual(f.read(), f"qudata-{ID} {KEY}\n")

    @staticmethod
    def free_port():
        """Below those that the kernel gives to connections, which would take it again before sshd does."""
        while True:
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", random.randrange(25000, 32000))) as s:
                return s.getsockname()[1]

    def test_not_ready_and_hostile(self):
        good = self.instances[0]["ssh"]
        self.instances[0].update(status="pending", ssh=None)
        _, err = self.run_ssh(expect=6)
        self.assertIn("qudatactl wait", err)
        for change in ({"host": "-oProxyCommand=x"}, {"user": "-x"}, {"port": 70000},
                       {"host_key": KEY + "\n* " + KEY}, {"host": "a b"}, {"host_key": "x"}):
            self.instances[0]["ssh"] = {**good, **change}
            self.run_ssh(expect=1)
        self.instances[0].update(status="rebooting", ssh=good)
        self.run_ssh(expect=6)
        self.assertFalse(os.path.exists(self.dir.name + "/argv"))

    @unittest.skipUnless(os.access("/usr/sbin/sshd", os.X_OK), "no sshd here")
    def test_real_ssh_and_sshd(self):
        """OpenSSH takes the host key that exists in memory only, and no other one."""
        def path(name):
            return os.path.join(self.dir.name, name)
        for name in ("host", "user", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path(name)],
                           check=True, timeout=120)
        if os.getuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        with open(path("config"), "w", encoding="ascii") as f:
            f.write(f"HostKey {path('host')}\nAuthorizedKeysFile {path('user.pub')}\nStrictModes no\n"
                    "UsePAM no\nPermitRootLogin yes\nPidFile none\nListenAddress 127.0.0.1\n")
        port = self.free_port()
        sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", path("config"), "-p", str(port)],
                                stderr=subprocess.DEVNULL)
        self.addCleanup(sshd.wait)
        self.addCleanup(sshd.kill)
        end = time.monotonic() + 60
        while sshd.poll() is None and time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)

        def pinned(name):
            with open(path(name + ".pub"), encoding="ascii") as f:
                self.instances[0]["ssh"] = {"host": "127.0.0.1", "port": port, "host_key": f.read().strip(),
                                            "user": pwd.getpwuid(os.getuid()).pw_name}
        options = ("--", "-F", "none", "-i", path("user"), "-o", "BatchMode=yes")
        pinned("host")
        out, _ = self.ctl("ssh", *options, "echo hello; exit 9", expect=9)
        self.assertEqual(out, "hello\n")
        pinned("other")
        _, err = self.ctl("ssh", *options, "true", expect=255)
        self.assertIn("HOST IDENTIFICATION HAS CHANGED", err)


class Console(Case):
    def upgrade(self, talk, head=b""):
        def reply(peer):
            peer.connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
                                    b"Upgrade: qudata-console\r\n\r\n" + head)
            talk(peer.connection)
            peer.connection.close()
        self.special[f"GET /v1/instances/{ID}/console"] = reply

    def test_pipe_both_ways(self):
        got = []

        def talk(conn):
            got.append(conn.recv(100))
            conn.sendall(b"pong\x1b[0m\n")
        self.upgrade(talk, head=b"early ")
        out, _ = self.ctl("console", stdin=b"~.ping\n")
        self.assertEqual(got, [b"~.ping\n"], "no escapes without a terminal")
        self.assertEqual(out, "early pong\x1b[0m\n", "no filter without a terminal")
        headers = self.requests("GET")[-1][3]
        self.assertEqual((headers["Connection"], headers["Upgrade"]), ("Upgrade", "qudata-console"))

    def test_refused(self):
        self.special[f"GET /v1/instances/{ID}/console"] = error(409, "it does not run")
        _, err = self.ctl("console", expect=6)
        self.assertIn("it does not run", err)

    def on_terminal(self, act, *args):
        """Runs on a pseudo terminal: what it printed, its exit status, the terminal's end settings."""
        fd, slave = pty.openpty()
        before = termios.tcgetattr(fd)
        child = subprocess.Popen([CTL, "--socket", self.sock, *args], env=self.environment(),
                                 stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                 preexec_fn=heed_signals)
        os.close(slave)
        data = b""

        def until(text):
            nonlocal data
            end = time.monotonic() + 120
            while text not in data and time.monotonic() < end:
                data += os.read(fd, 4096)
            self.assertIn(text, data)
        act(fd, child.pid, until)
        try:
            while chunk := os.read(fd, 4096):
                data += chunk
        except OSError:
            pass
        status = child.wait(timeout=120)
        after = termios.tcgetattr(fd)  # the master sees its terminal's settings, also after its end
        os.close(fd)
        return data, status, before, after

    def echo(self, conn):
        conn.sendall(b"login: ")
        while chunk := conn.recv(100):
            conn.sendall(chunk.upper())

    def test_terminal_escape(self):
        self.upgrade(self.echo)

        def act(fd, pid, until):
            until(b"login: ")
            raw = termios.tcgetattr(fd)
            self.assertFalse(raw[3] & (termios.ICANON | termios.ECHO | termios.ISIG))
            os.write(fd, b"ab~.\x03\r")
            until(b"AB~.\x03\r")
            os.write(fd, b"~~c\r")
            until(b"~C\r")
            os.write(fd, b"~.")
        data, status, before, after = self.on_terminal(act, "console")
        self.assertEqual(status, 0, data)
        self.assertIn(b"left the console", data)
        self.assertEqual(before[:4], after[:4], "the terminal is as it was")

    def test_terminal_is_restored_on_signals(self):
        for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            self.upgrade(self.echo)

            def act(fd, pid, until, sig=sig):
                until(b"login: ")
                os.kill(pid, sig)
            _, status, before, after = self.on_terminal(act, "console")
            self.assertEqual(status, -sig)
            self.assertEqual(before[:4], after[:4], sig)

    def metrics(self, n=40, iid=ID, **changes):
        samples = [{"seq": 1000 + i, "time_ms": 1763740000000 + 500 * i, "cpu_percent": min(100, 2.5 * i),
                    "memory_total": 1024**3, "memory_available": 256 * 1024**2,
                    "network_in": 750000 * i, "network_out": 10 * i, "disk_read": 0, "disk_written": 4096 * i,
                    "root_total": 4 * 1024**3, "root_used": 1024**3, "container": "none",
                    "gpus": [{"index": 0, "percent": 97, "celsius": 61, "memory_used": 10 * 1024**3,
                              "memory_total": 80 * 1024**3, "watts": 350.2},
                             {"index": 1, "percent": None, "celsius": None, "memory_used": None,
                              "memory_total": None, "watts": None}],
                    "qemu": {"cpu_ms": 600 * i, "rss": 700 * 1024**2}} for i in range(n)]
        answer = {"instance_id": iid, "status": "running", "health": "healthy", "newest": 1000 + n - 1,
                  "interval_ms": 500, "fake_gpus": False, "samples": samples, **changes}
        self.special[f"GET /v1/instances/{iid}/metrics"] = ok(answer)
        return answer

    def test_top_once(self):
        answer = self.metrics()
        out, _ = self.ctl("top", "--once")
        self.assertNotIn("\x1b", out, "no colours, no control without a terminal")
        for line in (r"^3f2a00112233aabb  running, 2 CPUs$", r"^CPU +98 % ", r"^Memory +75 %  0.8 of 1.0 GiB ",
                     r"^Disk +25 %  1.0 of 4.0 GiB", r"^Net in +1.5 MB/s ", r"^Net out +20 B/s ", r"^Read +0 B/s ",
                     r"^Written +8.2 kB/s ", r"^QEMU +120 %  of one host CPU", r"^ +700 MiB  of host memory",
                     r"^GPU 0 +97 %  61 C, 350 W ", r"^  memory +12 %  10.0 of 80.0 GiB", r"^GPU 1 +-  -, - "):
            self.assertRegex(out, re.compile(line, re.M))
        self.assertLessEqual(max(map(len, out.splitlines())), 80)
        self.assertEqual(out, self.ctl("top", "3f2a")[0], "the only one, and one that was named")
        self.assertEqual(json.loads(self.ctl("top", "3f2a", "--json")[0]), answer)
        self.assertEqual(json.loads(self.ctl("top", "--json")[0]), {"instances": [answer]})
        self.assertIn("metrics?limit=1200", self.requests("GET")[-1][1])
        self.instances[0].update(health="unhealthy", health_detail="silent \x1b[31m")
        out, _ = self.ctl("top", "--once")
        self.assertIn("running, unhealthy, 2 CPUs\nsilent \\x1b[31m\n", out)
        self.assertIn("unhealthy: silent \\x1b[31m", self.ctl("list")[0])
        self.assertIn("Health    unhealthy: silent \\x1b[31m", self.ctl("status")[0])

    def test_top_without_figures(self):
        self.metrics(0)
        self.assertIn("No figures have come", self.ctl("top", "--once")[0])
        self.special[f"GET /v1/instances/{ID}/metrics"] = error(404, "destroyed meanwhile")
        self.assertIn("No figures have come", self.ctl("top", "--once")[0])
        self.special[f"GET /v1/instances/{ID}/metrics"] = error(503, "vmmon is away")
        self.assertIn("vmmon is away", self.ctl("top", "--once", expect=1)[1])
        self.metrics(3, samples=[{"time_ms": "x", "cpu_percent": [], "gpus": 5}, 7, None, {"time_ms": -1e300, "gpus": [[]]}])
        self.ctl("top", "--once")
        self.metrics(3, samples={"a": 1})
        self.ctl("top", "--once")
        self.instances.clear()
        self.assertIn("There is no instance", self.ctl("top", "--once")[0])
        self.ctl("top", "ff", expect=3)

    def test_top_of_several(self):
        self.instances.append(instance(ID2, status="paused", health="unknown"))
        self.metrics()
        self.metrics(0, ID2)
        lines = self.ctl("top", env={"COLUMNS": "120"})[0].splitlines()
        self.assertEqual(lines[0].split(), ["ID", "STATUS", "HEALTH", "CPU", "MEM", "NET", "IN", "OUT", "GPU", "READ",
                                            "WRITTEN"])
        self.assertRegex(lines[1], rf"^{ID}  running +- +98 % .* 75 %  1.5 MB/s  20 B/s  97 %  0 B/s  8.2 kB/s")
        self.assertRegex(lines[2], rf"^{ID2}  paused +unknown +- .* -  +-  +-  +-  +- ")
        lines = self.ctl("top")[0].splitlines()
        self.assertLessEqual(max(map(len, lines)), 80)
        self.assertRegex(lines[1], rf"^{ID}  running +- +98 %  75 %  1.5 MB/s  20 B/s  97 %")

    def test_top_on_a_terminal(self):
        self.metrics(400)

        def act(fd, pid, until):
            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            os.kill(pid, signal.SIGWINCH)
            until(b"GPU 0")
            until(b"\x1b[J")
            os.write(fd, b"q")
        data, status, before, after = self.on_terminal(act, "top")
        self.assertEqual(status, 0, data)
        self.assertTrue(data.startswith(b"\x1b[?1049h"), data[:40])
        self.assertTrue(data.endswith(b"\x1b[?1049l"), data[-40:])
        self.assertEqual(before[:4], after[:4], "the terminal is as it was")
        frame = data.split(b"\x1b[H")[-1].split(b"\x1b[J")[0]
        self.assertLessEqual(frame.count(b"\n"), 23)
        for sig in (signal.SIGTERM, signal.SIGINT):
            def interrupt(fd, pid, until, sig=sig):
                until(b"\x1b[J")
                os.kill(pid, sig)
            data, status, before, after = self.on_terminal(interrupt, "top", ID)
            self.assertEqual((status, before[:4]), (-sig, after[:4]))
            self.assertTrue(data.endswith(b"\x1b[?1049l"), data[-40:])
        self.special[f"GET /v1/instances/{ID}/metrics"] = error(503, "vmmon is away")
        data, status, before, after = self.on_terminal(lambda *a: None, "top")
        self.assertEqual((status, before[:4]), (1, after[:4]))
        self.assertIn(b"\x1b[?1049l", data)
        self.assertTrue(data.rstrip().endswith(b"vmmon is away"), "said where it can be read")

    def test_logs(self):
        raw = b"\x1b[32mOK\x1b[0m\r\nboot\xff\n\x1b]0;owned\x07"
        self.special[f"GET /v1/instances/{ID}/console/log"] = (200, raw)
        done = subprocess.run([CTL, "--socket", self.sock, "logs"], capture_output=True, timeout=180,
                              env=self.environment())
        self.assertEqual(done.stdout, raw, "bytes stay as they are when nobody reads them on a terminal")
        data, status, _, _ = self.on_terminal(lambda *a: None, "logs")
        self.assertEqual(status, 0)
        self.assertEqual(data, b"OK\r\nboot\\xff\r\n\\x1b]0;owned\\x07")
        self.assertEqual(json.loads(self.ctl("logs", "--json")[0])["log"], "OK\nboot\\xff\n\\x1b]0;owned\\x07")
        self.upgrade(lambda conn: conn.sendall(b"more\n"))
        out = subprocess.run([CTL, "--socket", self.sock, "logs", "-f", "-q"], capture_output=True,
                             timeout=180, env=self.environment(), stdin=subprocess.DEVNULL)
        self.assertEqual(out.stdout, raw + b"more\n")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
