# SPDX-License-Identifier: Apache-2.0
"""Who may say what, and what a flood or a broken message costs: threats 7, 8 and 11."""
import contextlib
import os
import pathlib
import random
import select
import signal
import socket
import struct
import threading
import time

from rig import HELD_UP_S, SEED, alive, fds, until
from wire import CONST, OPS, STATUS, Closed, Peer, Refused, as_user, connect_as, message

ROLE_OF = {"qudata": "AGENTD", "qudata-mon": "VMMON"}


def outcome(path, user, data, rights=(), hello=True):
    """What one datagram on a fresh connection leads to: `closed` or the reply's status."""
    p = Peer(user, path, hello=hello)
    with contextlib.closing(p):
        try:
            p.raw(data, rights)
            reply = p.receive()
        except Closed:
            return "closed"
        return reply[2]


# ---- 11: who ------------------------------------------------------------------------------------------------
def turned_away(rig, user, path):
    """No connection at all, or one that ends without a byte."""
    try:
        s = connect_as(user, str(path))
    except PermissionError as e:
        assert "[Errno 13]" in str(e), e
        return "not connected"
    with contextlib.closing(s), contextlib.suppress(BrokenPipeError, ConnectionResetError):
        s.send(message(OPS["HELPER_HELLO"]))
        assert s.recv(100) == b"", f"{user} was answered on {path}"
    assert alive(rig.broker)
    return "disconnected"


def strangers_are_turned_away(rig):
    """Every uid but the two that have a role, whatever the mode of the socket."""
    for user in ("nobody", "qudata-vm0", "qudata-vm3", "qudata-frp"):
        with rig.unchanged(), rig.audit.expect("peer-refused", count=0):
            assert turned_away(rig, user, rig.helper_socket) == "not connected", user
    mode = rig.helper_socket.stat().st_mode & 0o777
    os.chmod(rig.helper_socket, 0o777)
    for user in ("root", "nobody", "qudata-vm0", "qudata-vm3", "qudata-frp"):
        with rig.unchanged(), rig.audit.expect("peer-refused", WHY="unknown uid", PEER_UID="."):
            assert turned_away(rig, user, rig.helper_socket) == "disconnected", user
    os.chmod(rig.helper_socket, mode)
    rig.alive()


def every_operation_has_one_sender(rig):
    """All rows of the table from both roles: what is another's row ends the connection."""
    for user, role in ROLE_OF.items():
        rig.restart()  # with a full allowance of records: the table is long
        for op in OPS.values():
            allowed = not op.is_event and op.receiver == "HELPER" and op.sender == role
            if allowed:
                continue
            with rig.unchanged(), rig.audit.expect("peer-refused", WHY="malformed", PEER_UID=r"^\d+$"):
                rights = [SEED] * op.req_fds
                assert outcome(rig.helper_socket, user, message(op), rights) == "closed", (user, op.name)


def vmmon_serves_agentd_only(rig):
    path = rig.root / "run/vmmon/vmmon.sock"
    for op in OPS.values():
        if op.receiver != "VMMON" or op.is_event:
            assert outcome(path, "qudata", message(op), [SEED] * op.req_fds) == "closed", op.name
    for user in ("root", "qudata-frp", "nobody", "qudata-vm0"):
        turned_away(rig, user, path)
    assert Peer("qudata", path).call("GUEST_UNWATCH", vm="no-such") == {"reserved": 0}


def order_of_a_conversation(rig):
    """Nothing before hello, hello once, subscribe once, another version is refused."""
    for user, role in ROLE_OF.items():
        hello = OPS[Peer.HELLO[(user, "helper.sock")]]
        for op in OPS.values():
            if not op.is_event and op.receiver == "HELPER" and op.sender == role and op is not hello:
                with rig.audit.expect("peer-refused", WHY="malformed"):
                    got = outcome(rig.helper_socket, user, message(op), [SEED] * op.req_fds, hello=False)
                    assert got == "closed", op.name
        with rig.audit.expect("peer-refused", WHY="malformed"):
            assert outcome(rig.helper_socket, user, message(hello)) == "closed"
        with rig.audit.expect("request-refused", STATUS="MISMATCH"):
            got = outcome(rig.helper_socket, user, message(hello, hello.body(version=CONST["PROTO_VERSION"] + 1)), hello=False)
            assert got == STATUS["MISMATCH"], got
    p = rig.peer()
    p.call("VM_SUBSCRIBE")
    with rig.audit.expect("peer-refused", WHY="malformed"):
        assert p.refused("VM_SUBSCRIBE") == "closed"


