# SPDX-License-Identifier: Apache-2.0
"""VMs as the attacker's tool: names, images, ports, generations, ceilings: threats 3, 5, 6 and 10."""
import contextlib
import fcntl
import os
import pathlib
import pwd
import re
import select
import shutil
import socket
import struct
import subprocess
import threading
import time

from argv import check_argv
from rig import SEED, SLOTS, alive, fds, run, sealed, until
from wire import CONST, Refused, as_user, connections

SETTINGS = ("helper.conf:max_cpus=8", "helper.conf:max_memory_mib=512", "helper.conf:max_total_memory_mib=1024",
            "helper.conf:max_disk_mib=64", "helper.conf:port_low=20000", "helper.conf:port_high=20099")
CANARY_WORDS = b"canary: no guest may read this\n"


# ---- 3: names and images ------------------------------------------------------------------------------------
def image_names_are_names(rig):
    """Whatever is no NAME ends the connection; a NAME that is no image is refused in words."""
    for image in ("../tiny", "/etc", ".", "..", "tiny/disk.img", "proc/self/fd/3", "json:{}", "nbd:x", "tiny\0x",
                  "tiny ", "TINY", "a,b"):
        with rig.unchanged(), rig.audit.expect("peer-refused", WHY="malformed"):
            assert rig.peer().refused("VM_PREPARE", vm="vm", image=image) == "closed", image
            rig.drop_peers()
    p = rig.peer()
    for image in ("none", "self", "lost-found"):
        with rig.unchanged(), rig.audit.expect("request-refused", OP="VM_PREPARE", STATUS="NOT_FOUND"):
            assert p.refused("VM_PREPARE", vm="vm", image=image) == "NOT_FOUND", image


def broken_image(rig, name, change, **expected):
    """An image that @change has made hostile is refused, at prepare or at start, and nothing is left."""
    path = rig.image(name)
    change(path)
    p = rig.peer()
    with rig.unchanged(), rig.audit.expect(only=False, **expected):
        try:
            rig.start(p, "evil", name)
            canary_is_closed(rig, "evil")
            raise AssertionError(f"a VM on the image {name} runs")
        except Refused as e:
            assert e.status in ("FAILED", "INVALID", "CONFLICT", "NOT_FOUND", "DENIED"), e.status
        finally:
            rig.forget(p, "evil")
    rig.drop_peers()
    shutil.rmtree(path)


def replaced_files(rig):
    """disk, kernel and initrd must be plain root files with one name, reached without a link."""
    secret = rig.images / "secret"
    secret.write_bytes(CANARY_WORDS)

    def link(name, target):
        def change(path):
            (path / name).unlink(missing_ok=True)
            os.symlink(target, path / name)
        return change

    def hard(name):
        def change(path):
            (path / name).unlink(missing_ok=True)
            os.link(secret, path / name)
        return change

    def special(name, make):
        def change(path):
            (path / name).unlink(missing_ok=True)
            make(path / name)
        return change

    started = {"event": "vm-start-failed", "VM": "evil"}
    for name in ("disk.img", "kernel"):
        for n, change in enumerate((link(name, "/etc/shadow"), link(name, "/proc/self/fd/0"), link(name, "../secret"),
                                    hard(name), special(name, os.mkfifo), special(name, os.mkdir),
                                    special(name, lambda p: socket.socket(socket.AF_UNIX).bind(str(p))))):
            broken_image(rig, f"swapped-{n}", change, **started)
    broken_image(rig, "foreign", lambda p: os.chown(p / "disk.img", pwd.getpwnam("qudata").pw_uid, 0), **started)
    broken_image(rig, "missing", lambda p: (p / "disk.img").unlink(), **started)
    os.symlink("tiny", rig.images / "alias")
    p = rig.peer()
    with rig.unchanged(), rig.audit.expect("request-refused", OP="VM_PREPARE"):
        assert p.refused("VM_PREPARE", vm="evil", image="alias") == "FAILED"
    (rig.images / "alias").unlink()
    secret.unlink()


def writable_image(rig):
    """A base image that others than root may write is none."""
    broken_image(rig, "writable", lambda p: os.chmod(p / "disk.img", 0o666), event="vm-start-failed")


