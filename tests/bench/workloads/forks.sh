#!/bin/sh
# A fork-heavy script: substitutions, pipelines and small programs.
i=0
while [ $i -lt 100 ]; do
    a=$(echo $i | sed 's/1/x/')
    b=$(expr $i + 1)
    echo "$a $b" | grep -q x && c=$(basename /a/b/$i)
    i=$b
done
[ "$i" = 100 ] && [ -n "$c" ]
