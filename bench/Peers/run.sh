#!/usr/bin/env bash
# Measures flash and llama.cpp side by side on models of one shape, each run in a memory control group of its own, and appends rows to a CSV file.
#   bench/Peers/run.sh OUT.csv CASE...
# CASE: f (everything in memory, dense), e (dense over budget), a, b (opt-6.7b), c (prosparse-7b), d (bamboo-7b), experts (olmoe-7b, in memory and 50 %), qwen3 (qwen3-30b-a3b, half of it, needs 40 GB), budgets (30 to 100 %), or a line of your own:
#   "ours LABEL PACKAGE SHARE FLAGS..." or "theirs LABEL GGUF SHARE LOADMODE"; SHARE: of the model's bytes, 100 means without a limit.
# FLASH: a published flash (else one is published). LLAMA: llama-bench (else bench/Peers/build.sh makes it). WORK: a folder on the disk to be measured; models made there stay for the next run.
# LAYERS: so many layers instead of the shapes' own, to try the script. bench/Plots draws budgets and sessions and prints a table of all rows.
# SHARES: of budgets, others than 30 40 50 65 80 100. PROMPT, GENERATE, REPEAT: tokens of prompt (128), tokens generated (256) and runs (3). SLOW: tokens that llama.cpp generates under a limit (16; it writes one in seconds).
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,9p' "$0" | cut -c3-; exit 2; }
csv=$(realpath -m "$1"); shift
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${WORK:-$root/artifacts/peers/work}
mkdir -p "$work" "$(dirname "$csv")"
prompt=${PROMPT:-128} generate=${GENERATE:-256} repeat=${REPEAT:-3} slow=${SLOW:-16}
export FLASH_HOME=$work/home DOTNET_TieredPGO=${DOTNET_TieredPGO:-1}
[ -n "${FLASH:-}" ] || { dotnet publish -c Release "$root/src/Cli" -o "$work/bin" >/dev/null; FLASH=$work/bin/flash; }
[ -n "${LLAMA:-}" ] || LLAMA=$("$root/bench/Peers/build.sh")
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo -)
machine="$(nproc) x $(awk -F': ' '/^cpu family/ { f = $2 } /^model[\t ]*:/ { m = $2 } /^model name/ { n = $2 } /^$/ { print n " (family " f ", model " m ")"; exit }' /proc/cpuinfo), $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
swaps=$(awk 'NR > 1' /proc/swaps | wc -l)
disk=$(df --output=source "$work" | tail -1 | xargs basename)
ahead=$(cat "/sys/block/$disk/queue/read_ahead_kb" 2>/dev/null || cat "/sys/class/block/$disk/../queue/read_ahead_kb" 2>/dev/null || echo -)
thp=$(sed 's/.*\[\(.*\)\].*/\1/' /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null || echo -)
damon=$(cat /sys/module/damon_reclaim/parameters/enabled 2>/dev/null || echo off)
echo "$machine; commit $commit; swap devices $swaps; read-ahead $ahead KiB; huge pages $thp; damon reclaim $damon; load $(cut -d' ' -f1-3 /proc/loadavg)" >&2
[ -f "$csv" ] || echo 'time,machine,commit,load,case,label,engine,share,limit_bytes,mode,sessions,prompt,generate,prefill_tok_s,tok_s,p50_ms,p95_ms,p99_ms,flash_bytes_token,hit_rate,peak_bytes,at_limit,oom_kills,major_faults,activity,command,binds,fraction,at_once' >"$csv"

