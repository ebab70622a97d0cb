# SPDX-License-Identifier: Apache-2.0
"""What vfio-explain has to refuse, and what it must not fall over.

Each case returns what is wrong, or None when this user cannot try it.
"""
import os
import shutil
import subprocess

import explain

ONE_GPU = ("pci 0000:0a:00.0 10de:2204 030000 group=31 driver=nvidia boot_vga=0\n"
           "pci 0000:0a:00.1 10de:1aef 040300 group=31 driver=snd_hda_intel\n")
ONE_LINE = "0000:0a:00.0 rentable bind=0000:0a:00.0,0000:0a:00.1 reasons="


def with_tree(check):
    """A case that gets the tree of one GPU, and must leave it as it was."""
    def case(program, scratch):
        folder = scratch / "one-gpu"
        explain.make_tree(ONE_GPU, folder)
        before = explain.snapshot(folder)
        program.configure([])
        try:
            wrong = check(program, folder)
            if wrong is not None and explain.snapshot(folder) != before:
                wrong.append("it wrote to the tree")
            return wrong
        finally:
            shutil.rmtree(folder)
    return case


def refused(done, what):
    wrong = []
    if done.returncode == 0:
        wrong.append(f"{what}: exit 0")
    if done.returncode < 0:
        wrong.append(f"{what}: ended by signal {-done.returncode}")
    if done.stdout:
        wrong.append(f"{what}: printed {done.stdout!r}")
    if not done.stderr.strip():
        wrong.append(f"{what}: did not say why")
    return wrong


def other_root_as_root(program, folder):
    if os.geteuid() != 0:
        return None
    wrong = []
    for name in ("vfio-explain", "vfio-helper"):
        done = program.run("--explain", "--sysfs", str(folder), "--config", str(program.config),
                           name=name, privileged=True)
        wrong += refused(done, f"{name} as root")
    return wrong


def other_root_with_a_capability(program, folder):
    if os.geteuid() != 0:
        return None
    done = subprocess.run(
        ["/usr/bin/setpriv", f"--reuid={explain.NOBODY}", f"--regid={explain.NOBODY}", "--clear-groups",
         "--inh-caps=+dac_override", "--ambient-caps=+dac_override", program.folder / "vfio-explain",
         "--explain", "--sysfs", folder, "--config", program.config],
        capture_output=True, text=True, timeout=60, check=False)
    return refused(done, "an ordinary user with a capability")


def by_the_helper(program, folder):
    done = program.run("--explain", "--sysfs", str(folder), "--config", str(program.config),
                       name="vfio-helper")
    if done.returncode != 0 or done.stdout.splitlines() != [ONE_LINE]:
        return [f"vfio-helper --explain: exit {done.returncode}: {done.stdout}{done.stderr}"]
    return []


def not_a_tree(program, folder):
    wrong = []
    for what, path in (("a missing folder", folder / "missing"), ("a file", folder / "bus/pci/rescan"),
                       ("an empty name", "")):
        done = program.run("--explain", "--sysfs", str(path), "--config", str(program.config))
        wrong += refused(done, what)
    return wrong


def wrong_policy(program, folder):
    wrong = []
    for line in ("gpu_vendors = nvidia", "gpu_vendors = 110de", "gpu_vendors = 10de 1002",
                 "gpu_along = 01:00.0", "gpu_along = 0000:01:00", "gpu_along = 0000:01:00.8",
                 "gpu_along = 0000:01:20.0", "gpu_never = all", "gpu_never = 0000:0a:00.0 0000:0b:00.0",
                 "gpu_accelerators = fpga", "gpu_adopt_vfio = perhaps", "gpu_nevr = 0000:0a:00.0",
                 "gpu_never = " + ", ".join(["0000:0a:00.0"] * 65)):
        program.configure([line])
        wrong += refused(program.run("--explain", "--sysfs", str(folder), "--config",
                                     str(program.config)), line[:60])
    return wrong


