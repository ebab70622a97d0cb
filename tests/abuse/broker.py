# SPDX-License-Identifier: Apache-2.0
"""A broker that was taken over: whatever is sent over its socket pair, root does nothing but what is allowed.

A stand-in for vfio-broker, started by the real vfio-helper, hands the pair to the case.
"""
import array
import contextlib
import fcntl
import hashlib
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import time

from rig import SLOTS, alive, children, no_gpu_for_rent, proc_status, run, tree, until

READY, START, REAP, SWEEP, BIND, AUDIT = range(1, 7)
QEMU, PASST, QEMU_IMG, TRIAL = range(1, 5)
HEADER = struct.Struct("=IHHII")
ANSWER = struct.Struct("=iIII")
SPEC = struct.Struct("=7I32H2I4x3072s40s")
EBADMSG, EPERM, EAGAIN = -74, -1, -11
AUDIT_TEXT = 1008
BURST = 4096  # of monitor/audit.c
ROLES = ("stderr", "gate", "net", "console", "disk", "base", "image", "seed", "qmp", "ready", "kernel", "initrd", "iommu",
         "vars", "firmware")
MUST = {QEMU: ROLES[:10], PASST: ROLES[:3], QEMU_IMG: ("stderr", "disk", "image"), TRIAL: ("stderr", "kernel")}
STAND_IN = """#!/usr/bin/python3
import array, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect("\\0{name}")
s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [3]))])
socket.socket(fileno=3).close()
s.recv(1)
"""


def mask(roles):
    return sum(1 << ROLES.index(r) for r in roles)


def spec(program=QEMU, slot=1, roles=None, cpus=1, memory_mib=128, disk_mib=8, accel=2, ports=(), n_devices=0, reserved=0,
         devices=b"", vm=b"vm"):
    flat = [n for p in ports for n in p]
    return SPEC.pack(program, slot, mask(MUST.get(program, ())) if roles is None else roles, cpus, memory_mib, disk_mib,
                     accel, *flat, *[0] * (32 - len(flat)), n_devices, reserved, devices, vm)


class Pair:
    """vfio-helper's other end, in the hands of an attacker."""

    def __init__(self, rig):
        self.rig, self.asked = rig, 0
        name = f"qudata-abuse-{os.getpid()}"
        place = rig.images / "bin"
        place.mkdir()
        for program in ("vfio-helper", "vm-launch", "vfio-bind"):
            shutil.copy(rig.suite.build / "vfio-helper" / program, place / program)
        (place / "vfio-broker").write_text(STAND_IN.format(name=name))
        os.chmod(place / "vfio-broker", 0o755)
        rig.end()
        with socket.socket(socket.AF_UNIX) as listener, (rig.root / "log/vfio-helper.log").open("ab") as log:
            listener.bind("\0" + name)
            listener.listen()
            listener.settimeout(60)
            self.helper = subprocess.Popen([place / "vfio-helper", "--config", rig.root / "etc/helper.conf"], cwd="/",
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.stand_in = listener.accept()[0]
        _, rights, _, _ = self.stand_in.recvmsg(1, socket.CMSG_SPACE(4))
        self.socket = socket.socket(fileno=array.array("i", rights[0][2])[0])
        self.socket.settimeout(60)
        until("the helper is confined", lambda: proc_status(self.helper.pid)["Seccomp"] == "2")

    def ask(self, op, body=b"", fds=()):
        """The answer: result, exit kind, exit code, limited; a pidfd that came along is in self.pidfd."""
        self.asked += 1
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([HEADER.pack(op, 1, 0, self.asked, len(body)) + body], rights)
        data, rights, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(4))
        assert HEADER.unpack(data[:16])[3] == self.asked, data
        self.pidfd = array.array("i", rights[0][2])[0] if rights else None
        return ANSWER.unpack(data[16:])

    def start(self, program, fds=(), **fields):
        return self.ask(START, spec(program, **fields), fds)[0]

    def end(self):
        self.helper.terminate()
        self.stand_in.close()
        self.socket.close()
        assert self.helper.wait(60) in (0, 1)
        self.rig.helper_socket.unlink(missing_ok=True)
        shutil.rmtree(self.rig.images / "bin")
        assert self.rig.begin()