def abstract_and_stolen_names(rig):
    """No daemon listens on an abstract address, and nobody else can take a daemon's path."""
    inodes = set()
    for pid in (rig.pid, rig.broker):
        for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                inodes.add(os.readlink(entry))
    assert any(i.startswith("socket:") for i in inodes), inodes
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        parts = line.split()
        if f"socket:[{parts[6]}]" in inodes and len(parts) > 7:
            assert not parts[7].startswith("@"), line
    path = str(rig.helper_socket)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        try:
            s.connect("\0" + path)
            raise AssertionError("an abstract twin of the socket answers")
        except ConnectionRefusedError:
            pass
    for user in ("qudata", "qudata-mon", "qudata-frp", "qudata-vm0", "nobody"):
        for act in (lambda: os.unlink(path), lambda: os.rename(path, path + "2"), lambda: os.chown(path, 0, 0),
                    lambda: os.symlink("/dev/null", path + ".new"), lambda: os.link(path, path + ".hard"),
                    lambda: socket.socket(socket.AF_UNIX).bind(path + ".mine")):
            with rig.unchanged():
                said = as_user(user, act)
                assert said.startswith("!PermissionError"), (user, said)


# ---- 8: messages --------------------------------------------------------------------------------------------
def sizes_and_headers(rig):
    """Empty, truncated, oversized, lying about their length, of the wrong kind: the connection ends."""
    op = OPS["VM_DESCRIBE"]
    good = message(op)
    bad = [good[:n] for n in range(1, len(good), 3)] + [good + b"\0", good * 2, good.ljust(4096, b"\0"),
                                                        good.ljust(4097, b"\0"), good.ljust(65536, b"A"),
                                                        b"\xff" * 4096]
    bad += [message(op, length=n) for n in (0, 39, 41, 4080, 0x7fffffff, 0xffffffff)]
    bad += [message(op, kind=k) for k in (0, 2, 3, 0xffff)]
    bad += [message(op, status=1), message(op, request_id=0)]
    bad += [message(op, number=n) for n in (0, 0xffffffff, 0x01f1, 0x0100, 0x0301)]
    with rig.unchanged():
        for n, data in enumerate(bad):
            assert outcome(rig.helper_socket, "qudata", data) == "closed", (n, len(data), data[:24])
    p = Peer("qudata", rig.helper_socket)
    p.sock.send(b"")
    with contextlib.suppress(ConnectionResetError):
        assert p.sock.recv(10) == b""
    rig.alive()


def field_ranges(rig):
    """Each number one past its range, each name against its grammar."""
    names = ["", "-a", "A", "a b", "a,b", "a=b", "a/b", "..", "../x", "/etc", "a\nb", "a\0b", "\x80", "a" * 33,
             "a" * 40, "json:{}", "nbd:h:1", "a%s", "a;b", "$(id)", "a_b"]
    ops = [o for o in OPS.values() if o.sender == "AGENTD" and o.receiver == "HELPER" and not o.is_event]
    with rig.unchanged():
        for op in ops:
            for f in op.request:
                values = names if f.kind == "NAME" else []
                if f.kind in ("U32", "U64"):
                    top = 0xffffffff if f.kind == "U32" else (1 << 64) - 1
                    values = {v for v in (f.low - 1, f.high + 1, top) if 0 <= v <= top and not f.low <= v <= f.high}
                if f.kind == "PORTS":
                    values = [[(10000, 0)], [(10000, 1), (10000, 2)], [(0, 22)], [(0, 0), (10000, 22)]]
                for value in values:
                    body = op.body(**{f.name: value})
                    got = outcome(rig.helper_socket, "qudata", message(op, body), hello="HELLO" not in op.name)
                    assert got == "closed", (op.name, f.name, value, got)


