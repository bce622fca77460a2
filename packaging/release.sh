#!/usr/bin/env bash
# Makes a release in dist/, from sources alone and without a container builder:
#
#   release.sh tarballs   for each platform the programs, their bills of materials, and what packaging/contents lists
#   release.sh packages   for each program with a systemd unit a deb and an rpm
#   release.sh charts     the charts, with the release's version; PUSH pushes them, too, to PUSH/charts/
#   release.sh images     for each program an image of all platforms; PUSH=registry.example/observability/ pushes it too
#
# The same sources and Go release give the same bytes, wherever and whenever it runs. VERSION and REVISION are stamped into
# the programs; SOURCE_DATE_EPOCH is the date of all files, by default that of the commit.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${1:?want tarballs, images, packages, charts, or several}" "${VERSION:?is not set: run make release}" "${REVISION=}" "${PUSH=}"
source=${SOURCE:-https://$(go list -m)}
out=$PWD/${OUT:-dist}
platforms=${PLATFORMS:-linux/amd64 linux/arm64}
programs='pseudo-agent pseudo-server pod-agent'
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOAMD64=v1 GOARM64=v8.0 LC_ALL=C TZ=UTC

mkdir -p "$out"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

built() { echo "$tmp/bin/${1/\//-}"; }

go build -o "$tmp/sbom" ./tools/sbom
for platform in $platforms; do
	mkdir -p "$(built "$platform")"
	for program in $programs; do
		file=$(built "$platform")/$program
		GOOS=${platform%/*} GOARCH=${platform#*/} go build -trimpath -buildvcs=false \
			-ldflags "-s -w -X main.version=$VERSION -X main.revision=$REVISION" -o "$file" "./cmd/$program"
		"$tmp/sbom" "$file" "$VERSION" >"$file.cdx.json"
	done
done

tarballs() {
	for platform in $platforms; do
		name=pseudo-agent-$VERSION-${platform/\//-}
		mkdir "$tmp/$name"
		xargs cp -r --parents --target-directory "$tmp/$name" <packaging/contents
		cp -r "$(built "$platform")" "$tmp/$name/bin"
		find "$tmp/$name" -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
		for program in $programs; do chmod 755 "$tmp/$name/bin/$program"; done
		tar --create --directory "$tmp" --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
			--owner=0 --group=0 --numeric-owner "$name" | gzip --best --no-name >"$out/$name.tar.gz"
	done
}

images() {
	(cd packaging/image && go build -o "$tmp/image" .)
	for program in $programs; do
		args=()
		for platform in $platforms; do args+=(-platform "$platform=$(built "$platform")"); done
		"$tmp/image" -program "$program" -tag "$VERSION" -revision "$REVISION" -source "$source" -created "$SOURCE_DATE_EPOCH" \
			"${args[@]}" -o "$out/$program-$VERSION-image.tar" -push "$PUSH"
	done
}

packages() {
	(cd packaging/packages && go build -o "$tmp/packages" .)
	for platform in $platforms; do
		for program in pseudo-agent pod-agent; do
			"$tmp/packages" -program "$program" -version "$VERSION" -arch "${platform#*/}" -built "$(built "$platform")" -root . \
				-source "$source" -created "$SOURCE_DATE_EPOCH" -o "$out"
		done
	done
}

charts() {
	(cd packaging/image && go build -o "$tmp/chart" ./chart)
	for program in $programs; do
		"$tmp/chart" -chart "charts/$program" -version "$VERSION" -created "$SOURCE_DATE_EPOCH" -o "$out" -push "${PUSH:+${PUSH}charts/}"
	done
}

for what in "$@"; do "$what"; done
cd "$out"
sha256sum *-"$VERSION"-*.* >SHA256SUMS
cat SHA256SUMS
