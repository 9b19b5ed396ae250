#!/usr/bin/env bash
# Puts what a release consists of into bin/release: the image as `make image` has made it, its bills of materials, the chart, the licences, and the
# checksums of all that. Usage: tools/release.sh VERSION HELM. `make release` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$1 helm=$2 from=bin/image to=bin/release

fail() {
	echo "release: $1" >&2
	exit 1
}

if [[ ! $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ || $version =~ -dirty$ ]]; then
	fail "this checkout is version \"$version\", no release: commit everything, and check a tag v1.2.3 out"
fi
tools/release-notes.sh "$version" >/dev/null
for file in oci/index.json sbom/index.json namebridge-linux-{amd64,arm64}.{tar,cdx.json} digests.json; do
	[ -s "$from/$file" ] || fail "$from/$file is not there: make image"
done
grep -q "\"$version\"" $from/oci/index.json || fail "$from has another version than $version: make image"

rm -rf $to
mkdir -p $to
cp $from/namebridge-linux-*.tar $from/namebridge-linux-*.cdx.json $from/digests.json docs/licenses.md $to/
# The same commit gives the same bytes, as the image itself does.
tar --create --file $to/namebridge-image.tar --sort=name --mtime="@$(git log -1 --format=%ct)" --owner=0 --group=0 --numeric-owner -C $from oci sbom
"$helm" package deploy/chart/namebridge --destination $to >/dev/null
(cd $to && sha256sum -- * >../SHA256SUMS && mv ../SHA256SUMS .)
ls -l $to