def mutations(rig, count=4000):
    """Deterministic flips, cuts and growths of every valid message, over the real socket."""
    rnd = random.Random(20261121)
    ops = [(u, o) for u, role in ROLE_OF.items() for o in OPS.values()
           if o.sender == role and o.receiver == "HELPER" and not o.is_event]
    values = {"image": "none-such", "generation": 1 << 60, "cpus": 1, "memory_mib": 128, "version": 1}
    bystander = {u: rig.peer(u) for u in ROLE_OF}
    current = {u: None for u in ROLE_OF}
    closed = answered = 0
    with rig.unchanged():
        for n in range(count):
            user, op = rnd.choice(ops)
            fields = {f.name: values[f.name] for f in op.request if f.name in values}
            data = bytearray(message(op, op.body(**fields), request_id=n + 1))
            for _ in range(rnd.choice((1, 1, 1, 2, 8))):
                data[rnd.randrange(len(data))] ^= 1 << rnd.randrange(8)
            if rnd.random() < 0.15:
                data = data[:rnd.randrange(1, len(data))]
            if rnd.random() < 0.1:
                data += rnd.randbytes(rnd.randrange(1, 200))
            rights = [SEED] * rnd.choice((op.req_fds, op.req_fds, 0, 1, 2))
            if current[user] is None:
                current[user] = Peer(user, rig.helper_socket)
            try:
                current[user].raw(bytes(data), rights)
                status = current[user].receive()[2]
                answered += 1
                assert status in STATUS.values()
            except Closed:
                closed += 1
                current[user].close()
                current[user] = None
            if n % 500 == 0:
                bystander["qudata"].call("VM_LIST")
                assert bystander["qudata-mon"].refused("VM_SEED", [SEED], vm="no-such") == "NOT_FOUND"
        for p in current.values():
            if p:
                p.close()
    assert closed > count // 3 and answered > 0, (closed, answered)
    rig.alive()


def refusals_do_not_fill_the_log(rig):
    """A peer that is refused a thousand times gets a bounded number of records, and the rest is counted."""
    begun = time.monotonic()
    rig.restart()
    before = len(rig.audit.records())
    for _ in range(1000):
        assert outcome(rig.helper_socket, "qudata", b"x" * 20) == "closed"
    new = rig.audit.records()[before:]
    # One more each two seconds, each with one that counts the others.
    most = 64 + (time.monotonic() - begun) + 2
    assert 32 <= len(new) <= most < 500, (len(new), most)
    time.sleep(2.1)
    outcome(rig.helper_socket, "qudata", b"x" * 20)
    new = rig.audit.records()[before:]
    told = [r for r in new if r.event == "refusals-suppressed"]
    refused = [r for r in new if r.event == "peer-refused"]
    assert told and sum(int(r.fields["COUNT"]) for r in told) + len(refused) == 1001, [r.line for r in told]
    rig.restart()


# ---- 7: floods ----------------------------------------------------------------------------------------------
def answers_in_time(mon):
    try:
        mon.call("VM_SEED", [SEED], timeout=HELD_UP_S, vm="no-such")
    except Refused as e:
        assert e.status == "NOT_FOUND", e.status
    else:
        raise AssertionError("it was taken")


def connection_flood(rig):
    """Hundreds of connections of one role, silent, half said or closed at once: the other role is served."""
    mon = rig.peer("qudata-mon")
    with rig.unchanged():
        held = []
        for n in range(400):
            s = connect_as("qudata", str(rig.helper_socket))
            if n % 3 == 0:
                with contextlib.suppress(OSError):
                    s.send(message(OPS["HELPER_HELLO"])[:10] if n % 2 else message(OPS["HELPER_HELLO"]))
            held.append(s)
            if n % 50 == 0:
                answers_in_time(mon)
        held_by_helper = sum(t == "socket" for t in fds(rig.broker).values())
        assert held_by_helper <= 16, f"the helper holds {held_by_helper} sockets"
        answers_in_time(mon)
        for s in held:
            s.close()
    assert_recorded(rig, "too many connections")
    rig.alive()


def assert_recorded(rig, why):
    """Since the helper's last start."""
    def recorded():
        records = rig.audit.records()
        start = max(r.seq for r in records if r.event == "helper-start")
        return [r for r in records[start:] if r.event == "peer-refused" and r.fields["WHY"] == why]
    until(f"there is a record of `{why}`", recorded, 30)


def descriptor_flood(rig):
    """Messages with up to 253 descriptors of every kind: all are closed, none is looked at."""
    mon = rig.peer("qudata-mon")
    kinds = [os.open("/dev/null", os.O_RDWR), os.open("/", os.O_PATH), os.open("/proc/self/mem", os.O_RDONLY),
             os.eventfd(0), os.pipe()[0], select.epoll().fileno(), os.open("/proc", os.O_RDONLY),
             socket.socket(socket.AF_INET).detach(), socket.socketpair()[0].detach(), os.memfd_create("x"),
             os.dup(SEED)]
    ops = {"qudata": OPS["VM_LIST"], "qudata-mon": OPS["VM_SEED"]}
    with rig.unchanged():
        for n in range(200):
            user = ("qudata", "qudata-mon")[n % 2]
            amount = (1, 2, 16, 17, 100, 253)[n % 6] + (1 if user == "qudata-mon" and n % 6 == 0 else 0)
            rights = [kinds[(n + i) % len(kinds)] for i in range(amount)]
            assert outcome(rig.helper_socket, user, message(ops[user]), rights) == "closed", (user, amount)
            if n % 20 == 0:
                answers_in_time(mon)
    assert_recorded(rig, "malformed message")
    with rig.unchanged():
        for fd in kinds:
            got = outcome(rig.helper_socket, "qudata-mon", message(OPS["VM_SEED"]), [fd])
            assert got == STATUS["NOT_FOUND"], got
    rig.alive()


