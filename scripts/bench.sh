#!/usr/bin/env bash
# scripts/bench.sh <name> [arguments]: one benchmark of benchmarks/, with its set-up; without a name, which there are.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

names() {
    local file
    for file in "$ROOT"/benchmarks/*.py; do
        # A benchmark can be run; what they share cannot.
        grep -q '^if __name__ == "__main__"' "$file" && basename "$file" .py
    done
}

if (($# == 0)); then
    say "usage: scripts/bench.sh <name> [arguments]; names:"
    names
    exit 2
fi
name=$1
shift
names | grep -qxF -- "$name" || die "no benchmark $name; there are: $(names | tr '\n' ' ')"
setup
cd "$ROOT"
exec "$PYTHON" -m "benchmarks.$name" "$@"