def hostile_image_conf(rig):
    for n, text in enumerate(("", "format = qcow2\n", "format = luks\nmin_disk_mib = 8\n", "\0" * 100,
                              "format = qcow2\nmin_disk_mib = 0\n", "format = qcow2\nmin_disk_mib = 99999999999\n",
                              "format = qcow2\nmin_disk_mib = 8\nappend = a\x1b[2Jb\n", "x" * 5000,
                              "format = qcow2\nformat = raw\nmin_disk_mib = 8\n",
                              "format = qcow2\nmin_disk_mib = 8\nbacking = /etc/shadow\n")):
        broken_image(rig, f"conf-{n}", lambda p, t=text: (p / "image.conf").write_text(t), event="vm-prepare-failed",
                     VM="evil")


def canary_is_closed(rig, vm):
    held = []
    with contextlib.suppress(OSError):  # a QEMU that has ended already holds nothing
        pid = int(rig.running(vm)["qemu_pid"])
        with contextlib.suppress(OSError):
            rig.greeting(vm)
        held = list(fds(pid).values())
    assert not [t for t in held if "canary" in t], f"QEMU has opened {[t for t in held if 'canary' in t]}"


def plant_data_file(path, target):
    """Turns a fresh qcow2 file into one whose data lies in @target: a bit, and a header extension."""
    raw = bytearray(path.read_bytes())
    length = struct.unpack(">I", raw[100:104])[0]
    name = str(target).encode()
    extension = struct.pack(">II", 0x44415441, len(name)) + name.ljust((len(name) + 7) // 8 * 8, b"\0")
    raw[72:80] = struct.pack(">Q", struct.unpack(">Q", raw[72:80])[0] | 4)
    raw[length:length + len(extension) + 8] = extension + b"\0" * 8
    raw[8:20] = b"\0" * 12  # no backing file
    path.write_bytes(raw)


def hostile_bases(rig, canary):
    def backing(target, fmt):
        return lambda p: run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", target, "-F", fmt, p / "disk.img")

    json = f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{canary}"}}}}'
    return {"backing": backing(str(canary), "raw"), "json": backing(json, "raw"),
            "data": lambda p: plant_data_file(p / "disk.img", canary),
            "fd": backing("/proc/self/fd/9", "raw"), "nbd": backing("nbd:127.0.0.1:10809", "raw")}


def backing_files_of_bases(rig):
    """A base image is one file: names in its header lead nowhere."""
    canary = rig.images / "canary"
    canary.write_bytes(CANARY_WORDS.ljust(1 << 20, b"c"))
    os.chmod(canary, 0o644)
    bad = []
    for name, change in hostile_bases(rig, canary).items():
        change(rig.image(f"base-{name}"))
        p = rig.peer()
        try:
            rig.start(p, "evil", f"base-{name}")
            canary_is_closed(rig, "evil")
        except Refused as e:
            assert e.status == "FAILED", e.status
        except AssertionError as e:
            bad.append(f"{name}: {e}")
        finally:
            rig.forget(p, "evil")
            rig.drop_peers()
        shutil.rmtree(rig.images / f"base-{name}")
    canary.unlink()
    assert not bad, bad


def overlays_written_by_their_guest(rig):
    """A QEMU that was taken over writes what it likes into its disk's header; the next start is not moved."""
    canary = rig.images / "canary"
    canary.write_bytes(CANARY_WORDS.ljust(1 << 20, b"c"))
    os.chmod(canary, 0o666)
    bad = []
    for name in ("backing", "json", "data", "fd", "garbage", "empty"):
        p = rig.peer()
        rig.prepare(p, "evil")
        disk = rig.state / "vms/evil/disk.qcow2"
        if name in ("garbage", "empty"):
            disk.write_bytes(b"" if name == "empty" else os.urandom(65536))
        else:
            copy = rig.images / "copy"
            copy.mkdir()
            shutil.copyfile(disk, copy / "disk.img")
            hostile_bases(rig, canary)[name](copy)
            disk.write_bytes((copy / "disk.img").read_bytes())
            shutil.rmtree(copy)
        try:
            rig.start(p, "evil")
            canary_is_closed(rig, "evil")
        except Refused as e:
            assert e.status == "FAILED", e.status
        except AssertionError as e:
            bad.append(f"{name}: {e}")
        finally:
            rig.forget(p, "evil")
            rig.drop_peers()
    assert canary.read_bytes()[:len(CANARY_WORDS)] == CANARY_WORDS
    canary.unlink()
    rig.alive()
    assert not bad, bad


def disks_replaced_between_starts(rig):
    """A hard link, symbolic link or somebody else's file in the place of a VM's disk or seed."""
    p = rig.peer()
    rig.prepare(p, "vm")
    rig.seed("vm")
    d = rig.state / "vms/vm"
    for name in ("disk.qcow2", "seed.img"):
        os.rename(d / name, d / "aside")
        for make in (lambda t: os.symlink("/etc/shadow", t), lambda t: os.link(rig.images / "tiny/disk.img", t),
                     lambda t: os.mkfifo(t), lambda t: os.symlink("aside", t), lambda t: None):
            make(d / name)
            with rig.audit.expect("vm-start-failed", VM="^vm$"):
                assert p.refused("VM_START", vm="vm", cpus=1, memory_mib=128) == "FAILED"
            (d / name).unlink(missing_ok=True)
            assert not rig.slot_processes()
        os.rename(d / "aside", d / name)
    os.chown(d / "disk.qcow2", pwd.getpwnam("qudata-vm0").pw_uid, 0)
    with rig.audit.expect("vm-start-failed", VM="^vm$"):
        assert p.refused("VM_START", vm="vm", cpus=1, memory_mib=128) == "FAILED"
    rig.brokers(d / "disk.qcow2")
    rig.start(p, "vm")
    rig.forget(p, "vm")


def bases_replaced_between_starts(rig):
    """A VM is not started on another base than its disk was begun on, and is again on that one."""
    p = rig.peer()
    path = rig.image("swap")
    base, aside = path / "disk.img", path / "aside"
    rig.start(p, "vm", "swap")
    rig.stop(p, "vm")

    def refused(status="MISMATCH"):
        with rig.audit.expect("vm-start-failed", VM="^vm$"):
            assert p.refused("VM_START", vm="vm", cpus=1, memory_mib=128) == status
        assert not rig.slot_processes()

    os.rename(base, aside)
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "16M")
    os.utime(base, ns=(0, 0))
    refused()
    shutil.copy2(aside, base)  # what a backup gives back
    rig.start(p, "vm", "swap")
    rig.stop(p, "vm")
    os.utime(base, ns=(0, 0))
    refused()
    shutil.copystat(aside, base)
    record = rig.state / "vms/vm/base"
    good = record.read_bytes()
    for bad in (b"", good[:-1], good + b"x", bytes(len(good))):
        record.write_bytes(bad)
        refused("FAILED")
    record.write_bytes(good)
    rig.start(p, "vm", "swap")
    rig.forget(p, "vm")
    shutil.rmtree(path)


