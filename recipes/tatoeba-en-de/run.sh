#!/usr/bin/env bash
# Tatoeba, English to German: short everyday sentences. About an hour on 2 CPU cores.
#
#     recipes/tatoeba-en-de/run.sh                 downloads the corpus (10 MB) from ManyThings.org and splits it
#     DATA=dir recipes/tatoeba-en-de/run.sh        reads train.en.gz train.de.gz val.en.gz ... test.de.gz from dir
#     WORK=dir recipes/tatoeba-en-de/run.sh        work directory (default: work/tatoeba-en-de)
#
# Scores on the downloaded corpus and on DATA are not comparable: their test sets differ (see README.md). A stopped run
# resumes when started again; to start afresh, remove WORK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # where `make setup` installs it
fi
unset NMT_DATA NMT_MODEL # use the directories in WORK

work=${WORK:-$root/work/tatoeba-en-de}
mkdir -p "$work"
work=$(cd "$work" && pwd)

if [[ -n ${DATA:-} ]]; then
    data=$(cd "$DATA" && pwd)
else
    data=$work/corpus
    if [[ ! -f $work/deu-eng.zip ]]; then
        curl --fail --silent --show-error --location --retry 3 --output "$work/deu-eng.zip.part" \
            https://www.manythings.org/anki/deu-eng.zip
        mv "$work/deu-eng.zip.part" "$work/deu-eng.zip"
    fi
    python3 "$here/../tatoeba-zh-en/split_tatoeba.py" "$work/deu-eng.zip" en de "$data" --valid 2000 --test 2000
fi

cd "$work"
gzip -dc "$data/test.en.gz" > test.en
gzip -dc "$data/test.de.gz" > test.de

nmt preprocess -s en -t de --train "$data/train" --valid "$data/val" --test "$data/test" \
    --config "$here/recipe.toml" --overwrite
nmt train --config "$here/recipe.toml" --resume
nmt translate --config "$here/recipe.toml" --beam 5 < test.en > output.de
nmt score --config "$here/recipe.toml" --target-lang de --ref test.de < output.de
