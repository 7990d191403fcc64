#!/bin/sh
# A pipeline of text tools over a few megabytes.
set -e
seq 1 300000 | awk '{ print $1, $1 * 7 % 1000 }' | sort -k2,2n -k1,1n | cut -d' ' -f2 | uniq -c | sort -rn | head -100 | md5sum | grep -q .
