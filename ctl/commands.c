/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command table: dispatch, help texts, completions and the manual page's list derive from it.
 *
 * Trust: constant data.
 */
#include "ctl/ctl.h"

#define STATE_WORDS "pending running paused rebooting error destroyed"

#define OPTION_WAIT                                                                                \
	{                                                                                          \
		OPT_WAIT, 'w', "wait", NULL, "wait for the result and show progress",              \
			CTL_COMPLETE_NONE, NULL                                                    \
	}
#define OPTION_NO_WAIT                                                                             \
	{                                                                                          \
		OPT_NO_WAIT, 0, "no-wait", NULL, "return as soon as the agent has accepted",       \
			CTL_COMPLETE_NONE, NULL                                                    \
	}
#define OPTION_TIMEOUT                                                                             \
	{                                                                                          \
		OPT_TIMEOUT, 't', "timeout", "TIME",                                               \
			"give up after TIME (90, 5m, 1h; default 5m)", CTL_COMPLETE_NONE, NULL     \
	}

const struct ctl_option ctl_global_options[] = {
	{OPT_JSON, 'j', "json", NULL, "print the agent's answer as JSON", CTL_COMPLETE_NONE, NULL},
	{OPT_QUIET, 'q', "quiet", NULL, "no progress and no remarks", CTL_COMPLETE_NONE, NULL},
	{OPT_SOCKET, 0, "socket", "PATH",
	 "the agent's control socket (default " CTL_SOCKET_DEFAULT ")", CTL_COMPLETE_FILE, NULL},
	{OPT_URL, 0, "url", "URL", "talk to the agent's TCP address instead", CTL_COMPLETE_NONE,
	 NULL},
	{OPT_SECRET_FILE, 0, "secret-file", "FILE", "file with the agent secret, for --url",
	 CTL_COMPLETE_FILE, NULL},
	{OPT_HELP, 'h', "help", NULL, "show help", CTL_COMPLETE_NONE, NULL},
	{OPT_VERSION, 'V', "version", NULL, "show the version", CTL_COMPLETE_NONE, NULL},
};
const size_t ctl_n_global_options = ARRAY_LEN(ctl_global_options);

static const struct ctl_option check_options[] = {
	{OPT_IMAGES_DIR, 0, "images-dir", "DIR", "where the base images are", CTL_COMPLETE_DIR,
	 NULL},
};

static const struct ctl_option create_options[] = {
	{OPT_NAME, 'n', "name", "NAME", "a name to find it by", CTL_COMPLETE_NONE, NULL},
	{OPT_CPUS, 'c', "cpus", "N", "virtual CPUs", CTL_COMPLETE_NONE, NULL},
	{OPT_MEMORY, 'm', "memory", "SIZE", "memory (8G, 512M)", CTL_COMPLETE_NONE, NULL},
	{OPT_DISK, 'd', "disk", "SIZE", "disk, in whole GiB (50G)", CTL_COMPLETE_NONE, NULL},
	{OPT_GPUS, 'g', "gpus", "N|ADDRESS,...", "how many GPUs, or which ones", CTL_COMPLETE_GPU,
	 NULL},
	{OPT_PORT, 'p', "port", "PORT[:HOST_PORT|:auto][/tcp|/http]",
	 "publish a port; may be repeated", CTL_COMPLETE_NONE, NULL},
	{OPT_ENV, 'e', "env", "KEY[=VALUE]",
	 "environment; KEY alone takes it from here; may be repeated", CTL_COMPLETE_NONE, NULL},
	{OPT_ENV_FILE, 0, "env-file", "FILE", "environment from lines KEY=VALUE", CTL_COMPLETE_FILE,
	 NULL},
	{OPT_IMAGE, 'i', "image", "IMAGE", "container image (default: a bare VM)",
	 CTL_COMPLETE_NONE, NULL},
	{OPT_COMMAND, 0, "command", "COMMAND", "the container's command (default: idle)",
	 CTL_COMPLETE_NONE, NULL},
	{OPT_SSH_KEY, 'k', "ssh-key", "FILE", "public key to let in; may be repeated",
	 CTL_COMPLETE_FILE, NULL},
	OPTION_WAIT,
	OPTION_NO_WAIT,
	OPTION_TIMEOUT,
};

static const struct ctl_option action_options[] = {OPTION_WAIT, OPTION_TIMEOUT};

