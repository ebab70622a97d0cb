# SPDX-License-Identifier: Apache-2.0
"""agentd, frp-supervisor and frp together, without VMs: what listens on an instance's port is the test's."""
import contextlib
import http.client
import json
import os
import pathlib
import pwd
import re
import signal
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "control"))
import plane as simulated  # noqa: E402
from fakefrpc import read_config  # noqa: E402
from rig import TOKEN, fetch, free_port, get, ordinary_user, until

SECRET_HEADER = "X-Agent-Secret"


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


class Agentd:
    """agentd from the build tree as the supervisor's user, with its API's port and state in a folder of its own."""

    def __init__(self, w, sup, settings=(), data=None):
        self.sup, self.port = sup, free_port(15001, 15300)
        self.program, self.ctl_program = w.build / "agentd/agentd", w.build / "ctl/qudatactl"
        self.root = sup.root / "agentd"
        self.data = data or self.root / "data"
        for d in (self.root, self.data):
            d.mkdir(mode=0o700, exist_ok=d == data)
            os.chown(d, *sup.ids)
        token = self.root / "token"
        token.write_text(TOKEN + "\n")
        token.chmod(0o600)
        os.chown(token, *sup.ids)
        self.ctl = self.root / "ctl.sock"
        values = {"data_dir": self.data, "ctl_socket": self.ctl, "frp_socket": sup.socket, "port": self.port,
                  "helper_socket": self.root / "none", "vmmon_socket": self.root / "none2", "control_plane": "none",
                  "frp_server": "127.0.0.1", "frp_port": w.port, "frp_token_file": token,
                  "frp_domain": "tok.example.org", "default_cpus": 1, "default_memory": "512M", **dict(settings)}
        self.conf = self.root / "agentd.conf"
        self.conf.write_text("".join(f"{k} = {v}\n" for k, v in values.items() if v is not None))
        self.conf.chmod(0o644)
        os.chmod(self.root, 0o711)
        self.log_path, self.process = sup.root / "agentd.log", None

    def start(self):
        as_user = ["setpriv", f"--reuid={self.sup.ids[0]}", f"--regid={self.sup.ids[1]}", "--clear-groups",
                   "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"] if os.geteuid() == 0 else []
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(  # pylint: disable=consider-using-with
                [*as_user, str(self.program), "--config", str(self.conf)], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd="/", env=self.sup.environment(), start_new_session=True)
        until("agentd answers", self.answers)
        return self

    def answers(self):
        assert self.process.poll() is None, self.log_path.read_text()[-600:]
        with contextlib.suppress(OSError):
            return self.call("GET", "/ping")[0] == 200
        return False

    def call(self, method, path, body=None):
        conn = Unix(str(self.ctl))
        with contextlib.closing(conn):
            conn.request(method, path, json.dumps(body) if body is not None else None)
            r = conn.getresponse()
            return r.status, json.loads(r.read())

    def data_of(self, method, path, body=None):
        status, answer = self.call(method, path, body)
        assert status == 200 and answer["ok"], (status, answer)
        return answer["data"]

    def create(self, **fields):
        return self.data_of("POST", "/v1/instances", fields)

    def get(self, instance):
        return self.data_of("GET", f"/v1/instances/{instance}")

    def host_port(self, instance, guest):
        record = json.loads((self.data / f"instances/{instance}.json").read_text())
        return dict(record["ports"])[guest]

    def secret(self):
        return (self.data / "secret").read_text().strip()

    def await_tunnel(self, instance, guest, state="running", timeout=60):
        until(f"the tunnel of {guest} is {state}",
              lambda: self.get(instance)["tunnels"][str(guest)]["state"] == state, timeout)
        return self.get(instance)["tunnels"][str(guest)]

    def state(self):
        return self.data_of("GET", "/v1/host")["tunnels"]

    def figures(self):
        conn = Unix(str(self.ctl))
        with contextlib.closing(conn):
            conn.request("GET", "/metrics")
            r = conn.getresponse()
            assert r.status == 200 and r.headers["Content-Type"].startswith("text/plain; version=0.0.4"), r.status
            return figures(r.read().decode())

    def qudatactl(self, *words):
        return subprocess.check_output([self.ctl_program, "--socket", self.ctl, *words], text=True)

    def end(self, number=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)


