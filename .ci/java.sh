#!/usr/bin/env bash
# Sees to it that Apache Kafka can be fetched and run: Java 17 or later with its
# compiler, and Maven. What is missing is installed where that is possible, on
# Debian as root; otherwise it is said, and the exit code is 1.
set -euo pipefail

complete() {
  command -v java >/dev/null && command -v javac >/dev/null && command -v mvn >/dev/null || return 1
  local version
  version=$(javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p')
  [ "${version:-0}" -ge 17 ]
}

complete && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -qq update &&
    { apt-get -qq install -y --no-install-recommends openjdk-17-jdk-headless maven ||
      apt-get -qq install -y --no-install-recommends default-jdk-headless maven; }; } >"$log" 2>&1 || tail -20 "$log"
  rm -f "$log"
fi
complete || { echo "Java 17 or later with its compiler (such as openjdk-17-jdk-headless) and Maven are needed: install them"; exit 1; }
