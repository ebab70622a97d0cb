# SPDX-License-Identifier: Apache-2.0
"""The suite without GPUs on a real kernel: the units, KVM by its own proof, limits of the VMs' cgroups that hold."""
import contextlib
import json
import pathlib

from guestlib import (UNITS, add_key, await_that, create, ctl, delete, in_guest, install, instances, journal, main_pid,
                      qemu_pids, read, run)


def units_start_on_demand():
    install()
    seen = json.loads(run("curl", "-sS", "http://127.0.0.1:15001/ping").stdout)
    assert seen["ok"] is True, seen
    for unit in UNITS:
        await_that(f"{unit} is active", lambda unit=unit: run("systemctl", "is-active", unit, check=False).stdout == "active\n")


def kvm_is_proved():
    """accel = auto: the helper boots a real kernel under KVM, sees its first line, and uses KVM from then on."""
    instance = create()
    checks = json.loads(ctl("check", "--json", check=False).stdout)["checks"]
    (accel,) = [c for c in checks if c["check"] == "accel"]
    assert accel["level"] == "OK" and "kvm" in accel["detail"] and "sign of life" in accel["detail"], accel
    (pid,) = qemu_pids()
    argv = pathlib.Path(f"/proc/{pid}/cmdline").read_text(encoding="ascii").split("\0")
    assert argv[argv.index("-accel") + 1].startswith("kvm"), argv
    fds = [str(fd.readlink()) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
    assert any("kvm-vcpu" in fd for fd in fds), fds
    add_key(instance)
    flags = in_guest(instance, "grep -c hypervisor /proc/cpuinfo; id -un").split()
    assert flags == ["1", "root"], flags


def limits_are_written():
    (pid,) = qemu_pids()
    where = cgroup_of(pid)
    assert where.parent.name == "qudata-vms" and where.name.startswith("vm-"), where
    assert read(where / "memory.max") == str((512 + 512) << 20), read(where / "memory.max")
    assert read(where / "pids.max") == "1024", read(where / "pids.max")
    assert read(where / "cpu.max") == "200000 100000", read(where / "cpu.max")
    assert 64 << 20 < int(read(where / "memory.current")) <= (1024 << 20)
    # KVM puts a kernel thread of each VM beside them.
    names = {(read(f"/proc/{p}/comm") or "")[:5] for p in (where / "cgroup.procs").read_text().split()}
    assert names - {"kvm-n", ""} == {"passt", "qemu-"}, names


def cgroup_of(pid):
    return pathlib.Path("/sys/fs/cgroup" + read(f"/proc/{pid}/cgroup").split("::")[1])


def limits_hold():
    """A process that shares the VM's cgroup can make no more tasks than are left, and no more memory."""
    (pid,) = qemu_pids()
    where = cgroup_of(pid)
    left = 1024 - int(read(where / "pids.current"))
    script = ("import os,sys\n"
              f"open({str(where / 'cgroup.procs')!r},'w').write(str(os.getpid()))\n"
              "n=0\n"
              "r,w=os.pipe()\n"
              "try:\n"
              "    while n < 1100:\n"
              "        if os.fork() == 0:\n"
              "            os.close(w); os.read(r,1); os._exit(0)\n"
              "        n += 1\n"
              "except OSError as e:\n"
              "    print(n, e.errno)\n"
              "os.close(w)\n")
    made, errno = (int(word) for word in run("python3", "-IS", "-c", script, timeout=300).stdout.split())
    # Meanwhile QEMU's own threads for its disks, 64 at most, come and go.
    assert errno == 11 and abs(made - (left - 1)) <= 64 + 4, (made, errno, left)
    assert int(read(where / "pids.events").split()[1]) > 0
    assert qemu_pids() == [pid], "the VM lives on"


def memory_ends_only_the_vm():
    """What exceeds memory.max is killed in its own cgroup, and the instance is told to have ended."""
    (pid,) = qemu_pids()
    where = cgroup_of(pid)
    daemons = {unit: main_pid(unit) for unit in UNITS}
    script = ("import os\n"
              "open('/proc/self/oom_score_adj','w').write('-900')\n"
              f"open({str(where / 'cgroup.procs')!r},'w').write(str(os.getpid()))\n"
              "b = bytearray(1000 << 20)\n")
    run("python3", "-IS", "-c", script, check=False, timeout=200)
    await_that("the kernel killed in this cgroup only", lambda: not qemu_pids(), 120)
    with contextlib.suppress(FileNotFoundError):
        where.rmdir()  # if our own process was still there when the VM's were gone
    assert {unit: main_pid(unit) for unit in UNITS} == daemons, journal()
    (seen,) = instances()
    seen = await_that("agentd knows", lambda: next((i for i in instances() if i["status"] not in ("running",)), None), 120)
    assert seen["status"] == "error", seen


def delete_leaves_nothing():
    for seen in instances():
        delete(seen["instance_id"])
    assert not instances() and not qemu_pids()
    vms = pathlib.Path("/sys/fs/cgroup/qudata-vms")
    await_that("the VM's cgroup is gone", lambda: not [p for p in vms.iterdir() if p.is_dir()])


GROUPS = {
    "spine": (units_start_on_demand, kvm_is_proved, limits_are_written, limits_hold, memory_ends_only_the_vm,
              delete_leaves_nothing),
}
