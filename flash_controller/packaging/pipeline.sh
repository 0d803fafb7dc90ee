#!/bin/sh
# For a CI pipeline: packages, pushes and signs, and says on standard output what was published, as registry/path@digest.
#
#   FIRMWARE_REPOSITORY  registry/path[:tag]; logged in before, by docker login or its like
#   FIRMWARE_KEY         file with the private key; not signed without
#   FIRMWARE_RECIPE      firmware.yaml by default
#   FIRMWARE_VERSION     instead of the recipe's, as a tag of the source gives it
#   FLUIDOS_FLASH        the command, kubectl-fluidos-flash by default
#
# Arguments are for every question to the registry: --ca-file FILE, --plain-http.
set -eu
flash=${FLUIDOS_FLASH:-kubectl-fluidos-flash}
layout=$(mktemp -d)
trap 'rm -rf "$layout"' EXIT
$flash package "${FIRMWARE_RECIPE:-firmware.yaml}" --output "$layout" \
	${FIRMWARE_VERSION:+--version "$FIRMWARE_VERSION"} >&2
published=$($flash push "$layout" "$FIRMWARE_REPOSITORY" "$@")
if [ -n "${FIRMWARE_KEY:-}" ]; then
	$flash sign "$published" --key "$FIRMWARE_KEY" "$@" >&2
fi
echo "$published"
