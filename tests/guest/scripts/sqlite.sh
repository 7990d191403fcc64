#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need sqlite3
sqlite3 t.db 'PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, x TEXT, h BLOB); CREATE INDEX tx ON t(x)'
sqlite3 t.db "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<20000) INSERT INTO t SELECT i, printf('row %05d', i*7919%20000), zeroblob(i%97) FROM n"
sqlite3 t.db 'SELECT count(*), sum(length(h)), min(x), max(x) FROM t'
# Writers in processes of their own, with locks and the shared memory of the log between them.
for w in 1 2 3 4; do
    (for i in $(seq 25); do echo ".timeout 20000"; echo "BEGIN IMMEDIATE; UPDATE t SET x='w$w '||i WHERE i=$((w * 1000)) + $i; COMMIT;"; done | sqlite3 t.db) &
done
wait
sqlite3 t.db "SELECT count(*) FROM t WHERE x LIKE 'w%'; PRAGMA integrity_check; PRAGMA wal_checkpoint(TRUNCATE)"
for mode in delete truncate persist memory off; do sqlite3 t.db "PRAGMA journal_mode=$mode; UPDATE t SET i=i WHERE i<100; PRAGMA quick_check"; done
# One that holds the lock makes another one busy.
mkfifo go
(echo 'BEGIN EXCLUSIVE;'; echo '.shell echo locked >go'; echo '.shell cat go2 >/dev/null'; echo 'COMMIT;') >script; mkfifo go2
sqlite3 t.db <script & cat go; sqlite3 -cmd '.timeout 10' t.db 'SELECT 1 FROM t LIMIT 1' 2>&1; echo "status $?"; echo >go2; wait
sqlite3 t.db 'VACUUM; SELECT count(*) FROM t' ; sqlite3 t.db .dump | md5sum
