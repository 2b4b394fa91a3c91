#!/usr/bin/env bash
# Install the executor on this host as a service of systemd. Run it again to upgrade.
#
#   make wheel                                   # as anybody
#   deploy/install.sh [--wheel FILE] [--python COMMAND]
#   deploy/install.sh uninstall
#
# Changes only what differs. An upgrade makes its virtual environment beside the one that is
# used and then turns one link: the service goes on with the old one until it is restarted,
# and the link can be turned back. config.env is never overwritten, and a file under /etc
# that was changed here is kept as NAME.dpkg-old. `uninstall` leaves data: configuration,
# state, logs, backups, and the user who owns them.
set -euo pipefail
umask 022

deploy=$(dirname "$(realpath "$0")")
readonly home=/opt/wasm-executor config=/etc/wasm-executor/config.env
readonly units=/usr/local/lib/systemd/system
readonly tmpfiles=/usr/local/lib/tmpfiles.d/wasm-executor.conf
readonly sysusers=/usr/local/lib/sysusers.d/wasm-executor.conf
readonly link=/usr/local/bin/wasm-executor
readonly profile=/etc/apparmor.d/wasm-executor logrotate=/etc/logrotate.d/wasm-executor

main() {
  local wheel='' python=python3
  [[ ${1:-} == uninstall && $# == 1 ]] && { need_root; uninstall; return; }
  while (($#)); do
    case $1 in
      --wheel) wheel=${2:?--wheel needs a file} ;;
      --python) python=${2:?--python needs a command} ;;
      *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift 2
  done
  need_root
  [[ -n $wheel ]] || wheel=$(newest_wheel)
  install_environment "$wheel" "$python"
  install_files
  write_config
  if systemd_runs; then systemctl daemon-reload; fi
  # As the one who will run it: a Python of somebody's home would serve root only.
  runuser -u wasm-executor -- "$link" --version ||
    fail "the user wasm-executor cannot run $home/current/bin/wasm-executor"
  say_what_is_next
}

fail() { echo "install.sh: $*" >&2; exit 4; }
need_root() { [[ $(id -u) == 0 ]] || fail 'this needs root'; }
systemd_runs() { [[ -d /run/systemd/system ]]; }

newest_wheel() {
  local found
  found=$(find "$deploy/../dist" -name 'stream_executor-*.whl' -printf '%T@ %p\n' 2>/dev/null |
    sort -n | tail -n 1 | cut -d ' ' -f 2-)
  [[ -n $found ]] || fail 'no wheel in dist: make wheel, or name one with --wheel'
  echo "$found"
}

# Exactly what the lock names, by hash, and the wheel. The folder is named after both and
# after the interpreter, so that the same again is found done.
install_environment() {
  local wheel=$1 python=$2 name new
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail 'Python 3.11 or newer is needed; name it: --python python3.12'
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail 'this Python has no venv. On Debian: apt-get install python3-venv'
  name=$({ cat "$wheel" "$deploy/requirements.lock"; "$python" -VV; } | sha256sum | cut -c 1-16)
  new=$home/$name
  if [[ ! -e $new/.complete ]]; then
    rm -rf "$new"
    "$python" -m venv "$new"
    { cat "$deploy/requirements.lock"
      echo "$(realpath "$wheel") --hash=sha256:$(sha256sum "$wheel" | cut -d ' ' -f 1)"
    } >"$new/installed.lock"
    "$new/bin/pip" install --quiet --disable-pip-version-check --no-input --no-deps \
      --require-hashes -r "$new/installed.lock"
    touch "$new/.complete"
  fi
  [[ $(readlink "$home/current") == "$name" ]] || turn_to "$name"
  [[ $(readlink "$link") == "$home/current/bin/wasm-executor" ]] ||
    ln -sfT "$home/current/bin/wasm-executor" "$link"
}

# Renaming is the one step that cannot be seen half done. The environment before is kept:
# what runs starts its processes from it.
turn_to() {
  local before
  before=$(readlink "$home/current" || true)
  ln -sfT "$1" "$home/current.new"
  mv -T "$home/current.new" "$home/current"
  find "$home" -mindepth 1 -maxdepth 1 -type d ! -name "$1" ! -name "${before:-$1}" -exec rm -rf {} +
}

install_files() {
  local unit
  for unit in wasm-executor.service wasm-executor-backup.service wasm-executor-backup.timer; do
    install -CD -m 0644 "$deploy/systemd/$unit" "$units/$unit"
  done
  install -CD -m 0644 "$deploy/systemd/wasm-executor.sysusers.conf" "$sysusers"
  install -CD -m 0644 "$deploy/systemd/wasm-executor.tmpfiles.conf" "$tmpfiles"
  install -CD -m 0644 --backup --suffix=.dpkg-old "$deploy/logrotate/wasm-executor" "$logrotate"
  install -CD -m 0644 --backup --suffix=.dpkg-old "$deploy/apparmor/wasm-executor" "$profile"
  systemd-sysusers "$sysusers"
  systemd-tmpfiles --create "$tmpfiles"
  if [[ -d /sys/kernel/security/apparmor ]] && command -v apparmor_parser >/dev/null; then
    apparmor_parser --replace "$profile"
  fi
}

write_config() {
  [[ -e $config ]] && return
  local secret
  secret=$(head -c 48 /dev/urandom | base64 -w 0)
  (
    umask 077
    # Not as an argument, which everybody's ps shows.
    secret=$secret awk '/^JWT_SECRET=/ { $0 = "JWT_SECRET=" ENVIRON["secret"] } 1' \
      "$deploy/config.env" >"$config.new"
  )
  chown root:wasm-executor "$config.new"
  chmod 0640 "$config.new"
  mv "$config.new" "$config"
}

say_what_is_next() {
  if grep -q '^ *WASM_EXECUTOR_OPERATOR_PUBLIC_KEY' "$config"; then
    echo 'systemctl restart wasm-executor    # when you want this version to run'
    return
  fi
  cat <<END
Next, as root: set KAFKA_BOOTSTRAP_SERVERS in $config; then, once for a deployment,
  wasm-executor init --keys /etc/wasm-executor/keys >> $config
take operator.pem, administrator.pem and notary.pem off this host; and
  systemctl enable --now wasm-executor wasm-executor-backup.timer
END
}

uninstall() {
  if systemd_runs; then
    systemctl disable --now --quiet wasm-executor.service wasm-executor-backup.timer || true
  fi
  if [[ -e $profile && -d /sys/kernel/security/apparmor ]]; then
    apparmor_parser --remove "$profile" || true
  fi
  rm -rf "$home" "$units"/wasm-executor{.service,-backup.service,-backup.timer}
  rm -f "$link" "$sysusers" "$tmpfiles" "$profile"{,.dpkg-old} "$logrotate"{,.dpkg-old} \
    /var/lib/systemd/timers/stamp-wasm-executor-backup.timer
  if systemd_runs; then systemctl daemon-reload; fi
  echo 'Left: /etc/wasm-executor, /var/lib/wasm-executor, /var/log/wasm-executor, /backup,'
  echo 'and the user wasm-executor.'
}

main "$@"
