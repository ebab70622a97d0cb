# SPDX-License-Identifier: Apache-2.0
"""What the lab VM may be made of. Every topology has a root port (or a slot of the root bus) of its own, so
that any of them go into one VM; bus numbers differ then, which is why a device is named by its port.

GPUs of QEMU: ati-vga is 1002:5046 (class 0300, no host driver) or, as rv100, 1002:5159 (radeon);
bochs-display and secondary-vga are 1234:1111 (class 0380, bochs-drm).
"""

# Always there: the VGA that firmware and console use, and the chipset's 00:1f.
BOOT_VGA = ["VGA,bus=pcie.0,addr=1.0,romfile="]


def port(slot, *options):
    """A PCIe root port at slot @slot of the root bus, an id of its own behind it."""
    return ",".join([f"pcie-root-port,id=rp{slot:x},chassis={slot},slot={slot},bus=pcie.0,addr={slot:x}.0", *options])


def bridged(slot, *devices):
    """A conventional PCI bus: everything on it is in one IOMMU group."""
    return [port(slot), f"pcie-pci-bridge,id=pb{slot:x},bus=rp{slot:x},addr=0.0",
            *(f"{device},bus=pb{slot:x},addr={n}.0" for n, device in enumerate(devices, 1))]


def slotted(slot, *devices, options=()):
    """Functions of one slot below a root port."""
    more = ",multifunction=on" if len(devices) > 1 else ""
    return [port(slot, *options),
            *(f"{device},bus=rp{slot:x},addr=0.{n}{more if n == 0 else ''}" for n, device in enumerate(devices))]


ATI = "ati-vga,romfile="
RADEON = "ati-vga,model=rv100"

TOPOLOGIES = {
    "alone": (0x2, slotted(0x2, "secondary-vga,romfile=")),
    "audio": (0x3, slotted(0x3, RADEON, "intel-hda")),
    "pair": (0x4, bridged(0x4, ATI, "bochs-display")),
    "nic": (0x5, bridged(0x5, ATI, "e1000,romfile=")),
    "nvme": (0x6, slotted(0x6, "bochs-display", "nvme,serial=lab-foreign,drive=foreign")),
    "multi": (0x7, slotted(0x7, RADEON, "intel-hda", "qemu-xhci")),
    "noacs": (0x8, slotted(0x8, ATI, options=["disable-acs=on"])),
    "second": (0x9, slotted(0x9, "bochs-display")),
    "dma": (0xa, slotted(0xa, "nvme,serial=lab-dma,drive=dma")),
}