@contextlib.contextmanager
def pair(w, settings=(), data=None):
    sup = w.supervisor(settings={"agentd_user": ordinary_user(), "tls": "encrypt"}.items())
    agentd = Agentd(w, sup, settings, data).start()
    try:
        yield agentd
    finally:
        agentd.end()
        if os.environ.get("FRP_SHOW_LOGS"):
            print(agentd.log_path.read_text())


def whole(w):
    """POST answers with the ports that clients connect to, and there they are; the API is there, with its secret."""
    with pair(w) as a:
        made = a.create(ports={"8080": "auto", "5000/tcp": "auto"}, ssh_enabled=True)
        vm = made["instance_id"]
        ports = made["ports"]
        assert 15001 <= int(ports["8080"]) and 10000 <= int(ports["22"]) <= 15000 and int(ports["5000"]) <= 15000, ports
        w.source(port=a.host_port(vm, 22))
        web = w.service("web", port=a.host_port(vm, 8080))
        for guest in (22, 8080, 5000):
            t = a.await_tunnel(vm, guest)
            assert str(t["port"]) == ports[str(guest)] and t["kind"] == ("http" if guest == 8080 else "tcp")
        until("connected", lambda: a.state() == {"state": "connected", "detail": "", "tunnels": 4, "running": 4})
        fetch(int(ports["22"]), 1_000_000)
        assert w.by_name(f"tok-{ports['8080']}.example.org")[1] == {"name": "web", "port": web.port}
        host = f"tok-{a.port}.example.org"
        assert w.by_name(host, "/ping")[0] == 200
        assert w.by_name(host, "/v1/instances")[0] == 401
        assert w.by_name(host, "/v1/instances", {SECRET_HEADER: "sk-" + "x" * 40})[0] == 403
        assert w.by_name(host, "/v1/instances", {SECRET_HEADER: a.secret()})[0] == 200
        status, answer = a.call("DELETE", f"/v1/instances/{vm}")
        assert status == 200, answer
        until("its tunnels are gone", lambda: a.state()["tunnels"] == 1)
        until("its name is gone", lambda: w.by_name(f"tok-{ports['8080']}.example.org")[0] == 404)
        for text in (a.log_path.read_text(), w.sup.log()):
            assert TOKEN not in text and a.secret() not in text


FIGURE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="[a-z0-9.-]*",?)+)\})? ([0-9]+)')


def figures(text):
    """{'name{labels}': number}, read strictly: each figure has its help and type before it, once."""
    found, known = {}, set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in known and kind == ("counter" if name.endswith("_total") else "gauge"), line
            known.add(name)
        elif not line.startswith("# HELP "):
            m = FIGURE.fullmatch(line)
            assert m and m[1] in known, line
            key = f"{m[1]}{{{m[2]}}}" if m[2] else m[1]
            assert key not in found, line
            found[key] = int(m[3])
    return found


