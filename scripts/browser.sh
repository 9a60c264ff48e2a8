#!/bin/sh
# A browser for the test of reports: Debian's chromium, where it can be had without asking. Never fails; says what it did.
for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no chromium here, and no root or no apt-get to install it: the browser test of reports will be skipped"
  exit 0
fi
echo "installing chromium for the browser test of reports (about 110 MB)"
export DEBIAN_FRONTEND=noninteractive
timeout 60 apt-get -qq update >/dev/null 2>&1
# fetched first, under a time limit; what is fetched is then installed without one, for dpkg must not be cut short
if timeout 150 apt-get -qq -y --no-install-recommends --download-only install chromium >/dev/null 2>&1 &&
  apt-get -qq -y --no-install-recommends --no-download install chromium >/dev/null 2>&1; then
  echo "installed $(command -v chromium)"
else
  echo "chromium could not be installed: the browser test of reports will be skipped"
fi