static const struct ctl_option delete_options[] = {
	{OPT_YES, 'y', "yes", NULL, "do not ask", CTL_COMPLETE_NONE, NULL},
	OPTION_WAIT,
	OPTION_TIMEOUT,
};

static const struct ctl_option wait_options[] = {
	{OPT_STATE, 's', "for", "STATE", "the state to wait for (default running)",
	 CTL_COMPLETE_WORDS, STATE_WORDS},
	OPTION_TIMEOUT,
};

static const struct ctl_option logs_options[] = {
	{OPT_FOLLOW, 'f', "follow", NULL, "go on with what the console prints from now on",
	 CTL_COMPLETE_NONE, NULL},
	{OPT_RAW, 0, "raw", NULL, "the guest's bytes as they are, even to a terminal",
	 CTL_COMPLETE_NONE, NULL},
};

static const struct ctl_option top_options[] = {
	{OPT_ONCE, '1', "once", NULL, "print one picture and exit", CTL_COMPLETE_NONE, NULL},
};

static const struct ctl_option gpus_options[] = {
	{OPT_TREE, 0, "tree", NULL, "draw nodes, slots, IOMMU groups and owners", CTL_COMPLETE_NONE,
	 NULL},
};

static const struct ctl_option recover_options[] = {
	{OPT_ALL, 'a', "all", NULL, "every GPU that needs it", CTL_COMPLETE_NONE, NULL},
};

#define OPTIONS_PLACE                                                                              \
	{OPT_IMAGES_DIR,   0,   "images-dir", "DIR", "where the base images are",                  \
	 CTL_COMPLETE_DIR, NULL},                                                                  \
	{                                                                                          \
		OPT_HELPER_CONFIG, 0, "helper-config", "FILE",                                     \
			"the root helper's configuration (default /etc/qudata/helper.conf)",       \
			CTL_COMPLETE_FILE, NULL                                                    \
	}
#define OPTION_SIZE                                                                                \
	{                                                                                          \
		OPT_SIZE, 0, "size", "GIB", "the disk's size; it takes no space until it is used", \
			CTL_COMPLETE_NONE, NULL                                                    \
	}
#define OPTION_FORCE                                                                               \
	{                                                                                          \
		OPT_FORCE, 0, "force", NULL, "replace an image of that name that nothing uses",    \
			CTL_COMPLETE_NONE, NULL                                                    \
	}

static const struct ctl_option image_create_options[] = {
	{OPT_SUITE, 0, "suite", "SUITE", "Debian's suite (default bookworm)", CTL_COMPLETE_NONE,
	 NULL},
	{OPT_ENGINE, 0, "engine", NULL, "with a container engine, for create --image",
	 CTL_COMPLETE_NONE, NULL},
	{OPT_INCLUDE, 0, "include", "PACKAGE,...", "more packages", CTL_COMPLETE_NONE, NULL},
	{OPT_NVIDIA, 0, "nvidia", "VERSION|any|host",
	 "with NVIDIA's driver as Debian packages it (535, any, or the host's)", CTL_COMPLETE_WORDS,
	 "any host"},
	OPTION_SIZE,
	OPTION_FORCE,
	{OPT_MKIMAGE, 0, "mkimage", "PROGRAM", "what makes it (default: the installed one)",
	 CTL_COMPLETE_FILE, NULL},
	OPTIONS_PLACE,
};

static const struct ctl_option image_import_options[] = {
	{OPT_FROM, 0, "from", "FILE|URL", "the disk: qcow2 or raw; a file, or an https URL",
	 CTL_COMPLETE_FILE, NULL},
	{OPT_SHA256, 0, "sha256", "HEX", "the disk's checksum", CTL_COMPLETE_NONE, NULL},
	{OPT_CHECKSUMS, 0, "checksums", "FILE|URL",
	 "a list of checksums (SHA256SUMS, SHA512SUMS) with all that is imported",
	 CTL_COMPLETE_FILE, NULL},
	{OPT_SIGNATURE, 0, "signature", "FILE|URL", "the list's detached OpenPGP signature",
	 CTL_COMPLETE_FILE, NULL},
	{OPT_KEYRING, 0, "keyring", "FILE", "the keys that may have made the signature, for gpgv",
	 CTL_COMPLETE_FILE, NULL},
	{OPT_CACERT, 0, "cacert", "FILE", "authorities to trust instead of the system's",
	 CTL_COMPLETE_FILE, NULL},
	{OPT_TIMEOUT, 't', "timeout", "TIME",
	 "how long next to nothing may come before a download is taken up anew (default 1m)",
	 CTL_COMPLETE_NONE, NULL},
	{OPT_FORMAT, 0, "format", "qcow2|raw", "refuse any other (default: what the disk says)",
	 CTL_COMPLETE_WORDS, "qcow2 raw"},
	OPTION_SIZE,
	{OPT_KERNEL, 0, "kernel", "FILE|URL", "boot this kernel, instead of by firmware",
	 CTL_COMPLETE_FILE, NULL},
	{OPT_INITRD, 0, "initrd", "FILE|URL", "the kernel's initrd", CTL_COMPLETE_FILE, NULL},
	{OPT_APPEND, 0, "append", "TEXT", "the kernel's command line", CTL_COMPLETE_NONE, NULL},
	OPTION_FORCE,
	OPTIONS_PLACE,
};