@contextlib.contextmanager
def taken_over(rig):
    pair = Pair(rig)
    try:
        yield pair
        assert pair.helper.poll() is None, "the helper has ended"
    finally:
        pair.end()


def audit_text(*words):
    return b"".join(w.encode() + b"\0" for w in words)


def audit(pair, *words, level=5, text=None, length=None):
    text = audit_text(*words) if text is None else text
    return pair.ask(AUDIT, struct.pack("=II", level, len(text) if length is None else length) + text.ljust(AUDIT_TEXT, b"\0"))[0]


@contextlib.contextmanager
def decoys():
    """Processes of everybody but a slot, which no request may end."""
    found = []
    for user in ("root", "qudata", "qudata-mon", "qudata-frp", "qudata-helper", "nobody"):
        entry = pwd.getpwnam(user)
        found.append(subprocess.Popen(["sleep", "1000"], user=entry.pw_uid, group=entry.pw_gid, extra_groups=[]))
    try:
        yield found
        assert all(d.poll() is None for d in found), "a process of somebody else was ended"
    finally:
        for d in found:
            d.kill()
            d.wait()


def files(rig):
    """All that root could have written, but the log."""
    return {path: what for path, what in tree(rig.root / "lib", rig.root / "etc", rig.root / "run", rig.images).items()
            if "audit.log" not in path}


# ---- what is not allowed is refused, and nothing else happens ---------------------------------------------------
def nonsense(rig):
    """Any operation with any length, bytes and descriptors: an answer each time, and no process, no file."""
    rnd = random.Random(3)
    null = os.open("/dev/null", os.O_RDWR)
    log = rig.root / "log/vfio-helper.log"
    with taken_over(rig) as pair, decoys():
        before, born = files(rig), children(pair.helper.pid)
        said = log.read_text().count("asks for what it may not")
        for op in [*range(0, 12), 255, 1 << 31, 0xffffffff]:
            for length in (0, 1, 3, 4, 5, 8, 16, 1015, 1016, 1017, SPEC.size - 1, SPEC.size, SPEC.size + 1, 4000):
                for n_fds in (0, 1, 2, 3, 15):
                    if (op == READY and length == 0) or (op == SWEEP and length == 4) or (op == REAP and length == 4):
                        continue
                    result = pair.ask(op, rnd.randbytes(length), [null] * n_fds)[0]
                    assert result == EBADMSG, (op, length, n_fds, result)
        assert children(pair.helper.pid) == born and files(rig) == before and not rig.slot_processes()
        assert 1 <= log.read_text().count("asks for what it may not") - said < 16, "each of them was logged"
    os.close(null)


def starts_out_of_bounds(rig):
    """Each value of a start outside of helper.conf's bounds, each role too many or too few."""
    null = os.open("/dev/null", os.O_RDWR)
    bad = [{"program": 0}, {"program": 5}, {"program": 1 << 31}, {"slot": SLOTS}, {"slot": 0xffffffff}, {"cpus": 0},
           {"cpus": 65}, {"memory_mib": 127}, {"memory_mib": 0xffffffff}, {"accel": 0}, {"accel": 3}, {"reserved": 1},
           {"ports": [(9999, 22)]}, {"ports": [(22, 22)]}, {"ports": [(65535, 22)]}, {"ports": [(10001, 0)]}, {"vm": b""},
           {"vm": b"../x"}, {"vm": b"a,b"}, {"vm": b"a\n"}, {"vm": b"a\0b"}, {"vm": b"x" * 40}, {"n_devices": 1},
           {"n_devices": 65}, {"n_devices": 0xffffffff}, {"devices": b"x"}]
    with taken_over(rig) as pair, decoys():
        before, born = files(rig), children(pair.helper.pid)
        for fields in bad:
            fields = {"program": QEMU, **fields}
            roles = MUST.get(fields["program"], MUST[QEMU])
            result = pair.ask(START, spec(roles=mask(roles), **fields), [null] * len(roles))[0]
            assert result == EBADMSG, (fields, result)
        for program, must in MUST.items():
            for role in range(len(ROLES) + 1):
                roles = mask(must) ^ 1 << role
                if 1 << role & mask(("kernel", "initrd", "vars")) and program == QEMU:
                    continue
                assert pair.start(program, [null] * roles.bit_count(), roles=roles) == EBADMSG, (program, role)
            for wrong in (len(must) - 1, len(must) + 1):
                assert pair.start(program, [null] * wrong) == EBADMSG, (program, wrong)
        assert pair.start(QEMU_IMG, [null] * 3, disk_mib=0xffffffff) == EBADMSG
        assert children(pair.helper.pid) == born and files(rig) == before and not rig.slot_processes()
    os.close(null)