def shown(w):
    """What the API and qudatactl show of the tunnels, and the figures: up, cut, up again."""
    with pair(w) as a:
        vm = a.create(name="shown", ports={"8080": "auto"})["instance_id"]
        tcp, web = a.await_tunnel(vm, 22), a.await_tunnel(vm, 8080)
        assert tcp["address"] == f"127.0.0.1:{tcp['port']}", tcp
        assert web["address"] == f"tok-{web['port']}.example.org", web
        until("connected", lambda: a.state() == {"state": "connected", "detail": "", "tunnels": 3, "running": 3})
        data = a.data_of("GET", "/v1/tunnels")
        assert (data["server"], data["server_port"], data["running"]) == ("127.0.0.1", w.port, 3), data
        assert [t["state"] for t in data["list"]] == ["running"] * 3, data
        listed = {(t["instance"], t["guest_port"]): t for t in data["list"]}
        assert listed[None, 0]["address"] == f"tok-{a.port}.example.org", listed
        for guest, t in ((22, tcp), (8080, web)):
            assert listed[vm, guest] == {"instance": vm, "name": "shown", "guest_port": guest,
                                         "host_port": a.host_port(vm, guest), **t}, (listed, t)
        lines = a.qudatactl("tunnels").splitlines()
        assert len(lines) == 6 and lines[5].endswith("3 of 3 tunnels run"), lines
        assert any(tcp["address"] in line.split() for line in lines), lines
        assert f"22 -> {tcp['address']} (tcp), running" in a.qudatactl("status")
        before = a.figures()
        key = f'instance="{vm}",port="22",kind="tcp"'
        assert before["qudata_tunnels_connected"] == before["qudata_tunnels_connects_total"] == 1, before
        assert before["qudata_tunnels_frpc_starts_total"] == 1
        assert before[f"qudata_tunnel_up{{{key}}}"] == 1 and before[f"qudata_tunnel_breaks_total{{{key}}}"] == 0
        assert before[f'qudata_tunnel_up{{instance="",port="{a.port}",kind="api"}}'] == 1
        assert before['qudata_instances{status="pending"}'] == before['qudata_peer_up{peer="frp-supervisor"}'] == 1
        assert before[f'qudata_instance_memory_bytes{{instance="{vm}"}}'] == 512 << 20
        w.server(False)
        until("the cut is counted", lambda: a.figures()[f"qudata_tunnel_breaks_total{{{key}}}"] == 1, 60)
        assert a.figures()[f"qudata_tunnel_up{{{key}}}"] == 0
        w.server(True)
        until("it is back", lambda: a.figures()["qudata_tunnels_connects_total"] == 2, 60)
        until("so is the tunnel", lambda: a.figures()[f"qudata_tunnel_up{{{key}}}"] == 1, 60)
        # Over TCP: the figures with the secret only, the list never.
        assert get(a.port, "/metrics")[0] == 401
        with_secret = {SECRET_HEADER: a.secret()}
        assert get(a.port, "/metrics", headers=with_secret)[0] == 200
        assert get(a.port, "/v1/tunnels", headers=with_secret)[0] == 403


def restarts(w):
    """agentd or the supervisor is killed: the same ports, the same frpc, nothing is told twice to frpc."""
    with pair(w) as a:
        vm = a.create(ports={"8080": "auto"})["instance_id"]
        before = {g: a.await_tunnel(vm, g)["port"] for g in (22, 8080)}
        web = w.service("web", port=a.host_port(vm, 8080))
        until("the API's runs, too", lambda: a.state()["running"] == 3)
        frpc, rendered = w.sup.frpc_pid(), w.sup.rendered()
        name = f"tok-{before[8080]}.example.org"
        for _ in range(2):
            a.end(signal.SIGKILL)
            assert w.by_name(name)[0] == 200, "the tunnel needs no agentd"
            a.start()
            assert {g: a.await_tunnel(vm, g)["port"] for g in (22, 8080)} == before
        w.sup.end(signal.SIGKILL)
        until("the loss is seen", lambda: not a.data_of("GET", "/v1/host")["peers"]["frp-supervisor"]["connected"])
        w.sup.start()
        assert {g: a.await_tunnel(vm, g)["port"] for g in (22, 8080)} == before
        until("it is told as a whole", lambda: a.state()["running"] == 3)
        assert w.sup.frpc_pid() == frpc and w.sup.rendered() == rendered
        assert w.by_name(name)[1]["port"] == web.port
        # Gone while the supervisor was away: gone there, too, when it is back.
        w.sup.end(signal.SIGKILL)
        a.call("DELETE", f"/v1/instances/{vm}")
        w.sup.start()
        until("its tunnels are gone", lambda: a.state()["tunnels"] == 1)


