# fish completion for km. Generated: change the commands instead.

function __km_beginning  # of file $argv[1] the lines that match $argv[2] and begin like the word; if none, all
    set -l begin (string escape --style=regex -- (commandline -ct))
    string match -ri -- "^$argv[2]$begin.*" <$argv[1]
    or string match -r -- "^$argv[2].*" <$argv[1]
end

function __km_listed
    set -l home "$KM_HOME"
    if test -z "$home"
        if test (uname) = Darwin
            set home "$HOME/Library/Application Support/km"
        else if test -n "$XDG_DATA_HOME"
            set home "$XDG_DATA_HOME/km"
        else
            set home "$HOME/.local/share/km"
        end
    end
    test -r "$home/names"; or return
    switch $argv[1]
        case name
            __km_beginning "$home/names" "(?=.)(?!@)"
        case names
            __km_beginning "$home/names" "(?=.)"
        case tag
            string match '@*' <"$home/names" | string sub -s 2
        case task
            set -l folder "$KM_HOME"
            if test -z "$folder"
                if test (uname) = Darwin
                    set folder "$HOME/Library/Application Support/km"
                else if test -n "$XDG_CONFIG_HOME"
                    set folder "$XDG_CONFIG_HOME/km"
                else
                    set folder "$HOME/.config/km"
                end
            end
            for file in "$folder"/tasks/*.toml
                string replace -r '.*/(.*)\.toml' '$1' -- $file
            end
    end
end

function __km_models  # those that the hub's cache has
    set -l hub $HF_HUB_CACHE
    if test -z "$hub"
        if test -n "$HF_HOME"
            set hub "$HF_HOME/hub"
        else if test -n "$XDG_CACHE_HOME"
            set hub "$XDG_CACHE_HOME/huggingface/hub"
        else
            set hub "$HOME/.cache/huggingface/hub"
        end
    end
    for folder in "$hub"/models--*
        string replace -r '.*/models--' '' -- $folder | string replace -- -- /
    end
end

function __km_is  # whether the command is this one
    set -l words (commandline -opc)
    test "$words[2]" = $argv[1]
end

complete -c km -f
complete -c km -n __fish_use_subcommand -s h -l help -d 'Show this message and exit.'
complete -c km -n __fish_use_subcommand -l version -d 'Print the version and leave.'

complete -c km -n __fish_use_subcommand -a add -d 'Add documents: files, folders, URLs, or standard input'
complete -c km -n '__km_is add' -l name -x -d 'What to call the document.'
complete -c km -n '__km_is add' -l tag -x -a '(__km_listed tag)' -d 'A tag; may be repeated.'
complete -c km -n '__km_is add' -l column -x -d 'Where a line of JSONL has its text.'
complete -c km -n '__km_is add' -l update -x -a '(__km_listed name)' -d 'The document whose text the one file is now.'
complete -c km -n '__km_is add' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is add' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is add' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is add' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is add' -F

complete -c km -n __fish_use_subcommand -a ls -d 'List the documents and how their training stands'
complete -c km -n '__km_is ls' -l tag -x -a '(__km_listed tag)' -d 'Only documents with this tag.'
complete -c km -n '__km_is ls' -l all -d 'All of them, and not only the first 50.'
complete -c km -n '__km_is ls' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is ls' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is ls' -s h -l help -d 'Show this message and exit.'

complete -c km -n __fish_use_subcommand -a show -d 'Show one document and its Knowledge Module'
complete -c km -n '__km_is show' -l curve -d 'How the loss of its Knowledge Module fell in training, drawn.'
complete -c km -n '__km_is show' -l exam -d 'What its Knowledge Module knows of which page, by its exam, drawn.'
complete -c km -n '__km_is show' -l changes -d 'What it answers differently since the document changed.'
complete -c km -n '__km_is show' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is show' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is show' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is show' -a '(__km_listed name)'

complete -c km -n __fish_use_subcommand -a tag -d 'Add and remove tags; alone, list them'
complete -c km -n '__km_is tag' -l add -x -a '(__km_listed tag)' -d 'Add a tag; may be repeated.'
complete -c km -n '__km_is tag' -l remove -x -a '(__km_listed tag)' -d 'Take a tag away; may be repeated.'
complete -c km -n '__km_is tag' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is tag' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is tag' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is tag' -a '(__km_listed names)'