def seeds_that_are_none(rig):
    """Only a sealed memfd in bounds is a seed, and the first one stays."""
    p = rig.peer()
    rig.prepare(p, "vm")
    mon = rig.peer("qudata-mon")
    some = (rig.images / "plain")
    some.write_bytes(b"x" * 2048)
    read_end, _ = os.pipe()
    bad = [os.open(some, os.O_RDONLY), os.open("/etc/shadow", os.O_RDONLY), read_end, os.open("/", os.O_RDONLY),
           sealed(b"x" * 2048, 0), sealed(b"x" * 2048, 2 | 4), sealed(b"x" * 2048, 1 | 2 | 4 | 16), sealed(b""),
           sealed(b"x" * (CONST["PROTO_SEED_MAX"] + 1)), os.open(some, os.O_PATH)]
    for n, fd in enumerate(bad):
        with rig.unchanged(), rig.audit.expect("request-refused", OP="VM_SEED", STATUS="INVALID"):
            assert mon.refused("VM_SEED", [fd], vm="vm") == "INVALID", n
    with rig.audit.expect("vm-seed", VM="^vm$"):
        mon.call("VM_SEED", [SEED], vm="vm")
    with rig.unchanged(), rig.audit.expect("request-refused", OP="VM_SEED", STATUS="CONFLICT"):
        assert mon.refused("VM_SEED", [sealed(b"y" * 2048)], vm="vm") == "CONFLICT"
    with rig.unchanged(), rig.audit.expect("vm-seed", count=0):
        mon.call("VM_SEED", [SEED], vm="vm")
    some.unlink()
    rig.forget(p, "vm")


