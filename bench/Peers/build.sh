#!/usr/bin/env bash
# Builds llama.cpp from the sources that npm's node-llama-cpp carries (a git bundle), for this processor, and prints where llama-bench is. Nothing of it is committed.
#   bench/Peers/build.sh [FOLDER]
# FOLDER: where it is built (artifacts/peers). Needs npm, git, cmake, a C++ compiler and about ten minutes on two cores; a second call finds what is there.
set -euo pipefail
version=3.22.1
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mkdir -p "${1:-$root/artifacts/peers}" && cd "${1:-$root/artifacts/peers}" && pwd)
bench=$folder/llama.cpp/build/bin/llama-bench
if [ ! -x "$bench" ]; then
    for tool in npm git cmake c++; do command -v $tool >/dev/null || { echo "bench/Peers/build.sh needs $tool: install it and call again" >&2; exit 1; }; done
    cd "$folder"
    [ -f package/llama/gitRelease.bundle ] || { npm pack --silent node-llama-cpp@$version >/dev/null; tar xzf node-llama-cpp-$version.tgz package/llama/gitRelease.bundle; }
    [ -d llama.cpp ] || git clone -q -c advice.detachedHead=false package/llama/gitRelease.bundle llama.cpp
    generator=(); command -v ninja >/dev/null && generator=(-G Ninja)
    cmake -S llama.cpp -B llama.cpp/build "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_UI=OFF >&2
    cmake --build llama.cpp/build --target llama-bench llama-completion -j"$(nproc)" >&2
fi
echo "$bench"
