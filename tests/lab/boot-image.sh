#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Boot an image directory once, log in over SSH, press the power button, print what each step took.
# Trust: runs as any user; everything it makes lies in a temporary directory.

set -euo pipefail
export LC_ALL=C

limit_s=120
accel=tcg,thread=multi,tb-size=256
cpu=max
memory_mib=1024
extra_append=
commands=
image=
work=
pids=()

usage() {
	cat <<EOF
usage: boot-image.sh [options] IMAGE_DIR
  --accel ACCEL    QEMU's accelerator (default $accel)
  --memory-mib N   guest memory (default $memory_mib)
  --append WORDS   more words for the kernel command line
  --run COMMAND    also run this in the guest over SSH and show its output
  --limit-s N      give up after N seconds (default $limit_s)
EOF
}

die() {
	printf 'boot-image: %s\n' "$*" >&2
	if [[ -n $work ]]; then
		tail -n 30 "$work/console.log" "$work/qemu.log" "$work/passt.log" >&2 2>/dev/null || true
	fi
	exit 1
}

now_ms() {
	local now=${EPOCHREALTIME/./}
	echo $((now / 1000))
}

elapsed() {
	local ms=$(($(now_ms) - start_ms))
	printf '%d.%03d s' $((ms / 1000)) $((ms % 1000))
}

cleanup() {
	local rc=$? pid

	trap - EXIT INT TERM
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	wait || true
	[[ -z $work ]] || rm -rf "$work"
	exit "$rc"
}

conf() {
	sed -n "s/^$1 *= *//p" "$image/image.conf"
}

# A port nobody listens on now. Another process may take it first: then passt says so and the test fails.
free_port() {
	local port

	for port in $(shuf -i 20000-29999 -n 20); do
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
	done
	return 1
}

make_seed() {
	mkdir "$work/seed"
	ssh-keygen -q -t ed25519 -N '' -C host -f "$work/seed/host_key"
	ssh-keygen -q -t ed25519 -N '' -C management -f "$work/id"
	cp "$work/id.pub" "$work/seed/authorized_keys"
	printf 'boot-image\n' >"$work/seed/hostname"
	printf 'instance-id: boot-image\nlocal-hostname: boot-image\n' >"$work/seed/meta-data"
	printf '#cloud-config\n' >"$work/seed/user-data"
	xorriso -as genisoimage -quiet -volid cidata -joliet -rock -output "$work/seed.iso" "$work/seed" 2>/dev/null
	printf '[127.0.0.1]:%s %s\n' "$port" "$(cut -d ' ' -f 1,2 "$work/seed/host_key.pub")" >"$work/known_hosts"
}

start_passt() {
	local user=()

	# passt refuses to stay root; it drops to nobody, which must reach its socket.
	((EUID != 0)) || user=(--runas nobody)
	chmod 0711 "$work"
	install -d -m 1777 "$work/net"
	passt --foreground --quiet --ipv4-only --no-map-gw "${user[@]}" --socket "$work/net/passt.sock" \
		--address 10.0.2.15 --netmask 24 --gateway 10.0.2.2 --mac-addr 52:54:00:00:00:01 --interface lo \
		--dns 10.0.2.3 --tcp-ports "127.0.0.1/$port:22" --udp-ports none 2>"$work/passt.log" &
	pids+=($!)
	for _ in {1..100}; do
		[[ -S $work/net/passt.sock ]] && return
		sleep 0.02
	done
	die "passt did not start"
}

