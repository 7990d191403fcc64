#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need dash
cat > t.dash <<'S'
for i in a b c; do echo $i; done | while read -r x; do printf '[%s]' "$x"; done; echo
set -- one "two three" four; echo $# "$2"; shift; echo "$*"
case hello in h?llo) echo glob;; esac
f() { return 7; }; f; echo $?; ( cd /; pwd ); pwd | sed 's,.*/,,;s/\..*//'
cat <<X
expand $((3*4)) $(echo sub)
X
trap 'echo term; exit 9' TERM; (sleep 0; kill -TERM $$) & wait; wait; echo not reached
S
dash t.dash; echo "status $?"
dash -c 'exec 3>out; echo three >&3; exec 3>&-; cat out; umask 077; : > m; stat -c %a m; ulimit -n 512; ulimit -n'  | head -3
dash -c 'sh -c "exit 5" || echo "or $?"; ! true; echo $?; set -e; false; echo no'; echo $?
dash -c 'a=1; a=2 sh -c "echo \$a"; echo $a; unset a; echo "${a-unset} ${a:=set} ${#a}"; v=path/to/file.txt; echo "${v##*/} ${v%.txt} ${v#*/}"'
dash -c 'sleep 1000 & p=$!; kill $p; wait $p; echo $?' 2>/dev/null ; echo 'echo from stdin' | dash -s ; dash -c 'read -r a b; echo "$b|$a"' <<X
first second third
X
dash -c 'true & true & wait; echo waited; cat /dev/null | cat; times > /dev/null; echo done'