# ---- ceilings, order, and other VMs: 10 -------------------------------------------------------------------------
def lock_on_a_base(rig):
    """Whoever may only read a base image, as any VM's QEMU may, keeps no VM from it by QEMU's own kind of lock."""
    fd = os.open(rig.images / "tiny/disk.img", os.O_RDONLY)
    fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 100, 200, 0))  # F_OFD_SETLK
    p = rig.peer()
    rig.start(p, "vm")
    rig.greeting("vm")
    rig.forget(p, "vm")
    os.close(fd)


def ceilings_hold(rig):
    p = rig.peer()
    cases = [("LIMIT", {"cpus": 9}), ("LIMIT", {"memory_mib": 513}), ("DENIED", {"ports": [(19999, 22)]}),
             ("DENIED", {"ports": [(20100, 22)]}), ("DENIED", {"ports": [(22, 22)]}),
             ("DENIED", {"ports": [(20000, 22), (65535, 80)]}), ("LIMIT", {"cpus": 512, "memory_mib": 8 << 20})]
    for disk in (65, 64 << 20):
        with rig.unchanged(), rig.audit.expect("request-refused", OP="VM_PREPARE", STATUS="LIMIT"):
            assert p.refused("VM_PREPARE", vm="vm", image="tiny", disk_mib=disk) == "LIMIT"
    with rig.unchanged(), rig.audit.expect("vm-prepare-failed", VM="^vm$"):  # below the image's minimum
        assert p.refused("VM_PREPARE", vm="vm", image="tiny", disk_mib=7) == "INVALID"
    rig.prepare(p, "vm")
    with rig.unchanged(), rig.audit.expect("request-refused", OP="VM_START", STATUS="INVALID"):
        assert p.refused("VM_START", vm="vm", cpus=1, memory_mib=128) == "INVALID"
    rig.seed("vm")
    for status, values in cases:
        with rig.unchanged(), rig.audit.expect("request-refused", OP="VM_START", STATUS=status):
            got = p.refused("VM_START", **{"vm": "vm", "cpus": 1, "memory_mib": 128, **values})
            assert got == status, (values, got)
    with rig.unchanged(), rig.audit.expect("request-refused", OP="VM_PREPARE", STATUS="CONFLICT"):
        assert p.refused("VM_PREPARE", vm="vm", image="tiny", disk_mib=9) == "CONFLICT"
    rig.forget(p, "vm")


def memory_of_all_and_ports_of_others(rig):
    p = rig.peer()
    rig.start(p, "one", memory_mib=512, ports=[(20001, 22)])
    rig.start(p, "two", memory_mib=256, ports=[(20002, 22)])
    rig.prepare(p, "three")
    rig.seed("three")
    with rig.unchanged(), rig.audit.expect("request-refused", STATUS="CONFLICT", WHY="port of another"):
        assert p.refused("VM_START", vm="three", cpus=1, memory_mib=128, ports=[(20001, 80)]) == "CONFLICT"
    with rig.unchanged(), rig.audit.expect("request-refused", STATUS="LIMIT", WHY="max_total"):
        assert p.refused("VM_START", vm="three", cpus=1, memory_mib=512) == "LIMIT"
    with rig.unchanged(), rig.audit.expect("vm-forget", count=0):
        assert p.refused("VM_FORGET", vm="one") == "BUSY"
        assert p.refused("VM_START", vm="one", cpus=1, memory_mib=128) == "ALREADY"
        assert p.call("VM_DESCRIBE", vm="stranger")["state"] == 0
        assert p.call("VM_FORGET", vm="stranger") == {"reserved": 0}
    rig.forget(p, "one", "two", "three")


def prepare_up_to_the_ceiling(rig):
    """As many VMs as there are slots, then no more; forgotten they leave nothing, twenty times over."""
    with rig.unchanged():
        p = rig.peer()
        for _ in range(5):
            for n in range(SLOTS):
                rig.prepare(p, f"vm-{n}")
            before = sorted((rig.state / "vms").iterdir())
            with rig.audit.expect("request-refused", STATUS="LIMIT", WHY="max_vms"):
                assert p.refused("VM_PREPARE", vm="one-more", image="tiny") == "LIMIT"
            assert sorted((rig.state / "vms").iterdir()) == before
            rig.forget(p, *(f"vm-{n}" for n in range(SLOTS)))
        rig.drop_peers()


