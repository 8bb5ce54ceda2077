#!/usr/bin/env bash
# Imports a generated GGUF file of about SIZE gigabytes, within 1 GiB of memory where control groups allow it, and prints one row of a table.
#   bench/Import/run.sh [SIZE] [QUANT] [SOURCE]
# SIZE: gigabytes (4). QUANT: what to import as (keep). SOURCE: q4, q8 or bf16, how the file is stored (q4), or safetensors (a folder of bf16 in shards). SHAPE: llama-2-7b (else), or qwen3-30b-a3b; it gets as
# many layers as give the size, all 48 of the latter at 17.5 in q4.
# FLASH: a published flash (else one is published). WORK: a folder on the disk to be measured (a temporary one), which needs room for file and package. KEEP=1 keeps the GGUF file there for the next run.
set -euo pipefail
size=${1:-4} quant=${2:-keep} source=${3:-q4}
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${WORK:-$(mktemp -d "${TMPDIR:-/tmp}/flash-import-XXXXXX")}
mkdir -p "$work"
group=/sys/fs/cgroup/memory/flash-import-$$
cleanup() {
    rm -rf "$work/home" "$work/speed"
    [ "${KEEP:-}" = 1 ] || rm -rf "$work"
    rmdir "$group" 2>/dev/null || true
}
trap cleanup EXIT

if [ -z "${FLASH:-}" ]; then
    dotnet publish -c Release "$root/src/Cli" -o "$work/bin" >/dev/null
    FLASH=$work/bin/flash
fi

# Numbers of a layer, numbers of embedding and head, layers of the whole.
shape=${SHAPE:-llama-2-7b}
case $shape in llama-2-7b) each=202.4e6 ends=262.1e6 most=9999 ;; qwen3-30b-a3b) each=623.1e6 ends=622.3e6 most=48 ;; *) echo "SHAPE is llama-2-7b or qwen3-30b-a3b" >&2; exit 2 ;; esac
case $source in q4) bits=4.5 ;; q8) bits=8.5 ;; bf16 | safetensors) bits=16 ;; *) echo "SOURCE is q4, q8, bf16 or safetensors" >&2; exit 2 ;; esac
layers=$(awk -v s="$size" -v b="$bits" -v e="$each" -v o="$ends" -v m="$most" 'BEGIN { n = (s * 8e9 / b - o) / e; n = n < 1 ? 1 : int(n) == n ? n : int(n) + 1; print (n > m ? m : n) }')
file=$work/$shape-$source-$layers
[ "$source" = safetensors ] || file=$file.gguf
export FLASH_HOME=$work/home
if [ ! -e "$file" ]; then
    if [ "$source" = safetensors ]; then
        python3 "$root/bench/Import/safetensors.py" "$shape" "$layers" "$file" >&2
    else
        "$FLASH" synth --shape "$shape" --layers "$layers" --quant "$source" --gguf "$file" --name made >&2
        "$FLASH" rm made >&2
    fi
fi

# What the disk does by itself, in the same run: past the page cache, 1 GiB.
speed() { dd "$@" bs=4M count=256 2>&1 | awk -F, 'END { print $(NF) }' | sed 's/^ *//'; }
disk_write=$(speed if=/dev/zero of="$work/speed" oflag=direct conv=fsync)
disk_read=$(speed if="$work/speed" of=/dev/null iflag=direct)
rm "$work/speed"

inside=()
if [ -w /sys/fs/cgroup/memory ] && mkdir "$group" 2>/dev/null; then
    echo $((1 << 30)) >"$group/memory.limit_in_bytes"
    echo 0 >"$group/memory.swappiness"
    inside=(bash -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group")
fi
sync
[ -w /proc/sys/vm/drop_caches ] && echo 3 >/proc/sys/vm/drop_caches
load=$(cut -d' ' -f1 /proc/loadavg)

started=$(date +%s.%N)
"${inside[@]}" "$FLASH" import "$file" --name imported --quant "$quant" >"$work/out" 2>"$work/error" &
pid=$!
peak_rss=0 hwm=0 rchar=0 wchar=0 ticks=0
while kill -0 $pid 2>/dev/null; do
    # A process that has just ended has nothing to read: the last sample counts.
    { read -r hwm_now < <(awk '/VmHWM/ { print $2 }' /proc/$pid/status) && hwm=${hwm_now:-$hwm}; } 2>/dev/null || true
    { read -r ticks_now < <(awk '{ print $14 + $15 }' /proc/$pid/stat) && ticks=${ticks_now:-$ticks}; } 2>/dev/null || true
    { read -r rchar_now wchar_now < <(awk '/^read_bytes/ { r = $2 } /^write_bytes/ { w = $2 } END { print r, w }' /proc/$pid/io) && rchar=${rchar_now:-$rchar} wchar=${wchar_now:-$wchar}; } 2>/dev/null || true
    if [ ${#inside[@]} -gt 0 ]; then
        rss=$(awk '/^total_rss / { print $2 }' "$group/memory.stat")
        [ "$rss" -gt "$peak_rss" ] && peak_rss=$rss
    fi
    sleep 0.2
done
wait $pid || { cat "$work/error" >&2; exit 1; }
seconds=$(awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { print b - a }')

memory="no control group"
if [ ${#inside[@]} -gt 0 ]; then
    memory=$(printf '%d MiB of 1024 (page cache included), anonymous %d MiB, %d times at the limit, %d killed' $(($(cat "$group/memory.max_usage_in_bytes") >> 20)) $((peak_rss >> 20)) \
        "$(cat "$group/memory.failcnt")" "$(awk '/^oom_kill / { print $2 }' "$group/memory.oom_control")")
fi
bytes=$(du -sb "$file" | cut -f1)
package=$(du -sb "$FLASH_HOME/models/imported.flash" | cut -f1)
machine="$(nproc) × $(awk -F': ' '/^cpu family/ { f = $2 } /^model[\t ]*:/ { m = $2 } /^model name/ { n = $2 } /^$/ { print n " (family " f ", model " m ")"; exit }' /proc/cpuinfo)"
awk -v s="$seconds" -v t="$ticks" -v hz="$(getconf CLK_TCK)" -v f="$bytes" -v p="$package" -v r="$rchar" -v w="$wchar" -v hwm="$hwm" -v m="$memory" -v dr="$disk_read" -v dw="$disk_write" -v l="$load" \
    -v c="$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo -)" -v machine="$machine" -v command="flash import $(basename "$file") --quant $quant" 'BEGIN {
    print "| machine, load before | commit | command | file → package | seconds | processors busy | read, written | disk alone: read, write | memory | process at most |"
    print "|---|---|---|---|---|---|---|---|---|---|"
    printf "| %s, %s | %s | `%s` | %.2f → %.2f GB | %.1f | %.2f | %.0f, %.0f MB/s | %s, %s | %s | %d MiB |\n", machine, l, c, command, f / 1e9, p / 1e9, s, t / hz / s, r / s / 1e6, w / s / 1e6, dr, dw, m, hwm / 1024
}'
