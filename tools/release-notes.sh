#!/usr/bin/env bash
# Prints the release notes of a version: its section of CHANGELOG.md. Fails where the checkout is not ready for that release, and says why.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
	echo "release-notes: $1" >&2
	exit 1
}

version=${1-}
version=${version#v}
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || fail "\"${1-}\" is no version such as v1.2.3. Usage: tools/release-notes.sh VERSION"

chart=deploy/chart/namebridge/Chart.yaml
for field in version appVersion; do
	has=$(sed -n "s/^$field: *\"\{0,1\}\([^\" ]*\)\"\{0,1\} *$/\1/p" $chart)
	[ "$has" = "$version" ] || fail "$field in $chart is \"$has\", not $version: the chart goes out with the program, in the same version"
done

# The heading is `## 1.2.3`, with the date after it if one likes.
notes=$(awk -v version="$version" '
	/^## / { inside = ($2 == version || $2 == "v" version); next }
	inside { print }' CHANGELOG.md | sed -e '/./,$!d')
[ -n "$notes" ] || fail "CHANGELOG.md has no section \"## $version\", or nothing stands in it: rename \"## Unreleased\""
printf '%s\n' "$notes"
