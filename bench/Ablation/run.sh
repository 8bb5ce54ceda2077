#!/usr/bin/env bash
# What each technique adds, on one package in one amount of memory (the paper's tables 2 and 3): runs `flash bench` once for each line and prints a markdown table of a decoding step.
#   bench/Ablation/run.sh NAME --budget 50% [further options of flash bench]
# naive: every unit is read in every step; hybrid: a share of every layer stays; predictor: only chosen neurons are read, row by row, nothing is kept; then windows, then bundles, then look-ahead.
# MODE: predicted, or exact where a package has no predictors (default: what the package has). FLASH: the program (else the Release build). Read time: with at least one read in the device.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,5p' "$0" | cut -c3-; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
flash=${FLASH:-$root/artifacts/bin/Cli/release/flash}
[ -x "$flash" ] || { echo "build first: dotnet build -c Release src/Cli" >&2; exit 1; }
name=$1; shift
out=$(mktemp); trap 'rm -f "$out"' EXIT
mode=${MODE:-$("$flash" show "$name" --json | jq -r 'if .predictors then "predicted" else "exact" end')}

step() { # WHAT FLAGS...
    local what=$1; shift
    "$flash" bench "$name" "${common[@]}" "$@" --json >"$out" || { echo "| $what | did not run | | | | | | |"; return 0; }
    jq -r --arg what "$what" '.rows[] | .limits as $l | "| \($what) | \($l.flash_bytes / 1e4 | round / 100) | \($l.flash_reads | round) | \(($l.measured_read_gb_s // 0) * 100 | round / 100) | \($l.measured_read_ms * 10 | round / 10) | \($l.measured_compute_ms * 10 | round / 10) | \($l.step_ms * 10 | round / 10) | \(.session_tok_s * 100 | round / 100) |"' "$out"
}

common=("$@")
echo "| $name, $*, $mode | flash MB a step | reads | GB/s | read ms | compute ms | step ms | tok/s |"
echo "|---|---|---|---|---|---|---|---|"
step "naive" --mode dense --prefetch off --no-reuse
step "hybrid" --mode dense --prefetch off
step "+ predictor" --mode "$mode" --prefetch off --no-reuse --unbundled
step "+ window" --mode "$mode" --prefetch off --unbundled
step "+ bundling" --mode "$mode" --prefetch off
step "+ overlap" --mode "$mode" --prefetch on
