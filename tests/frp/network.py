# SPDX-License-Identifier: Apache-2.0
"""What only the real frp can show: TLS, its own listeners, cut and slow networks."""
import collections
import contextlib
import fcntl
import os
import pathlib
import random
import re
import select
import socket
import struct
import subprocess
import threading
import time

from rig import HTTP, TCP, Frps, Slow, fetch, get, until


def run(*words):
    return subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True)


# ---- TLS ---------------------------------------------------------------------------------------------------
def authority(folder, name):
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")
    return folder / f"{name}.pem"


def certificate(folder, ca, host):
    run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={host}",
        "-keyout", folder / "server.key", "-out", folder / "server.csr")
    (folder / "san").write_text(f"subjectAltName=DNS:{host}\n")
    run("openssl", "x509", "-req", "-in", folder / "server.csr", "-CA", folder / f"{ca}.pem", "-CAkey",
        folder / f"{ca}.key", "-days", "2", "-extfile", folder / "san", "-out", folder / "server.pem")


def tls_verified(w):
    """verify: the right server is taken; another authority's, or one of another name, is not."""
    ours, theirs = authority(w.folder, "ours"), authority(w.folder, "theirs")
    certificate(w.folder, "ours", "frps.example.org")
    sub = w.folder / "tls"
    sub.mkdir()
    frps = Frps(w.frps_binary, sub, extra=f'transport.tls.force = true\ntransport.tls.certFile = "{w.folder}/server.pem"\n'
                                          f'transport.tls.keyFile = "{w.folder}/server.key"\n')
    web = w.service("web")
    try:
        for ca, name, good in ((ours, "frps.example.org", True), (theirs, "frps.example.org", False),
                               (ours, "other.example.org", False)):
            a = w.supervisor(settings={"tls": "verify", "tls_ca_file": ca}.items()).agent()
            try:
                a.configure(frps.port, tls=1)
            except Exception as e:  # pylint: disable=broad-except
                assert str(e) == "DENIED", e
            else:
                raise AssertionError("less than verify was taken")
            a.configure(frps.port, tls=2, server_name=name)
            a.set("vm1", (web.port, 20000, 8080, HTTP))
            if good:
                a.await_proxy("vm1", web.port)
                assert get(frps.vhost, host="tok-20000.example.org")[0] == 200
            else:
                until("the reason is told", lambda a=a: "certificate" in a.status()["detail"])
                assert a.status()["state"] == "connecting"
            w.sup.down()
    finally:
        frps.end()


# ---- listeners -----------------------------------------------------------------------------------------------
def listeners(pid):
    """{(address, port)} that a process listens on."""
    inodes = {m[1] for f in pathlib.Path(f"/proc/{pid}/fd").iterdir()
              for m in [re.match(r"socket:\[(\d+)\]", os.readlink(f))] if m}
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes and (words[3] == "0A" or table.startswith("udp")):
                address, port = words[1].split(":")
                found.add((table, address, int(port, 16)))
    return found


def listens_only(w):
    a = w.begin()
    web, raw = w.service("web"), w.source()
    a.set("vm1", (web.port, 20000, 8080, HTTP), (raw.port, 14001, 22, TCP))
    a.await_proxy("vm1", raw.port)
    fetch(14001, 1_000_000)
    admin = w.sup.toml()["webServer"]["port"]
    assert listeners(w.sup.frpc_pid()) == {("tcp", "0100007F", admin)}, listeners(w.sup.frpc_pid())
    assert 7400 <= admin <= 7499
    assert get(admin, "/api/config")[0] == 401 and get(admin, "/api/stop")[0] in (401, 405)


listens_only.needs = lambda: None if os.geteuid() == 0 else "needs root"


