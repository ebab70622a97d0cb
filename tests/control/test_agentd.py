#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""agentd and control-client together against a simulated control plane, as an ordinary user: identity,
secrets, reports, and that nothing the control plane does or omits disturbs the API.
Usage: test_agentd.py AGENTD NVML-PROBE FAKE-LIBRARY OTHER-LIBRARY
"""
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "nvml"))
import nvmlrig  # noqa: E402
import plane as simulated  # noqa: E402

PROGRAM, PROBE, FAKE, OTHER = (os.path.abspath(word) for word in sys.argv[1:5])
API_KEY = "ak-test"


def eventually(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def free_port():
    """Of those that nobody is given by the kernel meanwhile, nor chosen by another test."""
    while True:
        port = random.SystemRandom().randrange(17000, 20000)
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            return port


class Agent:
    def __init__(self, folder, url, settings=""):
        self.folder = folder
        self.port = free_port()
        os.makedirs(f"{folder}/data", exist_ok=True)
        with open(f"{folder}/agentd.conf", "w") as f:
            f.write(f"control_plane = {url}\ndata_dir = {folder}/data\nport = {self.port}\n"
                    f"ctl_socket = {folder}/ctl.sock\nhelper_socket = {folder}/h.sock\n"
                    f"vmmon_socket = {folder}/m.sock\nfrp_socket = {folder}/f.sock\n"
                    f"api_key_file = {folder}/key\nlocation_city = Bonn\n"
                    f"nvml_socket = {folder}/nvml.sock\n{settings}")
        with open(f"{folder}/key", "w") as f:
            f.write(API_KEY + "\n")
        os.chmod(f"{folder}/key", 0o600)
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", "nobody", folder], check=True)

    def start(self, **given):
        self.log = open(f"{self.folder}/log", "ab")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("QUDATA_")} | given
        self.process = subprocess.Popen(
            [PROGRAM, "--config", f"{self.folder}/agentd.conf"], stderr=self.log, stdin=subprocess.DEVNULL,
            env=environment, cwd="/", user="nobody" if os.geteuid() == 0 else None)
        eventually(lambda: self.answers())

    def answers(self):
        assert self.process.poll() is None, self.words()
        try:
            return self.call("GET", "/ping")[0] == 200
        except OSError:
            return False

    def call(self, method, path, body=None, secret=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"X-Agent-Secret": secret} if secret else {}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")

    def words(self):
        with open(f"{self.folder}/log", errors="replace") as f:
            return f.read()

    def children(self):
        """pids of the keeper and of the client that it keeps."""
        def of(pid):
            with open(f"/proc/{pid}/task/{pid}/children") as f:
                return [int(word) for word in f.read().split()]
        keeper = of(self.process.pid)[0]
        return keeper, (of(keeper) + [None])[0]

    def stop(self, number=signal.SIGTERM):
        keeper, client = self.children()
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        eventually(lambda: not alive(keeper) and not alive(client))


def alive(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return not re.search("^State:\t[XZ]", f.read(), re.MULTILINE)
    except OSError:
        return False


def private(path):
    return stat.S_IMODE(os.stat(path).st_mode) == 0o600


def main():
    control = simulated.Plane()
    server = simulated.start(control)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        agent = Agent(folder, f"http://127.0.0.1:{server.server_port}/v0")
        agent.start()
        others = [HostGpus(f"{folder}/{name}", settings) for name, settings in
                  (("driver", "nvml = yes\n"), ("debug", "debug = yes\n"))]
        try:
            run(control, agent, f"{folder}/data")
            for other, check in zip(others, (the_drivers_gpus, made_up_gpus)):
                agent = other.agent
                check(other)
                agent.stop()
        except BaseException:
            print(agent.words()[-4000:])
            agent.process.kill()
            raise
    return 0


class HostGpus:
    """An agent whose host has GPUs of its own, or makes one up."""

    def __init__(self, folder, settings):
        os.makedirs(f"{folder}/lib")
        nvmlrig.libraries(f"{folder}/lib", FAKE, OTHER, ["two"])
        self.control = simulated.Plane()
        server = simulated.start(self.control)
        self.agent = Agent(folder, f"http://127.0.0.1:{server.server_port}/v0", settings)
        self.probes = nvmlrig.Server(f"{folder}/nvml.sock", PROBE, f"{folder}/lib/two.so")
        self.agent.start()

    def reported(self):
        """What the control plane is told: the host, and a sample with figures of GPUs."""
        host = self.control.wait_path("/init/host", 60)["body"]
        eventually(lambda: self.agent.call("POST", "/instances", {"cpus": "1", "memory": "1G"},
                                           self.control.secret)[0] == 200)
        stats = self.control.wait(lambda c: c["path"].endswith("/stats") and "gpu_util" in c["body"], 60)["body"]
        return host, stats


def the_drivers_gpus(other):
    host, stats = other.reported()
    assert (host["gpu_name"], host["gpu_amount"], host["vram"], host["max_cuda"]) == \
        ("NVIDIA GeForce RTX 3090", 2, 24, "12.4"), host
    assert host["configuration"]["max_cuda_version"] == "12.4"
    assert (stats["gpu_util"], stats["gpu_temp"], stats["mem_util"]) == (45, 52, 25), stats
    seen = other.probes.started
    time.sleep(3)
    assert other.probes.started <= seen + 1, "asked for each sample"
    other.probes.end()
    step("tells of GPUs what the host's driver says, and asks it seldom")


def made_up_gpus(other):
    host, stats = other.reported()
    assert (host["gpu_name"], host["gpu_amount"], host["vram"]) == ("Made-up GPU (debug)", 1, 80), host
    assert stats["gpu_util"] == 42, stats
    assert other.control.wait_path("/init")["body"]["test_mode"] is True
    assert other.probes.started == 0 and "GPUs are made up: debug is on" in other.agent.words()
    other.probes.end()
    step("makes a GPU up in debug mode, and says so")


def step(text):
    print(f"PASS {text}", flush=True)


def run(control, agent, data):
    init = control.wait_path("/init")["body"]
    assert init["agent_port"] == agent.port and init["pid"] == agent.process.pid
    with open(f"{data}/agent_id") as f:
        assert f.read().strip() == init["agent_id"]
    host = control.wait_path("/init/host", 60)["body"]
    with open("/proc/meminfo") as f:
        kib = int(f.readline().split()[1])
    assert abs(host["configuration"]["ram"]["amount"] - kib / 1048576) < 0.01, host
    assert host["configuration"]["vcpu"] == os.cpu_count()
    assert host["location"] == {"city": "Bonn"} and "gpu_name" not in host and "vram" not in host
    step("registers with what the machine says, and leaves out what it does not")

    eventually(lambda: agent.call("GET", "/instances", secret=control.secret)[0] == 200)
    with open(f"{data}/secret") as f:
        assert f.read().strip() == control.secret
    assert all(private(f"{data}/{name}") for name in ("secret", "control_secret", "agent_id"))
    step("takes the control plane's secret for its own API, and keeps it private")

    eventually(lambda: agent.call("GET", "/v1/host", secret=control.secret)[1]["data"]["control_plane_state"] == "up")
    time.sleep(1.2)
    before = [c for c in control.calls if c["path"].endswith("/stats")]
    assert len(before) <= 1, "it reports without an instance"
    status, _ = agent.call("POST", "/instances", {"cpus": "1", "memory": "1G"}, control.secret)
    assert status == 200
    first = control.wait(lambda c: c["path"].endswith("/stats") and c["body"]["status"] == "pending")
    seen = len(control.calls)

    def reports():
        return [c for c in control.calls[seen:] if c["path"].endswith("/stats")]
    eventually(lambda: len(reports()) >= 8)
    calls = reports()
    took = calls[-1]["time"] - calls[0]["time"]
    assert len(calls) <= 2 * took + 3, f"{len(calls)} samples in {took:.1f} s"
    samples = [c["body"] for c in calls]
    assert all(0 <= s["cpu_util"] <= 100 and 0 < s["ram_util"] <= 100 for s in samples)
    assert "gpu_util" not in first["body"] and samples[-1]["inet_in"] >= samples[0]["inet_in"] >= 0
    step("reports twice a second while there is an instance, and not before")

    control.secret = "sk-" + "r" * 40
    eventually(lambda: agent.call("GET", "/instances", secret=control.secret)[0] == 200)
    assert agent.call("GET", "/instances", secret="sk-" + "s" * 40)[0] == 403
    step("follows a rotated secret")

    _, client = agent.children()
    os.kill(client, signal.SIGKILL)
    eventually(lambda: agent.children()[1] not in (None, client))
    seen = len(control.calls)
    control.wait_path("/stats", after=seen)
    step("a killed control-client is started again and reports")

    silent = threading.Event()
    control.script = [lambda h, c: silent.wait() or True for _ in range(3)]
    eventually(lambda: len(control.script) < 3)
    for _ in range(50):
        assert agent.call("GET", "/instances", secret=control.secret)[0] == 200
    assert not silent.is_set()
    control.script = []
    step("a control plane that does not answer costs the API nothing")

    agent.stop(signal.SIGKILL)
    seen = len(control.calls)
    agent.start()
    again = control.wait(lambda c: c["path"].endswith("/init"), after=seen)
    assert again["body"]["agent_id"] == init["agent_id"]
    assert again["headers"].get("x-agent-secret") == control.secret and "x-api-key" not in again["headers"]
    step("is the same agent after kill -9, and nothing of it stayed behind")

    os.mkdir(f"{agent.folder}/credentials")
    os.rename(f"{agent.folder}/key", f"{agent.folder}/credentials/api-key")
    shutil.chown(f"{agent.folder}/credentials", os.stat(f"{agent.folder}/credentials/api-key").st_uid)
    control.accept_secret = False
    for given in ({"CREDENTIALS_DIRECTORY": f"{agent.folder}/credentials"}, {"QUDATA_API_KEY": API_KEY}):
        agent.stop()
        seen = len(control.calls)
        agent.start(**given)
        control.wait(lambda c: c["path"].endswith("/init") and c["headers"].get("x-api-key") == API_KEY, after=seen)
    control.accept_secret = True
    step("takes the API key from a credential of the service manager, and from the environment")

    for pid in (agent.process.pid, *agent.children()):
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            assert API_KEY.encode() not in f.read()
    words = agent.words()
    assert API_KEY not in words and "sk-" not in words, "a secret in the log"
    step("no secret in the log or on a command line")
    agent.stop()
    step("ends with all of its processes")


if __name__ == "__main__":
    sys.exit(main())
