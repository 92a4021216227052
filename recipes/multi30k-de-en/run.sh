#!/usr/bin/env bash
# Multi30k, German to English: from raw image captions to BLEU on test_2016_flickr. Some 35 minutes on 2 CPU cores.
#
#     recipes/multi30k-de-en/run.sh                downloads the corpus (1.3 MB) from GitHub
#     DATA=dir recipes/multi30k-de-en/run.sh       reads train.de.gz train.en.gz val.de.gz ... from dir
#     RECIPE=char recipes/multi30k-de-en/run.sh    uses char.toml instead of recipe.toml: a character-level model
#     WORK=dir recipes/multi30k-de-en/run.sh       work directory (default: work/multi30k-de-en)
#
# Expected: BLEU of at least 38.0. A stopped run resumes when started again; to start afresh, remove WORK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # where `make setup` installs it
fi
unset NMT_DATA NMT_MODEL # use the directories in WORK

work=${WORK:-$root/work/multi30k-de-en${RECIPE:+-$RECIPE}}
mkdir -p "$work"
work=$(cd "$work" && pwd)

if [[ -n ${DATA:-} ]]; then
    data=$(cd "$DATA" && pwd)
else
    data=$work/corpus
    "$here/fetch.sh" "$data"
fi

cd "$work"
gzip -dc "$data/test_2016_flickr.de.gz" > test.de
gzip -dc "$data/test_2016_flickr.en.gz" > test.en

nmt preprocess -s de -t en --train "$data/train" --valid "$data/val" --test "$data/test_2016_flickr" \
    --config "$here/${RECIPE:-recipe}.toml" --overwrite
nmt train --config "$here/${RECIPE:-recipe}.toml" --resume
nmt translate --config "$here/${RECIPE:-recipe}.toml" --beam 5 < test.de > output.en
nmt score --config "$here/${RECIPE:-recipe}.toml" --target-lang en --ref test.en < output.en
