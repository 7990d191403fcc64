#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
[ -n "$bin" ] || { echo "postgresql is not installed" >&2; exit 77; }
PATH=$bin:$PATH
chmod 777 . && as='setpriv --reuid 65534 --regid 65534 --clear-groups'; [ "$(id -u)" = 0 ] || as=
export PGHOST=$work PGDATABASE=postgres PGUSER=nobody PGDATA=$work/data PSQLRC=/dev/null
$as initdb -U nobody -A trust --no-locale -E UTF8 >init.log 2>&1 || { cat init.log; exit 1; }
echo "listen_addresses='' unix_socket_directories='$work' log_min_messages=warning max_connections=20 fsync=on" | tr ' ' '\n' >>data/postgresql.conf
$as pg_ctl -w -t 120 -l log start >/dev/null || { cat log; exit 1; }
psql -At -c 'select 1' -c "select count(*) from generate_series(1,100000)"
pgbench -q -i -s 2 2>&1 | grep -c done
pgbench -n -c 4 -j 2 -t 200 2>&1 | grep -E 'processed|failed'
pgbench -n -S -c 8 -j 2 -t 500 -M prepared 2>&1 | grep -E 'processed|failed'
psql -At -c 'select count(*), sum(abalance)=(select sum(delta) from pgbench_history) from pgbench_accounts'
# A parallel query: workers, dynamic shared memory, a queue between them.
psql -At -c 'set min_parallel_table_scan_size=0' -c 'set parallel_setup_cost=0' -c 'set parallel_tuple_cost=0' -c 'set max_parallel_workers_per_gather=2' -c 'explain (costs off) select count(*) from pgbench_accounts' -c 'select count(*) from pgbench_accounts where abalance >= -1000000'
psql -At -c "listen c" -c "notify c, 'hello'" -c "select pg_notify('c','x') is null" 2>&1 | sed 's/PID [0-9]*/PID N/'
(psql -At -c "set deadlock_timeout='100ms'" -c 'begin' -c 'update pgbench_branches set bbalance=bbalance where bid=1' -c 'select pg_sleep(0.2)' -c commit) >/dev/null & psql -At -c "set lock_timeout='30s'" -c 'update pgbench_branches set bbalance=bbalance where bid=1'; wait
psql -At -c "set statement_timeout='50ms'" -c 'select pg_sleep(10)' 2>&1
psql -At -c 'create table a as select i, md5(i::text) m from generate_series(1,50000) i' -c 'create index on a(m)' -c 'vacuum analyze a' -c 'select count(distinct m) from a'
# Killed, and back by its log.
kill -9 $(head -1 data/postmaster.pid); while [ -e "$work/.s.PGSQL.5432" ] && psql -c 'select 1' >/dev/null 2>&1; do :; done
until $as pg_ctl -w -t 120 -l log start >/dev/null 2>&1; do :; done
psql -At -c 'select count(distinct m) from a' -c 'select count(*) > 0 from pgbench_history'; grep -c 'redo done\|not properly shut down' log | sed 's/[1-9]/recovered/'
pg_dump -s -t a | grep -c 'CREATE'; $as pg_ctl -w -m fast stop | tail -1