complete -c km -n __fish_use_subcommand -a mv -d 'Rename a document'
complete -c km -n '__km_is mv' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is mv' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is mv' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is mv' -a '(__km_listed name)'

complete -c km -n __fish_use_subcommand -a rm -d 'Remove documents and their Knowledge Modules'
complete -c km -n '__km_is rm' -s y -l yes -d 'Do not ask.'
complete -c km -n '__km_is rm' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is rm' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is rm' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is rm' -a '(__km_listed names)'

complete -c km -n __fish_use_subcommand -a watch -d 'Keep a folder in the library: add and update its files'
complete -c km -n '__km_is watch' -l tag -x -a '(__km_listed tag)' -d 'A tag; may be repeated.'
complete -c km -n '__km_is watch' -l train -d 'Train its documents too, and again when they change.'
complete -c km -n '__km_is watch' -l every -x -d 'How often it is looked at.'
complete -c km -n '__km_is watch' -l preset -x -a 'quick standard paper' -d 'How thoroughly: quick, standard or paper.'
complete -c km -n '__km_is watch' -l recipe -r -F -d 'A recipe in TOML.'
complete -c km -n '__km_is watch' -l set -x -d 'One value of the recipe; may be repeated.'
complete -c km -n '__km_is watch' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is watch' -l device -x -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__km_is watch' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is watch' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is watch' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is watch' -F

complete -c km -n __fish_use_subcommand -a train -d 'Write study material, then distil it into a Knowledge Module'
complete -c km -n '__km_is train' -l all -d 'Every document that is not fresh.'
complete -c km -n '__km_is train' -l preset -x -a 'quick standard paper' -d 'How thoroughly: quick, standard or paper.'
complete -c km -n '__km_is train' -l set -x -d 'One value of the recipe; may be repeated.'
complete -c km -n '__km_is train' -l recipe -r -F -d 'A recipe in TOML.'
complete -c km -n '__km_is train' -l estimate -d 'Only say what it would take, by a short trial.'
complete -c km -n '__km_is train' -l no-exam -d 'Do not question the Knowledge Module at the end.'
complete -c km -n '__km_is train' -l force -d 'Also what is fresh, or what the base cannot read.'
complete -c km -n '__km_is train' -l restart -d 'From nothing, whatever an earlier training left.'
complete -c km -n '__km_is train' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is train' -l device -x -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__km_is train' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is train' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is train' -l engine -x -a 'auto hf vllm openai llamacpp' -d 'What writes: auto, hf, vllm, llamacpp, openai (service).'
complete -c km -n '__km_is train' -l teacher -r -F -a ' (__km_models)' -d 'A larger model that writes: hub, folder, GGUF, service.'
complete -c km -n '__km_is train' -l chunk-tokens -x -d 'Size of a chunk, in tokens.'
complete -c km -n '__km_is train' -l overlap -x -d 'What a chunk repeats of the one before: 0 to 0.9.'
complete -c km -n '__km_is train' -l generations -x -d 'How often each task is written for a chunk.'
complete -c km -n '__km_is train' -l max-tokens -x -d 'Tokens of a draft: 256; by task: summary:400.'
complete -c km -n '__km_is train' -l temperature -x -d 'How freely is written: 0 is always the likeliest.'
complete -c km -n '__km_is train' -l judge -d 'Have what writes rate each sample from 1 to 5.'
complete -c km -n '__km_is train' -l min-score -x -d 'Train only on samples with a score of N or more.'
complete -c km -n '__km_is train' -l objective -x -a 'dcd sdcd ddcd lm sft pit skd keep' -d 'What is optimised: dcd, sdcd, ddcd, lm, sft, pit, skd, or a mix: dcd,keep. lm and ddcd need no study material.'
complete -c km -n '__km_is train' -l distil-from -x -a 'base teacher' -d 'Whose predictions are learnt: base or teacher.'
complete -c km -n '__km_is train' -l adapter -x -a 'lora cartridge compressed' -d 'lora, cartridge (keys, values) or compressed (vectors).'
complete -c km -n '__km_is train' -l tokens -x -d 'Of a cartridge: how many it has.'
complete -c km -n '__km_is train' -l frozen -x -d 'Of a cartridge: how many, the first, are not trained.'
complete -c km -n '__km_is train' -l ratio -x -d 'Compressed: how many tokens a vector is for.'
complete -c km -n '__km_is train' -l refine -d 'Compressed: train its vectors as well.'
complete -c km -n '__km_is train' -l group -d 'Compressed: one adapter for all that are named.'
complete -c km -n '__km_is train' -l init -x -a '(__km_listed names)' -d 'Begin from this document\'s KM, or a mean: library, @TAG.'
complete -c km -n '__km_is train' -l processes -x -a '1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16' -d 'So many share each step, one a GPU; default 1.'
complete -c km -n '__km_is train' -l ray -x -d 'On this Ray cluster; auto: one found, or this machine.'
complete -c km -n '__km_is train' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is train' -a '(__km_listed names)'

