# SPDX-License-Identifier: Apache-2.0
"""GPU operations up to vfio-bind: the real helper and broker, with a vfio-bind whose answers the case gives.

What is asked when, what an answer means for the VM, and that one that hangs, lies or dies concerns no other VM.
"""
import array
import contextlib
import os
import shutil
import socket
import struct
import subprocess

from rig import alive, children, children_as, no_gpu_for_rent, proc_status, sealed, until
from wire import NAME_SIZE, STATUS, Peer, Refused

LIST, TAKE, GRANT, REVOKE, RELEASE, RECOVER = range(1, 7)
NAMES = {LIST: "LIST", TAKE: "TAKE", GRANT: "GRANT", REVOKE: "REVOKE", RELEASE: "RELEASE", RECOVER: "RECOVER"}
HEADER = struct.Struct("=IHHII")
REQUEST = struct.Struct(f"=4I16Q{NAME_SIZE}s")
DEVICE = struct.Struct("=3Q6I")
ANSWER_SIZE = 6 * 4 + 64 * DEVICE.size + 256
STAND_IN = """#!/usr/bin/python3 -IS
import array, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect("\\0{name}")
s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [3]))])
socket.socket(fileno=3).close()
s.recv(1)
"""


class Act:
    """One vfio-bind that waits for its answer."""

    def __init__(self, listener):
        self.life = listener.accept()[0]
        _, rights, _, _ = self.life.recvmsg(1, socket.CMSG_SPACE(4))
        self.socket = socket.socket(fileno=array.array("i", rights[0][2])[0])
        self.socket.settimeout(60)
        data = self.socket.recv(4096)
        self.act, kind, status, self.id, length = HEADER.unpack(data[:16])
        assert kind == 1 and status == 0 and length == len(data) - 16 == REQUEST.size, data
        version, act, self.slot, reserved, *gpus, vm = REQUEST.unpack(data[16:])
        assert version == 1 and act == self.act and reserved == 0
        self.gpus, self.vm = [g for g in gpus if g], vm.rstrip(b"\0").decode()

    def answer(self, status="OK", done=0, left=0, n_gpus=0, devices=(), list_bytes=0, fd=None, size=ANSWER_SIZE):
        body = struct.pack("=6I", STATUS[status], done, left, n_gpus, len(devices), list_bytes)
        body += b"".join(devices).ljust(64 * DEVICE.size, b"\0") + b"as scripted".ljust(256, b"\0")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        self.socket.sendmsg([HEADER.pack(self.act, 2, 0, self.id, size) + body[:size]], rights)
        self.end()

    def end(self):
        """The process ends."""
        self.socket.close()
        self.life.close()


