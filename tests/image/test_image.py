#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""qudatactl image, with the real qemu-img and gpgv and a server of its own: good disks and hostile ones, downloads that
end early, kill -9 at any moment, a full disk, images in use. Usage: test_image.py QUDATACTL MKIMAGE
"""
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import Server  # noqa: E402

PROGRAM, MKIMAGE = (os.path.abspath(a) for a in sys.argv[1:3])
OK, FAILED, USAGE, NOT_FOUND, CONFLICT, DENIED = 0, 1, 2, 3, 6, 7
KNOWN = {".lock"}


def run(*args, **kwargs):
    return subprocess.run([str(a) for a in args], check=True, capture_output=True, **kwargs)


class Rig:
    """A folder of images, a helper's configuration and state, disks to import, and a server."""

    def __init__(self, place):
        self.place = pathlib.Path(place)
        os.chmod(place, 0o755)
        self.images = self.place / "images"
        self.images.mkdir(mode=0o755)
        self.state = self.place / "state"
        (self.state / "vms").mkdir(parents=True)
        self.conf = self.place / "helper.conf"
        self.conf.write_text(f"image_dir = {self.images}\nstate_dir = {self.state}\n")
        os.chmod(self.conf, 0o644)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("QUDATA_")}
        self.env["QUDATA_CTL_SOCKET"] = str(self.place / "no.sock")
        self.server = Server(self.place)
        self.disk = self.server.files / "disk.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", self.disk, "32M")
        run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 3M", "-c", "write -P 9 30M 64k", self.disk)
        self.large = self.place / "large.raw"
        data = bytearray(random.Random(1).randbytes(8 << 20))
        data[510:512] = b"\x55\xaa"
        self.large.write_bytes(data)

    def argv(self, *args):
        return [PROGRAM, "image", *[str(a) for a in args], "--helper-config", str(self.conf)]

    def run(self, *args, code=OK, env=None, settled=True):
        done = subprocess.run(self.argv(*args), env={**self.env, **(env or {})}, capture_output=True, text=True,
                              timeout=120, check=False)
        assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("qudatactl: ")]
        assert len(errors) == (0 if code == OK else errors and 1), done.stderr
        if settled:
            self.settled()
        return errors[0] if errors else done.stdout

    def bring(self, name, source=None, *args, **kwargs):
        return self.run("import", name, "--from", source or self.disk, *args, **kwargs)

    def settled(self):
        left = {p.name for p in self.images.iterdir() if p.name.startswith(".")} - KNOWN
        assert not left, f"left over: {left}"

    def url(self, kind, name="disk.qcow2"):
        return f"{self.server.url}/{kind}/{name}"

    def remove(self, *names):
        for name in names:
            self.run("remove", name, "--yes")

    def list(self):
        return {i["name"]: i for i in json.loads(self.run("list", "--json"))}


def same(a, b):
    return subprocess.run(["qemu-img", "compare", "-q", a, b], check=False).returncode == 0


def sha(path, kind="sha256"):
    return hashlib.new(kind, pathlib.Path(path).read_bytes()).hexdigest()


# ---- what is taken ---------------------------------------------------------------------------------------------
def disks_of_every_kind(rig):
    """Each kind of disk comes out as a qcow2 with the same content and a header of our own."""
    variants = {"plain": [], "old": ["-o", "compat=0.10"], "packed": ["-c"], "large-clusters": ["-o", "cluster_size=2M"],
                "wide": ["-o", "extended_l2=on,cluster_size=128k"]}
    for name, options in variants.items():
        disk = rig.place / f"{name}.qcow2"
        run("qemu-img", "convert", "-O", "qcow2", *options, rig.disk, disk)
        rig.bring(name, disk)
        assert same(rig.images / name / "disk.img", rig.disk), name
        info = json.loads(run("qemu-img", "info", "--output=json", rig.images / name / "disk.img").stdout)
        assert info["format-specific"]["data"]["compat"] == "1.1" and info["cluster-size"] == 65536, info
    rig.bring("raw", rig.large)
    assert same(rig.images / "raw/disk.img", rig.large)
    conf = (rig.images / "raw/image.conf").read_text()
    assert conf == "format = qcow2\nmin_disk_mib = 8\n", conf
    rig.run("verify", "--all")
    listed = rig.list()
    assert set(listed) == {*variants, "raw"}
    assert listed["plain"]["virtual_bytes"] == 32 << 20 and listed["plain"]["min_disk_mib"] == 32
    assert listed["plain"]["boot"] == "firmware" and listed["plain"]["used_by"] == []
    assert listed["plain"]["checksums"] == "recorded"
    for path in (rig.images / "raw").iterdir():
        assert path.stat().st_mode & 0o777 == 0o644, path
    rig.remove(*listed)
    assert rig.list() == {}


