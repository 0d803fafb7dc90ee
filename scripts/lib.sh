# Set-up that every script needs; sourced, never run. Safe to repeat: what is there is left alone.
# shellcheck shell=bash
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"
export PYTHONPATH="$ROOT"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# What run_quietly waits for: bash shields background jobs from Ctrl-C, so we pass it on.
RUNNING=
trap '[[ -z $RUNNING ]] || kill "$RUNNING" 2>/dev/null' EXIT

# run_quietly <seconds expected> <what> <command...>: says every five seconds that it still works; if it fails, its output.
run_quietly() {
    local expected=$1 what=$2 began=$SECONDS said=$SECONDS log status=0
    shift 2
    log=$(mktemp)
    say "$what (expected ${expected} s)"
    "$@" >"$log" 2>&1 &
    RUNNING=$!
    while kill -0 "$RUNNING" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - said >= 5)); then
            said=$SECONDS
            say "$what: $((SECONDS - began)) s"
        fi
    done
    wait "$RUNNING" || status=$?
    RUNNING=
    if ((status != 0)); then
        say "$what failed with code $status:"
        tail -n 40 "$log" >&2
    fi
    rm -f "$log"
    return "$status"
}

is_debian_root() { [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; }

# apt_install <what for> <package...>
apt_install() {
    local what=$1
    shift
    is_debian_root || die "$what is missing. On Debian or Ubuntu type: sudo apt-get install $*"
    run_quietly 20 "apt-get update" env DEBIAN_FRONTEND=noninteractive apt-get update -q ||
        say "continuing with the package lists that are there"
    run_quietly 30 "installing $*" \
        env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# The newest of the Pythons that the lock was made for.
find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    die "Python 3.11 or newer is needed; python3 is $(python3 --version 2>&1 || true)." \
        "On Debian 12 or Ubuntu 24.04 type: sudo apt-get install python3 python3-venv"
}

# The virtual environment holds what requirements.lock names, checked by hash; installed again when the lock changes.
ensure_venv() {
    local lock="$ROOT/requirements.lock" stamp="$VENV/.requirements.sha256" wanted python
    wanted=$(sha256sum <"$lock")
    [[ -x $PYTHON && -f $stamp && $(<"$stamp") == "$wanted" ]] && return
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$(find_python)
        "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install "Python's venv module" python3-venv
        run_quietly 5 "making $VENV" "$python" -m venv --clear "$VENV"
    fi
    "$PYTHON" -m pip --version >/dev/null 2>&1 || run_quietly 5 "adding pip" "$PYTHON" -m ensurepip
    run_quietly 60 "installing the packages of requirements.lock" \
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock"
    printf '%s\n' "$wanted" >"$stamp"
}

# switch_off <service>: packages start theirs for the whole machine; nobody asked for that.
switch_off() {
    if [[ -d /run/systemd/system ]]; then
        systemctl disable --now "$1.service" >&2 || say "$1.service could not be switched off"
    elif [[ -x /etc/init.d/$1 ]]; then
        "/etc/init.d/$1" stop >&2 || say "$1's service could not be stopped"
        update-rc.d "$1" disable >&2 || say "$1's service could not be disabled"
    fi
}

find_mosquitto() { PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v mosquitto; }

ensure_mosquitto() {
    find_mosquitto >/dev/null && return
    apt_install "the MQTT broker mosquitto" mosquitto
    switch_off mosquitto
    find_mosquitto >/dev/null || die "mosquitto was installed but is not found on PATH or in /usr/sbin"
}

# A target of the relay's tests.
ensure_influxdb() {
    command -v influxd >/dev/null && return
    apt_install "the database InfluxDB" influxdb
    switch_off influxdb
}

# Where firmware is kept in tests and in the demo.
ensure_registry() {
    command -v docker-registry >/dev/null && return
    apt_install "the OCI registry docker-registry" docker-registry
    switch_off docker-registry
}

# For the example of how firmware is packaged.
ensure_arm_compiler() {
    command -v arm-none-eabi-gcc >/dev/null || apt_install "the compiler for Cortex-M" gcc-arm-none-eabi
}

# A real device for tests: Zephyr in QEMU.
ensure_zephyr() {
    command -v qemu-system-arm >/dev/null || apt_install "the emulator QEMU" qemu-system-arm
    "$PYTHON" -m scripts.testbed.zephyr >/dev/null
}

# Kafka's testbed: its jars come with Maven and run on Java 17.
ensure_kafka() {
    local missing=()
    "$PYTHON" -c 'import os; from scripts.testbed.kafka import java; java(os.environ)' 2>/dev/null ||
        missing+=(openjdk-17-jre-headless)
    command -v mvn >/dev/null || missing+=(maven)
    ((${#missing[@]} == 0)) || apt_install "${missing[*]}" "${missing[@]}"
    "$PYTHON" -m scripts.testbed.jars >/dev/null
}

ensure_control_plane() { "$PYTHON" -m scripts.testbed.binaries >/dev/null; }

setup() {
    [[ $(uname -s) == Linux ]] || die "the testbed runs on Linux only; this is $(uname -s)"
    ensure_venv
    ensure_mosquitto
    ensure_control_plane
}
