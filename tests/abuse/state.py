# SPDX-License-Identifier: Apache-2.0
"""The helper's own files, damaged or forged by root, and a full disk: threats 6 and 14."""
import contextlib
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess

from rig import RUN_RECORD, SEED, VM_RECORD, alive, pack_record, proc_status, run, tree, unpack_record, until
from wire import Refused


def decoy(user):
    uid = pwd.getpwnam(user).pw_uid
    return subprocess.Popen(["sleep", "1000"], user=uid, group=pwd.getpwnam(user).pw_gid, extra_groups=[])


def start_time(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def held_pids(rig):
    """The processes that the broker holds by a pidfd, hence takes for a VM's."""
    found = set()
    for info in pathlib.Path(f"/proc/{rig.broker}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            match = re.search(r"^Pid:\t(\d+)$", info.read_text(), re.M)
            st = match and proc_status(match[1])
            # A child as root is vfio-bind, which looks at the GPUs at the start.
            if match and (st["PPid"] != str(rig.pid) or st["Uid"].split()[0] != "0"):
                found.add(int(match[1]))
    return found


class Victim:
    """A running VM, and copies of its records to put back."""

    def __init__(self, rig):
        self.rig = rig
        self.peer = rig.peer()
        rig.start(self.peer, "vm", ports=[(20005, 22)])
        self.fields = rig.running("vm")
        self.pids = {int(self.fields["qemu_pid"]), int(self.fields["passt_pid"])}
        self.record = rig.run_dir / "vm/running"
        self.conf = rig.state / "vms/vm/record"
        self.saved = {self.record: self.record.read_bytes(), self.conf: self.conf.read_bytes()}

    def restore(self):
        self.record.parent.mkdir(mode=0o750, exist_ok=True)
        for path, data in self.saved.items():
            path.write_bytes(data)
            self.rig.brokers(path.parent, path)

    def alive(self):
        return any(alive(p) for p in self.pids)

    def end(self):
        for pid in self.pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        until("the victim has ended", lambda: not self.alive())


def pids_of_others(rig):
    """A run record that names somebody else's process: it is neither adopted nor killed.

    The VM's own processes, which then nobody knows, are ended: they would share the slot's user.
    """
    decoys = [decoy(u) for u in ("qudata-frp", "qudata", "nobody")]
    victim = Victim(rig)
    try:
        for other, start in [(d.pid, victim.fields["qemu_start"]) for d in decoys] + \
                            [(d.pid, start_time(d.pid)) for d in decoys] + \
                            [(1, start_time(1)), (os.getpid(), start_time(os.getpid())), (0, "0"),
                             (4294967295, "1"), (2147483648, "1")]:
            rig.end()
            victim.record.write_bytes(pack_record(RUN_RECORD, {
                **victim.fields, "qemu_pid": other, "passt_pid": other,
                "qemu_start": int(start), "passt_start": int(start)}))
            assert rig.begin()
            held = held_pids(rig)
            assert held == set(), (other, held)
            told = [r.event for r in rig.audit.records()]
            assert "vm-gone" in told[len(told) - told[::-1].index("helper-start"):], told[-5:]
            p = rig.peer()
            assert p.call("VM_DESCRIBE", vm="vm")["state"] == 2
            assert p.refused("VM_KILL", vm="vm", generation=1) == "ALREADY"
            assert all(d.poll() is None for d in decoys), other
            until("the unknown VM has ended", lambda: not victim.alive())
            rig.forget_all()
            victim = Victim(rig)
    finally:
        for d in decoys:
            d.kill()
            d.wait()
        rig.forget_all()
        victim.end()


def run_directories_cleaned_away(rig):
    """
    The run directory of a VM vanishes (a cleaner of old files, a hand) while the helper is down: its processes
    do not run on beside another VM of the same user, who could read their memory and disk.
    """
    victim = Victim(rig)
    try:
        rig.end()
        shutil.rmtree(victim.record.parent)
        assert rig.begin()
        p = rig.peer()
        assert p.call("VM_DESCRIBE", vm="vm")["state"] == 2
        assert p.refused("VM_START", vm="vm", cpus=1, memory_mib=128) in ("OK", "FAILED", "BUSY")
        rig.forget(p, "vm")
        with contextlib.suppress(Refused):
            rig.start(p, "next")
        until("what nobody knew of has ended", lambda: not victim.alive())
        users = [uid for name, uid in rig.slot_processes().values() if name.startswith("qemu")]
        assert len(users) == len(set(users)), f"two VMs run as one user: {users}"
    finally:
        rig.forget_all()
        victim.end()


def mutate(data, at):
    out = bytearray(data)
    out[at] ^= 1
    return bytes(out)


def changed(kind, data, **fields):
    """The record with other values and a sum that fits: what only a mistake of the helper's could write."""
    return pack_record(kind, {**unpack_record(kind, data), **fields})


def planted(slot):
    return pack_record(VM_RECORD, {"image": b"tiny", "slot": slot, "disk_mib": 8, "generation": 0, "exit_kind": 0,
                                   "exit_code": 0, "gpus": 0, "leased": 0})


def every_byte_of_the_run_record(rig):
    """Whatever byte is wrong: the helper serves, answers of the VM, and holds no process but the VM's."""
    other = decoy("nobody")
    victim = Victim(rig)
    bad = []
    data = victim.saved[victim.record]
    wide = [{"accel": 77}, {"cpus": 4000000000}, {"memory_mib": 4294967295}, {"limited": 2},
            {"host0": 1, "guest0": 1, "host1": 1, "guest1": 1}, {"host0": 1, "guest0": 0}]
    for at in range(len(data) + len(wide)):
        rig.end()
        victim.restore()
        data = victim.saved[victim.record]
        victim.record.write_bytes(mutate(data, at) if at < len(data) else
                                  changed(RUN_RECORD, data, **wide[at - len(data)]))
        where = at if at < len(data) else wide[at - len(data)]
        if not rig.begin():
            bad.append(f"does not start: {where}")
            victim.restore()
            assert rig.begin()
            continue
        strangers = held_pids(rig) - victim.pids
        if strangers:
            bad.append(f"holds {strangers}: {where}")
        try:
            state = rig.peer().call("VM_DESCRIBE", vm="vm")["state"]
            assert state in (2, 4), state
        except Refused as e:
            bad.append(f"DESCRIBE {e.status}: {where}")
            state = 2
        if state == 2:  # not adopted, hence ended: the next byte is of the record of the next one
            until("the victim has ended", lambda: not victim.alive())
            victim = Victim(rig)
    assert other.poll() is None, "a stranger's process was killed"
    other.kill()
    other.wait()
    rig.forget_all()
    victim.end()
    assert not bad, f"{len(bad)} of {len(data)}: {bad[:6]}"


def vm_record_cases(rig):
    """Each byte of record changed, while the VM does not run; yields what the helper makes of it."""
    p = rig.peer()
    rig.prepare(p, "vm")
    rig.prepare(p, "other")
    path = rig.state / "vms/vm/record"
    good = path.read_bytes()
    wide = [b"", b"\0" * 50, good * 40, good[:-1], good + b"\0"] + [changed(VM_RECORD, good, **fields) for fields in (
        {"image": b"../x"}, {"slot": 1}, {"slot": 4294967295}, {"exit_kind": 99}, {"disk_mib": 4000000000},
        {"exit_code": 999})]
    for n, data in enumerate([mutate(good, at) for at in range(len(good))] + wide):
        rig.end()
        path.write_bytes(data)
        yield n, data, rig.begin(), rig.child.poll()
        if rig.child.poll() is None:
            rig.end()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(good)
        rig.brokers(path.parent, path)
        assert rig.begin()
    rig.forget_all()


def every_byte_of_the_vm_record(rig):
    """No damage kills the helper by a signal, and none makes it answer with what the table forbids."""
    bad = []
    for _, data, serves, code in vm_record_cases(rig):
        if not serves:
            if code != 1:
                bad.append(f"ended with {code}: {data[:200]}")
            continue
        p = rig.peer()
        for vm in p.call("VM_LIST")["vms"]:
            got = p.refused("VM_DESCRIBE", vm=vm)
            if got != "OK":
                bad.append(f"DESCRIBE {vm} {got}: {data[:200]}")
    assert not bad, f"{len(bad)}: {bad[:4]}"


def one_damaged_record_stops_one_vm(rig):
    """The other VMs go on to be served."""
    stopped = [data for _, data, serves, _ in vm_record_cases(rig) if not serves]
    assert not stopped, f"{len(stopped)} kinds of damage to one VM's record keep the helper from starting: {stopped[:2]}"


def planted_entries(rig):
    """Links, files and foreign directories among the VMs' directories are not followed."""
    canary = rig.images / "canary-dir"
    canary.mkdir()
    (canary / "record").write_bytes(planted(0))
    before = tree(canary)
    rig.end()
    for top in (rig.state / "vms", rig.run_dir):
        os.symlink(canary, top / "link")
        (top / "file").write_text("x")
        (top / "UPPER").mkdir()
        (top / "UPPER/record").write_bytes(planted(1))
        os.mkfifo(top / "fifo")
    assert rig.begin()
    assert rig.peer().call("VM_LIST")["vms"] == []
    assert tree(canary) == before
    p = rig.peer()
    for name in ("link", "file", "fifo"):
        assert p.refused("VM_PREPARE", vm=name, image="tiny") == "FAILED", name
        assert p.call("VM_FORGET", vm=name) == {"reserved": 0}
    assert tree(canary) == before
    rig.end()
    for top in (rig.state / "vms", rig.run_dir):
        for name in ("link", "file", "fifo"):
            (top / name).unlink()
        shutil.rmtree(top / "UPPER")
    shutil.rmtree(canary)
    assert rig.begin()


def tampered_audit_logs(rig):
    """A changed byte, a missing record, a swapped pair and a torn end are all recorded at the next start."""
    log = rig.state / "audit.log"
    rig.end()
    whole = log.read_bytes()
    log.unlink()  # a short log: the helper looks at the end of a long one only
    assert rig.begin()
    p = rig.peer()
    for _ in range(6):
        p.refused("VM_PREPARE", vm="vm", image="none")
    rig.end()
    good = log.read_bytes()
    lines = good.splitlines(keepends=True)
    middle = len(lines) // 2
    cases = [(mutate(good, len(good) // 2), "audit-broken"), (b"".join(lines[:middle] + lines[middle + 1:]), "audit-broken"),
             (b"".join(lines[:middle] + [lines[middle + 1], lines[middle]] + lines[middle + 2:]), "audit-broken"),
             (good[:-10], "audit-torn"), (b"".join(lines[1:]), "audit-broken"), (good + b"\0" * 300, "audit-torn"),
             (b"x" * 5000 + b"\n" + good, "audit-broken")]
    for n, (data, event) in enumerate(cases):
        log.write_bytes(data)
        assert rig.begin()
        rig.end()
        added = log.read_bytes()[len(data):].decode(errors="replace").splitlines()
        assert any(f" {event} " in line for line in added), (n, event, added)
    log.write_bytes(good)
    for change in (lambda: os.symlink("/etc/passwd", log), lambda: os.mkdir(log)):
        log.unlink()
        change()
        assert not rig.begin() and rig.child.returncode == 1
        log.rmdir() if log.is_dir() and not log.is_symlink() else log.unlink()
        log.write_bytes(good)
    log.write_bytes(whole)
    os.chmod(log, 0o600)
    assert rig.begin()
    rig.audit.records()


@contextlib.contextmanager
def small_state(rig, size):
    """The state directory on a file system of @size."""
    rig.end()
    run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", rig.state)
    try:
        assert rig.begin()
        yield
        rig.end()
    finally:
        if alive(rig.pid):
            rig.end(signal.SIGKILL)
        until("nobody is in it", lambda: subprocess.run(["umount", rig.state], check=False).returncode == 0)
        assert rig.begin()


def full_disk(rig):
    """No space: said so, nothing left behind, the chain of the audit log unbroken, and all works again after."""
    with small_state(rig, "2M"):
        p, filler = rig.peer(), rig.state / "filler"

        def fill():
            fd = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, b"x" * 4096)
            os.close(fd)

        fill()
        assert p.refused("VM_PREPARE", vm="vm", image="tiny") == "NO_SPACE"
        assert not list((rig.state / "vms").iterdir()) and not rig.slot_processes()
        filler.unlink()
        rig.audit.records()
        rig.prepare(p, "vm")
        fill()
        mon = rig.peer("qudata-mon")
        before = tree(rig.state / "vms")
        assert mon.refused("VM_SEED", [SEED], vm="vm") == "NO_SPACE"
        assert tree(rig.state / "vms") == before
        filler.unlink()
        mon.call("VM_SEED", [SEED], vm="vm")
        fill()
        before = tree(rig.state / "vms", rig.run_dir)
        generation = p.call("VM_DESCRIBE", vm="vm")["generation"]
        assert p.refused("VM_START", vm="vm", cpus=1, memory_mib=128) == "NO_SPACE"
        until("nothing runs", lambda: not rig.slot_processes())
        assert tree(rig.state / "vms", rig.run_dir) == before
        p.call("VM_LIST")
        filler.unlink()
        rig.audit.records()
        assert rig.start(p, "vm") > generation
        rig.forget(p, "vm")
        rig.audit.records()


# ---- policy ----------------------------------------------------------------------------------------------------
def refuses_to_start(rig, path, why):
    before = tree(rig.root / "lib", rig.root / "run", rig.images)
    done = subprocess.run([rig.program()[0], "--config", str(path)], capture_output=True, text=True, timeout=60,
                          check=False, env={"PATH": "/usr/bin:/bin"}, cwd="/")
    assert done.returncode == 1 and re.search(why, done.stderr), (path, why, done.returncode, done.stderr[-300:])
    assert tree(rig.root / "lib", rig.root / "run", rig.images) == before, why


def malformed_policies(rig):
    """Unknown, doubled, mistyped or contradicting settings: no start, and the reason is said."""
    rig.settled()
    base = (rig.root / "etc/helper.conf").read_text()
    path = rig.images / "policy.conf"
    cases = [("nonsense = 1\n", "unknown key"), ("max_vms = 4\n", "given twice"), ("max_cpus = -1\n", "max_cpus"),
             ("max_cpus = 0\n", "max_cpus"), ("max_cpus = 1e9\n", "max_cpus"), ("port_low = 80\n", "port_low"),
             ("port_low = 30000\nport_high = 20000\n", "above port_high"), ("dns = 1.1.1.1 --fd 9\n", "dns"),
             ("max_memory_mib = 2T\n", "above max_total"), ("agentd_user = root\n", "uid or gid of root"),
             ("agentd_user = qudata-mon\n", "same uid"), ("vmmon_user = qudata-vm1\n", "shares its uid"),
             ("agentd_user = no-such-user\n", "missing"), ("vm_user_prefix = nobody\n", "missing"),
             ("qemu_binary = qemu\n", "absolute path"), ("qemu_binary = /usr/bin/../bin/qemu\n", "absolute path"),
             ("qemu_binary = /usr/bin\n", "not of the kind"), ("qemu_binary = /no/such\n", "cannot look"),
             ("accel = maybe\n", "must be one of"), ("cgroup = self\n", "cgroup"),
             ("require_isolation = maybe\n", "yes or no"), ("no equals sign\n", "expected"),
             ("dns = \x1b[2J\n", "printable|dns"), ("\0", "NUL"), ("#" * 70000, "cannot read")]
    for text, why in cases:
        path.write_text(base.replace("accel = tcg\n", "") + text if "accel" in text else base + text)
        refuses_to_start(rig, path, why)
    path.unlink()


def policies_of_others(rig):
    """A policy that somebody but root could have written is none."""
    path = rig.images / "policy.conf"
    qudata = pwd.getpwnam("qudata").pw_uid
    rig.settled()
    refuses_to_start(rig, path, "cannot read")
    shutil.copyfile(rig.root / "etc/helper.conf", path)
    for change, why in ((lambda: os.chown(path, qudata, 0), "belong to root"),
                        (lambda: (os.chown(path, 0, 0), os.chmod(path, 0o666)), "belong to root"),
                        (lambda: os.chmod(path, 0o664), "belong to root"),
                        (lambda: (path.unlink(), os.mkfifo(path)), "no regular file"),
                        (lambda: (path.unlink(), path.mkdir()), "no regular file|cannot read"),
                        (lambda: (path.rmdir(), os.symlink("/dev/zero", path)), "no regular file")):
        change()
        refuses_to_start(rig, path, why)
    path.unlink()


def places_of_others(rig):
    """Directories and programs that somebody but root could exchange are refused, the socket's too."""
    path = rig.images / "policy.conf"
    qudata = pwd.getpwnam("qudata").pw_uid
    place = rig.images / "place"
    (place / "below").mkdir(parents=True)
    shutil.copyfile("/bin/true", place / "program")
    os.chmod(place / "program", 0o755)
    os.chown(place, qudata, 0)
    os.symlink("/usr/bin/passt", rig.images / "passt-link")
    base = (rig.root / "etc/helper.conf").read_text()
    bad = []
    for key, value in (("state_dir", "below"), ("run_dir", "below"), ("image_dir", "below"), ("qemu_binary", "program"),
                       ("passt_binary", "program"), ("qemu_img_binary", "program"), ("passt_binary", "../passt-link"),
                       ("state_dir", ""), ("socket", "helper.sock")):
        where = os.path.normpath(place / value)
        path.write_text(re.sub(rf"^{key} = .*\n", "", base, flags=re.M) + f"{key} = {where}\n")
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Its own state, so that the one that runs is not in the way.
            if key != "state_dir":
                text = re.sub(r"^state_dir = .*$", f"state_dir = {rig.images}/own-state", path.read_text(), flags=re.M)
                path.write_text(text)
            done = subprocess.run([rig.program()[0], "--config", str(path)], capture_output=True, text=True, timeout=30,
                                  check=False, env={"PATH": "/usr/bin:/bin"}, cwd="/")
            assert done.returncode == 1 and re.search("belong to root|not of the kind", done.stderr), \
                (key, value, done.stderr)
            continue
        bad.append(f"{key} = {where}")
    for left in (place, rig.images / "own-state"):
        shutil.rmtree(left, ignore_errors=True)
    (rig.images / "passt-link").unlink()
    path.unlink()
    assert not bad, f"the helper serves with {bad}, below a directory of qudata"


def two_helpers(rig):
    """A second helper on the same state waits, gives up, and disturbs nothing."""
    with rig.unchanged():
        done = subprocess.run(rig.program(), capture_output=True, text=True, timeout=90, check=False, cwd="/")
        assert done.returncode == 1 and "another vfio-helper" in done.stderr, done.stderr
    rig.alive()
    assert proc_status(rig.pid)["State"]


def run_cases(report, rig):
    for case in (pids_of_others, run_directories_cleaned_away, every_byte_of_the_run_record, every_byte_of_the_vm_record,
                 one_damaged_record_stops_one_vm, planted_entries, tampered_audit_logs, full_disk, malformed_policies,
                 policies_of_others, places_of_others, two_helpers):
        report.run(f"state/{case.__name__}", case, rig)
        if not alive(rig.pid):
            rig.begin()
        rig.forget_all()
