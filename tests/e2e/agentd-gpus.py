#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The real agentd and qudatactl against a scripted vfio-helper: GPUs over HTTP and on the terminal; and the real
nvml-probe with a stand-in for the driver's library.

usage: agentd-gpus.py AGENTD QUDATACTL NVML-PROBE FAKE-LIBRARY OTHER-LIBRARY
"""
import contextlib
import fcntl
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests/abuse"), str(TOP / "tests/nvml")]
import nvmlrig as rig  # noqa: E402
from wire import CONST, EVENT, HEADER, OPS, REPLY, STATUS  # noqa: E402

AGENTD, CTL, PROBE, FAKE, OTHER = (os.path.abspath(program) for program in sys.argv[1:6])
REASONS = ["rentable", "no_iommu", "boot_display", "virtualised", "not_viable", "reserved", "busy",
           "quarantined", "half_bound"]
PCI_IDS = "10de  NVIDIA Corporation\n\t2204  GA102 [GeForce RTX 3090]\n"


def address(text):
    domain, bus, rest = text.split(":")
    slot, function = rest.split(".")
    return int(domain, 16) << 16 | int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)


def record(name, **values):
    op = OPS[name]
    body = b"".join(f.pack(values.get(f.name, 0 if f.kind in ("U32", "U64") else "")) for f in op.request)
    return HEADER.pack(op.number, EVENT, 0, 0, len(body)) + body


class Gpu:
    """One GPU of the scripted host."""

    def __init__(self, where, together=(), reasons=(), holders=(), node=0):
        self.address, self.reasons, self.holders, self.node = where, list(reasons), holders, node
        self.together = sorted([where, *together])
        self.vm = ""

    def records(self):
        gpu = address(self.address)
        reasons = list(self.reasons)
        if self.vm:
            reasons.append(("busy", self.address, f"leased to VM {self.vm}"))
        reasons.sort(key=lambda r: REASONS.index(r[0]))
        verdict = REASONS.index(reasons[0][0]) if reasons else 0
        out = record("GPU_CARD", gpu=gpu, vendor=0x10de, device=0x2204, class_code=0x030000, group=gpu & 0xff,
                     bar0=16 << 20, bar1=32 << 30, node=self.node, verdict=verdict, resets=0b1001,
                     driver="vfio-pci" if self.vm else "nvidia", vm=self.vm)
        for other in self.together:
            out += record("GPU_PART", gpu=gpu, address=address(other), vendor=0x10de, device=0x2204,
                          class_code=0x030000, group=gpu & 0xff, role=0, driver="nvidia")
        for reason, about, what in reasons:
            out += record("GPU_REASON", gpu=gpu, address=address(about), reason=REASONS.index(reason), what=what)
        for pid, program, node in self.holders:
            out += record("GPU_HOLDER", gpu=gpu, pid=pid, program=program, node=node)
        return out


class Helper(threading.Thread):
    """vfio-helper as far as agentd asks: VMs without QEMU, and the GPUs of a list."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        os.chmod(path, 0o666)
        self.listener.listen(4)
        self.gpus, self.asked, self.answers, self.raw_list = [], [], {}, None
        self.vms, self.leases, self.quarantined = {}, {}, set()
        self.disks = []
        # Whether a probe was there when an act on GPUs was asked for.
        self.is_probing, self.probes_seen = lambda: False, []

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                with contextlib.closing(peer), contextlib.suppress(OSError):
                    while data := peer.recv(CONST["PROTO_MSG_MAX"]):
                        self.answer(peer, data)

    def answer(self, peer, data):
        number, _, _, request_id, _ = HEADER.unpack_from(data)
        op = next(o for o in OPS.values() if o.number == number)
        values, at = {}, HEADER.size
        for f in op.request:
            values[f.name] = data[at:at + f.size] if f.kind == "GPUS" else f.unpack(data[at:at + f.size])
            at += f.size
        self.asked.append(op.name)
        if op.name.startswith("GPU_"):
            self.probes_seen.append(self.is_probing())
        status, rep, fds = "OK", {}, []
        if self.answers.get(op.name):
            status = self.answers[op.name].pop(0)
        if status == "OK":
            result = getattr(self, "on_" + op.stem, lambda v: {})(values)
            status, rep, fds = result if isinstance(result, tuple) else ("OK", result, [])
        body = b""
        if status == "OK":
            body = b"".join(f.pack(rep.get(f.name, [] if f.kind in ("PORTS", "NAMES") else
                                           0 if f.kind in ("U32", "U64") else "")) for f in op.reply)
        message = HEADER.pack(number, REPLY, STATUS[status], request_id, len(body)) + body
        socket.send_fds(peer, [message], fds)
        for fd in fds:
            os.close(fd)

    def on_helper_hello(self, _):
        return {"version": CONST["PROTO_VERSION"], "max_vms": 4, "max_cpus": 8, "max_memory_mib": 8192,
                "max_disk_mib": 65536, "port_low": 10000, "port_high": 65535, "boot_id": "boot"}

    def on_vm_prepare(self, values):
        self.disks.append(values["disk_mib"])
        self.vms[values["vm"]] = 1
        return {"disk_mib": 2048}

    def on_vm_describe(self, values):
        return {"state": self.vms.get(values["vm"], 0), "gpus": len(self.leases.get(values["vm"], ()))}

    def on_vm_forget(self, values):
        if values["vm"] in self.leases:
            return "CONFLICT", {}, []
        self.vms.pop(values["vm"], None)
        return {}

    def on_gpu_list(self, _):
        raw = b"".join(g.records() for g in self.gpus) if self.raw_list is None else self.raw_list
        fd = os.memfd_create("gpus", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(fd, raw)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
                    | fcntl.F_SEAL_WRITE)
        return "OK", {"gpus": len(self.gpus), "bytes": len(raw)}, [fd]

    def on_gpu_bind(self, values):
        wanted = [a for a, in struct.iter_unpack("=Q", values["gpus"]) if a]
        self.leases[values["vm"]] = wanted
        for g in self.gpus:
            if address(g.address) in wanted:
                g.vm = values["vm"]
        return {"functions": len(wanted)}

    def on_gpu_release(self, values):
        held = self.leases.pop(values["vm"], [])
        bad = [g for g in self.gpus if address(g.address) in held and g.address in self.quarantined]
        for g in self.gpus:
            if address(g.address) in held:
                g.vm = ""
        for g in bad:
            g.reasons.append(("quarantined", g.address, "no answer after the reset"))
        return {"released": len(held) - len(bad), "quarantined": len(bad)}

    def on_gpu_recover(self, values):
        found = [g for g in self.gpus if values["gpu"] in (0, address(g.address))]
        if not found:
            return "NOT_FOUND", {}, []
        bad = [g for g in found if any(r[0] == "quarantined" for r in g.reasons)]
        for g in bad:
            g.reasons = [r for r in g.reasons if r[0] != "quarantined"]
        return {"recovered": len(bad), "left": 0}


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(self.path)


