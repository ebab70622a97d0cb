# SPDX-License-Identifier: Apache-2.0
"""The whole grammar of what the helper may execute for a slot: each option once per pattern, nothing else."""
import re

NUMBER = r"[1-9][0-9]{0,7}"
FD = r"(?:[3-9]|1[0-9])"
NAME = r"[a-z0-9][a-z0-9-]{0,31}"
PORT = r"[1-9][0-9]{0,4}"

QEMU = {
    "-sandbox": [r"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    "-nodefaults": None, "-no-user-config": None,
    "-display": [r"none"],
    "-name": [f"guest={NAME}"],
    "-machine": [r"q35,usb=off,sata=off,smbus=off,hpet=off,vmport=off,graphics=off,dump-guest-core=off"],
    "-accel": [r"tcg,thread=multi|kvm"],
    "-cpu": [r"max|host"],
    "-smp": [NUMBER],
    "-m": [NUMBER],
    "-add-fd": [f"set=({FD}),fd=\\1"] * 3,
    "-blockdev": [
        rf"driver=(?:raw|qcow2),node-name=base,read-only=on(?:,backing=)?,file\.driver=file,"
        rf"file\.filename=/dev/fdset/{FD},file\.read-only=on,file\.locking=off",
        rf"driver=qcow2,node-name=root,discard=unmap,detect-zeroes=unmap,backing=base,file\.driver=file,"
        rf"file\.filename=/dev/fdset/{FD},file\.discard=unmap",
        rf"driver=raw,node-name=seed,read-only=on,file\.driver=file,file\.filename=/dev/fdset/{FD},"
        rf"file\.read-only=on"],
    "-chardev": [f"socket,id={name},fd={FD},server=on,wait=off" for name in ("qmp", "console", "ready")],
    "-netdev": [rf"stream,id=net,server=off,addr\.type=fd,addr\.str={FD}"],
    "-device": [r"virtio-net-pci,netdev=net,romfile=,mac=52:54:00:51:44:[0-9a-f]{2}",
                r"virtio-blk-pci,drive=root,bootindex=1", r"virtio-blk-pci,drive=seed", r"virtio-rng-pci",
                r"isa-serial,chardev=console", r"virtio-serial-pci",
                r"virtserialport,chardev=ready,name=org\.qudata\.ready\.0"],
    "-mon": [r"chardev=qmp,mode=control"],
    "-kernel": [f"/proc/self/fd/{FD}"], "-initrd": [f"/proc/self/fd/{FD}"], "-append": [r"[ -~]{1,511}"],
}
QEMU_OPTIONAL = {"-initrd", "-append"}
# Without a kernel: OVMF and its variables.
QEMU_OVMF = {k: v for k, v in QEMU.items() if k not in ("-kernel", "-initrd", "-append")} | {
    "-machine": [QEMU["-machine"][0] + r",pflash0=firmware,pflash1=vars"],
    "-add-fd": [f"set=({FD}),fd=\\1"] * 5,
    "-blockdev": QEMU["-blockdev"] + [
        rf"driver=raw,node-name=firmware,read-only=on,file\.driver=file,file\.filename=/dev/fdset/{FD},"
        rf"file\.read-only=on,file\.locking=off",
        rf"driver=raw,node-name=vars,read-only=off,file\.driver=file,file\.filename=/dev/fdset/{FD},"
        rf"file\.read-only=off"],
}

PASST = {
    "--foreground": None, "--quiet": None, "--stderr": None, "--ipv4-only": None, "--no-map-gw": None,
    "--interface": [r"lo"], "--address": [r"10\.0\.2\.15"], "--netmask": [r"24"], "--gateway": [r"10\.0\.2\.2"],
    "--mac-addr": [r"52:54:00:51:44:ff"], "--udp-ports": [r"none"], "--dns": [r"[0-9.]{7,15}"],
    "--fd": [FD], "--tcp-ports": [rf"127\.0\.0\.1/{PORT}:{PORT}|none"],
}


def _options(words, table, optional, many=()):
    seen = {}
    at = 0
    while at < len(words):
        option = words[at]
        assert option in table, f"unknown option {option!r}"
        at += 1
        if table[option] is None:
            seen.setdefault(option, []).append("")
            continue
        assert at < len(words), f"{option} without a value"
        seen.setdefault(option, []).append(words[at])
        at += 1
    for option, patterns in table.items():
        values = seen.get(option, [])
        if patterns is None:
            assert len(values) == 1, f"{option} is there {len(values)} times"
        elif option in many:
            assert values and all(re.fullmatch(patterns[0], v) for v in values), (option, values)
        elif values or option not in optional:
            assert len(values) == len(patterns), f"{option}: {values}"
            assert all(re.fullmatch(p, v) for p, v in zip(patterns, values)), f"{option}: {values}"


def check_argv(argv):
    """Which of the three programs it is; asserts when the line has anything that it may not have."""
    words = [a.decode("ascii") for a in argv]
    program = words[0].rsplit("/", 1)[-1]
    assert all(re.fullmatch(r"[ -~]*", w) for w in words), words
    if words == ["vm-launch"]:  # still at the gate: it has no argument
        return "vm-launch"
    if program.startswith("qemu-system"):
        _options(words[1:], QEMU if "-kernel" in words else QEMU_OVMF, QEMU_OPTIONAL)
        return "qemu"
    if program.startswith("passt"):
        _options(words[1:], PASST, (), many=("--tcp-ports",))
        return "passt"
    assert program == "qemu-img", words
    assert words[1:5] == ["create", "-q", "-f", "qcow2"] and len(words) == 7, words
    assert re.fullmatch(f"/proc/self/fd/{FD}", words[5]) and re.fullmatch(f"{NUMBER}M", words[6]), words
    return "qemu-img"
