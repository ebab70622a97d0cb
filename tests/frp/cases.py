# SPDX-License-Identifier: Apache-2.0
"""Cases that hold in both worlds, with the stand-in and with the real frp."""
import contextlib
import os
import pathlib
import re
import signal
import socket
import stat
import threading
import time

from fakefrpc import read_config
from rig import AGENT, API, HTTP, TCP, TOKEN, alive, fetch, free_port, get, until

SECRET = "sk-0123456789"


def plain(w):
    """An API and an instance with a name and a port."""
    a = w.begin()
    api, web, raw = w.service("api", secret=SECRET), w.service("web"), w.source()
    a.set("api", (api.port, 15002, 0, API))
    a.set("vm1", (web.port, 20000, 8080, HTTP), (raw.port, 14001, 22, TCP))
    for owner, s in (("api", api), ("vm1", web), ("vm1", raw)):
        a.await_proxy(owner, s.port)
    return a, api, web, raw


def forwards(w):
    a, _, web, _ = plain(w)
    s = a.await_state("connected")
    assert (s["proxies"], s["running"], s["starts"]) == (3, 3, 1), s
    assert re.fullmatch(r"\d+\.\d+\.\d+", s["version"]), s
    assert w.by_name("tok-20000.example.org") == (200, {"name": "web", "port": web.port})
    assert w.by_name("tok-20001.example.org")[0] == 404
    fetch(14001, 3_000_000)
    assert any(n == "FRP_STATE" and e["state"] == 5 for n, e in a.events), a.events


def api_secret(w):
    plain(w)
    host = "tok-15002.example.org"
    assert w.by_name(host, "/ping")[0] == 200
    assert w.by_name(host, "/instances")[0] == 401
    assert w.by_name(host, "/instances", {"X-Agent-Secret": "sk-wrong"})[0] == 403
    assert w.by_name(host, "/instances", {"X-Agent-Secret": SECRET})[0] == 200


def colon_naming(w):
    a = w.begin(naming=0, domain="sub.example.org")
    api, web = w.service("api"), w.service("web")
    a.set("api", (api.port, 15002, 0, API))
    a.set("vm1", (web.port, 20000, 8080, HTTP))
    a.await_proxy("vm1", web.port)
    names = [p["customDomains"] for p in w.sup.toml()["proxies"]]
    assert names == [["sub.example.org"], ["sub.example.org:20000"]], names
    assert w.by_name("sub.example.org")[1]["name"] == "api"


def wrong_token(w):
    a = w.begin(token="another-token")
    web = w.service("web")
    a.set("vm1", (web.port, 20000, 8080, HTTP))
    until("the reason is told", lambda: "token" in a.status()["detail"])
    assert a.status()["state"] == "connecting"
    a.await_proxy("vm1", web.port, "lost")  # frpc's log may be read before it is asked
    a.configure(w.port)
    a.await_proxy("vm1", web.port)
    assert w.by_name("tok-20000.example.org")[0] == 200
    log = w.sup.log()
    assert TOKEN not in log and "another-token" not in log


def conflict(w):
    """The server's port is somebody else's: that tunnel says so, the others run; another port helps."""
    with socket.create_server(("127.0.0.1", 14002)):
        a = w.begin()
        web, raw = w.service("web"), w.source()
        a.set("vm1", (web.port, 20000, 8080, HTTP), (raw.port, 14002, 22, TCP))
        a.await_proxy("vm1", raw.port, "conflict")
        assert "port" in a.list()[("vm1", raw.port)][1]
        assert any(n == "FRP_PROXY" and e["local"] == raw.port and e["state"] == 2 for n, e in a.events)
        a.await_proxy("vm1", web.port)
        assert a.status()["state"] == "connected" and a.status()["running"] == 1
        a.set("vm1", (web.port, 20000, 8080, HTTP), (raw.port, 14003, 22, TCP))
        a.await_proxy("vm1", raw.port)
        fetch(14003, 100_000)


def refused_port(w):
    a = w.begin(settings={"tcp_port_high": 20000}.items())
    raw = w.source()
    a.set("vm1", (raw.port, 15555, 22, TCP))
    a.await_proxy("vm1", raw.port, "refused")
    assert a.list()[("vm1", raw.port)][1] == "port not allowed"