# ---- a network that can be cut ---------------------------------------------------------------------------------
class Link:
    """A namespace with a server in it, behind a pair of interfaces or a lossy wire."""

    OURS, THEIRS = "10.231.77.1", "10.231.77.2"

    def __init__(self, w, lossy=False):
        self.name = f"qfrp{os.getpid() % 10000}"
        self.a, self.b = f"{self.name}a", f"{self.name}b"
        self.frps = self.wire = None
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        if lossy:
            self.wire = Lossy(self.name, (self.OURS, self.THEIRS), self.name)
        else:
            self.connect()
        sub = w.folder / "link"
        sub.mkdir()
        self.frps = Frps(w.frps_binary, sub, bind=self.THEIRS, prefix=["ip", "netns", "exec", self.name])
        until("frps listens", self.listens)

    def connect(self):
        run("ip", "link", "add", self.a, "type", "veth", "peer", "name", self.b)
        run("ip", "link", "set", self.b, "netns", self.name)
        run("ip", "addr", "add", f"{self.OURS}/30", "dev", self.a)
        run("ip", "link", "set", self.a, "up")
        run("ip", "-n", self.name, "addr", "add", f"{self.THEIRS}/30", "dev", self.b)
        run("ip", "-n", self.name, "link", "set", self.b, "up")

    def listens(self):
        try:
            with socket.create_connection((self.THEIRS, self.frps.port), 1):
                return True
        except OSError:
            return False

    def down(self):
        if self.frps:
            self.frps.end()
        if self.wire:
            self.wire.down()
        subprocess.run(["ip", "netns", "del", self.name], check=False)
        subprocess.run(["ip", "link", "del", self.a], check=False, capture_output=True)


def needs_namespaces():
    if os.geteuid() != 0:
        return "needs root"
    probe = f"qfrpprobe{os.getpid() % 10000}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode != 0:
        return "no network namespaces here"
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return None


class Lossy:
    """The same with a wire between two TUN devices that loses packets and takes its time: needs nothing of the kernel
    but TUN. In order, as a queue would have them."""

    DELAY_S, JITTER_S, LOSS = 0.02, 0.005, 0.02
    TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

    def __init__(self, name, addresses, namespace):
        self.lost = self.passed = 0
        self.random = random.Random(6)
        self.fds, self.wake = [], os.eventfd(0)
        for suffix in "ab":
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self.fds.append(fd)
            fcntl.ioctl(fd, self.TUNSETIFF, struct.pack("16sH22x", f"{name}{suffix}".encode(),
                                                        self.IFF_TUN | self.IFF_NO_PI))
        run("ip", "link", "set", f"{name}b", "netns", namespace)
        for at, device, address in (((), f"{name}a", addresses[0]), (("-n", namespace), f"{name}b", addresses[1])):
            run("ip", *at, "addr", "add", f"{address}/30", "dev", device)
            run("ip", *at, "link", "set", device, "up")
        self.thread = threading.Thread(target=self._carry, daemon=True)
        self.thread.start()

    def _take(self, fd, queue):
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = os.read(fd, 1 << 16)
                if self.random.random() < self.LOSS:
                    self.lost += 1
                    continue
                due = time.monotonic() + self.DELAY_S + self.random.uniform(-1, 1) * self.JITTER_S
                queue.append((max(due, queue[-1][0] if queue else 0), packet))

    def _carry(self):
        queues = {self.fds[0]: collections.deque(), self.fds[1]: collections.deque()}
        other = {self.fds[0]: self.fds[1], self.fds[1]: self.fds[0]}
        while True:
            nexts = [q[0][0] for q in queues.values() if q]
            wait = max(0.0, min(nexts) - time.monotonic()) if nexts else None
            ready, _, _ = select.select([*self.fds, self.wake], [], [], wait)
            if self.wake in ready:
                return
            for fd in self.fds:
                if fd in ready:
                    self._take(fd, queues[fd])
                while queues[fd] and queues[fd][0][0] <= time.monotonic():
                    packet = queues[fd].popleft()[1]
                    with contextlib.suppress(OSError):  # whose device is gone, at the end
                        os.write(other[fd], packet)
                        self.passed += 1

    def down(self):
        os.eventfd_write(self.wake, 1)
        self.thread.join(60)
        for fd in (*self.fds, self.wake):
            os.close(fd)


