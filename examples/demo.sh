#!/usr/bin/env bash
# The main job from end to end, offline, on the embedded base model: add a PDF, train its Knowledge Module, ask it,
# compare it with retrieval and full context, export a GGUF and ask that. Run it by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN="${VENV:-.venv}/bin"
DEMO="$PWD/.demo"
rm -rf "$DEMO"
mkdir -p "$DEMO"
export KM_HOME="$DEMO/library" HF_HUB_OFFLINE=1
begun=$(date +%s)

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
run() { say "km $*"; "$BIN/km" "$@"; }
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '\n$ %s\n' "$*"; }

# llama.cpp checks the exported file. It is built from source, in the background, at low priority.
llama=""
if "$BIN/python" -c 'import llama_cpp' 2>/dev/null; then
    echo "llama.cpp is installed: the exported GGUF will be opened and asked."
elif command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null; then
    echo "Building llama.cpp in the background for the check of the GGUF (about 7 minutes of two cores)."
    # A niced build that takes one core leaves the other to the training.
    CMAKE_BUILD_PARALLEL_LEVEL=1 nice -n 19 "$BIN/python" -m pip install --quiet -c constraints.txt llama-cpp-python \
        >"$DEMO/llama-build.log" 2>&1 &
    llama=$!
else
    echo "NOTE: there is no C++ compiler here, so llama.cpp cannot be built and the GGUF will NOT be checked by it."
fi

run add examples/*.pdf
run train harbour

ask() {
    run ask harbour "$1" --method bare
    run ask harbour "$1" --method km --no-evidence
}
ask "Who founded Grondal Works?"
echo "(first answer of the Knowledge Module after $(($(date +%s) - begun)) s)"
ask "How much does Lumrick 40 cost?"
ask "Which department handles berth permits?"

run compare harbour --questions examples/harbour.questions.jsonl

if [ -n "$llama" ]; then
    echo
    echo "Waiting for the build of llama.cpp (the demo itself has taken $(($(date +%s) - begun)) s so far) ..."
    if wait "$llama"; then
        echo "llama.cpp is built."
    else
        echo "NOTE: llama.cpp could not be built (see $DEMO/llama-build.log): the GGUF will NOT be checked by it."
    fi
fi
run export --gguf -o "$DEMO/harbour.gguf"
if "$BIN/python" -c 'import llama_cpp' 2>/dev/null; then
    say "the same question to $DEMO/harbour.gguf, by llama.cpp alone"
    "$BIN/python" examples/ask_gguf.py "$DEMO/harbour.gguf" "Who founded Grondal Works?"
fi
run ls
echo
echo "Done in $(($(date +%s) - begun)) s. The library is in $DEMO/library; try:  KM_HOME=$KM_HOME $BIN/km ask harbour \"Who is the mayor of Taldrin?\""
