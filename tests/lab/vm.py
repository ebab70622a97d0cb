# SPDX-License-Identifier: Apache-2.0
"""The lab: a QEMU machine under software emulation with an emulated Intel IOMMU, in which a real kernel binds
real drivers, systemd runs the units, and KVM (emulated AMD SVM) runs guests. One at a time on a machine.
"""
import contextlib
import fcntl
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from topologies import BOOT_VGA, TOPOLOGIES

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parents[1]
LOCK = "/run/lock/qudata-lab.lock"
BOOT_S = 180  # generous: the machine may be loaded
# Linux 6.12's radeon divides by zero when it lights up the emulated card.
RELEASE_APPEND = {"trixie": "modprobe.blacklist=radeon"}


def mkroot(release):
    done = subprocess.run([HERE / "mkroot", "--release", release], check=True, stdout=subprocess.PIPE, text=True)
    return pathlib.Path(done.stdout.strip())


def ext4_image(folder, path, size_mib, label):
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-m", "0", "-O", "^has_journal", "-d", folder,
                    "-E", "lazy_itable_init=0,assume_storage_prezeroed=1", path, f"{size_mib}M"],
                   check=True, stdout=subprocess.DEVNULL)


def size_mib(folder):
    """Of a file system that holds @folder, with room for its own tables."""
    used = int(subprocess.run(["du", "-sm", "--apparent-size", folder], check=True, capture_output=True,
                              text=True).stdout.split()[0])
    return used + used // 8 + 32


def payload(build, path):
    """A disk with what is tested: an installation, and as much of the build tree as packaging/suite needs."""
    with tempfile.TemporaryDirectory(prefix="qudata-lab-") as tmp:
        tmp = pathlib.Path(tmp)
        subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--strip", "--quiet"], check=True,
                       env={**os.environ, "DESTDIR": str(tmp / "install")}, stdout=sys.stderr)
        targets = json.loads(subprocess.run(["meson", "introspect", "--targets", build], check=True,
                                            capture_output=True, text=True).stdout)
        for target in targets:
            program = pathlib.Path(target["filename"][0])
            where = program.relative_to(pathlib.Path(build).resolve())
            if target["type"] == "executable" and program.exists() and where.parts[:2] != ("tests", "unit"):
                (tmp / "build" / where).parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["strip", "-o", tmp / "build" / where, program], check=True)
        for folder in ("packaging", "tests/e2e", "tests/lab", "tests/abuse"):
            shutil.copytree(TOP / folder, tmp / "tree" / folder,
                            ignore=shutil.ignore_patterns("__pycache__", "*.c", "corpus"))
        ext4_image(tmp, path, size_mib(tmp), "payload")


IMAGES = ("debian-12", "lab-tiny")


def images_disk(images, cache):
    """A disk with the guests' base images, made again only when they changed. Others in @images are not the lab's."""
    subprocess.run([HERE / "mktiny", images / "debian-12", images / "lab-tiny"], check=True, stdout=sys.stderr)
    stamp = "-".join(str((images / name / "SHA256SUMS").stat().st_mtime_ns) for name in IMAGES)
    path = cache / "images.img"
    mark = cache / "images.stamp"
    if not path.exists() or not mark.exists() or mark.read_text() != stamp:
        mark.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix=".images-", dir=cache) as tmp:
            os.chmod(tmp, 0o755)
            for name in IMAGES:
                shutil.copytree(images / name, pathlib.Path(tmp) / name, copy_function=os.link)
            ext4_image(tmp, path, size_mib(tmp), "images")
        mark.write_text(stamp)
    return path