start_qemu() {
	local file='"driver":"file","filename"'
	local format

	format=$(conf format)
	qemu-img create -q -f qcow2 -F "$format" -b "$image/disk.img" "$work/disk.qcow2" "$(($(conf min_disk_mib) + 1024))M"
	start_ms=$(now_ms)
	qemu-system-x86_64 -nodefaults -no-user-config -display none -serial none -parallel none \
		-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny \
		-machine q35,usb=off,sata=off,smbus=off,hpet=off,vmport=off,graphics=off \
		-accel "$accel" -cpu "$cpu" -smp 2 -m "$memory_mib" \
		-blockdev "{\"driver\":\"qcow2\",\"node-name\":\"root\",\"discard\":\"unmap\",\"file\":{$file:\"$work/disk.qcow2\"}}" \
		-blockdev "{\"driver\":\"raw\",\"node-name\":\"seed\",\"read-only\":true,\"file\":{$file:\"$work/seed.iso\"}}" \
		-device virtio-blk-pci,drive=root -device virtio-blk-pci,drive=seed \
		-netdev "stream,id=n0,server=off,addr.type=unix,addr.path=$work/net/passt.sock" \
		-device virtio-net-pci,netdev=n0,romfile= -device virtio-rng-pci \
		-chardev "socket,id=ready,path=$work/ready.sock,server=on,wait=off" \
		-device virtio-serial-pci -device virtserialport,chardev=ready,name=org.qudata.ready.0 \
		-chardev "file,id=console,path=$work/console.log" -device isa-serial,chardev=console \
		-qmp "unix:$work/qmp.sock,server=on,wait=off" \
		-kernel "$image/kernel" -initrd "$image/initrd" -append "$(conf append) $extra_append" \
		>"$work/qemu.log" 2>&1 &
	qemu=$!
	pids+=("$qemu")
	for _ in {1..100}; do
		[[ -S $work/ready.sock && -S $work/qmp.sock ]] && return
		sleep 0.02
	done
	die "QEMU did not start"
}

guest() {
	ssh -n -F none -i "$work/id" -p "$port" -o UserKnownHostsFile="$work/known_hosts" -o StrictHostKeyChecking=yes \
		-o BatchMode=yes -o ConnectTimeout=20 root@127.0.0.1 "$@"
}

# The banner proves that sshd accepts: passt itself accepts connections from the start.
# The client speaks first because passt of 2023 completes the guest's handshake only with data.
wait_banner() {
	local banner

	while kill -0 "$qemu" 2>/dev/null; do
		if banner=$( (exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'SSH-2.0-probe\r\n' >&3 && IFS= read -r -t 2 line <&3 && printf '%s' "$line") 2>/dev/null) &&
			[[ $banner == SSH-* ]]; then
			return
		fi
		sleep 0.05
	done
	return 1
}

report_banner() {
	if wait_banner; then
		printf 'ssh banner      %s\n' "$(elapsed)"
	fi
}

power_down() {
	printf '%s\n' '{"execute":"qmp_capabilities"}' '{"execute":"system_powerdown"}' |
		socat -t 1 - "UNIX-CONNECT:$work/qmp.sock" >"$work/qmp.log"
	! grep -q '"error"' "$work/qmp.log" || die "QMP refused"
	wait "$qemu" || die "QEMU failed"
}

while (($#)); do
	case $1 in
	--accel) accel=$2 && shift 2 ;;
	--memory-mib) memory_mib=$2 && shift 2 ;;
	--append) extra_append=$2 && shift 2 ;;
	--run) commands=$2 && shift 2 ;;
	--limit-s) limit_s=$2 && shift 2 ;;
	--help) usage && exit 0 ;;
	-*) usage >&2 && exit 2 ;;
	*) image=$1 && shift ;;
	esac
done
[[ -n $image && -r $image/image.conf ]] || {
	usage >&2
	exit 2
}
[[ $accel != kvm* ]] || cpu=host

trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
work=$(mktemp -d)
port=$(free_port)
(sleep "$limit_s"; echo "boot-image: limit of $limit_s s reached" >&2 && kill "$$") &
pids+=($!)

make_seed
start_passt
start_qemu
report_banner &
banner=$!
exec 4< <(exec socat -u "UNIX-CONNECT:$work/ready.sock" -)
pids+=($!)
IFS= read -r line <&4 || die "the ready port closed"
[[ $line == ready ]] || die "no ready line but '$line'"
printf 'ready line      %s\n' "$(elapsed)"
wait "$banner"
[[ $(guest hostname) == boot-image ]] || die "wrong host name or no login"
printf 'ssh login       %s\n' "$(elapsed)"
[[ -z $commands ]] || guest "$commands"
before_ms=$(now_ms)
power_down
printf 'power button    %d ms\n' $(($(now_ms) - before_ms))
