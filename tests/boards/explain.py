# SPDX-License-Identifier: Apache-2.0
"""Runs vfio-explain on made-up sysfs trees, and compares what it prints with what it must."""
import importlib.machinery
import importlib.util
import os
import pathlib
import shutil
import stat
import subprocess

TOP = pathlib.Path(__file__).resolve().parents[2]
NOBODY = 65534
REASONS = ("no_iommu", "boot_display", "virtualised", "not_viable", "reserved", "busy", "quarantined",
           "half_bound")  # in the order in which one becomes the verdict


class Line:
    """One GPU's line: `ADDRESS VERDICT bind=ADDRESS,... reasons=REASON:ADDRESS,...`"""

    def __init__(self, text):
        self.text = text
        self.address, self.verdict, bind, reasons = text.split(" ")
        self.bind = self.elements(bind, "bind=")
        self.reasons = self.elements(reasons, "reasons=")

    @staticmethod
    def elements(field, prefix):
        if not field.startswith(prefix):
            raise ValueError(f"no {prefix} in {field!r}")
        return field[len(prefix):].split(",") if field != prefix else []


def wrong_order(reasons):
    """Whether the reasons are not in the order of the verdicts."""
    ranks = [REASONS.index(r.split(":", 1)[0]) for r in reasons]
    return ranks != sorted(ranks)


def differences(expected, got):
    """What of the list @got the list @expected does not allow, and what it misses; see run's head."""
    found = []
    if len(set(got)) != len(got):
        found.append("something twice")
    for element in expected:
        if element.endswith(":*"):
            if not any(g.startswith(element[:-1]) for g in got):
                found.append(f"no {element}")
        elif not element.startswith("?") and element not in got:
            found.append(f"no {element}")
    for element in got:
        allowed = any(e.lstrip("?") == element or
                      e.endswith(":*") and element.startswith(e.lstrip("?")[:-1]) for e in expected)
        if not allowed:
            found.append(f"unexpected {element}")
    return found


def compare(expected, printed):
    """Every way in which the lines @printed are not the @expected ones."""
    try:
        got = [Line(p) for p in printed]
    except ValueError as why:
        return [f"not a line of the format: {why}"]
    found = []
    if [e.address for e in expected] != [g.address for g in got]:
        found.append(f"GPUs {[g.address for g in got]}, must be {[e.address for e in expected]}")
    by_address = {g.address: g for g in got}
    for e in expected:
        g = by_address.get(e.address)
        if g is None:
            continue
        wrong = [] if g.verdict == e.verdict else [f"verdict {g.verdict}, must be {e.verdict}"]
        wrong += [f"bind: {d}" for d in differences(e.bind, g.bind)]
        wrong += [f"reasons: {d}" for d in differences(e.reasons, g.reasons)]
        if wrong_order(g.reasons):
            wrong.append("reasons: not in the order of the verdicts")
        if g.bind != sorted(g.bind, key=address_key):
            wrong.append("bind: not ascending")
        if wrong:
            found.append(f"{e.address}: {'; '.join(wrong)}\n    printed {g.text}\n    must be {e.text}")
    return found


def address_key(address):
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    return tuple(int(part, 16) for part in (domain, bus, slot, function))


def snapshot(top):
    """Everything of a tree that a write could change."""
    seen = {}
    for folder, folders, files in os.walk(top):
        for name in [".", *folders, *files]:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                content = pathlib.Path(path).read_bytes()
            else:
                content = None
            seen[path] = (info.st_mode, info.st_uid, info.st_gid, info.st_ino, info.st_mtime_ns,
                          info.st_ctime_ns, content)
    return seen


class Program:
    """The program under test, in a folder that an unprivileged user can reach."""

    def __init__(self, build, scratch):
        self.scratch = pathlib.Path(scratch)
        self.folder = self.scratch / "bin"
        self.folder.mkdir()
        for name in ("vfio-explain", "vfio-helper", "vfio-bind"):
            shutil.copy2(pathlib.Path(build) / "vfio-helper" / name, self.folder)
        self.config = self.scratch / "helper.conf"
        self.state = self.scratch / "state"
        self.records = pathlib.Path(build) / "tests/boards/boards-records"

    def configure(self, settings):
        """Writes helper.conf."""
        lines = [f"gpu_state_dir = {self.state}", *settings]
        self.config.write_text("".join(line + "\n" for line in lines), encoding="ascii")
        self.config.chmod(0o644)

    def write_records(self, lines):
        """Makes the state directory anew, with these records in it (as records.c reads them)."""
        shutil.rmtree(self.state, ignore_errors=True)
        if lines:
            self.state.mkdir()
            subprocess.run([self.records, self.state], input="\n".join(lines), text=True, timeout=60,
                           check=True)
            give_away(self.state)

    def run(self, *args, name="vfio-explain", privileged=False):
        drop = {}
        if os.geteuid() == 0 and not privileged:
            drop = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        return subprocess.run([self.folder / name, *args], capture_output=True, text=True, timeout=60,
                              cwd="/", check=False, stdin=subprocess.DEVNULL, **drop)

    def explain(self, sysfs, *more):
        """The lines that it prints of a tree; it has to succeed."""
        done = self.run("--explain", "--sysfs", str(sysfs), "--config", str(self.config),
                        *more)
        if done.returncode != 0:
            raise AssertionError(f"exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout.splitlines()


def load_fake_sysfs():
    loader = importlib.machinery.SourceFileLoader("fake_sysfs", str(TOP / "tests/tools/fake-sysfs"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("fake_sysfs", loader))
    loader.exec_module(module)
    return module


FAKE_SYSFS = load_fake_sysfs()


def make_tree(description, folder):
    """The sysfs tree of a description (text in the format of tests/tools/fake-sysfs), owned by the
    user that the program runs as: so it could write there, and the snapshot would tell."""
    FAKE_SYSFS.make(description.splitlines(), str(folder))
    give_away(folder)


def give_away(top):
    if os.geteuid() != 0:
        return
    for folder, _, files in os.walk(top):
        for name in [".", *files]:
            os.chown(os.path.join(folder, name), NOBODY, NOBODY, follow_symlinks=False)


def shuffled_copy(source, target, rng):
    """The same tree with its directories' entries made in another order (which shows where a file
    system lists them in the order of their making, as one in memory does)."""
    os.mkdir(target)
    names = os.listdir(source)
    rng.shuffle(names)
    for name in names:
        old, new = os.path.join(source, name), os.path.join(target, name)
        if os.path.islink(old):
            os.symlink(os.readlink(old), new)
        elif os.path.isdir(old):
            shuffled_copy(old, new, rng)
        elif os.path.isfile(old):
            shutil.copyfile(old, new)
