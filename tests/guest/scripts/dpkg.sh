#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need dpkg dpkg-query
dpkg -l | md5sum; dpkg-query -W -f '${Package} ${Version} ${Status}\n' | wc -l; dpkg -s base-files | head -3; dpkg -L base-files | sort | head -5; dpkg -S /bin/sh /etc/os-release 2>&1; dpkg --print-architecture; dpkg --compare-versions 1.2~rc1 lt 1.2 && echo older
dpkg --audit; echo "audit $?"; dpkg --verify base-files; echo "verify $?"
if command -v dpkg-deb >/dev/null; then mkdir -p p/DEBIAN p/opt/x; echo hello > p/opt/x/f; printf 'Package: gt-test\nVersion: 1.0\nArchitecture: all\nMaintainer: n <n@n>\nDescription: t\n' > p/DEBIAN/control; find p -exec touch -d @1000000000 {} +; SOURCE_DATE_EPOCH=1000000000 dpkg-deb --root-owner-group -Zgzip -b p t.deb 2>&1 | sed "s,$work,W,g"; dpkg-deb -c t.deb | awk '{print $1, $2, $6}'; dpkg-deb -f t.deb Package; dpkg-deb -x t.deb out && cat out/opt/x/f; fi
if command -v apt-cache >/dev/null; then apt-cache policy base-files 2>/dev/null | head -2; fi