class Gpus:
    def __init__(self, rig):
        self.rig, self.name = rig, f"qudata-abuse-gpus-{os.getpid()}"
        self.place = rig.images / "bin"
        self.place.mkdir()
        for program in ("vfio-helper", "vfio-broker", "vm-launch"):
            shutil.copy(rig.suite.build / "vfio-helper" / program, self.place / program)
        (self.place / "vfio-bind").write_text(STAND_IN.format(name=self.name))
        os.chmod(self.place / "vfio-bind", 0o755)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("\0" + self.name)
        self.listener.listen(32)
        self.listener.settimeout(60)
        self.helper = None
        rig.end()
        self.begin()

    def begin(self, recover=True):
        with (self.rig.root / "log/vfio-helper.log").open("ab") as log:
            self.helper = subprocess.Popen([self.place / "vfio-helper", "--config", self.rig.root / "etc/helper.conf"],
                                           cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        (self.rig.root / "vfio-helper.pid").write_text(f"{self.helper.pid}\n")
        if recover:
            self.next(RECOVER).answer()
            self.rig.serving()
            self.peer = self.rig.peer()

    def restart(self, recover=True):
        self.stop()
        self.begin(recover)

    def stop(self):
        self.rig.drop_peers()
        self.helper.terminate()
        assert self.helper.wait(60) in (0, 1)
        self.rig.helper_socket.unlink(missing_ok=True)

    def next(self, act, vm=None):
        found = Act(self.listener)
        assert found.act == act and (vm is None or found.vm == vm), (NAMES.get(found.act), found.vm)
        return found

    def none_waits(self):
        self.listener.settimeout(0.3)
        try:
            raise AssertionError(f"vfio-bind was asked for {NAMES[Act(self.listener).act]}")
        except TimeoutError:
            pass
        finally:
            self.listener.settimeout(60)

    def send(self, op, **values):
        return op, self.peer.send(op, **values)

    def result(self, sent):
        try:
            return self.peer.answer(*sent)
        except Refused as e:
            return e.status

    def seeded(self, vm):
        self.rig.prepare(self.peer, vm)
        self.rig.seed(vm)

    def lease(self, vm, *gpus):
        sent = self.send("GPU_BIND", vm=vm, gpus=list(gpus))
        act = self.next(TAKE, vm)
        assert act.gpus == list(gpus)
        act.answer(done=2 * len(gpus), n_gpus=len(gpus))
        assert self.result(sent)["functions"] == 2 * len(gpus)

    def release(self, vm):
        sent = self.send("GPU_RELEASE", vm=vm)
        self.next(RELEASE, vm).answer(done=2)
        assert self.result(sent) == {"released": 2, "quarantined": 0}

    def describe(self, vm):
        return self.peer.call("VM_DESCRIBE", vm=vm)

    def end(self):
        self.listener.close()
        self.stop()
        shutil.rmtree(self.place)
        assert self.rig.begin()


def lists(g):
    """The list goes through as it is, if it is a sealed memfd of the size that was said."""
    data = b"records" * 100
    for fd, size, good in ((sealed(data), len(data), True), (sealed(data), len(data) - 1, False), (sealed(data, 0), len(data), False),
                           (os.open("/etc/hostname", os.O_RDONLY), 5, False), (None, 5, False), (None, 0, True)):
        sent = g.send("GPU_LIST")
        g.next(LIST, "").answer(done=3, list_bytes=size, fd=fd)
        got = g.result(sent)
        assert (got == {"gpus": 3, "bytes": size}) if good else got == "FAILED", (size, got)
    sent = g.send("GPU_LIST")
    g.next(LIST).answer("DENIED")
    assert g.result(sent) == "DENIED"


def life_of_a_lease(g):
    """Bind, twice; no start with another number of GPUs, no forgetting while it lasts; release; forget."""
    assert g.peer.refused("GPU_BIND", vm="vm", gpus=[0x100]) == "NOT_FOUND"
    g.seeded("vm")
    g.lease("vm", 0x100, 0x200)
    assert g.describe("vm")["gpus"] == 2
    g.lease("vm", 0x100, 0x200)
    for n in (1, 3):
        assert g.peer.refused("VM_START", vm="vm", cpus=1, memory_mib=128, gpus=n) == "INVALID"
    assert g.peer.refused("VM_FORGET", vm="vm") == "BUSY"
    g.restart(recover=False)
    g.next(REVOKE, "vm").answer()  # it does not run: what it may hold is taken back first
    g.next(RECOVER).answer()
    g.peer = g.rig.peer()
    assert g.peer.refused("VM_FORGET", vm="vm") == "BUSY" and g.describe("vm")["state"] == 2
    assert g.describe("vm")["gpus"] == 2
    g.release("vm")
    assert g.describe("vm")["gpus"] == 0
    assert g.peer.call("GPU_RELEASE", vm="vm") == {"released": 0, "quarantined": 0}
    g.peer.call("VM_FORGET", vm="vm")
    g.none_waits()


def refusals_and_lies(g):
    """A refused bind leaves no lease; an act that dies, lies or says nothing leaves one to be released."""
    g.seeded("vm")
    for status in ("DENIED", "CONFLICT", "NOT_FOUND", "BUSY", "LIMIT", "INVALID"):
        sent = g.send("GPU_BIND", vm="vm", gpus=[0x100])
        g.next(TAKE).answer(status)
        assert g.result(sent) == status
    assert g.peer.call("GPU_RELEASE", vm="vm")["released"] == 0
    for lie in (lambda a: a.end(), lambda a: a.answer(size=ANSWER_SIZE - 1), lambda a: a.answer(n_gpus=17),
                lambda a: a.answer("FAILED")):
        sent = g.send("GPU_BIND", vm="vm", gpus=[0x100])
        lie(g.next(TAKE))
        assert g.result(sent) == "FAILED"
        assert g.describe("vm")["gpus"] == 0 and g.peer.refused("VM_FORGET", vm="vm") == "BUSY"
        g.release("vm")
    sent = g.send("GPU_BIND", vm="vm", gpus=[0x100])
    g.next(TAKE).answer(done=1, n_gpus=1)
    g.result(sent)
    sent = g.send("GPU_RELEASE", vm="vm")
    g.next(RELEASE).answer("FAILED")
    assert g.result(sent) == "FAILED" and g.describe("vm")["gpus"] == 1
    g.release("vm")
    g.peer.call("VM_FORGET", vm="vm")


def one_at_a_time(g):
    """One act per VM; others, and everything else, go on meanwhile."""
    for vm in ("one", "two"):
        g.seeded(vm)
    first = g.send("GPU_BIND", vm="one", gpus=[0x100])
    act = g.next(TAKE, "one")
    for op, values in (("GPU_BIND", {"gpus": [0x100]}), ("GPU_RELEASE", {}), ("VM_FORGET", {}),
                       ("VM_START", {"cpus": 1, "memory_mib": 128})):
        assert g.peer.refused(op, vm="one", **values) == "BUSY", op
    g.lease("two", 0x200)
    g.rig.alive()
    act.answer(done=1, n_gpus=1)
    assert g.result(first)["functions"] == 1
    for vm in ("one", "two"):
        g.release(vm)
        g.peer.call("VM_FORGET", vm=vm)


def start_and_end(g):
    """GRANT before the start, REVOKE before its end, or its failure, is told."""
    g.seeded("vm")
    g.lease("vm", 0x100)
    other = g.rig.peer()
    g.peer.call("VM_SUBSCRIBE")
    device = DEVICE.pack(0x100, 1 << 24, 1 << 24, 0xffffffff, 0, 0, 1, 0xffffffff, 0)
    for answer, want in (({"status": "DENIED"}, "DENIED"), ({"n_gpus": 2, "devices": [device]}, "FAILED"),
                         ({"n_gpus": 1}, "FAILED"), ({"n_gpus": 1, "devices": [device]}, None)):
        sent = g.send("VM_START", vm="vm", cpus=1, memory_mib=128, gpus=1)
        act = g.next(GRANT, "vm")
        assert act.slot == 0 and other.call("VM_DESCRIBE", vm="vm")["state"] == 3
        act.answer(**answer)
        act = g.next(REVOKE, "vm")
        assert not g.rig.slot_processes(), "its user has processes while the devices are taken from it"
        assert other.refused("VM_START", vm="vm", cpus=1, memory_mib=128, gpus=1) == "BUSY"
        state = other.call("VM_DESCRIBE", vm="vm")["state"]
        if want is None:  # there is no such device: QEMU ends by itself, which is told after the REVOKE
            assert g.result(sent)["generation"] and state == 4
            g.peer.call("VM_LIST")
            assert not g.peer.events
        act.answer()
        if want is None:
            until("its end is told", lambda: g.describe("vm")["state"] == 2)
        else:
            assert g.result(sent) == want, answer
        assert g.describe("vm")["state"] == 2
    until("its end is told", lambda: g.describe("vm") and g.peer.events)
    assert len(g.peer.events) == 1
    generation = g.rig.start(g.peer, "vm")  # without them nothing is asked
    g.peer.call("VM_KILL", vm="vm", generation=generation)
    until("it has ended", lambda: g.describe("vm")["state"] == 2)
    g.release("vm")
    g.peer.call("VM_FORGET", vm="vm")
    g.none_waits()


def recovery(g):
    sent = g.send("GPU_RECOVER", gpu=0x100)
    act = g.next(RECOVER, "")
    assert act.gpus == [0x100]
    act.answer(done=1, left=2)
    assert g.result(sent) == {"recovered": 1, "left": 2}


def damaged_record(g):
    """A VM that cannot be loaded leaves its slot to another, so its devices are taken from the slot's user."""
    g.seeded("vm")
    g.lease("vm", 0x100)
    g.stop()
    record = g.rig.state / "vms/vm/record"
    record.write_bytes(record.read_bytes()[:-1] + b"x")
    g.begin(recover=False)
    acts = [Act(g.listener), Act(g.listener)]  # each is a process: either may come first
    assert {(a.act, a.vm) for a in acts} == {(REVOKE, "vm"), (RECOVER, "")}
    for act in acts:
        act.answer()
    g.peer = g.rig.peer()
    g.release("vm")
    g.peer.call("VM_FORGET", vm="vm")


def policy_changes(g):
    """GPUs are no longer for rent: none is taken or lent any more, and what was taken can be given back all the same."""
    g.seeded("vm")
    g.lease("vm", 0x100)
    g.stop()
    with no_gpu_for_rent(g.rig.root / "etc/helper.conf") as lock:
        lock.touch(0o600)  # as the real vfio-bind did
        g.begin(recover=False)
        g.next(REVOKE, "vm").answer()
        g.next(RECOVER).answer()
        g.peer = g.rig.peer()
        assert g.peer.refused("GPU_LIST") == "DENIED"
        assert g.peer.refused("GPU_BIND", vm="vm", gpus=[0x100]) == "DENIED"
        sent = g.send("VM_START", vm="vm", cpus=1, memory_mib=128, gpus=1)
        g.next(REVOKE, "vm").answer()  # as after every start that failed
        assert g.result(sent) == "DENIED"
        g.release("vm")
        g.peer.call("VM_FORGET", vm="vm")
        recovery(g)
        g.stop()
        g.begin(recover=False)  # with no lease either, nothing is started as root
        g.rig.serving()
        g.none_waits()
        g.stop()
    g.begin()


def nobody_is_left(g):
    """Every vfio-bind was collected."""
    until("only the broker is left", lambda: children(g.helper.pid) == children_as(g.helper.pid, "qudata-helper"))
    assert proc_status(g.rig.broker)["Name"] == "vfio-broker"


def run_cases(report, rig):
    g = Gpus(rig)
    try:
        for case in (lists, life_of_a_lease, refusals_and_lies, one_at_a_time, start_and_end, recovery, damaged_record,
                     policy_changes, nobody_is_left):
            if not report.run(f"gpus/{case.__name__}", case, g):
                break
            rig.drop_peers()
            g.peer = Peer("qudata", rig.helper_socket)
            rig.peers.append(g.peer)
    finally:
        if alive(g.helper.pid):
            g.end()
