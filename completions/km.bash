# bash completion for km. Generated: change the commands instead.

_km_words() {  # the given words that begin with $cur
  local word
  for word in "$@"; do
    case "$word" in "$cur"*) COMPREPLY+=("$word") ;; esac
  done
}

_km_listed() {  # of the library what $1 says; awk, because bash reads ten thousand lines slowly
  local home="${KM_HOME:-}"
  if [ -z "$home" ]; then
    case "$OSTYPE" in
      darwin*) home="$HOME/Library/Application Support/km" ;;
      *) home="${XDG_DATA_HOME:-$HOME/.local/share}/km" ;;
    esac
  fi
  [ -r "$home/names" ] || return
  local IFS=$'\n' globbing="" found
  [[ $- == *f* ]] || globbing=yes
  set -f  # a name is no pattern
  found=($(LC_ALL=C kind="$1" cur="$cur" quote="$quote" awk '
    BEGIN { kind = ENVIRON["kind"]; cur = ENVIRON["cur"]; size = length(cur); quote = ENVIRON["quote"] }
    $0 == "" { next }  # here a document was removed
    { tag = substr($0, 1, 1) == "@" }
    kind == "name" && tag || kind == "tag" && !tag { next }
    kind == "tag" { $0 = substr($0, 2) }
    substr($0, 1, size) != cur { next }
    quote == "\"" { gsub(/[\\"$`]/, "\\\\&") }
    quote == "\047" { gsub(/\047/, "\047\\\\\047\047") }
    { print }
  ' "$home/names"))
  if [ -n "$quote" ]; then
    COMPREPLY+=("${found[@]}")
  elif [ ${#found[@]} -gt 0 ]; then
    COMPREPLY+=($(printf '%q\n' "${found[@]}"))  # so that each is one word, whatever is in it
  fi
  [ -z "$globbing" ] || set +f
}

_km_tasks() {  # a person's own
  local tasks="${KM_HOME:-}"
  if [ -z "$tasks" ]; then
    case "$OSTYPE" in
      darwin*) tasks="$HOME/Library/Application Support/km" ;;
      *) tasks="${XDG_CONFIG_HOME:-$HOME/.config}/km" ;;
    esac
  fi
  tasks="$tasks"/tasks
  local file
  for file in "$tasks"/*.toml; do
    file="${file##*/}"
    [ "$file" = "*.toml" ] || _km_words "${file%.toml}"
  done
}

_km_models() {  # those that the hub's cache has
  local hub="${HF_HUB_CACHE:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub}"
  local folder
  for folder in "$hub"/models--*; do
    [ -d "$folder" ] || continue
    folder="${folder##*/models--}"
    _km_words "${folder/--//}"
  done
}

_km_files() {
  compopt -o filenames 2>/dev/null
  local file
  while IFS= read -r file; do COMPREPLY+=("$file"); done < <(compgen -f -- "$cur")
}

_km() {
  local cur="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"
  local verb="${COMP_WORDS[1]}" place=0 index quote=""
  case "${2-}" in  # what is to be replaced; COMP_WORDS has @TAG as two words
    @*) cur="$2"; [ "$previous" != @ ] || previous="${COMP_WORDS[COMP_CWORD-2]}" ;;
  esac
  case "$cur" in
    [\'\"]*) quote="${cur:0:1}" cur="${cur:1}" ;;
    *) cur="${cur//\\/}" ;;
  esac
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    _km_words add ls show tag mv rm watch train ask chat compare search serve export import models config doctor man completion eval compressor extractor synth --help --version
    return
  fi
  case "$verb $previous" in
    "add --name") :; return ;;
    "add --tag") _km_listed tag; return ;;
    "add --column") :; return ;;
    "add --update") _km_listed name; return ;;
    "add --model") _km_words embedded; _km_models; _km_files; return ;;
    "ls --tag") _km_listed tag; return ;;
    "tag --add") _km_listed tag; return ;;
    "tag --remove") _km_listed tag; return ;;
    "watch --tag") _km_listed tag; return ;;
    "watch --every") :; return ;;
    "watch --preset") _km_words quick standard paper; return ;;
    "watch --recipe") _km_files; return ;;
    "watch --set") :; return ;;
    "watch --model") _km_words embedded; _km_models; _km_files; return ;;
    "watch --device") _km_words auto cpu cuda mps; return ;;
    "train --preset") _km_words quick standard paper; return ;;
    "train --set") :; return ;;
    "train --recipe") _km_files; return ;;
    "train --model") _km_words embedded; _km_models; _km_files; return ;;
    "train --device") _km_words auto cpu cuda mps; return ;;
    "train --engine") _km_words auto hf vllm openai llamacpp; return ;;
    "train --teacher") _km_words ; _km_models; _km_files; return ;;
    "train --chunk-tokens") :; return ;;
    "train --overlap") :; return ;;
    "train --generations") :; return ;;
    "train --max-tokens") :; return ;;
    "train --temperature") :; return ;;
    "train --min-score") :; return ;;
    "train --objective") _km_words dcd sdcd ddcd lm sft pit skd keep; return ;;
    "train --distil-from") _km_words base teacher; return ;;
    "train --adapter") _km_words lora cartridge compressed; return ;;
    "train --tokens") :; return ;;
    "train --frozen") :; return ;;
    "train --ratio") :; return ;;
    "train --init") _km_listed names; return ;;
    "train --processes") _km_words 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; return ;;
    "train --ray") :; return ;;
    "ask --method") _km_words auto km rag full bare; return ;;
    "ask --weight") :; return ;;
    "ask --extractor") :; return ;;
    "ask --model") _km_words embedded; _km_models; _km_files; return ;;
    "ask --device") _km_words auto cpu cuda mps; return ;;
    "ask --engine") _km_words auto hf vllm openai llamacpp; return ;;
    "chat --delete") :; return ;;
    "chat --method") _km_words auto km rag full bare; return ;;
    "chat --turns") :; return ;;
    "chat --extractor") :; return ;;
    "chat --model") _km_words embedded; _km_models; _km_files; return ;;
    "chat --device") _km_words auto cpu cuda mps; return ;;
    "chat --engine") _km_words auto hf vllm openai llamacpp; return ;;
    "compare --questions") _km_files; return ;;
    "compare --methods") :; return ;;
    "compare --retriever") _km_words bm25 dense hybrid; return ;;
    "compare --k") :; return ;;
    "compare --kept") :; return ;;
    "compare --embedder") :; return ;;
    "compare --extractor") :; return ;;
    "compare --forgetting") _km_listed name; return ;;
    "compare --judge") _km_words ; _km_models; _km_files; return ;;
    "compare --engine") _km_words auto hf vllm openai llamacpp; return ;;
    "compare --report") _km_files; return ;;
    "compare --model") _km_words embedded; _km_models; _km_files; return ;;
    "compare --device") _km_words auto cpu cuda mps; return ;;
    "search -k" | "search --passages") :; return ;;
    "search --retriever") _km_words bm25 dense hybrid; return ;;
    "search --embedder") :; return ;;
    "search --device") _km_words auto cpu cuda mps; return ;;
    "serve --host") :; return ;;
    "serve --port") :; return ;;
    "serve --extractor") :; return ;;
    "serve --api-key") :; return ;;
    "serve --engine") _km_words auto hf vllm openai llamacpp; return ;;
    "serve --parallel") :; return ;;
    "serve --waiting") :; return ;;
    "serve --max-tokens") :; return ;;
    "serve --max-body") :; return ;;
    "serve --timeout") :; return ;;
    "serve --grace") :; return ;;
    "serve --model") _km_words embedded; _km_models; _km_files; return ;;
    "serve --device") _km_words auto cpu cuda mps; return ;;
    "export --format") _km_words gguf gguf-lora hf peft ollama; return ;;
    "export --quant") _km_words F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q4_K_M Q4_K_S Q3_K_M Q2_K; return ;;
    "export -o" | "export --out") _km_files; return ;;
    "export --converter") _km_files; return ;;
    "export --extractor") :; return ;;
    "import --document") _km_listed name; return ;;
    "import --name") :; return ;;
    "import --model") _km_words embedded; _km_models; _km_files; return ;;
    "eval --data") _km_files; return ;;
    "eval --split") :; return ;;
    "eval --limit") :; return ;;
    "eval --methods") :; return ;;
    "eval --extractor") :; return ;;
    "eval --out") _km_files; return ;;
    "eval --preset") _km_words quick standard paper; return ;;
    "eval --recipe") _km_files; return ;;
    "eval --set") :; return ;;
    "eval --model") _km_words embedded; _km_models; _km_files; return ;;
    "eval --device") _km_words auto cpu cuda mps; return ;;
    "eval --engine") _km_words auto hf vllm openai llamacpp; return ;;
    "eval --teacher") _km_words ; _km_models; _km_files; return ;;
    "eval --chunk-tokens") :; return ;;
    "eval --overlap") :; return ;;
    "eval --generations") :; return ;;
    "eval --objective") _km_words dcd sdcd ddcd lm sft pit skd keep; return ;;
    "compressor --set") :; return ;;
    "compressor --model") _km_words embedded; _km_models; _km_files; return ;;
    "compressor --device") _km_words auto cpu cuda mps; return ;;
    "extractor --docs") _km_listed names; return ;;
    "extractor --questions") _km_files; return ;;
    "extractor --passages") :; return ;;
    "extractor --set") :; return ;;
    "extractor --model") _km_words embedded; _km_models; _km_files; return ;;
    "extractor --device") _km_words auto cpu cuda mps; return ;;
    "synth --preset") _km_words quick standard paper; return ;;
    "synth --recipe") _km_files; return ;;
    "synth --set") :; return ;;
    "synth --export") _km_files; return ;;
    "synth --import") _km_files; return ;;
    "synth --task") _km_words qa summary question question_for unanswerable entities structure ask use-case creative generic; _km_tasks; return ;;
    "synth --model") _km_words embedded; _km_models; _km_files; return ;;
    "synth --device") _km_words auto cpu cuda mps; return ;;
    "synth --engine") _km_words auto hf vllm openai llamacpp; return ;;
    "synth --teacher") _km_words ; _km_models; _km_files; return ;;
    "synth --chunk-tokens") :; return ;;
    "synth --overlap") :; return ;;
    "synth --generations") :; return ;;
    "synth --max-tokens") :; return ;;
    "synth --temperature") :; return ;;
    "synth --min-score") :; return ;;
    "synth --ray") :; return ;;
  esac
  for ((index = 2; index < COMP_CWORD; index++)); do  # positional arguments before this one
    case "$verb ${COMP_WORDS[index]}" in
      "add --name" | "add --tag" | "add --column" | "add --update" | "add --model" | "ls --tag" | "tag --add" | "tag --remove" | "watch --tag" | "watch --every" | "watch --preset" | "watch --recipe" | "watch --set" | "watch --model" | "watch --device" | "train --preset" | "train --set" | "train --recipe" | "train --model" | "train --device" | "train --engine" | "train --teacher" | "train --chunk-tokens" | "train --overlap" | "train --generations" | "train --max-tokens" | "train --temperature" | "train --min-score" | "train --objective" | "train --distil-from" | "train --adapter" | "train --tokens" | "train --frozen" | "train --ratio" | "train --init" | "train --processes" | "train --ray" | "ask --method" | "ask --weight" | "ask --extractor" | "ask --model" | "ask --device" | "ask --engine" | "chat --delete" | "chat --method" | "chat --turns" | "chat --extractor" | "chat --model" | "chat --device" | "chat --engine" | "compare --questions" | "compare --methods" | "compare --retriever" | "compare --k" | "compare --kept" | "compare --embedder" | "compare --extractor" | "compare --forgetting" | "compare --judge" | "compare --engine" | "compare --report" | "compare --model" | "compare --device" | "search -k" | "search --passages" | "search --retriever" | "search --embedder" | "search --device" | "serve --host" | "serve --port" | "serve --extractor" | "serve --api-key" | "serve --engine" | "serve --parallel" | "serve --waiting" | "serve --max-tokens" | "serve --max-body" | "serve --timeout" | "serve --grace" | "serve --model" | "serve --device" | "export --format" | "export --quant" | "export -o" | "export --out" | "export --converter" | "export --extractor" | "import --document" | "import --name" | "import --model" | "eval --data" | "eval --split" | "eval --limit" | "eval --methods" | "eval --extractor" | "eval --out" | "eval --preset" | "eval --recipe" | "eval --set" | "eval --model" | "eval --device" | "eval --engine" | "eval --teacher" | "eval --chunk-tokens" | "eval --overlap" | "eval --generations" | "eval --objective" | "compressor --set" | "compressor --model" | "compressor --device" | "extractor --docs" | "extractor --questions" | "extractor --passages" | "extractor --set" | "extractor --model" | "extractor --device" | "synth --preset" | "synth --recipe" | "synth --set" | "synth --export" | "synth --import" | "synth --task" | "synth --model" | "synth --device" | "synth --engine" | "synth --teacher" | "synth --chunk-tokens" | "synth --overlap" | "synth --generations" | "synth --max-tokens" | "synth --temperature" | "synth --min-score" | "synth --ray") index=$((index + 1)) ;;
      "$verb -"?* | "$verb @") ;;
      *) place=$((place + 1)) ;;
    esac
  done
  case "$verb" in
    add)
      case "$cur" in -*) _km_words --name --tag --column --update --model --json -q --quiet -h --help; return ;; esac
      case $place in
        *) _km_files ;;
      esac
      ;;
    ls)
      case "$cur" in -*) _km_words --tag --all --json -q --quiet -h --help; return ;; esac
      ;;
    show)
      case "$cur" in -*) _km_words --curve --exam --changes --json -q --quiet -h --help; return ;; esac
      case $place in
        0) _km_listed name ;;
      esac
      ;;
    tag)
      case "$cur" in -*) _km_words --add --remove --json -q --quiet -h --help; return ;; esac
      case $place in
        *) _km_listed names ;;
      esac
      ;;
    mv)
      case "$cur" in -*) _km_words --json -q --quiet -h --help; return ;; esac
      case $place in
        0) _km_listed name ;;
      esac
      ;;
    rm)
      case "$cur" in -*) _km_words -y --yes --json -q --quiet -h --help; return ;; esac
      case $place in
        *) _km_listed names ;;
      esac
      ;;
    watch)
      case "$cur" in -*) _km_words --tag --train --every --preset --recipe --set --model --device --json -q --quiet -h --help; return ;; esac
      case $place in
        0) _km_files ;;
      esac
      ;;
    train)
      case "$cur" in -*) _km_words --all --preset --set --recipe --estimate --no-exam --force --restart --model --device --json -q --quiet --engine --teacher --chunk-tokens --overlap --generations --max-tokens --temperature --judge --min-score --objective --distil-from --adapter --tokens --frozen --ratio --refine --group --init --processes --ray -h --help; return ;; esac
      case $place in
        *) _km_listed names ;;
      esac
      ;;
    ask)
      case "$cur" in -*) _km_words --method --weight --evidence --no-evidence --each --csv --explain --extractor --model --device --engine --json -q --quiet -h --help; return ;; esac
      case $place in
        *) _km_listed names ;;
      esac
      ;;
    chat)
      case "$cur" in -*) _km_words -c --continue --list --delete --method --turns --evidence --no-evidence --extractor --model --device --engine --json -q --quiet -h --help; return ;; esac
      case $place in
        *) _km_listed names ;;
      esac
      ;;
    compare)
      case "$cur" in -*) _km_words --questions --methods --retriever --k --kept --embedder --extractor --forgetting --judge --engine --report --model --device --json -q --quiet -h --help; return ;; esac
      case $place in
        0) _km_listed name ;;
      esac
      ;;
    search)
      case "$cur" in -*) _km_words -k --passages --retriever --embedder --device --json -q --quiet -h --help; return ;; esac
      case $place in
      esac
      ;;
    serve)
      case "$cur" in -*) _km_words --host --port --extractor --api-key --engine --parallel --waiting --max-tokens --max-body --timeout --grace --model --device --json -q --quiet -h --help; return ;; esac
      ;;
    export)
      case "$cur" in -*) _km_words --gguf --format --quant -o --out --force --converter --no-check --extractor --json -q --quiet -h --help; return ;; esac
      case $place in
        *) _km_listed names ;;
      esac
      ;;
    import)
      case "$cur" in -*) _km_words --document --name --force --model --json -q --quiet -h --help; return ;; esac
      case $place in
        0) _km_files ;;
      esac
      ;;
    models)
      case "$cur" in -*) _km_words --json -q --quiet -h --help; return ;; esac
      case $place in
        0) _km_words ls pull ;;
      esac
      ;;
    config)
      case "$cur" in -*) _km_words --json -q --quiet -h --help; return ;; esac
      case $place in
        0) _km_words show get set unset path ;;
        1) _km_words model device preset engine processes vllm_python embedder prices max_megabytes max_pages max_ratio max_seconds max_memory ;;
      esac
      ;;
    doctor)
      case "$cur" in -*) _km_words --repair --json -q --quiet -h --help; return ;; esac
      ;;
    man)
      case "$cur" in -*) _km_words --json -q --quiet -h --help; return ;; esac
      case $place in
        0) _km_words add ls show tag mv rm watch train ask chat compare search serve export import models config doctor man completion eval compressor extractor synth config-file exit-codes ;;
      esac
      ;;
    completion)
      case "$cur" in -*) _km_words --json -q --quiet -h --help; return ;; esac
      case $place in
        0) _km_words bash zsh fish ;;
      esac
      ;;
    eval)
      case "$cur" in -*) _km_words --data --split --limit --methods --extractor --out --preset --recipe --set --force --model --device --json -q --quiet --engine --teacher --chunk-tokens --overlap --generations --objective -h --help; return ;; esac
      case $place in
      esac
      ;;
    compressor)
      case "$cur" in -*) _km_words --set --restart --model --device --json -q --quiet -h --help; return ;; esac
      case $place in
        0) _km_words train ls rm ;;
        *) _km_listed names ;;
      esac
      ;;
    extractor)
      case "$cur" in -*) _km_words --docs --questions --passages --no-modules --set --restart --model --device --json -q --quiet -h --help; return ;; esac
      case $place in
        0) _km_words train ls show rm ;;
      esac
      ;;
    synth)
      case "$cur" in -*) _km_words --preset --recipe --set --force --restart --show --export --import --task --estimate --model --device --json -q --quiet --engine --teacher --chunk-tokens --overlap --generations --max-tokens --temperature --judge --min-score --ray -h --help; return ;; esac
      case $place in
        *) _km_listed names ;;
      esac
      ;;
  esac
}

complete -F _km km
