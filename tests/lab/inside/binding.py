# SPDX-License-Identifier: Apache-2.0
"""vfio-bind on a real kernel: every topology taken and given back, refusals that write nothing, fifty cycles,
two VMs side by side, a kill at every step. What a bind may change is compared before and after.
"""
import contextlib
import ctypes
import itertools
import os
import pathlib
import pwd
import re
import struct
import subprocess
import threading
import time

from guestlib import (LIBEXEC, PAYLOAD, PCI, await_that, driver, functions, install, nodes_of, read, run, state,
                      vfio_nodes)
from verdicts import explain

CONF = "/etc/qudata/helper.conf"
CLIENT = PAYLOAD / "build/tests/tools/bind-client"
POINTS = PAYLOAD / "build/tests/tools/vfio-bind-points"
STATE = pathlib.Path("/var/lib/qudata-gpu")
RENTABLE = ("alone", "audio", "pair", "multi", "noacs", "second")


class Answer(dict):
    """The client's key=value lines; `device` is a list."""

    def __init__(self, text):
        super().__init__(device=[])
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if name == "device":
                self["device"].append(value)
            else:
                self[name] = value.lower() if name == "status" else value


def act(*words, program=LIBEXEC / "vfio-bind", conf=CONF, wrap=(), env=None, timeout=200):
    done = run(*wrap, CLIENT, program, conf, *words, check=False, timeout=timeout, env={**os.environ, **(env or {})})
    answer = Answer(done.stdout)
    assert "status" in answer or done.returncode == 3, done
    return answer


def ok(*words, **kw):
    answer = act(*words, **kw)
    assert answer.get("status") == "ok", (words, answer)
    return answer


def gpus_of(name):
    """The GPUs to ask for: one address per card of the topology."""
    return functions(name) if name == "pair" else functions(name)[:1]


def records():
    return sorted(p.name for p in STATE.iterdir() if p.name != "lock") if STATE.exists() else []


def is_bound(addresses):
    for a in addresses:
        assert driver(a) == "vfio-pci" and read(PCI / a / "driver_override") == "vfio-pci", (a, state([a]))
    for node in nodes_of(addresses):
        assert os.stat(node).st_uid == 0, node


class Unchanged:
    """All functions of the machine, the records and the nodes are the same after as before."""

    def __enter__(self):
        self.before = state(), records(), vfio_nodes()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            now = state(), records(), vfio_nodes()
            changed = {a: (self.before[0][a], now[0].get(a)) for a in self.before[0] if self.before[0][a] != now[0].get(a)}
            assert not changed and now[1:] == self.before[1:], (changed, self.before[1:], now[1:])


def every_topology_there_and_back():
    install()
    owner = pwd.getpwnam("qudata-vm0").pw_uid
    for name in RENTABLE:
        with Unchanged():
            mine, others = functions(name), {a: s for a, s in state().items() if a not in functions(name)}
            assert ok("take", "vm-a", *gpus_of(name))["done"] == str(len(mine)), name
            is_bound(mine)
            assert records() == ["lease-vm-a"]
            for gpu in gpus_of(name):
                assert explain()[gpu][0] == "busy", (name, explain()[gpu])
            granted = ok("grant", "vm-a", "0")
            assert sorted(d.split()[0] for d in granted["device"]) == mine, granted
            for node in nodes_of(mine):
                assert (os.stat(node).st_uid, os.stat(node).st_mode & 0o777) == (owner, 0o600), node
            ok("revoke", "vm-a")
            is_bound(mine)
            assert {a: s for a, s in state().items() if a not in mine} == others, name
            ok("release", "vm-a")


def again_is_the_same():
    """Every act may be repeated."""
    with Unchanged():
        gpu = functions("second")[0]
        for _ in range(2):
            ok("take", "vm-a", gpu)
        assert act("take", "vm-a", functions("alone")[0])["status"] == "conflict"
        for words in (("grant", "vm-a", "1"), ("revoke", "vm-a"), ("release", "vm-a")):
            for _ in range(2):
                ok(*words)


class Watch:
    """Sees each write to an attribute that binds, resets or powers a function, whoever makes it."""

    ATTRIBUTES = ("driver_override", "reset", "d3cold_allowed", "power/control", "remove", "enable")
    IN_MODIFY = 2
    EVENT = struct.Struct("iIII")

    def __init__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.names = {}
        bus = PCI.parent
        paths = [bus / "drivers_probe", bus / "rescan", *bus.glob("drivers/*/unbind"), *bus.glob("drivers/*/bind"),
                 *bus.glob("drivers/*/new_id"), *pathlib.Path("/sys/class/vtconsole").glob("*/bind"),
                 *(PCI / a / name for a in os.listdir(PCI) for name in self.ATTRIBUTES)]
        for path in filter(pathlib.Path.exists, paths):
            watch = libc.inotify_add_watch(self.fd, str(path).encode(), self.IN_MODIFY)
            assert watch > 0, (path, ctypes.get_errno())
            self.names[watch] = str(path)
        assert len(self.names) > 100, len(self.names)

    def seen(self):
        """Paths written since it was asked last."""
        out = []
        with contextlib.suppress(BlockingIOError):
            while raw := os.read(self.fd, 65536):
                for at in range(0, len(raw), self.EVENT.size):  # no names: these are files, not directories
                    out.append(self.names[self.EVENT.unpack_from(raw, at)[0]])
        return out

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)


