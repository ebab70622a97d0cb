# SPDX-License-Identifier: Apache-2.0
"""For cases that run inside the lab VM: its PCI functions as sysfs shows them, the installed suite, assertions."""
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

PAYLOAD = pathlib.Path("/payload")
sys.path.insert(0, str(PAYLOAD / "tree/tests/e2e"))
from lib import Report  # noqa: E402, F401  pylint: disable=import-error,unused-import
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from topologies import TOPOLOGIES  # noqa: E402  pylint: disable=import-error

PCI = pathlib.Path("/sys/bus/pci/devices")
LIBEXEC = pathlib.Path("/usr/local/libexec/qudata")
UNITS = ("qudata-agentd", "qudata-helper", "qudata-vmmon", "qudata-frp")
GUEST_S = 300  # a guest under emulated KVM
IOMMUFD = pathlib.Path("/dev/iommu").exists()  # then it is what the suite is told to use


def run(*command, check=True, stdin=None, timeout=120, **kw):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False,
                          input=stdin or "", timeout=timeout, **kw)
    if check and done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}: {done.stderr}{done.stdout}")
    return done


def await_that(what, condition, timeout_s=90.0):
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(0.1)


# ---- PCI ----------------------------------------------------------------------------------------------

def read(path):
    with contextlib.suppress(OSError):
        return pathlib.Path(path).read_text(encoding="ascii").strip()
    return None


def functions(topology):
    """Addresses of the endpoints of @topology, ascending; its root port tells which those are."""
    below = pathlib.Path(f"/sys/devices/pci0000:00/0000:00:{TOPOLOGIES[topology][0]:02x}.0")
    found = [path.parent.name for path in below.rglob("class")
             if path.parent.parent != below.parent and (path.parent / "vendor").exists()
             and not path.read_text().startswith("0x0604")]
    return sorted(address for address in found if address != below.name)


def driver(address):
    path = PCI / address / "driver"
    return path.resolve().name if path.exists() else None


def group(address):
    return (PCI / address / "iommu_group").resolve().name


def state(addresses=None):
    """What a bind may change, of the functions given or of all: to be the same before and after."""
    addresses = addresses or sorted(os.listdir(PCI))
    return {a: {"driver": driver(a), "override": read(PCI / a / "driver_override"),
                "d3cold": read(PCI / a / "d3cold_allowed"), "power": read(PCI / a / "power/control")}
            for a in addresses}


def vfio_nodes():
    """VFIO's nodes of groups and of single functions, without the container."""
    return sorted(str(path) for path in pathlib.Path("/dev/vfio").rglob("*") if path.name not in ("vfio", "devices"))


def nodes_of(addresses):
    """The nodes by which a guest reaches functions that are bound."""
    if IOMMUFD:
        return sorted(f"/dev/vfio/devices/{path.name}" for a in addresses for path in (PCI / a / "vfio-dev").iterdir())
    return sorted({f"/dev/vfio/{group(a)}" for a in addresses})


# ---- the installed suite ----------------------------------------------------------------------------------

def settle():
    """Until udev has bound every driver it will bind."""
    run("udevadm", "settle", "--timeout=90")


def install(*settings):
    """Makes accounts and directories of the installation and starts its sockets; the units start on demand."""
    conf = pathlib.Path("/etc/qudata/helper.conf")
    text = conf.read_text(encoding="ascii")
    # No firmware: OVMF under KVM under emulation ends QEMU 7.2, the one that runs the lab, by an assertion.
    iommufd = ("gpu_iommufd = yes",) if IOMMUFD else ()
    for setting in ("gpu_vendors = 1234,1002", "firmware = none", "kvm_trial_seconds = 60", *iommufd, *settings):
        if f"\n{setting}\n" not in text:
            text += f"\n{setting}\n"
    conf.write_text(text, encoding="ascii")
    agentd = pathlib.Path("/etc/qudata/agentd.conf")
    text, slow = agentd.read_text(encoding="ascii"), "\nboot_timeout_s = 300\n"  # emulated KVM is no KVM
    agentd.write_text(text + ("" if slow in text else slow), encoding="ascii")
    run("systemd-sysusers", "/usr/local/lib/sysusers.d/qudata.conf")
    run("systemctl", "daemon-reload")
    run("systemd-tmpfiles", "--create", "/usr/local/lib/tmpfiles.d/qudata.conf")
    run("systemctl", "enable", "-q", "--now", "qudata-firewall.service", "qudata-helper.socket", "qudata-vmmon.socket",
        "qudata-frp.socket", "qudata-nvml.socket", "qudata-ctl.socket", "qudata-http.socket")


