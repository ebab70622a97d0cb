# SPDX-License-Identifier: Apache-2.0
"""Instances with GPUs, through the whole suite: API, daemons, vfio-bind, QEMU under KVM, a guest that looks."""
import contextlib
import itertools
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import time

from binding import POINTS, Unchanged, is_bound, leaks, records
from guestlib import (LIBEXEC, PCI, add_key, await_that, create, ctl, delete, driver, functions, in_guest, install, instances,
                      main_pid, nodes_of, qemu_pids, read, run, state, tiny_sees, use_image)
from verdicts import explain

STATE = pathlib.Path("/root/gpus-before-reboot.json")


def ids(address):
    return f"{read(PCI / address / 'vendor')}:{read(PCI / address / 'device')}"


def guest_ids(instance):
    """vendor:device of every function the guest has, with how often."""
    lines = in_guest(instance, "cd /sys/bus/pci/devices; for d in *; do echo $(cat $d/vendor):$(cat $d/device); done").split()
    return {word: lines.count(word) for word in lines}


def sees(instance, addresses):
    seen = guest_ids(instance)
    for address in addresses:
        assert seen.get(ids(address), 0) >= 1, (ids(address), seen)


def owner_of_nodes(addresses):
    return {os.stat(node).st_uid for node in nodes_of(addresses)}


def status(instance):
    return next(i for i in instances() if i["instance_id"] == instance)


def listed():
    return {gpu["address"]: gpu for gpu in json.loads(ctl("gpus", "--json").stdout)["gpus"]}


def helper_answers():
    await_that("the helper has been reached", lambda: ctl("gpus", "--json", check=False).returncode == 0, 120)


def the_suite_is_up():
    install()
    helper_answers()


def api_lists_the_gpus():
    seen, judged = listed(), explain()
    assert {a: g["verdict"] for a, g in seen.items()} == {a: v[0] for a, v in judged.items()}, (seen, judged)


def a_guest_sees_its_gpu():
    """Bind, boot, look from inside, delete, host drivers back; by what sysfs says on both sides."""
    mine = functions("audio")
    with Unchanged():
        instance = create("--gpus", mine[0])
        is_given(mine)
        add_key(instance)
        sees(instance, mine)
        assert listed()[mine[0]]["verdict"] == "busy" and listed()[mine[0]]["instance"] == instance
        (pid,) = qemu_pids()
        assert owner_of_nodes(mine) == {os.stat(f"/proc/{pid}").st_uid}
        limits = read(f"/proc/{pid}/limits")
        locked = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max locked memory"))
        assert 512 << 20 <= int(locked) < 4096 << 20, locked
        assert "CapEff:\t0000000000000000" in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        delete(instance)


def is_given(addresses):
    for a in addresses:
        assert driver(a) == "vfio-pci", (a, driver(a))
        assert read(PCI / a / "d3cold_allowed") in (None, "0") and read(PCI / a / "power/control") in (None, "on"), state([a])
    uids = {pwd.getpwuid(uid).pw_name for uid in owner_of_nodes(addresses)}
    assert len(uids) == 1 and next(iter(uids)).startswith("qudata-vm"), uids


def stop_and_start_keep_the_gpu():
    mine = functions("second")
    with Unchanged():
        instance = create("--gpus", mine[0], memory="128M")
        ctl("stop", instance)
        ctl("wait", instance, "--for", "paused", "--timeout", "120", timeout=150)
        is_bound(mine)  # root's again, and still the instance's
        assert records() == [f"lease-{instance}"], records()
        refused = ctl("create", "--gpus", mine[0], check=False)
        assert refused.returncode != 0 and len(instances()) == 1, refused
        ctl("start", instance)
        ctl("wait", instance, "--for", "running", "--timeout", "200", timeout=240)
        is_given(mine)
        delete(instance)


def two_side_by_side():
    """Each guest has its own; one's end does not touch the other's devices."""
    one, two = functions("alone"), functions("audio")
    with Unchanged():
        first, second = create("--gpus", one[0], memory="128M"), create("--gpus", two[0], memory="128M")
        is_given(one)
        is_given(two)
        assert owner_of_nodes(one) != owner_of_nodes(two)
        tiny_sees(first, one, but_not=two)
        tiny_sees(second, two, but_not=one)
        console = ctl("logs", second).stdout
        assert "has a ROM" in console and "KVM shows itself" in console, console
        kept = state(two)
        delete(first)
        assert driver(one[0]) == "bochs-drm"
        assert state(two) == kept
        is_given(two)
        assert status(second)["status"] == "running"
        delete(second)


