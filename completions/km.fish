# fish completion for km. Generated: change the commands instead.

function __km_names
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
    test -r "$home/names"; and cat "$home/names"
end

complete -c km -f
complete -c km -n __fish_use_subcommand -s h -l help -d 'Show this message and exit.'
complete -c km -n __fish_use_subcommand -l version -d 'Print the version and leave.'

complete -c km -n __fish_use_subcommand -a add -d 'Add documents: files, folders, URLs, or standard input'
complete -c km -n '__fish_seen_subcommand_from add' -l name -r -d 'What to call the document.'
complete -c km -n '__fish_seen_subcommand_from add' -l tag -r -d 'A tag; may be repeated.'
complete -c km -n '__fish_seen_subcommand_from add' -l model -r -d 'Base model: \'embedded\', a hub name or a folder (see km models).'
complete -c km -n '__fish_seen_subcommand_from add' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from add' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from add' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from add' -F

complete -c km -n __fish_use_subcommand -a ls -d 'List the documents and how their training stands'
complete -c km -n '__fish_seen_subcommand_from ls' -l tag -r -d 'Only documents with this tag.'
complete -c km -n '__fish_seen_subcommand_from ls' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from ls' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from ls' -s h -l help -d 'Show this message and exit.'

complete -c km -n __fish_use_subcommand -a show -d 'Show one document and its Knowledge Module'
complete -c km -n '__fish_seen_subcommand_from show' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from show' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from show' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from show' -a '(__km_names)'

complete -c km -n __fish_use_subcommand -a mv -d 'Rename a document'
complete -c km -n '__fish_seen_subcommand_from mv' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from mv' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from mv' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from mv' -a '(__km_names)'

complete -c km -n __fish_use_subcommand -a rm -d 'Remove documents and their Knowledge Modules'
complete -c km -n '__fish_seen_subcommand_from rm' -s y -l yes -d 'Do not ask.'
complete -c km -n '__fish_seen_subcommand_from rm' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from rm' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from rm' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from rm' -a '(__km_names)'

complete -c km -n __fish_use_subcommand -a train -d 'Write study material, then distil it into a Knowledge Module'
complete -c km -n '__fish_seen_subcommand_from train' -l all -d 'Every document that is not fresh.'
complete -c km -n '__fish_seen_subcommand_from train' -l preset -r -a 'quick standard paper' -d 'How thoroughly: quick, standard or paper.'
complete -c km -n '__fish_seen_subcommand_from train' -l recipe -r -F -d 'A recipe in TOML.'
complete -c km -n '__fish_seen_subcommand_from train' -l set -r -d 'One value of the recipe; may be repeated.'
complete -c km -n '__fish_seen_subcommand_from train' -l force -d 'Also where it is fresh already, or the base cannot read the document.'
complete -c km -n '__fish_seen_subcommand_from train' -l restart -d 'Drop what an interrupted training left, and begin again.'
complete -c km -n '__fish_seen_subcommand_from train' -l model -r -d 'Base model: \'embedded\', a hub name or a folder (see km models).'
complete -c km -n '__fish_seen_subcommand_from train' -l device -r -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__fish_seen_subcommand_from train' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from train' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from train' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from train' -a '(__km_names)'

complete -c km -n __fish_use_subcommand -a serve -d 'Serve the library over HTTP, as OpenAI\'s API'
complete -c km -n '__fish_seen_subcommand_from serve' -l host -r -d 'Where to listen; another than this machine\'s needs a key.'
complete -c km -n '__fish_seen_subcommand_from serve' -l port -r -d 'Which port; 0 takes a free one.'
complete -c km -n '__fish_seen_subcommand_from serve' -l api-key -r -a 'model device preset' -d 'What clients must send; better in KM_API_KEY.'
complete -c km -n '__fish_seen_subcommand_from serve' -l engine -r -a 'hf' -d 'What answers. hf: transformers, many Knowledge Modules at a time.'
complete -c km -n '__fish_seen_subcommand_from serve' -l parallel -r -d 'Answers written at a time.'
complete -c km -n '__fish_seen_subcommand_from serve' -l waiting -r -d 'Requests that may wait; the next are told to come back.'
complete -c km -n '__fish_seen_subcommand_from serve' -l max-tokens -r -d 'Tokens of an answer, whatever a client asks for.'
complete -c km -n '__fish_seen_subcommand_from serve' -l max-body -r -d 'Size of a request.'
complete -c km -n '__fish_seen_subcommand_from serve' -l timeout -r -d 'Time for a request, waiting included.'
complete -c km -n '__fish_seen_subcommand_from serve' -l grace -r -d 'Time to finish what is under way at the end.'
complete -c km -n '__fish_seen_subcommand_from serve' -l model -r -d 'Base model: \'embedded\', a hub name or a folder (see km models).'
complete -c km -n '__fish_seen_subcommand_from serve' -l device -r -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__fish_seen_subcommand_from serve' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from serve' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from serve' -s h -l help -d 'Show this message and exit.'