def lingering(linger_s):
    """A TCP connection that makes its last closer wait for a peer that never reads."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    s = socket.socket()
    s.connect(listener.getsockname())
    s.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            s.send(b"x" * 65536)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, linger_s))
    return listener, s


def poison(pid, attacker, data):
    """
    Sends @data with a descriptor whose last close waits for 90 s, hidden in the queue of a socket so that no look
    at what arrives tells. The receiver is stopped for a moment: the sender, who can win this race by itself with
    some requests ahead, then always closes its own copy first.
    """
    listener, tcp = lingering(3 * HELD_UP_S)
    hold, carrier = socket.socketpair()
    socket.send_fds(hold, [b"x"], [tcp.fileno()])
    tcp.close()
    hold.close()
    os.kill(pid, signal.SIGSTOP)
    try:
        attacker.raw(data, [carrier.fileno()])
        carrier.close()
    finally:
        os.kill(pid, signal.SIGCONT)
    time.sleep(0.05)
    return listener


def closing_that_blocks(rig):
    """Nobody waits for the helper while it closes what it was sent, received or not, nor when a peer leaves."""
    mon = rig.peer("qudata-mon")
    # Behind a message that ends the connection nobody receives it; a seed is taken by the handler.
    for user, op, ahead in (("qudata", "VM_LIST", ()), ("qudata", "VM_LIST", (b"bad",)), ("qudata-mon", "VM_SEED", ())):
        attacker = Peer(user, rig.helper_socket)
        for data in ahead:
            os.kill(rig.broker, signal.SIGSTOP)
            attacker.raw(data)
        listener = poison(rig.broker, attacker, message(OPS[op]))
        try:
            answers_in_time(mon)
        finally:
            attacker.close()
            listener.close()


def readers_that_never_read(rig):
    """Requests whose answers pile up: that connection is closed, nobody waits for it."""
    mon = rig.peer("qudata-mon")
    with rig.unchanged():
        for _ in range(4):
            p = Peer("qudata", rig.helper_socket)
            p.sock.settimeout(60)
            with contextlib.suppress(Closed, TimeoutError, OSError):
                for _ in range(5000):
                    p.send("VM_LIST")
            answers_in_time(mon)
            p.close()
    assert_recorded(rig, "does not read its answers")
    rig.alive()


def flooders_do_not_starve_others(rig):
    """Four connections of agentd's user ask as fast as they can; vmmon's is served all the while."""
    mon = rig.peer("qudata-mon")
    stop = threading.Event()

    def ask():
        p = Peer("qudata", rig.helper_socket)
        while not stop.is_set():
            p.call("VM_LIST")
        p.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for t in threads:
        t.start()
    try:
        until("the flood is on", lambda: sum(t == "socket" for t in fds(rig.broker).values()) >= 5)
        for _ in range(50):
            answers_in_time(mon)
    finally:
        stop.set()
        for t in threads:
            t.join()
    rig.alive()


def half_open_clients(rig):
    """Clients that die between request and answer, and right after connecting."""
    with rig.unchanged():
        for n in range(200):
            p = Peer("qudata", rig.helper_socket, hello=n % 2 == 0)
            p.raw(message(OPS["HELPER_HELLO" if n % 2 else "VM_LIST"]))
            if n % 3 == 0:
                with contextlib.suppress(OSError):
                    p.sock.shutdown((socket.SHUT_RD, socket.SHUT_WR)[n % 2])
            p.close()
    assert alive(rig.broker)
    rig.alive()


def run_cases(report, rig):
    for case in (strangers_are_turned_away, every_operation_has_one_sender, order_of_a_conversation,
                 abstract_and_stolen_names):
        report.run(f"peers/{case.__name__}", case, rig)
        rig.restart()
    for case in (sizes_and_headers, field_ranges, mutations, refusals_do_not_fill_the_log, connection_flood,
                 descriptor_flood, readers_that_never_read, flooders_do_not_starve_others, half_open_clients,
                 closing_that_blocks):
        rig.restart()  # with a full allowance of records, and none of the case before
        report.run(f"messages/{case.__name__}", case, rig)
        rig.drop_peers()
