# SPDX-License-Identifier: Apache-2.0
"""The suite's protocol for an attacker: layouts from proto/*.def, connections made as any user."""
import array
import ast
import contextlib
import fcntl
import os
import pathlib
import pwd
import re
import select
import signal
import socket
import struct
import threading
import weakref

TOP = pathlib.Path(__file__).resolve().parents[2]
NAME_SIZE, MSG_MAX = 40, 4096
HEADER = struct.Struct("=IHHII")
REQUEST, REPLY, EVENT = 1, 2, 3
CLIENTS = {}  # sockets by path, as long as they live
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


# ---- declarations --------------------------------------------------------------------------------------
def _constants():
    text = re.sub(r"UINT64_C\((\w+)\)", r"\1", (TOP / "proto/proto.h").read_text())
    known = {"UINT16_MAX": 0xffff, "UINT32_MAX": 0xffffffff, "UINT64_MAX": 0xffffffffffffffff}
    for name, value in re.findall(r"^#define (PROTO_\w+)\s+(\(?[\da-f ux*()]+?)\s*(?:/\*.*)?$", text, re.M):
        known[name] = eval(re.sub(r"(\d)u\b", r"\1", value), {"__builtins__": {}})  # our own header's arithmetic
    return known


CONST = _constants()


def _number(text):
    text = text.strip()
    if text in CONST:
        return CONST[text]
    try:
        return ast.literal_eval(text)
    except ValueError:
        return None  # an enum of replies: only requests are made here


def _statuses():
    text = (TOP / "proto/proto.h").read_text()
    start = text.index("#define PROTO_STATUS_LIST")
    names = re.findall(r"^\tX\((\w+), ", text[start:text.index("\n\n", start)], re.M)
    return {name: number for number, name in enumerate(names)}


class Field:
    def __init__(self, kind, name, args):
        self.kind, self.name = kind, name
        self.size = {"U32": 4, "U64": 8, "NAME": NAME_SIZE, "PORTS": 4 * CONST["PROTO_MAX_PORTS"],
                     "NAMES": NAME_SIZE * CONST["PROTO_MAX_VMS"], "TEXT": 0, "GPUS": 8 * CONST["PROTO_MAX_GPUS"],
                     "PROXIES": 8 * CONST["PROTO_MAX_PORTS"]}[kind]
        if kind == "TEXT":
            self.size = _number(args[0])
        self.low, self.high = (_number(args[0]), _number(args[1])) if kind in ("U32", "U64") else (None, None)

    def pack(self, value):
        if self.kind in ("U32", "U64"):
            return struct.pack("=I" if self.kind == "U32" else "=Q", value)
        if self.kind == "PORTS":
            flat = b"".join(struct.pack("=HH", h, g) for h, g in value)
            return flat.ljust(self.size, b"\0")
        if self.kind in ("GPUS", "PROXIES"):
            flat = b"".join(struct.pack("=Q", v) if self.kind == "GPUS" else struct.pack("=HHHH", *v) for v in value)
            return flat.ljust(self.size, b"\0")
        if self.kind == "NAMES":
            return b"".join(v.encode().ljust(NAME_SIZE, b"\0") for v in value).ljust(self.size, b"\0")
        raw = value.encode() if isinstance(value, str) else value
        return raw.ljust(self.size, b"\0")[:self.size]

    def unpack(self, raw):
        if self.kind in ("U32", "U64"):
            return struct.unpack("=I" if self.kind == "U32" else "=Q", raw)[0]
        if self.kind == "PORTS":
            return [p for p in struct.iter_unpack("=HH", raw) if p[0]]
        if self.kind == "NAMES":
            parts = [raw[i:i + NAME_SIZE] for i in range(0, len(raw), NAME_SIZE)]
            return [p.rstrip(b"\0").decode() for p in parts if p[0]]
        return raw.rstrip(b"\0").decode()


def _messages():
    text = re.sub(r"/\*.*?\*/", "", (TOP / "proto/msgs.def").read_text(), flags=re.S)
    found = {}
    for name, body in re.findall(r"MSG\((\w+),\s*(.*?)\)\s*(?=MSG|\Z)", text, re.S):
        found[name] = [Field(kind, args.split(",")[0].strip(), args.split(",")[1:])
                       for kind, args in re.findall(r"(U32|U64|NAMES?|TEXT|PORTS|GPUS|PROXIES)\(([^()]*)\)", body)]
    return found