def kernel_and_size(rig):
    kernel, initrd = rig.place / "vmlinuz", rig.place / "initrd.gz"
    kernel.write_bytes(b"kernel" * 1000)
    initrd.write_bytes(b"initrd" * 1000)
    append = 'root=/dev/vda rw console=ttyS0 x="a b" y=$(z)'
    rig.bring("k", rig.disk, "--kernel", kernel, "--initrd", initrd, "--append", append, "--size", "3")
    image = rig.images / "k"
    assert (image / "image.conf").read_text() == f"format = qcow2\nmin_disk_mib = 3072\nappend = {append}\n"
    assert (image / "kernel").read_bytes() == kernel.read_bytes() and (image / "initrd").read_bytes() == initrd.read_bytes()
    assert rig.list()["k"]["virtual_bytes"] == 3 << 30 and rig.list()["k"]["boot"] == "kernel"
    assert sum(p.stat().st_blocks * 512 for p in image.iterdir()) < 16 << 20, "not thin"
    rig.run("verify", "k")
    (image / "kernel").write_bytes(b"other")
    assert "kernel is not what was recorded" in subprocess.run(rig.argv("verify", "k"), env=rig.env, text=True, check=False,
                                                               capture_output=True).stdout
    rig.remove("k")
    big = rig.place / "big.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", big, "2G")
    assert "only enlarges" in rig.bring("big", big, "--size", "1", code=FAILED)
    for bad in ("x\ny = 1", "é", "a" * 512):
        rig.bring("k", rig.disk, "--kernel", kernel, "--append", bad, code=FAILED)
    ext4 = rig.place / "ext4"
    run("mke2fs", "-q", "-t", "ext4", ext4, "8M")
    assert "--kernel" in rig.bring("fs", ext4, code=FAILED)
    rig.bring("fs", ext4, "--kernel", kernel)
    rig.remove("fs")


def usage(rig):
    for args in (["x"], ["X", "--from", rig.disk], ["../x", "--from", rig.disk], ["x" * 33, "--from", rig.disk],
                 ["x", "--from", rig.disk, "--sha256", "12"], ["x", "--from", rig.disk, "--format", "vmdk"],
                 ["x", "--from", rig.disk, "--append", "a"], ["x", "--from", rig.disk, "--size", "0"],
                 ["x", "--from", rig.disk, "--signature", "s"],
                 ["x", "--from", rig.disk, "--sha256", "0" * 64, "--checksums", "f"]):
        rig.run("import", *args, code=USAGE)
    rig.run("verify", code=USAGE)
    rig.run("remove", "none", code=NOT_FOUND)
    rig.run("verify", "none", code=NOT_FOUND)
    rig.bring("x", rig.place / "none", code=FAILED)
    rig.bring("x", "/dev/zero", code=FAILED)
    rig.bring("x")
    assert "--force" in rig.bring("x", code=CONFLICT)
    rig.run("remove", "x", code=USAGE)  # nobody can be asked
    rig.remove("x")
    if os.geteuid() == 0:
        os.chmod(rig.images, 0o777)
        assert "chmod 755" in rig.bring("x", code=DENIED)
        os.chmod(rig.images, 0o755)


