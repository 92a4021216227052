#!/usr/bin/env bash
# Download Tatoeba's English-Chinese pairs (2 MB) from ManyThings.org into a directory, and split them.
#
#     recipes/tatoeba-zh-en/fetch.sh dir
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=$1
mkdir -p "$data"
if [[ ! -f $data/cmn-eng.zip ]]; then
    curl --fail --silent --show-error --location --retry 3 --output "$data/cmn-eng.zip.part" \
        https://www.manythings.org/anki/cmn-eng.zip
    mv "$data/cmn-eng.zip.part" "$data/cmn-eng.zip"
fi
python3 "$here/split_tatoeba.py" "$data/cmn-eng.zip" en zh "$data" --valid 1000 --test 1000
