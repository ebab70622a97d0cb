#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""nvml-probe with a stand-in for the driver's library, through the real dlopen(): answers, refusals, hangs, rubbish.

usage: test_probe.py NVML-PROBE FAKE-LIBRARY OTHER-LIBRARY
"""
import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import nvmlrig as rig  # noqa: E402
from nvmlrig import UNKNOWN  # noqa: E402

PROBE, FAKE, OTHER = (os.path.abspath(word) for word in sys.argv[1:4])
NAMES = ["two", "none", "many", "bare", "lost", "nodriver", "mismatch", "crash", "exit", "forge-count", "forge-short",
         "forge-text", "hang", "spin", "garbage", "attack", "other"]


class Probe(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="qudata-nvml-")
        cls.addClassCleanup(subprocess.run, ["rm", "-r", cls.folder], check=True)
        rig.libraries(cls.folder, FAKE, OTHER, NAMES)

    def begin(self, library, *options):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(120)
        with theirs:
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                [PROBE, "--library", library, *options], stdin=theirs, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, cwd="/", **rig.nobody())
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        self.addCleanup(ours.close)
        return process, ours

    def ask(self, name, *options):
        process, connection = self.begin(f"{self.folder}/{name}.so" if "/" not in name else name, *options)
        report = rig.decode(connection.recv(8192))
        self.assertEqual(connection.recv(8192), b"", "one answer, then the end")
        out, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out), (0, b""), err)
        return report

    def await_reader(self, process):
        deadline = time.monotonic() + 60
        while not (pid := rig.reader_of(process)):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        return pid

    def await_loaded(self, reader, name):
        """Until the library is there: the reader is confined by then."""
        deadline = time.monotonic() + 60
        try:
            while f"/{name}.so" not in pathlib.Path(f"/proc/{reader}/maps").read_text():
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
        except PermissionError:  # only root may look
            time.sleep(2)

    def test_two(self):
        report = self.ask("two")
        self.assertEqual((report["state"], report["driver"], report["cuda"], report["left_out"]),
                         ("ok", "550.54.15", 12040, 0))
        self.assertEqual([g["address"] for g in report["gpus"]], [0x3e00, 0x3f00])
        self.assertEqual(report["gpus"][1], {
            "address": 0x3f00, "percent": 30, "celsius": 51, "used": 6144, "total": 24576, "power": 123456,
            "uuid": "GPU-00000001-1111-2222-3333-444444444444", "name": "NVIDIA GeForce RTX 3090"})

    def test_none(self):
        self.assertEqual(self.ask("none")["gpus"], [])

    def test_many(self):
        report = self.ask("many")
        addresses = [g["address"] for g in report["gpus"]]
        self.assertEqual((len(addresses), report["left_out"]), (16, 4))
        self.assertEqual(addresses, sorted(set(addresses)))

    def test_figures_that_are_not_there(self):
        for gpu in self.ask("bare")["gpus"]:
            self.assertEqual({gpu[k] for k in ("percent", "celsius", "used", "total", "power")}, {UNKNOWN})

    def test_lost_gpu(self):
        report = self.ask("lost")
        self.assertEqual((len(report["gpus"]), report["left_out"]), (1, 1))

    def test_garbage(self):
        report = self.ask("garbage")
        self.assertEqual((report["state"], report["cuda"], report["driver"]), ("ok", 0, "?" * 31))
        for gpu in report["gpus"]:
            self.assertEqual({gpu[k] for k in ("percent", "celsius", "used", "total", "power")}, {UNKNOWN})
            self.assertEqual((gpu["name"], gpu["uuid"]), ("?" * 63, "U" * 47))

    def test_no_library(self):
        self.assertEqual(self.ask("/nonexistent/libnvidia-ml.so.1")["state"], "no_library")
        self.assertEqual(self.ask(os.path.abspath(__file__))["state"], "no_library")

    def test_of_no_use(self):
        for name, state, detail in (("nodriver", "no_driver", 9), ("mismatch", "unusable", 18), ("other", "unusable", 0),
                                    ("crash", "crashed", signal.SIGABRT), ("exit", "crashed", 0)):
            report = self.ask(name)
            self.assertEqual((report["state"], report["detail"], report["gpus"]), (state, detail, []), name)

    def test_forged(self):
        for name in ("forge-count", "forge-short", "forge-text"):
            self.assertEqual(self.ask(name)["state"], "crashed", name)

    def test_late(self):
        for name in ("hang", "spin"):
            self.assertEqual(self.ask(name, "--timeout", "1")["state"], "late", name)

    def test_hang_up_ends_it(self):
        for hang_up in (lambda c: c.shutdown(socket.SHUT_WR), lambda c: c.close()):
            process, connection = self.begin(f"{self.folder}/hang.so")
            reader = self.await_reader(process)
            hang_up(connection)
            self.assertEqual(process.wait(60), 0)
            self.assertFalse(rig.is_alive(reader), "the reader is still there")

    def test_reader_ends_with_it(self):
        process, _ = self.begin(f"{self.folder}/hang.so")
        reader = self.await_reader(process)
        self.await_loaded(reader, "hang")
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while rig.is_alive(reader):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    @unittest.skipUnless(os.geteuid() == 0, "only root can hold a process at its end")
    def test_hung_in_the_kernel(self):
        """A tracer holds the reader at its exit, as a driver does in which it hangs."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long] * 4
        process, connection = self.begin(f"{self.folder}/hang.so", "--timeout", "6")
        reader = self.await_reader(process)
        seize, option_exit, detach = 0x4206, 0x40, 17
        self.assertEqual(libc.ptrace(seize, reader, 0, option_exit), 0, os.strerror(ctypes.get_errno()))
        try:
            self.assertEqual(rig.decode(connection.recv(8192))["state"], "hung")
            connection.settimeout(0.5)
            with self.assertRaises(TimeoutError):
                connection.recv(8192)
            self.assertIsNone(process.poll(), "it has not waited for its reader")
        finally:
            os.waitpid(reader, 0x40000000)  # __WALL
            libc.ptrace(detach, reader, 0, 0)
        connection.settimeout(60)
        self.assertEqual(connection.recv(8192), b"")
        self.assertEqual(process.wait(60), 0)

    def test_confined(self):
        if os.environ.get("QUDATA_TEST_SANDBOX") != "kill":
            self.skipTest("this build's filters do not refuse")
        report = self.ask("attack")
        self.assertEqual({g["name"] for g in report["gpus"]}, {"done"})

    def test_privileges(self):
        process, _ = self.begin(f"{self.folder}/hang.so")
        reader = self.await_reader(process)
        self.await_loaded(reader, "hang")
        for pid in (process.pid, reader):
            with open(f"/proc/{pid}/status") as f:
                status = dict(line.split(":\t", 1) for line in f.read().splitlines() if ":\t" in line)
            self.assertEqual(status["NoNewPrivs"], "1")
            self.assertEqual({int(status[k], 16) for k in ("CapEff", "CapPrm", "CapInh", "CapAmb")}, {0})
            if os.environ.get("QUDATA_TEST_SANDBOX") == "kill":
                self.assertEqual(status["Seccomp"], "2")
        with open(f"/proc/{reader}/limits") as f:
            self.assertRegex(f.read(), r"Max core file size +0 +0 ")
        if os.geteuid() == 0:
            fds = {os.readlink(f"/proc/{reader}/fd/{n}") for n in os.listdir(f"/proc/{reader}/fd")}
            self.assertEqual({fd.split(":")[0] for fd in fds}, {"/dev/null", "socket"})

    def test_usage(self):
        done = subprocess.run([PROBE], stdin=subprocess.DEVNULL, capture_output=True, check=False, **rig.nobody())
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"--print", done.stderr)
        for words in (["--timeout", "0"], ["--timeout", "1x"], ["--nonsense"], ["word"]):
            self.assertEqual(subprocess.run([PROBE, *words], capture_output=True, check=False).returncode, 2, words)
        if os.geteuid() == 0:
            done = subprocess.run([PROBE, "--print"], capture_output=True, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"refusing to run as root", done.stderr)

    def test_print(self):
        done = subprocess.run([PROBE, "--print", "--library", f"{self.folder}/two.so"], capture_output=True, check=True,
                              cwd="/", **rig.nobody())
        self.assertIn(b"cuda 12.4\n0000:3e:00.0 GPU-00000002", done.stdout)
        self.assertNotIn(b"noise", done.stdout)

    def test_environment_names_no_library(self):
        """LD_LIBRARY_PATH is the caller's own; what is in the environment else has no say."""
        done = subprocess.run([PROBE, "--print"], capture_output=True, check=True, cwd=self.folder,
                              env={"NVML_LIBRARY": f"{self.folder}/two.so", "QUDATA_NVML_LIBRARY": f"{self.folder}/two.so"},
                              **rig.nobody())
        self.assertNotIn(b"550.54.15", done.stdout)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
