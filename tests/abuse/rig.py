# SPDX-License-Identifier: Apache-2.0
"""What the abuse cases share: the helper under attack, its audit log, and a picture of the machine."""
import contextlib
import hashlib
import os
import struct
import pathlib
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from lib import Suite, proc_status, wait_for as until  # noqa: E402
from wire import Closed, Connector, Peer, connections, open_to, sealed  # noqa: E402

SLOTS = 4
HELD_UP_S = 30  # longer than a busy machine takes, shorter than what holds up a daemon that lets itself be held up
SEED = sealed(b"\x01CD001" + b"\0" * 2042)
EMPTY_HASH = "0" * 64


@contextlib.contextmanager
def no_gpu_for_rent(conf):
    """helper.conf names no vendor, and GPUs have never been rented out, until the case makes the file in its hands."""
    text = conf.read_text()
    lock = pathlib.Path(re.search(r"gpu_state_dir = (\S+)", text)[1]) / "lock"
    lock.parent.mkdir(mode=0o700, exist_ok=True)
    kept = lock.exists()
    lock.unlink(missing_ok=True)
    conf.write_text(re.sub("^ *gpu_vendors.*$", "", text, flags=re.MULTILINE) + "\ngpu_vendors =\n")
    try:
        yield lock
    finally:
        conf.write_text(text)
        if kept:
            lock.touch(0o600)


def run(*words):
    return subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True)


# ---- the audit log -----------------------------------------------------------------------------------------
def unescape(value):
    return re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), value)


class Record:
    def __init__(self, line):
        words = line.split(" ")
        self.line, self.seq, self.event, self.hash = line, int(words[0]), words[2], words[-1]
        self.fields = {k: unescape(v) for k, v in (w.split("=", 1) for w in words[3:-1])}

    def matches(self, event, fields):
        return self.event == event and all(re.search(v, self.fields.get(k, "")) for k, v in fields.items())


class Audit:
    def __init__(self, path):
        self.path = path

    def records(self):
        """All records, each proved to follow from the one before."""
        previous, found, data = EMPTY_HASH, [], self.path.read_bytes()
        deadline = time.monotonic() + 10
        while data[-1:] not in (b"", b"\n") and time.monotonic() < deadline:  # a record is being written
            time.sleep(0.01)
            data = self.path.read_bytes()
        for n, line in enumerate(data.decode("ascii").splitlines(), 1):
            assert re.fullmatch(r"[\x20-\x7e]+", line), f"unprintable audit line {line!r}"
            record = Record(line)
            want = hashlib.sha256((previous + line[:-64]).encode()).hexdigest()
            assert record.hash == want and record.seq == n, f"the audit chain breaks at line {n}: {line}"
            previous = record.hash
            found.append(record)
        return found

    @contextlib.contextmanager
    def expect(self, event, count=1, only=True, **fields):
        """The block adds exactly @count records of that kind, and (with @only) no other one."""
        before = len(self.records())
        yield
        deadline = time.monotonic() + 30
        while True:
            new = self.records()[before:]
            hits = [r for r in new if r.matches(event, fields)]
            if len(hits) >= count or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        assert len(hits) == count, f"{len(hits)} {event} {fields} instead of {count}: {[r.line for r in new]}"
        assert not only or len(new) == count, f"more was recorded: {[r.line for r in new]}"


# ---- a picture of everything that must not change ------------------------------------------------------------
def tree(*tops):
    found = {}
    for top in tops:
        # Not by rglob(), which ends with an error where a directory vanishes meanwhile.
        below = [pathlib.Path(where, name) for where, dirs, names in os.walk(top) for name in dirs + names]
        for path in [top, *sorted(below)]:
            with contextlib.suppress(FileNotFoundError):
                st = path.lstat()
                size = st.st_size if stat.S_ISREG(st.st_mode) and path.name != "audit.log" else None
                found[str(path)] = (oct(st.st_mode), st.st_uid, st.st_gid, st.st_nlink, size)
    return found


def fds(pid):
    """{number: target} of a process; sockets and the like without their inode."""
    found = {}
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found[int(entry.name)] = re.sub(r":\[\d+\]", "", os.readlink(entry))
    return found


def children(pid):
    return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def children_as(pid, user):
    """Those that run as @user, zombies too, but none that goes while it is looked at."""
    found, uid = [], str(pwd.getpwnam(user).pw_uid)
    for child in children(pid):
        with contextlib.suppress(OSError):
            if proc_status(child)["Uid"].split()[0] == uid:
                found.append(child)
    return found


def alive(pid):
    try:
        return not proc_status(pid)["State"].startswith("Z")
    except OSError:
        return False


