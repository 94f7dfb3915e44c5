#!/bin/sh
# Brings the programs and real peers that the tests and the benchmark use: Debian's mosquitto and its
# clients, HAProxy, Tinyproxy, MicroSocks, OpenSSL, strace, Node.js and npm with MQTT.js. Installs what
# is missing when it can, else says what is missing and fails.
set -eu
case "$0" in */*) cd "${0%/*}" ;; esac

# program:package, in Debian and Ubuntu
needed="mosquitto:mosquitto mosquitto_passwd:mosquitto mosquitto_pub:mosquitto-clients
    mosquitto_sub:mosquitto-clients openssl:openssl node:nodejs npm:npm git:git stdbuf:coreutils strace:strace
    haproxy:haproxy tinyproxy:tinyproxy microsocks:microsocks"

has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

# Sets `programs` and `packages` to what is missing.
look() {
    programs="" packages=""
    for pair in $needed; do
        has "${pair%%:*}" && continue
        programs="$programs ${pair%%:*}"
        case "$packages " in
        *" ${pair##*:} "*) ;;
        *) packages="$packages ${pair##*:}" ;;
        esac
    done
}

look
if [ -n "$packages" ]; then
    if ! has apt-get || [ "$(id -u)" != 0 ]; then
        echo "The tests need these programs, which are not here:$programs" >&2
        echo "This is not root with apt, so install their Debian packages by hand," >&2
        echo "or the same on your system, and run this again: sudo apt-get install$packages" >&2
        exit 1
    fi
    echo "installing:$packages"
    apt-get -qq update
    # Packages start their services; the tests start their own brokers on free ports.
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y $packages >/dev/null
    look
    if [ -n "$programs" ]; then
        echo "Installed$packages, and still these programs are missing:$programs" >&2
        exit 1
    fi
fi

if [ ! -d peers/node_modules/mqtt ]; then
    echo "installing: MQTT.js"
    (cd peers && npm install --silent --no-audit --no-fund --ignore-scripts) || {
        echo "npm could not install MQTT.js (tests/peers/package.json); without it the tests fail" >&2
        exit 1
    }
fi
