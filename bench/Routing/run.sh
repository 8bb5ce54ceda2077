#!/usr/bin/env bash
# Routing that was learnt and not drawn: trains a small model of experts on texts of several kinds, prints what its experts do on what was left out of them, imports it, and prints hits and look-ahead of the engine.
#   bench/Routing/run.sh WORK MINUTES TEXT...
# TEXT: a file for each kind, of which the first 5 MB count. WORK keeps token ids and the checkpoint; one that is there is not trained again. Needs python3-torch, python3-numpy and libopenblas0-pthread of Debian. FLASH: the program (else the Release build).
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,4p' "$0" | cut -c3-; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(realpath -m "$1") minutes=$2; shift 2
flash=${FLASH:-$root/artifacts/bin/Cli/release/flash} python=${PYTHON:-/usr/bin/python3}
[ -x "$flash" ] || { echo "build first: dotnet build -c Release src/Cli" >&2; exit 1; }
mkdir -p "$work"
export FLASH_HOME=$work/home PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=${THREADS:-2} OPENBLAS_NUM_THREADS=1
ids=()
for text in "$@"; do
    kind=$(basename "${text%.*}"); ids+=("$work/$kind.u16")
    [ -f "$work/$kind.u16" ] && continue
    "$python" -c '
import json, sys
text = open(sys.argv[1], encoding="utf8", errors="ignore").read()[:5_000_000]
at = 0
while at < len(text):
    end = text.find("\n", at + 4000) + 1 or len(text)
    print(json.dumps({"text": text[at:end]}))
    at = end' "$text" >"$work/$kind.jsonl"
    "$flash" tokenize "$root/models/emberling" --input "$work/$kind.jsonl" --json | "$python" -c '
import json, sys, numpy
numpy.array([i for line in sys.stdin for i in json.loads(line)["ids"]], dtype="<u2").tofile(sys.argv[1])' "$work/$kind.part"
    mv "$work/$kind.part" "$work/$kind.u16"; rm "$work/$kind.jsonl"
done
[ -f "$work/out/config.json" ] || "$python" "$root/bench/Routing/train.py" "$work/out" "$root/models/emberling" "$minutes" "${ids[@]}"
"$python" "$root/bench/Routing/measure.py" "$work/out" "${ids[@]}"
[ -d "$work/home/models/routed.flash" ] || "$flash" import "$work/out" --name routed --quant q8 >/dev/null
for share in 25% 50% 75%; do
    "$flash" bench routed --window "$share" --path engine --sessions 1 --prompt 32 --generate 200 --json 2>/dev/null |
        jq -r --arg share "$share" '.rows[0] | "window \($share): hits \(.hit_rate * 1000 | round / 1000), recall of look-ahead by layer \([.layers[] | .prediction_recall * 100 | round / 100])"'
done