def prepare_and_vanish(rig):
    """Requests whose sender is gone before the answer, and a helper killed in the middle of them."""
    p = rig.peer()
    for n in range(3):
        for k in range(SLOTS):
            p.send("VM_PREPARE", vm=f"gone-{k}", image="tiny", disk_mib=8)
        if n == 2:
            rig.restart(kill=True)
        else:
            rig.drop_peers()
            # Until its end has been seen there may be requests on it that have not.
            until("they are noticed to be gone", lambda: connections(rig.helper_socket) == 0)
        p = rig.peer()
        until("no qemu-img", lambda: not rig.slot_processes())
        until("no directory is half made", lambda: all((e / "record").exists()
                                                       for e in (rig.state / "vms").iterdir()))
        rig.forget(p, *p.call("VM_LIST")["vms"])
    assert not list((rig.state / "vms").iterdir()) and not list(rig.run_dir.iterdir())


# ---- 6: killing ----------------------------------------------------------------------------------------------
def kill_needs_the_generation(rig):
    p = rig.peer()
    generation = rig.start(p, "vm")
    pids = rig.slot_processes()
    for wrong in (generation + 1, 1 << 40, (1 << 64) - 1):
        with rig.unchanged(), rig.audit.expect("request-refused", OP="VM_KILL", STATUS="NOT_FOUND"):
            assert p.refused("VM_KILL", vm="vm", generation=wrong) == "NOT_FOUND"
    for other in ("vn", "vm-", "v", "vm0"):
        with rig.unchanged(), rig.audit.expect("request-refused", OP="VM_KILL", STATUS="NOT_FOUND"):
            assert p.refused("VM_KILL", vm=other, generation=generation) == "NOT_FOUND"
    rig.stop(p, "vm")
    assert rig.start(p, "vm") == generation + 1
    now = rig.slot_processes()
    assert not set(now) & set(pids)
    with rig.unchanged(), rig.audit.expect("vm-kill", count=0):
        assert p.refused("VM_KILL", vm="vm", generation=generation) == "ALREADY"
    rig.forget(p, "vm")


# ---- 5: command lines ---------------------------------------------------------------------------------------
def command_line(pid):
    """By one read(2): a second one, after an execve, would go on in the middle of the next program's line."""
    fd = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


class Watcher(threading.Thread):
    """Collects the command lines of all that the helper starts for a slot."""

    def __init__(self, rig):
        super().__init__()
        self.rig, self.seen, self.stop = rig, set(), threading.Event()
        self.helper = rig.pid

    def run(self):
        children = pathlib.Path(f"/proc/{self.helper}/task/{self.helper}/children")
        while not self.stop.is_set():
            for pid in children.read_text().split():
                with contextlib.suppress(OSError):
                    line = command_line(pid)
                    if line and line.split(b"\0")[0].rpartition(b"/")[2] not in (b"vfio-helper", b"vfio-broker", b"vfio-bind"):
                        self.seen.add(line)
            time.sleep(0.001)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.join()

    def has(self, program, word=b""):
        return any(program in line.split(b"\0")[0].rpartition(b"/")[2] and word in line for line in list(self.seen))

    def await_vm(self, vm):
        """Until both programs of a VM have been seen, or are gone."""
        name = f"guest={vm}".encode()
        until("its command lines are seen", lambda: self.has(b"qemu-system", name) and self.has(b"passt")
              or not self.rig.slot_processes())


def command_lines_keep_their_grammar(rig):
    """Every program that starts has only options of a fixed list, with values of fixed patterns."""
    full = rig.image("full", conf="format = qcow2\nmin_disk_mib = 8\nappend = a,b=c -device x;y $(z) %s %n\n")
    for name in ("kernel", "initrd"):
        (full / name).write_bytes(b"\0" * 4096)
    raw = rig.image("raw", "raw")
    p = rig.peer()
    with Watcher(rig) as watcher:
        ports = [(20000 + n, 65535 - n) for n in range(16)]
        for image, vm, cpus, memory, chosen in (("full", "a" * 32, 8, 512, ports), ("raw", "0-9--", 1, 128, []),
                                                ("tiny", "driver-file", 3, 300, ports[:1])):
            with contextlib.suppress(Refused):
                rig.start(p, vm, image, cpus, memory, chosen)
            watcher.await_vm(vm)
            rig.forget(p, vm)

        def short_lived():
            rig.prepare(p, "again")
            rig.forget(p, "again")
            return watcher.has(b"qemu-img")
        until("qemu-img is seen, too", short_lived)
    programs = [check_argv(line.split(b"\0")[:-1]) for line in watcher.seen]
    assert {"qemu", "passt", "qemu-img"} <= set(programs), programs
    shutil.rmtree(full)
    shutil.rmtree(raw)


