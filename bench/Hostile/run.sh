#!/usr/bin/env bash
# Every file of a folder of malformed inputs through the command line: exit code, lines of error, seconds, peak memory, what is left behind.
#   bench/Hostile/run.sh FLASH FOLDER        FLASH: a built `flash`; FOLDER: one with index.json, as ../shared/golden/bad
# Needs jq and GNU time. Exit code 1 when a file that must be refused is not, or not in one line, or leaves something behind.
set -euo pipefail
flash=$(realpath "$1") folder=$(realpath "$2")
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
export NO_COLOR=1 FLASH_HOME="$work/home"
cases=0 refused=0 wrong=0 slowest=0 slowestName='' peak=0 peakName=''
while IFS=$'\t' read -r path kind expect; do
    file="$folder/$path"
    case $kind in
        tokenizer) printf '{"text":"a"}\n' >"$work/text"; command=("$flash" tokenize "$file" --input "$work/text" --json) ;;
        chat-template)
            jq -j .template "$file" >"$work/t.jinja"; jq .messages "$file" >"$work/messages"
            command=("$flash" template "$work/t.jinja" --messages "$work/messages") ;;
        *) command=("$flash" import "$file" --name hostile) ;;
    esac
    rm -rf "$FLASH_HOME"; code=0
    /usr/bin/time -q -f '%e %M' -o "$work/time" "${command[@]}" >"$work/out" 2>"$work/err" || code=$?
    read -r seconds kilobytes <"$work/time"
    mkdir -p "$FLASH_HOME"; left=$(find "$FLASH_HOME" -type f | wc -l)
    cases=$((cases + 1))
    if [[ $expect == error ]]; then
        # Progress ("importing …") may come before the error; the error itself is one line.
        if ((code == 1 && left == 0)) && (($(grep -c '^flash: ' "$work/err") == 1)) && [[ $(tail -n 1 "$work/err") == 'flash: '* ]]; then refused=$((refused + 1))
        else wrong=$((wrong + 1)); printf 'WRONG %s: exit %d, %d files left: %s\n' "$path" "$code" "$left" "$(tail -n 3 "$work/err")"; fi
    elif [[ $expect == ok && $code != 0 ]]; then wrong=$((wrong + 1)); printf 'WRONG %s: exit %d: %s\n' "$path" "$code" "$(tail -n 1 "$work/err")"
    elif [[ $expect == ok ]]; then :
    elif ((code != 0 && left > 0)); then wrong=$((wrong + 1)); printf 'WRONG %s: %d files left\n' "$path" "$left"; fi
    if awk "BEGIN { exit !($seconds > $slowest) }"; then slowest=$seconds slowestName=$path; fi
    if ((kilobytes > peak)); then peak=$kilobytes peakName=$path; fi
done < <(jq -r '.[] | [.path, .kind, .expect] | @tsv' "$folder/index.json")
printf '%d files, %d that must be refused are, %d wrong; slowest %s s (%s), peak %d MB (%s)\n' "$cases" "$refused" "$wrong" "$slowest" "$slowestName" $((peak / 1024)) "$peakName"
((wrong == 0))
