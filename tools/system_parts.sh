#!/usr/bin/env bash
# Install the system packages of system-parts.txt, where this is root with apt; elsewhere
# say what to install. Never fails for a missing part: the tests that need it name it.
set -euo pipefail
missing=()
while read -r command package _; do
  [[ $command == '#'* || -z $command ]] && continue
  [[ $command == /* && -e $command ]] && continue
  PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null || missing+=("$package")
done < "$(dirname "$0")/system-parts.txt"
((${#missing[@]})) || exit 0
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
  echo "Not installed, and tests need them: ${missing[*]}" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || echo 'apt-get update failed; trying what is known' >&2
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
  echo "apt-get could not install: ${missing[*]}" >&2
