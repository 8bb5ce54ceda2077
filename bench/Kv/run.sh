#!/usr/bin/env bash
# What keys and values that need not be computed are worth: time to the first token of a session that shares the first 1000 tokens with another, and of a session of 2000 tokens that goes on
# after a restart from what was saved, each beside the same work without. Pairs, interleaved; medians and the ratio of the sums.
# Usage: bench/Kv/run.sh MODEL [ROUNDS] [options of flash serve]      MODEL is in $FLASH_HOME; Release build of src/Cli; needs curl
set -euo pipefail
cd "$(dirname "$0")/../.."
model=${1:?MODEL} rounds=${2:-5}
shift $(($# < 2 ? $# : 2))
flash=artifacts/bin/Cli/release/flash
[[ -x $flash ]] || { echo "build first: dotnet build -c Release src/Cli" >&2; exit 1; }
home=${FLASH_HOME:-$HOME/.flash}
work=$(mktemp -d)
port=18080 pid=
trap '[[ -z $pid ]] || kill $pid 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$work"' EXIT
mkdir -p "$work/home"
ln -s "$home/models" "$work/home/models"

start() {
  FLASH_HOME=$work/home $flash serve --models "$home/models" --port $port --silo-port 0 --gateway 0 "$@" > "$work/log" 2>&1 &
  pid=$!
  until curl -sf "http://127.0.0.1:$port/health/live" > /dev/null; do kill -0 $pid || { cat "$work/log" >&2; exit 1; }; sleep 0.2; done
  # Loads the layers.
  ask 1 0 8 warm > /dev/null
}

stop() { kill -TERM $pid; wait $pid || true; pid=; }

# ask FIRST OWN COUNT USER: tokens that depend on FIRST for COUNT - OWN, then OWN that are new; prints seconds and cached tokens.
ask() {
  awk -v model="$model" -v first="$1" -v own="$2" -v count="$3" -v user="$4" -v seed=$RANDOM 'BEGIN {
    for (i = 0; i < count; i++) { t = i < count - own ? (i * 7919 + first * 104729) % 30000 : (i * 31 + seed) % 30000; list = list (i ? "," : "") (t % 900 + 50) }
    printf "{\"model\": \"%s\", \"prompt\": [%s], \"max_tokens\": 1, \"temperature\": 0, \"user\": \"%s\"}", model, list, user }' > "$work/body"
  curl -sf -o "$work/answer" -w '%{time_total} ' "http://127.0.0.1:$port/v1/completions" -H 'Content-Type: application/json' -d @"$work/body"
  sed 's/.*"cached_tokens":\([0-9]*\).*/\1/' "$work/answer"
  echo
}

report() { sort -n "$work/$1.$2" | awk -v what="$3" '{ v[NR] = $1; c[NR] = $2 } END { printf "  %-44s %.3f s (%.3f to %.3f), %d tokens cached\n", what, v[int((NR + 1) / 2)], v[1], v[NR], c[int((NR + 1) / 2)] }'; }
ratio() { paste "$work/$1.off" "$work/$1.on" | awk '{ a += $1; b += $3 } END { printf "  %.1f times faster\n", a / b }'; }

start "$@"
for ((i = 1; i <= rounds; i++)); do
  ask $((100 + i)) 30 1030 "a$i" > /dev/null
  ask $((100 + i)) 30 1030 "b$i" >> "$work/prefix.off"
  ask $((100 + i)) 30 1030 "a$i" >> "$work/prefix.on"
done
echo "$model, $rounds pairs: 1000 tokens in common with another session, 30 of its own"
report prefix off "computed"
report prefix on "shared"
ratio prefix

before=$(du -sB1 "$work/home/kv" | cut -f1)
for ((i = 1; i <= rounds; i++)); do ask $((200 + i)) 0 2000 "c$i" > /dev/null; done
stop
bytes=$((($(du -sB1 "$work/home/kv" | cut -f1) - before) / rounds))
start "$@"
for ((i = 1; i <= rounds; i++)); do
  ask $((200 + i)) 1 2001 "d$i" >> "$work/resume.off"
  ask $((200 + i)) 1 2001 "c$i" >> "$work/resume.on"
done
stop
echo "$model, $rounds pairs: 2000 tokens after a restart; $bytes bytes saved for each session"
report resume off "computed"
report resume on "from disk"
ratio resume
