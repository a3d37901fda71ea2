#!/usr/bin/env bash
# The demo and the replays of .ci/run once more, on the Apache Kafka at
# KAFKA_BROKERS: the same assertions, and the same hashes as on the embedded
# broker, whose closing objects are given.
#
# usage: KAFKA_BROKERS=HOST:PORT[,...] apache.sh AUTOHEDGE_BINARY RECORDING[,RECORDING...] CLOSING.json...
set -euo pipefail
autohedge=$(realpath "$1") recordings=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

{ cat "$(dirname "$0")/demo.yaml"; printf 'kafka:\n  brokers: [%s]\n' "$KAFKA_BROKERS"; } >"$work/autohedge.yaml"

run() { # NAME ARGUMENT...
  local name=$1
  shift
  "$autohedge" demo --config "$work/autohedge.yaml" --output json "$@" >"$work/$name.json" 2>"$work/$name.log" ||
    { tail -50 "$work/$name.log"; cat "$work/$name.json"; exit 1; }
  sed -n 's/.* msg=ready \(took=[^ ]*\) .*\(kafka=[^ ]*\).*/'"$name"': ready \1 \2/p' "$work/$name.log"
}

run demo --data "$work/demo" --for 30s
go run ./.ci/assert demo "$work/demo.json"
for n in 1 2; do
  run "replay$n" --data "$work/replay" --speed max --feed "recording:$recordings"
done
go run ./.ci/assert replay "$work/replay1.json" "$work/replay2.json" "$@"