def a_write_would_be_seen():
    install()
    gpu = functions("second")[0]
    with Unchanged(), Watch() as watch:
        ok("take", "vm-a", gpu)
        seen = watch.seen()
        for name in (f"{gpu}/driver_override", "bochs-drm/unbind", "drivers_probe"):
            assert any(path.endswith(name) for path in seen), (name, seen)
        ok("release", "vm-a")
        assert any(path.endswith("vfio-pci/unbind") for path in watch.seen())


def refused_without_a_write(gpus, wanted=("denied", "not_found", "busy")):
    with Unchanged(), Watch() as watch:
        answer = act("take", "vm-a", *gpus)
        if gpus != ["0000:00:00.0"]:  # which is 0, no request at all: there is no answer to it
            assert answer.get("status") in wanted and answer["done"] == "0" and answer["why"], (gpus, answer)
        assert not watch.seen(), (gpus, watch.seen())
        return answer


def every_other_device_is_refused():
    """Bridges, NICs, disks, USB, audio alone, the boot display, half a group: all functions of the machine."""
    rentable = {gpu for name in RENTABLE if name != "pair" for gpu in gpus_of(name)}
    offered = sorted(set(os.listdir(PCI)) - rentable) + ["0000:7f:1f.7", "10000:00:00.0"]
    classes = {read(PCI / a / "class") for a in offered}
    for wanted in ("0x0604", "0x0200", "0x0100", "0x0108", "0x0106", "0x0c03", "0x0403", "0x0601", "0x0300", "0x0380"):
        assert any(c and c.startswith(wanted) for c in classes), (wanted, classes)
    for address in offered:
        refused_without_a_write([address])


def reasons_are_named():
    foreign = {"nic": functions("nic")[1], "nvme": functions("nvme")[1]}
    for name, address in foreign.items():
        assert address in refused_without_a_write(functions(name)[:1], ("denied",))["why"], name
    half = refused_without_a_write(functions("pair")[:1], ("denied",))
    assert functions("pair")[1] in half["why"], half
    # One that is not rentable refuses the set.
    refused_without_a_write(sorted([functions("second")[0], functions("nic")[0]]), ("denied",))


def held_by_a_process():
    """Whoever has a node of the card open is named, and nothing is done to him."""
    gpu, audio = functions("audio")
    node = next((PCI / audio / "sound").glob("card*/controlC*")).name
    with open(f"/dev/snd/{node}", "rb"), Unchanged():
        answer = act("take", "vm-a", gpu)
        assert answer["status"] == "busy" and str(os.getpid()) in answer["why"], answer


def side_by_side():
    """Two VMs: one's life does not touch the other's devices, and neither reaches them by its name."""
    with Unchanged():
        one, two = functions("alone"), functions("audio")
        ok("take", "vm-a", one[0])
        ok("take", "vm-b", two[0])
        kept = state(two)
        for words in (("take", "vm-c", two[0]), ("take", "vm-a", two[0])):
            assert act(*words)["status"] in ("busy", "denied", "conflict"), words
        assert act("grant", "vm-c", "3")["status"] != "ok"
        for words in (("revoke", "vm-c"), ("release", "vm-c")):
            act(*words)
        assert os.stat(nodes_of(two)[0]).st_uid == 0
        ok("grant", "vm-b", "1")
        node = os.stat(nodes_of(two)[0])
        ok("release", "vm-a")
        assert state(two) == kept and os.stat(nodes_of(two)[0]).st_uid == node.st_uid != 0
        ok("revoke", "vm-b")
        ok("release", "vm-b")


def races_have_one_winner():
    gpu = functions("second")[0]
    for _ in range(5):
        with Unchanged():
            answers = {}
            threads = [threading.Thread(target=lambda vm=vm: answers.update({vm: act("take", vm, gpu)["status"]}))
                       for vm in ("vm-a", "vm-b", "vm-c")]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            winners = [vm for vm, status in answers.items() if status == "ok"]
            assert len(winners) == 1 and set(answers.values()) <= {"ok", "busy", "denied"}, answers
            is_bound([gpu])
            ok("release", winners[0])


def disconnected_in_the_middle():
    """The asker goes away in mid-act: the act ends well or is undone, and RECOVER leaves nothing half done."""
    gpu = functions("audio")[0]
    for wait_s in (0.05, 0.3, 0.6, 1.0):
        with Unchanged():
            with subprocess.Popen([CLIENT, LIBEXEC / "vfio-bind", CONF, "take", "vm-a", gpu],
                                  stdout=subprocess.DEVNULL) as client:
                time.sleep(wait_s)
                client.kill()
            # Under its asker's name before it begins.
            await_that("vfio-bind ends", lambda: run("pgrep", "-x", "vfio-bind|bind-client", check=False).returncode == 1, 120)
            ok("recover")
            ok("release", "vm-a")


