# SPDX-License-Identifier: Apache-2.0
"""The four daemons together: strings of the HTTP API on their way to command lines, vmmon's socket, a compromised
agentd that starts and kills behind the others' backs: threats 5, 8 and 11."""
import os
import pwd
import random

from argv import check_argv
from peers import outcome, poison, vmmon_serves_agentd_only
from lib import BOOT_S
from rig import HELD_UP_S, SEED, alive, fds, sealed, until
from vms import Watcher
from wire import OPS, STATUS, Closed, Peer, connections, message, open_to

DAEMONS = ("agentd", "vfio-helper", "vmmon", "frp-supervisor")
STRINGS = ("8G,romfile=/etc/shadow", "x\n-device vfio-pci", "$(id)", "`id`", "../../etc", "/etc/shadow", "a\0b", "%s%n",
           "json:{}", "nbd:127.0.0.1:1", "-enable-kvm", "\x1b[2J", "1,1", "1 ", " 1", "0x10", "1e3", "+1", "٣", "１")
FIELDS = ("cpus", "memory", "storage_gb", "disk_size_gb", "image", "image_tag", "command", "name", "instance_id",
          "gpu_addr", "gpu_count", "ssh_enabled", "registry", "login", "password", "hostname")


def strings_of_the_api(rig):
    """Every field with every string: refused, or accepted without a trace in any command line or file name."""
    s, accepted = rig.suite, 0
    before = set(p.name for p in rig.root.rglob("*"))
    with Watcher(rig) as watcher:
        for field in FIELDS:
            for value in STRINGS:
                for shape in (value, [value], {value: value}):
                    answer = s.post("/v1/instances", {"cpus": "1", "memory": "128M", field: shape})
                    if answer.status == 200:
                        accepted += 1
                        for i in s.instances():
                            s.delete(f"/v1/instances/{i['instance_id']}")
                    else:
                        assert 400 <= answer.status < 500, (field, shape, answer.status)
        for value in STRINGS:
            for ports in ({value: "auto"}, {"80": value}, [value], [{"container_port": value}], [{"proto": value}]):
                answer = s.post("/v1/instances", {"cpus": "1", "memory": "128M", "ports": ports})
                assert 400 <= answer.status < 500, (ports, answer.status, answer.raw[:200])
        instance = s.create(memory="128M", ports={"80": "auto", "443": "auto"}, env_variables={"A": "x,y\n-device z"},
                            command="-device evil,x")
        until("its programs are seen", lambda: watcher.has(b"qemu-system") and watcher.has(b"passt"))
        s.delete(f"/v1/instances/{instance}")
        s.wait(instance, "destroyed")
    kinds = {check_argv(line.split(b"\0")[:-1]) for line in watcher.seen}
    assert "qemu" in kinds and "passt" in kinds, kinds
    for i in s.instances():
        s.wait(i["instance_id"], "destroyed")
    assert not list((rig.state / "vms").iterdir()) and not list(rig.run_dir.iterdir())
    strange = [n for n in set(p.name for p in rig.root.rglob("*")) - before if any(v in n for v in STRINGS)]
    assert not strange, strange


def firmware_of_its_own(rig):
    """An image without a kernel boots by OVMF, with variables that are the VM's own and stay over a restart."""
    s = rig.suite
    instance = s.create(memory="256M")
    vars_file = until("its variables", lambda: next((rig.state / "vms").glob("*/vars"), None))
    until("OVMF looks for a disk to boot", lambda: "BdsDxe" in s.console(instance), BOOT_S)
    assert vars_file.stat().st_size > 1 << 16 and vars_file.stat().st_uid == pwd.getpwnam("qudata-helper").pw_uid
    s.delete(f"/v1/instances/{instance}")
    s.wait(instance, "destroyed")
    assert not vars_file.exists()


