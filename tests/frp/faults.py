# SPDX-License-Identifier: Apache-2.0
"""What only the stand-in does: lies, hangs, dies, and tries to leave its cage."""
import ctypes
import errno
import json
import os
import pathlib
import re
import signal
import time

from rig import HTTP, TCP, alive, until


def begin(w):
    a = w.begin()
    web, raw = w.service("web"), w.source()
    a.set("vm1", (web.port, 20000, 8080, HTTP), (raw.port, 14001, 22, TCP))
    a.await_proxy("vm1", web.port)
    a.await_proxy("vm1", raw.port)
    return a, web


def poke(a, web):
    """A change, so that the admin API is asked at once."""
    poke.n = getattr(poke, "n", 0) + 1
    a.set("vm2", (web.port + 1, 14500 + poke.n, 22, TCP))


def hangs(fault):
    def case(w):
        """frpc does not answer, or not with sense: it is ended and a new one started, and all is well again."""
        a, web = begin(w)
        pid = w.sup.frpc_pid()
        w.fake.faults.add(fault)
        poke(a, web)
        until("it is given up", lambda: not alive(pid), 90)
        w.fake.faults.clear()
        a.await_proxy("vm1", web.port)
        assert a.status()["starts"] >= 2
        assert w.sup.process.poll() is None
    return case


def dies_on_reload(w):
    a, web = begin(w)
    w.fake.faults.add("die_on_reload")
    poke(a, web)
    until("it is started again", lambda: a.status()["starts"] == 2)
    a.await_proxy("vm2", web.port + 1)
    a.await_proxy("vm1", web.port)


def dies_again_and_again(w):
    """Ever more slowly, and not in step: the pauses grow."""
    a, web = begin(w)
    for n in range(2, 6):
        w.fake.die()
        until("it is started again", lambda n=n: a.status()["starts"] == n)
        a.await_proxy("vm1", web.port)
    told = re.findall(r"(?m)^\S+T(\d+):(\d+):([\d.]+)Z \S+ \S+ (frpc started|frpc has ended)", w.sup.log())
    times = [(float(h) * 3600 + float(m) * 60 + float(s), words) for h, m, s, words in told]
    pauses = [(b - a) % 86400 for (a, ended), (b, started) in zip(times, times[1:])
              if (ended, started) == ("frpc has ended", "frpc started")]
    assert len(pauses) == 4 and pauses[-1] > 1.5 * pauses[0] > 0.45, pauses


def lies(fault):
    def case(w):
        """It says that a tunnel leads elsewhere: that one is not called running."""
        a, web = begin(w)
        w.fake.faults.add(fault)
        poke(a, web)
        a.await_proxy("vm1", web.port, "refused")
        assert "another target" in a.list()[("vm1", web.port)][1]
        w.fake.faults.clear()
        poke(a, web)
        a.await_proxy("vm1", web.port)
    return case


def extra(w):
    a, web = begin(w)
    w.fake.faults.add("extra")
    poke(a, web)
    until("it is logged", lambda: "frpc reports tunnels that it was not given" in w.sup.log())
    assert ("not-ours", 22) not in a.list() and len(a.list()) == 3


def forged(w):
    """What a server says cannot forge a record, and is cut."""
    a, web = begin(w)
    w.fake.faults.add("forge")
    poke(a, web)
    a.await_proxy("vm1", web.port, "refused")
    detail = a.list()[("vm1", web.port)][1]
    assert len(detail) == 119 and re.fullmatch(r"[\x20-\x7e]+", detail), detail
    w.fake.order("L", "2026 connect to server error: \x1b[31m\u00e9\nPRIORITY=0 forged\n")
    until("it is logged", lambda: "frpc says" in w.sup.log())
    for line in w.sup.log().splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\S+ (frp-supervisor|frp-spawn): ", line), line
        assert "\x1b" not in line


def floods(w):
    """A frpc that never stops to log neither fills the disk nor the journal."""
    a, web = begin(w)
    before = len(w.sup.log())
    for _ in range(2000):
        w.fake.order("L", "2026 connect to server error: " + "x" * 900 + "\n")
    until("its log is cut", lambda: (w.sup.run_dir / "frpc.log").stat().st_size < 600_000)
    assert len(w.sup.log()) - before < 40_000
    poke(a, web)
    a.await_proxy("vm2", web.port + 1)


def versions(w):
    for version, words in (("0.51.3", "0.52.0 or newer is needed"), ("what?", "does not tell its version"),
                           ("", "does not tell its version"), ("0.52.0", None), ("1.2.3", None)):
        a = w.supervisor(frpc=w.door(version, f"frpc-{version.strip('?') or 'none'}")).agent()
        a.configure(w.port)
        if words is None:
            until("it is used", lambda a=a: a.status()["starts"] == 1)
            assert a.status()["version"] == version
        else:
            until("it is told", lambda a=a: a.status()["state"] == "broken")
            assert words in a.status()["detail"], a.status()
            assert a.status()["starts"] == 0
        w.sup.down()


def caged(w):
    """From inside: what frpc's process cannot do. None is death by the filter."""
    a, web = begin(w)
    wanted = {"exec": errno.EACCES, "fork": errno.ENOSYS, "bind": errno.EACCES, "write": errno.ENOSYS,
              "create": errno.ENOSYS, "passwd": 0, "proc": errno.EACCES, "home": errno.EACCES, "unix": errno.ENOSYS}
    if not landlock():
        for what in ("exec", "bind", "proc", "home"):
            wanted.pop(what)
    if not filters_kill(w.build):  # the landlock half is still told
        for what in ("fork", "write", "create", "unix"):
            wanted.pop(what)
    for what, result in wanted.items():
        got = w.fake.attempt(what)
        assert got == result, (what, got)
    for n, what in enumerate(("ptrace", "kill") if filters_kill(w.build) else (), 2):
        assert w.fake.attempt(what) is None, what
        until("it is started again", lambda n=n: a.status()["starts"] == n)
        a.await_proxy("vm1", web.port)


