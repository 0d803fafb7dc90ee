#!/usr/bin/env bash
# scripts/faults.sh [--rounds N] [--rate MESSAGES/S] [--cut SECONDS] [--seed N] [only...]: the fault tests in full.
# `only` are words of pytest's -k, joined by "or". As a part of scripts/test.sh the same tests run in a short form.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

rounds=20 rate=5000 cut=60 seed=$RANDOM only=()
while (($#)); do
    case $1 in
    --rounds) rounds=$2 && shift 2 ;;
    --rate) rate=$2 && shift 2 ;;
    --cut) cut=$2 && shift 2 ;;
    --seed) seed=$2 && shift 2 ;;
    -*) die "usage: scripts/faults.sh [--rounds N] [--rate MESSAGES/S] [--cut SECONDS] [--seed N] [only...]" ;;
    *) only+=("$1") && shift ;;
    esac
done
setup
cd "$ROOT"
say "$rounds rounds of each fault under $rate messages/s, seed $seed"
export FAULTS_ROUNDS=$rounds FAULTS_RATE=$rate FAULTS_CUT_SECONDS=$cut FAULTS_SEED=$seed
words=$(printf ' or %s' "${only[@]}")
exec "$PYTHON" -m pytest tests/faults -s --timeout 3600 ${only:+-k "${words# or }"}