def not_as_root(rig):
    """Others may look, and are told what they need for more."""
    if os.geteuid() != 0:
        return "needs root"
    rig.bring("x")
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *rig.argv()]
    for args, code in ((["list"], 0), (["verify", "x"], 0), (["remove", "x", "--yes"], DENIED),
                       (["import", "y", "--from", rig.disk], DENIED), (["create", "y"], DENIED)):
        argv = as_nobody[:-2] + [str(a) for a in args] + as_nobody[-2:]
        done = subprocess.run(argv, env=rig.env, capture_output=True, text=True, check=False)
        assert done.returncode == code and (code == 0 or "run this as root" in done.stderr), (args, done)
    os.chmod(rig.state / "vms", 0o700)
    done = subprocess.run(as_nobody[:-2] + ["list"] + as_nobody[-2:], env=rig.env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1].split()[-1] == "?", done.stdout
    rig.remove("x")
    return None


# ---- downloads -------------------------------------------------------------------------------------------------
def downloads(rig):
    ca = ["--cacert", rig.server.cacert]
    rig.bring("x", rig.url("plain") + "?token=s3cret", *ca, "--sha256", sha(rig.disk).upper())
    assert same(rig.images / "x/disk.img", rig.disk)
    sums = (rig.images / "x/SHA256SUMS").read_text()
    assert "checksum verified" in sums and "/disk.qcow2," in sums and "s3cret" not in sums, sums
    rig.bring("x", rig.url("to-https"), *ca, "--force")
    assert "certificate" in rig.bring("y", rig.url("plain"), code=FAILED)
    assert "checksum" in rig.bring("y", rig.url("plain"), *ca, "--sha256", "0" * 64, code=FAILED)
    assert "another protocol" in rig.bring("y", rig.url("to-http"), *ca, code=FAILED)
    assert "another protocol" in rig.bring("y", rig.url("to-file"), *ca, code=FAILED)
    assert "redirects" in rig.bring("y", rig.url("round"), *ca, code=FAILED)
    assert "404" in rig.bring("y", rig.url("plain", "none"), *ca, code=FAILED)
    for url in ("http://127.0.0.1/x", "ftp://127.0.0.1/x", "smb://127.0.0.1/x"):
        assert "only https" in rig.bring("y", url, code=FAILED)
    assert "password" in rig.bring("y", "https://u:p@127.0.0.1/x", code=FAILED)
    rig.bring("y", f"file://{rig.disk}")
    rig.remove("x", "y")


def hears_only_the_server(parent):
    """Else whoever takes it over could change the file behind the checksum, or write to the operator's terminal."""
    (child,) = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    links = [os.readlink(fd) for fd in pathlib.Path(f"/proc/{child}/fd").iterdir()]
    strange = [link for link in links if link != "/dev/null" and not link.startswith(("socket:", "pipe:", "anon_inode:"))]
    assert not strange, strange
    assert sum(link.startswith("pipe:") for link in links) <= 3, links  # one is to the parent, two are libcurl's own


def downloads_that_end_early(rig):
    ca = ["--cacert", rig.server.cacert]
    rig.server.requests.clear()
    rig.bring("x", rig.url("cut"), *ca, "--sha256", sha(rig.disk))
    begins = [begin for _, begin in rig.server.requests]
    assert len(begins) == 3 and begins == sorted(begins) and begins[1] > 0, begins
    assert "cannot go on" in rig.bring("y", rig.url("cut-for-good"), *ca, code=FAILED)
    rig.server.requests.clear()
    rig.bring("y", rig.url("changing"), *ca, code=FAILED)  # another file at the second request
    process = subprocess.Popen(rig.argv("import", "y", "--from", rig.url("stall"), *ca), env=rig.env, text=True,
                               stderr=subprocess.PIPE)
    await_(lambda: any(disk.stat().st_size for disk in rig.images.glob(".new.*/disk")))
    if os.geteuid() == 0:
        hears_only_the_server(process.pid)
    process.send_signal(signal.SIGTERM)
    assert "interrupted; nothing was changed" in process.communicate(timeout=60)[1] and process.returncode == FAILED
    rig.settled()
    rig.remove("x")