class Rig:
    """A suite of which only the helper (and what a case wants besides) runs, with images of our own."""

    def __init__(self, build, settings=()):
        self.images = pathlib.Path(tempfile.mkdtemp(prefix="qudata-abuse-", dir="/run"))
        os.chmod(self.images, 0o755)
        self.suite = Suite(build, self.images, "tiny", ["helper.conf:accel=tcg", *settings])
        self.peers = []
        self.child = None

    def up(self, daemons=("vfio-helper",)):
        self.image("tiny")
        self.suite.up()
        for name in ("agentd", "vmmon", "frp-supervisor"):
            if name not in daemons:
                self.suite.stop(name)
        self.serving()
        return self

    def down(self):
        self.drop_peers()
        Connector.end_all()
        self.suite.down()
        shutil.rmtree(self.images, ignore_errors=True)

    # -- images
    def image(self, name, fmt="qcow2", size="8M", conf=None):
        path = self.images / name
        path.mkdir(mode=0o755)
        run("qemu-img", "create", "-q", "-f", fmt, path / "disk.img", size)
        (path / "image.conf").write_text(conf or f"format = {fmt}\nmin_disk_mib = 8\n")
        return path

    # -- places
    @property
    def root(self):
        return self.suite.root

    @property
    def state(self):
        return self.root / "lib/helper"

    @property
    def run_dir(self):
        return self.root / "run/vm"

    @property
    def helper_socket(self):
        return self.root / "run/helper.sock"

    @property
    def audit(self):
        return Audit(self.state / "audit.log")

    # -- the helper and its peers
    @property
    def pid(self):
        return self.suite.pid("vfio-helper")

    @property
    def broker(self):
        """The helper's half without privilege: it hears the peers."""
        return until("there is a broker", lambda: children_as(self.pid, "qudata-helper"))[0]

    def brokers(self, *paths):
        """Makes files that a case has put somewhere the broker's own, as if it had made them."""
        user = pwd.getpwnam("qudata-helper")
        for path in paths:
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)

    def restart(self, kill=False):
        self.drop_peers()
        (self.suite.kill if kill else self.suite.stop)("vfio-helper")
        self.bring_up("vfio-helper")

    def bring_up(self, name):
        """Starts a daemon by the suite's script; the helper is waited for until it serves."""
        self.suite.start(name)
        if name == "vfio-helper":
            self.serving()

    def answers(self):
        with contextlib.suppress(PermissionError, Closed):  # it listens before it has read its records
            Peer("qudata", self.helper_socket).close()
            return True
        return False

    def serving(self):
        until("the helper serves", self.answers)

    def program(self):
        return [str(self.suite.build / "vfio-helper/vfio-helper"), "--config", str(self.root / "etc/helper.conf")]

    def end(self, number=signal.SIGTERM):
        """Ends the helper and leaves it so."""
        self.drop_peers()
        pid = self.pid
        both = [pid, *children_as(pid, "qudata-helper")]
        os.kill(pid, number)
        if self.child and self.child.pid == pid:
            self.child.wait(60)
        until("both halves have ended", lambda: not any(map(alive, both)))
        # An act that it had begun goes on without it, and writes.
        until("its acts on GPUs have ended", lambda: not self.acts())
        self.helper_socket.unlink(missing_ok=True)

    def acts(self):
        """The processes that run the build's vfio-bind."""
        program, found = str(self.suite.build / "vfio-helper/vfio-bind"), []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if os.readlink(entry / "exe") == program:
                        found.append(int(entry.name))
        return found

    def begin(self, timeout=60, **popen):
        """Starts the helper without the suite's script. False when it ends instead of serving."""
        log = (self.root / "log/vfio-helper.log").open("ab")
        with log:
            self.child = subprocess.Popen(self.program(), cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          **{"env": {"PATH": "/usr/bin:/bin", "LANG": "C"}, **popen})
        (self.root / "vfio-helper.pid").write_text(f"{self.child.pid}\n")
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.child.poll() is None:
            if self.answers():
                return True
            time.sleep(0.005)
        assert self.child.poll() is not None, "the helper neither serves nor ends"
        return False

    def drop_peers(self):
        for p in self.peers:
            p.close()
        self.peers = []

    def peer(self, user="qudata", hello=True):
        p = Peer(user, self.helper_socket, hello)
        self.peers.append(p)
        return p

    def alive(self):
        """The helper answers a fresh connection: nothing holds it up."""
        p = Peer("qudata", self.helper_socket)
        p.call("VM_LIST", timeout=HELD_UP_S)
        p.close()

    # -- VMs
    def prepare(self, peer, vm, image="tiny", disk_mib=0):
        return peer.call("VM_PREPARE", vm=vm, image=image, disk_mib=disk_mib)

    def seed(self, vm):
        mon = self.peer("qudata-mon")
        mon.call("VM_SEED", [SEED], vm=vm)
        mon.close()
        self.peers.remove(mon)

    def start(self, peer, vm, image="tiny", cpus=1, memory_mib=128, ports=()):
        if peer.call("VM_DESCRIBE", vm=vm)["state"] == 0:
            self.prepare(peer, vm, image)
        if peer.call("VM_DESCRIBE", vm=vm)["state"] == 1:
            self.seed(vm)
        return peer.call("VM_START", vm=vm, cpus=cpus, memory_mib=memory_mib, ports=ports)["generation"]

    def stop(self, peer, vm):
        d = peer.call("VM_DESCRIBE", vm=vm)
        if d["state"] == 4:
            killed = peer.refused("VM_KILL", vm=vm, generation=d["generation"])
            assert killed in ("OK", "ALREADY"), killed  # it may have ended by itself
        until(f"{vm} has ended", lambda: peer.call("VM_DESCRIBE", vm=vm)["state"] in (0, 1, 2))

    def forget(self, peer, *vms):
        for vm in vms:
            self.stop(peer, vm)
            peer.call("VM_FORGET", vm=vm)

    def forget_all(self):
        p = self.peer()
        self.forget(p, *p.call("VM_LIST")["vms"])
        self.drop_peers()

    # -- the machine
    def slot_processes(self):
        """{pid: (program, uid)} of all that runs as a slot's user."""
        uids = {pwd.getpwnam(f"qudata-vm{i}").pw_uid for i in range(SLOTS)}
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    text = (entry / "status").read_text()
                    uid = int(text[text.index("\nUid:") + 6:].split("\t", 1)[0])
                    if uid in uids and not (st := proc_status(entry.name))["State"].startswith("Z"):
                        found[int(entry.name)] = (st["Name"], uid)
        return found

    def picture(self):
        return {"files": tree(self.root / "lib", self.root / "run", self.images, self.root / "etc"),
                "slots": sorted(self.slot_processes()), "helper": self.pid, "children": sorted(children(self.pid)),
                "fds": sorted(fds(self.pid).values()), "broker fds": sorted(fds(self.broker).values())}

    def without_bind(self):
        until("vfio-bind has ended", lambda: not children_as(self.pid, "root"))

    def settled(self):
        """
        The picture once it stands still: no connection is held that was closed here, and the vfio-bind of the start,
        the one child that is root's, has ended.
        """
        until("closed connections are noticed", lambda: connections(self.helper_socket) <= open_to(self.helper_socket))
        self.without_bind()
        pictures = [self.picture()]

        def still():
            time.sleep(0.005)
            pictures.append(self.picture())
            return pictures[-1] == pictures[-2]
        until("nothing changes any more", still)
        return pictures[-1]

    @contextlib.contextmanager
    def unchanged(self):
        """Files, processes and descriptors are after the block what they were before it."""
        def differences():
            after = self.picture()
            return {k: (set(map(str, _items(before[k]))) ^ set(map(str, _items(after[k]))))
                    for k in before if before[k] != after[k]}

        before = self.settled()
        yield
        deadline = time.monotonic() + 30  # a closed connection is noticed a moment later
        while (found := differences()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not found, f"changed: {found}"

    def greeting(self, vm):
        """QEMU's first words on QMP: from then on it has opened all that it will open."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(str(self.run_dir / vm / "qmp.sock"))
            return s.recv(4096)

    def running(self, vm):
        """The run record of a VM."""
        return unpack_record(RUN_RECORD, (self.run_dir / vm / "running").read_bytes())


# The broker's records: a SHA-256 over the version, the kind and the struct, then the struct.
VM_RECORD = ("record", "40s7I", ("image", "slot", "disk_mib", "generation", "exit_kind", "exit_code", "gpus", "leased"))
RUN_RECORD = ("running", "40s2Q8I32H", ("boot_id", "qemu_start", "passt_start", "qemu_pid", "passt_pid", "generation",
                                        "accel", "cpus", "memory_mib", "started_s", "limited") +
              tuple(f"{side}{n}" for n in range(16) for side in ("host", "guest")))


def unpack_record(kind, data):
    return dict(zip(kind[2], struct.unpack(kind[1], data[32:])))


def pack_record(kind, fields):
    """A record whose sum is right, whatever its fields say."""
    body = struct.pack(kind[1], *(fields[name] for name in kind[2]))
    return hashlib.sha256(b"qudata-record-1\0" + kind[0].encode() + b"\0" + body).digest() + body


def _items(value):
    if isinstance(value, dict):
        return value.items()
    return value if isinstance(value, list) else [value]


__all__ = ["Closed", "HELD_UP_S", "Peer", "Rig", "SEED", "SLOTS", "Audit", "RUN_RECORD", "VM_RECORD", "alive", "children", "children_as", "fds", "pack_record", "proc_status", "run",
           "sealed", "tree", "unpack_record", "until"]