def wrong_arguments(program, folder):
    wrong = []
    tree = ["--sysfs", str(folder), "--config", str(program.config)]
    for args in (["--explain", *tree, "0000:0a:00.0"], ["--explain", *tree, "--write"],
                 ["--explain", "--sysfs"], ["--explain", "--config", str(folder / "missing"), *tree[:2]]):
        wrong += refused(program.run(*args), " ".join(a.rsplit("/", 1)[-1] for a in args))
    # Root's own program explains nothing to anybody.
    wrong += refused(program.run("--explain", *tree, name="vfio-bind"), "vfio-bind --explain")
    return wrong


def output_that_fails(program, folder):
    drop = {"user": explain.NOBODY, "group": explain.NOBODY, "extra_groups": []}
    with open("/dev/full", "wb") as full:
        done = subprocess.run([program.folder / "vfio-explain", "--explain", "--sysfs", folder, "--config",
                               program.config], stdout=full, stderr=subprocess.PIPE, timeout=60,
                              check=False, **(drop if os.geteuid() == 0 else {}))
    return [] if done.returncode > 0 else [f"a full disk under its output: exit {done.returncode}"]


def real_sysfs(program, _folder):
    """The machine's own /sys, with and without privilege, whatever GPUs it has."""
    wrong = []
    for privileged in (False, True):
        done = program.run("--explain", "--config", str(program.config), privileged=privileged)
        if done.returncode != 0:
            wrong.append(f"exit {done.returncode}: {done.stderr.strip()}")
        for line in done.stdout.splitlines():
            explain.Line(line)
    return wrong


def many_virtual_functions(program, scratch):
    """A network card with 256 virtual functions, which take more slots and buses than a card has, and
    GPUs with full slots around it."""
    lines = ["pci 0000:00:01.0 8086:347a 060400 group=1 driver=pcieport",
             "pci 0000:00:03.0 8086:347a 060400 group=2 driver=pcieport",
             "pci 0000:17:00.0 8086:159b 020000 parent=0000:00:01.0 group=9 driver=ice vfs=256 vfs_max=256"
             " net=enp23s0:up"]
    for i in range(256):
        number = 8 + i  # ARI: the functions go on over slots, then over buses
        address = f"0000:{0x17 + number // 256:02x}:{number // 8 % 32:02x}.{number % 8}"
        lines.append(f"pci {address} 8086:1889 020000 parent=0000:00:01.0 physfn=0000:17:00.0"
                     f" group={100 + i}" + (" driver=iavf" if i % 2 else ""))
    expected = []
    for bus in (0x16, 0x19):
        card = [f"0000:{bus:02x}:00.{f}" for f in range(8)]
        lines.append(f"pci {card[0]} 10de:1e07 030000 parent=0000:00:03.0 group={bus} driver=nvidia")
        lines += [f"pci {a} 10de:10f7 040300 parent=0000:00:03.0 group={bus}" for a in card[1:]]
        expected.append(explain.Line(f"{card[0]} rentable bind={','.join(card)} reasons="))
    folder = scratch / "many"
    explain.make_tree("\n".join(lines), folder)
    program.configure([])
    wrong = explain.compare(expected, program.explain(folder))
    shutil.rmtree(folder)
    return wrong


CASES = (
    ("another root than /sys, as root", with_tree(other_root_as_root)),
    ("another root than /sys, with a capability", with_tree(other_root_with_a_capability)),
    ("vfio-helper --explain", with_tree(by_the_helper)),
    ("no sysfs there", with_tree(not_a_tree)),
    ("policy that is none", with_tree(wrong_policy)),
    ("arguments that are none", with_tree(wrong_arguments)),
    ("output that fails", with_tree(output_that_fails)),
    ("the machine's own sysfs", with_tree(real_sysfs)),
    ("256 virtual functions", many_virtual_functions),
)