static const struct ctl_option image_list_options[] = {OPTIONS_PLACE};

static const struct ctl_option image_verify_options[] = {
	{OPT_ALL, 'a', "all", NULL, "every image", CTL_COMPLETE_NONE, NULL},
	OPTIONS_PLACE,
};

static const struct ctl_option image_remove_options[] = {
	{OPT_YES, 'y', "yes", NULL, "do not ask", CTL_COMPLETE_NONE, NULL},
	OPTIONS_PLACE,
};

#define OPTIONS(list) .options = (list), .n_options = ARRAY_LEN(list)

const struct ctl_command ctl_commands[] = {
	{.name = "check",
	 .args = "",
	 .summary = "tell whether this host can run instances, and what to do if not",
	 .help = "Looks at processors, KVM, QEMU, passt, firmware, the IOMMU, interrupt "
		 "remapping, VFIO, GPUs, images, disk space, accounts and sockets, and tells of "
		 "faults that this kernel and this QEMU are known to have with GPUs. With "
		 "containers "
		 "on the host it has the agent ask their engine what it limits, whether disks are "
		 "among that, and how much room it has. Works without "
		 "the agent, whose judgement of each GPU is shown where it answers, and changes "
		 "nothing. The exit status is 1 if anything that is required is missing.",
	 OPTIONS(check_options),
	 .run = cmd_check},
	{.name = "create",
	 .args = "",
	 .summary = "create an instance",
	 .help = "Prints the new instance's id on standard output. Progress is shown, and the end "
		 "awaited, when standard error is a terminal or with --wait.",
	 OPTIONS(create_options),
	 .run = cmd_create},
	{.name = "list",
	 .args = "",
	 .summary = "list the instances",
	 .help = "One line for each instance, the oldest first.",
	 .run = cmd_list},
	{.name = "status",
	 .args = "[ID]",
	 .summary = "show one instance in full",
	 .help = "What it is doing, since when, its size, its ports and tunnels, and how to reach "
		 "it.",
	 .max_args = 1,
	 .complete = CTL_COMPLETE_INSTANCE,
	 .run = cmd_status},
	{.name = "start",
	 .args = "[ID]",
	 .summary = "start a stopped instance",
	 .help = "With --wait, returns when the guest is ready.",
	 OPTIONS(action_options),
	 .max_args = 1,
	 .complete = CTL_COMPLETE_INSTANCE,
	 .run = cmd_start},
	{.name = "stop",
	 .args = "[ID]",
	 .summary = "stop an instance and keep its disk",
	 .help = "With --wait, returns when it has stopped.",
	 OPTIONS(action_options),
	 .max_args = 1,
	 .complete = CTL_COMPLETE_INSTANCE,
	 .run = cmd_stop},
	{.name = "restart",
	 .args = "[ID]",
	 .summary = "restart an instance",
	 .help = "With --wait, returns when the guest is ready again.",
	 OPTIONS(action_options),
	 .max_args = 1,
	 .complete = CTL_COMPLETE_INSTANCE,
	 .run = cmd_restart},
	{.name = "delete",
	 .args = "[ID]",
	 .summary = "destroy an instance and its disk",
	 .help = "Without an ID the only instance is meant; then it asks first, or needs --yes "
		 "when "
		 "nobody can be asked.",
	 OPTIONS(delete_options),
	 .max_args = 1,
	 .complete = CTL_COMPLETE_INSTANCE,
	 .run = cmd_delete},
	{.name = "wait",
	 .args = "[ID]",
	 .summary = "wait until an instance reaches a state",
	 .help = "Each step on the way is shown on standard error. Exits with 5 when the time is "
		 "up, and with 1 when the instance failed or went "
		 "away "
		 "first.",
	 OPTIONS(wait_options),
	 .max_args = 1,
	 .complete = CTL_COMPLETE_INSTANCE,
	 .run = cmd_wait},
	{.name = "ssh",
	 .args = "[ID] [-- ARGUMENTS]",
	 .summary = "log in to an instance with the system's ssh",
	 .help = "Accepts no host key but the one that was made for this instance. ARGUMENTS are "
		 "given to ssh after the destination: options, then a command. The exit status is "
		 "ssh's.",
	 .max_args = 1,
	 .takes_rest = true,
	 .complete = CTL_COMPLETE_INSTANCE,
	 .run = cmd_ssh},
	{.name = "console",
	 .args = "[ID]",
	 .summary = "connect to an instance's serial console",
	 .help = "At the beginning of a line \"~.\" leaves, \"~?\" lists the escapes, \"~~\" types "
		 "a "
		 "tilde. When standard input is not a terminal its bytes are sent as they are, and "
		 "its end does not end the session.",
	 .max_args = 1,
	 .complete = CTL_COMPLETE_INSTANCE,
	 .run = cmd_console},
	{.name = "logs",
	 .args = "[ID]",
	 .summary = "print what an instance's console has printed",
	 .help = "On a terminal, escape sequences are taken out; --raw leaves them in.",
	 OPTIONS(logs_options),
	 .max_args = 1,
	 .complete = CTL_COMPLETE_INSTANCE,
	 .run = cmd_logs},
	{.name = "top",
	 .args = "[ID]",
	 .summary = "show how busy the guests are",
	 .help = "Draws the CPU, memory, disk, network and GPU figures that the guests send of "
		 "themselves, and what their QEMU takes of the host, every second until \"q\" is "
		 "typed: a line for each instance, or charts of the last minutes for one. A "
		 "column of a chart is two seconds. Without an ID, the GPUs that the host's own "
		 "driver has follow. Of a container on the host there are the newest figures of "
		 "its GPUs. Without a terminal, or with --once, one "
		 "picture is printed; with --json, the samples.",
	 OPTIONS(top_options),
	 .max_args = 1,
	 .complete = CTL_COMPLETE_INSTANCE,
	 .run = cmd_top},
	{.name = "keys list",
	 .args = "[ID]",
	 .summary = "list the public keys that an instance lets in",
	 .help = "One line for each key, as in authorized_keys.",
	 .max_args = 1,
	 .complete = CTL_COMPLETE_INSTANCE,
	 .run = cmd_keys_list},
	{.name = "keys add",
	 .args = "[ID] FILE",
	 .summary = "let a public key in",
	 .help = "FILE is the public half of a key pair, or \"-\" for standard input.",
	 .min_args = 1,
	 .max_args = 2,
	 .complete = CTL_COMPLETE_FILE,
	 .run = cmd_keys_add},
	{.name = "keys remove",
	 .args = "[ID] KEY",
	 .summary = "stop letting a public key in",
	 .help = "KEY is a file with the public key, the key itself, or its comment if only one "
		 "key "
		 "has it.",
	 .min_args = 1,
	 .max_args = 2,
	 .complete = CTL_COMPLETE_FILE,
	 .run = cmd_keys_remove},
	{.name = "gpus",
	 .args = "",
	 .summary = "list the host's GPUs, and what speaks against renting each",
	 .help = "One line for each GPU, then a line for each reason against it: the word, what it "
		 "means, and the address, device or process that it is about. Cards whose IOMMU "
		 "groups meet are rented together or not at all. Those that the host's NVIDIA "
		 "driver has tell how busy they are. The agent answers this on its control socket "
		 "only, not over TCP.",
	 OPTIONS(gpus_options),
	 .run = cmd_gpus},
	{.name = "gpus recover",
	 .args = "[ADDRESS]",
	 .summary = "bring quarantined and half-bound GPUs back to the host",
	 .help = "A GPU that did not come back well from a VM is kept from rent until it does: "
		 "this resets it, checks it and gives it to its host driver again. Needs an "
		 "ADDRESS or --all. The exit status is 1 if some GPU could not be recovered.",
	 OPTIONS(recover_options),
	 .max_args = 1,
	 .complete = CTL_COMPLETE_GPU,
	 .run = cmd_gpus_recover},
	{.name = "tunnels",
	 .args = "",
	 .summary = "list the tunnels, where they lead and how they do",
	 .help = "One line for each published port of each instance, and for the agent's own API: "
		 "what clients connect to, whether it can be used, and the server's or frpc's "
		 "words if not. The last line tells of the server. The agent answers this on its "
		 "control socket only, not over TCP.",
	 .run = cmd_tunnels},
	{.name = "image list",
	 .args = "",
	 .summary = "list the base images",
	 .help = "What each VM's disk can stand on: sizes, how it boots, since when it is there, "
		 "whether checksums are recorded (\"changed\": a file is newer than they are), "
		 "and the VMs that use it. That is known for certain to root; others are told what "
		 "the agent knows.",
	 OPTIONS(image_list_options),
	 .run = cmd_image_list},
	{.name = "image create",
	 .args = "NAME",
	 .summary = "make a base image from Debian's packages",
	 .help = "Needs root, mmdebstrap and Debian's archive (http_proxy is heeded); takes a "
		 "minute or more. The guest has a kernel of its own, an SSH server and what the "
		 "agent needs, and no more. --nvidia adds the driver from Debian's non-free "
		 "component, built for the guest's kernel.",
	 OPTIONS(image_create_options),
	 .min_args = 1,
	 .max_args = 1,
	 .complete = CTL_COMPLETE_BASE_IMAGE,
	 .run = cmd_image_create},
	{.name = "image import",
	 .args = "NAME",
	 .summary = "make a base image from a disk, as cloud images are",
	 .help = "Needs root. The disk is copied or downloaded, compared with its checksum, and "
		 "converted by a qemu-img without privilege into a qcow2 that carries nothing of "
		 "the original but its content. Disks that name other files, or are encrypted, are "
		 "refused. A download that breaks or stalls is taken up where it ended, five times "
		 "in a row; only https is spoken, also after a redirection. What is interrupted "
		 "leaves the old image, or none. The guest has to be prepared by cloud-init, or by "
		 "what image create installs.",
	 OPTIONS(image_import_options),
	 .min_args = 1,
	 .max_args = 1,
	 .complete = CTL_COMPLETE_BASE_IMAGE,
	 .run = cmd_image_import},
	{.name = "image verify",
	 .args = "[NAME]",
	 .summary = "compare base images with the checksums that were recorded",
	 .help = "Needs a NAME or --all. Also has qemu-img look for damage of the structure. The "
		 "exit status is 1 if anything is damaged, or has no checksums.",
	 OPTIONS(image_verify_options),
	 .max_args = 1,
	 .complete = CTL_COMPLETE_BASE_IMAGE,
	 .run = cmd_image_verify},
	{.name = "image remove",
	 .args = "NAME",
	 .summary = "remove a base image that nothing uses",
	 .help = "Needs root. Asks first, or needs --yes when nobody can be asked. Refused as "
		 "long as the disk of a VM, running or stopped, stands on it.",
	 OPTIONS(image_remove_options),
	 .min_args = 1,
	 .max_args = 1,
	 .complete = CTL_COMPLETE_BASE_IMAGE,
	 .run = cmd_image_remove},
	{.name = "audit verify",
	 .args = "FILE",
	 .summary = "prove that an audit log was neither cut nor edited",
	 .help = "FILE is the root helper's log (/var/lib/qudata-helper/audit.log), or a copy. "
		 "Prints the number of records and the last hash, which is worth keeping "
		 "elsewhere: a log that was replaced as a whole ends in another.",
	 .min_args = 1,
	 .max_args = 1,
	 .complete = CTL_COMPLETE_FILE,
	 .run = cmd_audit_verify},
	{.name = "host",
	 .args = "",
	 .summary = "show what the agent says about this host",
	 .help = "Its version, its limits, and how guests are run.",
	 .run = cmd_host},
	{.name = "version",
	 .args = "",
	 .summary = "show the versions of this tool and of the agent",
	 .help = "An agent that does not answer is no error here.",
	 .run = cmd_version},
	{.name = "completion",
	 .args = "bash|zsh|mdoc",
	 .summary = "print a shell's completion script, or the manual page's command list",
	 .help = "Used when packages are built.",
	 .min_args = 1,
	 .max_args = 1,
	 .hidden = true,
	 .complete = CTL_COMPLETE_WORDS,
	 .words = "bash zsh mdoc",
	 .run = cmd_completion},
};
const size_t ctl_n_commands = ARRAY_LEN(ctl_commands);