class Op:
    def __init__(self, name, number, sender, receiver, stem, fds):
        self.name, self.number, self.sender, self.receiver, self.stem = name, number, sender, receiver, stem
        self.is_event = fds is None
        self.req_fds, self.rep_fds = fds or (0, 0)
        self.request = MESSAGES[stem + ("_ev" if self.is_event else "_req")]
        self.reply = [] if self.is_event else MESSAGES[stem + "_rep"]

    def sizes(self):
        return sum(f.size for f in self.request), sum(f.size for f in self.reply)

    def body(self, **values):
        defaults = {"NAME": "no-such", "TEXT": "", "PORTS": [], "NAMES": [], "GPUS": [256], "PROXIES": []}
        return b"".join(f.pack(values.get(f.name, f.low if f.low is not None else defaults.get(f.kind, 0)))
                        for f in self.request)


def _ops():
    text = re.sub(r"/\*.*?\*/", "", (TOP / "proto/ops.def").read_text(), flags=re.S)
    found = {}
    for name, number, frm, to, stem, req, rep in re.findall(
            r"OP\((\w+), (0x\w+), (\w+), (\w+), (\w+), (\d+), (\d+),", text):
        found[name] = Op(name, int(number, 16), frm, to, stem, (int(req), int(rep)))
    for name, number, frm, to, stem in re.findall(r"EV\((\w+), (0x\w+), (\w+), (\w+), (\w+),", text):
        found[name] = Op(name, int(number, 16), frm, to, stem, None)
    return found


MESSAGES = _messages()
OPS = _ops()
STATUS = _statuses()
STATUS_NAME = {number: name for name, number in STATUS.items()}


def message(op, body=None, *, number=None, kind=REQUEST, status=0, request_id=1, length=None):
    body = op.body() if body is None else body
    return HEADER.pack(op.number if number is None else number, kind, status, request_id,
                       len(body) if length is None else length) + body


# ---- becoming somebody else ------------------------------------------------------------------------------
def ids(user):
    """uid, gid and groups of a user: its own one, no other."""
    pw = pwd.getpwnam(user)
    return pw.pw_uid, pw.pw_gid, [pw.pw_gid]