def ctl(*words, check=True, timeout=120):
    return run("qudatactl", *words, check=check, timeout=timeout)


def instances():
    found = json.loads(ctl("list", "--json").stdout)
    return found["instances"] if isinstance(found, dict) else found


def use_image(name, delete_grace_s=10):
    """What later instances boot: the product's own guest, or the lab's tiny one, which has no SSH. And how long one that is
    deleted may take to end by itself: one that still boots does not hear the power button."""
    conf = pathlib.Path("/etc/qudata/agentd.conf")
    lines = [line for line in conf.read_text(encoding="ascii").splitlines() if not line.startswith(("base_image", "delete_grace_s"))]
    conf.write_text("\n".join([*lines, f"base_image = {name}", f"delete_grace_s = {delete_grace_s}", ""]), encoding="ascii")
    run("systemctl", "restart", "qudata-agentd.service")
    await_that("agentd and its peers are up", lambda: ctl("gpus", "--json", check=False).returncode == 0, 120)


def hung_in_boot(instance):
    """Whether nothing has come from the guest since firmware jumped into its kernel. Under emulation that happens to one
    boot in some dozens, as to the lab's own (see Lab.boot), and says nothing of what is tested."""
    console = re.sub(r"\x1b(c|\[[?0-9;]*[a-zA-Z])", "", ctl("logs", instance).stdout)
    return console.strip().endswith("Booting from ROM...")


def create(*words, memory="512M"):
    """An instance that runs; its id."""
    for left in (2, 1, 0):
        instance = ctl("create", "--cpus", "1", "--memory", memory, "--disk", "8G", *words).stdout.strip()
        for _ in range(2):  # one that is only slow has twice the time
            ctl("wait", instance, "--for", "running", "--timeout", "150", check=False, timeout=GUEST_S)
            (seen,) = [i for i in instances() if i["instance_id"] == instance]
            if seen["status"] == "running":
                return instance
            if hung_in_boot(instance):
                break
        assert left > 0 and hung_in_boot(instance), seen
        print("lab: a guest's kernel hung before its first word; another one", flush=True)
        delete(instance)
    return None


def tiny_sees(instance, addresses, but_not=()):
    """The tiny guest has named each function on its console, and read a register of Bochs' displays."""
    console = ctl("logs", instance).stdout
    for a in (*addresses, *but_not):
        ids = f"{read(PCI / a / 'vendor')}:{read(PCI / a / 'device')}"
        assert (f"is {ids}" in console) == (a in addresses), (a, ids, console)
        assert ids != "0x1234:0x1111" or ("version 0xB0C5" in console) == (a in addresses), console


def delete(instance):
    ctl("delete", instance, "--yes")
    ctl("wait", instance, "--for", "destroyed", "--timeout", "240", check=False, timeout=300)


def key():
    path = pathlib.Path("/root/tenant-key")
    if not path.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", path)
    return path


def in_guest(instance, command, timeout=120):
    """Runs @command in the guest with a tenant's key; its output."""
    return ctl("ssh", instance, "--", "-i", key(), "-o", "BatchMode=yes", command, timeout=timeout).stdout


def add_key(instance):
    body = json.dumps({"ssh_pubkey": key().with_suffix(".pub").read_text(encoding="ascii").strip()})
    run("curl", "-sS", "--fail-with-body", "--unix-socket", "/run/qudata/ctl.sock", "-X", "POST", "-H",
        "Content-Type: application/json", "-d", body, f"http://localhost/v1/instances/{instance}/ssh")
    # The answer says that it is on record; vmmon then brings it into the guest.
    await_that("the guest takes the key", lambda: ctl("ssh", instance, "--", "-i", key(), "-o", "BatchMode=yes", "true",
                                                      check=False).returncode == 0, 240)


def qemu_pids():
    """Of guests: the helper's trial of KVM, a microvm, is none."""
    pids = run("pgrep", "-x", "qemu-system-x86", check=False).stdout.split()
    return [int(pid) for pid in pids if "\0microvm\0" not in (read(f"/proc/{pid}/cmdline") or "\0microvm\0")]


def main_pid(unit):
    return int(run("systemctl", "show", "--value", "-p", "MainPID", f"{unit}.service").stdout)


def journal(lines=30):
    return run("journalctl", "--no-pager", "-o", "short-monotonic", "-n", lines, "-u", "qudata-*", check=False).stdout