# ---- isolation --------------------------------------------------------------------------------------------------
def no_firewall_no_vm(rig):
    """Without the rule that keeps guests from the host's loopback a start is refused."""
    rules = subprocess.run(["nft", "-s", "list", "table", "inet", "qudata"], check=True, capture_output=True).stdout
    p = rig.peer()
    rig.prepare(p, "vm")
    rig.seed("vm")
    run("nft", "flush", "chain", "inet", "qudata", "output")
    try:
        with rig.audit.expect("vm-start-failed", WHY="loopback"):
            assert p.refused("VM_START", vm="vm", cpus=1, memory_mib=128) == "FAILED"
        until("nothing runs", lambda: not rig.slot_processes())
        assert not (rig.run_dir / "vm").exists()
    finally:
        run("nft", "delete", "table", "inet", "qudata")
        subprocess.run(["nft", "-f", "-"], check=True, input=rules)
    rig.start(p, "vm")
    rig.forget(p, "vm")


# ---- 4: races ---------------------------------------------------------------------------------------------------
def racer(rig, enough):
    """
    What any unprivileged user may try in the helper's directories, until something is to be read from @enough; says
    what it managed to do.
    """
    tops = [str(rig.state), str(rig.run_dir), str(rig.state / "vms"), str(rig.images), str(rig.images / "tiny"),
            str(rig.root / "run"), str(rig.run_dir / "race"), str(rig.state / "vms/race")]
    names = ("race", "disk.qcow2", "seed.img", "record", "running", "qmp.sock", "audit.log", ".running.new",
             "disk.img")
    done, tries = [], 0
    while not select.select([enough], [], [], 0)[0] and not done:
        for top in tops:
            for name in names:
                path = f"{top}/{name}"
                for act in (lambda: os.symlink("/etc/passwd", path), lambda: os.rename(path, path + "-x"),
                            lambda: os.unlink(path), lambda: os.mkdir(path),
                            lambda: os.rename("/tmp", path), lambda: os.open(path, os.O_WRONLY),
                            lambda: os.link("/etc/hostname", path), lambda: os.chmod(path, 0o777)):
                    tries += 1
                    with contextlib.suppress(OSError):
                        act()
                        done.append(path)
    return f"{tries} {done}"


def renaming_racers_win_nothing(rig):
    said, (enough, told) = {}, os.pipe()
    # Not the slot that is being used: its user's processes are ended before each start.
    users = ("qudata", "qudata-mon", "qudata-frp", "qudata-vm1", "nobody")
    threads = [threading.Thread(target=lambda u=u: said.__setitem__(u, as_user(u, lambda: racer(rig, enough), 300)))
               for u in users]
    p = rig.peer()
    before = rig.audit.records()[-1].seq
    for t in threads:
        t.start()
    rounds, begun = 0, time.monotonic()
    try:
        while rounds < 4 or time.monotonic() - begun < 4:
            rig.start(p, "race")
            rig.forget(p, "race")
            rounds += 1
    finally:
        os.write(told, b"x")
        for t in threads:
            t.join()
        os.close(enough)
        os.close(told)
    total = 0
    for user in users:
        match = re.fullmatch(r"=(\d+) (\[.*\])", said[user])
        assert match and match[2] == "[]", f"{user}: {said[user]}"
        total += int(match[1])
    assert total > 10000, total
    bad = [r.line for r in rig.audit.records() if r.seq > before and "fail" in r.event]
    assert not bad, bad


def run_cases(report, rig):
    for case in (image_names_are_names, replaced_files, writable_image, hostile_image_conf, backing_files_of_bases,
                 overlays_written_by_their_guest, disks_replaced_between_starts,
                 bases_replaced_between_starts, seeds_that_are_none, lock_on_a_base,
                 ceilings_hold, memory_of_all_and_ports_of_others, prepare_up_to_the_ceiling, prepare_and_vanish,
                 kill_needs_the_generation, command_lines_keep_their_grammar, no_firewall_no_vm,
                 renaming_racers_win_nothing):
        report.run(f"vms/{case.__name__}", case, rig)
        rig.restart()
        rig.forget_all()

