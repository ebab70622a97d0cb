# SPDX-License-Identifier: Apache-2.0
"""Random machines, and what must be true of every answer about them.

A machine is a list of functions below root ports, switches and nothing, thrown into groups of which few
or many hold more than one card, with drivers and policy thrown as well. There is no expected output:
every printed line is held to the rules, in both directions, so that neither a reason that is missing nor
one too many passes. The n-th tree of a seed is always the same one: --seed N --trees 1 repeats tree N.
"""
import random
import shutil

import explain

BRIDGES = ("0600", "0604")
COMPANIONS = ("0403", "0c03", "0c80")
GPU_CLASSES = ("0300", "0302", "0380")
OTHERS = {"0108": "nvme", "0200": "e1000e", "0207": "mlx5_core", "0106": "ahci", "0c03": "xhci_hcd",
          "0403": "snd_hda_intel", "0680": "nvidia-nvswitch", "1200": "xclmgmt", "1080": "ccp",
          "0700": "serial", "0580": "switchtec", "0601": "lpc_ich", "0401": "snd_virtuoso"}
KEEPERS = ("vfio-pci", "pci-stub", "pciback")
OWN_SWITCH = ("1002", "8086")  # vendors of cards with a switch of their own


class Function:
    """One PCI function as it is thrown, with what the rules ask about it."""

    def __init__(self, address, vendor, klass, above):
        self.address, self.vendor, self.klass, self.above = address, vendor, klass, above
        self.driver, self.group, self.boot_vga, self.lit = "", None, None, False
        self.net_up, self.vfs, self.mdevs, self.physfn = False, 0, 0, None
        self.card = None  # addresses of a card with its own switch that nothing else hangs on

    slot = property(lambda self: self.address.rsplit(".", 1)[0])

    def line(self):
        words = [f"pci {self.address} {self.vendor}:1234 {self.klass}00"]
        words += [f"parent={self.above.address}"] if self.above else []
        words += [f"driver={self.driver}"] if self.driver else []
        words += [f"group={self.group}"] if self.group is not None else []
        words += [f"boot_vga={self.boot_vga}"] if self.boot_vga is not None else []
        words += ["connector=card9-DP-1:connected:enabled"] if self.lit else []
        words += [f"net=n{self.address.replace(':', '').replace('.', '')}:up"] if self.net_up else []
        words += [f"vfs={self.vfs}"] if self.vfs else []
        serial = int(self.slot.replace(":", ""), 16)
        words += [f"mdev=00000000-0000-0000-0000-{serial:012x}"] if self.mdevs else []
        words += [f"physfn={self.physfn.address}"] if self.physfn else []
        return " ".join(words)