def held(pid):
    """What a child of the helper is, once it has executed its program."""
    def there():
        with contextlib.suppress(OSError):
            name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            return name if name not in ("vfio-helper",) else None
        return "gone"
    return until("the child executes", there)


def starts_in_bounds(rig):
    """With any descriptors: one program, as the slot's user, which then has nothing of root's."""
    read_end, write_end = os.pipe()
    with taken_over(rig) as pair:
        for program in (PASST, QEMU):
            pid = pair.start(program, [os.open("/dev/null", os.O_RDWR), read_end] + [read_end] * (len(MUST[program]) - 2))
            assert pid > 0, pid
            name = held(pid)
            if name != "gone":
                st = proc_status(pid)
                assert name == "vm-launch", name
                assert set(st["Uid"].split()) == {str(pwd.getpwnam("qudata-vm1").pw_uid)}, st["Uid"]
                assert int(st["CapEff"], 16) == int(st["CapPrm"], 16) == int(st["CapBnd"], 16) == 0
                assert st["Groups"].split() == [] and st["Seccomp"] == "2"
            assert pair.ask(SWEEP, struct.pack("=I", 1))[0] == 0
            until("it has ended", lambda p=pid: pair.ask(REAP, struct.pack("=i", p))[1] != 3 or not alive(p))
        assert not rig.slot_processes()
    os.close(read_end)
    os.close(write_end)


def as_many_children_as_allowed(rig):
    """Children that nobody reaps are a bounded number."""
    null = os.open("/dev/null", os.O_RDWR)
    with taken_over(rig) as pair:
        results = [pair.start(QEMU_IMG, [null] * 3, slot=n % SLOTS) for n in range(140)]
        assert results[127] > 0 and set(results[128:]) == {EAGAIN}, results[120:]
        for slot in range(SLOTS):
            assert pair.ask(SWEEP, struct.pack("=I", slot))[0] == 0
    os.close(null)


def sweeps_and_reaps(rig):
    """Whatever number is named: only slots' processes end, and only children are reaped."""
    with taken_over(rig) as pair, decoys() as found:
        victim = subprocess.Popen(["sleep", "1000"], user=pwd.getpwnam("qudata-vm2").pw_uid, extra_groups=[])
        for slot in (SLOTS, SLOTS + 1, 16, 255, 1 << 31, 0xffffffff):
            assert pair.ask(SWEEP, struct.pack("=I", slot))[0] == EBADMSG, slot
        assert victim.poll() is None
        born = children(pair.helper.pid)
        for pid in [0, -1, 1, 2, os.getpid(), pair.helper.pid, *born, *(d.pid for d in found), 1 << 30]:
            assert pair.ask(REAP, struct.pack("=i", pid))[:2] == (0, 3), pid
        assert children(pair.helper.pid) == born
        for slot in range(SLOTS):
            assert pair.ask(SWEEP, struct.pack("=I", slot))[0] == 0
        assert victim.wait(60) == -signal.SIGKILL