def wishes(w):
    """Ports that were asked for are those, or an error."""
    with pair(w) as a:
        made = a.create(ports=[{"container_port": 8080, "remote_port": 23456, "proto": "http"},
                               {"container_port": 22, "remote_port": 14321, "proto": "tcp"}])
        assert made["ports"] == {"8080": "23456", "22": "14321"}, made["ports"]
        a.await_tunnel(made["instance_id"], 22)
        a.end(signal.SIGKILL)  # what is promised stays so
        a.start()
        for ports, status, words in (
                ([{"container_port": 80, "remote_port": 23456, "proto": "http"}], 409, "23456"),
                ([{"container_port": 23, "remote_port": 14321, "proto": "tcp"}], 409, "14321"),
                ([{"container_port": 23, "remote_port": 23000, "proto": "tcp"}], 422, "10000 to 15000"),
                ([{"container_port": 80, "remote_port": 12000, "proto": "http"}], 422, "15001 to 65535")):
            got, answer = a.call("POST", "/v1/instances", {"ports": ports})
            assert got == status and words in answer["error"], (ports, got, answer)


def moved(w):
    """A port at the server that is somebody else's: the next one; one that was asked for: said, not changed."""
    if w.real:
        taken = socket.create_server(("127.0.0.1", 14322))
    else:
        taken = contextlib.nullcontext()
        w.fake.conflicts |= {p for p in range(10000, 15001) if p % 3} | {14322}
    with taken, pair(w) as a:
        vm = a.create()["instance_id"]
        port = a.await_tunnel(vm, 22, timeout=60)["port"]
        if not w.real:
            assert port % 3 == 0, port
        assert a.get(vm)["ports"] == {"22": str(port)}
        w.source(port=a.host_port(vm, 22))
        fetch(port, 100_000)
        if not w.real:  # with the real one that port is taken on this host, too
            vm = a.create(ports=[{"container_port": 22, "remote_port": 14322, "proto": "tcp"}])["instance_id"]
            assert a.await_tunnel(vm, 22, "conflict")["detail"] == "port already used"
            assert a.get(vm)["ports"] == {"22": "14322"}


def without(w):
    """No server: ports are the host's, nothing is started; a server that is not there is said."""
    with pair(w, {"frp_server": None}.items()) as a:
        made = a.create(ports={"8080": "auto"})
        assert made["tunnels"] is None
        assert int(made["ports"]["22"]) == a.host_port(made["instance_id"], 22)
        assert a.state()["state"] == "off" and w.sup.frpc_pid() == 0
        assert not any(name.startswith("qudata_tunnel") for name in a.figures())
        assert a.data_of("GET", "/v1/tunnels")["list"] == []
    w.server(False)
    with pair(w) as a:
        until("it is said", lambda: a.state()["state"] == "connecting" and "refused" in a.state()["detail"])


def policy_says_no(w):
    """agentd's wish is outside the supervisor's policy: said, and the rest goes on."""
    with pair(w, {"frp_tls": "off"}.items()) as a:
        until("it is said", lambda: "forbids" in a.state()["detail"])
        vm = a.create()["instance_id"]
        assert a.get(vm)["tunnels"]["22"]["state"] == "waiting"


@contextlib.contextmanager
def told_by_control_plane(w, frp):
    """agentd whose tunnels' server is the control plane's to name; yields both."""
    control = simulated.Plane()
    control.host_exists = True
    control.extra = frp
    server = simulated.start(control)
    key = w.folder / "api-key"
    key.write_text(control.key + "\n")
    key.chmod(0o600)
    pw = pwd.getpwnam(ordinary_user())
    os.chown(key, pw.pw_uid, pw.pw_gid)
    settings = {"control_plane": f"http://127.0.0.1:{server.server_port}/v0", "api_key_file": key,
                "frp_server": None, "frp_port": None, "frp_token_file": None, "frp_domain": None}
    try:
        with pair(w, settings.items()) as a:
            until("connected", lambda: a.state()["state"] == "connected")
            yield a, control
    finally:
        server.shutdown()
        server.server_close()


def offer(w, **values):
    return {"tunnel_token": "tok", "frp": {"server_addr": "127.0.0.1", "server_port": w.port, "token": TOKEN,
                                           "subdomain": "example.org", **values}}


