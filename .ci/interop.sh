#!/usr/bin/env bash
# Other people's tools against a running demo: kcat reads a topic, a Protobuf
# library of another language decodes a record with the published schema, curl
# asks the embedded ClickHouse. What cannot be installed here is said in one line
# and does not fail the run.
#
# usage: interop.sh AUTOHEDGE_BINARY
set -euo pipefail
autohedge=$(realpath "$1")
work=$(mktemp -d)
demo=
cleanup() {
  if [ -n "$demo" ] && kill -INT "$demo" 2>/dev/null; then wait "$demo" || true; fi
  rm -rf "$work"
}
trap cleanup EXIT

: >"$work/demo.log"
"$autohedge" demo --data "$work/data" --for 5m --output json >"$work/closing.json" 2>"$work/demo.log" &
demo=$!
for _ in $(seq 240); do
  grep -q ' msg=ready ' "$work/demo.log" && break
  kill -0 "$demo" 2>/dev/null || { cat "$work/demo.log"; exit 1; }
  sleep 0.5
done
kafka=$(sed -n 's/.* msg=ready .*kafka=\([^ ]*\).*/\1/p' "$work/demo.log")
clickhouse=$(sed -n 's/.* msg=ready .*clickhouse=\([^ ]*\).*/\1/p' "$work/demo.log")
[ -n "$kafka" ] && [ -n "$clickhouse" ] || { echo "the demo names no addresses"; cat "$work/demo.log"; exit 1; }

# Something to read: the first signals and what came of them.
for _ in $(seq 240); do
  n=$("$autohedge" query --data "$work/data" --output json "SELECT count() AS n FROM decisions" | sed -n 's/.*"n": \([0-9]*\).*/\1/p')
  [ "${n:-0}" -gt 0 ] && break
  sleep 0.5
done

if command -v curl >/dev/null; then
  n=$(curl -fsS "$clickhouse/?database=autohedge&query=SELECT+count()+FROM+ticks")
  [ "$n" -gt 0 ] || { echo "curl reads $n ticks"; exit 1; }
  echo "curl: $n ticks in the embedded ClickHouse"
else
  echo "curl was not run: it is not installed"
fi

if ! command -v kcat >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get -qq update && apt-get -qq install -y --no-install-recommends kcat; } >"$work/apt.log" 2>&1 || true
fi
if ! command -v kcat >/dev/null; then
  echo "kcat was not run: it is not installed and cannot be installed here"
  echo "the Protobuf library of another language was not run: it reads what kcat fetches"
  exit 0
fi
# Without the credential of the start kcat reads, and writes nothing.
if echo forged | kcat -b "$kafka" -P -t control -p 0 -X message.timeout.ms=5000 2>"$work/forged"; then
  echo "kcat wrote a record without the credential"; exit 1
fi
grep -q 'authorization failed' "$work/forged" || { cat "$work/forged"; exit 1; }
kcat -q -b "$kafka" -C -t signals -o beginning -e -f 'kcat: %t %p %o %k, %S bytes\n' | sort -k4,4n | head -3
topics="md signals journal decisions"
for topic in $topics; do
  # Each value after its length, four bytes, big-endian. md grows too fast for
  # its end to be met, so its first records have to do.
  until=-e
  [ "$topic" = md ] && until="-c 6000"
  # shellcheck disable=SC2086 # two words
  timeout 60 kcat -q -F "$work/data/run/kcat.conf" -C -t "$topic" -o beginning $until -f '%R%s' >"$work/$topic.bin"
  [ -s "$work/$topic.bin" ] || { echo "kcat reads no record of $topic"; exit 1; }
done

kill -INT "$demo"
wait "$demo" || { echo "the demo did not end well"; tail -20 "$work/demo.log"; cat "$work/closing.json"; exit 1; }
demo=

if ! { python3 -m venv "$work/venv" && "$work/venv/bin/pip" install -q --disable-pip-version-check protobuf grpcio-tools; } >"$work/pip.log" 2>&1; then
  echo "the Protobuf library of another language was not run: python3, venv or pip cannot install it here"
  exit 0
fi
"$autohedge" schema >"$work/event.proto"
"$work/venv/bin/python" -m grpc_tools.protoc -I"$work" --python_out="$work" event.proto
cd "$work"
"$work/venv/bin/python" - $topics <<'PY'
import sys
import google.protobuf
import event_pb2

expected = {
    "md": {"trade", "quote", "coverage", "clock"},
    "signals": {"signal"},
    "journal": {"verdict", "model_call"},
    "decisions": {"decision"},
}

def unknown(message):
    """Fields of the record that the published schema does not know."""
    from google.protobuf.unknown_fields import UnknownFieldSet
    if len(UnknownFieldSet(message)):
        return True
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        repeated = not hasattr(value, "ListFields")
        if any(unknown(v) for v in (value if repeated else [value])):
            return True
    return False

for topic in sys.argv[1:]:
    raw = open(topic + ".bin", "rb").read()
    seen, at = {}, 0
    while at < len(raw):
        size = int.from_bytes(raw[at:at + 4], "big")
        value = raw[at + 4:at + 4 + size]
        at += 4 + size
        e = event_pb2.Event()
        assert e.ParseFromString(value) == size, topic
        body = e.WhichOneof("body")
        assert body in expected[topic] or body == "epoch" and topic != "md", (topic, body)
        assert not unknown(e), (topic, "fields beyond the schema")
        again = event_pb2.Event()
        again.ParseFromString(e.SerializeToString())
        assert again == e, (topic, "does not survive a round trip")
        m = getattr(e, body)
        if "venue" in m.DESCRIPTOR.fields_by_name:
            assert m.venue in ("binance", "coinbase"), (topic, m)
        if body == "trade":
            assert m.trade_id > 0 and m.price.mantissa > 0 and m.price.scale <= 18 and m.HasField("qty"), m
        seen[body] = seen.get(body, 0) + 1
    counts = ", ".join(f"{n} {body}" for body, n in sorted(seen.items()))
    print(f"python protobuf {google.protobuf.__version__}: {topic} decoded: {counts}")
    assert topic != "md" or {"trade", "quote", "clock", "coverage"} <= set(seen), seen
PY