def reloads(w):
    """A long transfer through one tunnel while another is added and removed a hundred times."""
    a, _, web, _ = plain(w)
    slow = w.source(slow=True)
    a.set("vm2", (slow.port, 14009, 22, TCP))
    a.await_proxy("vm2", slow.port)
    size, done = 24_000_000, []
    thread = threading.Thread(target=lambda: done.append(fetch(14009, size)))
    thread.start()
    pid, busy = w.sup.frpc_pid(), 0
    for i in range(100):
        a.set("vm3", (web.port + 1, 14010, 22, TCP), (web.port + 2, 20010, 80, HTTP))
        if i % 10 == 0:
            a.await_proxy("vm3", web.port + 1)
        a.call("FRP_REMOVE", owner="vm3")
        busy += thread.is_alive()
    assert busy == 100, f"the transfer ended after {busy} changes"
    slow.release()
    thread.join(120)
    assert done == [size], done
    assert w.sup.frpc_pid() == pid and a.status()["starts"] == 1
    assert ("vm3", web.port + 1) not in a.list()
    until("vm3 is gone", lambda: len(w.sup.toml()["proxies"]) == 4)


def same_bytes(w):
    """What has not changed is rendered as before, whatever comes and goes around it."""
    a, _, web, _ = plain(w)

    def blocks():
        return {b.split("\n")[1]: b for b in w.sup.rendered().split("[[proxies]]")[1:]}

    def settled(n):
        until(f"{n} tunnels are rendered", lambda: len(blocks()) == n)
        return {k: b.strip() for k, b in blocks().items()}, w.sup.rendered().split("[[proxies]]")[0]

    before, head = settled(3)
    a.set("vm0", (web.port + 1, 14010, 22, TCP))
    more, head2 = settled(4)
    a.call("FRP_REMOVE", owner="vm1")
    less, head3 = settled(2)
    assert head == head2 == head3
    assert all(more[k] == b for k, b in before.items())
    assert all(before.get(k, more.get(k)) == b for k, b in less.items())
    assert a.set("vm0", (web.port + 1, 14010, 22, TCP))["changed"] == 0


def survives(w):
    """The supervisor is killed, restarted, ended and started: frpc, its tunnels and their connections go on."""
    a, _, web, _ = plain(w)
    slow = w.source(slow=True)
    a.set("vm2", (slow.port, 14009, 22, TCP))
    a.await_proxy("vm2", slow.port)
    size, done = 24_000_000, []
    thread = threading.Thread(target=lambda: done.append(fetch(14009, size)))
    thread.start()
    pid = w.sup.frpc_pid()
    for number in (signal.SIGKILL, signal.SIGTERM):
        a.close()
        w.sup.end(number)
        assert alive(pid), "frpc has gone with it"
        w.sup.start()
        a = w.sup.agent()
        a.await_proxy("vm1", web.port)
        assert a.configure(w.port)["changed"] == 0
        assert a.set("vm2", (slow.port, 14009, 22, TCP))["changed"] == 0
        assert w.sup.frpc_pid() == pid and alive(pid)
        assert f"frpc taken over PID={pid}" in w.sup.log()
    assert thread.is_alive(), "the transfer was not there for all of it"
    slow.release()
    thread.join(120)
    assert done == [size], done
    assert w.by_name("tok-20000.example.org")[0] == 200
    # What it was told to forget while nobody asked is gone after KEEP.
    assert a.call("FRP_KEEP", owners=["vm2"])["removed"] == 1
    assert {o for o, _ in a.list()} == {"api", "vm2"}
    a.close()
    w.sup.end(signal.SIGINT)
    assert not alive(pid), "SIGINT ends both"
    assert not (w.sup.run_dir / "frpc.toml").exists() and not (w.sup.run_dir / "frpc.run").exists()


def ends_with_it(w):
    """keep_frpc = no: frpc does not survive its supervisor, however that ends."""
    for number in (signal.SIGKILL, signal.SIGTERM):
        a = w.begin(settings={"keep_frpc": "no"}.items())
        web = w.service("web")
        a.set("vm1", (web.port, 20000, 8080, HTTP))
        a.await_proxy("vm1", web.port)
        pid = w.sup.frpc_pid()
        a.close()
        w.sup.end(number)
        until("frpc has ended", lambda p=pid: not alive(p))


