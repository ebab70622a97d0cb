# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end cases share: the suite under test, its API, its guests, and the reporting."""
import contextlib
import http.client
import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback

TOP = pathlib.Path(__file__).resolve().parents[2]
DAEMONS = ("agentd", "vfio-helper", "vmmon", "frp-supervisor")
BOOT_S = 240  # a guest under software emulation on a loaded 2-core machine
SSH_S = 180  # a command in one


def wait_for(what, condition, timeout=60.0):
    """What @condition returns, once it is true. The time only bounds how long a failure takes."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not in {timeout} s: {what}"
        time.sleep(0.02)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Answer:
    def __init__(self, status, headers, raw):
        self.status = status
        self.headers = headers
        self.raw = raw
        try:
            self.json = json.loads(raw)
        except ValueError:
            self.json = None

    @property
    def data(self):
        assert self.status == 200 and self.json["ok"], f"{self.status}: {self.raw[:300]!r}"
        return self.json["data"]

    @property
    def error(self):
        assert self.json is not None and self.json["ok"] is False, f"{self.status}: {self.raw[:300]!r}"
        return self.json["error"]


class Suite:
    """The four daemons, started from a build tree by packaging/suite in a folder of their own."""

    def __init__(self, build, images, image="debian-12", settings=()):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="qudata-e2e-", dir="/run"))
        self.root.rmdir()
        self.build = pathlib.Path(build).resolve()
        self.images = images
        self.image = image
        self.settings = list(settings)
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="qudata-e2e-"))

    def _suite(self, *words, check=True):
        done = subprocess.run([TOP / "packaging/suite", "--root", self.root, *words],
                              capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"packaging/suite {words}: {done.stderr}{done.stdout}")
        return done

    def up(self):
        args = ["--build", str(self.build), "--images", str(self.images), "--image", self.image]
        for setting in self.settings:
            args += ["--set", setting]
        self._suite("up", *args)
        return self

    def down(self):
        self._suite("down")
        shutil.rmtree(self.scratch, ignore_errors=True)

    def start(self, name):
        self._suite("start", name)

    def stop(self, name):
        self._suite("stop", name)

    def kill(self, name):
        self._suite("kill", name)

    def pid(self, name):
        return int((self.root / f"{name}.pid").read_text())

    @property
    def ctl_socket(self):
        return str(self.root / "run/agentd/ctl.sock")

    @property
    def secret(self):
        return (self.root / "lib/agentd/secret").read_text().strip()

    @property
    def http_port(self):
        return int(self.get("/v1/host").data["http_port"])

    def call(self, method, path, body=None, timeout=60, headers=None):
        conn = UnixConnection(self.ctl_socket, timeout)
        with contextlib.closing(conn):
            raw = json.dumps(body) if isinstance(body, (dict, list)) else body
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused by its head: what was answered can be read all the same
                conn.request(method, path, raw, {"Content-Type": "application/json", **(headers or {})})
            r = conn.getresponse()
            return Answer(r.status, r.headers, r.read())

    def tcp(self, method, path, body=None, secret=None, timeout=60):
        conn = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        with contextlib.closing(conn):
            headers = {"Content-Type": "application/json"}
            if secret is not None:
                headers["X-Agent-Secret"] = secret
            conn.request(method, path, json.dumps(body) if body is not None else None, headers)
            r = conn.getresponse()
            return Answer(r.status, r.headers, r.read())

    def get(self, path, **kw):
        return self.call("GET", path, **kw)

    def post(self, path, body, **kw):
        return self.call("POST", path, body, **kw)

    def put(self, path, body, **kw):
        return self.call("PUT", path, body, **kw)

    def delete(self, path, body=None, **kw):
        return self.call("DELETE", path, body, **kw)

    def create(self, **fields):
        before = {i["instance_id"] for i in self.instances()}
        made = self.post("/v1/instances", {"cpus": "1", "memory": "512M", "ssh_enabled": True, **fields}).data["instance_id"]
        assert {i["instance_id"] for i in self.instances()} - before == {made}, made
        return made

    def instances(self):
        return self.get("/v1/instances").data["instances"]

    def status(self, instance):
        return self.get(f"/v1/instances/{instance}").data

    def wait(self, instance, state, timeout=BOOT_S):
        """Follows the long poll until the state is reached; an unwanted `error` fails at once."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"not {state} after {timeout} s: {self.status(instance)}\n"
                                     f"{self.console(instance)[-1500:]}\n{self.log_tails()}")
            answer = self.get(f"/v1/instances/{instance}/wait?state={state}&timeout_s={int(min(left, 20)) + 1}",
                              timeout=40)
            if state == "destroyed" and answer.status == 404:
                return None
            now = answer.data["status"]
            if now == state:
                return answer.data
            if now == "error" and state != "error":
                raise AssertionError(f"error instead of {state}: {answer.data}\n{self.log_tails()}")

    def console(self, instance):
        try:
            return self.get(f"/v1/instances/{instance}/console/log").raw.decode(errors="replace")
        except OSError as e:
            return f"(no console: {e})"

    def log_tails(self, lines=12):
        out = []
        for path in sorted((self.root / "log").glob("*.log")):
            out += [f"-- {path.name}"] + path.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(out)

    def console_tails(self, size=1500):
        """What each guest said last, for a report about one that says nothing more."""
        try:
            return "\n".join(f"-- console of {i['instance_id']}, {i['status']}\n{self.console(i['instance_id'])[-size:]}"
                             for i in self.instances())
        except (OSError, AssertionError) as e:
            return f"(no consoles: {e})"

    def key(self, name="key"):
        path = self.scratch / name
        if not path.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"e2e {name}", "-f", path],
                           check=True)
        return path, path.with_suffix(".pub").read_text().strip()

    def change_key(self, method, instance, name):
        """Again until the guest has it: to an emulated one the way may be longer than the API waits."""
        return wait_for(f"{method} of a key is applied", lambda: (
            lambda done: done["applied"] and done)(self.call(method, f"/v1/instances/{instance}/ssh",
                                                             {"ssh_pubkey": self.key(name)[1]}).data), BOOT_S)

    def add_key(self, instance, name="key"):
        return self.change_key("POST", instance, name)

    def remove_key(self, instance, name="key"):
        return self.change_key("DELETE", instance, name)

    def ssh_base(self, instance, key="key", known=None, checking="yes"):
        """An ssh command that knows only the pinned host key (or what the file @known says)."""
        info = self.status(instance)["ssh"]
        if known is None:
            known = self.scratch / f"known-{instance}"
            known.write_text(f"guest-{instance} {info['host_key']}\n")
        return ["ssh", "-F", "none", "-i", str(self.scratch / key), "-p", str(info["port"]),
                "-o", f"UserKnownHostsFile={known}", "-o", f"HostKeyAlias=guest-{instance}",
                "-o", f"StrictHostKeyChecking={checking}", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
                "-o", "ConnectTimeout=90", "-o", "LogLevel=ERROR", f"{info['user']}@{info['host']}"]

    def ssh(self, instance, command, key="key", check=True, timeout=SSH_S, stdin=""):
        done = subprocess.run(self.ssh_base(instance, key) + [command], capture_output=True, text=True,
                              timeout=timeout, check=False, input=stdin)
        if check and done.returncode != 0:
            raise AssertionError(f"ssh {command!r}: exit {done.returncode}: {done.stderr} {done.stdout}")
        return done

    def vm_pids(self, program="qemu-system-x86"):
        """Processes of the slots' users, by program: {pid: uid}."""
        found = {}
        uids = {u.pw_uid for u in pwd.getpwall() if u.pw_name.startswith("qudata-vm")}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                status = proc_status(entry.name)
                if int(status["Uid"].split()[0]) in uids and program in status["Name"] \
                        and not status["State"].startswith("Z"):
                    found[int(entry.name)] = int(status["Uid"].split()[0])
        return found


def proc_status(pid):
    """
    The fields of /proc/PID/status. One that is reaped between open and read is told as dead, with parent 0
    (fs/proc/array.c, task_state()): that is gone, like one that cannot be opened any more.
    """
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {k: v.strip() for k, v in (line.split(":", 1) for line in lines)}
    if status["State"].startswith("X"):
        raise ProcessLookupError(pid)
    return status


class Report:
    """Prints the lines that tests/run counts."""

    def __init__(self, only, listing=False):
        self.failed = 0
        self.only = only

    def run(self, name, function, *args):
        begun = time.monotonic()
        try:
            function(*args)
        except Exception as e:  # pylint: disable=broad-except
            self.failed += 1
            at = traceback.extract_tb(e.__traceback__)[-1]
            why = str(e).splitlines()[0] if str(e) else f"{type(e).__name__}: {at.line}"
            print(f"FAIL {name}: {why} ({os.path.basename(at.filename)}:{at.lineno})", flush=True)
            traceback.print_exc()
            sys.stderr.flush()
            return False
        print(f"ok {name} ({time.monotonic() - begun:.1f} s)", flush=True)
        return True