class Machine:
    def __init__(self, rng):
        self.rng = rng
        self.functions, self.strangers = [], []
        self.domain = rng.choice((0, 0, 0, 1, 0xffff, 0x10000))
        self.bus, self.root_slots = 0, 0
        for _ in range(rng.randint(1, 5)):
            self.below_root()
        self.throw_groups()
        self.throw_states()
        self.throw_policy()

    # ---- what hangs where ----

    def add(self, bus, slot, function, vendor, klass, above):
        address = f"{self.domain:04x}:{bus:02x}:{slot:02x}.{function}"
        self.functions.append(Function(address, vendor, klass, above))
        return self.functions[-1]

    def next_bus(self):
        self.bus += 1
        return self.bus

    def below_root(self):
        self.root_slots += 1
        if self.rng.random() < 0.15:
            self.endpoint(0, self.root_slots, None)
            return
        if self.rng.random() < 0.2:
            self.add(0, self.root_slots, 0, "1022", "0600", None)
            port = self.add(0, self.root_slots, 1, "1022", "0604", None)
        else:
            port = self.add(0, self.root_slots, 0, "8086", "0604", None)
        self.below_port(port, 0)

    def below_port(self, port, depth):
        if depth < 2 and self.rng.random() < 0.35:
            upper = self.add(self.next_bus(), 0, 0, "10b5", "0604", port)
            bus = self.next_bus()
            for slot in range(self.rng.randint(1, 4)):
                self.below_port(self.add(bus, slot, 0, "10b5", "0604", upper), depth + 1)
        elif self.rng.random() < 0.1:
            bus = self.next_bus()  # a conventional bus: several slots
            for slot in range(self.rng.randint(1, 3)):
                self.endpoint(bus, slot, port)
        else:
            self.endpoint(self.next_bus(), 0, port)

    def endpoint(self, bus, slot, above):
        kind = self.rng.random()
        if kind < 0.6:
            self.graphics(bus, slot, above)
        else:
            klass = self.rng.choice(list(OTHERS))
            vendor = "10de" if klass == "0680" else self.rng.choice(("8086", "144d", "15b3", "10de"))
            for function in range(self.rng.choice((1, 1, 2))):
                self.add(bus, slot, function, vendor, klass, above)

    def graphics(self, bus, slot, above):
        vendor = self.rng.choice(("10de", "10de", "10de", "1002", "8086"))
        if vendor in OWN_SWITCH and above and self.rng.random() < 0.6:
            self.card_with_switch(bus, slot, above, vendor)
            return
        self.add(bus, slot, 0, vendor, self.rng.choice(GPU_CLASSES), above)
        for function in range(1, self.rng.choice((1, 2, 2, 2, 4))):
            self.add(bus, slot, function, vendor, self.rng.choice(COMPANIONS), above)
        if self.rng.random() < 0.1:
            self.add(bus, slot, 5, vendor, self.rng.choice(("1080", "0700", "0200", "0680")), above)
        if self.rng.random() < 0.1:
            gpu = self.functions[-1]
            gpu = next(f for f in self.functions if f.slot == gpu.slot)
            gpu.vfs = 1
            self.add(bus, slot, 7, vendor, gpu.klass, above).physfn = gpu

    def card_with_switch(self, bus, slot, above, vendor):
        upper = self.add(bus, slot, 0, vendor, "0604", above)
        inner = self.next_bus()
        gpu_port = self.add(inner, 1, 0, vendor, "0604", upper)
        gpu = self.add(self.next_bus(), 0, 0, vendor, self.rng.choice(GPU_CLASSES), gpu_port)
        card = [gpu]
        if self.rng.random() < 0.5:
            card.append(self.add(self.bus, 0, 1, vendor, "0403", gpu_port))
        if self.rng.random() < 0.7:
            port = self.add(inner, 4, 0, vendor, "0604", upper)
            card.append(self.add(self.next_bus(), 0, 0, vendor, self.rng.choice(COMPANIONS), port))
        if self.rng.random() < 0.2:  # something else: no longer a card as the rules know one
            port = self.add(inner, 5, 0, vendor, "0604", upper)
            self.add(self.next_bus(), 0, 0, "144d", "0108", port)
        else:
            gpu.card = {f.address for f in card}

    # ---- groups, drivers, policy ----

    def throw_groups(self):
        shared = self.rng.choice((0, 0.05, 0.2, 0.5))
        together = self.rng.random() < 0.7  # functions of a slot in one group
        missing = self.rng.choice((0, 0, 0, 0.1))
        number, by_slot = 0, {}
        for f in self.functions:
            if together and f.slot in by_slot and not f.physfn:
                f.group = by_slot[f.slot]
            elif number and self.rng.random() < shared:
                f.group = self.rng.randint(1, number)
            else:
                number += 1
                f.group = number
            by_slot.setdefault(f.slot, f.group)
            if self.rng.random() < missing:
                f.group = None
        if self.rng.random() < 0.1 and number:
            self.strangers.append((f"f{self.rng.randint(0, 9)}000000.dma", self.rng.randint(1, number)))

    def throw_states(self):
        odd = self.rng.choice((0, 0, 0.03, 0.15))
        for f in self.functions:
            native = {"0604": "pcieport", "0600": ""}.get(f.klass, OTHERS.get(f.klass, ""))
            if f.klass in GPU_CLASSES:
                native = {"10de": "nvidia", "1002": "amdgpu"}.get(f.vendor, "xe")
            f.driver = native if self.rng.random() < 0.75 else ""
            if self.rng.random() < odd:
                f.driver = self.rng.choice(KEEPERS)
            if f.klass in GPU_CLASSES:
                f.boot_vga = {"0300": int(self.rng.random() < odd)}.get(f.klass)
                f.lit = self.rng.random() < odd
                f.mdevs = int(self.rng.random() < odd / 2 and not f.physfn)
                if f.vendor == "10de" and self.rng.random() < odd:
                    f.driver = "nouveau"
            f.net_up = f.klass in ("0200", "0c03") and f.driver in ("e1000e", "xhci_hcd") and \
                self.rng.random() < 0.2

    def throw_policy(self):
        chance = self.rng.random
        self.vendors = self.rng.choice((("10de",), ("10de",), ("10de", "1002", "8086")))
        self.accelerators = ("10de",) if chance() < 0.1 else ()
        addresses = [f.address for f in self.functions]
        self.along = {a for a in addresses if chance() < self.rng.choice((0, 0.1, 0.4))}
        self.along = set(sorted(self.along)[:30])
        self.never = {a for a in addresses if chance() < 0.03}
        self.allow_display, self.allow_vfs = chance() < 0.2, chance() < 0.3
        self.allow_nouveau, self.adopt = chance() < 0.2, chance() < 0.3

    def settings(self):
        def yes(value):
            return "yes" if value else "no"
        lines = [f"gpu_vendors = {', '.join(self.vendors)}",
                 f"gpu_allow_boot_display = {yes(self.allow_display)}",
                 f"gpu_allow_virtual_functions = {yes(self.allow_vfs)}",
                 f"gpu_allow_nouveau = {yes(self.allow_nouveau)}",
                 f"gpu_adopt_vfio = {yes(self.adopt)}"]
        for key, items in (("accelerators", self.accelerators), ("along", self.along),
                           ("never", self.never)):
            if items:
                lines.append(f"gpu_{key} = {', '.join(sorted(items))}")
        return lines

    def description(self):
        lines = [f.line() for f in self.functions]
        return "\n".join(lines + [f"stranger {n} group={g}" for n, g in self.strangers])

    # ---- the rules, asked about what was thrown ----

    def is_gpu(self, f):
        return f.klass in GPU_CLASSES and f.vendor in self.vendors or \
            f.klass == "1200" and f.vendor in self.accelerators

    def slot_mates(self, f):
        return [o for o in self.functions if o.slot == f.slot and o is not f and not o.physfn]

    def strange_mates(self, gpu):
        """What makes a GPU's slot the host's: neither GPU nor the class of a companion."""
        if gpu.physfn:
            return []
        return [o for o in self.slot_mates(gpu) if not self.is_gpu(o) and o.klass not in COMPANIONS]

    def below(self, port):
        def hangs(f):
            while f.above:
                f = f.above
                if f is port:
                    return True
            return False
        return [f for f in self.functions if hangs(f)]

    def is_companion(self, f, gpu):
        """Whether every reading of the rules makes @f a companion of @gpu."""
        return self.may_be_companion(f, gpu) and (f.slot == gpu.slot or f.address in (gpu.card or ()))

    def may_be_companion(self, f, gpu):
        """Whether any reading of the rules makes @f a companion of @gpu."""
        if f.klass not in COMPANIONS or f.physfn or gpu.physfn or self.strange_mates(gpu):
            return False
        if f.slot == gpu.slot:
            return True
        port = gpu.above
        while gpu.vendor in OWN_SWITCH and port:
            inside = [o for o in self.below(port) if o.klass != "0604" and not o.physfn]
            if f in inside and all(o is gpu or o.klass in COMPANIONS for o in inside):
                return port.above is not None  # a root port is no switch
            port = port.above
        return False


