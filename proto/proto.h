/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol between the suite's processes: what ops.def and msgs.def declare, as C.
 * One SOCK_SEQPACKET datagram is one message: a struct proto_header and one body, both in host byte
 * order (the peers are on one machine), exact sizes, no padding. Depends on libc only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROTO_VERSION        5
#define PROTO_NAME_SIZE      40 /* 32 characters, NUL-padded to a multiple of eight */
#define PROTO_NAME_MAX       32
#define PROTO_MAX_VMS        16
#define PROTO_MAX_PORTS      16
#define PROTO_MAX_GPUS       16
#define PROTO_MAX_OWNERS     17  /* of tunnels: VMs and the API */
#define PROTO_MAX_PROXIES    272 /* PROTO_MAX_PORTS each */
#define PROTO_MAX_DEVICES    64  /* functions of one VM's cards: GPUs and their companions */
#define PROTO_MAX_CPUS       512
#define PROTO_MAX_MEMORY_MIB (8u * 1024 * 1024)
#define PROTO_MAX_DISK_MIB   (64u * 1024 * 1024)
#define PROTO_MAX_FDS        1            /* descriptors that one message may carry */
#define PROTO_MSG_MAX        4096         /* bytes of one datagram */
#define PROTO_SEED_MAX       (256 * 1024) /* bytes of a seed disk */
#define PROTO_KEYS_MAX       (64 * 1024)  /* bytes of a list of public keys */
#define PROTO_TOKEN_MAX      512          /* bytes of FRP_CONFIGURE's memfd */
#define PROTO_CONSOLE_MAX    (64 * 1024)  /* bytes of console that are kept and can be read */
#define PROTO_WISH_MAX       (256 * 1024) /* bytes of CONTAINER_SET's memfd */
#define PROTO_LOG_LINES_MAX  1000
#define PROTO_LOG_BYTES_MAX  (128 * 1024)  /* bytes of a container's output that can be read */
#define PROTO_GPU_LIST_MAX   (1024 * 1024) /* bytes of GPU_LIST's memfd */
#define PROTO_SAMPLES_MAX    1200 /* of a guest's figures that are kept: ten minutes at 2 Hz */
#define PROTO_METRICS_MAX    (2 * 1024 * 1024)          /* bytes of METRICS_READ's memfd */
#define PROTO_FIGURE_MAX     UINT64_C(0x1fffffffffffff) /* exact in any JSON reader */
#define PROTO_NO_FIGURE      UINT32_MAX
#define PROTO_PCI_MAX        UINT64_C(0xffffffffffff) /* domains have up to 32 bits */
#define PROTO_NO_GROUP       UINT32_MAX /* gpu_card_ev.group, gpu_part_ev.group: in none */
#define PROTO_NO_NODE        UINT32_MAX /* gpu_card_ev.node: the machine does not say */

/* Who speaks: decided by the receiver from the peer's credentials, never by the message. */
enum proto_role {
	PROTO_AGENTD = 1,
	PROTO_HELPER,
	PROTO_VMMON,
	PROTO_FRP,
};

/* State of a connection, as bits so that a row may allow several. */
enum proto_conn_state {
	PROTO_ST_NEW = 1u << 0,   /* nothing said yet */
	PROTO_ST_READY = 1u << 1, /* hello done */
};

enum proto_reuse {
	PROTO_MANY,
	PROTO_ONCE,
};

enum proto_kind {
	PROTO_REQUEST = 1,
	PROTO_REPLY,
	PROTO_EVENT,
};

/* The only outcomes that cross a boundary; errno values and paths never do. */
#define PROTO_STATUS_LIST(X)                                                                       \
	X(OK, "done")                                                                              \
	X(MISMATCH, "the peers speak different protocol versions")                                 \
	X(INVALID, "the values do not go together")                                                \
	X(NOT_FOUND, "no such VM, image or guest")                                                 \
	X(CONFLICT, "it exists already with other values")                                         \
	X(ALREADY, "it is in that state already")                                                  \
	X(BUSY, "another operation on it is not finished")                                         \
	X(LIMIT, "over a ceiling of the policy")                                                   \
	X(DENIED, "the policy forbids it")                                                         \
	X(NO_SPACE, "no space left")                                                               \
	X(UNREACHABLE, "the guest or its VM does not answer")                                      \
	X(TIMEOUT, "no answer in time")                                                            \
	X(FAILED, "it failed; the daemon's log says why")