def vmmon_mutations(rig, count=1500):
    """Flips, cuts and wrong descriptors on vmmon's socket: its process lives, others are served, nothing leaks."""
    path = rig.root / "run/vmmon/vmmon.sock"
    rnd = random.Random(7)
    ops = [o for o in OPS.values() if o.receiver == "VMMON" and not o.is_event and o.name != "GUEST_ENROL"]
    pid = rig.suite.pid("vmmon")

    def closed_here():
        return connections(path) <= open_to(path) + 1  # agentd has one
    until("connections of before are noticed to be gone", closed_here)
    held = sorted(fds(pid).values())
    peer, closed = None, 0
    for n in range(count):
        op = rnd.choice(ops)
        data = bytearray(message(op, request_id=n + 1))
        for _ in range(rnd.choice((0, 1, 1, 2, 8))):
            data[rnd.randrange(len(data))] ^= 1 << rnd.randrange(8)
        if rnd.random() < 0.1:
            data = data[:rnd.randrange(1, len(data))]
        if peer is None:
            peer = Peer("qudata", path)
        try:
            peer.raw(bytes(data), [SEED] * rnd.choice((op.req_fds, op.req_fds, 0, 2)))
            status = peer.receive()[2]
            assert status in STATUS.values()
        except Closed:
            closed += 1
            peer.close()
            peer = None
    if peer:
        peer.close()
    assert closed > count // 3 and alive(pid), closed
    until("no descriptor is left", lambda: sorted(fds(pid).values()) == held)


def hostile_lists_of_keys(rig):
    """What agentd may send as keys: only a sealed memfd of whole public key lines."""
    path = rig.root / "run/vmmon/vmmon.sock"
    key = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZBWGVrZ2xvb2tzbGlrZWFrZXlidXRpc25vdG9uZWE x\n"
    for data in (b"", b"x", key * 2000, b"\0" * 100, key[:-1] + b"\x1b[2J\n", b'command="id" ' + key,
                 b"ssh-rsa AAAA\n", key.replace(b" x", b"\nroot x")):
        got = outcome(path, "qudata", message(OPS["GUEST_SET_KEYS"]), [sealed(data)])
        assert got in (STATUS["INVALID"], STATUS["NOT_FOUND"]), (data[:40], got)
    for fd in (os.open("/etc/shadow", os.O_RDONLY), os.open("/", os.O_PATH), os.pipe()[0], sealed(key, 0)):
        assert outcome(path, "qudata", message(OPS["GUEST_SET_KEYS"]), [fd]) == STATUS["INVALID"]
        os.close(fd)
    assert alive(rig.suite.pid("vmmon"))


def vmmon_is_not_held_up(rig):
    """A descriptor whose last close waits does not hold up vmmon either."""
    path = rig.root / "run/vmmon/vmmon.sock"
    other, attacker = Peer("qudata", path), Peer("qudata", path)
    listener = poison(rig.suite.pid("vmmon"), attacker, message(OPS["GUEST_UNWATCH"]))
    try:
        other.call("GUEST_UNWATCH", timeout=HELD_UP_S, vm="no-such")
    finally:
        for s in (other, attacker, listener):
            s.close()


def behind_the_back(rig):
    """Another process of agentd's uid kills and forgets a VM: the real agentd sees it, says so, and lives."""
    s = rig.suite
    agentd, seen = s.pid("agentd"), []
    instance = s.create(memory="128M")
    first = until("QEMU runs", s.vm_pids)
    thief = rig.peer()
    vm = thief.call("VM_LIST")["vms"][0]
    generation = until("it is up", lambda: thief.call("VM_DESCRIBE", vm=vm)["generation"])
    with rig.audit.expect("vm-kill", only=False, VM=f"^{vm}$"):
        thief.call("VM_KILL", vm=vm, generation=generation)
        until("the VM has ended", lambda: not set(first) & set(s.vm_pids()))

    def settled():
        seen.append(s.status(instance)["status"])
        return seen[-1] in ("paused", "error", "stopped") or s.vm_pids()
    until("agentd restarts it or says that it ended", settled)
    s.delete(f"/v1/instances/{instance}")
    s.wait(instance, "destroyed")
    assert s.pid("agentd") == agentd and alive(agentd) and not s.vm_pids(), seen
    rig.drop_peers()


def run_cases(report, rig):
    report.run("whole/vmmon_serves_agentd_only", vmmon_serves_agentd_only, rig)
    for case in (vmmon_mutations, hostile_lists_of_keys, strings_of_the_api, firmware_of_its_own, behind_the_back, vmmon_is_not_held_up):
        report.run(f"whole/{case.__name__}", case, rig)
