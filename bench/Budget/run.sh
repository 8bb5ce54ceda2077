#!/usr/bin/env bash
# A budget is kept: `flash bench` again and again in a memory cgroup of exactly the budget, without swap, for so many seconds.
# Prints what the cgroup saw at most, how often it was at its limit, what was killed, and major faults after each run's warm-up (code pages that were pushed out).
# Usage: bench/Budget/run.sh NAME BUDGET [SECONDS] [further options of flash bench]      needs root (or a delegated cgroup), Release build
set -euo pipefail
cd "$(dirname "$0")/../.."
name=${1:?NAME} budget=${2:?BUDGET} seconds=${3:-60}
shift $(($# < 3 ? $# : 3))
flash=artifacts/bin/Cli/release/flash
warm=15
[[ -x $flash ]] || { echo "build first: dotnet build -c Release src/Cli" >&2; exit 1; }

path=grains repeat=(--repeat 20)
[[ " $* " == *" --repeat "* ]] && repeat=()
for ((i = 1; i < $#; i++)); do [[ ${!i} == --path ]] && next=$((i + 1)) && path=${!next}; done
# The budget in bytes, as flash understands it; the bench promises other sessions than this plan does, and says itself when they do not fit.
bytes=$($flash plan "$name" --budget "$budget" --path "$path" --memory-rate 1 --read-rate 1 --flash-rate 1 --compute-rate 1 --json 2> /dev/null | sed -n 's/.*"budget_bytes":\([0-9]*\).*/\1/p' || true)
[[ -n $bytes ]] || { $flash plan "$name" --budget "$budget"; exit 1; }

if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
  group=/sys/fs/cgroup/flash-budget-$$
  mkdir "$group"
  echo "$bytes" > "$group/memory.max"
  echo 0 > "$group/memory.swap.max" 2> /dev/null || true
  most() { cat "$group/memory.peak" 2> /dev/null || cat "$group/memory.current"; }
  hits() { awk '$1 == "max" { print $2 }' "$group/memory.events"; }
  kills() { awk '$1 == "oom_kill" { print $2 }' "$group/memory.events"; }
else
  group=/sys/fs/cgroup/memory/flash-budget-$$
  mkdir "$group"
  echo "$bytes" > "$group/memory.limit_in_bytes"
  echo 0 > "$group/memory.swappiness"
  most() { cat "$group/memory.max_usage_in_bytes"; }
  hits() { cat "$group/memory.failcnt"; }
  kills() { awk '$1 == "oom_kill" { print $2 }' "$group/memory.oom_control"; }
fi
faults() { awk '$1 == "pgmajfault" { print $2 }' "$group/memory.stat"; }
anonymous() { awk '$1 == "anon" || $1 == "rss" { print $2; exit }' "$group/memory.stat"; }
out=$(mktemp)
trap 'rm -f "$out"; rmdir "$group" 2> /dev/null || true' EXIT

start=$SECONDS runs=0 failures=0 late=0 anon=0 resident=0
while ((SECONDS - start < seconds && failures == 0)); do
  ( echo $BASHPID > "$group/cgroup.procs"; exec $flash bench "$name" --budget "$budget" "${repeat[@]}" "$@" ) > "$out" 2>&1 &
  pid=$! began=$SECONDS before=
  while kill -0 $pid 2> /dev/null; do
    sleep 1
    ((SECONDS - began >= warm)) && [[ -z $before ]] && before=$(faults)
    now=$(anonymous) && ((now > anon)) && anon=$now
    now=$(awk '$1 == "VmHWM:" { printf "%.0f\n", $2 * 1024 }' /proc/$pid/status 2> /dev/null) && ((now > resident)) && resident=$now
  done
  wait $pid || { failures=$((failures + 1)); cat "$out"; }
  [[ -n $before ]] && late=$((late + $(faults) - before))
  runs=$((runs + 1))
done
tail -3 "$out"
awk -v name="$name" -v budget="$budget" -v bytes="$bytes" -v s=$((SECONDS - start)) -v most="$(most)" -v anon="$anon" -v resident="$resident" -v hits="$(hits)" -v kills="$(kills)" -v late="$late" -v runs=$runs -v failures=$failures 'BEGIN {
  printf "%s --budget %s: limit %.1f MB, %d s, %d runs, failed %d, killed %d; most %.1f MB (%.1f %%), of it not file pages %.1f MB, process at most %.1f MB (%.1f %%), at the limit %d times, major faults after warm-up %d\n",
    name, budget, bytes / 1e6, s, runs, failures, kills, most / 1e6, 100 * most / bytes, anon / 1e6, resident / 1e6, 100 * resident / bytes, hits, late }'
((failures == 0)) && [[ $(kills) == 0 ]]