def frpc_dies(w):
    a, _, web, _ = plain(w)
    pid = w.sup.frpc_pid()
    os.kill(pid, signal.SIGKILL)
    until("it is seen", lambda: a.status()["starts"] == 2)
    a.await_proxy("vm1", web.port)
    assert w.sup.frpc_pid() != pid
    until("it is reachable", lambda: w.by_name("tok-20000.example.org")[0] == 200)
    assert any(n == "FRP_PROXY" and e["state"] == 4 for n, e in a.events), "it was not told that they were lost"


def off(w):
    a, _, web, _ = plain(w)
    pid = w.sup.frpc_pid()
    a.call("FRP_OFF")
    until("frpc has ended", lambda: not alive(pid))
    assert a.status()["state"] == "off" and a.list() == {}
    until("its configuration is gone", lambda: not (w.sup.run_dir / "frpc.toml").exists())
    for path in w.sup.run_dir.iterdir():
        with contextlib.suppress(FileNotFoundError):
            assert TOKEN.encode() not in path.read_bytes(), path
    assert a.refused("FRP_SET", owner="vm1", proxies=[(web.port, 20000, 80, HTTP)]) == "INVALID"
    a.configure(w.port)
    a.set("vm1", (web.port, 20000, 8080, HTTP))
    a.await_proxy("vm1", web.port)


def server_restarts(w):
    a, _, web, _ = plain(w)
    pid = w.sup.frpc_pid()
    w.server(False)
    until("the loss is told", lambda: a.status()["state"] == "connecting")
    a.await_proxy("vm1", web.port, "lost")
    until("the reason is told", lambda: "refused" in a.status()["detail"])
    w.server(True)
    a.await_proxy("vm1", web.port, timeout=90)
    until("it is reachable", lambda: w.by_name("tok-20000.example.org")[0] == 200)
    assert w.sup.frpc_pid() == pid, "frpc finds back by itself"


def new_server_settings(w):
    """Another agent name is another common part: frpc is restarted, once, and everything is back."""
    a, _, web, _ = plain(w)
    assert a.configure(w.port, domain="other.example.org")["changed"] == 1
    until("the new name works", lambda: w.by_name("other-20000.example.org")[0] == 200)
    assert w.by_name("tok-20000.example.org")[0] == 404
    assert a.status()["starts"] == 1, "a name is a tunnel's, not the server's"
    assert a.configure(w.port, domain="other.example.org", tls=1, server_name="frps.example.org")["changed"] == 1
    until("it is started anew", lambda: a.status()["starts"] == 2)
    a.await_proxy("vm1", web.port)


