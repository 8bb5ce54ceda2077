#!/usr/bin/env bash
# Rows a, b and h of the bundled model with its real activity, and a synthetic model of its shape whose activity is fitted to it, at the same share of memory: prints a table and appends to a CSV file.
#   bench/Emberling/run.sh OUT.csv TRAINED [SHARE]
# TRAINED: a folder of emberling's trained predictors. SHARE: percent of the plain package's bytes that weights and windows may take together (50); the process itself is larger than this model, so
# that a --budget would say nothing. FLASH: the program (else the Release build). Bytes, reads and hits are counts; tok/s is of the machine as it is: the load stands in every row. Under 3 minutes.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6p' "$0" | cut -c3-; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
csv=$(realpath -m "$1") trained=$(realpath "$2") share=${3:-50}
flash=${FLASH:-$root/artifacts/bin/Cli/release/flash}
[ -x "$flash" ] || { echo "build first: dotnet build -c Release src/Cli" >&2; exit 1; }
work=$(mktemp -d -p "${WORK:-$(dirname "$csv")}"); trap 'rm -rf "$work"' EXIT
export FLASH_HOME=$work
checkpoint=$root/models/emberling
import() { "$flash" import "$checkpoint" --name "$@" >/dev/null 2>"$work/error" || { tail -1 "$work/error" >&2; exit 1; }; }
import plain
import trained --predictors "$trained"
# So much recall that they take about 2 and 3 times the true set.
import sketch2x --predictors sketch3 --recall 97.5%
import sketch3x --predictors sketch3 --recall 99.3%
"$flash" synth --shape "$checkpoint/config.json" --quant q8 --activity "$root/bench/results/emberling-activity.json" --name drawn >/dev/null 2>&1
total=$(du -sb "$work/models/plain.flash" | cut -f1) edge=$(stat -c %s "$work/models/plain.flash/edge.bin")
cap=$((total * share / 100))
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo -)
[ -f "$csv" ] || echo 'time,commit,load,case,row,window,taken,missed,hit_rate,flash_bytes_step,flash_reads_step,step_ms,tok_s,fraction,activity' >"$csv"

bench() { "$flash" bench "$1" --path engine --sessions 1 --prompt "Once upon a time there was a little fox who found a lantern in the woods. He" --temperature 0.7 --seed 1 --json "${@:2}" 2>"$work/error" || { tail -1 "$work/error" >&2; exit 1; }; }
# The share of the feed-forward that fits beside what is resident in that mode.
window() { # PACKAGE FLAGS...
    bench "$1" "${@:2}" --window 50% --generate 2 | jq -r --argjson cap "$cap" --argjson edge "$edge" '.rows[0].layers as $l | (($cap - $edge - ([$l[].resident_bytes] | add)) / (2 * ([$l[].window_bytes] | add)) * 1000 | floor / 10) | if . < 1 then 1 elif . > 100 then 100 else . end'
}
row() { # CASE WHAT PACKAGE WINDOW FLAGS...
    local load; load=$(cut -d' ' -f1 /proc/loadavg)
    bench "$3" "${@:5}" --window "$4%" --generate 256 >"$work/out.json"
    jq -r --arg head "$(date -u +%FT%TZ),$commit,$load,$1,\"$2\",$4" --arg what "$2" 'def r(n): . * pow(10; n) | round / pow(10; n);
        .rows[0] as $r | $r.limits as $l | (if $r.chosen_right then (1 - $r.false_negative_rate) / $r.chosen_right else null end) as $taken |
        [$head, ($taken // "" | if . == "" then . else r(2) end), ($r.false_negative_rate // "" | if . == "" then . else r(4) end), ($r.hit_rate | r(4)), ($l.flash_bytes | round), ($l.flash_reads | r(1)), ($l.step_ms | r(3)), ($r.session_tok_s | r(1)), ($l.fraction | r(3)), (if .activity then "drawn; fitted to emberling" else "real" end)] | join(",")' "$work/out.json" | tee -a "$csv" |
        awk -F, -v OFS=' | ' '{ print "| " $4, $5, $6 " %", $7, $8, $9, sprintf("%.1f", $10 / 1024), $11, $12, $13 " |" }'
}
echo "emberling q8, $share % of $((total >> 10)) KiB for weights and windows, load $(cut -d' ' -f1 /proc/loadavg)"
echo "| case | row | window | taken / true | missed | hits | flash KiB a step | reads | step ms | tok/s |"
echo "|---|---|---|---|---|---|---|---|---|---|"
dense=$(window plain --mode dense) exact=$(window plain --mode exact --prefetch off) lowrank=$(window trained --mode predicted --prefetch off) sketch=$(window sketch2x --mode predicted --prefetch off)
row base "dense streaming" plain "$dense" --mode dense
row a "exact; gate resident" plain "$exact" --mode exact --prefetch off
row b "trained predictors" trained "$lowrank" --mode predicted --prefetch off
row b "sketch of 3 bits; recall .975" sketch2x "$sketch" --mode predicted --prefetch off
row b "sketch of 3 bits; recall .993" sketch3x "$sketch" --mode predicted --prefetch off
row fit "drawn activity; exact; the real one's window" drawn "$exact" --mode exact --prefetch off
row fit "drawn activity; predicted; the real one's window" drawn "$lowrank" --mode predicted --prefetch off
row h "naive: everything; nothing kept" trained "$dense" --mode dense --prefetch off --no-reuse
row h "hybrid: a share stays" trained "$dense" --mode dense --prefetch off
row h "+ predictor; rows one by one" trained "$lowrank" --mode predicted --prefetch off --no-reuse --unbundled
row h "+ window" trained "$lowrank" --mode predicted --prefetch off --unbundled
row h "+ bundling" trained "$lowrank" --mode predicted --prefetch off
row h "+ overlap" trained "$lowrank" --mode predicted --prefetch on
