#!/usr/bin/env bash
# Many users for a long time: `flash serve` within a budget, in a memory control group of exactly that budget without swap, and visitors who talk, leave, break off, delete and send nonsense. A row is appended to a CSV file.
#   bench/Soak/run.sh OUT.csv MODEL BUDGET [VISITORS] [MINUTES] [-- FLAGS of flash serve]
# MODEL: a package in FLASH_HOME; BUDGET: as flash takes it, in MiB or GiB. CONTEXT: tokens of each session (1024). TALK: what visitors take for it (CONTEXT; less where a word is many tokens). SEED (1). Exit code 1 where something was lost, wrong, hung, leaked or killed; what, is on standard error. Needs root, a Release build.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,4p' "$0" | cut -c3-; exit 2; }
csv=$(realpath -m "$1") model=$2 budget=$3; shift 3
visitors=16 minutes=60
[ $# -eq 0 ] || [ "$1" = -- ] || { visitors=$1; shift; }
[ $# -eq 0 ] || [ "$1" = -- ] || { minutes=$1; shift; }
[ $# -eq 0 ] || shift
root=$(cd "$(dirname "$0")/../.." && pwd)
context=${CONTEXT:-1024} talk=${TALK:-${CONTEXT:-1024}} seed=${SEED:-1} port=${PORT:-18490}
flash=${FLASH:-$root/artifacts/bin/Cli/release/flash}
[ -x "$flash" ] || { echo "build first: dotnet build -c Release src/Cli" >&2; exit 1; }
dotnet build -c Release "$root/bench/Soak" --nologo -v q >&2
soak=$root/artifacts/bin/Soak.Bench/release/FlashOrleans.Soak.Bench
bytes=$(numfmt --from=iec-i --suffix=B "$budget" | tr -d B)
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo -)
machine="$(nproc) x $(awk -F': ' '/^cpu family/ { f = $2 } /^model[\t ]*:/ { m = $2 } /^model name/ { n = $2 } /^$/ { print n " (family " f ", model " m ")"; exit }' /proc/cpuinfo), $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
work=$(mktemp -d)
group=/sys/fs/cgroup/memory/flash-soak-$$
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; wait || true; rmdir "$group" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$group"
echo "$bytes" >"$group/memory.limit_in_bytes"
echo 0 >"$group/memory.swappiness"

command=(serve --port "$port" --silo-port 0 --gateway 0 --budget "$budget" --sessions "$visitors" --context "$context" --sessions-db "$work/sessions.db" "$@")
bash -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" "$flash" "${command[@]}" >"$work/log" 2>&1 &
server=$!
for _ in $(seq 600); do curl -sf "http://127.0.0.1:$port/health/live" >/dev/null && break; kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }; sleep 0.5; done
code=0
out=$("$soak" "http://127.0.0.1:$port" "$model" "$visitors" "$minutes" "$server" --group "$group" --budget "$bytes" --context "$talk" --seed "$seed") || code=$?
echo "$out" >&2
# Whoever is stopped in order says so.
kill -TERM "$server"
stopped=0
wait "$server" || stopped=$?
server=
[ "$stopped" = 0 ] || [ "$stopped" = 143 ] || { echo "the server ended with $stopped" >&2; code=1; }
tail -n +4 "$work/log" | head -n 20 >&2

mkdir -p "$(dirname "$csv")"
columns='visitors minutes seed requests answered refused cancelled disconnected deleted resumed several compared wrong tokens stopped_s tok_s prompt_tokens cached_tokens first_p50_ms first_p99_ms p50_ms p95_ms p99_ms rss_first rss_last rss_most group_first group_last fds_first fds_last fds_before fds_after threads_first threads_last sessions_left gauges_idle kills'
[ -f "$csv" ] || echo "time,machine,commit,load,model,budget_bytes,$(tr ' ' ',' <<<"$columns"),group_most,stopped,command" >"$csv"
echo "$out" | jq -r --arg columns "$columns" --arg time "$(date -u +%FT%TZ)" --arg machine "$machine" --arg commit "$commit" --arg load "$(cut -d' ' -f1 /proc/loadavg)" --arg model "$model" --argjson bytes "$bytes" \
    --argjson most "$(cat "$group/memory.max_usage_in_bytes")" --argjson stopped "$stopped" --arg command "flash ${command[*]}" \
    '. as $row | [$time, $machine, $commit, $load, $model, $bytes] + ($columns | split(" ") | map($row[.])) + [$most, $stopped, ($command | sub("--sessions-db [^ ]+"; "--sessions-db FILE"))] | @csv' >>"$csv"
exit "$code"
