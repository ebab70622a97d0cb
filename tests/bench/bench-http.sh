#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Measures an HTTP server of this project against nginx with one worker that serves the same bytes, in
# the same minutes and in turns: requests per second, p99, CPU time per request, memory.
#   bench-http.sh [--path PATH]… [--conns N]… [--seconds S] [--rounds N] [--header 'Name: value']
#                 [--url http://127.0.0.1:PORT [--pid PID] | -- COMMAND…]
# COMMAND is started and ended by this script; "%p" in it stands for the port to listen on
# (default: the demo program, build/tests/bench/http-demo %p). --url measures a server that runs already.
# --header-file FILE gives a header that must not show up in a process list (a secret).
# Prints a table and "RESULT …" lines for machines; exits 1 when a ratio misses its aim: 0.8 on one
# connection, 0.6 on more.
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
paths=() conns=() seconds=5 rounds=3 header='' url='' pid='' started=''
while [ $# -gt 0 ]; do
	case $1 in
	--path) paths+=("$2") && shift 2 ;;
	--conns) conns+=("$2") && shift 2 ;;
	--seconds) seconds=$2 && shift 2 ;;
	--rounds) rounds=$2 && shift 2 ;;
	--header) header=$2 && shift 2 ;;
	--header-file) header=$(<"$2") && shift 2 ;;
	--url) url=$2 && shift 2 ;;
	--pid) pid=$2 && shift 2 ;;
	--) shift && break ;;
	*) sed -n '3,13s/^# \?//p' "$0" && exit 2 ;;
	esac
done
[ ${#paths[@]} -gt 0 ] || paths=(/ping /instances)
[ ${#conns[@]} -gt 0 ] || conns=(1 64)
command=("$@")
[ ${#command[@]} -gt 0 ] || command=("$top/build/tests/bench/http-demo" %p)

for tool in wrk nginx curl; do
	command -v "$tool" >/dev/null || { echo "bench-http: $tool is missing" >&2 && exit 2; }
done

work=$(mktemp -d) nginx_pid=''
# shellcheck disable=SC2317 # called by the trap
finish() {
	[ -z "$nginx_pid" ] || kill "$nginx_pid" 2>/dev/null || true
	[ -z "$started" ] || kill "$started" 2>/dev/null || true
	wait 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT

# A port that nobody listens on at the moment.
free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 10000))
		(: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port" && return; }
	done
}

wait_for() {
	local _
	for _ in $(seq 100); do
		curl -s -o /dev/null "$1" && return
		sleep 0.1
	done
	echo "bench-http: nothing answers at $1" >&2
	exit 2
}

# fetch URL: the body, with the header given to us, which does not appear in any argv.
fetch() {
	printf '%s\n' "$header" | curl -sf ${header:+-H @-} "$1"
}

if [ -z "$url" ]; then
	port=$(free_port)
	"${command[@]//%p/$port}" &
	started=$! pid=$started url=http://127.0.0.1:$port
	wait_for "$url${paths[0]}"
fi

# nginx answers each path with the very bytes that our server answers now.
nginx_port=$(free_port)
{
	echo "daemon off; worker_processes 1; pid $work/nginx.pid; error_log $work/error.log;"
	echo 'events { worker_connections 1024; } http { access_log off; keepalive_requests 1000000000;'
	for kind in client_body proxy fastcgi uwsgi scgi; do
		echo "${kind}_temp_path $work/$kind;"
	done
	echo "server { listen 127.0.0.1:$nginx_port;"
	for path in "${paths[@]}"; do
		body=$(fetch "$url$path") || { echo "bench-http: $path is not answered with 2xx" >&2 && exit 2; }
		case $body in *[\'\$\\]*) echo "bench-http: nginx cannot quote the answer of $path" >&2 && exit 2 ;; esac
		echo "location = $path { default_type application/json; return 200 '$body'; }"
	done
	echo '} }'
} >"$work/nginx.conf"
nginx -e "$work/error.log" -c "$work/nginx.conf" &
nginx_pid=$!
wait_for "http://127.0.0.1:$nginx_port${paths[0]}"
worker_pid=$(pgrep -P "$nginx_pid")

# wrk takes headers from a script as well as from argv.
printf 'local name, value = string.match([==[%s]==], "^([^:]+): *(.*)$")\nif name then wrk.headers[name] = value end\n' \
	"$header" >"$work/header.lua"

ticks() { # PID: CPU time used, in clock ticks
	[ -n "$1" ] || { echo 0 && return; }
	awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"
}

# measure BASE PID CONNS PATH: "requests/s p99_µs cpu_µs_per_request"
measure() {
	local before after
	before=$(ticks "$2")
	wrk -t1 -c"$3" -d"${seconds}s" --latency -s "$work/header.lua" "$1$4" >"$work/wrk"
	after=$(ticks "$2")
	if grep -q 'Non-2xx' "$work/wrk"; then
		echo "bench-http: $1$4: $(grep 'Non-2xx' "$work/wrk")" >&2
		exit 2
	fi
	awk -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" '
		$1 == "99%" { p = $2 + 0; if ($2 ~ /ms$/) p *= 1000; else if ($2 !~ /us$/) p *= 1000000 }
		$2 == "requests" && $3 == "in" { n = $1 }
		$1 == "Requests/sec:" { r = $2 }
		END { printf "%.0f %.0f %.2f\n", r, p, n ? ticks / hz * 1000000 / n : 0 }' "$work/wrk"
}

# median COLUMN FILE
median() {
	cut -d' ' -f"$1" "$2" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

missed=0
printf '%-12s %5s  %10s %10s %6s  %8s %8s  %8s %8s\n' path conns ours/s nginx/s ratio \
	ours_p99 nginx_p99 ours_cpu nginx_cpu
for path in "${paths[@]}"; do
	for n in "${conns[@]}"; do
		rm -f "$work/ours" "$work/theirs"
		for _ in $(seq "$rounds"); do
			measure "$url" "$pid" "$n" "$path" >>"$work/ours"
			measure "http://127.0.0.1:$nginx_port" "$worker_pid" "$n" "$path" >>"$work/theirs"
		done
		ours=$(median 1 "$work/ours") theirs=$(median 1 "$work/theirs")
		aim=$([ "$n" = 1 ] && echo 0.8 || echo 0.6)
		ratio=$(awk -v a="$ours" -v b="$theirs" 'BEGIN { printf "%.2f", a / b }')
		printf '%-12s %5d  %10d %10d %6s  %6dus %6dus  %6sus %6sus\n' "$path" "$n" "$ours" "$theirs" \
			"$ratio" "$(median 2 "$work/ours")" "$(median 2 "$work/theirs")" \
			"$(median 3 "$work/ours")" "$(median 3 "$work/theirs")"
		echo "RESULT http $path conns=$n ratio=$ratio aim=$aim ours=$ours nginx=$theirs" \
			"p99_us=$(median 2 "$work/ours") cpu_us=$(median 3 "$work/ours")" >>"$work/results"
		awk -v r="$ratio" -v a="$aim" 'BEGIN { exit !(r < a) }' && missed=1
	done
done
if [ -n "$pid" ] && [ -r "/proc/$pid/smaps_rollup" ]; then
	awk -v p="$(awk '$1 == "Pss:" { print $2 }' "/proc/$worker_pid/smaps_rollup")" \
		'$1 == "Pss:" { print "RESULT http memory pss_kib=" $2 " nginx_worker_pss_kib=" p }' \
		"/proc/$pid/smaps_rollup" >>"$work/results"
fi
cat "$work/results"
exit "$missed"