complete -c km -n __fish_use_subcommand -a ask -d 'Ask documents a question, or the whole library'
complete -c km -n '__km_is ask' -l method -x -a 'auto km rag full bare' -d 'km: the module; rag: retrieval; full: the whole text; bare: neither; auto, the default after an exam: what is likely right, or nobody.'
complete -c km -n '__km_is ask' -l weight -x -d 'Add the Knowledge Modules up, each times a number, such as 1,1, or as the question says: auto.'
complete -c km -n '__km_is ask' -l evidence -l no-evidence -d 'Show the passages that bear on it; the default in a terminal.'
complete -c km -n '__km_is ask' -l each -d 'Ask every document named (NAME, @TAG; none: all trained) the same question.'
complete -c km -n '__km_is ask' -l csv -d 'With --each: the table as CSV.'
complete -c km -n '__km_is ask' -l explain -d 'Show which documents were tried, and how well each answers.'
complete -c km -n '__km_is ask' -l extractor -x -d 'Answer with this Knowledge Extractor as well.'
complete -c km -n '__km_is ask' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is ask' -l device -x -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__km_is ask' -l engine -x -a 'auto hf vllm openai llamacpp' -d 'What answers: auto, hf or llamacpp.'
complete -c km -n '__km_is ask' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is ask' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is ask' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is ask' -a '(__km_listed names)'

complete -c km -n __fish_use_subcommand -a chat -d 'Talk with documents: question after question'
complete -c km -n '__km_is chat' -s c -l continue -d 'Go on with the last conversation, or with the one of a number.'
complete -c km -n '__km_is chat' -l list -d 'List the conversations.'
complete -c km -n '__km_is chat' -l delete -x -d 'Delete a conversation.'
complete -c km -n '__km_is chat' -l method -x -a 'auto km rag full bare' -d 'km: the module; rag: retrieval; full: the whole text; bare: neither; auto, the default after an exam: what is likely right, or nobody.'
complete -c km -n '__km_is chat' -l turns -x -d 'How many earlier turns an answer reads; the default is the base\'s.'
complete -c km -n '__km_is chat' -l evidence -l no-evidence -d 'Show the passages that bear on it; the default in a terminal.'
complete -c km -n '__km_is chat' -l extractor -x -d 'Answer with this Knowledge Extractor as well.'
complete -c km -n '__km_is chat' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is chat' -l device -x -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__km_is chat' -l engine -x -a 'auto hf vllm openai llamacpp' -d 'What answers: auto, hf or llamacpp.'
complete -c km -n '__km_is chat' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is chat' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is chat' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is chat' -a '(__km_listed names)'

complete -c km -n __fish_use_subcommand -a compare -d 'Compare Knowledge Module, retrieval, full text and bare base'
complete -c km -n '__km_is compare' -l questions -r -F -d 'Questions with answers; left out: held-out study material.'
complete -c km -n '__km_is compare' -l methods -x -d 'Such as bare,km,rag,km+rag,full,full-l2,gold; or all.'
complete -c km -n '__km_is compare' -l retriever -x -a 'bm25 dense hybrid' -d 'What finds passages: bm25, dense, hybrid, or several.'
complete -c km -n '__km_is compare' -l k -x -d 'How many passages are read, such as 1,3,5,10.'
complete -c km -n '__km_is compare' -l kept -x -d 'Share of keys and values that full-l2 keeps, such as 0.5,0.1.'
complete -c km -n '__km_is compare' -l embedder -x -d 'Model for dense: minilm, a sentence-transformers name, a folder.'
complete -c km -n '__km_is compare' -l extractor -x -d 'Answer with this Knowledge Extractor as well.'
complete -c km -n '__km_is compare' -l forgetting -x -a '(__km_listed name)' -d 'Also: what the KM costs when this other document is read.'
complete -c km -n '__km_is compare' -l judge -r -F -a ' (__km_models)' -d 'Also: which answers this model says are right (as --teacher).'
complete -c km -n '__km_is compare' -l engine -x -a 'auto hf vllm openai llamacpp' -d 'What runs it: auto, hf, vllm, openai (any service) or llamacpp.'
complete -c km -n '__km_is compare' -l report -r -F -d 'Write it all as one web page, such as out.html.'
complete -c km -n '__km_is compare' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is compare' -l device -x -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__km_is compare' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is compare' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is compare' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is compare' -a '(__km_listed name)'