def groups_of(machine, bound, gpus):
    """The groups of a card: of what is bound, and of companions that are not, being critical."""
    mine = [g for g in gpus if g in bound]
    critical = [f for f in machine.functions if f.net_up and
                any(machine.is_companion(f, g) for g in mine)]
    return {f.group for f in (*bound, *critical)} - {None}


def reasons_of(machine, bound, gpus):
    """Every reason that the rules demand of a card with the bind set @bound, and those they leave open."""
    must, may = set(), set()
    groups = groups_of(machine, bound, gpus)
    for f in bound:
        if f.group is None:
            must.add(f"no_iommu:{f.address}")
        if (f.boot_vga or f.lit) and f in gpus and not machine.allow_display:
            must.add(f"boot_display:{f.address}")
        if f.vfs or f.mdevs or f in gpus and f.physfn and not machine.allow_vfs:
            must.add(f"virtualised:{f.address}")
        if f.driver in ("pci-stub", "pciback") or f.driver == "vfio-pci" and not machine.adopt or \
                f in gpus and f.address in machine.never:
            must.add(f"reserved:{f.address}")
        elif f.address in machine.never:
            may.add(f"reserved:{f.address}")
        if f.driver == "nouveau" and not machine.allow_nouveau:
            must.add(f"busy:{f.address}")
    for f in machine.functions:
        if f.group in groups and f not in bound:
            if f.klass not in BRIDGES or f.driver not in ("", "pcieport"):
                must.add(f"not_viable:{f.address}")
                may.add(f"reserved:{f.address}")
    for gpu in set(bound) & set(gpus):
        must |= {f"not_viable:{f.address}" for f in machine.functions
                 if f.net_up and machine.is_companion(f, gpu)}
        must |= {f"not_viable:{f.address}" for f in machine.strange_mates(gpu)}
        if machine.strange_mates(gpu):
            may |= {f"not_viable:{f.address}" for f in machine.slot_mates(gpu)}
        may |= {f"no_iommu:{f.address}" for f in machine.functions
                if f.net_up and f.group is None and machine.is_companion(f, gpu)}
    must |= {f"not_viable:{name}" for name, group in machine.strangers if group in groups}
    return must, may