# A group per run: pages in the cache belong to the group that touched them first.
group=
enter() { # LIMIT (0: none)
    group=/sys/fs/cgroup/memory/flash-peers-$$-$RANDOM
    mkdir "$group"
    [ "$1" = 0 ] || echo "$1" >"$group/memory.limit_in_bytes"
    echo 0 >"$group/memory.swappiness"
    sync; echo 3 >/proc/sys/vm/drop_caches
}
inside() { bash -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" "$@"; }
leave() {
    peak=$(cat "$group/memory.max_usage_in_bytes") failed=$(cat "$group/memory.failcnt") kills=$(awk '/^oom_kill / { print $2 }' "$group/memory.oom_control")
    faults=$(awk '/^total_pgmajfault / { print $2 }' "$group/memory.stat")
    rmdir "$group" 2>/dev/null || true
}
trap '[ -z "$group" ] || rmdir "$group" 2>/dev/null || true' EXIT

row() { # CASE LABEL ENGINE SHARE LIMIT MODE SESSIONS PROMPT GENERATE PREFILL TOKS P50 P95 P99 FLASH HITS ACTIVITY COMMAND [BINDS FRACTION AT_ONCE]
    printf '%s,"%s",%s,%s,%s,"%s",%s,%s,%s,"%s",%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,"%s","%s",%s,%s,%s\n' "$(date -u +%FT%TZ)" "$machine" "$commit" "$load" "$1" "$2" "$3" "$4" "$5" "$6" "$7" "$8" "$9" \
        "${10}" "${11}" "${12}" "${13}" "${14}" "${15}" "${16}" "$peak" "$failed" "$kills" "$faults" "${17}" "${18}" "${19:-}" "${20:-}" "${21:-}" >>"$csv"
    echo "$1 $2 ($3, ${4} %): ${11} tok/s, prefill ${10}, peak $((peak >> 20)) MiB, $kills killed" >&2
}

. "$root/bench/model-bytes.sh"

# Nothing is drawn from the logits, as in llama-bench: which of a hundred thousand nearly equal ones is taken costs milliseconds that say nothing.
ours() { # CASE LABEL PACKAGE SHARE FLAGS...
    local case=$1 label=$2 package=$3 share=$4; shift 4
    local bytes limit=0 budget=()
    bytes=$(model_bytes "$FLASH" "$package")
    if [ "$share" != 100 ]; then
        limit=$((bytes * share / 100)); budget=(--budget "$((limit / 1000))KB" --kv q8)
    elif [[ " $* " != *" --window "* ]]; then budget=(--window 100%); fi
    enter "$limit"; load=$(cut -d' ' -f1 /proc/loadavg)
    local command="flash bench $package ${budget[*]} --prompt $prompt --generate $generate --repeat $repeat --temperature 0 $*"
    inside "$FLASH" bench "$package" "${budget[@]}" --prompt "$prompt" --generate "$generate" --repeat "$repeat" --temperature 0 --json "$@" >"$work/out.json" 2>"$work/error" || { leave; echo "$command: $(tail -1 "$work/error")" >&2; return 0; }
    leave
    local activity
    activity=$(jq -r --arg mode "$*" 'if .activity then (if .activity.predicted == 1 and .activity.recall == 1 then "oracle" elif ($mode | test("exact")) then "synthetic activity" else "synthetic activity, predicted x\(.activity.predicted)" end) + (if .activity.ordered then ", by popularity" else "" end) elif .routing then "synthetic routing" else "none" end' "$work/out.json")
    while IFS=$'\t' read -r path sessions prefill rate p50 p95 p99 flash hits binds fraction together; do
        row "$case" "$label" "flash $path" "$share" "$limit" "$*" "$sessions" "$prompt" "$generate" "$prefill" "$rate" "$p50" "$p95" "$p99" "$flash" "$hits" "$activity" "$command" "$binds" "$fraction" "$together"
    done < <(jq -r --argjson n "$prompt" '.rows[] | [.path, .sessions, (1000 * $n / .ttft_ms * 100 | round / 100), ((if .sessions == 1 then .session_tok_s else .tok_s end) * 1000 | round / 1000), .p50_ms, .p95_ms, .p99_ms, (.flash_bytes_per_token // 0 | round), (.hit_rate // "-"), (.limits.limit // "-"), (if .limits then (.limits.fraction * 1000 | round / 1000) else "-" end), (if .limits.together_fraction then (.limits.together_fraction * 1000 | round / 1000) else "-" end)] | @tsv' "$work/out.json")
}

theirs() { # CASE LABEL GGUF SHARE LOADMODE
    local case=$1 label=$2 file=$work/$3.gguf share=$4 how=$5 limit=0 n=$generate r=$repeat
    if [ "$share" != 100 ]; then limit=$(($(stat -c %s "$file") * share / 100)); n=$slow; r=1; fi
    enter "$limit"; load=$(cut -d' ' -f1 /proc/loadavg)
    local command prefill rate
    if [ "$how" = none ]; then
        command="llama-bench -m $3.gguf -p $prompt -n $n -r $r -t $(nproc) -lm none"
        inside "$LLAMA" -m "$file" -p "$prompt" -n "$n" -r "$r" -t "$(nproc)" -lm none -o jsonl >"$work/out.jsonl" 2>"$work/error" || { leave; echo "$command: ended with an error ($kills killed): $(tail -1 "$work/error")" >&2; return 0; }
        prefill=$(jq -s '[.[] | select(.n_gen == 0) | .avg_ts][0] * 1000 | round / 1000' "$work/out.jsonl")
        rate=$(jq -s '[.[] | select(.n_prompt == 0) | .avg_ts][0] * 1000 | round / 1000' "$work/out.jsonl")
    else
        # Mapped weights stay mapped: rearranged for the processor, which llama-bench cannot leave, they would be a second copy that no limit has room for. A token for each letter of the prompt.
        command="llama-completion -m $3.gguf --no-repack -n $n -t $(nproc) -c 512 --no-warmup"
        inside "$(dirname "$LLAMA")/llama-completion" -m "$file" --no-repack -t "$(nproc)" -c 512 --no-warmup -no-cnv --ignore-eos -n "$n" -p "$(head -c "$prompt" < <(yes abcdefghij | tr -d '\n'))" >/dev/null 2>"$work/error" </dev/null || { leave; echo "$command: ended with an error ($kills killed): $(tail -1 "$work/error")" >&2; return 0; }
        prefill=$(sed -n 's/.*prompt eval time.* \([0-9.]*\) tokens per second.*/\1/p' "$work/error")
        rate=$(sed -n '/prompt/d; s/.* eval time.* \([0-9.]*\) tokens per second.*/\1/p' "$work/error")
    fi
    leave
    row "$case" "$label" llama.cpp "$share" "$limit" "load mode $how" 1 "$prompt" "$n" "$prefill" "$rate" "" "" "" "" "" "" "$command"
}

model() { # NAME SHAPE FLAGS...: once
    [ -d "$FLASH_HOME/models/$1.flash" ] || "$FLASH" synth --shape "$2" --name "$1" ${LAYERS:+--layers "$LAYERS"} "${@:3}" >&2
}
# What `exact` alone reads, in the order of popularity (docs/adr/0032, 0033).
lean() { model "$1" "$2" --bundles lean --order popularity; }
llama7() { model llama7 llama-2-7b --gguf "$work/llama7.gguf"; }

for case in "$@"; do
    case $case in
        f) llama7
           theirs f "everything in memory, dense" llama7 100 none; ours f "everything in memory, dense" llama7 100 --path engine; ours f "everything in memory, dense" llama7 100 --path grains ;;
        f1) model tiny8 tinyllama-1.1b --quant q8 --gguf "$work/tiny8.gguf"
           theirs f1 "1.1B q8 in memory, dense" tiny8 100 none; ours f1 "1.1B q8 in memory, dense" tiny8 100 --path engine ;;
        e) llama7
           theirs e "dense, 65 %" llama7 65 mmap; ours e "dense, 65 %" llama7 65 --path grains ;;
        a) llama7; model opt-oracle opt-6.7b --activity oracle
           theirs a "Llama shape, 50 %" llama7 50 mmap; ours a "opt-6.7b, oracle, 50 %" opt-oracle 50 --path grains --mode predicted ;;
        b) model opt-paper opt-6.7b --activity paper; echo '{"predicted":3}' >"$work/three.json"; model opt-three opt-6.7b --activity "$work/three.json"
           ours b "opt-6.7b, predicted x2.3, 50 %" opt-paper 50 --path grains --mode predicted; ours b "opt-6.7b, predicted x3, 50 %" opt-three 50 --path grains --mode predicted ;;
        c) model prosparse prosparse-7b --gguf "$work/prosparse.gguf"; lean prosparse-lean prosparse-7b
           theirs c "prosparse-7b, 65 %" prosparse 65 mmap; ours c "prosparse-7b, exact, 65 %" prosparse-lean 65 --path grains --mode exact --prefetch off; ours c "prosparse-7b, predicted x2, 65 %" prosparse 65 --path grains --mode predicted ;;
        experts) model olmoe olmoe-7b --gguf "$work/olmoe.gguf"
           theirs experts "olmoe-7b in memory" olmoe 100 none; ours experts "olmoe-7b in memory" olmoe 100 --path engine
           theirs experts "olmoe-7b, 50 %" olmoe 50 mmap; ours experts "olmoe-7b, 50 %" olmoe 50 --path grains ;;
        qwen3) model qwen3 qwen3-30b-a3b --gguf "$work/qwen3.gguf"
           theirs qwen3 "qwen3-30b-a3b, 50 %" qwen3 50 mmap
           for share in 25 35 50 70; do ours qwen3 "qwen3-30b-a3b, $share %" qwen3 $share --path grains --sessions 1,4,8; done ;;
        d) model bamboo bamboo-7b; lean bamboo-lean bamboo-7b
           # Half of it does not hold the gates that exact needs.
           for n in 1 8; do ours d "bamboo-7b, predicted x2, 50 %" bamboo 50 --path grains --mode predicted --sessions $n; done
           for n in 1 8; do ours d "bamboo-7b, exact, 75 %" bamboo-lean 75 --path grains --mode exact --sessions $n; done ;;
        budgets) llama7; model prosparse prosparse-7b --gguf "$work/prosparse.gguf"; lean prosparse-lean prosparse-7b; model opt-oracle opt-6.7b --activity oracle
           for share in ${SHARES:-30 40 50 65 80 100}; do
               ours budgets "prosparse-7b, exact" prosparse-lean $share --mode exact --prefetch off; ours budgets "prosparse-7b, predicted x2" prosparse $share --mode predicted
               ours budgets "opt-6.7b, oracle" opt-oracle $share --mode predicted; ours budgets "llama-2-7b, dense" llama7 $share --mode dense
               theirs budgets "prosparse-7b" prosparse $share mmap; theirs budgets "llama-2-7b" llama7 $share mmap
           done ;;
        ours\ *|theirs\ *) eval "${case/ / own }" ;;
        *) echo "no case $case" >&2; exit 2 ;;
    esac
done
