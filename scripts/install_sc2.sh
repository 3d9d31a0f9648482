#!/usr/bin/env bash
# Installs StarCraft II 4.10 for Linux (headless) from Blizzard, and the maps of SMAC and SMACv2 from their repositories.
# What is there already is left alone, and a download that broke off goes on where it stopped.
set -euo pipefail

GAME_URL=${SC2_GAME_URL:-https://blzdistsc2-a.akamaihd.net/Linux/SC2.4.10.zip}
SMAC_MAPS_URL=${SC2_MAPS_URL:-https://raw.githubusercontent.com/oxwhirl/smac/d6aab33f76abc3849c50463a8592a84f59a5ef84/smac/env/starcraft2/maps/SMAC_Maps}
SMACV2_MAPS_URL=${SC2_MAPS_URL:-https://raw.githubusercontent.com/oxwhirl/smacv2/577ab5a2cff2391f8df582da5731ea9cd6adf3c6/smacv2/env/starcraft2/maps/SMAC_Maps}
# Blizzard publishes no checksum; this one is what others have published of the same file.
GAME_SHA256=1052f249f30a242bf5e17cc3315324919f9689307ca6dbcdb30bb41ea3004884
LICENCE_URL=https://blzdistsc2-a.akamaihd.net/AI_AND_MACHINE_LEARNING_LICENSE.html
PASSWORD=iagreetotheeula  # of the archive; by typing it one agrees to the licence, which is what --accept-licence says
BUILD=Base75689
SUMS=$(cd "$(dirname "$0")" && pwd)/sc2_maps.sha256

usage() {
  cat <<EOF
usage: scripts/install_sc2.sh [--to FOLDER] [--accept-licence] [--maps-only] [--archive FILE] [--sha256 SUM]
                             [--maps FOLDER]

  --to FOLDER       where the game goes (default: \$SC2PATH, or ~/StarCraftII); some 8 GB while installing
  --accept-licence  you agree to Blizzard's licence: $LICENCE_URL
  --maps-only       install the maps into a game that is there
  --archive FILE    take the game from this archive instead of downloading it
  --sha256 SUM      of the archive, if it is not the one of SC2.4.10.zip
  --maps FOLDER     take the maps from this folder instead of downloading them
EOF
}

fail() { echo "error: $*" >&2; exit "${code:-1}"; }
reject() { code=2 fail "$*"; }

to=${SC2PATH:-$HOME/StarCraftII}
accepted=no maps_only=no archive=
while (($#)); do
  case $1 in
    --to|--archive|--sha256|--maps)
      [[ -n ${2:-} ]] || reject "$1 needs a value (see --help)."
      case $1 in --to) to=$2 ;; --archive) archive=$2 ;; --sha256) GAME_SHA256=$2 ;;
        --maps) [[ -d $2 ]] || reject "There is no folder $2."
          SMAC_MAPS_URL=file://$(cd "$2" && pwd) SMACV2_MAPS_URL=$SMAC_MAPS_URL ;;
      esac
      shift ;;
    --accept-licence) accepted=yes ;;
    --maps-only) maps_only=yes ;;
    -h|--help) usage; exit 0 ;;
    *) reject "Unknown argument '$1' (see --help)." ;;
  esac
  shift
done

for tool in curl unzip sha256sum; do
  command -v "$tool" > /dev/null || fail "$tool is needed and not installed: apt-get install $tool"
done

matches() { echo "$2  $1" | sha256sum --check --status 2> /dev/null; }

install_game() {
  [[ $accepted == yes ]] ||
    reject "The game comes under Blizzard's licence ($LICENCE_URL); if you agree to it, repeat with --accept-licence."
  local ours=
  if [[ -z $archive ]]; then
    archive=${to%/}.SC2.4.10.zip ours=yes
    mkdir -p "$(dirname "$to")"
    if ! matches "$archive" "$GAME_SHA256"; then  # asked to go on at the end of a whole file, servers answer 416
      echo "Downloading $GAME_URL to $archive (some 4 GB)"
      curl --fail --location --retry 5 --continue-at - --output "$archive" "$GAME_URL" ||
        fail "The download of $GAME_URL failed; run this again and it goes on where it stopped."
    fi
  fi
  [[ -f $archive ]] || reject "There is no archive $archive."
  echo "Checking $archive"
  matches "$archive" "$GAME_SHA256" ||
    fail "$archive is broken or another file (its sha256 is not $GAME_SHA256): remove it and run this again."
  local unpacked=$to/.unpacking program=Versions/$BUILD/SC2_x64  # inside, since files are linked from there
  rm -rf "$unpacked"
  mkdir -p "$unpacked"
  echo "Unpacking into $to"
  unzip -q -P "$PASSWORD" "$archive" -d "$unpacked" ||
    fail "$archive cannot be unpacked; is there room in $to?"
  [[ -f $unpacked/StarCraftII/$program ]] || fail "$archive holds no StarCraftII/$program."
  chmod +x "$unpacked/StarCraftII/$program"
  mv "$unpacked/StarCraftII/$program" "$unpacked/"  # it comes last: where it is, all is
  cp -alf "$unpacked/StarCraftII/." "$to/"
  mv "$unpacked/SC2_x64" "$to/$program"
  rm -rf "$unpacked"
  [[ -z $ours ]] || rm "$archive"
}

install_maps() {
  local folder=$to/Maps/SMAC_Maps sum name url
  mkdir -p "$folder"
  while read -r sum name; do
    [[ $sum != \#* ]] || continue
    ! matches "$folder/$name" "$sum" || continue
    url=$SMAC_MAPS_URL
    [[ $name != 32x32_flat* ]] || url=$SMACV2_MAPS_URL
    curl --fail --silent --show-error --location --retry 5 --output "$folder/$name.part" "$url/$name" ||
      fail "The download of $url/$name failed; run this again and it goes on with the missing maps."
    matches "$folder/$name.part" "$sum" || fail "$url/$name is not the map that was expected (another sha256)."
    mv "$folder/$name.part" "$folder/$name"
    echo "Installed map $name"
  done < "$SUMS"
}

if [[ -x $to/Versions/$BUILD/SC2_x64 ]]; then
  echo "StarCraft II 4.10 is in $to already"
elif [[ $maps_only == yes ]]; then
  compgen -G "$to/Versions/Base*/SC2_x64" > /dev/null ||
    reject "There is no StarCraft II in $to to install maps into; leave --maps-only away to install it."
else
  install_game
fi
install_maps
cat <<EOF
StarCraft II and the maps are in $to. Now:
  export SC2PATH=$to
  pip install --no-deps -r requirements-sc2.txt
  python src/main.py check sc2
EOF