def check_line(machine, line, by_address, gpus):
    wrong = []
    bound = [by_address[a] for a in line.bind]
    groups = groups_of(machine, bound, gpus)
    mine = [g for g in gpus if g in bound]
    if line.address not in line.bind:
        wrong.append("a bind without the GPU itself")
    for f in bound:
        if f.klass in BRIDGES or f.klass == "0680":
            wrong.append(f"binds {f.address}, class {f.klass}")
        if f in gpus or any(machine.may_be_companion(f, g) for g in mine):
            continue
        if f.driver or f.address not in machine.along or f.group not in groups:
            wrong.append(f"binds {f.address}, which is neither GPU, companion nor bound along")
    for gpu in mine:
        companions = {f.address for f in machine.functions if machine.is_companion(f, gpu)
                      and not f.net_up}  # bound or not, what is critical is a reason against
        wrong += [f"leaves out companion {a}" for a in sorted(companions - set(line.bind))]
    strange = [f for g in mine for f in machine.slot_mates(g) if machine.strange_mates(g)]
    along = {f.address for f in machine.functions
             if f.group in groups and f.address in machine.along and not f.driver
             and f.klass not in (*BRIDGES, "0680") and not f.net_up and f not in gpus + strange}
    wrong += [f"leaves out {a}, which policy binds along" for a in sorted(along - set(line.bind))]
    wrong += [f"leaves out GPU {g.address} of its groups" for g in gpus
              if g.group in groups and g not in bound]
    must, may = reasons_of(machine, bound, gpus)
    half = {r for r in line.reasons if r.startswith("half_bound:")}
    cards = [[g, *(f for f in machine.functions if machine.is_companion(f, g))] for g in mine]
    owners = [{f.driver if f.driver in KEEPERS else "host" for f in card if f.driver} for card in cards]
    if half and all(len(o) < 2 for o in owners) and not any(f.driver == "" for f in bound):
        wrong.append("half bound with one owner")
    if not half and any({"vfio-pci", "host"} <= o for o in owners):
        wrong.append("has VFIO and the host as owners and is not half bound")
    wrong += [f"does not give {r}" for r in sorted(must - set(line.reasons))]
    wrong += [f"gives {r}" for r in sorted(set(line.reasons) - half - must - may)]
    first = line.reasons[0].split(":")[0] if line.reasons else "rentable"
    if line.verdict != first or explain.wrong_order(line.reasons):
        wrong.append("verdict is not the first reason, or the reasons are out of order")
    return [f"{line.address}: {w}\n    {line.text}" for w in wrong]


def check(machine, printed):
    lines = [explain.Line(p) for p in printed]
    by_address = {f.address: f for f in machine.functions}
    gpus = [f for f in machine.functions if machine.is_gpu(f)]
    want = sorted((g.address for g in gpus), key=explain.address_key)
    if [line.address for line in lines] != want:
        return [f"GPUs {[line.address for line in lines]}, must be {want}"]
    wrong = []
    for line in lines:
        wrong += check_line(machine, line, by_address, gpus)
    for i, one in enumerate(lines):
        for other in lines[:i]:
            mine, theirs = (groups_of(machine, [by_address[a] for a in l.bind], gpus)
                            for l in (one, other))
            if mine & theirs and (one.bind, one.verdict, one.reasons) != (
                    other.bind, other.verdict, other.reasons):
                wrong.append(f"{one.address} and {other.address} meet in a group and differ\n"
                             f"    {one.text}\n    {other.text}")
    return wrong


def run(program, scratch, seed, count):
    wrong, rentable, lines = [], 0, 0
    for number in range(seed, seed + count):
        rng = random.Random(number)
        machine = Machine(rng)
        folder, copy = scratch / "tree", scratch / "copy"
        explain.make_tree(machine.description(), folder)
        explain.shuffled_copy(folder, copy, rng)
        before = explain.snapshot(folder)
        program.configure(machine.settings())
        try:
            printed = program.explain(folder)
            found = check(machine, printed)
            if program.explain(copy) != printed:
                found.append("another answer when directories are listed in another order")
        except AssertionError as why:
            printed, found = [], [str(why)]
        if explain.snapshot(folder) != before:
            found.append("it wrote to the tree")
        rentable += sum(" rentable " in p for p in printed)
        lines += len(printed)
        wrong += [f"tree {number}: {f}" for f in found]
        shutil.rmtree(folder)
        shutil.rmtree(copy)
        if len(wrong) > 40:
            wrong.append("... and no further")
            break
    # Trees of which none, or nearly all, are rentable would test little.
    if not wrong and count >= 100 and not lines / 10 < rentable < lines * 9 / 10:
        wrong.append(f"{rentable} of {lines} GPUs are rentable: the trees are badly thrown")
    print(f"     {lines} GPUs judged, {rentable} rentable")
    return wrong
