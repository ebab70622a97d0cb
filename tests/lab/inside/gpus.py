# SPDX-License-Identifier: Apache-2.0
"""Instances with GPUs, through the whole suite: API, daemons, vfio-bind, QEMU under KVM, a guest that looks."""
import itertools
import json
import os
import pathlib
import pwd
import threading
import time

from binding import Unchanged, is_bound, leaks, records
from guestlib import (PCI, add_key, await_that, create, ctl, delete, driver, functions, in_guest, install, instances,
                      main_pid, nodes_of, qemu_pids, read, run, state)
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


def the_suite_is_up():
    install()
    await_that("the helper has been reached", lambda: ctl("gpus", "--json", check=False).returncode == 0, 60)


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
    uids = {pwd.getpwuid(uid).pw_name for uid in owner_of_nodes(addresses)}
    assert len(uids) == 1 and next(iter(uids)).startswith("qudata-vm"), uids


def stop_and_start_keep_the_gpu():
    mine = functions("second")
    with Unchanged():
        instance = create("--gpus", mine[0])
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
        first, second = create("--gpus", one[0]), create("--gpus", two[0])
        add_key(second)
        is_given(one)
        is_given(two)
        assert owner_of_nodes(one) != owner_of_nodes(two)
        sees(second, two)
        assert guest_ids(second).get(ids(one[0]), 0) == 0
        kept = state(two)
        delete(first)
        assert driver(one[0]) == "bochs-drm"
        assert state(two) == kept
        is_given(two)
        assert in_guest(second, "echo alive") == "alive\n"
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
        instance = create("--gpus", mine[0])
        run("kill", "-KILL", qemu_pids()[0])
        await_that("the node is root's", lambda: owner_of_nodes(mine) == {0}, 30)
        await_that("agentd knows", lambda: status(instance)["status"] != "running", 30)
        delete(instance)


def kill_program(name):
    """kill -9 of every process of that name; whether there was one. A comm has 15 characters."""
    return run("pkill", "-KILL", "-x", name[:15], check=False).returncode == 0


def pids_of(name):
    return set(run("pgrep", "-x", name[:15], check=False).stdout.split())


def daemons_killed_while_it_runs():
    mine = functions("audio")
    with Unchanged():
        instance = create("--gpus", mine[0])
        guests = qemu_pids()
        for name in ("agentd", "vfio-helper", "vfio-broker", "vmmon", "frp-supervisor"):
            old = pids_of(name)
            assert old and kill_program(name), name
            await_that(f"{name} is back", lambda name=name, old=old: pids_of(name) - old, 30)
            ctl("wait", instance, "--for", "running", "--timeout", "60", timeout=90)
            assert qemu_pids() == guests, name
            is_given(mine)
        delete(instance)


def gone(instance):
    """Asks for the delete until it is done: the one who was asked may just have been killed."""
    def try_it():
        ctl("delete", instance, "--yes", check=False)
        return not [i for i in instances_or_none() if i["instance_id"] == instance]
    await_that("the instance is gone", try_it, 90)


def instances_or_none():
    done = ctl("list", "--json", check=False)
    return json.loads(done.stdout)["instances"] if done.returncode == 0 else [{"instance_id": None}]


def killed_while_it_begins_and_ends():
    """kill -9 of each process at moments of a create and of a delete: the instance runs or can be deleted, and
    the host has its device back."""
    mine = functions("second")
    for name, delay_s in itertools.product(("vfio-helper", "vfio-broker", "vfio-bind", "agentd"), (0.4, 1.2)):
        with Unchanged():
            timer = threading.Timer(delay_s, kill_program, (name,))
            timer.start()
            ctl("create", "--cpus", "1", "--memory", "512M", "--gpus", mine[0], check=False)
            timer.join()
            time.sleep(1.0)
            for seen in [i for i in instances_or_none() if i["instance_id"]]:
                killer = threading.Timer(delay_s / 2, kill_program, (name,))
                killer.start()
                ctl("delete", seen["instance_id"], "--yes", check=False)
                killer.join()
                gone(seen["instance_id"])
            await_that(f"{name} at {delay_s}: the host has its device", lambda: driver(mine[0]) == "bochs-drm", 60)
            await_that(f"{name} at {delay_s}: no record is left", lambda: not records(), 20)


def before_reboot():
    mine = functions("second")
    instance = create("--gpus", mine[0])
    is_given(mine)
    STATE.write_text(json.dumps({"instance": instance, "state": state()}), encoding="ascii")


def after_reboot():
    """The kernel has given everything to its own drivers; the instance is told to have ended, starts with its GPU
    again, and its end gives the host what it had."""
    old = json.loads(STATE.read_text(encoding="ascii"))
    mine = functions("second")
    seen = await_that("agentd tells", lambda: next((i for i in instances() if i["status"] not in ("running", "pending")), None), 60)
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
            ctl("create", "--cpus", "1", "--memory", "512M", "--gpus", mine[0])
            await_that("the GPU is taken", lambda: {driver(a) for a in mine} == {"vfio-pci"}, 60)
            assert main_pid(unit.stem) == 0, run("systemctl", "status", unit.name, check=False).stdout
            for instance in instances():
                gone(instance["instance_id"])
            await_that("the host has its device", lambda: [driver(a) for a in mine] == drivers, 60)
            await_that("the unit holds the device again", is_held)
            assert main_pid(unit.stem) != before
            await_that("no record is left", lambda: not records(), 20)
    finally:
        run("systemctl", "stop", unit.name)
        unit.unlink()
        run("systemctl", "daemon-reload")


def fifty_lives():
    """Bind, boot, look, delete, again and again: nothing piles up."""
    cards = (functions("alone"), functions("second"))
    before = leaks()
    begun = time.monotonic()
    with Unchanged():
        for n in range(50):
            mine = cards[n % 2]
            instance = create("--gpus", mine[0])
            add_key(instance)
            sees(instance, mine)
            delete(instance)
            assert driver(mine[0]) == "bochs-drm", n
            if n % 10 == 9:
                print(f"{n + 1} lives in {time.monotonic() - begun:.0f} s", flush=True)
    assert leaks() == before, (before, leaks())


GROUPS = {
    "gpus": (the_suite_is_up, api_lists_the_gpus, a_guest_sees_its_gpu, two_side_by_side, stop_and_start_keep_the_gpu,
             refused_with_every_reason, the_vm_is_killed, daemons_killed_while_it_runs,
             a_service_is_stopped_and_started),
    "fifty-lives": (the_suite_is_up, fifty_lives),
    "gpu-kills": (the_suite_is_up, killed_while_it_begins_and_ends),
    "gpu-reboot-before": (the_suite_is_up, before_reboot),
    "gpu-reboot-after": (the_suite_is_up, after_reboot),
}