def filters_kill(build):
    """Sanitized builds have filters that only log."""
    options = json.loads((build / "meson-info/intro-buildoptions.json").read_text())
    return next(o["value"] for o in options if o["name"] == "sandbox") == "kill"


def landlock():
    return ctypes.CDLL(None).syscall(444, None, 0, 1) > 0


def gate(w):
    """A supervisor that dies between fork and record leaves nothing behind: no frpc runs that has no record."""
    a, web = begin(w)
    for _ in range(5):
        os.kill(w.sup.frpc_pid(), signal.SIGKILL)
        time.sleep(0.55)
        w.sup.end(signal.SIGKILL)
        w.sup.start()
        a = w.sup.agent()
        a.await_proxy("vm1", web.port)
        until("one frpc", lambda: len(frpcs(w)) == 1)
        assert frpcs(w) == [w.sup.frpc_pid()]


def frpcs(w):
    found = []
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if (proc / "cmdline").read_bytes().endswith(str(w.sup.run_dir / "frpc.toml").encode() + b"\0"):
                found.append(int(proc.name))
        except OSError:
            continue
    return found


def stale_record(w):
    """A record of a process that is somebody else's now, or of nonsense, adopts nothing and harms nobody."""
    a, web = begin(w)
    record = w.sup.record()
    a.close()
    w.sup.end(signal.SIGINT)
    path = w.sup.run_dir / "frpc.run"
    for change in ({"pid": str(os.getpid())}, {"pid": "0"}, {"pid": "-1"}, {"start": "x"}, {"port": "70000"},
                   {"password": "{{"}, {"digest": ""}):
        values = {**record, "pid": str(os.getpid()), **change}
        path.write_text("".join(f"{k} = {v}\n" for k, v in values.items()))
        os.chown(path, *w.sup.ids)
        w.sup.start()
        a = w.sup.agent()
        a.await_proxy("vm1", web.port)
        assert w.sup.frpc_pid() not in (0, os.getpid())
        assert "taken over" not in w.sup.log()
        a.close()
        w.sup.end(signal.SIGINT)
    for raw in (b"", b"\n", b"x" * 9000, b"token\n" + b"\xff" * 400, b"\0" * 100):
        (w.sup.run_dir / "wanted").write_bytes(raw)
        os.chown(w.sup.run_dir / "wanted", *w.sup.ids)
        w.sup.start()
        assert w.sup.agent().status()["state"] == "off"
        w.sup.end(signal.SIGINT)


def quiet(w):
    """When all runs there is next to no polling; while something does not, there is."""
    a, web = begin(w)
    until("all is settled", lambda: a.status()["running"] == 2)
    polls = [-1]

    def rests():
        polls.append(w.fake.polls)
        return polls[-1] == polls[-2]
    until("what was to be asked is asked", rests, every=1)
    time.sleep(4)
    assert w.fake.polls == polls[-1], w.fake.polls - polls[-1]
    w.fake.conflicts.add(14345)
    a.set("vm2", (web.port + 1, 14345, 22, TCP))
    a.await_proxy("vm2", web.port + 1, "conflict")
    time.sleep(3)
    before, begun = w.fake.polls, time.monotonic()
    time.sleep(4)
    until("it is asked again", lambda: w.fake.polls > before)
    most = 1 + (time.monotonic() - begun) / 2
    assert w.fake.polls - before <= most, (w.fake.polls - before, most)


def spawner_dies(w):
    """Without frp-spawn the supervisor ends, frpc goes on, and the next supervisor has both."""
    a, web = begin(w)
    frpc = w.sup.frpc_pid()
    children = pathlib.Path(f"/proc/{w.sup.process.pid}/task/{w.sup.process.pid}/children").read_text().split()
    assert len(children) == 1, children
    os.kill(int(children[0]), signal.SIGKILL)
    w.sup.process.wait(60)
    assert w.sup.process.returncode == 1 and alive(frpc)
    w.sup.start()
    a = w.sup.agent()
    a.await_proxy("vm1", web.port)
    assert w.sup.frpc_pid() == frpc


CASES = [
    ("frpc never answers", hangs("silent")),
    ("frpc answers a byte at a time", hangs("drip")),
    ("frpc's answer has no end", hangs("huge")),
    ("frpc's answer is in chunks", hangs("chunked")),
    ("frpc's answer is half of one", hangs("garbage")),
    ("frpc's answer is of other types", hangs("wrong_types")),
    ("frpc's answer is deep", hangs("deep")),
    ("frpc dies when it reloads", dies_on_reload),
    ("frpc dies again and again", dies_again_and_again),
    ("frpc tells of another local address", lies("lie_local")),
    ("frpc tells of a plugin", lies("lie_plugin")),
    ("frpc tells of tunnels that it was not given", extra),
    ("what a server says cannot forge records", forged),
    ("frpc floods its log", floods),
    ("frpc too old, new enough, of no version", versions),
    ("what frpc's cage refuses", caged),
    ("no frpc without a record", gate),
    ("records of nonsense", stale_record),
    ("polling only as needed", quiet),
    ("frp-spawn dies", spawner_dies),
]
