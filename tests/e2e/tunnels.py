# SPDX-License-Identifier: Apache-2.0
"""A real guest behind the real frps and frpc: in by SSH through a public port, while the daemons are killed."""
import contextlib
import hashlib
import os
import pathlib
import pwd
import random
import shutil
import socket
import subprocess

from lib import SSH_S, wait_for

SERVER = "127.0.0.2"  # other than where the guest's own ports are, so that what answers there came through the tunnel
TOKEN = "e2e-Tok3n.of_the_tunnels"
BULK = 8 << 20


def programs():
    """{"frps": path, "frpc": path}, of FRPS and FRPC or else on PATH; None when one is missing."""
    found = {name: os.environ.get(name.upper()) or shutil.which(name) for name in ("frps", "frpc")}
    return found if all(p and os.access(p, os.X_OK) for p in found.values()) else None


def free_port():
    """Below those that the kernel gives to connections, which would take it again before the server does."""
    while True:
        with contextlib.suppress(OSError), socket.create_server((SERVER, random.randrange(25000, 32000))) as s:
            return s.getsockname()[1]


class Server:
    def __init__(self, binary, folder):
        self.port = free_port()
        conf = folder / "frps.toml"
        conf.write_text(f'bindAddr = "{SERVER}"\nproxyBindAddr = "{SERVER}"\nbindPort = {self.port}\n'
                        f'auth.token = "{TOKEN}"\nallowPorts = [{{start = 10000, end = 15000}}]\n')
        with open(folder / "frps.log", "wb") as log:
            self.process = subprocess.Popen([binary, "-c", conf], stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # pylint: disable=consider-using-with
        wait_for("frps listens", lambda: listens(self.port))

    def end(self):
        self.process.terminate()
        self.process.wait(60)


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection((SERVER, port), 20):
        return True
    return False


class Guest:
    def __init__(self, suite):
        self.s = suite
        self.id = self.public = None

    def tunnel(self):
        return self.s.status(self.id)["tunnels"]["22"]

    def ssh_base(self, alive=False):
        """The pinned host key holds through the tunnel as well as without it."""
        words = self.s.ssh_base(self.id)
        words[words.index("-p") + 1] = str(self.public)
        keep = ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=12"] if alive else []
        return words[:1] + keep + words[1:-1] + [words[-1].split("@")[0] + "@" + SERVER]

    def ssh(self, command, **kw):
        return subprocess.run(self.ssh_base() + [command], check=True, timeout=2 * SSH_S, capture_output=True, **kw).stdout

    def frpc_pid(self):
        record = dict(line.split(" = ", 1) for line in (self.s.root / "run/frpc/frpc.run").read_text().splitlines())
        return int(record["pid"])

    def logs_in(self):
        self.id = self.s.create(ports={"22": "auto"})
        self.public = int(self.s.status(self.id)["ports"]["22"])
        assert 10000 <= self.public <= 15000, self.public
        wait_for("the tunnel runs", lambda: self.tunnel()["state"] == "running")
        assert self.tunnel()["address"] == f"{SERVER}:{self.public}", self.tunnel()
        self.s.add_key(self.id)  # waits until the guest, which still boots, has it
        self.s.wait(self.id, "running")
        assert self.ssh("id -un; hostname").split()[0] == b"root"

    def every_byte_arrives(self):
        data = os.urandom(BULK)
        got = self.ssh("cat", input=data)
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest(), f"{len(got)} of {len(data)} bytes"

    def outlives_the_daemons(self):
        """kill -9 of agentd and of frp-supervisor: a session goes on, in the same frpc."""
        frpc = self.frpc_pid()
        with subprocess.Popen(self.ssh_base(alive=True) + ["echo begun; read line; echo got $line"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as session:
            assert session.stdout.readline() == b"begun\n"
            for daemon in ("agentd", "frp-supervisor"):
                self.s.kill(daemon)
            for daemon in ("frp-supervisor", "agentd"):
                self.s.start(daemon)
            wait_for("agentd has heard of the tunnel", lambda: self.tunnel()["state"] == "running")
            out, _ = session.communicate(b"through\n", timeout=SSH_S)
            assert out == b"got through\n", out
        assert self.frpc_pid() == frpc
        assert self.ssh("echo again") == b"again\n"

    def goes_with_the_instance(self):
        self.s.delete(f"/v1/instances/{self.id}").data
        self.s.wait(self.id, "destroyed")
        wait_for("nobody listens at the server", lambda: not listens(self.public))
        text = "".join(p.read_text(errors="replace") for p in (self.s.root / "log").glob("*.log"))
        assert TOKEN not in text


def configure(suite, server, frpc):
    """As an operator does it: the token in a file of agentd's, the server in agentd.conf, frpc in the supervisor's."""
    token = suite.root / "etc/frp-token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o400)
    os.chown(token, pwd.getpwnam("qudata").pw_uid, 0)
    etc = pathlib.Path(suite.root) / "etc"
    with open(etc / "agentd.conf", "a", encoding="ascii") as f:
        f.write(f"frp_server = {SERVER}\nfrp_port = {server.port}\nfrp_domain = e2e.example.org\nfrp_token_file = {token}\n")
    with open(etc / "frp-supervisor.conf", "a", encoding="ascii") as f:
        f.write(f"frpc = {frpc}\n")
    for daemon in ("agentd", "frp-supervisor"):
        suite.stop(daemon)
    for daemon in ("frp-supervisor", "agentd"):
        suite.start(daemon)


def tunnels(report, suite):
    found = programs()
    server = Server(found["frps"], suite.scratch)
    try:
        configure(suite, server, found["frpc"])
        g = Guest(suite)
        if report.run("tunnels: SSH through the server into the guest", g.logs_in):
            report.run("tunnels: 8 MiB each way through it, every byte", g.every_byte_arrives)
            report.run("tunnels: a session outlives kill -9 of agentd and frp-supervisor", g.outlives_the_daemons)
            report.run("tunnels: deleted, nobody listens at the server", g.goes_with_the_instance)
    finally:
        server.end()