def binds(rig):
    """vfio-bind is started by its one name with root's configuration, and only on a socket of the right kind."""
    null, (one, two) = os.open("/dev/null", os.O_RDWR), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stream = socket.socketpair()[0]
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    config = str(rig.root / "etc/helper.conf")
    with taken_over(rig) as pair, decoys():
        before = files(rig)
        for wrong in (null, stream.fileno(), udp.fileno(), os.open("/", os.O_PATH)):
            assert pair.ask(BIND, b"", [null, wrong])[0] == EBADMSG, wrong
        for fds in ([], [one.fileno()], [null, one.fileno(), null]):
            assert pair.ask(BIND, b"", fds)[0] == EBADMSG, fds
        pid = pair.ask(BIND, b"", [null, one.fileno()])[0]
        assert pid > 0, pid
        name = held(pid)
        if name != "gone":
            argv = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
            environ = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
            assert name == "vfio-bind" and argv in ([], [b"vfio-bind", b"--config", config.encode()]), (name, argv)
            assert {e.split(b"=")[0] for e in environ.split(b"\0") if e} <= {b"PATH", b"LANG"}, environ
            # CHOWN, DAC_READ_SEARCH, SETPCAP, SYS_PTRACE
            with contextlib.suppress(OSError):
                assert int(proc_status(pid)["CapBnd"], 16) & ~(1 << 0 | 1 << 2 | 1 << 8 | 1 << 19) == 0
        with contextlib.suppress(OSError):
            two.send(b"nonsense" * 100)
        one.close()
        two.close()
        until("vfio-bind has ended", lambda: pair.ask(REAP, struct.pack("=i", pid))[1] != 3 or not alive(pid))
        assert files(rig) == before
    for s in (stream, udp):
        s.close()
    os.close(null)


def binds_nothing(rig):
    """Where no GPU may be rented out, and none was, vfio-bind is not even started."""
    null, (one, two) = os.open("/dev/null", os.O_RDWR), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rig.without_bind()  # that of the start makes the file that there is not to be
    with no_gpu_for_rent(rig.root / "etc/helper.conf"):
        pair = Pair(rig)
    try:
        born, before = children(pair.helper.pid), files(rig)
        assert pair.ask(BIND, b"", [null, null])[0] == EBADMSG
        assert pair.ask(BIND, b"", [null, one.fileno()])[0] == EPERM
        assert children(pair.helper.pid) == born and files(rig) == before
    finally:
        pair.end()
    one.close()
    two.close()
    os.close(null)


# ---- the audit log ----------------------------------------------------------------------------------------------
def records_are_only_added(rig):
    """No record that claims to be the log's own, that holds another, or that changes what was written."""
    log = rig.state / "audit.log"
    with taken_over(rig) as pair:
        before = log.read_bytes()
        for words in (("",), ("Vm-start",), ("vm start",), ("vm-start\n9 9 x",), ("audit-torn",), ("audit-broken",),
                      ("helper-start",), ("x" * 33,), ("ok", "VM"), ("ok", "vm", "x"), ("ok", "", "x"), ("ok", "_UID", "0"),
                      ("ok", "AUDIT_HASH", "0" * 64), ("ok", "AUDIT_SEQ", "1"), ("ok", "MESSAGE", "x"),
                      ("ok", "PRIORITY", "0"), ("ok", "SYSLOG_IDENTIFIER", "sshd"), ("ok", "MESSAGE_ID", "0" * 32),
                      ("ok", "OBJECT_SYSTEMD_UNIT", "ssh.service"), ("ok", "UNIT", "x"), ("ok", "COREDUMP_UNIT", "x"),
                      ("ok", "USER_UNIT", "x"), ("ok", "A B", "x"), ("ok", "A=B", "x"),
                      ("ok", "X" * 25, "x"), ("ok", *("K", "v") * 17)):
            assert audit(pair, *words) == EBADMSG, words
        for text, length in ((b"ok\0", 0), (b"ok\0", 2), (b"ok", 1009), (b"ok\0", 0xffffffff), (b"x" * 1008, 1008)):
            assert audit(pair, text=text, length=length) == EBADMSG, (text[:9], length)
        for level in (0, 1, 8, 0xffffffff):
            assert audit(pair, "ok", level=level) == EBADMSG, level
        assert log.read_bytes() == before
        assert audit(pair, "vm-start", "VM", "x\n1 1 vm-kill VM=y " + "0" * 64 + "\n\x1b[2J=") == 0
        after = log.read_bytes()
        assert after.startswith(before) and after[len(before):].count(b"\n") == 1, after[len(before):]
        rig.audit.records()