enum proto_status {
#define X(name, text) PROTO_##name,
	PROTO_STATUS_LIST(X)
#undef X
		PROTO_STATUS_COUNT,
};

/* A handler's answer when it will reply later; never on the wire. */
#define PROTO_DEFERRED (-1)

enum proto_accel {
	PROTO_ACCEL_UNDECIDED, /* not tried yet, or the trial runs */
	PROTO_ACCEL_KVM,
	PROTO_ACCEL_TCG,
	PROTO_ACCEL_MAX = PROTO_ACCEL_TCG,
};

/* How the choice of the accelerator came about, with words for people. */
#define PROTO_ACCEL_REASON_LIST(X)                                                                 \
	X(NOT_TRIED, "not tried yet")                                                              \
	X(CONFIGURED, "helper.conf says so")                                                       \
	X(PROVED, "a real kernel gave its first sign of life under KVM")                           \
	X(NO_DEVICE, "/dev/kvm is absent")                                                         \
	X(NO_PERMISSION, "the VMs' users may not open /dev/kvm")                                   \
	X(SILENT, "a real kernel gave no sign of life under KVM in time")                          \
	X(NO_KERNEL, "there is no kernel to try KVM with")

enum proto_accel_reason {
#define X(name, text) PROTO_ACCEL_##name,
	PROTO_ACCEL_REASON_LIST(X)
#undef X
		PROTO_ACCEL_REASON_MAX = PROTO_ACCEL_NO_KERNEL,
};

/*
 * Why a GPU may not be rented, in the order in which one becomes the verdict, with the word that is
 * printed and words for people. RENTABLE is the verdict of a GPU with nothing against it.
 */
#define PROTO_GPU_REASON_LIST(X)                                                                   \
	X(RENTABLE, "rentable", "it can be rented")                                                \
	X(NO_IOMMU, "no_iommu", "not in an IOMMU group")                                           \
	X(BOOT_DISPLAY, "boot_display", "it drives the host's display")                            \
	X(VIRTUALISED, "virtualised", "it has virtual functions or mediated devices, or is one")   \
	X(NOT_VIABLE, "not_viable", "its IOMMU group holds a device that is not the card's")       \
	X(RESERVED, "reserved", "it is bound to a driver that keeps it for someone else")          \
	X(BUSY, "busy", "it is in use")                                                            \
	X(QUARANTINED, "quarantined", "it did not come back well the last time")                   \
	X(HALF_BOUND, "half_bound", "an interrupted bind has left it in parts")

enum proto_gpu_reason {
#define X(name, word, text) PROTO_GPU_##name,
	PROTO_GPU_REASON_LIST(X)
#undef X
		PROTO_GPU_REASON_MAX = PROTO_GPU_HALF_BOUND,
};

/* What a function is to a GPU. */
enum proto_gpu_role {
	PROTO_ROLE_GPU,       /* itself, or another GPU whose card shares a group with it */
	PROTO_ROLE_COMPANION, /* belongs to the card and goes along */
	PROTO_ROLE_BRIDGE,    /* stays, does no harm */
	PROTO_ROLE_ALONG,     /* foreign, driverless, and policy binds it along */
	PROTO_ROLE_FOREIGN,   /* not the card's */
	PROTO_GPU_ROLE_MAX = PROTO_ROLE_FOREIGN,
};

/* Reset methods of a PCI function, gpu_card_ev.resets, as bits: the kernel's words. */
#define PROTO_RESET_LIST(X)                                                                        \
	X(FLR, "flr")                                                                              \
	X(AF_FLR, "af_flr")                                                                        \
	X(PM, "pm")                                                                                \
	X(BUS, "bus")                                                                              \
	X(CXL_BUS, "cxl_bus")                                                                      \
	X(ACPI, "acpi")                                                                            \
	X(DEVICE_SPECIFIC, "device_specific")

enum proto_reset {
#define X(name, word) PROTO_RESET_##name,
	PROTO_RESET_LIST(X)
#undef X
		PROTO_RESET_COUNT,
};