def refused_with_every_reason():
    with Unchanged():
        for name in ("nic", "nvme"):
            gpu, foreign = functions(name)
            done = ctl("create", "--gpus", gpu, check=False)
            assert done.returncode != 0 and foreign in done.stderr + done.stdout, done
        done = ctl("create", "--gpus", functions("pair")[0], check=False)
        assert done.returncode != 0, done
        assert not instances()


def the_vm_is_killed():
    """QEMU ends by itself: the device node is root's again at once, the lease stays for the next start."""
    mine = functions("second")
    with Unchanged():
        instance = create("--gpus", mine[0], memory="128M")
        run("kill", "-KILL", qemu_pids()[0])
        await_that("the node is root's", lambda: owner_of_nodes(mine) == {0})
        await_that("agentd knows", lambda: status(instance)["status"] != "running")
        delete(instance)


def kill_program(name):
    """kill -9 of every process of that name; whether there was one. A comm has 15 characters."""
    return run("pkill", "-KILL", "-x", name[:15], check=False).returncode == 0


def pids_of(name):
    return set(run("pgrep", "-x", name[:15], check=False).stdout.split())


def daemons_killed_while_it_runs():
    mine = functions("audio")
    with Unchanged():
        instance = create("--gpus", mine[0], memory="128M")
        guests = qemu_pids()
        for name in ("agentd", "vfio-helper", "vfio-broker", "vmmon", "frp-supervisor"):
            # vfio-broker was ended with vfio-helper.
            old = await_that(f"{name} is there", lambda name=name: pids_of(name), 120)
            assert kill_program(name), name
            await_that(f"{name} is back", lambda name=name, old=old: pids_of(name) - old, 120)
            ctl("wait", instance, "--for", "running", "--timeout", "180", timeout=240)
            assert qemu_pids() == guests, name
            is_given(mine)
        delete(instance)


def gone(instance):
    """Asks for the delete until it is done: the one who was asked may just have been killed."""
    def try_it():
        ctl("delete", instance, "--yes", check=False)
        return not [i for i in instances_or_none() if i["instance_id"] == instance]
    await_that("the instance is gone", try_it, 240)


def instances_or_none():
    done = ctl("list", "--json", check=False)
    return json.loads(done.stdout)["instances"] if done.returncode == 0 else [{"instance_id": None}]


def nobody_is_left():
    """Asks for the delete of all until it is done: the one who was asked may just have been killed."""
    seen = instances_or_none()
    for i in seen:
        if i["instance_id"]:
            ctl("delete", i["instance_id"], "--yes", check=False)
    return not seen


POINT = pathlib.Path("/run/qudata-bind-point")
VICTIMS = ("vfio-helper", "vfio-broker", "vfio-bind", "agentd", "vmmon")


def is_stopped(pid):
    return (read(f"/proc/{pid}/stat") or ")  ").rsplit(")", 1)[1].split()[:1] == ["T"]


@contextlib.contextmanager
def bind_that_stops():
    """vfio-bind, as everything starts it, stops at the step that POINT tells."""
    place, kept = LIBEXEC / "vfio-bind", LIBEXEC / "vfio-bind.kept"
    place.rename(kept)
    shutil.copy(POINTS, place)
    try:
        yield
    finally:
        POINT.unlink(missing_ok=True)
        kept.rename(place)


def kill_one(name, stopped):
    """kill -9 of the stopped vfio-bind, or of a daemon while it is stopped; a daemon is back before it goes on."""
    if name != "vfio-bind":
        old = await_that(f"{name} is there", lambda: pids_of(name), 120)
        assert kill_program(name), name
        await_that(f"{name} is back", lambda: pids_of(name) - old, 120)
        os.kill(stopped, signal.SIGCONT)
    else:
        os.kill(stopped, signal.SIGKILL)


def given(words):
    """The instance that `qudatactl` @words makes, as soon as its QEMU has the GPU: nothing here needs its guest."""
    instance = ctl(*words).stdout.strip()
    await_that("QEMU runs", qemu_pids, 120)
    return instance


