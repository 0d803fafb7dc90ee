#!/usr/bin/env bash
# The main job, start to end, with real processes; sets up what is missing. See --help.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
setup
exec "$PYTHON" -P -m scripts.demo "$@"