def offered(w):
    """The control plane names the server. It may go away: what it said stays, over restarts of both daemons."""
    with told_by_control_plane(w, offer(w)) as (a, control):
        vm = a.create(ports={"8080": "auto"})["instance_id"]
        port = a.await_tunnel(vm, 8080)["port"]
        web = w.service("web", port=a.host_port(vm, 8080))
        name = f"tok-{port}"
        assert w.by_name(name)[1] == {"name": "web", "port": web.port}
        until("the API's runs, too", lambda: a.state()["running"] == 3)
        frpc, rendered = w.sup.frpc_pid(), w.sup.rendered()
        control.script = [lambda h, c: h.reply(503, b"") or True for _ in range(1000)]
        for number in (signal.SIGKILL, signal.SIGTERM):
            a.end(number)
            a.start()
            until("it is told as a whole", lambda: a.state()["running"] == 3)
            assert a.get(vm)["tunnels"]["8080"]["port"] == port
            assert w.sup.frpc_pid() == frpc and w.sup.rendered() == rendered and w.by_name(name)[0] == 200
        w.sup.end(signal.SIGKILL)
        w.sup.start()
        assert a.await_tunnel(vm, 8080)["port"] == port and w.sup.frpc_pid() == frpc
        # Another word is obeyed, and so is none.
        control.script, control.extra = [], {**offer(w), "tunnel_token": "tik"}
        a.end()
        a.start()
        until("the new name", lambda: w.by_name(f"tik-{port}")[0] == 200)
        control.extra = {}
        a.end()
        a.start()
        until("switched off", lambda: a.state()["state"] == "off" and w.sup.frpc_pid() == 0)
        for text in (a.log_path.read_text(), w.sup.log()):
            assert TOKEN not in text
        for path in a.data.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path


HOSTILE_OFFERS = [{key: value} for key in ("token", "subdomain", "server_addr") for value in (
    "{{ .Envs.HOSTILE }}", 'x"\n[[proxies]]\nname = "y"', 'x"\n[proxies.plugin]\ntype = "static_file"\nlocalPath = "/"',
    "a'b", "a\\b", "a`b", {"type": "exec", "exec": {"command": "/bin/sh"}}, ["x"], 7)] + [
    {"tokenSource": {"type": "exec", "exec": {"command": "/bin/sh"}}, "token": 'x"'}, {"server_port": "7000"},
    {"server_port": -1}, {"server_port": 65536}]


def hostile_offers(w):
    """Whatever the control plane says in place of a server, token or name: nothing of it gets to frpc."""
    with told_by_control_plane(w, offer(w)) as (a, control):
        vm = a.create(ports={"8080": "auto"})["instance_id"]
        until("all run", lambda: a.state()["running"] == 3)
        rendered, frpc = w.sup.rendered(), w.sup.frpc_pid()
        bad = [offer(w, **values) for values in HOSTILE_OFFERS]
        bad += [{**offer(w), "tunnel_token": t} for t in ("{{ .Envs.HOSTILE }}", 'x"', "a\nb", {"type": "exec"})]
        for extra in bad:
            control.extra = extra
            a.end()
            a.start()
            until("it is refused", lambda: a.data_of("GET", "/v1/host")["control_plane_state"] == "down")
            assert w.sup.rendered() == rendered and w.sup.frpc_pid() == frpc, extra
        read_config(rendered)
        log = a.log_path.read_text() + w.sup.log()
        assert "Envs" not in log and "proxies]" not in log and "/bin/sh" not in log


CASES = [
    ("agentd: from POST to the bytes", whole),
    ("agentd: what is shown and counted", shown),
    ("agentd: restarts of either side", restarts),
    ("agentd: ports that were asked for", wishes),
    ("agentd: a port at the server is taken", moved),
    ("agentd: no server, no answer", without),
    ("agentd: what the policy forbids", policy_says_no),
    ("agentd: the control plane names the server", offered),
    ("agentd: what a control plane may not say", hostile_offers),
]