def killed_at_every_step(name, words, prepare, finish):
    """Ends vfio-bind, as by kill -9, at the first of its points, then at the second, until it gets through."""
    for n in itertools.count(1):
        with Unchanged():
            prepare()
            answer = act(*words, program=POINTS, env={"BIND_POINT": f"any:{n}"})
            if answer.get("status") == "ok":
                finish()
                ok("release", "vm-a")
                assert n > 8, f"{name}: only {n - 1} points"
                return n - 1
            assert answer.get("answer") == "none" and answer["signal"] == "9", (name, n, answer)
            ok("recover")
            assert not [r for r in records() if r.startswith(("quarantine", "damaged"))], (name, n, records())
            ok("release", "vm-a")
    return 0


def killed_at_every_step_of_take():
    install()
    gpu = functions("audio")[0]
    count = killed_at_every_step("take", ("take", "vm-a", gpu), lambda: None, lambda: is_bound(functions("audio")))
    print(f"killed at {count} points of take", flush=True)


def killed_at_every_step_of_release():
    gpu = functions("audio")[0]
    count = killed_at_every_step("release", ("release", "vm-a"), lambda: ok("take", "vm-a", gpu), lambda: None)
    print(f"killed at {count} points of release", flush=True)


def killed_at_every_step_of_recovery():
    """What recovers is killed as well: a take that died when its second function was at the guest's driver, to be undone."""
    gpu = functions("audio")[0]

    def half():
        answer = act("take", "vm-a", gpu, program=POINTS, env={"BIND_POINT": "function-probed:2"})
        assert answer.get("signal") == "9", answer

    count = killed_at_every_step("recover", ("recover",), half, lambda: None)
    print(f"killed at {count} points of recover", flush=True)


def a_damaged_record_is_put_aside():
    with Unchanged():
        gpu = functions("second")[0]
        ok("take", "vm-a", gpu)
        path = STATE / "lease-vm-a"
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        act("recover")
        assert records() == ["damaged-vm-a"] and driver(gpu) == "vfio-pci", records()
        assert explain()[gpu][0] != "rentable"
        ok("recover", gpu)
        assert driver(gpu) == "bochs-drm"
        (STATE / "damaged-vm-a").unlink()


def the_console_is_let_go_and_taken_back():
    """The boot display, where policy allows it: the framebuffer console leaves it first and comes back."""
    conf = "/root/boot-display.conf"
    pathlib.Path(conf).write_text(pathlib.Path(CONF).read_text(encoding="ascii") + "\ngpu_allow_boot_display = yes\n",
                                  encoding="ascii")
    vga = "0000:00:01.0"

    def consoles():
        return {p.name: read(p / "bind") for p in pathlib.Path("/sys/class/vtconsole").iterdir()}

    with Unchanged():
        before = consoles()
        assert "1" in before.values(), before
        ok("take", "vm-a", vga, conf=conf)
        is_bound([vga])
        ok("release", "vm-a", conf=conf)
        await_that(f"consoles are {before}", lambda: consoles() == before)


def leaks():
    """What may pile up: IOMMU groups, nodes, records, users of the module, processes, warnings of the kernel."""
    log = run("dmesg", "--level", "emerg,alert,crit,err,warn").stdout
    return {"groups": len(os.listdir("/sys/kernel/iommu_groups")), "nodes": vfio_nodes(), "records": records(),
            "module": [line.split()[2] for line in pathlib.Path("/proc/modules").read_text(encoding="ascii").splitlines()
                       if line.split()[0] in ("vfio_pci", "vfio_iommu_type1")],
            "processes": run("pgrep", "-c", "vfio-bind", check=False).stdout.strip(),
            "trouble": len(re.findall(r"WARNING:|BUG:|Call Trace|refcount", log)),
            "files": len(os.listdir(STATE))}


def fifty_cycles():
    install()
    cards = (functions("alone"), functions("audio"))
    before = leaks()
    begun = time.monotonic()
    with Unchanged():
        for n in range(50):
            mine = cards[n % 2]
            ok("take", "vm-a", mine[0])
            assert [driver(a) for a in mine] == ["vfio-pci"] * len(mine), n
            ok("release", "vm-a")
            assert "vfio-pci" not in [driver(a) for a in mine], n
    assert leaks() == before, (before, leaks())
    print(f"50 cycles in {time.monotonic() - begun:.0f} s", flush=True)


GROUPS = {
    "binding": (every_topology_there_and_back, again_is_the_same, side_by_side, races_have_one_winner,
                disconnected_in_the_middle, held_by_a_process, a_damaged_record_is_put_aside,
                the_console_is_let_go_and_taken_back),
    "refusals": (a_write_would_be_seen, every_other_device_is_refused, reasons_are_named),
    "kills": (killed_at_every_step_of_take, killed_at_every_step_of_release, killed_at_every_step_of_recovery),
    "cycles": (fifty_cycles,),
}