def killed_at_step(act, n, name, card):
    """Kills @name at the n-th step of taking or of giving back. False when there are not that many."""
    helper_answers()
    with Unchanged():
        words = ["create", "--cpus", "1", "--memory", "128M", "--gpus", card[0]]
        if act == "release":
            words = ["delete", given(words), "--yes"]
        POINT.write_text(str(n), encoding="ascii")
        with subprocess.Popen(["qudatactl", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):

            def stopped_or_through():
                stopped = [int(pid) for pid in pids_of("vfio-bind") if is_stopped(pid)]
                through = qemu_pids() if act == "take" else not records()
                return stopped or (through and [0])

            (stopped,) = await_that(f"step {n} of {act}", stopped_or_through, 120)
            POINT.unlink()
            if stopped:
                kill_one(name, stopped)
        await_that(f"{name} at step {n} of {act}: no instance is left", nobody_is_left, 120)
        await_that(f"{name} at step {n} of {act}: the host has its device", lambda: driver(card[0]) == "bochs-drm", 90)
        await_that(f"{name} at step {n} of {act}: no record is left", lambda: not records())
        return bool(stopped)


def walk(victims_of):
    """Through every step of both acts; victims_of(n) are killed at the n-th."""
    card, walked = functions("second"), []
    with bind_that_stops():
        for act in ("take", "release"):
            for n in itertools.count(1):
                reached = [killed_at_step(act, n, name, card) for name in victims_of(n)]
                if not all(reached):
                    break
                walked.append((act, n))
    assert len([w for w in walked if w[0] == "take"]) >= 5 and len([w for w in walked if w[0] == "release"]) >= 5, walked
    print(f"walked through {walked}", flush=True)


def killed_at_every_step():
    """Each step once, and at each somebody else in turn."""
    walk(lambda n: (VICTIMS[n % len(VICTIMS)],))


def everybody_killed_at_every_step():
    walk(lambda n: VICTIMS)


def before_reboot():
    mine = functions("second")
    instance = create("--gpus", mine[0], memory="128M")
    is_given(mine)
    STATE.write_text(json.dumps({"instance": instance, "state": state()}), encoding="ascii")


def after_reboot():
    """The kernel has given everything to its own drivers; the instance is told to have ended, starts with its GPU
    again, and its end gives the host what it had."""
    old = json.loads(STATE.read_text(encoding="ascii"))
    mine = functions("second")
    seen = await_that("agentd tells", lambda: next((i for i in instances() if i["status"] not in ("running", "pending")), None), 120)
    assert seen["instance_id"] == old["instance"] and "rebooted" in json.dumps(seen), seen
    ctl("start", old["instance"])
    ctl("wait", old["instance"], "--for", "running", "--timeout", "240", timeout=300)
    is_given(mine)
    delete(old["instance"])
    assert driver(mine[0]) == "bochs-drm" and not records(), (driver(mine[0]), records())


UNIT = """[Service]
ExecStart=/bin/sh -c 'until [ -e {node} ]; do sleep 0.1; done; exec sleep infinity <{node}'
"""


def a_service_is_stopped_and_started():
    """By the real systemd: a unit that policy lets us stop holds the card's sound, and has it again in the end. Not a
    node of the display: at its last close the kernel's own console lights up the picture, which is another reason."""
    mine = functions("audio")
    drivers = [driver(a) for a in mine]
    node = f"/dev/snd/by-path/pci-{mine[1]}"
    unit = pathlib.Path("/run/systemd/system/nvidia-persistenced.service")

    def is_held():
        pid = main_pid(unit.stem)
        return pid > 0 and os.path.realpath(f"/proc/{pid}/fd/0") == os.path.realpath(node) != node

    unit.write_text(UNIT.format(node=node), encoding="ascii")
    run("systemctl", "daemon-reload")
    try:
        with Unchanged():
            run("systemctl", "start", unit.name)
            await_that("the unit holds the device", is_held)
            before = main_pid(unit.stem)
            assert listed()[mine[0]]["verdict"] == "rentable", listed()[mine[0]]
            ctl("create", "--cpus", "1", "--memory", "128M", "--gpus", mine[0])
            await_that("the GPU is taken", lambda: {driver(a) for a in mine} == {"vfio-pci"}, 120)
            assert main_pid(unit.stem) == 0, run("systemctl", "status", unit.name, check=False).stdout
            for instance in instances():
                gone(instance["instance_id"])
            await_that("the host has its device", lambda: [driver(a) for a in mine] == drivers, 120)
            await_that("the unit holds the device again", is_held)
            assert main_pid(unit.stem) != before
            await_that("no record is left", lambda: not records())
    finally:
        run("systemctl", "stop", unit.name)
        unit.unlink()
        run("systemctl", "daemon-reload")


def check_knows_iommufd():
    """What was asked for, and kernel and QEMU have."""
    checks = {c["check"]: c for c in json.loads(ctl("check", "--json", check=False).stdout)["checks"]}
    assert checks["iommufd"]["level"] == "OK", checks["iommufd"]


def a_guest_gets_descriptors():
    """By /dev/iommu and a node of each function, opened for QEMU, which has no way to a group or to another's node."""
    mine = functions("audio")
    with Unchanged():
        instance = create("--gpus", mine[0], memory="128M")
        is_given(mine)
        tiny_sees(instance, mine)
        (pid,) = qemu_pids()
        argv = pathlib.Path(f"/proc/{pid}/cmdline").read_text(encoding="ascii").split("\0")
        devices = [word for word in argv if word.startswith("vfio-pci,")]
        assert len(devices) == len(mine) and all("iommufd=iommufd0,fd=" in d and "sysfsdev" not in d for d in devices), devices
        held = {os.readlink(fd) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir()}
        wanted = {"/dev/iommu", *nodes_of(mine)}
        assert {p for p in held if p.startswith(("/dev/iommu", "/dev/vfio"))} == wanted, (held, wanted)
        assert os.stat("/dev/iommu").st_uid == 0 and os.stat("/dev/iommu").st_mode & 0o007 == 0, os.stat("/dev/iommu")
        delete(instance)


def tiny_guests():
    """From here on: they boot in a third of the time, and say on the console what they see."""
    use_image("lab-tiny")


def tiny_guests_without_grace():
    """For cases that delete guests which still boot."""
    use_image("lab-tiny", delete_grace_s=1)


@contextlib.contextmanager
def policy(change):
    """helper.conf as @change makes it of its text, for a while."""
    conf = pathlib.Path("/etc/qudata/helper.conf")
    text = conf.read_text(encoding="ascii")

    def apply(new):
        conf.write_text(new, encoding="ascii")
        run("systemctl", "restart", "qudata-helper.service")
        await_that("the helper answers", lambda: "not connected" not in ctl("gpus", check=False).stderr, 120)

    apply(change(text))
    try:
        yield
    finally:
        apply(text)


def policy_changes_meanwhile():
    """GPUs are taken out of rent while one is rented: it can be given back, and the host has its driver."""
    mine = functions("second")
    with Unchanged():
        instance = create("--gpus", mine[0], memory="128M")
        with policy(lambda text: text.replace("\ngpu_vendors = 1234,1002\n", "\ngpu_vendors =\n")):
            await_that("none is for rent", lambda: "no GPU of this host" in (r := ctl("gpus", check=False)).stderr and r.returncode != 0)
            is_given(mine)  # the VM runs on
            delete(instance)
            assert driver(mine[0]) == "bochs-drm", driver(mine[0])
            await_that("no record is left", lambda: not records())
        refused = ctl("gpus", "recover", "0000:7f:1f.7", check=False)
        assert refused.returncode != 0 and "no GPU at this address" in refused.stderr, refused


def policy_shapes_the_guest():
    """A guest sees neither KVM nor the card's ROM where policy says so; else it sees both."""
    mine, words = functions("audio"), ("has a ROM", "KVM shows itself")
    with Unchanged(), policy(lambda text: text + "\ngpu_hide_vm = yes\ngpu_rom = no\n"):
        instance = create("--gpus", mine[0], memory="128M")
        tiny_sees(instance, mine)
        console = ctl("logs", instance).stdout
        assert not any(word in console for word in words), console
        delete(instance)


DAEMONS = ("agentd", "vfio-helper", "vfio-broker", "vmmon", "frp-supervisor")
STATES = ("/var/lib/qudata", "/var/lib/qudata-mon", "/var/lib/qudata-helper", "/var/lib/qudata-gpu", "/run/qudata")


def count_fds(name):
    (pid,) = pids_of(name)
    found = []
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(re.sub(r"\[\d+\]", "", os.readlink(fd)))
    return pid, sorted(found)


def processes():
    """Of users: those of the kernel have no program."""
    found = [read(path.parent / "comm") for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if read(path)]
    return sorted(name for name in found if name and name.startswith(("qemu", "passt", "vm-", "vfio", "agentd", "vmmon",
                                                                       "frp", "control", "systemctl")))


def pinned_pages():
    counts = dict(line.split() for line in pathlib.Path("/proc/vmstat").read_text(encoding="ascii").splitlines())
    return int(counts["nr_foll_pin_acquired"]) - int(counts["nr_foll_pin_released"])


def what_may_pile_up():
    """All that 50 lives could leave behind: of the kernel, of the daemons, on disk."""
    nodes = {str(p): p.stat().st_uid for p in pathlib.Path("/dev/vfio").rglob("*") if p.is_char_device()}
    mounts = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    cgroups = [str(p) for p in pathlib.Path("/sys/fs/cgroup/qudata-vms").rglob("*") if p.is_dir()]
    return {**leaks(), "node_owners": nodes, "mounts": len(mounts), "cgroups": cgroups, "pinned": pinned_pages(),
            "programs": processes(), "instances": instances(),
            "files": {state: sorted(str(p) for p in pathlib.Path(state).rglob("*")) for state in STATES},
            "fds": {name: count_fds(name) for name in DAEMONS}}


def at_rest():
    """The same twice: nothing is on its way any more."""
    seen = []

    def again():
        seen.append(what_may_pile_up())
        return len(seen) > 1 and seen[-1] == seen[-2] and seen[-1]
    return await_that("nothing comes or goes", again)


def resident_kib(name):
    (pid,) = pids_of(name)
    return int(read(f"/proc/{pid}/status").split("VmRSS:")[1].split()[0])


def nothing_has_piled_up(before):
    """What ends late is waited for."""
    deadline = time.monotonic() + 90
    while (now := what_may_pile_up()) != before and time.monotonic() < deadline:
        time.sleep(0.5)
    changed = {key: (before[key], now[key]) for key in now if now[key] != before[key]}
    assert not changed, changed


def live(card):
    """Bound, seen by a guest, and the host's again."""
    instance = create("--gpus", card[0], memory="128M")
    is_given(card)
    tiny_sees(instance, card)
    delete(instance)
    assert driver(card[0]) == "bochs-drm", card


def lives(times):
    """On two cards in turn, after a first one each for what is made but once. One at a time: two guests under KVM under
    emulation, for minutes, have cost the lab its own kernel."""
    cards = (functions("alone"), functions("second"))
    use_image("lab-tiny")
    try:
        for card in cards:
            live(card)
        before, kib = at_rest(), {name: resident_kib(name) for name in DAEMONS}
        begun = time.monotonic()
        with Unchanged():
            for n in range(times):
                live(cards[n % 2])
                if n % 10 == 9:
                    print(f"{n + 1} lives in {time.monotonic() - begun:.0f} s", flush=True)
        nothing_has_piled_up(before)
        grown = {name: resident_kib(name) - kib[name] for name in DAEMONS}
        print(f"{times} lives in {time.monotonic() - begun:.0f} s; resident KiB more than before: {grown}", flush=True)
    finally:
        use_image("debian-12")


def some_lives():
    """As many as every run can afford: one on each card, and one before on each. Fifty have a case of their own."""
    lives(2)


def fifty_lives():
    """Bind, boot, look, delete, again and again: nothing piles up."""
    lives(50)


GROUPS = {
    "gpus": (the_suite_is_up, api_lists_the_gpus, a_guest_sees_its_gpu, tiny_guests, two_side_by_side,
             stop_and_start_keep_the_gpu, refused_with_every_reason, the_vm_is_killed, daemons_killed_while_it_runs,
             a_service_is_stopped_and_started, policy_changes_meanwhile, policy_shapes_the_guest, some_lives),
    "iommufd": (the_suite_is_up, check_knows_iommufd, tiny_guests, a_guest_gets_descriptors, two_side_by_side,
                stop_and_start_keep_the_gpu, the_vm_is_killed, some_lives),
    "fifty-lives": (the_suite_is_up, fifty_lives),
    "gpu-kills": (the_suite_is_up, tiny_guests_without_grace, killed_at_every_step),
    "gpu-walk": (the_suite_is_up, tiny_guests_without_grace, everybody_killed_at_every_step),
    "gpu-reboot-before": (the_suite_is_up, tiny_guests, before_reboot),
    "gpu-reboot-after": (the_suite_is_up, after_reboot),
}