def become(user):
    uid, gid, groups = ids(user)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def as_user(user, function, timeout=120):
    """Runs @function in a child that has become @user; returns what it returned or raised, as text."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            os.close(r)
            signal.alarm(int(timeout))
            if user != "root":
                become(user)
            result = f"={function()}"
        except BaseException as e:  # pylint: disable=broad-except
            result = f"!{type(e).__name__}: {e}"
        with contextlib.suppress(BaseException):
            os.write(w, result.encode()[:60000])
        os._exit(code)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        text = f.read().decode()
    os.waitpid(pid, 0)
    return text


def _connected(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Not settimeout(): one that does not block fails when as many wait to be accepted as may.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 45, 0))
    s.connect(path)
    return s


class Connector:
    """A process of @user that connects to what it is told and hands the socket over: a fork for each is slow."""

    # Not for slots' users, whose processes the helper ends.
    USERS = ("qudata", "qudata-mon")
    running = {}
    lock = threading.Lock()

    def __init__(self, user):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                os.closerange(3, theirs.fileno())
                os.closerange(theirs.fileno() + 1, 1 << 16)
                become(user)
                self.serve(theirs)
            os._exit(0)
        theirs.close()

    @staticmethod
    def serve(theirs):
        while path := theirs.recv(4096):
            try:
                with _connected(path.decode()) as s:
                    socket.send_fds(theirs, [b"=sent"], [s.fileno()])
            except OSError as e:
                theirs.send(f"!{type(e).__name__}: {e}".encode())

    @classmethod
    def connect(cls, user, path):
        with cls.lock:
            if user not in cls.running:
                cls.running[user] = cls(user)
            ours = cls.running[user].ours
            ours.send(path.encode())
            said, fds, _, _ = socket.recv_fds(ours, 4096, 1)
        return said.decode(), fds

    @classmethod
    def end_all(cls):
        """Before their users may be removed."""
        while cls.running:
            _, connector = cls.running.popitem()
            connector.ours.close()
            os.waitpid(connector.pid, 0)


def _connect_once(user, path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def child():
        with _connected(path) as s:
            socket.send_fds(theirs, [b"x"], [s.fileno()])
        return "sent"

    with contextlib.closing(ours), contextlib.closing(theirs):
        said = as_user(user, child)
        return said, socket.recv_fds(ours, 1, 1)[1] if said == "=sent" else []


def connect_as(user, path):
    """A socket connected by @user, which is what the other side sees for good, to use from here."""
    said, fds = (Connector.connect if user in Connector.USERS else _connect_once)(user, path)
    if said != "=sent":
        raise PermissionError(said)
    sock = socket.socket(fileno=fds[0])
    sock.settimeout(45)
    CLIENTS.setdefault(path, weakref.WeakSet()).add(sock)
    return sock


def open_to(path):
    """How many connections to @path are open at this end."""
    return sum(s.fileno() >= 0 for s in CLIENTS.get(str(path), ()))


def connections(path):
    """How many its owner has not closed at the other end, accepted or not: what is bound there and does not listen."""
    return len(re.findall(rf"^\S+ \S+ \S+ 0{{8}} .* {re.escape(str(path))}$", pathlib.Path("/proc/net/unix").read_text(), re.M))


class Closed(Exception):
    pass


class Refused(Exception):
    def __init__(self, status):
        super().__init__(status)
        self.status = status


class Peer:
    """One connection to a daemon in one role."""

    HELLO = {("qudata", "helper.sock"): "HELPER_HELLO", ("qudata-mon", "helper.sock"): "MON_HELLO",
             ("qudata", "vmmon.sock"): "VMMON_HELLO", ("qudata", "frp.sock"): "FRP_HELLO"}

    def __init__(self, user, path, hello=True):
        self.user = user
        self.sock = connect_as(user, str(path))
        self.next_id = 1
        self.events = []
        if hello:
            self.call(self.HELLO[(user, pathlib.Path(path).name)], version=CONST["PROTO_VERSION"])

    def send(self, op, fds=(), **values):
        op = OPS[op] if isinstance(op, str) else op
        self.next_id += 1
        self.raw(message(op, op.body(**values), request_id=self.next_id), fds)
        return self.next_id

    def raw(self, data, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([data], rights)
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Closed() from e

    def receive(self, timeout=45):
        """(op, kind, status, request id, body) of the next message; Closed at the end."""
        if not select.select([self.sock], [], [], timeout)[0]:
            raise TimeoutError(f"no answer in {timeout} s")
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, MSG_MAX, 4)
        except ConnectionResetError as e:
            raise Closed() from e
        for fd in fds:
            os.close(fd)
        if not data:
            raise Closed()
        return (*HEADER.unpack(data[:16])[:4], data[16:])

    def answer(self, op, request_id, timeout=45):
        op = OPS[op] if isinstance(op, str) else op
        while True:
            number, kind, status, got_id, body = self.receive(timeout)
            if kind == EVENT:
                self.events.append((number, body))
                continue
            assert (number, kind, got_id) == (op.number, REPLY, request_id), (op.name, number, kind, got_id)
            if status != 0:
                assert body == b"", "a refusal carries no body"
                raise Refused(STATUS_NAME[status])
            out, at = {}, 0
            for f in op.reply:
                out[f.name] = f.unpack(body[at:at + f.size])
                at += f.size
            assert at == len(body), (op.name, len(body))
            return out

    def call(self, op, fds=(), timeout=45, **values):
        return self.answer(op, self.send(op, fds, **values), timeout)

    def refused(self, op, fds=(), **values):
        """The status with which the call is refused."""
        try:
            self.call(op, fds, **values)
        except Refused as e:
            return e.status
        except Closed:
            return "closed"
        return "OK"

    def close(self):
        self.sock.close()


def sealed(data, seals=SEALS):
    fd = os.memfd_create("seed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
