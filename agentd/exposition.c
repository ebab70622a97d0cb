/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET /metrics: what agentd knows anyway, in the text format that Prometheus reads. Every label is
 * an id of ours, a number or a word of ours: nothing that a tenant has chosen is in it, and its
 * size is bounded by the number of instances and their ports.
 * Trust: runs inside agentd; shows nothing secret.
 */
#include "agentd/agentd.h"
#include "agentd/gpus.h"
#include "agentd/reply.h"
#include "agentd/route.h"

static void head(FILE *f, const char *name, const char *type, const char *help)
{
	(void)fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_host(FILE *f, const struct agentd *a)
{
	const char *phase = controlplane_phase(a->cp);

	head(f, "qudata_agent_info", "gauge", "The agent's version.");
	(void)fprintf(f, "qudata_agent_info{version=\"%s\"} 1\n", QUDATA_VERSION);
	head(f, "qudata_agent_start_time_seconds", "gauge", "When the agent was started.");
	(void)fprintf(f, "qudata_agent_start_time_seconds %lld\n", (long long)a->started_s);
	head(f, "qudata_peer_up", "gauge", "Whether another daemon of the suite is connected.");
	for (size_t i = 0; i < PEER_COUNT; i++)
		(void)fprintf(f, "qudata_peer_up{peer=\"%s\"} %d\n", peers_name((enum peer_id)i),
			      peers_up(a->peers, (enum peer_id)i));
	if (STR_EQ(phase, "none"))
		return;
	head(f, "qudata_control_plane_up", "gauge", "Whether the control plane answers.");
	(void)fprintf(f, "qudata_control_plane_up %d\n", STR_EQ(phase, "up"));
}

static void put_statuses(FILE *f, const struct agentd *a)
{
	static const char *const words[] = {"pending", "running", "paused", "rebooting", "error"};
	const struct instance *inst;

	head(f, "qudata_instances", "gauge", "Instances by status.");
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		size_t n = 0;

		TAILQ_FOREACH(inst, &a->instances, link)
		n += STR_EQ(inst->status, words[i]);
		(void)fprintf(f, "qudata_instances{status=\"%s\"} %zu\n", words[i], n);
	}
}

/* A figure of each instance. */
static void put_instances(FILE *f, const struct agentd *a, const char *name, const char *help,
			  uint64_t (*figure)(const struct instance *inst))
{
	const struct instance *inst;

	head(f, name, "gauge", help);
	TAILQ_FOREACH(inst, &a->instances, link)
	(void)fprintf(f, "%s{instance=\"%s\"} %llu\n", name, inst->id,
		      (unsigned long long)figure(inst));
}

static uint64_t is_running(const struct instance *inst)
{
	return STR_EQ(inst->status, "running");
}

static uint64_t cpus(const struct instance *inst)
{
	return inst->cpus;
}

static uint64_t memory_bytes(const struct instance *inst)
{
	return (uint64_t)inst->memory_mib << 20;
}

static uint64_t gpus(const struct instance *inst)
{
	return proto_gpus_count(inst->gpus);
}

static uint64_t since(const struct instance *inst)
{
	return (uint64_t)inst->run.since_s;
}

/* The tunnels. */

static uint64_t is_up(const struct port_tunnel *tunnel)
{
	return tunnel->state == PROTO_PROXY_RUNNING;
}

static uint64_t breaks(const struct port_tunnel *tunnel)
{
	return tunnel->breaks;
}

static void put_tunnels(FILE *f, const struct agentd *a, const char *name,
			uint64_t (*figure)(const struct port_tunnel *tunnel))
{
	const struct instance *inst;

	if (a->http_port != 0)
		(void)fprintf(f, "%s{instance=\"\",port=\"%u\",kind=\"api\"} %llu\n", name,
			      a->http_port, (unsigned long long)figure(&a->tunnels.api));
	TAILQ_FOREACH(inst, &a->instances, link)
	for (size_t i = 0; i < proto_ports_count(inst->ports); i++)
		(void)fprintf(f, "%s{instance=\"%s\",port=\"%u\",kind=\"%s\"} %llu\n", name,
			      inst->id, inst->ports[i].guest, inst->tunnels[i].tcp ? "tcp" : "http",
			      (unsigned long long)figure(&inst->tunnels[i]));
}