enum proto_vm_state {
	PROTO_VM_ABSENT,
	PROTO_VM_PREPARED, /* directory and overlay exist, no seed */
	PROTO_VM_SEEDED,   /* may be started */
	PROTO_VM_STARTING, /* the start was asked for and is not answered yet */
	PROTO_VM_RUNNING,
	PROTO_VM_MAX = PROTO_VM_RUNNING,
};

enum proto_exit_kind {
	PROTO_EXIT_NONE,    /* it never ran, or still runs */
	PROTO_EXIT_CODE,    /* exited by itself; the code goes along */
	PROTO_EXIT_SIGNAL,  /* killed; the signal goes along */
	PROTO_EXIT_UNKNOWN, /* it ended while no one watched (helper or host restarted) */
	PROTO_EXIT_MAX = PROTO_EXIT_UNKNOWN,
};

enum proto_guest_state {
	PROTO_GUEST_UNWATCHED,
	PROTO_GUEST_CONNECTING, /* no QMP greeting yet */
	PROTO_GUEST_BOOTING,    /* QEMU runs, the guest has not reported */
	PROTO_GUEST_READY,      /* the guest's sshd accepts connections */
	PROTO_GUEST_RESETTING,  /* the guest reboots itself */
	PROTO_GUEST_STOPPING,   /* power button pressed, or the guest shuts down */
	PROTO_GUEST_GONE,       /* the QMP socket has closed */
	PROTO_GUEST_MAX = PROTO_GUEST_GONE,
};

/* Does a guest that is READY send its figures? The stream of them is its heartbeat. */
enum proto_health {
	PROTO_HEALTH_UNKNOWN, /* not READY, or not long enough; or no figures are wanted */
	PROTO_HEALTH_GOOD,
	PROTO_HEALTH_BAD,
	PROTO_HEALTH_MAX = PROTO_HEALTH_BAD,
};

/* The tenant's container, in a guest or on the host; there it has one generation only. */
#define PROTO_HOST_GENERATION 1
#define PROTO_GRACE_S_MAX     (7 * 24 * 3600)
#define PROTO_CONTAINER_LIST(X)                                                                    \
	X(NONE, "no container is wanted")                                                          \
	X(WAITING, "waiting for the container engine")                                             \
	X(PULLING, "pulling the image")                                                            \
	X(STARTING, "starting the container")                                                      \
	X(RUNNING, "the container runs")                                                           \
	X(EXITED, "the container has ended")                                                       \
	X(FAILED, "the container cannot be run")                                                   \
	X(STOPPED, "the container is stopped, as is wanted")                                       \
	X(GONE, "the container and its data are removed, as is wanted")

enum proto_container_state {
#define X(name, text) PROTO_CONTAINER_##name,
	PROTO_CONTAINER_LIST(X)
#undef X
		PROTO_CONTAINER_MAX = PROTO_CONTAINER_GONE,
};

/* The container engine on the host. */
#define PROTO_ENGINE_LIST(X)                                                                       \
	X(OK, "ok", "it answers")                                                                  \
	X(ABSENT, "absent", "no container engine answers there")                                   \
	X(CLOSED, "closed", "vmmon's user may not open its socket")                                \
	X(ROOT, "root", "it runs as root, and engine_rootful is not set")                          \
	X(OLD, "old", "its API is older than 1.41")                                                \
	X(SENSELESS, "senseless", "its answers make no sense")

enum proto_engine {
#define X(name, word, text) PROTO_ENGINE_##name,
	PROTO_ENGINE_LIST(X)
#undef X
		PROTO_ENGINE_MAX = PROTO_ENGINE_SENSELESS,
};

/* Where the tenant's SSH goes, when it is to go into the container. */
#define PROTO_LOGIN_LIST(X)                                                                        \
	X(NONE, "vm")                                                                              \
	X(TRYING, "vm")                                                                            \
	X(CONTAINER, "container")                                                                  \
	X(VM, "vm")

enum proto_login {
#define X(name, word) PROTO_LOGIN_##name,
	PROTO_LOGIN_LIST(X)
#undef X
		PROTO_LOGIN_MAX = PROTO_LOGIN_VM,
};

/* The tunnels as a whole. */
#define PROTO_TUNNEL_LIST(X)                                                                       \
	X(OFF, "off", "no server is configured")                                                   \
	X(BROKEN, "broken", "there is no frpc that can be used")                                   \
	X(STARTING, "starting", "frpc is being started")                                           \
	X(CONNECTING, "connecting", "frpc is not connected to the server")                         \
	X(IDLE, "idle", "frpc runs and there is nothing to forward")                               \
	X(CONNECTED, "connected", "frpc is connected to the server")

