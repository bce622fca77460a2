#!/usr/bin/env bash
# Makes the tarballs of a release in dist/: for each platform both programs, their bills of materials, configuration
# examples, charts, documentation and the systemd unit. The same sources and Go release give the same bytes, wherever and
# whenever it runs. VERSION and REVISION are stamped into the programs; SOURCE_DATE_EPOCH is the date of all files, by
# default that of the commit.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${VERSION:?is not set: run make release}" "${REVISION=}"
out=$PWD/${OUT:-dist}
platforms=${PLATFORMS:-linux/amd64 linux/arm64}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOAMD64=v1 GOARM64=v8.0 LC_ALL=C TZ=UTC

mkdir -p "$out"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
go build -o "$tmp/sbom" ./internal/sbom
for platform in $platforms; do
	name=pseudo-agent-$VERSION-${platform/\//-}
	dir=$tmp/$name
	mkdir "$dir"
	for program in pseudo-agent pseudo-server; do
		GOOS=${platform%/*} GOARCH=${platform#*/} go build -trimpath -buildvcs=false \
			-ldflags "-s -w -X main.version=$VERSION -X main.revision=$REVISION" -o "$dir/$program" "./cmd/$program"
		"$tmp/sbom" "$dir/$program" "$VERSION" >"$dir/$program.cdx.json"
	done
	cp -r LICENSE README.md README.zh.md config.example.yaml config.server.example.yaml docs charts packaging/pseudo-agent.service "$dir"
	find "$dir" -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
	chmod 755 "$dir/pseudo-agent" "$dir/pseudo-server"
	tar --create --directory "$tmp" --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
		--owner=0 --group=0 --numeric-owner "$name" | gzip --best --no-name >"$out/$name.tar.gz"
done
cd "$out"
sha256sum pseudo-agent-"$VERSION"-*.tar.gz >SHA256SUMS
cat SHA256SUMS