def floods_of_records(rig):
    """More than a burst of them is dropped, which is recorded; the answer to each comes at once."""
    log = rig.state / "audit.log"
    with taken_over(rig) as pair:
        before = log.read_bytes()
        begun = time.monotonic()
        results = [audit(pair, "flood", "N", str(n)) for n in range(BURST + 2000)]
        took = time.monotonic() - begun
        assert set(results) == {0, EAGAIN} and results.count(0) < BURST + 4 * took + 10, results.count(0)
        until("one more is taken", lambda: audit(pair, "flood", "N", "last") == 0)
        assert log.read_bytes().startswith(before)
        assert any(r.event == "audit-suppressed" for r in rig.audit.records())


def chained(size):
    """A good log of about @size bytes, as the helper would have written it."""
    lines, previous, length = [], "0" * 64, 0
    while length < size:
        line = f"{len(lines) + 1} 1700000000 filler TEXT={'x' * 800} "
        previous = hashlib.sha256((previous + line).encode()).hexdigest()
        lines.append(line + previous + "\n")
        length += len(lines[-1])
    return "".join(lines).encode()


def rotation(rig):
    """A full log moves aside, the chain goes on from file to file, also over a restart, and a missing file shows."""
    log = rig.state / "audit.log"
    verify = [str(rig.suite.build / "ctl/qudatactl"), "audit", "verify", str(log)]
    rig.end()
    whole = log.read_bytes()
    log.write_bytes(chained((16 << 20) - 3000))
    assert rig.begin()
    p = rig.peer()
    for _ in range(40):
        p.refused("VM_PREPARE", vm="vm", image="none")
    assert (rig.state / "audit.log.1").stat().st_size <= 16 << 20 and log.stat().st_size < 1 << 20
    assert (rig.state / "audit.log.1").stat().st_mode & 0o777 == log.stat().st_mode & 0o777 == 0o600
    rig.end()
    said = run(*verify).stdout
    first = log.read_bytes()
    assert re.search(r"\d+ records, unbroken", said), said
    log.write_bytes(b"")  # a stop just after a rotation
    assert rig.begin()
    rig.end()
    run(*verify)
    log.write_bytes(first)
    for change in (lambda: os.rename(rig.state / "audit.log.1", rig.state / "aside"),
                   lambda: (rig.state / "audit.log.1").write_bytes((rig.state / "aside").read_bytes()[:-1000])):
        change()
        done = subprocess.run(verify, check=False, capture_output=True, text=True)
        assert done.returncode != 0 and "cut or changed" in done.stderr, done
    for left in ("audit.log.1", "aside"):
        (rig.state / left).unlink()
    log.write_bytes(whole)
    assert rig.begin()


def ends_together(rig):
    """Neither half goes on without the other, however it ends."""
    for half in ("helper", "broker"):
        helper, broker = rig.pid, rig.broker
        os.kill(helper if half == "helper" else broker, signal.SIGKILL)
        until("both have ended", lambda h=helper, b=broker: not alive(h) and not alive(b))
        rig.suite.stop("vfio-helper")
        rig.bring_up("vfio-helper")
        rig.alive()


def what_a_broker_leaves(rig):
    """Neither a process of a former broker nor a descriptor that it handed on keeps the next helper from its work."""
    vms = rig.state / "vms"
    assert rig.state not in {path.resolve() for path in pathlib.Path(f"/proc/{rig.broker}/fd").iterdir()}
    user = pwd.getpwnam("qudata-helper")
    kept = os.open(vms, os.O_RDONLY)
    with subprocess.Popen(["sleep", "1000"], user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd="/") as left:
        fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
        rig.suite.stop("vfio-helper")
        rig.bring_up("vfio-helper")
        rig.alive()
        assert left.wait(60) == -signal.SIGKILL
    os.close(kept)


def run_cases(report, rig):
    for case in (nonsense, starts_out_of_bounds, starts_in_bounds, as_many_children_as_allowed, sweeps_and_reaps, binds,
                 binds_nothing, records_are_only_added, floods_of_records, rotation, ends_together,
                 what_a_broker_leaves):
        report.run(f"broker/{case.__name__}", case, rig)
        if not alive(rig.pid):
            rig.helper_socket.unlink(missing_ok=True)
            rig.begin()
        rig.drop_peers()
