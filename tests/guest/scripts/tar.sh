#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need tar gzip xz
mkdir -p t/sub; seq 5000 > t/numbers; : > t/empty; ln -s numbers t/link; ln t/numbers t/hard; mkfifo t/fifo; printf 'x%.0s' $(seq 300) > "t/sub/a name with blanks"; chmod 640 t/empty; touch -d @1000000000 t/numbers t/empty t/sub/* t/sub t/fifo; touch -h -d @1000000000 t/link; touch -d @1000000000 t
for z in '' z J; do tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1000000000 --format=gnu -c${z}f a.tar$z t && tar -t${z}vf a.tar$z | head -4; done
md5sum a.tar; gzip -dc a.tarz | cmp - a.tar && xz -dc a.tarJ | cmp - a.tar && echo equal
mkdir out && tar -xf a.tar -C out && diff -r t out/t --no-dereference 2>&1 | grep -v fifo; for f in out/t/*; do stat -c '%n %a %h %Y' "$f"; test -d "$f" || stat -c %s "$f"; done; test out/t/hard -ef out/t/numbers && echo linked
tar -cf - t | (mkdir pipe; cd pipe && tar -xf - && find . | sort); gzip -c t/numbers > n.gz; gzip -l n.gz | awk '{print $2}'; zcat n.gz | tail -1; gzip t/numbers 2>/dev/null; echo "hard linked $?"
head -c 1000 a.tar | tar -tf - >/dev/null 2>&1; echo "truncated $?"; xz -t a.tarJ && echo ok; split -b 5000 a.tar s. && cat s.* | cmp - a.tar && echo joined
tar --sparse -cf sp.tar -C . t && rm -rf t out && tar -xf sp.tar && ls t; if command -v zstd >/dev/null; then zstd -q a.tar -o a.zst && zstd -dcq a.zst | cmp - a.tar && echo zstd; fi; if command -v bzip2 >/dev/null; then bzip2 -k a.tar && bzcat a.tar.bz2 | cmp - a.tar && echo bzip2; fi