class Case(unittest.TestCase):
    maxDiff = None
    settings = ""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="agentd-gpus-")
        os.chmod(self.dir, 0o755)
        self.addCleanup(shutil.rmtree, self.dir)
        self.helper = None
        self.user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        for name in ("data", "run"):
            os.mkdir(self.path(name), 0o700)
            if self.user:
                shutil.chown(self.path(name), "nobody", "nogroup")
        pathlib.Path(self.path("pci.ids")).write_text(PCI_IDS, encoding="ascii")
        pathlib.Path(self.path("agentd.conf")).write_text(
            f"data_dir = {self.path('data')}\nctl_socket = {self.path('run/ctl.sock')}\n"
            f"helper_socket = {self.path('helper.sock')}\nvmmon_socket = {self.path('vmmon.sock')}\n"
            f"frp_socket = {self.path('frp.sock')}\nnvml_socket = {self.path('nvml.sock')}\n"
            f"pci_ids = {self.path('pci.ids')}\n{self.settings}",
            encoding="ascii")
        self.start_helper()
        self.start()

    def path(self, name):
        return os.path.join(self.dir, name)

    def start_helper(self):
        self.helper = Helper(self.path("helper.sock"))
        self.addCleanup(self.helper.listener.close)
        self.helper.start()

    def start(self, ready=None):
        with open(self.path("log"), "ab") as log:
            self.daemon = subprocess.Popen([AGENTD, "--config", self.path("agentd.conf")], cwd="/", env={},
                                           stderr=log, **self.user)
        self.addCleanup(self.stop)
        self.until("agentd answers", ready or self.is_up)

    def stop(self, sig=signal.SIGTERM):
        if self.daemon.returncode is None:
            self.daemon.send_signal(sig)
            code = self.daemon.wait(timeout=90)
            self.assertEqual(code, 0 if sig == signal.SIGTERM else -sig, self.log())

    def log(self):
        return pathlib.Path(self.path("log")).read_text(encoding="utf-8")

    def is_up(self):
        try:
            return self.call("GET", "/v1/host")[1]["data"]["peers"]["vfio-helper"]["connected"]
        except OSError:
            return False

    def until(self, what, condition, timeout=90):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.02)
        self.fail(f"not in time: {what}\n{self.log()}")

    def call(self, method, path, body=None, tcp=False, secret=True):
        if tcp:
            port = self.call("GET", "/v1/host")[1]["data"]["http_port"]
            conn = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        else:
            conn = Connection(self.path("run/ctl.sock"))
        headers = {}
        if tcp and secret:
            headers["X-Agent-Secret"] = pathlib.Path(self.path("data/secret")).read_text(encoding="ascii").strip()
        with contextlib.closing(conn):
            conn.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = conn.getresponse()
            return answer.status, json.loads(answer.read())

    def refused(self, body, status, *parts, path="/v1/instances"):
        code, answer = self.call("POST", path, body)
        self.assertEqual(code, status, answer)
        for part in parts:
            self.assertIn(part, answer["error"])
        return answer["error"]

    def create(self, **body):
        code, answer = self.call("POST", "/v1/instances", body)
        self.assertEqual(code, 200, answer)
        return answer["data"]["instance_id"], answer["data"]["gpus"]

    def instance(self, name):
        return self.call("GET", f"/v1/instances/{name}")[1].get("data")

    def ctl(self, *args, expect=0):
        done = subprocess.run([CTL, "--socket", self.path("run/ctl.sock"), *args], capture_output=True,
                              timeout=180, check=False, stdin=subprocess.DEVNULL,
                              env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"})
        if expect is not None:
            self.assertEqual(done.returncode, expect, done)
        return done.stdout.decode()


class Gpus(Case):
    def host(self):
        self.helper.gpus = [
            Gpu("0000:01:00.0"),
            Gpu("0000:02:00.0", reasons=[("not_viable", "0000:09:00.0", "e1000e")],
                holders=[(7, "nvidia-smi", "/dev/nvidia1")]),
            Gpu("0000:81:00.0", together=["0000:82:00.0"], node=1),
            Gpu("0000:82:00.0", together=["0000:81:00.0"], node=1),
        ]

    def test_list(self):
        self.assertEqual(self.call("GET", "/v1/gpus"), (200, {"ok": True, "data": {
            "gpus": [], "nvml": {"state": "no_gpu", "detail": "no GPU has the host's NVIDIA driver", "fake_gpus": False,
                                 "age_ms": None, "driver_version": "", "cuda_version": "", "left_out": 0}}}))
        self.host()
        _, answer = self.call("GET", "/v1/gpus")
        gpus = answer["data"]["gpus"]
        self.assertEqual(gpus[0], {
            "address": "0000:01:00.0", "name": "GeForce RTX 3090", "vendor_name": "NVIDIA Corporation",
            "device_name": "GA102 [GeForce RTX 3090]", "verdict": "rentable", "instance": None, "leased": False,
            "driver": "nvidia", "vendor": "10de", "device": "2204", "subvendor": "0000", "subdevice": "0000",
            "class": "030000", "revision": "00", "group": 0, "node": 0,
            "bars": [16 << 20, 32 << 30, 0, 0, 0, 0], "resets": ["flr", "bus"], "together": [],
            "parts": [{"address": "0000:01:00.0", "role": "gpu", "vendor": "10de", "device": "2204",
                       "class": "030000", "group": 0, "driver": "nvidia", "what": ""}],
            "reasons": [], "holders": [], "figures": None})
        self.assertEqual(gpus[1]["reasons"], [
            {"reason": "not_viable", "address": "0000:09:00.0", "what": "e1000e",
             "text": "its IOMMU group holds a device that is not the card's"}])
        self.assertEqual(gpus[1]["holders"],
                         [{"pid": 7, "program": "nvidia-smi", "node": "/dev/nvidia1", "service": ""}])
        self.assertEqual(gpus[2]["together"], ["0000:82:00.0"])
        self.assertIn("0000:01:00.0  GeForce RTX 3090  rentable", self.ctl("gpus"))
        self.assertIn("└─ 0000:02:00.0  GeForce RTX 3090  not_viable", self.ctl("gpus", "--tree"))

    def test_operators_only(self):
        for method, path in (("GET", "/v1/gpus"), ("GET", "/v1/gpus/figures"), ("POST", "/v1/gpus/recover"),
                             ("POST", "/v1/gpus/0000:01:00.0/recover")):
            self.assertEqual(self.call(method, path, tcp=True, secret=False)[0], 401)
            code, answer = self.call(method, path, tcp=True)
            self.assertEqual(code, 403, answer)
            self.assertIn("operators", answer["error"])
        self.assertNotIn("GPU_LIST", self.helper.asked)
        self.assertNotIn("GPU_RECOVER", self.helper.asked)

    def test_list_that_breaks_its_rules(self):
        self.host()
        good = b"".join(g.records() for g in self.helper.gpus)
        for raw in (good[:-1], good + b"\0" * 16, good[HEADER.size:], good[::-1], b"\xff" * 5000):
            self.helper.raw_list = raw
            code, answer = self.call("GET", "/v1/gpus")
            self.assertEqual(code, 500, answer)
            self.refused({"gpus": 1}, 500, "gpus: ")
        self.helper.raw_list = None
        self.assertEqual(self.call("GET", "/v1/gpus")[0], 200)
        self.assertEqual(self.call("GET", "/v1/instances")[1]["data"]["instances"], [])

    def test_host_without_gpus(self):
        self.refused({"gpu_count": 1}, 422, "gpu_count: this host has no GPU")
        self.refused({"gpu_addr": "0000:01:00.0"}, 422, "gpu_addr: 0000:01:00.0: there is no GPU at this address")
        self.refused({"env_variables": {"QUDATA_GPU_COUNT": "2"}}, 422, "env_variables.QUDATA_GPU_COUNT")
        self.create(gpus=0)
        self.create(gpu_addr="", env_variables={"QUDATA_GPU_COUNT": "0"})

    def test_helper_says_no(self):
        self.helper.answers["GPU_LIST"] = ["DENIED", "BUSY", "DENIED"]
        self.refused({"gpus": 1}, 422, "gpus: no GPU of this host may be rented out")
        self.refused({"gpus": 1}, 503, "gpus: ")
        code, answer = self.call("GET", "/v1/gpus")
        self.assertEqual(code, 409)
        self.assertIn("helper.conf", answer["error"])

    def test_helper_is_away(self):
        self.helper.listener.close()
        os.unlink(self.path("helper.sock"))
        self.stop()
        self.start(self.answers)
        self.assertEqual(self.call("GET", "/v1/gpus")[0], 503)
        self.refused({"gpus": 1}, 503, "gpus: vfio-helper is not connected")
        self.create()  # without GPUs the helper is not needed yet

    def answers(self):
        try:
            return self.call("GET", "/ping")[0] == 200
        except OSError:
            return False

    def test_choice(self):
        self.host()
        self.refused({"gpus": 4}, 409, "gpus: 4 GPUs are wanted, 3 of 4 can be had: ",
                     "0000:02:00.0: not_viable (0000:09:00.0: e1000e)")
        self.refused({"gpus": 5}, 422)
        self.refused({"gpu_addr": "0000:02:00.0"}, 409, "gpu_addr: 0000:02:00.0: not_viable (0000:09:00.0: e1000e)")
        self.refused({"gpus": ["0000:81:00.0"]}, 409,
                     "0000:81:00.0: can only be rented together with 0000:82:00.0")
        first, gpus = self.create(gpus=2)
        self.assertEqual(gpus, ["0000:81:00.0", "0000:82:00.0"])
        error = self.refused({"gpus": 2}, 409)
        self.assertIn(first, error)
        _, gpus = self.create(gpu_addr="00000000:01:00.0")
        self.assertEqual(gpus, ["0000:01:00.0"])
        self.refused({"gpus": 1}, 409, "0 of 4 can be had", "promised to instance")
        owners = {g["address"]: g["instance"] for g in self.call("GET", "/v1/gpus")[1]["data"]["gpus"]}
        self.assertEqual(owners["0000:81:00.0"], first)
        self.assertIsNone(owners["0000:02:00.0"])
        self.assertIn(first, self.ctl("gpus"))

    def test_promise_survives_a_crash_and_ends_with_the_instance(self):
        self.host()
        name, gpus = self.create(gpus=1)
        self.assertEqual(gpus, ["0000:01:00.0"])
        self.stop(signal.SIGKILL)
        self.start()
        self.assertEqual(self.instance(name)["gpus"], gpus)
        self.refused({"gpus": 1}, 409, f"0000:01:00.0: promised to instance {name}")
        # No vmmon here: the way up stops before the lease, the way down before the record goes.
        self.until("the disk is made", lambda: name in self.helper.vms)
        self.helper.leases[name] = [address("0000:01:00.0")]
        self.helper.gpus[0].vm = name
        self.helper.quarantined = {"0000:01:00.0"}
        self.call("DELETE", f"/v1/instances/{name}")
        self.until("the GPU is given back", lambda: "VM_FORGET" in self.helper.asked)
        self.assertLess(self.helper.asked.index("GPU_RELEASE"), self.helper.asked.index("VM_FORGET"))
        self.until("it is said", lambda: "GPUs did not come back well" in self.log())
        gpu = self.call("GET", "/v1/gpus")[1]["data"]["gpus"][0]
        self.assertEqual((gpu["verdict"], gpu["reasons"][0]["what"]), ("quarantined", "no answer after the reset"))
        self.ctl("gpus", "recover", "0000:01:00.0")
        self.assertEqual(self.call("GET", "/v1/gpus")[1]["data"]["gpus"][0]["verdict"], "rentable")

    def test_recover(self):
        self.host()
        self.assertEqual(self.call("POST", "/v1/gpus/recover")[1]["data"], {"recovered": 0, "left": 0})
        self.assertEqual(self.call("POST", "/v1/gpus/0000:09:00.0/recover")[0], 404)
        self.assertEqual(self.call("POST", "/v1/gpus/0000:1:00.0/recover")[0], 404)
        self.helper.answers["GPU_RECOVER"] = ["BUSY"]
        self.assertEqual(self.call("POST", "/v1/gpus/recover")[0], 409)
        self.assertEqual(self.call("GET", "/v1/gpus/recover")[0], 405)

    def test_one_bare_instance(self):
        """Two creates on the bare path while the list is being fetched: one of them is refused."""
        self.host()
        codes = []

        def post():
            codes.append(self.call("POST", "/instances", {"gpu_count": 1})[0])
        threads = [threading.Thread(target=post) for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(sorted(codes), [200, 409])


class Disks(Case):
    def test_default_is_cut_to_the_ceiling(self):
        """Nobody is refused for what was not asked for; what was asked for is refused."""
        for body, mib in (({}, 65536), ({"storage_gb": 1}, 1024)):
            self.create(**body)
            self.until("it is prepared", lambda mib=mib: self.helper.disks[-1:] == [mib])
        self.refused({"storage_gb": 65}, 422, "storage_gb")


class SmallDisks(Case):
    settings = "default_disk = 0\n"

    def test_as_the_image_asks(self):
        self.create()
        self.until("it is prepared", lambda: self.helper.disks[:1] == [0])


class Debugging(Case):
    settings = "debug = yes\n"

    def test_requests_go_through_without_gpus(self):
        self.assertEqual(self.create(gpu_addr="0000:01:00.0")[1], [])
        self.helper.answers["GPU_LIST"] = ["DENIED"]
        self.assertEqual(self.create(gpus=3)[1], [])
        self.helper.gpus = [Gpu("0000:01:00.0")]
        self.assertEqual(self.create(gpus=1)[1], ["0000:01:00.0"])
        self.refused({"gpus": 1}, 409)

    def test_made_up_gpus_are_called_so(self):
        data = self.call("GET", "/v1/gpus/figures")[1]["data"]
        self.assertEqual((data["state"], data["fake_gpus"]), ("fake", True))
        self.assertEqual([(g["address"], g["name"]) for g in data["gpus"]], [(None, "Made-up GPU (debug)")])
        host = self.call("GET", "/v1/host")[1]["data"]
        self.assertEqual((host["debug"], host["nvml"]["fake_gpus"]), (True, True))
        self.assertNotIn("nvml", self.call("GET", "/v1/host", tcp=True)[1]["data"], "told to the secret's holder")
        self.assertTrue(self.call("GET", "/v1/gpus")[1]["data"]["nvml"]["fake_gpus"])
        self.assertIn("GPUs are made up: debug is on", self.log())
        self.assertIn("made up", self.ctl("gpus"))
        self.assertRegex(self.ctl("check", expect=None), r"(?m)^WARN +gpu-data .*made up")
        self.assertIn("made up", self.ctl("top", "--once"))


class WithProbe(Case):
    """nvml-probe, started as the service manager does for each connection."""
    settings = "nvml = yes\n"
    choices = ("two", "hang", "crash", "garbage", "forge-count")

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("lib"))
        rig.libraries(self.path("lib"), FAKE, OTHER, self.choices)
        self.probes = rig.Server(self.path("nvml.sock"), PROBE, self.library("two"))
        self.addCleanup(self.probes.end)
        self.helper.gpus = [Gpu("0000:3e:00.0"), Gpu("0000:3f:00.0")]
        self.helper.is_probing = self.probes.is_reading

    def library(self, name):
        return self.path(f"lib/{name}.so")

    def figures(self):
        return self.call("GET", "/v1/gpus/figures")[1]["data"]

    def assert_pauses(self, begun, before=0):
        """agentd pauses for five seconds at least before it starts another probe, however long these tests take."""
        self.assertLessEqual(self.probes.started - before, 1 + (time.monotonic() - begun) // 5, "asked again at once")


class Probing(WithProbe):
    def test_figures(self):
        begun = time.monotonic()
        data = self.figures()
        self.assertEqual((data["state"], data["fake_gpus"], data["driver_version"], data["cuda_version"]),
                         ("ok", False, "550.54.15", "12.4"))
        self.assertEqual(data["gpus"][0], {
            "address": "0000:3e:00.0", "uuid": "GPU-00000002-1111-2222-3333-444444444444",
            "name": "NVIDIA GeForce RTX 3090", "percent": 60, "celsius": 52, "memory_used": 6 << 30,
            "memory_total": 24 << 30, "watts": 123.456})
        for _ in range(20):
            self.figures()
        self.assert_pauses(begun)
        gpu = self.call("GET", "/v1/gpus")[1]["data"]["gpus"][1]
        self.assertEqual((gpu["figures"]["percent"], gpu["figures"]["celsius"]), (30, 51))
        out = self.ctl("gpus")
        self.assertIn("60 %", out)
        self.assertIn("52 C", out)
        self.assertIn("0000:3f:00.0", self.ctl("top", "--once"))
        with contextlib.closing(Connection(self.path("run/ctl.sock"))) as conn:
            conn.request("GET", "/metrics")
            self.assertIn('qudata_host_gpu_busy_ratio{gpu="0000:3f:00.0"} 0.30', conn.getresponse().read().decode())
        port = self.call("GET", "/v1/host")[1]["data"]["http_port"]
        secret = pathlib.Path(self.path("data/secret")).read_text(encoding="ascii").strip()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as conn:
            conn.request("GET", "/metrics", headers={"X-Agent-Secret": secret})
            self.assertNotIn("qudata_host_gpu", conn.getresponse().read().decode(), "told to the secret's holder")

    def test_gpus_of_vms_have_none(self):
        self.helper.gpus[0].vm = "0123456789abcdef"
        figures = {g["address"]: g["figures"] for g in self.call("GET", "/v1/gpus")[1]["data"]["gpus"]}
        self.assertIsNone(figures["0000:3e:00.0"])
        self.assertEqual(figures["0000:3f:00.0"]["percent"], 30)

    def test_ended_before_acts(self):
        """A probe that hangs is gone before vfio-helper hears of a GPU, and comes again afterwards."""
        self.probes.library = self.library("hang")
        waiting = threading.Thread(target=self.figures)
        waiting.start()
        self.until("it runs", self.helper.is_probing)
        _, chosen = self.create(gpus=1)
        waiting.join()
        self.assertEqual((len(chosen), self.helper.probes_seen), (1, [False]))
        waiting = threading.Thread(target=self.figures)
        waiting.start()
        self.until("it runs again", self.helper.is_probing)
        self.assertEqual(self.call("POST", "/v1/gpus/recover")[0], 200)
        waiting.join()
        self.assertEqual(self.helper.probes_seen, [False, False])
        self.probes.library = self.library("two")
        self.until("figures are there", lambda: self.figures()["state"] == "ok")

    def test_of_no_use(self):
        for name, state in (("crash", "crashed"), ("forge-count", "crashed")):
            self.probes.library = self.library(name)
            begun, before = time.monotonic(), self.probes.started
            self.assertEqual(self.figures()["state"], state)
            self.assertEqual(self.figures()["gpus"], [])
            self.assert_pauses(begun, before)
            self.stop()
            self.start()
        self.assertEqual(self.call("GET", "/v1/gpus")[0], 200)
        self.probes.end()
        self.stop()
        self.start()
        self.assertEqual(self.figures()["state"], "no_probe")

    def test_hostile_answers(self):
        """Whatever stands where the probe should: one datagram or many, too long, too short, never ending."""
        self.probes.end()
        os.unlink(self.path("nvml.sock"))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(listener.close)
        listener.bind(self.path("nvml.sock"))
        os.chmod(self.path("nvml.sock"), 0o666)
        listener.listen()
        for datagrams in ([b"x"], [b"\xff" * 4096], [b"\0" * 60000],
                          [rig.HEADER.pack(1, 0, 0, 0, rig.REPORT_SIZE)], []):
            held = []

            def serve(datagrams=datagrams, held=held):
                peer, _ = listener.accept()
                for d in datagrams * 3:
                    with contextlib.suppress(OSError):
                        peer.send(d)
                held.append(peer)
                if not datagrams:
                    peer.close()
            thread = threading.Thread(target=serve)
            thread.start()
            data = self.figures()
            thread.join()
            self.assertEqual((data["state"], data["gpus"]), ("garbage" if datagrams else "no_answer", []))
            if datagrams:  # it does not go away: acts on GPUs are put off, and then done
                self.assertEqual(self.call("GET", "/v1/gpus")[0], 200)
                self.assertEqual(self.figures()["state"], "garbage")
            held[0].close()
            self.stop()
            self.start()

    def test_agentd_ends_while_it_asks(self):
        self.probes.library = self.library("hang")
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(self.figures()))
        waiting.start()
        self.until("it runs", self.helper.is_probing)
        self.stop()
        waiting.join()
        self.assertEqual(answers[0]["gpus"], [])
        self.until("it has ended", lambda: not self.helper.is_probing())


class OnHost(WithProbe):
    """Containers without VMs: each shows its own GPUs."""
    names = ["GPU-00000002-1111-2222-3333-444444444444", "GPU-00000001-1111-2222-3333-444444444444",
             "GPU-0000000f-1111-2222-3333-444444444444"]
    settings = f"nvml = yes\nbackend = container\ncontainer_gpus = {','.join(names)}\n"

    def metrics(self, name, query="", **how):
        code, answer = self.call("GET", f"/v1/instances/{name}/metrics{query}", **how)
        self.assertEqual(code, 200, answer)
        return answer["data"]

    def test_own_figures_only(self):
        begun = time.monotonic()
        one, _ = self.create(image="a/b", gpus=1)
        two, _ = self.create(image="a/b", gpus=2)
        none, _ = self.create(image="a/b")
        for how in ({}, {"tcp": True}):
            data = self.metrics(one, **how)
            self.assertEqual((data["samples"], data["newest"], data["fake_gpus"]), ([], 0, False))
            own = data["host_gpus"]
            self.assertEqual((own["state"], [g["name"] for g in own["gpus"]]), ("ok", self.names[:1]))
            self.assertEqual({k: own["gpus"][0]["figures"][k] for k in ("uuid", "percent", "celsius", "watts")},
                             {"uuid": self.names[0], "percent": 60, "celsius": 52, "watts": 123.456})
        own = self.metrics(two)["host_gpus"]["gpus"]
        self.assertEqual([(g["name"], g["figures"] and g["figures"]["percent"]) for g in own],
                         [(self.names[1], 30), (self.names[2], None)], "the driver does not know the last one")
        self.assertEqual(self.metrics(none)["host_gpus"]["gpus"], [])
        self.assert_pauses(begun)
        self.assertRegex(self.ctl("top", one, "--once"), rf"{self.names[0]} +60 % +52 C +6.0 of 24.0 GiB +123 W")
        self.assertNotIn(self.names[0], self.ctl("top", two, "--once"))
        self.assertIn("without GPUs", self.ctl("top", none, "--once"))
        self.assertRegex(self.ctl("top", "--once"), rf"(?m)^{one} .* 60 %")
        self.assertEqual(json.loads(self.ctl("top", two, "--json"))["host_gpus"]["gpus"], own)

    def test_without_an_answer(self):
        """A probe that hangs delays nobody who does not want to wait, and a client may go away."""
        self.probes.library = self.library("hang")
        one, _ = self.create(image="a/b", gpus=1)
        own = self.metrics(one, "?wait=no")["host_gpus"]
        self.assertEqual((own["age_ms"], [g["figures"] for g in own["gpus"]]), (None, [None]))
        gone = Connection(self.path("run/ctl.sock"))
        gone.request("GET", f"/v1/instances/{one}/metrics")
        gone.close()
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(self.call("GET", f"/v1/instances/{one}/metrics")))
        waiting.start()
        waiting.join()
        self.assertEqual((answers[0][0], answers[0][1]["data"]["host_gpus"]["age_ms"]), (200, None))


class OnHostDebugging(Case):
    settings = "debug = yes\nbackend = container\n"

    def test_made_up(self):
        one, _ = self.create(image="a/b", gpus=1)
        data = self.call("GET", f"/v1/instances/{one}/metrics")[1]["data"]
        self.assertEqual((data["fake_gpus"], data["host_gpus"]["state"]), (True, "fake"))
        self.assertEqual([(g["name"], g["figures"]["percent"]) for g in data["host_gpus"]["gpus"]], [(None, 42)])
        self.assertRegex(self.ctl("top", one, "--once"), r"(?s)made up \(debug\).*none +42 %")


class NotProbing(WithProbe):
    settings = "nvml = no\n"

    def test_off(self):
        self.assertEqual(self.figures()["state"], "off")
        self.assertEqual(self.probes.started, 0)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
