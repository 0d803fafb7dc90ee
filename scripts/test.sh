#!/usr/bin/env bash
# Sets up what is missing, then runs every check; says at the end which failed. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"
setup
ensure_kafka
ensure_influxdb
ensure_registry
ensure_arm_compiler
ensure_zephyr

failed=()
check() {
    local began=$SECONDS name=$1
    shift
    say "== $name"
    "$@" || failed+=("$name")
    say "== $name: $((SECONDS - began)) s"
}

[[ ${CI:-} == true ]] && export NO_COLOR=1 PY_COLORS=0
check "ruff check" "$PYTHON" -m ruff check .
check "ruff format" "$PYTHON" -m ruff format --check --diff .
check "mypy" "$PYTHON" -m mypy .
check "lint-imports" "$VENV/bin/lint-imports"
check "pytest" "$PYTHON" -m pytest "$@"

if ((${#failed[@]})); then
    say "FAILED: ${failed[*]}"
    exit 1
fi
say "all checks passed"
