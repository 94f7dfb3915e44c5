#!/bin/sh
# Brings the real peers that the tests talk to: Debian's mosquitto and its clients, Node.js and npm
# with MQTT.js. Installs what is missing when it can, else says what is missing and fails.
set -eu
cd "$(dirname "$0")"

packages=""
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
has mosquitto || packages="$packages mosquitto"
has mosquitto_pub || packages="$packages mosquitto-clients"
has node || packages="$packages nodejs"
has npm || packages="$packages npm"

if [ -n "$packages" ]; then
    if [ "$(id -u)" != 0 ] || ! has apt-get; then
        echo "The tests need these Debian packages, and this is not root with apt:$packages" >&2
        echo "Install them (sudo apt-get install$packages), then run this again." >&2
        exit 1
    fi
    echo "installing:$packages"
    apt-get -qq update
    # Packages start their services; the tests start their own brokers on free ports.
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y $packages >/dev/null
fi

if [ ! -d peers/node_modules/mqtt ]; then
    echo "installing: MQTT.js"
    (cd peers && npm install --silent --no-audit --no-fund --ignore-scripts)
fi