def secrets(w):
    """Token and admin password are in files of the one user only: not in a log, an argv, an environment."""
    a, _, web, _ = plain(w)
    a.set("vm2", (web.port + 1, 14010, 22, TCP))
    a.await_proxy("vm2", web.port + 1)
    password = w.sup.toml()["webServer"]["password"]
    assert re.fullmatch(r"[0-9a-f]{32}", password)
    for path in [w.sup.root, *w.sup.root.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # a new one on its way to its name
            st = path.lstat()
        if path in (w.sup.root, w.sup.conf, w.sup.log_path, w.sup.socket_dir, w.sup.socket) or path.name == "fake.port":
            continue
        assert st.st_uid == w.sup.ids[0] and st.st_mode & 0o077 == 0, (path, oct(st.st_mode))
    log = w.sup.log() + (w.sup.run_dir / "frpc.log").read_text()
    for secret in (TOKEN, password):
        assert secret not in log
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                assert secret.encode() not in (proc / "cmdline").read_bytes(), proc
    own = [p for p in pathlib.Path("/proc").glob("[0-9]*") if owner_of(p) == w.sup.ids[0] and belongs(p, w.sup)]
    assert len(own) == 3, own  # supervisor, frp-spawn, frpc
    if os.geteuid() == 0:
        for proc in own:
            environ = (proc / "environ").read_bytes()
            assert TOKEN.encode() not in environ and password.encode() not in environ


def owner_of(proc):
    with contextlib.suppress(OSError):
        return int(re.search(r"^Uid:\s+(\d+)", (proc / "status").read_text(), re.M)[1])
    return None


def belongs(proc, sup):
    with contextlib.suppress(OSError):
        pid = int(proc.name)
        parent = int(re.search(r"^PPid:\s+(\d+)", (proc / "status").read_text(), re.M)[1])
        return pid in (sup.process.pid, sup.frpc_pid()) or parent == sup.process.pid
    return False


def confined(w):
    plain(w)
    frpc, sup = w.sup.frpc_pid(), w.sup.process.pid
    spawn = int(pathlib.Path(f"/proc/{frpc}/stat").read_text().rsplit(")", 1)[1].split()[1])
    for pid in (frpc, sup, spawn):
        status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
                      if ":\t" in line)
        assert status["Uid"].split() == [str(w.sup.ids[0])] * 4, status["Uid"]
        for caps in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status[caps], 16) == 0, (pid, caps)
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", pid
        if pid == frpc:
            assert int(status["Seccomp_filters"]) >= 2, "frpc has a filter of its own over frp-spawn's"
            assert os.getsid(pid) == pid
    if os.geteuid() == 0:
        assert pathlib.Path(f"/proc/{frpc}/environ").read_bytes() == b"LANG=C\0"
        fds = {}
        for f in pathlib.Path(f"/proc/{frpc}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                fds[int(f.name)] = os.readlink(f)
        assert fds[0] == "/dev/null" and fds[1] == fds[2] == str(w.sup.run_dir / "frpc.log"), fds
        assert all(re.match(r"socket:|anon_inode:", t) for n, t in fds.items() if n > 2), fds
    cmdline = pathlib.Path(f"/proc/{frpc}/cmdline").read_bytes().split(b"\0")
    assert cmdline == [b"frpc", b"-c", str(w.sup.run_dir / "frpc.toml").encode(), b""], cmdline
    limits = pathlib.Path(f"/proc/{frpc}/limits").read_text()
    assert re.search(r"Max core file size\s+0\s+0", limits) and re.search(r"Max file size\s+4194304", limits), limits


def schema(w):
    """The file read back by a TOML parser is what was asked for and nothing else."""
    a = w.begin(token="A.b-c_9~+/=:@!#$%^&*,", domain="Tok_1.Example.ORG", server="localhost")
    a.set("vm1", (20001, 20000, 80, HTTP), (20002, 14001, 22, TCP))
    until("it is rendered", lambda: (w.sup.run_dir / "frpc.toml").exists() and len(w.sup.toml().get("proxies", [])) == 2)
    c = read_config(w.sup.rendered())  # strict: every key known, every localIP 127.0.0.1
    assert c["auth"]["token"] == "A.b-c_9~+/=:@!#$%^&*,"
    assert c["serverAddr"] == "localhost" and c["serverPort"] == w.port
    assert c["proxies"] == [
        {"name": f"{AGENT}-vm1-20001", "type": "http", "localIP": "127.0.0.1", "localPort": 20001,
         "customDomains": ["Tok_1-20000.Example.ORG"]},
        {"name": f"{AGENT}-vm1-20002", "type": "tcp", "localIP": "127.0.0.1", "localPort": 20002,
         "remotePort": 14001}], c["proxies"]
    assert stat.S_IMODE((w.sup.run_dir / "frpc.toml").stat().st_mode) == 0o600
    if not w.real:
        w.fake.token = "A.b-c_9~+/=:@!#$%^&*,"


HOSTILE = ('{{ .Envs.HOSTILE }}', 'a"b', "a'b", "a\\b", "a b", "a`b", "a}b", 'x"]\n[[proxies]]\nname="y"',
           'x"\n[proxies.plugin]\ntype = "unix_domain_socket"\nunixPath = "/run/docker.sock', "a\tb", "a\x7fb",
           'x", exec = "/bin/sh', "é")


def injection(w):
    """Nothing of a template, a plugin or another table gets into the file from a token, a domain or a name."""
    a, *_ = plain(w)
    before = w.sup.rendered()

    def code(**values):
        try:
            a.configure(w.port, **values)
        except (ConnectionError, BrokenPipeError):
            return "CLOSED"
        except Exception as e:  # pylint: disable=broad-except
            return str(e)
        return "OK"

    for text in HOSTILE:
        for field in ("token", "domain", "server", "server_name"):
            said = code(**{field: text})
            if said == "CLOSED":  # unprintable: not even a message
                a = w.sup.agent()
            assert said in ("INVALID", "CLOSED"), (field, text, said)
    for field, text in (("token", "x" * 257), ("domain", "x" * 51), ("domain", "a..b"), ("domain", "-a.b"),
                        ("server", "a..b"), ("server", ".a"), ("server", "[::1]"), ("server", "1:2"),
                        ("domain", ""), ("server", "")):
        assert code(**{field: text}) == "INVALID", (field, text)
    time.sleep(0.3)
    assert w.sup.rendered() == before
    assert a.status()["starts"] == 1 and a.status()["state"] == "connected"


def policy(w):
    """Ports that are not an instance's or the API's, and what is another owner's, are refused."""
    a = w.begin(settings={"api_port_low": 15001, "api_port_high": 15300, "tls": "encrypt"}.items())
    web = w.service("web")
    a.set("vm1", (web.port, 20000, 8080, HTTP), (web.port + 1, 14001, 22, TCP))
    a.await_proxy("vm1", web.port)
    before, admin = w.sup.rendered(), w.sup.toml()["webServer"]["port"]
    bad = {
        "a port below the instances'": ("vm2", [(9999, 20001, 80, HTTP)], "DENIED"),
        "SSH of the host": ("vm2", [(22, 14002, 22, TCP)], "DENIED"),
        "frpc's own API": ("vm2", [(admin, 14002, 22, TCP)], "DENIED"),
        "a remote TCP port outside": ("vm2", [(20005, 15001, 22, TCP)], "DENIED"),
        "a remote HTTP port outside": ("vm2", [(20005, 15000, 80, HTTP)], "DENIED"),
        "the API's kind for an instance": ("vm2", [(15002, 15002, 0, API)], "DENIED"),
        "an instance's kind for the API": ("api", [(20005, 20005, 80, HTTP)], "DENIED"),
        "the API at a port that is not agentd's": ("api", [(20005, 15002, 0, API)], "DENIED"),
        "another owner's local port": ("vm2", [(web.port, 20002, 80, HTTP)], "CONFLICT"),
        "another owner's remote port": ("vm2", [(20005, 14001, 22, TCP)], "CONFLICT"),
        "another owner's name": ("vm2", [(20005, 20000, 80, HTTP)], "CONFLICT"),
        "the same name twice": ("vm2", [(20005, 20001, 80, HTTP), (20006, 20001, 81, HTTP)], "CONFLICT"),
        "one good and one bad": ("vm2", [(20005, 20001, 80, HTTP), (22, 20002, 22, HTTP)], "DENIED"),
    }
    for what, (owner, proxies, status) in bad.items():
        said = a.refused("FRP_SET", owner=owner, proxies=proxies)
        assert said == status, (what, said)
    assert a.refused("FRP_REMOVE", owner="vm2") == "NOT_FOUND"
    try:
        a.configure(w.port, tls=0)
    except Exception as e:  # pylint: disable=broad-except
        assert str(e) == "DENIED", e
    else:
        raise AssertionError("less TLS than the policy wants was taken")
    time.sleep(0.2)
    assert w.sup.rendered() == before
    for i in range(16):
        a.set(f"m{i}", (31000 + i, 31000 + i, 80, HTTP)) if i < 15 else None
    a.set("api", (15002, 15002, 0, API))
    assert a.refused("FRP_SET", owner="one-too-many", proxies=[(32000, 32000, 80, HTTP)]) == "LIMIT"


def full(w):
    """As many tunnels as there may be."""
    a = w.begin()
    web = w.service("web")
    for vm in range(16):
        a.set(f"vm{vm}", *[(web.port + 1 + vm * 16 + i, 30000 + vm * 16 + i, 80 + i, HTTP) for i in range(16)])
    a.set("api", (web.port, 15002, 0, API))
    until("all run", lambda: a.status()["running"] == 257, 90)
    assert w.by_name("tok-15002.example.org")[0] == 200
    assert len(a.list()) == 257


def version_words(w):
    """frpc is missing: said clearly, the rest works; it comes: it is used."""
    path = w.folder / "later-frpc"
    a = w.supervisor(frpc=path).agent()
    a.configure(w.port)
    web = w.service("web")
    a.set("vm1", (web.port, 20000, 8080, HTTP))
    until("it is told", lambda: a.status()["state"] == "broken")
    assert f"{path} cannot be run: No such file" in a.status()["detail"], a.status()
    assert a.list()[("vm1", web.port)][0] == "waiting"
    path.write_bytes(pathlib.Path(w.frpc).read_bytes())
    path.chmod(0o755)
    a.configure(w.port, domain="now.example.org")
    a.await_proxy("vm1", web.port)


def conformance(w):
    """What the stand-in answers is what frpc answers: the same questions to both."""
    a, _, web, raw = plain(w)
    with socket.create_server(("127.0.0.1", 14004)):
        a.set("vm2", (raw.port + 1, 14004, 22, TCP))
        a.await_proxy("vm2", raw.port + 1, "conflict")
        c = w.sup.toml()["webServer"]

        def ask(path, password=c["password"]):
            import base64
            auth = base64.b64encode(f"supervisor:{password}".encode()).decode()
            return get(c["port"], path, headers={"Authorization": f"Basic {auth}"})

        code, status = ask("/api/status")
        assert code == 200 and set(status) == {"tcp", "http"}, status
        entry = next(e for e in status["tcp"] if e["local_addr"] == f"127.0.0.1:{raw.port}")
        assert {k: entry[k] for k in ("name", "type", "status", "err", "plugin")} == {
            "name": f"{AGENT}-vm1-{raw.port}", "type": "tcp", "status": "running", "err": "", "plugin": ""}, entry
        entry = next(e for e in status["tcp"] if e["local_addr"] == f"127.0.0.1:{raw.port + 1}")
        assert (entry["status"], entry["err"], entry["remote_addr"]) == ("start error", "port already used", "") or \
            "port" in entry["err"], entry
        assert ask("/api/status", "wrong")[0] == 401
        assert ask("/api/nothing")[0] == 404
        assert ask("/api/reload?strictConfig=true")[0] == 200
        path = w.sup.run_dir / "frpc.toml"
        good = path.read_text()
        for bad in (good + '\n[[proxies]]\nname = "x"\ntype = "none"\n', good + "\nunknown = 3\n", "= = ="):
            path.write_text(bad)
            assert ask("/api/reload?strictConfig=true")[0] == 400, bad[-40:]
        if not w.real:
            w.fake.wrong_expected = True
        path.write_text(good)
        assert ask("/api/reload?strictConfig=true")[0] == 200
    assert a.list()[("vm1", web.port)][0] == "running"


def strangers(w):
    """Only agentd's user is answered."""
    if os.geteuid() != 0:
        return
    a, *_ = plain(w)
    r, wr = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresuid(65533, 65533, 65533)
        said = b"refused"
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(str(w.sup.socket))
            s.settimeout(60)
            said = b"answered" if s.recv(4096) else b"refused"
        os.write(wr, said)
        os._exit(0)
    os.close(wr)
    assert os.read(r, 100) == b"refused"
    os.waitpid(pid, 0)
    assert a.status()["state"] == "connected"


CASES = [
    ("a service by name, a port, the bytes through them", forwards),
    ("the API through the tunnel: secret, none, a wrong one", api_secret),
    ("names with a colon", colon_naming),
    ("a wrong token is said, the right one works", wrong_token),
    ("a taken port at the server", conflict),
    ("a port that the server refuses", refused_port),
    ("100 additions and removals during a transfer", reloads),
    ("unchanged tunnels are rendered unchanged", same_bytes),
    ("tunnels survive the supervisor", survives),
    ("keep_frpc = no", ends_with_it),
    ("frpc dies", frpc_dies),
    ("tunnels are switched off and on", off),
    ("the server restarts", server_restarts),
    ("another name, another server setting", new_server_settings),
    ("no secret outside its files", secrets),
    ("confinement of the three processes", confined),
    ("the file's schema", schema),
    ("injection by token, domain and names", injection),
    ("ports and owners against the policy", policy),
    ("257 tunnels", full),
    ("frpc is missing, then there", version_words),
    ("the admin API's answers", conformance),
    ("strangers at the socket", strangers),
]