@contextlib.contextmanager
def one_lab():
    """Two labs would share two cores and miss every deadline. Being told to end ends the VM, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with open(LOCK, "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("lab: waiting for another lab to end", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Lab:
    """One VM. Files of it lie in a directory of its own; its root disk is a throw-away overlay."""

    def __init__(self, topologies, root, disks, memory_mib=5120, cpus=2, limit_s=3600, append=""):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="qudata-lab-", dir="/var/tmp"))
        self.root = root
        self.topologies = topologies
        self.disks = disks
        self.memory_mib = memory_mib
        self.cpus = cpus
        self.limit_s = limit_s
        self.append = " ".join((RELEASE_APPEND.get(root.name.split("-")[0], ""), append))
        self.qemu = None
        self.port = None
        self.boot_id = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def _devices(self):
        args = []
        for name in self.topologies:
            for device in TOPOLOGIES[name][1]:
                args += ["-device", device]
        return args

    def _drives(self):
        """Root, payload and images; and those of topologies, with known content."""
        args = []
        # A QEMU that was killed a moment ago may still hold the old one's lock.
        (self.dir / "root.qcow2").unlink(missing_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.root / "root.img",
                        self.dir / "root.qcow2"], check=True)
        args += ["-drive", f"if=none,id=root,file={self.dir}/root.qcow2,format=qcow2,cache=unsafe",
                 "-device", "virtio-blk-pci,drive=root,serial=lab-root,bus=pcie.0,addr=1e.0"]
        for n, disk in enumerate(self.disks):
            args += ["-drive", f"if=none,id=disk{n},file={disk},format=raw,readonly=on",
                     "-device", f"virtio-blk-pci,drive=disk{n},serial=lab-disk{n},bus=pcie.0,addr={0x1b - n:x}.0"]
        for name in ("foreign", "dma"):
            if any(f"drive={name}" in arg for arg in self._devices()):
                path = self.dir / f"{name}.img"
                path.write_bytes(f"lab {name} disk".encode().ljust(512, b"\0"))
                os.truncate(path, 16 << 20)
                args += ["-drive", f"if=none,id={name},file={path},format=raw,cache=unsafe"]
        return args

    def boot(self):
        """An emulated CPU may run a stale translation of code that the kernel has just patched, and hang: about one
        boot of ten does. That says nothing of what is tested, so there are three tries."""
        for left in (2, 1, 0):
            self._start()
            try:
                return self.await_ssh()
            except RuntimeError as e:
                if left == 0:
                    raise
                print(f"lab: {str(e)[:200]}\nlab: booting it again", file=sys.stderr, flush=True)
                self._kill()

    def _start(self):
        self.port = free_port()
        append = ("root=/dev/vda rw console=ttyS0 quiet intel_iommu=on iommu=pt mitigations=off net.ifnames=1 "
                  "apparmor=0 audit=0 edd=off systemd.show_status=1 tsc=unstable no_timer_check " + self.append)
        args = ["nice", "-n", "5", "timeout", "-k", "5", str(self.limit_s), "qemu-system-x86_64", "-name", "qudata-lab",
                "-machine", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max",
                "-smp", str(self.cpus), "-m", str(self.memory_mib), "-nodefaults", "-no-user-config",
                "-display", "none", "-serial", f"file:{self.dir}/console.log",
                "-qmp", f"unix:{self.dir}/qmp.sock,server=on,wait=off",
                "-device", "intel-iommu,intremap=on,caching-mode=on",
                *self._drives(),
                "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22",
                "-device", "virtio-net-pci,netdev=net,romfile=,bus=pcie.0,addr=1d.0",
                "-object", "rng-random,id=rng,filename=/dev/urandom",
                "-device", "virtio-rng-pci,rng=rng,bus=pcie.0,addr=1c.0",
                *(word for device in BOOT_VGA for word in ("-device", device)),
                *self._devices(),
                "-kernel", self.root / "kernel", "-initrd", self.root / "initrd", "-append", append]
        with open(self.dir / "qemu.log", "wb") as log:
            self.qemu = subprocess.Popen(args, stdin=subprocess.DEVNULL,  # pylint: disable=consider-using-with
                                         stdout=log, stderr=log, start_new_session=True)

    def await_ssh(self, wait_s=BOOT_S):
        """Until a boot other than the last known one answers."""
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if self.qemu.poll() is not None:
                raise RuntimeError(f"the lab's QEMU ended with {self.qemu.returncode}: {self.tail('qemu.log')}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                seen = self.ssh("cat /proc/sys/kernel/random/boot_id", check=False, timeout=60)
                if seen.returncode == 0 and seen.stdout.strip() != self.boot_id:
                    self.boot_id = seen.stdout.strip()
                    return
            time.sleep(0.3)
        raise RuntimeError(f"the lab did not boot in {wait_s} s: {self.tail('console.log')}\n{self.where()[:1200]}")

    def where(self):
        """Where the CPUs are, for a report about a lab that hangs."""
        try:
            return self.qmp({"execute": "human-monitor-command",
                             "arguments": {"command-line": "info registers -a"}})["return"]
        except (OSError, ValueError, KeyError) as e:
            return f"(QEMU does not tell where its CPUs are: {e})"

    def tail(self, name, size=3000):
        with contextlib.suppress(OSError):
            return (self.dir / name).read_bytes()[-size:].decode(errors="replace")
        return ""

    def ssh_command(self, *options):
        return ["ssh", "-F", "none", "-i", self.root / "key", "-p", str(self.port),
                "-o", f"UserKnownHostsFile={self.root}/known_hosts", "-o", "HostKeyAlias=lab",
                "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
                "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=6",
                "-o", "ControlMaster=auto", "-o", f"ControlPath={self.dir}/ssh", "-o", "ControlPersist=yes",
                *options, "root@127.0.0.1"]

    def ssh(self, command, check=True, timeout=120, stdin=None):
        done = subprocess.run([*self.ssh_command(), command], capture_output=True, text=True, check=False,
                              timeout=timeout, input=stdin or "")
        if check and done.returncode != 0:
            raise RuntimeError(f"in the lab: {command!r}: exit {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def stream(self, command, timeout):
        """Runs a command whose output goes straight to ours."""
        sys.stdout.flush()
        return subprocess.run([*self.ssh_command(), command], stdin=subprocess.DEVNULL, check=False,
                              timeout=timeout).returncode

    def prepare(self):
        """Installs what is tested; after this, a reboot comes up with it."""
        self.ssh("set -e; mkdir -p /payload /var/lib/qudata-images; "
                 "printf 'LABEL=payload /payload ext4 ro 0 0\\nLABEL=images /var/lib/qudata-images ext4 ro 0 0\\n' "
                 ">>/etc/fstab; systemctl daemon-reload; mount /payload; mount /var/lib/qudata-images; "
                 "cp -a /payload/install/. /; "
                 # sshd may be up before it.
                 "for i in $(seq 120); do systemctl is-active -q lab-kvm-hold && break; sleep 1; done; "
                 "systemctl is-active -q lab-kvm-hold", timeout=400)

    def reboot(self):
        """An orderly one; the VM is the same, its disk too."""
        self.ssh("systemd-run --on-active=1 systemctl reboot", check=False)
        self.forget_connection()
        try:
            self.await_ssh()
        except RuntimeError:
            print("lab: resetting it", file=sys.stderr, flush=True)
            self.qmp({"execute": "system_reset"})
            self.await_ssh()

    def forget_connection(self):
        if self.port is None:
            return
        subprocess.run([*self.ssh_command("-O", "exit")], check=False, capture_output=True)
        (self.dir / "ssh").unlink(missing_ok=True)

    def qmp(self, command):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(str(self.dir / "qmp.sock"))
            f = s.makefile("rw")
            f.readline()
            for line in ({"execute": "qmp_capabilities"}, command):
                f.write(json.dumps(line) + "\n")
                f.flush()
                while "event" in (answer := json.loads(f.readline())):
                    pass
            return answer

    def _kill(self):
        if self.qemu is not None and self.qemu.poll() is None:
            # A group of its own: nice, timeout and QEMU.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.qemu.pid, signal.SIGKILL)
            self.qemu.wait()

    def restart(self):
        """The same machine with a new root disk, as after boot() and prepare()."""
        self.forget_connection()
        self._kill()
        self.boot_id = None
        self.boot()
        self.prepare()

    def end(self):
        self.forget_connection()
        self._kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def free_port():
    """Below those that the kernel gives to connections, which would take it again before QEMU does."""
    while True:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", random.randrange(25000, 32000))) as s:
            return s.getsockname()[1]