def downloads_that_stall(rig):
    """A server that is slow, silent or wrong about lengths costs a bounded number of attempts, and the error helps."""
    right, size = ["--sha256", sha(rig.disk)], rig.disk.stat().st_size
    gives_up = ("next to nothing comes for 2 s", "5 attempts", "import the file")
    cases = (("stall-once", right, OK, ()), ("away", right, OK, ()), ("chunked-once", right, OK, ()),
             ("stall", [], FAILED, gives_up),
             ("drip", [], FAILED, gives_up), ("silent", [], FAILED, gives_up),
             ("creep", [], FAILED, ("the connection breaks", "5 attempts", "import the file")),
             ("stall-unnamed", [], FAILED, ("cannot go on",)), ("elsewhere", [], FAILED, ("cannot go on",)),
             ("announces-more", right, FAILED, (f"announced {size + 1000} bytes and has no more than {size}",)),
             ("announces-less", right, FAILED, ("wrong checksum",)))
    rig.server.requests.clear()
    running = []
    for i, (kind, args, *_) in enumerate(cases):  # side by side, each in a folder of its own: most of it is waiting
        folder = rig.place / f"images-{i}"
        folder.mkdir(mode=0o755)
        argv = rig.argv("import", "y", "--from", rig.url(kind), "--cacert", rig.server.cacert, "--timeout", "2", *args,
                        "--images-dir", folder)
        running.append(subprocess.Popen(argv, env=rig.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    for i, ((kind, _, code, words), process) in enumerate(zip(cases, running)):
        out, err = process.communicate(timeout=240)
        assert process.returncode == code and all(word in err for word in words), (kind, out, err)
        left = {path.name for path in (rig.place / f"images-{i}").iterdir()}
        assert left == {".lock", "y"} if code == OK else left == {".lock"}, (kind, left)
    begins = {kind: [b for path, b in rig.server.requests if path == f"/{kind}/disk.qcow2"] for kind, *_ in cases}
    # A busy machine may cost one of them an attempt that brought nothing: so not more, and each goes on where it was.
    assert all(got == sorted(got) and got[0] == 0 for got in begins.values()), begins
    assert all(begins[kind][-1] == 1000 for kind in ("stall-once", "away", "chunked-once")), begins
    assert all(1 < len(begins[kind]) <= 5 for kind in ("stall", "drip", "silent", "creep")), begins
    assert begins["creep"][-1] >= 1000 and begins["stall"][-1] >= 1000, begins
    assert same(rig.place / "images-0/y/disk.img", rig.disk) and same(rig.place / "images-1/y/disk.img", rig.disk)
    rig.bring("y", rig.disk, "--timeout", "0", code=USAGE)


def lists_of_checksums(rig):
    ca = ["--cacert", rig.server.cacert]
    files = rig.server.files
    good = {"SHA256SUMS": f"{'0' * 64}  other\n{sha(rig.disk)}  disk.qcow2\n",
            "SHA512SUMS": f"{sha(rig.disk, 'sha512')} *disk.qcow2\r\n",
            "CHECKSUM": f"-----BEGIN-----\nSHA256 (disk.qcow2) = {sha(rig.disk)}\n"}
    bad = {"wrong": f"{'0' * 64}  disk.qcow2\n", "absent": f"{sha(rig.disk)}  disk2\n", "empty": "",
           "twice": f"{sha(rig.disk)}  disk.qcow2\n{'1' * 64}  disk.qcow2\n",
           "wrong512": f"{'0' * 128}  disk.qcow2\n{sha(rig.disk)}  disk.qcow2\n"}
    for name, text in {**good, **bad}.items():
        (files / name).write_text(text)
    for name in good:
        rig.bring("x", rig.url("plain"), *ca, "--checksums", rig.url("plain", name), "--force")
        rig.bring("x", rig.disk, "--checksums", files / name, "--force")
    for name in bad:
        rig.bring("y", rig.url("plain"), *ca, "--checksums", rig.url("plain", name), code=FAILED)
    # Whatever comes along has to stand in it, too.
    kernel = rig.place / "vmlinuz"
    assert "vmlinuz" in rig.bring("y", rig.disk, "--checksums", files / "SHA256SUMS", "--kernel", kernel, code=FAILED)
    rig.remove("x")


def signatures(rig):
    if not shutil.which("gpg"):
        return "gpg is not installed"
    home = rig.place / "gpg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    run(*gpg, "--quick-generate-key", "us@example.org", "ed25519", "sign", "1d")
    run(*gpg, "--quick-generate-key", "them@example.org", "ed25519", "sign", "1d")
    sums = rig.place / "SHA256SUMS"
    sums.write_text(f"{sha(rig.disk)}  disk.qcow2\n")
    for who in ("us", "them"):
        run(*gpg, "--export", "-o", rig.place / f"{who}.gpg", f"{who}@example.org")
        run(*gpg, "--detach-sign", "-u", f"{who}@example.org", "-o", rig.place / f"{who}.sig", sums)
    run(*gpg, "--armor", "--detach-sign", "-u", "us@example.org", "-o", rig.place / "us.asc", sums)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)

    def signed(signature, keyring, code=OK):
        return rig.bring("x", rig.disk, "--checksums", sums, "--signature", rig.place / signature, "--keyring",
                         rig.place / keyring, "--force", code=code)
    signed("us.sig", "us.gpg")
    signed("us.asc", "us.gpg")
    assert "signature" in (rig.images / "x/SHA256SUMS").read_text()
    assert "not good" in signed("us.sig", "them.gpg", FAILED)
    assert "not good" in signed("them.sig", "us.gpg", FAILED)
    assert "not good" in signed("us.gpg", "us.gpg", FAILED)
    sums.write_text(sums.read_text() + f"{sha(rig.large)}  large.raw\n")
    assert "not good" in signed("us.sig", "us.gpg", FAILED)
    rig.remove("x")
    return None


# ---- hostile disks ---------------------------------------------------------------------------------------------
def patched(rig, name, *patches):
    path = rig.place / f"hostile-{name}"
    shutil.copyfile(rig.disk, path)
    with open(path, "r+b") as f:
        for at, data in patches:
            f.seek(at)
            f.write(data)
    return path


def hostile_disks(rig):
    canary = rig.place / "canary.raw"
    canary.write_bytes(b"secret" * 100000)
    for name, target, fmt in (("path", "/etc/shadow", "raw"), ("canary", str(canary), "raw"),
                              ("json", 'json:{"driver":"file","filename":"/etc/shadow"}', "raw"),
                              ("nbd", "nbd://127.0.0.1:1/x", "raw")):
        disk = rig.place / f"backed-{name}"
        shutil.copyfile(rig.disk, disk)
        run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", target, "-F", fmt, disk)
        assert "backing file" in rig.bring("x", disk, code=FAILED), name
    data_file = rig.place / "data-file.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={canary},data_file_raw=on", data_file, "32M")
    assert "another file" in rig.bring("x", data_file, code=FAILED)
    huge = struct.pack(">I", 0x02000000)
    l1_offset = struct.pack(">Q", 1 << 62)
    for name, word, patches in (
            ("l1", "table", [(36, huge)]), ("no-l1", "table", [(36, bytes(4))]), ("crypt", "encrypted", [(32, b"\0\0\0\2")]),
            ("size", "size", [(24, b"\x7f" + b"\xff" * 7)]), ("no-size", "size", [(24, bytes(8))]),
            ("version", "no qcow2", [(4, b"\0\0\0\x09")]), ("clusters", "impossible", [(20, b"\0\0\0\x3f")]),
            ("features", "unknown", [(72, b"\x80" + bytes(7))]), ("corrupt", "damaged", [(79, b"\2")]),
            ("snapshots", "snapshots", [(60, b"\xff\xff\xff\xff")]), ("l1-offset", "", [(40, l1_offset)]),
            ("refcounts", "", [(48, l1_offset)])):
        assert word in rig.bring("x", patched(rig, name, *patches), code=FAILED), name
    for name, data in (("empty", b""), ("short", b"QFI\xfb\0\0\0\3"), ("page", b"<!DOCTYPE html>" + bytes(9000)),
                       ("gz", b"\x1f\x8b" + bytes(9000)), ("xz", b"\xfd7zXZ\0" + bytes(9000)), ("vmdk", b"KDMV" + bytes(9000)),
                       ("noise", b"\1" * 9000)):
        (rig.place / name).write_bytes(data)
        rig.bring("x", rig.place / name, code=FAILED)
    assert "says raw" in rig.bring("x", rig.disk, "--format", "raw", code=FAILED)
    assert "says qcow2" in rig.bring("x", rig.large, "--format", "qcow2", code=FAILED)
    # All of it points at one cluster: it may not grow beyond what its size allows.
    assert not (rig.images / "x").exists()