complete -c km -n __fish_use_subcommand -a ask -d 'Ask a document a question'
complete -c km -n '__fish_seen_subcommand_from ask' -l method -r -a 'km rag full bare' -d 'Answer by Knowledge Module, retrieval, the full text in the prompt, or the bare base model.'
complete -c km -n '__fish_seen_subcommand_from ask' -l evidence -l no-evidence -d 'Show the passages that bear on it; the default in a terminal.'
complete -c km -n '__fish_seen_subcommand_from ask' -l model -r -d 'Base model: \'embedded\', a hub name or a folder (see km models).'
complete -c km -n '__fish_seen_subcommand_from ask' -l device -r -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__fish_seen_subcommand_from ask' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from ask' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from ask' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from ask' -a '(__km_names)'

complete -c km -n __fish_use_subcommand -a compare -d 'Compare Knowledge Module, retrieval, full text and bare base'
complete -c km -n '__fish_seen_subcommand_from compare' -l questions -r -F -d 'Questions with answers; left out: held-out study material.'
complete -c km -n '__fish_seen_subcommand_from compare' -l model -r -d 'Base model: \'embedded\', a hub name or a folder (see km models).'
complete -c km -n '__fish_seen_subcommand_from compare' -l device -r -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__fish_seen_subcommand_from compare' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from compare' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from compare' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from compare' -a '(__km_names)'

complete -c km -n __fish_use_subcommand -a export -d 'Export a Knowledge Module with its base as one GGUF file'
complete -c km -n '__fish_seen_subcommand_from export' -l gguf -d 'One merged GGUF file: the only format so far, so it may be left out.'
complete -c km -n '__fish_seen_subcommand_from export' -l quant -r -a 'F16 Q8_0' -d 'Precision of the weights.'
complete -c km -n '__fish_seen_subcommand_from export' -s o -l out -r -F -d 'Where to; left out: NAME.gguf in this folder.'
complete -c km -n '__fish_seen_subcommand_from export' -l no-check -d 'Do not load the file and compare its answers.'
complete -c km -n '__fish_seen_subcommand_from export' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from export' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from export' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from export' -a '(__km_names)'

complete -c km -n __fish_use_subcommand -a models -d 'List the base models and which one is in use'
complete -c km -n '__fish_seen_subcommand_from models' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from models' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from models' -s h -l help -d 'Show this message and exit.'

complete -c km -n __fish_use_subcommand -a config -d 'Show settings and where each comes from, or change one'
complete -c km -n '__fish_seen_subcommand_from config' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from config' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from config' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from config' -a 'show get set unset path'
complete -c km -n '__fish_seen_subcommand_from config' -a 'model device preset'

complete -c km -n __fish_use_subcommand -a doctor -d 'Check the installation and the library'
complete -c km -n '__fish_seen_subcommand_from doctor' -l repair -d 'Mend what can be mended.'
complete -c km -n '__fish_seen_subcommand_from doctor' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from doctor' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from doctor' -s h -l help -d 'Show this message and exit.'

complete -c km -n __fish_use_subcommand -a man -d 'Show the manual'
complete -c km -n '__fish_seen_subcommand_from man' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from man' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from man' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from man' -a 'add ls show mv rm train serve ask compare export models config doctor man completion synth'

complete -c km -n __fish_use_subcommand -a completion -d 'Print a shell\'s completion script'
complete -c km -n '__fish_seen_subcommand_from completion' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from completion' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from completion' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'

complete -c km -n __fish_use_subcommand -a synth -d 'Write study material only, without training on it'
complete -c km -n '__fish_seen_subcommand_from synth' -l preset -r -a 'quick standard paper' -d 'How thoroughly: quick, standard or paper.'
complete -c km -n '__fish_seen_subcommand_from synth' -l recipe -r -F -d 'A recipe in TOML.'
complete -c km -n '__fish_seen_subcommand_from synth' -l set -r -d 'One value of the recipe; may be repeated.'
complete -c km -n '__fish_seen_subcommand_from synth' -l force -d 'Also where the base cannot read the document.'
complete -c km -n '__fish_seen_subcommand_from synth' -l restart -d 'Drop the study material there is, and begin again.'
complete -c km -n '__fish_seen_subcommand_from synth' -l model -r -d 'Base model: \'embedded\', a hub name or a folder (see km models).'
complete -c km -n '__fish_seen_subcommand_from synth' -l device -r -a 'auto cpu cuda mps' -d 'Where to compute: auto, cpu, cuda or mps.'
complete -c km -n '__fish_seen_subcommand_from synth' -l json -d 'Print the result as one JSON object.'
complete -c km -n '__fish_seen_subcommand_from synth' -s q -l quiet -d 'No progress and no messages; errors and warnings only.'
complete -c km -n '__fish_seen_subcommand_from synth' -s h -l help -d 'Show this message and exit.'
complete -c km -n '__fish_seen_subcommand_from synth' -a '(__km_names)'
