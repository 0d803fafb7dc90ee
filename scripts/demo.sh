#!/usr/bin/env bash
# The main job, start to end, with real processes; sets up what is missing. See --help.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
setup
[[ " $* " != *" --repurpose "* ]] || ensure_registry
exec "$PYTHON" -P -m scripts.demo "$@"
