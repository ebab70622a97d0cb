# SPDX-License-Identifier: Apache-2.0
"""What processes inherit and hold: hostile starts of the daemons, inventory of their children: threats 12 and 13."""
import contextlib
import ctypes
import os
import pathlib
import pwd
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import time

from argv import check_argv
from rig import alive, children, fds, proc_status, tree, until
from wire import Closed, as_user, ids

DAEMONS = ("agentd", "vfio-helper", "vmmon", "frp-supervisor")
USERS = {"agentd": "qudata", "vmmon": "qudata-mon", "frp-supervisor": "qudata-frp"}
SOCKETS = {"agentd": "run/agentd/ctl.sock", "vmmon": "run/vmmon/vmmon.sock", "frp-supervisor": "run/frp/frp.sock",
           "vfio-helper": "run/helper.sock"}
# CHOWN, DAC_READ_SEARCH, SETGID, SETUID, SETPCAP, SYS_PTRACE
HELPER_CAPS = sum(1 << n for n in (0, 2, 6, 7, 8, 19))


# ---- 13: inventory ------------------------------------------------------------------------------------------
class Held:
    """Everything that /proc tells of what a process may do."""

    def __init__(self, pid):
        st = proc_status(pid)
        self.name = st["Name"]
        self.uids, self.gids = set(st["Uid"].split()), set(st["Gid"].split())
        self.groups = st["Groups"].split()
        self.caps = {k: int(st[k], 16) for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        self.seccomp, self.no_new_privs = st["Seccomp"], st["NoNewPrivs"]
        self.environ = {e for e in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if e}
        self.argv = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        self.fds = fds(pid)
        self.cgroup = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
        self.limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
        self.cwd = os.readlink(f"/proc/{pid}/cwd")

    def limit(self, name):
        return re.search(rf"^{name} +(\S+) +(\S+)", self.limits, re.M).groups()


def check_child(rig, held, allowed_fds):
    """A slot's user and nothing else: no group, no capability, two variables, a filter, listed descriptors."""
    slot = {str(pwd.getpwnam("qudata-vm0").pw_uid)}
    assert held.uids == slot and held.gids == {str(pwd.getpwnam("qudata-vm0").pw_gid)}, (held.uids, held.gids)
    assert set(held.groups) <= held.gids, held.groups
    assert held.caps["CapEff"] == held.caps["CapPrm"] == held.caps["CapInh"] == held.caps["CapAmb"] == 0, held.caps
    assert held.seccomp == "2" and held.no_new_privs == "1"
    assert held.environ <= {b"PATH=/usr/sbin:/usr/bin:/sbin:/bin", b"LANG=C"}, held.environ
    assert held.limit("Max core file size") == ("0", "0")
    assert held.cgroup == pathlib.Path(f"/proc/{rig.pid}/cgroup").read_text()  # none is managed in these tests
    check_argv(held.argv)
    for number, target in held.fds.items():
        assert any(re.fullmatch(p, target) for p in allowed_fds), f"descriptor {number} is {target}"


ANONYMOUS = [r"/dev/null", r"/memfd:stderr \(deleted\)", r"anon_inode:\[?\w+\]?", r"socket"]
OVMF = r"/usr/share/OVMF/OVMF_CODE(_4M)?\.fd"


def confined_passt(pid):
    """passt once it has its own filter over the launcher's: the last thing that it does before it serves."""
    def left(ns):
        return os.readlink(f"/proc/{pid}/ns/{ns}") != os.readlink(f"/proc/self/ns/{ns}")
    until("passt has left its namespaces", lambda: left("mnt") and left("user") and left("ipc"))
    until("passt has its own filter", lambda: int(proc_status(pid)["Seccomp_filters"]) > 1)
    assert not left("net"), "it has to reach the network"
    return Held(pid)


def inventory_of_qemu_and_passt(rig):
    image = rig.image("kern")
    for name in ("kernel", "initrd"):
        (image / name).write_bytes(b"\0" * 4096)
        os.chmod(image / name, 0o644)
    p = rig.peer()
    rig.prepare(p, "vm", "tiny")
    rig.start(p, "vm", ports=[(20001, 22)])
    rig.greeting("vm")
    record = rig.running("vm")
    until("QEMU has read its own files", lambda: not [t for t in fds(record["qemu_pid"]).values()
                                                      if t.startswith("/usr/") and not re.fullmatch(OVMF, t)])
    qemu = Held(record["qemu_pid"])
    check_child(rig, qemu, ANONYMOUS + [re.escape(str(rig.state / "vms/vm")) + r"/(disk\.qcow2|seed\.img|vars)", OVMF,
                                        re.escape(str(rig.images / "tiny/disk.img")), r"/memfd:[\w.-]+ \(deleted\)"])
    files = [t for t in qemu.fds.values() if t.startswith("/") and "memfd" not in t and t != "/dev/null"]
    assert len(set(files)) == 5, files
    assert sum(t == "socket" for t in qemu.fds.values()) <= 8, qemu.fds
    assert qemu.caps["CapBnd"] == 0 and qemu.limit("Max open files")[1] == "1024"
    passt = confined_passt(record["passt_pid"])
    check_child(rig, passt, ANONYMOUS + [r"pipe", r"/"])
    assert passt.cwd == "/"
    rig.forget(p, "vm")
    shutil.rmtree(image)


def caught(pids):
    """The inventory of a qemu-img among @pids, which stands still meanwhile; None when it is not there, or ends."""
    for pid in pids:
        with contextlib.suppress(OSError):
            if b"qemu-img" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                continue
            os.kill(pid, signal.SIGSTOP)
            try:
                until("it stands still or has ended", lambda p=pid: proc_status(p)["State"][0] in "TZX")
                if proc_status(pid)["State"][0] == "T":
                    return Held(pid)
            finally:
                os.kill(pid, signal.SIGCONT)
    return None


def inventory_of_qemu_img(rig):
    """The process that makes a disk, caught while it runs."""
    p = rig.peer()
    seen, deadline = [], time.monotonic() + 120
    while len(seen) < 3 and time.monotonic() < deadline:
        wanted = p.send("VM_PREPARE", vm="vm", image="tiny", disk_mib=8)
        # Not beyond its end, which is that of the request.
        while not select.select([p.sock], [], [], 0)[0]:
            held = caught(children(rig.pid))
            if held:
                seen.append(held)
                break
        p.answer("VM_PREPARE", wanted)
        rig.forget(p, "vm")
    assert seen, "never seen"
    for held in seen:
        disk = re.escape(str(rig.state / "vms/vm/disk.qcow2"))
        check_child(rig, held, ANONYMOUS + [disk, r"(/usr)?/lib/.*", r"/etc/ld\.so\.cache", r"/proc/\d+/\w+",
                                       r"/dev/urandom", r"/sys/devices/system/.*"])
        assert held.caps["CapBnd"] == 0


def inventory_of_the_daemons(rig):
    rig.without_bind()
    for name in DAEMONS:
        held = Held(rig.suite.pid(name))
        assert held.seccomp == "2" and held.no_new_privs == "1", name
        assert held.limit("Max core file size") == ("0", "0")
        keep = HELPER_CAPS if name == "vfio-helper" else 0
        assert held.caps["CapEff"] == held.caps["CapPrm"] == keep, (name, held.caps)
        assert held.caps["CapInh"] == held.caps["CapAmb"] == 0 and held.caps["CapBnd"] & ~keep == 0, (name, held.caps)
        allowed = [r"/dev/null", r"socket", r"anon_inode:\[?\w+\]?", r"pipe", re.escape(str(rig.root)) + r"/.*",
                   re.escape(str(rig.images)), *([r"/usr/share/misc/pci\.ids"] if name == "agentd" else [])]
        def strange(pid=rig.suite.pid(name), allowed=allowed):
            return [t for t in fds(pid).values() if not any(re.fullmatch(a, t) for a in allowed)]
        # What one reads just now (figures of the host, say) it has closed a moment later.
        until(f"{name} holds nothing else", lambda s=strange: not s(), 10)
    broker_has_nothing(rig)


def broker_has_nothing(rig):
    """What hears the peers has a user of its own, no capability, and only what it was passed."""
    broker = Held(rig.broker)
    user, mon = pwd.getpwnam("qudata-helper"), pwd.getpwnam("qudata-mon")
    assert broker.uids == {str(user.pw_uid)} and broker.gids == {str(user.pw_gid)}, (broker.uids, broker.gids)
    assert broker.groups == [str(mon.pw_gid)], broker.groups
    assert set(broker.caps.values()) == {0} and broker.seccomp == "2" and broker.no_new_privs == "1", broker.caps
    assert os.stat(f"/proc/{rig.broker}/environ").st_uid == 0, "it is dumpable"
    assert {e.split(b"=")[0] for e in broker.environ} <= {b"PATH", b"LANG", b"JOURNAL_STREAM"}, broker.environ
    allowed = [r"/dev/null", r"socket", r"anon_inode:\[?eventpoll\]?", re.escape(str(rig.root / "log/vfio-helper.log")),
               re.escape(str(rig.state)) + r"/(vms|accel)", re.escape(str(rig.run_dir)), re.escape(str(rig.images))]
    for number, target in broker.fds.items():
        assert any(re.fullmatch(a, target) for a in allowed), f"descriptor {number} is {target}"


# ---- 12: hostile starts ---------------------------------------------------------------------------------------
def daemon(rig, name, wrapper=(), wait=True, **popen):
    """Starts a stopped daemon by hand; returns the process once it serves or has ended."""
    program = [str(rig.suite.build / name / name), "--config",
               str(rig.root / "etc" / ("helper.conf" if name == "vfio-helper" else f"{name}.conf"))]
    if name in USERS:
        uid, gid, groups = ids(USERS[name])
        popen = {"user": uid, "group": gid, "extra_groups": groups, **popen}
    path = rig.root / SOCKETS[name]
    path.unlink(missing_ok=True)
    with (rig.root / f"log/{name}.log").open("ab") as log:
        child = subprocess.Popen([*wrapper, *program], cwd="/", **{"stdin": subprocess.DEVNULL, "stdout": log,
                                                                   "stderr": log, **popen})
    (rig.root / f"{name}.pid").write_text(f"{child.pid}\n")
    deadline = time.monotonic() + 60
    while wait and child.poll() is None and time.monotonic() < deadline:
        if path.exists() and proc_status(child.pid)["Seccomp"] == "2":
            break
        time.sleep(0.01)
    return child


def finish(child):
    child.terminate()
    try:
        assert child.wait(60) in (0, 1), f"SIGTERM ended it with {child.returncode}"
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def serves(rig, name, child):
    assert child.poll() is None, f"{name} ended with {child.returncode}"
    if name == "vfio-helper":
        rig.alive()
    elif name != "agentd":
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(str(rig.root / SOCKETS[name]))


def each(rig, check, **popen):
    """Runs @check for every daemon, started anew by hand; all complaints together."""
    bad = []
    for name in DAEMONS:
        rig.drop_peers()
        rig.suite.stop(name)
        child = daemon(rig, name, **popen)
        try:
            check(name, child)
            if child.poll() is None:
                finish(child)
        except AssertionError as e:
            bad.append(f"{name}: {e}")
            if child.poll() is None:
                child.kill()
                child.wait()
        rig.drop_peers()
        rig.bring_up(name)
    assert not bad, bad


HOSTILE = {"LD_PRELOAD": "/nonexistent/evil.so", "LD_LIBRARY_PATH": "/tmp/evil", "PATH": "/tmp/evil", "LANG": "../../x",
           "LC_ALL": "/etc", "GCONV_PATH": "/tmp/evil", "MALLOC_TRACE": "/tmp/evil-trace", "TMPDIR": "/etc",
           "QEMU_AUDIO_DRV": "x", "SSLKEYLOGFILE": "/tmp/evil-keys", "OPENSSL_CONF": "/tmp/evil.cnf", "HOME": "/root",
           "LISTEN_FDS": "9999", "LISTEN_PID": "1", "LISTEN_FDNAMES": "helper:vmmon:frp:ctl:http", "HOSTALIASES": "/x",
           "NOTIFY_SOCKET": "/" + "x" * 200, "http_proxy": "http://127.0.0.1:1", "RES_OPTIONS": "debug", "IFS": "/"}


def hostile_environment(rig):
    """Each daemon starts, serves, and hands none of it on."""
    each(rig, lambda name, child: serves(rig, name, child), env=HOSTILE)
    rig.suite.stop("vfio-helper")
    child = daemon(rig, "vfio-helper", env=HOSTILE)
    p = rig.peer()
    rig.start(p, "vm")
    for pid in (rig.running("vm")["qemu_pid"], rig.running("vm")["passt_pid"]):
        held = Held(pid)
        assert held.environ <= {b"PATH=/usr/sbin:/usr/bin:/sbin:/bin", b"LANG=C"}, held.environ
    rig.forget(p, "vm")
    rig.drop_peers()
    finish(child)
    rig.bring_up("vfio-helper")
    assert not [p for p in ("/tmp/evil-trace", "/tmp/evil-keys") if os.path.exists(p)]


def lies_about_passed_sockets(rig):
    """The right pid with wrong descriptors: a file as `helper`, a number too large, a name that is not there."""
    shadow = os.open("/etc/shadow", os.O_RDONLY)
    os.dup2(shadow, 50, inheritable=True)
    for count, names in ((48, "x:helper"), (9999, "helper"), (3, "a:b:c"), (1, "helper"), (32, ":" * 100)):
        env = {"PATH": "/usr/bin:/bin", "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}
        rig.drop_peers()
        rig.suite.stop("vfio-helper")
        wrapper = ("/bin/bash", "-c", "exec 3<&50 4<&50; export LISTEN_PID=$$; exec \"$@\"", "bash")
        child = daemon(rig, "vfio-helper", wrapper, env=env, pass_fds=(50,))
        try:
            if child.poll() is not None:
                assert child.returncode == 1, child.returncode
                continue
            rig.alive()
            for pid in (child.pid, rig.broker):
                assert "/etc/shadow" not in fds(pid).values(), (count, names, fds(pid))
        finally:
            if child.poll() is None:
                finish(child)
            rig.bring_up("vfio-helper")
    os.close(50)
    os.close(shadow)


def inherited_descriptors(rig):
    """Open files at ordinary and huge numbers are closed before anything else; 0 to 2 are filled when closed."""
    shadow = os.open("/etc/shadow", os.O_RDONLY)
    numbers = (7, 100, 1023, 5000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, max(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    spare = [n for n in numbers if not os.path.exists(f"/proc/self/fd/{n}")]
    for n in spare:
        os.dup2(shadow, n, inheritable=True)

    def check(name, child):
        serves(rig, name, child)
        pids = [child.pid] + ([rig.broker] if name == "vfio-helper" else [])
        for pid in pids:
            assert "/etc/shadow" not in fds(pid).values(), fds(pid)
            assert max(fds(pid)) < 64, fds(pid)

    def closed_streams(name, child):
        serves(rig, name, child)
        for number in (0, 1, 2):
            assert fds(child.pid).get(number) == "/dev/null", (name, number, fds(child.pid).get(number))

    try:
        each(rig, check, pass_fds=spare)
        each(rig, closed_streams, preexec_fn=lambda: [os.close(n) for n in (0, 1, 2)])
    finally:
        for n in spare:
            os.close(n)
        os.close(shadow)


def too_few_descriptors(rig):
    """A tiny limit: the daemon says so and ends, or serves; it never spins or dies by a signal."""
    def check(name, child):
        deadline = time.monotonic() + 1.0
        while child.poll() is None and time.monotonic() < deadline and not (rig.root / SOCKETS[name]).exists():
            time.sleep(0.02)
        time.sleep(0.1)
        if child.poll() is not None:
            assert child.returncode in (1, 2, 127), f"ended with {child.returncode}"  # 127: the loader
            return
        before = sum(map(int, pathlib.Path(f"/proc/{child.pid}/stat").read_text().rsplit(")")[1].split()[11:13]))
        for _ in range(12):
            with contextlib.suppress(OSError):
                s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if name == "agentd" else socket.SOCK_SEQPACKET)
                s.connect(str(rig.root / SOCKETS[name]))
                held.append(s)
        time.sleep(0.5)
        spent = sum(map(int, pathlib.Path(f"/proc/{child.pid}/stat").read_text().rsplit(")")[1].split()[11:13]))
        for s in held:
            s.close()
        held.clear()
        assert spent - before < 25, f"used {spent - before} hundredths of a second of CPU in half a second"

    held = []
    for limit in (3, 9, 16):
        each(rig, check, preexec_fn=lambda n=limit: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)))


def no_program_name(rig):
    """execve() with an empty argument list ends at once, without a crash."""
    libc = ctypes.CDLL(None)
    for name in DAEMONS:
        path = str(rig.suite.build / name / name).encode()
        pid = os.fork()
        if pid == 0:
            null = os.open("/dev/null", os.O_RDWR)
            for n in (0, 1, 2):
                os.dup2(null, n)
            os.chdir("/")
            libc.execve(path, (ctypes.c_char_p * 1)(None), (ctypes.c_char_p * 1)(None))
            os._exit(99)
        until(f"{name} ends", lambda: not alive(pid))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (1, 2), f"{name} ended with {status}"


def signals_ignored_and_blocked(rig):
    """What a careless parent did to the signals changes neither the answers nor the end."""
    def mute():
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def check(name, child):
        serves(rig, name, child)
        if name == "vfio-helper":
            p = rig.peer()
            assert p.refused("VM_PREPARE", vm="vm", image="tiny") == "OK", "VM_PREPARE fails"
            rig.start(p, "vm")
            status = proc_status(rig.running("vm")["qemu_pid"])
            rig.forget(p, "vm")
            rig.drop_peers()
            assert int(status["SigIgn"], 16) & ~(1 << 12) == 0, f"QEMU ignores {status['SigIgn']}"
        child.terminate()
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise AssertionError("SIGTERM does not end it") from None

    each(rig, check, preexec_fn=mute, restore_signals=False)


def a_log_that_nobody_reads(rig):
    """stderr is a pipe without a reader: no record of anything may cost the daemon's life."""
    def check(name, child):
        time.sleep(0.2)
        serves(rig, name, child)
        if name == "vfio-helper":
            with contextlib.suppress(Closed):
                rig.peer().refused("VM_PREPARE", vm="vm", image="none")
            rig.drop_peers()
            time.sleep(0.1)
        assert child.poll() is None, f"ended with {child.returncode}"

    r, w = os.pipe()
    os.close(r)
    try:
        each(rig, check, stderr=w, restore_signals=True)
    finally:
        os.close(w)


def still(look):
    """What @look sees once it has been the same for a while: what others have begun is over by then."""
    seen = [look()]

    def same():
        time.sleep(0.3)
        seen.append(look())
        return seen[-1] == seen[-2]
    until("nothing changes any more", same)
    return seen[-1]


def started_as_somebody_else(rig):
    """Root for the three that must not be, and an ordinary user for the one that must."""
    bad = []
    for name in USERS:
        path = str(rig.suite.build / name / name)
        rig.suite.stop(name)
        before = still(lambda: tree(rig.root / "lib", rig.root / "run"))
        done = subprocess.run([path, "--config", str(rig.root / f"etc/{name}.conf")], capture_output=True, text=True,
                              timeout=60, check=False, cwd="/")
        assert done.returncode == 1 and "root" in done.stderr, (name, done.returncode, done.stderr[-200:])
        after = tree(rig.root / "lib", rig.root / "run")
        bad += [f"{name}: {p} {before.get(p)} -> {after.get(p)}" for p in {*before, *after}
                if before.get(p) != after.get(p) and p != str(rig.root / SOCKETS[name])]
        (rig.root / SOCKETS[name]).unlink(missing_ok=True)
        rig.bring_up(name)
    assert not bad, f"what was changed as root: {bad}"
    config = str(rig.root / "etc/helper.conf")
    helper = str(rig.suite.build / "vfio-helper/vfio-helper")
    said = as_user("nobody", lambda: subprocess.run([helper, "--config", config], capture_output=True, check=False,
                                                    cwd="/").returncode)
    assert said == "=1" or "PermissionError" in said, said


def run_cases(report, rig):
    for case in (inventory_of_the_daemons, inventory_of_qemu_and_passt, inventory_of_qemu_img, hostile_environment,
                 lies_about_passed_sockets, inherited_descriptors, too_few_descriptors, no_program_name,
                 signals_ignored_and_blocked, a_log_that_nobody_reads, started_as_somebody_else):
        report.run(f"machine/{case.__name__}", case, rig)
        for name in DAEMONS:
            if not alive(rig.suite.pid(name)):
                rig.bring_up(name)
        rig.drop_peers()