def random_damage(rig):
    """Whatever is wrong with a disk: one line, or an image that is whole."""
    dice = random.Random(7)
    original = rig.disk.read_bytes()
    for i in range(12):
        data = bytearray(original)
        for _ in range(dice.choice((1, 3, 20))):
            data[dice.randrange(dice.choice((120, 4096, len(data))))] = dice.randrange(256)
        path = rig.place / "damaged"
        path.write_bytes(data[:dice.choice((len(data), len(data), len(data) // 2))])
        done = subprocess.run(rig.argv("import", "x", "--force", "--from", path), env=rig.env, capture_output=True, text=True,
                              timeout=120, check=False)
        assert done.returncode in (OK, FAILED), (i, done)
        rig.settled()
        if done.returncode == OK:
            rig.run("verify", "x")
    if (rig.images / "x").exists():
        rig.remove("x")


# ---- interruptions, space, others ------------------------------------------------------------------------------
def await_(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def killed_anywhere(rig):
    """kill -9 at any moment of a replacement: the old image or the new one is there, whole."""
    other = rig.place / "other.raw"
    data = bytearray(rig.large.read_bytes())
    data[600:700] = b"x" * 100
    other.write_bytes(data)
    rig.bring("x", rig.large)
    begun = time.monotonic()
    rig.bring("x", other, "--force")
    whole = time.monotonic() - begun
    for i in range(9):
        source = rig.large if i % 2 else other
        process = subprocess.Popen(rig.argv("import", "x", "--force", "-q", "--from", source), env=rig.env,
                                   stdout=subprocess.DEVNULL)
        time.sleep(whole * i / 8)
        process.kill()
        process.wait()
        now = [p for p in (rig.large, other) if same(rig.images / "x/disk.img", p)]
        assert len(now) == 1, f"neither the old nor the new one, killed after {whole * i / 10:.2f} s"
        rig.run("verify", "x", settled=False)
    rig.bring("y")  # sweeps, and checks that nothing is left
    rig.remove("x", "y")


def one_at_a_time(rig):
    rig.bring("x")
    with open(rig.images / ".lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another command" in rig.bring("y", code=CONFLICT)
        rig.run("remove", "x", "--yes", code=CONFLICT)
        rig.run("list")
    rig.remove("x")


def full_disk(rig):
    if os.geteuid() != 0:
        return "needs root"
    small = rig.place / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=755", "none", small], check=False,
                      capture_output=True).returncode != 0:
        return "cannot mount a tmpfs here"
    try:
        for source, args in ((rig.large, []), (rig.disk, ["--kernel", rig.large])):
            done = subprocess.run([*rig.argv("import", "x", "--from", source, *args), "--images-dir", small], env=rig.env,
                                  capture_output=True, text=True, check=False)
            assert done.returncode == FAILED and done.stderr.count("qudatactl:") == 1, done
            assert "no space left" in done.stderr, done.stderr
            assert [p.name for p in small.iterdir()] == [".lock"]
        # Room for the copy, not for what it becomes.
        packed = rig.place / "packed-large.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", packed, "64M")
        run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 24M", packed)
        run("qemu-img", "convert", "-c", "-O", "qcow2", packed, rig.place / "p.qcow2")
        done = subprocess.run([*rig.argv("import", "x", "--from", rig.place / "p.qcow2"), "--images-dir", small],
                              env=rig.env, capture_output=True, text=True, check=False)
        assert done.returncode == FAILED and "no space left" in done.stderr, done
        assert [p.name for p in small.iterdir()] == [".lock"]
    finally:
        run("umount", small)
    return None


def vm(rig, name, image, damage=False):
    """A VM's directory as the helper has it."""
    folder = rig.state / "vms" / name
    folder.mkdir()
    if image is not None:
        body = struct.pack("40s7I", image, 0, 32, 1, 0, 0, 0, 0)
        digest = hashlib.sha256(b"qudata-record-1\0" + b"record\0" + body).digest()
        (folder / "record").write_bytes(bytes(32) + body if damage else digest + body)
    return folder


def in_use(rig):
    """An image that a VM stands on is neither replaced nor removed, and no doubt is taken for a no."""
    rig.bring("x")
    before = sha(rig.images / "x/disk.img")
    for image, damage, word in ((b"x", False, "in use by 00ff00ff00ff00ff"), (None, False, "cannot be told"),
                                (b"x", True, "cannot be told"), (b"../y", False, "cannot be told")):
        folder = vm(rig, "00ff00ff00ff00ff", image, damage)
        assert word in rig.bring("x", rig.large, "--force", code=CONFLICT), word
        assert word in rig.run("remove", "x", "--yes", code=CONFLICT), word
        used = rig.list()["x"]["used_by"]
        assert used == (["00ff00ff00ff00ff"] if word.startswith("in use") else []), used
        shutil.rmtree(folder)
    folder = vm(rig, "vm", b"other")
    rig.bring("x", rig.disk, "--force")
    assert sha(rig.images / "x/disk.img") == before
    rig.remove("x")
    shutil.rmtree(folder)


def checksums_are_checked(rig):
    rig.bring("x")

    def verify():
        done = subprocess.run(rig.argv("verify", "--all", "--json"), env=rig.env, capture_output=True, text=True, check=False)
        answer = json.loads(done.stdout)
        assert len(answer) == 1 and done.returncode == (OK if answer[0]["ok"] else FAILED), done
        return answer[0].get("error", "")

    image = rig.images / "x"
    sums = (image / "SHA256SUMS").read_text()
    assert verify() == ""
    with open(image / "disk.img", "r+b") as f:
        f.seek(1 << 20)
        byte = f.read(1)
        f.seek(1 << 20)
        f.write(bytes([byte[0] ^ 1]))
    assert "disk.img is not what was recorded" in verify()
    with open(image / "disk.img", "r+b") as f:
        f.seek(1 << 20)
        f.write(byte)
    assert verify() == ""
    (image / "kernel").write_bytes(b"x")
    assert "kernel was added later" in verify()
    (image / "kernel").unlink()
    for text, word in (("", "damaged"), (sums[:-10], "damaged"), (sums + sums, "damaged"), ("x\n", "damaged"),
                       (sums.replace("image.conf", "../../../x"), "damaged")):
        (image / "SHA256SUMS").write_text(text)
        assert word in verify(), text
    (image / "SHA256SUMS").unlink()
    assert "no checksums" in verify() and rig.list()["x"]["checksums"] == "none"
    # Sums that fit do not make a disk whole.
    with open(image / "disk.img", "r+b") as f:
        f.seek(65536)
        f.write(b"\xff" * 64)
    (image / "SHA256SUMS").write_text("".join(f"{sha(image / n)}  {n}\n" for n in ("disk.img", "image.conf")))
    assert "structure is damaged" in verify()
    rig.remove("x")


def create_that_fails(rig):
    """mkimage's own failure, its absence and its interruption leave nothing."""
    if os.geteuid() != 0:
        return "needs root"
    program = rig.place / "mkimage"
    for text, word in (("#!/bin/sh\necho broken >&2\nexit 1\n", "mkimage failed"), ("", "mkimage failed")):
        program.write_text(text)
        os.chmod(program, 0o755 if text else 0o644)
        assert word in rig.run("create", "x", "--mkimage", program, code=FAILED)
    assert "mkimage failed" in rig.run("create", "x", "--mkimage", MKIMAGE, "--suite", "no-such-suite", code=FAILED)
    for args in (["--suite", "a b"], ["--include", "a b"], ["--nvidia", "$(x)"], ["--size", "x"]):
        rig.run("create", "x", "--mkimage", MKIMAGE, *args, code=USAGE)
    # Which driver, and on how large a disk, when nothing is said of that; "host" is the one that is loaded.
    program.write_text(f"#!/bin/sh\necho $* >{rig.place}/asked\nexit 1\n")
    os.chmod(program, 0o755)
    for args, words in (([], "--size-mib 1024"), (["--engine"], "--size-mib 1536 --include docker.io"),
                        (["--size", "3"], "--size-mib 3072"), (["--nvidia", "any"], "--size-mib 8192 --nvidia any"),
                        (["--nvidia", "535.183"], "--size-mib 8192 --nvidia 535.183"),
                        (["--nvidia", "host"], "--size-mib 8192 --nvidia 570.86.15")):
        argv = ["unshare", "--mount", "sh", "-c",
                "mount -t tmpfs x /sys/module && mkdir /sys/module/nvidia && echo 570.86.15 >/sys/module/nvidia/version && exec \"$@\"",
                "sh", *rig.argv("create", "x", "--mkimage", program, *args)]
        subprocess.run(argv, env=rig.env, capture_output=True, check=False)
        asked = (rig.place / "asked").read_text()
        assert f"{words} " in asked.replace("\n", " ") + " ", (args, asked)
    if not os.path.exists("/sys/module/nvidia/version"):
        assert "no NVIDIA driver" in rig.run("create", "x", "--mkimage", program, "--nvidia", "host", code=FAILED)
    # It is told of a proxy, and of nothing else.
    program.write_text(f"#!/bin/sh\nexport -p >{rig.place}/exported\nexit 1\n")
    os.chmod(program, 0o755)
    rig.run("create", "x", "--mkimage", program, code=FAILED, env={"http_proxy": "http://127.0.0.1:1", "SECRET": "s"})
    exported = {line.split()[1].split("=")[0] for line in (rig.place / "exported").read_text().splitlines()}
    assert exported - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "LC_ALL", "http_proxy"}, exported
    started = rig.place / "started"
    program.write_text(f"#!/bin/sh\ntrap 'exit 143' TERM\ntouch {started}\nwhile :; do sleep 0.1; done\n")
    os.chmod(program, 0o755)
    process = subprocess.Popen(rig.argv("create", "x", "--mkimage", program), env=rig.env, text=True, stderr=subprocess.PIPE)
    await_(started.exists)
    process.send_signal(signal.SIGTERM)
    assert "interrupted" in process.communicate(timeout=60)[1] and process.returncode == FAILED
    rig.settled()
    # Killed, it takes mkimage along, and until that is gone the lock is held.
    started.unlink()
    process = subprocess.Popen(rig.argv("create", "x", "--mkimage", program), env=rig.env, stderr=subprocess.DEVNULL)
    await_(started.exists)
    process.kill()
    process.wait()
    with open(rig.images / ".lock", "r+b") as lock:
        await_(lambda: lockable(lock))
    rig.bring("x")
    rig.remove("x")
    return None


def lockable(lock):
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_UN)
        return True
    return False


CASES = (disks_of_every_kind, kernel_and_size, usage, not_as_root, downloads, downloads_that_end_early,
         downloads_that_stall, lists_of_checksums, signatures, hostile_disks, random_damage, killed_anywhere, one_at_a_time, full_disk, in_use, checksums_are_checked,
         create_that_fails)


def main():
    failed = 0
    with tempfile.TemporaryDirectory(prefix="qi-", dir="/tmp") as place:
        rig = Rig(place)
        for case in CASES:
            if len(sys.argv) > 3 and case.__name__ not in sys.argv[3:]:
                continue
            begun = time.monotonic()
            try:
                skipped = case(rig)
                print("skip" if skipped else "ok", case.__name__, skipped or f"({time.monotonic() - begun:.1f} s)", flush=True)
            except Exception as e:  # pylint: disable=broad-except
                failed += 1
                print(f"FAIL {case.__name__}: {type(e).__name__}: {e}", flush=True)
                for path in rig.images.iterdir():
                    if path.name not in KNOWN:
                        shutil.rmtree(path, ignore_errors=True)
        rig.server.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