def needs_tun():
    why = needs_namespaces()
    if why:
        return why
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as e:
        return f"no TUN devices here ({e})"
    return None


def cut(w):
    """The network goes for a minute's third and comes back: said, and all is well again, with the same frpc."""
    link = Link(w)
    try:
        a = w.supervisor().agent()
        a.configure(link.frps.port, server=link.THEIRS)
        web = w.service("web")
        a.set("vm1", (web.port, 20000, 8080, HTTP), (web.port + 1, 14001, 22, TCP))
        a.await_proxy("vm1", web.port)
        host = "tok-20000.example.org"
        assert get(link.frps.vhost, host=host, address=link.THEIRS)[0] == 200
        pid = w.sup.frpc_pid()
        run("ip", "link", "set", link.a, "down")
        begun = time.monotonic()
        until("the loss is told", lambda: a.status()["state"] == "connecting", 60)
        print(f"# loss noticed after {time.monotonic() - begun:.1f} s", flush=True)
        assert a.list()[("vm1", web.port)][0] == "lost"
        # What is wished for meanwhile is there afterwards.
        a.set("vm2", (web.port + 2, 20001, 8080, HTTP))
        run("ip", "link", "set", link.a, "up")
        begun = time.monotonic()
        a.await_proxy("vm1", web.port, timeout=60)
        a.await_proxy("vm2", web.port + 2, timeout=60)
        until("it is reachable", lambda: get(link.frps.vhost, host=host, address=link.THEIRS)[0] == 200)
        print(f"# back after {time.monotonic() - begun:.1f} s", flush=True)
        assert w.sup.frpc_pid() == pid
    finally:
        link.down()


def under_changes(a, raw, host="127.0.0.1", size=2_000_000):
    """Tunnels come up, reloads do not cut a transfer, every byte arrives."""
    a.set("vm1", (raw.port, 14001, 22, TCP))
    a.await_proxy("vm1", raw.port, timeout=60)
    done = []
    thread = threading.Thread(target=lambda: done.append(fetch(14001, size, host)))
    thread.start()
    for i in range(10):
        a.set("vm2", (21000 + i, 14010 + i, 22, TCP))
    thread.join(120)
    assert done == [size], done
    a.await_state("connected")


def late(w):
    """80 ms each way, give or take 20: by a relay, so that it needs nothing of the kernel."""
    relay = Slow(w.port)
    a = w.supervisor().agent()
    a.configure(relay.port)
    begun = time.monotonic()
    under_changes(a, w.source())
    assert time.monotonic() - begun > 0.5, "it was not slow at all"
    relay.close()


def lossy(w):
    """20 ms each way and 2 % of the packets lost each way: tunnels come up, a transfer loses nothing, none is reported
    as lost."""
    link = Link(w, lossy=True)
    try:
        a = w.supervisor().agent()
        a.configure(link.frps.port, server=link.THEIRS)
        under_changes(a, w.source(), link.THEIRS, 1_000_000)
        assert link.wire.lost > 10, (link.wire.lost, link.wire.passed)
        print(f"# {link.wire.lost} packets lost, {link.wire.passed} passed", flush=True)
    finally:
        link.down()


tls_verified.needs = lambda: None if subprocess.run(["which", "openssl"], capture_output=True,
                                                     check=False).returncode == 0 else "no openssl"
cut.needs, lossy.needs = needs_namespaces, needs_tun

CASES = [
    ("TLS verified: authority and name", tls_verified),
    ("frpc listens on its admin port only", listens_only),
    ("the network is cut and restored", cut),
    ("latency", late),
    ("latency and loss", lossy),
]