complete -c km -n __fish_use_subcommand -a search -d 'Find passages in all documents'
complete -c km -n '__km_is search' -s k -l passages -x -d 'Passages to show.'
complete -c km -n '__km_is search' -l retriever -x -a 'bm25 dense hybrid' -d 'By words (bm25), by meaning (dense), or both (hybrid).'
complete -c km -n '__km_is search' -l embedder -x -d 'Model for dense: minilm, a sentence-transformers name, a folder.'
complete -c km -n '__km_is search' -l device -x -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__km_is search' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is search' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is search' -s h -l help -d 'Show this message and exit.'

complete -c km -n __fish_use_subcommand -a serve -d 'Serve the library over HTTP, as OpenAI\'s API'
complete -c km -n '__km_is serve' -l host -x -d 'Where to listen; another than this machine\'s needs a key.'
complete -c km -n '__km_is serve' -l port -x -d 'Which port; 0 takes a free one.'
complete -c km -n '__km_is serve' -l extractor -x -d 'Serve each Knowledge Module with this extractor too: NAME+EXTRACTOR.'
complete -c km -n '__km_is serve' -l api-key -x -d 'What clients must send; better in KM_API_KEY.'
complete -c km -n '__km_is serve' -l engine -x -a 'auto hf vllm openai llamacpp' -d 'What answers: auto, hf, llamacpp or vllm.'
complete -c km -n '__km_is serve' -l parallel -x -d 'Answers written at a time.'
complete -c km -n '__km_is serve' -l waiting -x -d 'Requests that may wait; the next are told to come back.'
complete -c km -n '__km_is serve' -l max-tokens -x -d 'Tokens of an answer, whatever a client asks for.'
complete -c km -n '__km_is serve' -l max-body -x -d 'Size of a request.'
complete -c km -n '__km_is serve' -l timeout -x -d 'Time for a request, waiting included.'
complete -c km -n '__km_is serve' -l grace -x -d 'Time to finish what is under way at the end.'
complete -c km -n '__km_is serve' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is serve' -l device -x -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__km_is serve' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is serve' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is serve' -s h -l help -d 'Show this message and exit.'

complete -c km -n __fish_use_subcommand -a export -d 'Export Knowledge Modules: llama.cpp, Ollama, transformers, PEFT'
complete -c km -n '__km_is export' -l gguf -d 'One merged GGUF file, which is the default.'
complete -c km -n '__km_is export' -l format -x -a 'gguf gguf-lora hf peft ollama' -d 'gguf; gguf-lora or peft: the module alone; hf: a merged folder; ollama: with a Modelfile.'
complete -c km -n '__km_is export' -l quant -x -a 'F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q4_K_M Q4_K_S Q3_K_M Q2_K' -d 'Of a merged file\'s weights: f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s, q4_k_m, q4_k_s, q3_k_m or q2_k; left out: f16.'
complete -c km -n '__km_is export' -s o -l out -r -F -d 'Where to; left out: NAME.gguf and the like, here.'
complete -c km -n '__km_is export' -l force -d 'Also in place of a file that km has not made.'
complete -c km -n '__km_is export' -l converter -r -F -d 'llama.cpp\'s checkout, for a base that km cannot write itself.'
complete -c km -n '__km_is export' -l no-check -d 'Do not load it and compare its answers.'
complete -c km -n '__km_is export' -l extractor -x -d 'With this Knowledge Extractor in it.'
complete -c km -n '__km_is export' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is export' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is export' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is export' -a '(__km_listed names)'