/* The traffic is the server's to count: frpc does not. */
static void put_all_tunnels(FILE *f, const struct agentd *a)
{
	const struct tunnels *t = &a->tunnels;

	if (!t->on)
		return;
	head(f, "qudata_tunnels_connected", "gauge", "Whether frpc is connected to the server.");
	(void)fprintf(f, "qudata_tunnels_connected %d\n", t->state.state == PROTO_TUNNEL_CONNECTED);
	head(f, "qudata_tunnels_connects_total", "counter", "How often frpc has connected.");
	(void)fprintf(f, "qudata_tunnels_connects_total %u\n", t->connects);
	head(f, "qudata_tunnels_frpc_starts_total", "counter", "How often frpc was started.");
	(void)fprintf(f, "qudata_tunnels_frpc_starts_total %u\n", t->state.starts);
	head(f, "qudata_tunnel_up", "gauge", "Whether a tunnel can be used.");
	put_tunnels(f, a, "qudata_tunnel_up", is_up);
	head(f, "qudata_tunnel_breaks_total", "counter", "How often a tunnel has ceased to work.");
	put_tunnels(f, a, "qudata_tunnel_breaks_total", breaks);
}

/* The host's own GPUs, as they were read last. */

static double busy(const struct probe_gpu *gpu)
{
	return gpu->percent == PROBE_UNKNOWN ? -1 : gpu->percent / 100.0;
}

static double celsius(const struct probe_gpu *gpu)
{
	return gpu->celsius == PROBE_UNKNOWN ? -1.0 : gpu->celsius;
}

static double used_bytes(const struct probe_gpu *gpu)
{
	return gpu->used_mib == PROBE_UNKNOWN ? -1 : gpu->used_mib * 1048576.0;
}

static double all_bytes(const struct probe_gpu *gpu)
{
	return gpu->total_mib == PROBE_UNKNOWN ? -1 : gpu->total_mib * 1048576.0;
}

static double watts(const struct probe_gpu *gpu)
{
	return gpu->milliwatts == PROBE_UNKNOWN ? -1 : gpu->milliwatts / 1000.0;
}

static void put_host_gpus(FILE *f, struct agentd *a)
{
	static const struct {
		const char *name, *help;
		double (*figure)(const struct probe_gpu *gpu); /* negative: not known */
	} figures[] = {
		{"qudata_host_gpu_busy_ratio", "How busy a GPU of the host's driver is.", busy},
		{"qudata_host_gpu_temperature_celsius", "Its temperature.", celsius},
		{"qudata_host_gpu_memory_used_bytes", "Its memory in use.", used_bytes},
		{"qudata_host_gpu_memory_bytes", "Its memory.", all_bytes},
		{"qudata_host_gpu_power_watts", "What it draws.", watts},
	};
	struct hostgpus_view view;
	char address[GPUS_TEXT_SIZE];

	hostgpus_want(a->hostgpus);
	view = hostgpus_view(a->hostgpus);
	for (size_t i = 0; view.report && !view.fake && i < ARRAY_LEN(figures); i++) {
		head(f, figures[i].name, "gauge", figures[i].help);
		for (uint32_t k = 0; k < view.report->n_gpus; k++) {
			double value = figures[i].figure(&view.report->gpus[k]);

			gpus_address_text(view.report->gpus[k].address, address);
			if (value >= 0)
				(void)fprintf(f, "%s{gpu=\"%s\"} %.2f\n", figures[i].name, address,
					      value);
		}
	}
}

void api_metrics(struct agentd *a, struct http_request *req, struct instance *inst)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	(void)inst;
	if (f) {
		put_host(f, a);
		put_statuses(f, a);
		put_instances(f, a, "qudata_instance_up", "Whether it is running.", is_running);
		put_instances(f, a, "qudata_instance_cpus", "Virtual CPUs.", cpus);
		put_instances(f, a, "qudata_instance_memory_bytes", "Memory.", memory_bytes);
		put_instances(f, a, "qudata_instance_gpus", "GPUs.", gpus);
		put_instances(f, a, "qudata_instance_status_time_seconds",
			      "When its status has changed last.", since);
		put_all_tunnels(f, a);
		/* What else is in the host is its operators' business. */
		if (http_tag(req) == LISTENER_CTL)
			put_host_gpus(f, a);
	}
	if (!f || fclose(f) != 0)
		reply_error(req, 500, "out of memory");
	else
		http_reply(req, 200, "text/plain; version=0.0.4; charset=utf-8", text, size);
}
