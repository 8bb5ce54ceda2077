#!/usr/bin/env bash
# Many clients at once, over HTTP: the same requests for `flash serve` and for llama.cpp's server, each in a memory control group of its own, rows appended to a CSV file.
#   bench/Serve/run.sh OUT.csv MODEL SHARE SESSIONS... [-- FLAGS of flash serve]
# MODEL: a package in FLASH_HOME; GGUF: the same model for llama.cpp's server (LLAMA_SERVER; without both only flash runs). SHARE: of the model's bytes, 100 means no limit. SESSIONS: a number each, 0 is left out.
# PROMPT, GENERATE: tokens (64, 64). LONG: beside each row one more request with so many tokens of prompt (0: none). ALONE=1: every text is made again alone and compared (what that reads is in flash_bytes_token, too). SERVED: sessions that the server promises, where that is not the row's number (overload). VOCABULARY: ids below this (2000). FLASH: a published flash.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,6p' "$0" | cut -c3-; exit 2; }
csv=$(realpath -m "$1") model=$2 share=$3; shift 3
counts=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do counts+=("$1"); shift; done
[ $# -eq 0 ] || shift
root=$(cd "$(dirname "$0")/../.." && pwd)
prompt=${PROMPT:-64} generate=${GENERATE:-64} long=${LONG:-0} vocabulary=${VOCABULARY:-2000}
flash=${FLASH:-$root/artifacts/bin/Cli/release/flash}
[ -x "$flash" ] || { echo "build first: dotnet build -c Release src/Cli" >&2; exit 1; }
dotnet build -c Release "$root/bench/Serve" --nologo -v q >&2
load=$root/artifacts/bin/Serve.Bench/release/FlashOrleans.Serve.Bench
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo -)
machine="$(nproc) x $(awk -F': ' '/^cpu family/ { f = $2 } /^model[\t ]*:/ { m = $2 } /^model name/ { n = $2 } /^$/ { print n " (family " f ", model " m ")"; exit }' /proc/cpuinfo), $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
work=$(mktemp -d)
server=
stop() { [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null; server=; } || true; }
trap 'stop; rm -rf "$work"' EXIT
mkdir -p "$(dirname "$csv")"
[ -f "$csv" ] || echo 'time,machine,commit,load,model,engine,share,limit_bytes,sessions,prompt,generate,tok_s,tok_s_together,first_p50_ms,first_max_ms,p50_ms,p95_ms,p99_ms,different_alone,long_tokens,long_tok_s,others_p50_ms,others_p99_ms,flash_bytes_token,peak_bytes,oom_kills,command' >"$csv"
. "$root/bench/model-bytes.sh"
bytes=$(model_bytes "$flash" "$model")
limit=0
[ "$share" = 100 ] || limit=$((bytes * share / 100))

row() { # ENGINE SESSIONS PORT COMMAND
    local extra=() before after out
    [ "$long" = 0 ] || extra+=(--long "$long")
    [ "${ALONE:-0}" = 0 ] || extra+=(--alone)
    read_bytes() { [ "$1" = flash ] && curl -s "http://127.0.0.1:$2/metrics" | awk '/^flashorleans_flash_read_bytes_total/ { print $NF; exit }' || echo 0; }
    before=$(read_bytes "$1" "$3")
    out=$("$load" "http://127.0.0.1:$3" "$model" "$2" "$prompt" "$generate" --vocabulary "$vocabulary" "${extra[@]}") || { echo "$1, $2 sessions: $out" >&2; }
    after=$(read_bytes "$1" "$3")
    local group=/sys/fs/cgroup/memory/flash-serve-$$
    echo "$out" | jq -r --arg time "$(date -u +%FT%TZ)" --arg machine "$machine" --arg commit "$commit" --arg load "$(cut -d' ' -f1 /proc/loadavg)" --arg model "$model" --arg engine "$1" --arg share "$share" --arg limit "$limit" \
        --argjson read "$(awk -v a="${after:-0}" -v b="${before:-0}" 'BEGIN { printf "%.0f", a - b }')" --arg peak "$(cat "$group/memory.max_usage_in_bytes" 2>/dev/null || echo 0)" --arg kills "$(awk '/^oom_kill / { print $2 }' "$group/memory.oom_control" 2>/dev/null || echo 0)" --arg command "$4" \
        '[$time, $machine, $commit, $load, $model, $engine, $share, $limit, .sessions, .prompt, .generate, .tok_s, .tok_s_together, .first_p50_ms, .first_max_ms, .p50_ms, .p95_ms, .p99_ms, .different_alone, (.long_prompt.tokens // ""), (.long_prompt.tok_s // ""), (.long_prompt.others_p50_ms // ""), (.long_prompt.others_p99_ms // ""), (if .tokens > 0 then ($read / .tokens | floor) else 0 end), $peak, $kills, $command] | @csv' >>"$csv"
    echo "$1 $2 sessions: $out" >&2
}

launch() { # COMMAND...
    local group=/sys/fs/cgroup/memory/flash-serve-$$
    mkdir -p "$group"
    [ "$limit" = 0 ] || echo "$limit" >"$group/memory.limit_in_bytes"
    echo 0 >"$group/memory.swappiness"
    sync; echo 3 >/proc/sys/vm/drop_caches
    bash -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" "$@" >"$work/log" 2>&1 &
    server=$!
}
ready() { # URL
    for _ in $(seq 600); do curl -sf "$1" >/dev/null && return; kill -0 "$server" 2>/dev/null || break; sleep 0.5; done
    tail -n 3 "$work/log" >&2; return 1
}
over() { stop; rmdir "/sys/fs/cgroup/memory/flash-serve-$$" 2>/dev/null || true; }

for sessions in "${counts[@]}"; do
    context=$((prompt + generate + 8))
    [ "$long" = 0 ] || context=$((long + 8 > context ? long + 8 : context))
    slots=${SERVED:-$((sessions + (long > 0)))}
    budget=(--window 100%)
    [ "$limit" = 0 ] || budget=(--budget "${limit}B" --sessions "$slots" --context "$context")
    launch "$flash" serve --port 18480 "${budget[@]}" "$@"
    if ready http://127.0.0.1:18480/health/live; then row flash "$sessions" 18480 "flash serve ${budget[*]} $*"; else echo "flash, $sessions sessions: not started" >&2; fi
    over
    [ -n "${GGUF:-}" ] && [ -n "${LLAMA_SERVER:-}" ] || continue
    # Under a limit mapped weights stay mapped: rearranged for the processor they would be a second copy that no limit has room for (25 minutes without an answer).
    theirs=(-np "$slots" -c $((context * slots)) -ctk q8_0 -ctv q8_0 -fa on)
    [ "$limit" = 0 ] || theirs+=(--no-repack --no-warmup)
    launch "$LLAMA_SERVER" -m "$GGUF" --port 18481 -t "$(nproc)" --no-webui "${theirs[@]}"
    if ready http://127.0.0.1:18481/health; then row llama.cpp "$sessions" 18481 "llama-server ${theirs[*]}"; else echo "llama.cpp, $sessions sessions: not started" >&2; fi
    over
done