complete -c km -n __fish_use_subcommand -a import -d 'Take a LoRA adapter in PEFT\'s format as a Knowledge Module'
complete -c km -n '__km_is import' -l document -x -a '(__km_listed name)' -d 'What it answers from: a document, or a file to add as one.'
complete -c km -n '__km_is import' -l name -x -d 'What to call the document, where it is new.'
complete -c km -n '__km_is import' -l force -d 'Also in place of the Knowledge Module it has.'
complete -c km -n '__km_is import' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is import' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is import' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is import' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is import' -F

complete -c km -n __fish_use_subcommand -a models -d 'List base models: here, worth downloading, in use; or pull one'
complete -c km -n '__km_is models' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is models' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is models' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is models' -a 'ls pull'

complete -c km -n __fish_use_subcommand -a config -d 'Show settings and where each comes from, or change one'
complete -c km -n '__km_is config' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is config' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is config' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is config' -a 'show get set unset path'
complete -c km -n '__km_is config' -a 'model device preset engine processes vllm_python embedder prices max_megabytes max_pages max_ratio max_seconds max_memory'

complete -c km -n __fish_use_subcommand -a doctor -d 'Check the installation and the library'
complete -c km -n '__km_is doctor' -l repair -d 'Mend what can be mended.'
complete -c km -n '__km_is doctor' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is doctor' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is doctor' -s h -l help -d 'Show this message and exit.'

complete -c km -n __fish_use_subcommand -a man -d 'Show the manual'
complete -c km -n '__km_is man' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is man' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is man' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is man' -a 'add ls show tag mv rm watch train ask chat compare search serve export import models config doctor man completion eval compressor extractor synth config-file exit-codes'

complete -c km -n __fish_use_subcommand -a completion -d 'Print a shell\'s completion script'
complete -c km -n '__km_is completion' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is completion' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is completion' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is completion' -a 'bash zsh fish'

complete -c km -n __fish_use_subcommand -a eval -d 'Run a published benchmark from its own file'
complete -c km -n '__km_is eval' -l data -r -F -d 'Its published file, or the folder that has it; also as .gz.'
complete -c km -n '__km_is eval' -l split -x -d 'Which part; left out: the one that is reported.'
complete -c km -n '__km_is eval' -l limit -x -d 'Only the first N documents.'
complete -c km -n '__km_is eval' -l methods -x -d 'Of bare, km, rag, km+rag, full; with --extractor rag+ke, km+ke, rag+km+ke. Left out: all.'
complete -c km -n '__km_is eval' -l extractor -x -d 'Answer with this Knowledge Extractor as well.'
complete -c km -n '__km_is eval' -l out -r -F -d 'Where modules and answers are kept, to go on there.'
complete -c km -n '__km_is eval' -l preset -x -a 'quick standard paper' -d 'How thoroughly: quick, standard or paper.'
complete -c km -n '__km_is eval' -l recipe -r -F -d 'A recipe in TOML.'
complete -c km -n '__km_is eval' -l set -x -d 'One value of the recipe; may be repeated.'
complete -c km -n '__km_is eval' -l force -d 'Also documents that the base cannot read.'
complete -c km -n '__km_is eval' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is eval' -l device -x -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__km_is eval' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is eval' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is eval' -l engine -x -a 'auto hf vllm openai llamacpp' -d 'What writes: auto, hf, vllm, llamacpp, openai (service).'
complete -c km -n '__km_is eval' -l teacher -r -F -a ' (__km_models)' -d 'A larger model that writes: hub, folder, GGUF, service.'
complete -c km -n '__km_is eval' -l chunk-tokens -x -d 'Size of a chunk, in tokens.'
complete -c km -n '__km_is eval' -l overlap -x -d 'What a chunk repeats of the one before: 0 to 0.9.'
complete -c km -n '__km_is eval' -l generations -x -d 'How often each task is written for a chunk.'
complete -c km -n '__km_is eval' -l objective -x -a 'dcd sdcd ddcd lm sft pit skd keep' -d 'What is optimised: dcd, sdcd, ddcd, lm, sft, pit, skd, or a mix: dcd,keep. lm and ddcd need no study material.'
complete -c km -n '__km_is eval' -s h -l help -d 'Show this message and exit.'

