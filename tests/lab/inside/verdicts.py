# SPDX-License-Identifier: Apache-2.0
"""What is rentable, by the program that decides, on real groups and real drivers."""
import pathlib
import re

from guestlib import LIBEXEC, PCI, TOPOLOGIES, driver, functions, group, install, read, run, state

RADEON = None if "modprobe.blacklist=radeon" in (read("/proc/cmdline") or "").split() else "radeon"
# Host drivers of each topology's functions, ascending: a bind has something to give back.
DRIVERS = {
    "alone": ["bochs-drm"],
    "audio": [RADEON, "snd_hda_intel"],
    "pair": [None, "bochs-drm"],
    "nic": [None, "e1000"],
    "nvme": ["bochs-drm", "nvme"],
    "multi": [RADEON, "snd_hda_intel", "xhci_hcd"],
    "noacs": [None],
    "second": ["bochs-drm"],
    "dma": ["nvme"],
}


def host_drivers_are_bound():
    for name, wanted in DRIVERS.items():
        assert [driver(a) for a in functions(name)] == wanted, (name, [driver(a) for a in functions(name)])


def groups_are_as_wanted():
    for name in ("audio", "pair", "nic", "nvme", "multi"):
        assert len({group(a) for a in functions(name)}) == 1, name
    everybody = [group(functions(name)[0]) for name in TOPOLOGIES]
    assert len(set(everybody)) == len(everybody), everybody
    members = [p.name for p in (PCI / functions("noacs")[0] / "iommu_group/devices").iterdir()]
    assert f"0000:00:{TOPOLOGIES['noacs'][0]:02x}.0" in members, members


def explain(*words, user=None):
    as_user = ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups") if user else ()
    out = run(*as_user, LIBEXEC / "vfio-explain", *words).stdout
    seen = {}
    for line in out.splitlines():
        match = re.fullmatch(r"(\S+) (\w+) bind=(\S*) reasons=(.*)", line)
        assert match, line
        seen[match[1]] = (match[2], match[3].split(","), match[4])
    return seen


def expected():
    """Verdict, what is bound, and the function that reasons must name."""
    want = {"0000:00:01.0": ("boot_display", ["0000:00:01.0"], "0000:00:01.0")}
    for name in ("alone", "audio", "pair", "multi", "noacs", "second"):
        for gpu in functions(name) if name == "pair" else functions(name)[:1]:
            want[gpu] = ("rentable", functions(name), "")
    for name in ("nic", "nvme"):
        gpu, foreign = functions(name)
        want[gpu] = ("not_viable", [gpu], foreign)
    return want


def verdicts_are_right():
    install()
    before = state()
    seen = explain()
    for gpu, (verdict, bind, named) in expected().items():
        assert seen[gpu][0] == verdict and seen[gpu][1] == bind, (gpu, seen[gpu])
        assert seen[gpu][2] == (f"{verdict}:{named}" if named else ""), (gpu, seen[gpu])
    assert set(seen) == set(expected()), "only the GPUs are listed"
    assert state() == before


def anybody_may_ask():
    assert explain("--config", "/etc/qudata/helper.conf", user=65534) == explain()


def asking_opens_nothing_for_writing():
    run("strace", "-f", "--seccomp-bpf", "-e", "trace=open,openat,openat2,creat,write", "-o", "/root/strace",
        LIBEXEC / "vfio-explain")
    calls = pathlib.Path("/root/strace").read_text(encoding="ascii", errors="replace")
    assert calls.count("openat") > 100 and "write(1" in calls, len(calls)
    assert not [line for line in calls.splitlines() if re.search(r"O_(WRONLY|RDWR|CREAT)", line)]


GROUPS = {
    "verdicts": (host_drivers_are_bound, groups_are_as_wanted, verdicts_are_right, anybody_may_ask,
                 asking_opens_nothing_for_writing),
}