enum proto_tunnel_state {
#define X(name, word, text) PROTO_TUNNEL_##name,
	PROTO_TUNNEL_LIST(X)
#undef X
		PROTO_TUNNEL_MAX = PROTO_TUNNEL_CONNECTED,
};

/* One tunnel. */
#define PROTO_PROXY_LIST(X)                                                                        \
	X(WAITING, "waiting", "not told to the server yet")                                        \
	X(RUNNING, "running", "it can be used")                                                    \
	X(CONFLICT, "conflict", "its port or name on the server is taken")                         \
	X(REFUSED, "refused", "the server refuses it")                                             \
	X(LOST, "lost", "frpc is not connected to the server")

enum proto_proxy_state {
#define X(name, word, text) PROTO_PROXY_##name,
	PROTO_PROXY_LIST(X)
#undef X
		PROTO_PROXY_STATE_MAX = PROTO_PROXY_LOST,
};

enum proto_proxy_kind {
	PROTO_PROXY_TCP = 1, /* the server listens on the remote port */
	PROTO_PROXY_HTTP, /* the server forwards by a name made of the domain and the remote port */
	PROTO_PROXY_API,  /* the same for agentd's own API */
	PROTO_PROXY_KIND_MAX = PROTO_PROXY_API,
};

/* How the names of HTTP tunnels are made. */
enum proto_naming {
	PROTO_NAMING_COLON, /* the API is "domain", a service "domain:port" */
	PROTO_NAMING_LABEL, /* all are "label-port" or "label-port.rest" of the domain */
	PROTO_NAMING_MAX = PROTO_NAMING_LABEL,
};

/* Of the connection to the server. */
enum proto_tls {
	PROTO_TLS_OFF,
	PROTO_TLS_ENCRYPT, /* whoever answers is taken for the server */
	PROTO_TLS_VERIFY,  /* by the certificates that the supervisor's configuration names */
	PROTO_TLS_MAX = PROTO_TLS_VERIFY,
};

/* One forward: 127.0.0.1:@host on the host leads to port @guest of the guest. */
struct proto_port {
	uint16_t host;
	uint16_t guest;
};

/* One tunnel: @remote at the server leads to 127.0.0.1:@local. */
struct proto_proxy {
	uint16_t local;
	uint16_t remote;
	uint16_t guest; /* of the guest, 0 for the API; for people */
	uint16_t kind;  /* enum proto_proxy_kind */
};

struct proto_header {
	uint32_t op;
	uint16_t kind;       /* enum proto_kind */
	uint16_t status;     /* replies: enum proto_status; otherwise 0 */
	uint32_t request_id; /* requests and their replies: not 0; events: 0 */
	uint32_t len;        /* bytes of body that follow; 0 when a reply's status is not OK */
};

#define U32(field, low, high) uint32_t field;
#define U64(field, low, high) uint64_t field;
#define NAME(field)           char field[PROTO_NAME_SIZE];
#define TEXT(field, size)     char field[size];
#define PORTS(field)          struct proto_port field[PROTO_MAX_PORTS];
#define NAMES(field)          char field[PROTO_MAX_VMS][PROTO_NAME_SIZE];
#define GPUS(field)           uint64_t field[PROTO_MAX_GPUS];
#define PROXIES(field)        struct proto_proxy field[PROTO_MAX_PORTS];
#define MSG(name, fields)                                                                          \
	struct name {                                                                              \
		fields                                                                             \
	};
#include "proto/msgs.def"
#undef MSG
#undef PROXIES
#undef GPUS
#undef NAMES
#undef PORTS
#undef TEXT
#undef NAME
#undef U64
#undef U32

/* Operation and event numbers: OP_<NAME>. */
enum proto_op_number {
#define OP(name, number, ...) OP_##name = (number),
#define EV(name, number, ...) OP_##name = (number),
#include "proto/ops.def"
#undef EV
#undef OP
};

