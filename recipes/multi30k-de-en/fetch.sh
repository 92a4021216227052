#!/usr/bin/env bash
# Download Multi30k (1.3 MB) from GitHub into a directory, and check every file.
#
#     recipes/multi30k-de-en/fetch.sh dir
set -euo pipefail

home=https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw
data=$1
mkdir -p "$data"

fetch() { # name, sha256
    local file=$data/$1
    if [[ ! -f $file ]]; then
        curl --fail --silent --show-error --location --retry 3 --output "$file.part" "$home/$1"
        mv "$file.part" "$file"
    fi
    sha256sum --check --quiet <<< "$2  $file"
}

fetch train.de.gz 726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6
fetch train.en.gz d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f
fetch val.de.gz f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a
fetch val.en.gz 14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28
fetch test_2016_flickr.de.gz 9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8
fetch test_2016_flickr.en.gz 611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9
