#!/usr/bin/env bash
# Makes sure that there are Prometheus and promtool for the tests of alerts and dashboards, and says in one line what it did: nothing where
# they are on the PATH; else apt-get where we are root, without starting the service; else the same package unpacked into
# .cache/prometheus, whose usr/bin is then to be on the PATH (make test-deploy has it there).
set -euo pipefail
cd "$(dirname "$0")/.."

cache=$PWD/.cache/prometheus
export PATH="$PATH:$cache/usr/bin"

where() {
	command -v promtool >/dev/null && command -v prometheus >/dev/null || return 1
	echo "prometheus $(prometheus --version 2>&1 | sed -n 's/^prometheus, version \([^ ]*\).*/\1/p'), $(dirname "$(command -v prometheus)")"
}

with_apt() {
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
	echo "prometheus none found: apt-get install prometheus"
	# Where there is such a program, and it says 101, no package starts its service.
	local policy=/usr/sbin/policy-rc.d ours='' failed=''
	[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && ours=1; }
	local patience=(-o DPkg::Lock::Timeout=300 -o Acquire::Retries=5) # apt-get has none of its own
	{ apt-get -q "${patience[@]}" update && DEBIAN_FRONTEND=noninteractive apt-get -q -y "${patience[@]}" --no-install-recommends install prometheus; } >/dev/null || failed=1
	[ -z "$ours" ] || rm -f $policy
	[ -z "$failed" ]
}

unpacked() {
	command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
	echo "prometheus none found: apt-get download prometheus, unpacked into .cache/prometheus"
	mkdir -p "$cache"
	(cd "$cache" && rm -f ./*.deb && apt-get -q download prometheus && dpkg -x ./*.deb . && rm -f ./*.deb) >/dev/null
}

if where; then exit; fi
if with_apt && where; then exit; fi
if unpacked && where; then exit; fi
echo "prometheus none found, and none could be got: install it (apt-get install prometheus, brew install prometheus, or a release of
           https://prometheus.io/download), with prometheus and promtool on the PATH" >&2
exit 1
