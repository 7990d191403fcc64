#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need find xargs
for i in 1 2 3; do mkdir -p "d$i/sub dir"; seq $i > "d$i/sub dir/file $i.txt"; : > "d$i/empty"; done
ln -s ../d1 d2/loop; ln "d3/empty" d3/hard; mkfifo d1/fifo; chmod 600 d1/empty
find . | sort
find . -type f -name '*.txt' -print0 | sort -z | xargs -0 wc -l
find . -empty | sort; find . -type l -printf '%p -> %l\n'; find . -links 2 -type f | sort
find . -perm 600; find . -size -1c -type f | sort; find . -newer d1/empty -name hard
find -L . -maxdepth 2 2>&1 | sort | head -20
find . -name '*.txt' -exec sh -c 'echo "$# arguments"' sh {} +
find . -path './d1/*' -prune -o -type d -print | sort; find . -regex '.*/d[12]/.*' | sort
seq 1000 | xargs -n 7 -P 4 echo | wc -w; seq 10 | xargs -I{} echo item {} | tail -1
find . -depth -name 'd3' -exec rm -r {} \; ; ls; echo a b | xargs false; echo "xargs $?"
find / -maxdepth 1 -name etc; find /proc/self/task -maxdepth 1 -mindepth 1 | wc -l