/* One row of ops.def. For an event the request's side describes the event's body. */
struct proto_op {
	uint32_t number;
	const char *name;
	const char *stem;
	const char *effect;
	uint8_t from; /* enum proto_role */
	uint8_t to;
	uint8_t states; /* mask of enum proto_conn_state; 0 for an event */
	uint8_t reuse;  /* enum proto_reuse */
	uint8_t req_fds;
	uint8_t rep_fds;
	bool is_event;
	size_t req_size;
	size_t rep_size;
	/* 0, or -EBADMSG when a field is out of its range. @body holds exactly req_size bytes. */
	int (*check_req)(const void *body);
	int (*check_rep)(const void *body);
};

extern const struct proto_op proto_ops[];
extern const size_t proto_n_ops;

/* Room for any body, aligned for all of them. */
union proto_body {
	uint64_t align;
	uint8_t bytes[PROTO_MSG_MAX - sizeof(struct proto_header)];
};

/* What one side knows of a connection: enough to judge a message without believing it. */
struct proto_conn {
	enum proto_role self;
	enum proto_role peer;
	enum proto_conn_state state;
	uint64_t used; /* bit per row: ONCE rows already seen */
};

/* The row with that number, or NULL. */
const struct proto_op *proto_find(uint32_t number);

/*
 * Decodes one datagram received as a server. On success returns 0, fills all three outputs, and has
 * recorded the row as used. Errors: -EBADMSG (malformed in any way, wrong number of descriptors),
 * -EOPNOTSUPP (no such operation for this role), -EACCES (not this peer, or not in this state),
 * -EALREADY (a ONCE row again). After any error the connection must be closed.
 */
int proto_decode_request(struct proto_conn *conn, const void *buf, size_t len, size_t n_fds,
			 const struct proto_op **ret_op, struct proto_header *ret_header,
			 union proto_body *ret_body);

/*
 * Decodes one datagram received as a client: a reply or an event. A reply whose status is not OK
 * has no body and no descriptors; @ret_body is zeroed then. Same errors as above; the caller
 * matches request_id and operation with what it asked.
 */
int proto_decode_answer(const struct proto_conn *conn, const void *buf, size_t len, size_t n_fds,
			const struct proto_op **ret_op, struct proto_header *ret_header,
			union proto_body *ret_body);

/*
 * Splits a datagram, which the two above do first: the lengths fit, nothing else is checked.
 * -EBADMSG when they do not.
 */
int proto_split(const void *buf, size_t len, struct proto_header *ret_header,
		union proto_body *ret_body);

/* What a NAME field and a TEXT field of @size bytes have to be, up to their last byte. */
bool proto_name_ok(const char field[static PROTO_NAME_SIZE]);
bool proto_text_ok(const char *field, size_t size);
bool proto_all_zero(const void *p, size_t len);

/* Is @name a NAME of the protocol (see msgs.def)? Takes a C string of any length. */
bool proto_name_valid(const char *name);

/* Copies a valid name into a message's NAME field, padding with NUL. -EINVAL if it is none. */
int proto_name_set(char field[static PROTO_NAME_SIZE], const char *name);

/* Copies @text into a TEXT field of @size bytes: cut to fit, unprintable bytes become '?'. */
void proto_text_set(char *field, size_t size, const char *text);

/* Number of used entries. */
size_t proto_ports_count(const struct proto_port ports[static PROTO_MAX_PORTS]);

size_t proto_gpus_count(const uint64_t gpus[static PROTO_MAX_GPUS]);
size_t proto_proxies_count(const struct proto_proxy proxies[static PROTO_MAX_PORTS]);

/* Words for people: "agentd", "busy: …". Never NULL. */
const char *proto_role_name(enum proto_role role);
const char *proto_status_name(enum proto_status status);
const char *proto_status_text(enum proto_status status);
/* "rentable", "no_iommu"… and the words that explain it. Never NULL. */
const char *proto_gpu_reason_name(enum proto_gpu_reason reason);
const char *proto_gpu_reason_text(enum proto_gpu_reason reason);
const char *proto_container_text(enum proto_container_state state);
const char *proto_login_name(enum proto_login place); /* "container" or "vm" */
/* "connected"…, "running"… and the words that explain them. Never NULL. */
const char *proto_tunnel_name(enum proto_tunnel_state state);
const char *proto_tunnel_text(enum proto_tunnel_state state);
const char *proto_proxy_name(enum proto_proxy_state state);
const char *proto_proxy_text(enum proto_proxy_state state);
