#!/usr/bin/env bash
# Multi30k, German to English: raw image captions to BLEU on test_2016_flickr. Some 35 minutes on 2 CPU cores.
#
#     recipes/multi30k-de-en/run.sh                fetches the corpus (1.3 MB) from its public home
#     DATA=dir recipes/multi30k-de-en/run.sh       takes train.de.gz train.en.gz val.de.gz ... from dir
#     WORK=dir recipes/multi30k-de-en/run.sh       works in dir, not in work/multi30k-de-en
#
# Expected: BLEU of at least 38.0. A run that was stopped goes on when started again; to start afresh, remove WORK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v nmt > /dev/null; then
    PATH="$root/.venv/bin:$PATH" # after `make setup`
fi
unset NMT_DATA NMT_MODEL # the directories are those in WORK

work=${WORK:-$root/work/multi30k-de-en}
mkdir -p "$work"
work=$(cd "$work" && pwd)

home=https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw

fetch() { # name, sha256
    local file=$data/$1
    if [[ ! -f $file ]]; then
        curl --fail --silent --show-error --location --retry 3 --output "$file.part" "$home/$1"
        mv "$file.part" "$file"
    fi
    sha256sum --check --quiet <<< "$2  $file"
}

if [[ -n ${DATA:-} ]]; then
    data=$(cd "$DATA" && pwd)
else
    data=$work/corpus
    mkdir -p "$data"
    fetch train.de.gz 726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6
    fetch train.en.gz d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f
    fetch val.de.gz f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a
    fetch val.en.gz 14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28
    fetch test_2016_flickr.de.gz 9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8
    fetch test_2016_flickr.en.gz 611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9
fi

cd "$work"
gzip -dc "$data/test_2016_flickr.de.gz" > test.de
gzip -dc "$data/test_2016_flickr.en.gz" > test.en

nmt preprocess -s de -t en --train "$data/train" --valid "$data/val" --test "$data/test_2016_flickr" \
    --config "$here/recipe.toml" --overwrite
nmt train --config "$here/recipe.toml" --resume
nmt translate --config "$here/recipe.toml" --beam 5 < test.de > output.en
nmt score --config "$here/recipe.toml" --target-lang en --ref test.en < output.en
