#!/usr/bin/env bash
# scripts/bench.sh <name> [arguments]: one benchmark of benchmarks/, with its set-up; without a name, which there are.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# What a benchmark starts as a process of its own has an underscore in its name; what they share cannot be run.
names() { (cd "$ROOT/benchmarks" && grep -l '^if __name__ == "__main__"' -- *.py) | grep -v _ | sed 's/[.]py$//'; }

if (($# == 0)); then
    echo "usage: scripts/bench.sh <name> [arguments], where <name> is one of:"
    names
    exit
fi
name=$1
shift
names | grep -qxF -- "$name" || die "no benchmark $name; there are: $(names | tr '\n' ' ')"
setup
[[ $name != relay ]] || ensure_kafka
[[ $name != firmware ]] || ensure_registry
cd "$ROOT"
exec "$PYTHON" -m "benchmarks.$name" "$@"
