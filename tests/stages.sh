# shellcheck shell=bash disable=SC2154,SC2034,SC2016
# SPDX-License-Identifier: Apache-2.0
# The stages of tests/run, in order. Sourced by it: pass, fail, skip, check, count_lines, $top.

declare -A stage_about=(
	[style]='layout, comments, shell scripts, rules of the boundary'
	[build]='the plain build, warnings are errors'
	[docs]='generated documents are fresh, manual pages are clean'
	[unit]='unit, protocol-walk, fuzz and abuse tests, plain build'
	[asan]='the same under the address and undefined-behaviour sanitizers'
	[analyze]='gcc -fanalyzer over every source file'
	[abuse]='attacks on the running daemons, as root: peers, messages, images, records, exec'
	[install]='an installation into a folder is complete'
	[e2e]='the whole suite with a real guest: quickstart, API, kill -9, isolation'
	[asan_e2e]='the life of an instance with sanitized daemons'
	[engine]='containers: the client against a real engine and registries, and in a real guest'
	[frp]='tunnels: a stand-in for frp, and frps and frpc themselves where they are found'
	[systemd]='the units under a real systemd: activation, confinement, restarts'
	[lab]='a VM with an IOMMU: GPUs on real drivers and groups, KVM, limits, a reboot'
	[lab_iommufd]='only by name: GPUs by iommufd, with the kernel and the QEMU of Debian 13'
	[lab_lives]='only by name: fifty lives of VMs with GPUs, and what they leave behind'
)
all_stages=(style build docs unit asan analyze abuse frp engine install e2e asan_e2e systemd lab)
stages_by_name=(lab_iommufd lab_lives)

build_dir=$top/build
asan_dir=$top/build-asan

# configured DIR OPTIONS…: a meson build directory, made once. The quickstart leaves one without tests.
configured() {
	local dir=$1
	shift
	if [ ! -f "$dir/build.ninja" ]; then
		meson setup "$dir" "$top" "$@"
	elif meson introspect "$dir" --buildoptions | jq -e 'any(.name == "tests" and .value == false)' >/dev/null; then
		meson configure "$dir" -Dtests=true
	fi
}

build_plain() {
	configured "$build_dir" && ninja -C "$build_dir"
}

build_asan() {
	configured "$asan_dir" -Db_sanitize=address,undefined -Dsandbox=log -Db_lundef=false &&
		ninja -C "$asan_dir"
}

# meson_tests PREFIX DIR: runs all tests of a build directory and counts each one.
meson_tests() {
	local prefix=$1 dir=$2 name result
	# Most of them wait more than they work.
	meson test -C "$dir" --no-rebuild --print-errorlogs --timeout-multiplier 4 \
		--num-processes $((2 * $(nproc))) >"$results/meson.out" 2>&1
	while IFS=$'\t' read -r name result; do
		case $result in
		OK | EXPECTEDFAIL) pass "$prefix: $name" ;;
		SKIP) skip "$prefix: $name" "$(skip_reason "$dir" "$name")" ;;
		*) fail "$prefix: $name" "$result" ;;
		esac
	done < <(python3 "$top/tests/meson-results.py" "$dir/meson-logs/testlog.json")
	if grep -qE '^(Fail|Timeout): +[1-9]' "$results/meson.out"; then
		tail -n 120 "$results/meson.out" | sed 's/^/        /'
	fi
	[ -s "$dir/meson-logs/testlog.json" ] || fail "$prefix" "meson ran no test"
}

skip_reason() {
	python3 "$top/tests/meson-results.py" --why "$2" "$1/meson-logs/testlog.json"
}

stage_style() {
	local sources scripts
	mapfile -t sources < <(git ls-files '*.c' '*.h')
	mapfile -t scripts < <(git ls-files | xargs grep -lE '^#!/bin/(ba)?sh' --)
	check 'clang-format' clang-format --dry-run --Werror "${sources[@]}"
	check 'shellcheck' shellcheck -x -e SC2016 "${scripts[@]}" tests/stages.sh
	check 'boundary rules: one recvmsg, no shell, includes from the top' ./tests/check-boundary
}

stage_build() {
	check 'build without warnings' build_plain || return
	check 'root helper: size and what it links' ./tests/check-budget
}

stage_docs() {
	check 'build' build_plain || return
	check 'docs/PROTOCOL.md is fresh' sh -c '"$1"/proto/protodump | diff - docs/PROTOCOL.md' sh "$build_dir"
	local page
	for page in docs/man/*.[1-8]; do
		check "$page" sh -c 'out=$(mandoc -T lint -W warning "$1" 2>&1); echo "$out"; [ -z "$out" ]' sh "$page"
	done
}

stage_unit() {
	check 'build' build_plain || return
	meson_tests unit "$build_dir"
}

stage_asan() {
	check 'build' build_asan || return
	meson_tests asan "$asan_dir"
}

stage_analyze() {
	check 'gcc -fanalyzer' ./tests/analyze
}

stage_abuse() {
	check 'build' build_plain || return
	count_lines abuse ./tests/abuse/run --build "$build_dir"
}

stage_frp() {
	check 'build' build_plain || return
	count_lines frp ./tests/frp/run --build "$build_dir"
	count_lines frp ./tests/e2e/run --build "$build_dir" --only tunnels
}

stage_engine() {
	check 'build' build_plain || return
	count_lines engine ./tests/engine/run --build "$build_dir"
	count_lines engine ./tests/e2e/run --build "$build_dir" --only engine
}

stage_install() {
	check 'build' build_plain || return
	check 'installed tree' ./tests/check-install "$build_dir"
}

stage_e2e() {
	check 'build' build_plain || return
	count_lines e2e ./tests/e2e/run --build "$build_dir"
}

stage_asan_e2e() {
	check 'build' build_asan || return
	count_lines asan_e2e ./tests/e2e/run --build "$asan_dir" --only life
}

stage_systemd() {
	check 'build' build_plain || return
	count_lines systemd ./tests/e2e/systemd --build "$build_dir"
}

stage_lab() {
	check 'build' build_plain || return
	count_lines lab ./tests/lab/run --build "$build_dir"
}

stage_lab_iommufd() {
	check 'build' build_plain || return
	count_lines lab_iommufd ./tests/lab/run --build "$build_dir" --release trixie
}

stage_lab_lives() {
	check 'build' build_plain || return
	count_lines lab_lives ./tests/lab/run --build "$build_dir" --only fifty-lives
}
