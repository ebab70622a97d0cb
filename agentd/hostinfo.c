/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this host is and how busy it is.
 * Trust: runs inside agentd; reads procfs, sysfs and udev's records.
 */
#include "agentd/hostinfo.h"

#include <fcntl.h>
#include <sys/statvfs.h>

#define TEXT_MAX       (64 * 1024)
#define NAME_MAX_IF    16 /* IFNAMSIZ */
#define PROCESSORS_MAX 8192

int hostinfo_open(struct hostinfo *ret_info, struct err *reterr)
{
	*ret_info = (struct hostinfo){
		.proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		.sys_fd = open("/sys", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		.udev_fd = open("/run/udev/data", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
	};
	if (ret_info->proc_fd < 0 || ret_info->sys_fd < 0)
		return err_errno(reterr, -errno, "cannot open /proc and /sys");
	return 0;
}

void hostinfo_done(struct hostinfo *info)
{
	info->proc_fd = safe_close(info->proc_fd);
	info->sys_fd = safe_close(info->sys_fd);
	info->udev_fd = safe_close(info->udev_fd);
}

/* The beginning of the file, as far as it fits, without its last newline; "" when unreadable. */
static const char *read_text(int dirfd, const char *path, char *buf, size_t size)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n = 1;

	while (fd >= 0 && n > 0 && len < size - 1) {
		n = read(fd, buf + len, size - 1 - len);
		len += n > 0 ? (size_t)n : 0;
	}
	while (len > 0 && (buf[len - 1] == '\n' || buf[len - 1] == ' '))
		len--;
	buf[len] = '\0';
	return buf;
}

/* The number after "KEY" and blanks or a colon in @text. */
static bool number_after(const char *text, const char *key, uint64_t *ret_value)
{
	const char *p = strstr(text, key);
	char *end;

	if (!p)
		return false;
	p += strlen(key);
	p += strspn(p, " \t:");
	*ret_value = strtoull(p, &end, 10);
	return end != p;
}

static uint32_t read_number(int dirfd, const char *path)
{
	char text[64], *end;
	unsigned long long value;

	(void)read_text(dirfd, path, text, sizeof(text));
	value = strtoull(text, &end, 10);
	return end == text || *end != '\0' || value >= CONTROL_UNKNOWN ? CONTROL_UNKNOWN
								       : (uint32_t)value;
}

/* Is processor @n the first thread of its core? Negative when the kernel does not say. */
static int leads_core(const struct hostinfo *info, unsigned long n)
{
	char path[80], text[512], *end;
	unsigned long first;

	(void)snprintf(path, sizeof(path),
		       "devices/system/cpu/cpu%lu/topology/thread_siblings_list", n);
	(void)read_text(info->sys_fd, path, text, sizeof(text));
	first = strtoul(text, &end, 10); /* the lists are in ascending order */
	return end == text ? -ENODATA : first == n;
}

/* Threads and cores of all sockets that are online: "0-15,32-47". */
static void count_processors(const struct hostinfo *info, struct control_host *host)
{
	char text[4096], *p = text;
	uint32_t threads = 0, cores = 0;
	bool known = true;

	(void)read_text(info->sys_fd, "devices/system/cpu/online", text, sizeof(text));
	while (*p >= '0' && *p <= '9') {
		unsigned long first = strtoul(p, &p, 10), last = first;

		if (*p == '-')
			last = strtoul(p + 1, &p, 10);
		for (unsigned long n = first; n <= last && threads < PROCESSORS_MAX; n++) {
			int leads = leads_core(info, n);

			threads++;
			cores += leads > 0;
			known = known && leads >= 0;
		}
		p += *p == ',';
	}
	if (threads == 0 || *p != '\0')
		return;
	host->vcpu = threads;
	if (known && cores > 0)
		host->cpu_cores = cores;
}

static void describe_cpu(const struct hostinfo *info, struct control_host *host)
{
	char text[TEXT_MAX], *name, *end;
	uint32_t khz =
		read_number(info->sys_fd, "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq");

	/* Cut at its end is all right: the first processor is at the beginning. */
	(void)read_text(info->proc_fd, "cpuinfo", text, sizeof(text));
	name = strstr(text, "model name");
	name = name ? strchr(name, ':') : NULL;
	if (name) {
		name += strspn(name, ": \t");
		end = strchr(name, '\n');
		if (end)
			*end = '\0';
		proto_text_set(host->cpu_name, sizeof(host->cpu_name), name);
	}
	count_processors(info, host);
	if (khz != CONTROL_UNKNOWN)
		host->cpu_mhz = khz / 1000;
}

/*
 * How fast the memory runs: the slowest module's. The firmware's tables are for root only, but udev
 * reads them and everybody may read what it has found.
 */
static void describe_memory(const struct hostinfo *info, struct control_host *host)
{
	static const char key[] = "\nE:MEMORY_DEVICE_";
	char text[TEXT_MAX];
	unsigned int speed;
	int end;

	if (info->udev_fd < 0)
		return;
	(void)read_text(info->udev_fd, "+dmi:id", text, sizeof(text));
	for (const char *p = strstr(text, key); p; p = strstr(p + 1, key)) {
		end = 0;
		if (sscanf(p, "\nE:MEMORY_DEVICE_%*u_CONFIGURED_SPEED_MTS=%6u%n", &speed, &end) ==
			    1 &&
		    end > 0 && (p[end] == '\n' || p[end] == '\0') && speed > 0)
			host->memory_mhz = MIN_OF(host->memory_mhz, speed);
	}
}

/* "fe80…01 80 …  interface": the one that all of IPv6 goes to, "" when there is none. */
static void default_interface6(const struct hostinfo *info, char name[static NAME_MAX_IF])
{
	static const char all[] = "\n00000000000000000000000000000000 00 "
				  "00000000000000000000000000000000 00 ";
	char text[TEXT_MAX], candidate[NAME_MAX_IF];

	text[0] = '\n';
	(void)read_text(info->proc_fd, "net/ipv6_route", text + 1, sizeof(text) - 1);
	for (const char *p = strstr(text, all); p; p = strstr(p + 1, all))
		if (sscanf(p + strlen(all), "%*32s %*8s %*8s %*8s %*8s %15s", candidate) == 1 &&
		    !strchr(candidate, '/') && !STR_EQ(candidate, "lo")) {
			memcpy(name, candidate, NAME_MAX_IF);
			return;
		}
}

/* The interface of the default route, "" when there is none. */
static void default_interface(const struct hostinfo *info, char name[static NAME_MAX_IF])
{
	char text[TEXT_MAX], candidate[NAME_MAX_IF];
	unsigned int destination;

	name[0] = '\0';
	(void)read_text(info->proc_fd, "net/route", text, sizeof(text));
	for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n'))
		if (sscanf(line, "\n%15s %x", candidate, &destination) == 2 && destination == 0 &&
		    !strchr(candidate, '/')) {
			memcpy(name, candidate, NAME_MAX_IF);
			return;
		}
}

static void describe_network(const struct hostinfo *info, struct control_host *host)
{
	char name[NAME_MAX_IF], path[64];

	default_interface(info, name);
	if (name[0] == '\0')
		default_interface6(info, name);
	if (name[0] == '\0')
		return;
	(void)snprintf(path, sizeof(path), "class/net/%s/speed", name);
	host->ethernet_mbit = read_number(info->sys_fd, path);
	if (host->ethernet_mbit == 0) /* the word of a driver that does not know */
		host->ethernet_mbit = CONTROL_UNKNOWN;
}

const char *hostinfo_cuda_of_driver(const char *version)
{
	/* The first driver branch of each, newest first. */
	static const struct {
		unsigned long driver;
		const char *cuda;
	} table[] = {
		{580, "13.0"}, {575, "12.9"}, {570, "12.8"}, {560, "12.6"}, {555, "12.5"},
		{550, "12.4"}, {545, "12.3"}, {535, "12.2"}, {530, "12.1"}, {525, "12.0"},
		{520, "11.8"}, {515, "11.7"}, {510, "11.6"}, {495, "11.5"}, {470, "11.4"},
	};
	unsigned long branch = strtoul(version, NULL, 10);

	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (branch >= table[i].driver && branch < 1000)
			return table[i].cuda;
	return "";
}

/* The number before "GB" in @name, as the list of PCI ids tells products apart; 0 when none is. */
static uint32_t gib_in_name(const char *name)
{
	for (const char *p = strstr(name, "GB"); p; p = strstr(p + 2, "GB")) {
		const char *digits = p;
		unsigned long gib;

		while (digits > name && digits[-1] >= '0' && digits[-1] <= '9')
			digits--;
		if (digits == p || (digits > name && strchr(" -/[(", digits[-1]) == NULL) ||
		    (p[2] != '\0' && strchr(" ])/,", p[2]) == NULL))
			continue;
		gib = strtoul(digits, NULL, 10);
		if (gib > 0 && gib <= 4096)
			return (uint32_t)gib;
	}
	return 0;
}

uint32_t hostinfo_vram_mib(int sys_fd, const char *address, const char *name)
{
	char path[80], text[32], *end;
	uint64_t bytes;
	uint32_t gib = gib_in_name(name);

	(void)snprintf(path, sizeof(path), "bus/pci/devices/%s/mem_info_vram_total", address);
	(void)read_text(sys_fd, path, text, sizeof(text));
	bytes = strtoull(text, &end, 10);
	if (end != text && *end == '\0' && bytes >= 1 << 20 && bytes >> 20 < CONTROL_UNKNOWN)
		return (uint32_t)(bytes >> 20);
	return gib > 0 ? gib * 1024 : CONTROL_UNKNOWN;
}

void hostinfo_describe(const struct hostinfo *info, int data_fd, struct control_host *ret_host)
{
	struct control_host *host = ret_host;
	char text[TEXT_MAX];
	struct statvfs fs;
	uint64_t kib;

	memset(host, 0, sizeof(*host));
	host->gpu_amount = 0;
	host->vram_mib = host->ram_mib = host->disk_mib = host->cpu_cores = host->vcpu =
		host->cpu_mhz = host->memory_mhz = host->ethernet_mbit = host->capacity =
			CONTROL_UNKNOWN;
	(void)read_text(info->proc_fd, "meminfo", text, sizeof(text));
	if (number_after(text, "MemTotal:", &kib) && kib / 1024 < CONTROL_UNKNOWN)
		host->ram_mib = (uint32_t)(kib / 1024);
	if (fstatvfs(data_fd, &fs) == 0)
		host->disk_mib = (uint32_t)MIN_OF((uint64_t)fs.f_blocks * fs.f_frsize >> 20,
						  (uint64_t)CONTROL_UNKNOWN - 1);
	describe_cpu(info, host);
	describe_memory(info, host);
	describe_network(info, host);
	(void)read_text(info->sys_fd, "module/nvidia/version", text, sizeof(text));
	proto_text_set(host->max_cuda, sizeof(host->max_cuda), hostinfo_cuda_of_driver(text));
}

/* ---- samples ---- */

static void sample_cpu(struct hostinfo *info, struct control_stats *stats)
{
	unsigned long long user, nice, system, idle, iowait, irq, softirq, steal;
	uint64_t busy, total;
	char text[TEXT_MAX];

	(void)read_text(info->proc_fd, "stat", text, sizeof(text));
	if (sscanf(text, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system,
		   &idle, &iowait, &irq, &softirq, &steal) != 8)
		return;
	busy = user + nice + system + irq + softirq + steal;
	total = busy + idle + iowait;
	if (info->cpu_total != 0 && total > info->cpu_total && busy >= info->cpu_busy)
		stats->cpu_util =
			(uint32_t)((busy - info->cpu_busy) * 100000 / (total - info->cpu_total));
	info->cpu_busy = busy;
	info->cpu_total = total;
}

static void sample_memory(const struct hostinfo *info, struct control_stats *stats)
{
	char text[TEXT_MAX];
	uint64_t total, available;

	(void)read_text(info->proc_fd, "meminfo", text, sizeof(text));
	if (number_after(text, "MemTotal:", &total) && total > 0 &&
	    number_after(text, "MemAvailable:", &available) && available <= total)
		stats->ram_util = (uint32_t)((total - available) * 100000 / total);
}

/* Of all interfaces but the loopback. */
static void sample_network(const struct hostinfo *info, struct control_stats *stats)
{
	char text[TEXT_MAX];

	(void)read_text(info->proc_fd, "net/dev", text, sizeof(text));
	for (char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n')) {
		unsigned long long in, out;
		char name[NAME_MAX_IF];

		if (sscanf(line, "\n %15[^: ]: %llu %*u %*u %*u %*u %*u %*u %*u %llu", name, &in,
			   &out) != 3 ||
		    STR_EQ(name, "lo"))
			continue;
		stats->inet_in += in;
		stats->inet_out += out;
	}
}

void hostinfo_sample(struct hostinfo *info, struct control_stats *ret_stats)
{
	*ret_stats = (struct control_stats){
		.gpu_util = CONTROL_UNKNOWN,
		.gpu_temp = CONTROL_UNKNOWN,
		.cpu_util = CONTROL_UNKNOWN,
		.ram_util = CONTROL_UNKNOWN,
		.mem_util = CONTROL_UNKNOWN,
	};
	sample_cpu(info, ret_stats);
	sample_memory(info, ret_stats);
	sample_network(info, ret_stats);
}