complete -c km -n __fish_use_subcommand -a compressor -d 'Train what compressed documents begin from, once for a base'
complete -c km -n '__km_is compressor' -l set -x -d 'One value of the recipe; may be repeated.'
complete -c km -n '__km_is compressor' -l restart -d 'Drop what an interrupted training left, and begin again.'
complete -c km -n '__km_is compressor' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is compressor' -l device -x -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__km_is compressor' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is compressor' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is compressor' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is compressor' -a 'train ls rm'
complete -c km -n '__km_is compressor' -a '(__km_listed names)'

complete -c km -n __fish_use_subcommand -a extractor -d 'Train Knowledge Extractors: modules answer better with them'
complete -c km -n '__km_is extractor' -l docs -x -a '(__km_listed names)' -d 'Documents to train on, or @TAG for all with a tag.'
complete -c km -n '__km_is extractor' -l questions -r -F -d 'Questions about them, each with its document; left out: held-out study material.'
complete -c km -n '__km_is extractor' -l passages -x -d 'Put K retrieved passages in the prompt.'
complete -c km -n '__km_is extractor' -l no-modules -d 'Without Knowledge Modules: it learns to read passages alone.'
complete -c km -n '__km_is extractor' -l set -x -d 'One value of the recipe; may be repeated.'
complete -c km -n '__km_is extractor' -l restart -d 'Drop what an interrupted training left, and begin again.'
complete -c km -n '__km_is extractor' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is extractor' -l device -x -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__km_is extractor' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is extractor' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is extractor' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is extractor' -a 'train ls show rm'

complete -c km -n __fish_use_subcommand -a synth -d 'Write study material only, without training on it'
complete -c km -n '__km_is synth' -l preset -x -a 'quick standard paper' -d 'How thoroughly: quick, standard or paper.'
complete -c km -n '__km_is synth' -l recipe -r -F -d 'A recipe in TOML.'
complete -c km -n '__km_is synth' -l set -x -d 'One value of the recipe; may be repeated.'
complete -c km -n '__km_is synth' -l force -d 'Also where the base cannot read the document.'
complete -c km -n '__km_is synth' -l restart -d 'Drop the study material there is, and begin again.'
complete -c km -n '__km_is synth' -l show -d 'Write nothing: show the study material of a document.'
complete -c km -n '__km_is synth' -l export -r -F -d 'Write nothing: save it as JSONL; - for stdout.'
complete -c km -n '__km_is synth' -l import -r -F -d 'Write nothing: add samples from JSONL; - for stdin.'
complete -c km -n '__km_is synth' -l task -x -a 'qa summary question question_for unanswerable entities structure ask use-case creative generic (__km_listed task)' -d 'With --show and --export: of this task alone.'
complete -c km -n '__km_is synth' -l estimate -d 'Only say what it would take, by a short trial.'
complete -c km -n '__km_is synth' -l model -r -F -a 'embedded (__km_models)' -d 'Base: embedded, a hub name or a folder (km models).'
complete -c km -n '__km_is synth' -l device -x -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__km_is synth' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__km_is synth' -s q -l quiet -d 'Errors and warnings only: no progress, no messages.'
complete -c km -n '__km_is synth' -l engine -x -a 'auto hf vllm openai llamacpp' -d 'What writes: auto, hf, vllm, llamacpp, openai (service).'
complete -c km -n '__km_is synth' -l teacher -r -F -a ' (__km_models)' -d 'A larger model that writes: hub, folder, GGUF, service.'
complete -c km -n '__km_is synth' -l chunk-tokens -x -d 'Size of a chunk, in tokens.'
complete -c km -n '__km_is synth' -l overlap -x -d 'What a chunk repeats of the one before: 0 to 0.9.'
complete -c km -n '__km_is synth' -l generations -x -d 'How often each task is written for a chunk.'
complete -c km -n '__km_is synth' -l max-tokens -x -d 'Tokens of a draft: 256; by task: summary:400.'
complete -c km -n '__km_is synth' -l temperature -x -d 'How freely is written: 0 is always the likeliest.'
complete -c km -n '__km_is synth' -l judge -d 'Have what writes rate each sample from 1 to 5.'
complete -c km -n '__km_is synth' -l min-score -x -d 'Train only on samples with a score of N or more.'
complete -c km -n '__km_is synth' -l ray -x -d 'On this Ray cluster; auto: one found, or this machine.'
complete -c km -n '__km_is synth' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__km_is synth' -a '(__km_listed names)'
